//! Reader of the kernel's log inside a guest, which tells bugs from chatter (the latter is pure).

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

/// Syslog level of warnings; smaller is worse.
const WARNING: u8 = 4;

/// Patterns of kernel messages that show a bug of the kernel, or of the way in which it is used.
const BUGS: &[&str] = &[
    "BUG:",
    "Oops",
    "Kernel panic",
    "WARNING:",
    "refcount_t:",
    "soft lockup",
    "hard LOCKUP",
    "general protection fault",
    "KASAN:",
    "self-detected stall",
    "detected stalls",
    "blocked for more than",
    "page allocation failure",
    "Out of memory: Killed",
    "list_add corruption",
    "list_del corruption",
];

/// Tells whether a line of the kernel's log shows a bug.
pub fn is_bug(line: &str) -> bool {
    BUGS.iter().any(|pattern| line.contains(pattern))
}

/// A reader of `/dev/kmsg`; without the file it sees nothing.
#[derive(Debug)]
pub struct Kmsg(Option<File>);

impl Kmsg {
    /// Opens the log.
    pub fn open() -> Self {
        Self(open_nonblocking("/dev/kmsg").ok())
    }

    /// Ignores everything logged so far.
    pub fn skip(&mut self) {
        if let Some(file) = &mut self.0 {
            let _ = file.seek(SeekFrom::End(0));
        }
    }

    /// Reads the warnings and errors logged since the last call.
    pub fn warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(file) = &mut self.0 else { return warnings };
        let mut buffer = vec![0; 16 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return warnings,
                Ok(length) => warnings.extend(parse_warning(&String::from_utf8_lossy(&buffer[..length]))),
                // The kernel has overwritten records before we read them: the next read goes on after the
                // gap.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(_) => return warnings,
            }
        }
    }
}

/// Parses a record `priority,sequence,microseconds,flags;text`; `None` for what is not a warning.
fn parse_warning(record: &str) -> Option<String> {
    let (header, text) = record.split_once(';')?;
    let mut fields = header.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    let level = u8::try_from(priority & 7).ok()?;
    let line = text.lines().next()?;
    let stamp = format!("[{:5}.{:06}]", micros / 1_000_000, micros % 1_000_000);
    (level <= WARNING).then(|| format!("{stamp} {line}"))
}

/// Opens a file that never makes its reader wait for data.
fn open_nonblocking(path: &str) -> io::Result<File> {
    const O_NONBLOCK: i32 = 0o4000;
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &str, warning: Option<&str>) {
        assert_eq!(parse_warning(record).as_deref(), warning, "{record}");
    }

    #[test]
    fn only_warnings_and_worse() {
        check(
            "4,339,5140900,-;WARNING: CPU: 0 PID: 1\n SUBSYSTEM=x\n",
            Some("[    5.140900] WARNING: CPU: 0 PID: 1"),
        );
        check("6,340,5140901,-;IPVS: ipvs loaded.\n", None);
        check("30,341,6,-;daemon info", None);
        check("garbage", None);
    }

    #[test]
    fn bugs() {
        assert!(is_bug("watchdog: BUG: soft lockup - CPU#1 stuck for 61s!"));
        assert!(is_bug("refcount_t: underflow; use-after-free."));
        assert!(!is_bug("IPVS: rr: UDP 10.0.0.1:53 - no destination available"));
    }
}
