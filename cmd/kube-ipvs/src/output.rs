//! Output of commands. `println!` would panic where the reader has closed the pipe, as `head` does.

use std::io::{self, Write as _, stderr, stdout};

use anyhow::Context;

/// State of the reader of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Reads on.
    Reads,
    /// Has closed the pipe: nothing more need be printed.
    Gone,
}

/// Prints to standard output.
pub fn print(text: &str) -> anyhow::Result<Reader> {
    let mut out = stdout().lock();
    judge(out.write_all(text.as_bytes()).and_then(|()| out.flush())).context("write to standard output")
}

/// Prints a line to standard error, if anybody reads it.
pub fn complain(line: &str) {
    let _nobody_reads = writeln!(stderr(), "{line}");
}

fn judge(written: io::Result<()>) -> io::Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        let error = |kind| judge(Err(io::Error::from(kind))).ok();
        assert_eq!(error(io::ErrorKind::BrokenPipe), Some(Reader::Gone));
        assert_eq!(error(io::ErrorKind::StorageFull), None);
        assert_eq!(judge(Ok(())).ok(), Some(Reader::Reads));
    }
}
