//! A YAML document as a tree of nodes with their lines.
//!
//! Scalars stay text: the field that reads one decides what it means. JSON is YAML, too.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::Problem;

/// Nodes of a file, those behind aliases counted each time.
const MAX_NODES: usize = 50_000;
/// Mappings and sequences inside one another.
const MAX_DEPTH: usize = 50;

/// Key whose value is merged into its mapping, as YAML 1.1 has it.
const MERGE_KEY: &str = "<<";

/// Part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// The value.
    pub(crate) content: Content,
}

/// Value of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing, `null` or `~`.
    Null,
    /// Text, number or boolean.
    Scalar(String),
    /// Sequence.
    List(Vec<Node>),
    /// Mapping, in the order of the file, with every duplicate.
    Map(Vec<Entry>),
}

/// Key of a mapping with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Line of the key.
    pub(crate) line: usize,
    /// The value.
    pub(crate) value: Node,
}

impl Node {
    /// Words for the kind of node, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.content {
            Content::Null => "nothing".to_owned(),
            Content::Scalar(text) => format!("{text:?}"),
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Value of a key. Of duplicates the last one counts, as in Go.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().rev().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Null | Content::Scalar(_) => 0,
            Content::List(nodes) => nodes.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Parses the documents of a file; those without content are left out.
pub(crate) fn parse_documents(text: &str) -> Result<Vec<Node>, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut loader = Loader { events: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = loader.next()? {
        match event {
            Event::DocumentStart(..) => loader.anchors.clear(),
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            event => documents.push(loader.node(event, span, 0)?),
        }
    }
    documents.retain(|node| node.content != Content::Null);
    Ok(documents)
}

/// Builds nodes from the parser's events.
struct Loader<P> {
    events: P,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'input, P> Loader<P>
where
    P: Iterator<Item = Result<(Event<'input>, Span), ScanError>>,
{
    /// Next event that is more than a comment.
    fn next(&mut self) -> Result<Option<(Event<'input>, Span)>, Problem> {
        loop {
            return match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(event)) => Ok(Some(event)),
                Some(Err(error)) => {
                    let message = format!("{}; correct the YAML", error.info());
                    Err(Problem::at(error.marker().line(), message))
                }
                None => Ok(None),
            };
        }
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Problem> {
        let line = span.start.line();
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            let message =
                format!("more than {MAX_NODES} values, or more than {MAX_DEPTH} inside one another");
            return Err(Problem::at(line, message));
        }
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(_, anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, line),
            other => return Err(Problem::at(line, format!("unexpected {other:?}; correct the YAML"))),
        };
        let node = Node { line, content };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Content, Problem> {
        let mut nodes = Vec::new();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::SequenceEnd => break,
                event => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
        Ok(Content::List(nodes))
    }

    fn map(&mut self, depth: usize) -> Result<Content, Problem> {
        let mut entries = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let Some(name) = key.text() else {
                return Err(Problem::at(key.line, format!("{} is no key; write a name", key.describe())));
            };
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key: name.to_owned(), line: key.line, value });
        }
        merge(&mut entries)?;
        Ok(Content::Map(entries))
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node, Problem> {
        let node = self.anchors.get(&anchor).cloned();
        let node = node.ok_or_else(|| Problem::at(line, "an alias of itself; write the value".to_owned()))?;
        self.nodes += node.size();
        Ok(node)
    }
}

/// Replaces each merge key (`<<`) by the entries of its mapping, or of its mappings, of which the first counts. As in
/// kube-proxy's parser they take the place of what stands before, and what stands behind takes theirs.
fn merge(entries: &mut Vec<Entry>) -> Result<(), Problem> {
    while let Some(at) = entries.iter().position(|entry| entry.key == MERGE_KEY) {
        let behind = entries.split_off(at + 1);
        let merged = entries.pop().map(|entry| mappings(entry.value)).transpose()?.unwrap_or_default();
        entries.retain(|entry| merged.iter().all(|other| other.key != entry.key));
        entries.extend(merged.into_iter().filter(|entry| behind.iter().all(|other| other.key != entry.key)));
        entries.extend(behind);
    }
    Ok(())
}

/// Entries of the value of a merge key.
fn mappings(value: Node) -> Result<Vec<Entry>, Problem> {
    let mappings = match value.content {
        Content::List(nodes) => nodes,
        _ => vec![value],
    };
    let mut all: Vec<Entry> = Vec::new();
    for mapping in mappings {
        let Content::Map(entries) = mapping.content else {
            let message = format!("{MERGE_KEY} takes a mapping, found {}", mapping.describe());
            return Err(Problem::at(mapping.line, message));
        };
        for entry in entries {
            if all.iter().all(|known| known.key != entry.key) {
                all.push(entry);
            }
        }
    }
    Ok(all)
}

fn scalar(text: &str, style: ScalarStyle) -> Content {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Content::Null,
        _ => Content::Scalar(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_with_lines() {
        let documents = parse_documents("# c\n---\na: 1\nb:\n- x\n---\n---\n{\"c\":\n\t\"2\"}\n").unwrap();
        assert_eq!(documents.len(), 2);
        let lines = |document: &Node, key| document.get(key).map(|node| (node.line, node.describe()));
        assert_eq!(lines(&documents[0], "a"), Some((3, "\"1\"".to_owned())));
        assert_eq!(lines(&documents[0], "b"), Some((5, "a list".to_owned())));
        assert_eq!(lines(&documents[1], "c"), Some((9, "\"2\"".to_owned())));
    }

    #[test]
    fn nothing_is_null_and_quoted_nothing_is_text() {
        let document = &parse_documents("a:\nb: ~\nc: null\nd: ''\ne: 'null'\n").unwrap()[0];
        let is_null = |key| document.get(key).map(|node| node.content == Content::Null);
        assert_eq!(
            ["a", "b", "c", "d", "e", "f"].map(is_null),
            [Some(true), Some(true), Some(true), Some(false), Some(false), None]
        );
    }

    #[test]
    fn aliases_have_the_value_but_no_bombs() {
        let document = &parse_documents("a: &x {b: 1}\nc: *x\n").unwrap()[0];
        assert_eq!(document.get("a"), document.get("c"));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(",");
            bomb += &format!("a{i}: &a{i} [{aliases}]\n");
        }
        assert!(parse_documents(&bomb).is_err());
        assert!(parse_documents(&"[".repeat(100_000)).is_err());
        assert!(parse_documents("a: &a [*a]\n").is_err());
    }

    #[test]
    fn merge_keys_add_what_is_not_there() {
        let text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\none: {<<: *x, a: 0}\ntwo: {<<: [*x, *y]}\n\
                    before: {a: 0, c: 0, <<: *x}\n";
        let document = &parse_documents(text).unwrap()[0];
        let values = |of: &str| {
            let node = document.get(of).unwrap();
            ["a", "b", "c"].map(|key| node.get(key).and_then(Node::text).unwrap_or("-")).join(" ")
        };
        assert_eq!((values("one"), values("two")), ("0 1 -".to_owned(), "1 1 2".to_owned()));
        assert_eq!(values("before"), "1 1 0");
        assert_eq!(document.get("one").unwrap().get(MERGE_KEY), None);
        assert!(parse_documents("a: {<<: 7}\n").unwrap_err().message.contains("takes a mapping"));
    }

    #[test]
    fn broken_text_names_its_line() {
        for (text, line) in [("a: 1\nb: [\n", 2), ("a: b: c\n", 1), ("a: *x\n", 1), ("{[a]: b}", 1)] {
            assert_eq!(parse_documents(text).unwrap_err().line, line, "{text}");
        }
    }
}
