//! Documents to typed values.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ConfigFile, Kind, Problem,
    schema::Leaf,
    tree::{Content, Entry, Node, parse_documents},
};

/// Fields of every document, besides those of its kind.
const HEAD: [&str; 2] = ["apiVersion", "kind"];

/// A file that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Its values and the defaults of all others.
    pub file: ConfigFile,
    /// Kinds of the documents that the file has.
    pub kinds: BTreeSet<Kind>,
    /// Unknown and duplicate fields.
    pub warnings: Vec<Problem>,
}

/// All faults of a file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidFile {
    /// The faults, at least one.
    pub problems: Vec<Problem>,
    /// Fields without a fault, so that their values can be judged as well; `None` if no document could be read.
    pub rest: Option<Box<Parsed>>,
}

impl ConfigFile {
    /// Reads the text of a file: one document of each kind at most, in YAML or JSON.
    pub fn parse(text: &str) -> Result<Parsed, InvalidFile> {
        let documents =
            parse_documents(text).map_err(|problem| InvalidFile { problems: vec![problem], rest: None })?;
        let mut reader = Reader::default();
        for document in &documents {
            reader.document(document);
        }
        if documents.is_empty() {
            let expected = Kind::KubeProxy;
            let message = format!("the file is empty: expected {}", head(expected));
            reader.errors.push(Problem::at(1, message));
        }
        let Reader { file, warnings, errors: problems, seen } = reader;
        let parsed = Parsed { file, kinds: seen.keys().copied().collect(), warnings };
        if problems.is_empty() {
            return Ok(parsed);
        }
        Err(InvalidFile { problems, rest: (!seen.is_empty()).then(|| Box::new(parsed)) })
    }
}

#[derive(Default)]
struct Reader {
    file: ConfigFile,
    /// Line of the document of each kind.
    seen: BTreeMap<Kind, usize>,
    warnings: Vec<Problem>,
    errors: Vec<Problem>,
}

impl Reader {
    fn document(&mut self, document: &Node) {
        let kind = match kind_of(document) {
            Ok(kind) => kind,
            Err(message) => return self.errors.push(Problem::at(document.line, message)),
        };
        if let Some(first) = self.seen.insert(kind, document.line) {
            let message =
                format!("a second {}, after the one in line {first}; leave one of them out", kind.as_str());
            return self.errors.push(Problem::at(document.line, message));
        }
        let mut known = BTreeSet::new();
        let mut errors = Vec::new();
        self.file.visit(kind, &mut |leaf| {
            read_field(document, leaf, &mut known, &mut errors);
        });
        self.errors.extend(errors);
        known.extend(HEAD.map(str::to_owned));
        let mut walk = Walk { kind, known: &known, reader: self };
        walk.mapping(document, "");
    }
}

/// Text of a document's first lines.
fn head(kind: Kind) -> String {
    format!("apiVersion: {} and kind: {}", kind.api_version(), kind.as_str())
}

fn kind_of(document: &Node) -> Result<Kind, String> {
    let text = |key| document.get(key).and_then(Node::text).unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    let expected = || Kind::ALL.map(head).join(", or ");
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
    match kind {
        Some(kind) if kind.api_version() == version => Ok(kind),
        Some(kind) => Err(format!("apiVersion {version:?} of a {name}: expected {}", kind.api_version())),
        None if name.is_empty() => Err(format!("the document has no kind: expected {}", expected())),
        None => Err(format!("kind {name:?} is no configuration: expected {}", expected())),
    }
}

fn read_field(document: &Node, leaf: Leaf<'_>, known: &mut BTreeSet<String>, errors: &mut Vec<Problem>) {
    let node = leaf.path.split('.').try_fold(document, |node, key| node.get(key));
    if let Some(node) = node.filter(|node| node.content != Content::Null)
        && let Err(message) = leaf.value.read(node, leaf.zero_counts)
    {
        errors.push(Problem { line: node.line, path: leaf.path.clone(), message });
    }
    known.insert(leaf.path);
}

/// Looks for what no field has read.
struct Walk<'a> {
    kind: Kind,
    known: &'a BTreeSet<String>,
    reader: &'a mut Reader,
}

impl Walk<'_> {
    /// `prefix` ends in a dot, or is empty.
    fn mapping(&mut self, node: &Node, prefix: &str) {
        let Content::Map(entries) = &node.content else {
            if node.content != Content::Null {
                let path = prefix.trim_end_matches('.').to_owned();
                let message = format!("expected a mapping, found {}", node.describe());
                self.reader.errors.push(Problem { line: node.line, path, message });
            }
            return;
        };
        let mut lines = BTreeMap::new();
        for entry in entries {
            let path = format!("{prefix}{}", entry.key);
            if let Some(first) = lines.insert(&entry.key, entry.line) {
                let message = format!("stands in line {first} as well; the last one counts");
                self.reader.warnings.push(Problem { line: entry.line, path: path.clone(), message });
            }
            self.entry(entry, path);
        }
    }

    fn entry(&mut self, entry: &Entry, path: String) {
        if self.known.contains(&path) {
            return;
        }
        let inner = format!("{path}.");
        if self.known.iter().any(|known| known.starts_with(&inner)) {
            return self.mapping(&entry.value, &inner);
        }
        let similar = self.known.iter().find(|known| known.eq_ignore_ascii_case(&path));
        let hint = similar.map(|known| format!("; the field is {known}")).unwrap_or_default();
        let message = format!("{} has no such field; it is ignored{hint}", self.kind.as_str());
        self.reader.warnings.push(Problem { line: entry.line, path, message });
    }
}

#[cfg(test)]
mod tests;
