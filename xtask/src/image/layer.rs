//! The layer of the image: a tar archive that depends on its contents alone.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use tar::{EntryType, Header};

/// A path of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A file that all may read.
    File(Vec<u8>),
    /// A program.
    Program(Vec<u8>),
    /// A symbolic link to this target.
    Link(&'static str),
}

/// The contents of the image by path, without a leading slash.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// A finished layer.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    /// The archive.
    pub tar: Vec<u8>,
    /// The archive, compressed.
    pub gzip: Vec<u8>,
}

impl Tree {
    /// Adds a path with the folders above it.
    pub fn add(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert(Node::Folder);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Packs everything, sorted by path, with one time of change in seconds since 1970.
    pub fn pack(&self, time: u64) -> io::Result<Layer> {
        let mut archive = Archive::new(Vec::new(), time);
        for (path, node) in &self.nodes {
            archive.append(path, node)?;
        }
        let tar = archive.finish()?;
        let gzip = gzip(&tar)?;
        Ok(Layer { tar, gzip })
    }
}

/// Compresses without a name and a time in the header.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// A tar archive under construction. Everything in it belongs to root.
pub struct Archive<W: Write> {
    to: tar::Builder<W>,
    time: u64,
}

impl<W: Write> Archive<W> {
    /// Starts an archive whose entries all have one time of change.
    pub fn new(to: W, time: u64) -> Self {
        Self { to: tar::Builder::new(to), time }
    }

    /// Appends one path.
    pub fn append(&mut self, path: &str, node: &Node) -> io::Result<()> {
        match node {
            Node::Folder => self.entry(&format!("{path}/"), EntryType::Directory, 0o755, &[]),
            Node::File(contents) => self.entry(path, EntryType::Regular, 0o644, contents),
            Node::Program(contents) => self.entry(path, EntryType::Regular, 0o755, contents),
            Node::Link(target) => {
                let mut header = self.header(EntryType::Symlink, 0o777);
                self.to.append_link(&mut header, path, Path::new(target))
            }
        }
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        self.to.into_inner()
    }

    fn entry(&mut self, path: &str, kind: EntryType, mode: u32, contents: &[u8]) -> io::Result<()> {
        let mut header = self.header(kind, mode);
        header.set_size(contents.len() as u64);
        self.to.append_data(&mut header, path, contents)
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        let lines = entries.map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let target = entry.link_name().unwrap().map(|target| format!(" -> {}", target.display()));
            format!(
                "{:o} {}:{} {} {}{}",
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap(),
                entry.path().unwrap().display(),
                target.unwrap_or_default()
            )
        });
        lines.collect()
    }

    #[test]
    fn entries_are_sorted_and_belong_to_root() {
        let mut tree = Tree::default();
        tree.add("usr/bin/b", Node::Link("a"));
        tree.add("usr/bin/a", Node::Program(b"program".to_vec()));
        tree.add("usr/LICENSE", Node::File(b"text".to_vec()));
        let layer = tree.pack(1_700_000_000).unwrap();
        assert_eq!(
            listed(&layer.tar),
            [
                "755 0:0 1700000000 usr/",
                "644 0:0 1700000000 usr/LICENSE",
                "755 0:0 1700000000 usr/bin/",
                "755 0:0 1700000000 usr/bin/a",
                "777 0:0 1700000000 usr/bin/b -> a",
            ]
        );
    }

    #[test]
    fn the_order_of_adding_and_the_moment_of_packing_do_not_show() {
        let (mut one, mut other) = (Tree::default(), Tree::default());
        let (a, b) = (Node::File(b"a".to_vec()), Node::File(b"b".to_vec()));
        one.add("d/a", a.clone());
        one.add("e/b", b.clone());
        other.add("e/b", b);
        other.add("d/a", a);
        let packed = one.pack(1).unwrap();
        assert_eq!(packed, other.pack(1).unwrap());
        // Bytes 4 to 7 of the header are the time.
        assert_eq!(packed.gzip[4..8], [0; 4]);
        assert_ne!(packed.tar, one.pack(2).unwrap().tar);
    }
}
