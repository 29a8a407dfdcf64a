//! A client that half-closes and then reads a slow answer to its end.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Failure, Proto, Stage, server::DOWNLOAD_LINE, socket};

/// Settings of a download.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Address of the server.
    pub to: SocketAddr,
    /// Lines of the answer.
    pub lines: u32,
    /// Pause between two lines.
    pub pause: Duration,
    /// Bound on the connect and on each wait for the next piece.
    pub timeout: Duration,
}

/// Result of a download.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Bytes received.
    pub bytes: usize,
    /// Bytes that were due.
    pub expected: usize,
    /// Failure that cut the transfer, if one did.
    pub failure: Option<Failure>,
    /// Time from the connect to the end.
    pub took: Duration,
}

impl Report {
    /// Tells whether everything arrived.
    pub fn is_complete(&self) -> bool {
        self.failure.is_none() && self.bytes == self.expected
    }
}

/// Requests, half-closes and reads to the end; from the calling thread's network namespace.
pub fn half_close(settings: &Settings) -> Report {
    let start = Instant::now();
    let expected = usize::try_from(settings.lines).unwrap_or(usize::MAX).saturating_mul(DOWNLOAD_LINE);
    let mut bytes = 0;
    let failure = transfer(settings, &mut bytes).err();
    Report { bytes, expected, failure, took: start.elapsed() }
}

fn transfer(settings: &Settings, bytes: &mut usize) -> Result<(), Failure> {
    let socket = socket::bound(Proto::Tcp, socket::any(settings.to), settings.timeout)
        .map_err(|error| Failure::new(Stage::Local, &error))?;
    let mut stream =
        socket::connect_stream(socket, settings.to).map_err(|error| Failure::new(Stage::Connect, &error))?;
    let request = format!("download {} {}\n", settings.lines, settings.pause.as_millis());
    let sent: io::Result<()> =
        stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    sent.map_err(|error| Failure::new(Stage::Send, &error))?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => *bytes += length,
            Err(error) => return Err(Failure::new(Stage::Receive, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Settings, half_close};
    use crate::probe::Proto;
    use crate::probe::server::{Listener, start};

    #[test]
    fn the_answer_arrives_after_the_half_close() {
        let to = "127.0.0.1:34513".parse().unwrap();
        start("here", &[Listener { proto: Proto::Tcp, at: to }]).unwrap();
        let settings =
            Settings { to, lines: 5, pause: Duration::from_millis(10), timeout: Duration::from_secs(10) };
        let report = half_close(&settings);
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.bytes, 5 * 1024);
    }
}
