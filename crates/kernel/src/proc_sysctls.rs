//! Kernel parameters through `/proc/sys`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use dataplane::{ErrorKind, Sysctls, TableError};
use lb_types::SysctlOp;

/// Kernel parameters through `/proc/sys`; what is below `net/` belongs to the network namespace of the
/// calling thread.
#[derive(Clone, Debug)]
pub struct ProcSysctls {
    /// `/proc/sys`, or the directory where the host's is mounted.
    root: PathBuf,
}

/// Failure to read or write a parameter; each variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading failed.
    #[error("cannot read {}", .path.display())]
    Read {
        /// File of the parameter.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The content is not one number.
    #[error("{} holds {content:?}, which is not one number", .path.display())]
    NotANumber {
        /// File of the parameter.
        path: PathBuf,
        /// Its content.
        content: String,
    },
    /// The kernel does not have the parameter.
    #[error("{} does not exist: {hint}", .path.display())]
    Absent {
        /// File of the parameter.
        path: PathBuf,
        /// Probable remedy.
        hint: &'static str,
    },
    /// `/proc/sys` is read-only here.
    #[error(
        "{} is read-only: run the container privileged (or mount the host's /proc/sys into it), \
         or set it on the node: sysctl -w {name}={value}",
        .path.display()
    )]
    ReadOnly {
        /// File of the parameter.
        path: PathBuf,
        /// Name of the parameter as sysctl(8) writes it.
        name: String,
        /// Value that was to be written.
        value: u32,
    },
    /// The process lacks the permission.
    #[error(
        "no permission to write {}: CAP_NET_ADMIN as user 0 is needed, or set it on the node: \
         sysctl -w {name}={value}",
        .path.display()
    )]
    Denied {
        /// File of the parameter.
        path: PathBuf,
        /// Name of the parameter as sysctl(8) writes it.
        name: String,
        /// Value that was to be written.
        value: u32,
    },
    /// Writing failed for another reason.
    #[error("cannot write {value} to {}", .path.display())]
    Write {
        /// File of the parameter.
        path: PathBuf,
        /// Value that was to be written.
        value: u32,
        /// Error of the system call.
        source: io::Error,
    },
}

impl SysctlError {
    fn kind(&self) -> ErrorKind {
        match self {
            SysctlError::Absent { .. } => ErrorKind::NotSupported,
            SysctlError::ReadOnly { .. } | SysctlError::Denied { .. } => ErrorKind::PermissionDenied,
            SysctlError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::PermissionDenied
            }
            _ => ErrorKind::Other,
        }
    }

    /// Translates the error of a write.
    fn writing(path: &Path, op: &SysctlOp, source: io::Error) -> Self {
        let (path, name, value) = (path.to_owned(), dotted(&op.name), op.value);
        match source.kind() {
            io::ErrorKind::NotFound => SysctlError::Absent { path, hint: absence_hint(&op.name) },
            io::ErrorKind::ReadOnlyFilesystem => SysctlError::ReadOnly { path, name, value },
            io::ErrorKind::PermissionDenied => SysctlError::Denied { path, name, value },
            _ => SysctlError::Write { path, value, source },
        }
    }
}

/// Name as sysctl(8) writes it: a dot in the name of an interface is a slash there.
fn dotted(name: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// Probable remedy for a missing parameter.
fn absence_hint(name: &str) -> &'static str {
    if name.starts_with("net/ipv4/vs/") {
        "load the module on the node (modprobe ip_vs); if it is loaded, this kernel does not have the parameter"
    } else if name.starts_with("net/ipv6/") {
        "IPv6 is disabled on this node"
    } else {
        "this kernel does not have it"
    }
}

impl Default for ProcSysctls {
    fn default() -> Self {
        ProcSysctls::new("/proc/sys")
    }
}

impl ProcSysctls {
    /// Parameters below another root than `/proc/sys`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        ProcSysctls { root: root.into() }
    }

    /// Value of a parameter, `None` if the kernel does not have it.
    fn read_value(&self, name: &str) -> Result<Option<u32>, SysctlError> {
        let path = self.root.join(name);
        let content = match fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SysctlError::Read { path, source }),
        };
        match content.trim().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(SysctlError::NotANumber { path, content }),
        }
    }

    fn write_value(&self, op: &SysctlOp) -> Result<(), SysctlError> {
        let path = self.root.join(&*op.name);
        // Without O_CREAT, because the kernel has the parameters that it has.
        let written = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{}\n", op.value).as_bytes()));
        written.map_err(|source| SysctlError::writing(&path, op, source))
    }
}

