//! Links between the documents: each leads to a file of the repository, and to a heading in it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::paths;

/// Folders with documents, below the repository.
const FOLDERS: &[&str] = &["", "docs", "e2e", "e2e/apiserver"];

/// A link in a document.
#[derive(Debug, PartialEq, Eq)]
struct Link<'a> {
    line: usize,
    /// File, as written; empty for the document itself.
    file: &'a str,
    /// Anchor of a heading.
    anchor: Option<&'a str>,
}

/// Lists every link that leads nowhere, one line each.
pub fn violations() -> Result<Vec<String>> {
    let documents = read_documents(paths::repository())?;
    let mut found = Vec::new();
    for (path, text) in &documents {
        let shown = path.strip_prefix(paths::repository()).unwrap_or(path).display();
        let broken = links(text).into_iter().filter(|link| !leads_somewhere(path, link, &documents));
        found.extend(broken.map(|Link { line, file, anchor }| {
            format!("{shown}:{line} links to {file}#{}, which does not exist", anchor.unwrap_or_default())
        }));
    }
    Ok(found)
}

fn read_documents(repository: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut documents = BTreeMap::new();
    for folder in FOLDERS.iter().map(|folder| repository.join(folder)) {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                documents.insert(path.canonicalize()?, text);
            }
        }
    }
    Ok(documents)
}

fn leads_somewhere(document: &Path, link: &Link<'_>, documents: &BTreeMap<PathBuf, String>) -> bool {
    let target = match link.file {
        "" => Ok(document.to_owned()),
        file => document.parent().unwrap_or(document).join(file).canonicalize(),
    };
    match (target, link.anchor) {
        (Err(_), _) => false,
        (Ok(_), None) => true,
        (Ok(path), Some(anchor)) => {
            documents.get(&path).is_some_and(|text| headings(text).any(|heading| heading == anchor))
        }
    }
}

/// Finds links into the repository, outside of code blocks.
fn links(text: &str) -> Vec<Link<'_>> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target, None),
            };
            links.push(Link { line: number, file, anchor });
        }
    }
    links
}

/// Finds the anchors of the headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// Numbered lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Look before you leap: plan\n```sh\n# no heading [no](link.md)\n```\n\
                        [a](b.md#c), [d](#e-f), [g](https://h.example/i)\n## Restarts and drain.json\n";

    #[test]
    fn links_and_headings_stand_outside_of_code() {
        let link = |file, anchor| Link { line: 5, file, anchor: Some(anchor) };
        assert_eq!(links(TEXT), [link("b.md", "c"), link("", "e-f")]);
        assert!(headings(TEXT).eq(["look-before-you-leap-plan", "restarts-and-drainjson"]));
    }

    #[test]
    fn a_link_needs_its_file_and_its_heading() {
        let document = paths::repository().join("README.md");
        let documents = BTreeMap::from([(document.clone(), TEXT.to_owned())]);
        for (file, anchor, expect) in [
            ("", Some("restarts-and-drainjson"), true),
            ("", Some("restarts"), false),
            ("LICENSE", None, true),
            ("LICENCE", None, false),
        ] {
            let link = Link { line: 1, file, anchor };
            assert_eq!(leads_somewhere(&document, &link, &documents), expect, "{link:?}");
        }
    }
}
