//! Check that the sources of the pure core, which takes time, settings and input as arguments, do not name
//! the origins of these.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::PURE;
use crate::{paths, workspace::Workspace};

/// Words that the sources of a pure package do not mention, outside of tests.
const BANNED: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
];

/// Lists every mention, one line each.
pub fn violations(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in workspace.packages.iter().filter(|package| PURE.contains(&package.name.as_str())) {
        if let Some(dir) = package.manifest_path.parent() {
            scan_folder(&dir.join("src"), &mut found)?;
        }
    }
    Ok(found)
}

fn scan_folder(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default();
        if stem == "tests" {
            continue;
        }
        if path.is_dir() {
            scan_folder(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let shown = path.strip_prefix(paths::repository()).unwrap_or(&path).display();
            found.extend(
                scan(&text).into_iter().map(|(line, what)| format!("{shown}:{line} mentions {what}")),
            );
        }
    }
    Ok(())
}

/// Finds mentions in the code before the tests, with their line numbers; comments may say what they like.
fn scan(text: &str) -> Vec<(usize, &'static str)> {
    let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
    let code = code.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or(line)));
    code.flat_map(|(number, line)| {
        BANNED.iter().filter(move |word| line.contains(**word)).map(move |word| (number, *word))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let text = "use std::time::Instant;\n// not Instant::now\nlet now = Instant::now(); // a clock\n\
                    let home = std::env::var(\"HOME\");\n#[cfg(test)]\nmod tests { fn a() { Instant::now(); } }\n";
        assert_eq!(scan(text), [(3, "Instant::now"), (4, "std::env")]);
    }
}