impl Sysctls for ProcSysctls {
    fn read(&mut self, name: &str) -> Result<Option<u32>, TableError> {
        self.read_value(name)
            .map_err(|error| TableError::new(format!("read sysctl {name}"), error.kind(), error))
    }

    /// Looks at the mode of the file: without a write bit nobody may write, not even root.
    fn is_writable(&mut self, name: &str) -> bool {
        const ANYBODY: u32 = 0o222;
        fs::metadata(self.root.join(name)).is_ok_and(|file| file.permissions().mode() & ANYBODY != 0)
    }

    fn write(&mut self, op: &SysctlOp) -> Result<(), TableError> {
        self.write_value(op).map_err(|error| TableError::new(op.to_string(), error.kind(), error))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    const OP: SysctlOp = SysctlOp::new("net/ipv4/vs/conntrack", 1);
    const NAME: &str = "net/ipv4/vs/conntrack";

    /// A `/proc/sys` with these files.
    fn proc_sys(files: &[(&str, &str)]) -> (testkit::TempDir, ProcSysctls) {
        let dir = testkit::TempDir::new("sysctls");
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let sysctls = ProcSysctls::new(dir.path());
        (dir, sysctls)
    }

    #[test]
    fn reads_writes_and_knows_absence() {
        let (_dir, mut sysctls) = proc_sys(&[(NAME, "0\n"), ("net/other", "123456\n")]);
        assert_eq!(sysctls.read(NAME).unwrap(), Some(0));
        sysctls.write(&OP).unwrap();
        assert_eq!(sysctls.read(NAME).unwrap(), Some(1));
        sysctls.write(&SysctlOp::new("net/other", 7)).unwrap();
        assert_eq!(sysctls.read("net/other").unwrap(), Some(7));
        assert_eq!(sysctls.read("net/absent").unwrap(), None);
    }

    #[test]
    fn a_missing_parameter_is_not_created() {
        let (dir, mut sysctls) = proc_sys(&[("net/ipv4/vs/other", "0\n")]);
        let error = sysctls.write(&OP).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotSupported);
        assert!(error.source().unwrap().to_string().contains("modprobe ip_vs"), "{error:?}");
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn what_nobody_may_write_is_known_beforehand() {
        let (dir, mut sysctls) = proc_sys(&[(NAME, "0\n"), ("net/global", "1\n")]);
        fs::set_permissions(dir.path().join("net/global"), fs::Permissions::from_mode(0o444)).unwrap();
        assert!(
            sysctls.is_writable(NAME)
                && !sysctls.is_writable("net/global")
                && !sysctls.is_writable("net/absent")
        );
    }

    #[test]
    fn names_are_printed_as_sysctl_reads_them() {
        assert_eq!(dotted("net/ipv6/conf/eth0.100/accept_ra"), "net.ipv6.conf.eth0/100.accept_ra");
    }

    #[test]
    fn text_is_not_a_number() {
        let (_dir, mut sysctls) = proc_sys(&[("net/sync_threshold", "3\t50\n")]);
        let error = sysctls.read("net/sync_threshold").unwrap_err();
        assert!(error.source().unwrap().to_string().contains("not one number"), "{error:?}");
    }

    #[test]
    fn refusals_name_file_and_remedy() {
        let path = Path::new("/proc/sys/net/ipv4/vs/conntrack");
        let cases = [
            (
                rustix::io::Errno::ROFS,
                ErrorKind::PermissionDenied,
                "is read-only: run the container privileged",
            ),
            (rustix::io::Errno::ACCESS, ErrorKind::PermissionDenied, "sysctl -w net.ipv4.vs.conntrack=1"),
            (rustix::io::Errno::PERM, ErrorKind::PermissionDenied, "CAP_NET_ADMIN"),
            (rustix::io::Errno::NOENT, ErrorKind::NotSupported, "modprobe ip_vs"),
            (rustix::io::Errno::INVAL, ErrorKind::Other, "cannot write 1 to"),
        ];
        for (errno, kind, part) in cases {
            let error = SysctlError::writing(path, &OP, errno.into());
            let text = error.to_string();
            assert!(text.contains(part) && text.contains("/proc/sys/net/ipv4/vs/conntrack"), "{text}");
            assert_eq!(error.kind(), kind, "{text}");
        }
    }
}
