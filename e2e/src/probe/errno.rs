//! Names by which people know errors.

use std::io::{Error, ErrorKind};

use rustix::io::Errno;

/// Name of an error: `ECONNREFUSED` rather than 111; an expired socket timeout is `TIMEOUT`, whatever errno
/// it came with.
pub fn name(error: &Error) -> String {
    let Some(errno) = Errno::from_io_error(error) else {
        return match error.kind() {
            ErrorKind::UnexpectedEof => "EOF".to_owned(),
            ErrorKind::TimedOut => "TIMEOUT".to_owned(),
            ErrorKind::InvalidData => "GARBAGE".to_owned(),
            kind => format!("{kind:?}"),
        };
    };
    let name = match errno {
        // SO_RCVTIMEO gives EAGAIN; SO_SNDTIMEO during connect gives EINPROGRESS.
        Errno::AGAIN | Errno::INPROGRESS => "TIMEOUT",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::CONNABORTED => "ECONNABORTED",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::HOSTUNREACH => "EHOSTUNREACH",
        Errno::INVAL => "EINVAL",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::ACCESS => "EACCES",
        Errno::NOPROTOOPT => "ENOPROTOOPT",
        Errno::PERM => "EPERM",
        Errno::PIPE => "EPIPE",
        Errno::PROTONOSUPPORT => "EPROTONOSUPPORT",
        Errno::TIMEDOUT => "ETIMEDOUT",
        other => return format!("errno {}", other.raw_os_error()),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::name;

    #[test]
    fn known_numbers_have_their_names() {
        assert_eq!(name(&Error::from_raw_os_error(113)), "EHOSTUNREACH");
        assert_eq!(name(&Error::from_raw_os_error(11)), "TIMEOUT");
        assert_eq!(name(&Error::from_raw_os_error(999)), "errno 999");
        assert_eq!(name(&Error::from(std::io::ErrorKind::UnexpectedEof)), "EOF");
    }
}
