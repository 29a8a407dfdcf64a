//! Writer of initramfs archives: cpio in the `newc` format (pure apart from `Write`).

use std::io::{self, Write};

/// Kind of a path in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A folder.
    Folder,
    /// A file with its permissions.
    File {
        /// Permission bits.
        mode: u32,
        /// Contents of the file.
        contents: &'a [u8],
    },
    /// A symbolic link to this target.
    Link(&'a str),
}

/// An archive under construction. Everything in it belongs to root.
#[derive(Debug)]
pub struct Archive<W> {
    to: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(to: W) -> Self {
        Self { to, inode: 1 }
    }

    /// Appends one path, which is relative to the root of the guest. Parents come before children.
    pub fn append(&mut self, path: &str, node: Node<'_>) -> io::Result<()> {
        let (mode, contents) = match node {
            Node::Folder => (0o040_755, &[][..]),
            Node::File { mode, contents } => (0o100_000 | mode, contents),
            Node::Link(target) => (0o120_777, target.as_bytes()),
        };
        self.write(path, mode, contents)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.write("TRAILER!!!", 0, &[])?;
        Ok(self.to)
    }

    fn write(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        let size = u32::try_from(contents.len()).map_err(|_| io::Error::other("file over 4 GiB"))?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // The fields are: magic, then inode mode uid gid nlink mtime size major minor rmajor rminor namesize
        // check.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.inode += 1;
        self.to.write_all(b"070701")?;
        for field in fields {
            write!(self.to, "{field:08X}")?;
        }
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(&[0])?;
        self.pad(110 + path.len() + 1)?;
        self.to.write_all(contents)?;
        self.pad(contents.len())
    }

    /// Pads to the next multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..(4 - length % 4) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_small_archive() {
        let mut archive = Archive::new(Vec::new());
        archive.append("etc", Node::Folder).unwrap();
        archive.append("etc/a", Node::File { mode: 0o644, contents: b"hello" }).unwrap();
        archive.append("b", Node::Link("etc/a")).unwrap();
        let bytes = archive.finish().unwrap();
        let zeros = "00000000";
        let expected = format!(
            "07070100000001000041ED{zeros}{zeros}00000001{zeros}{zeros}{zeros}{zeros}{zeros}{zeros}00000004{zeros}etc\0\0\0\
             07070100000002000081A4{zeros}{zeros}00000001{zeros}00000005{zeros}{zeros}{zeros}{zeros}00000006{zeros}etc/a\0hello\0\0\0\
             070701000000030000A1FF{zeros}{zeros}00000001{zeros}00000005{zeros}{zeros}{zeros}{zeros}00000002{zeros}b\0etc/a\0\0\0\
             0707010000000400000000{zeros}{zeros}00000001{zeros}{zeros}{zeros}{zeros}{zeros}{zeros}0000000B{zeros}TRAILER!!!\0\0\0\0"
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
