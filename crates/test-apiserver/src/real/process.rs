//! Child processes with a log, and the wait for their first answer.

use std::{
    fs::{self, OpenOptions},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{RealError, prepare};
use crate::tls::client_config;

/// A running program, which is killed with this value.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        directory: &Path,
    ) -> Result<Self, RealError> {
        let log = directory.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.map_err(prepare("making a log file"))?;
        let errors = output.try_clone().map_err(prepare("making a log file"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(prepare(format!("starting {}", program.display())))?;
        Ok(Self { name, child, log })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program without a chance to clean up; a second call does nothing.
    pub(super) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn not_ready(&self, what: impl Into<String>) -> RealError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        RealError::NotReady { program: self.name, what: what.into(), log: tail }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until the answer to a GET of `path` is 200. With `access`, the certificate of an authority and a
/// token, it speaks TLS.
pub(super) fn wait_until_ready(
    mut process: Process,
    address: SocketAddr,
    access: Option<(&str, &str)>,
    path: &str,
    limit: Duration,
) -> Result<Process, RealError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(prepare("starting a runtime"))?;
    let start = Instant::now();
    loop {
        if let Some(status) = process.child.try_wait().map_err(prepare("waiting for a child"))? {
            return Err(process.not_ready(format!("has ended ({status})")));
        }
        let answer = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), ask(address, access, path)).await
        });
        let state = match answer {
            Ok(Ok(status)) if status.contains(" 200 ") => return Ok(process),
            Ok(Ok(status)) => format!("answers {}", status.trim()),
            Ok(Err(error)) => format!("does not answer ({error})"),
            Err(_) => "does not answer in time".to_owned(),
        };
        if start.elapsed() > limit {
            return Err(process.not_ready(state));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

async fn ask(address: SocketAddr, access: Option<(&str, &str)>, path: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let Some((ca_pem, token)) = access else { return request(stream, path, "").await };
    let config = client_config(ca_pem).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(address.ip().into(), stream).await?;
    request(stream, path, &format!("Authorization: Bearer {token}\r\n")).await
}

/// Sends a request and returns the status line of the answer.
async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
    header: &str,
) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{header}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handle::TestApiServer, real::Directory};

    fn sleeper(script: &str) -> (Process, Directory) {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let directory = Directory::make().unwrap();
        (Process::start("sleeper", Path::new("/bin/sh"), &arguments, &directory.0).unwrap(), directory)
    }

    /// The double stands in for the real server, whose readiness is requested in the same way.
    #[test]
    fn readiness_is_requested_over_tls_with_a_token() {
        let server = TestApiServer::builder().tls().token("secret").start().unwrap();
        let ca = server.ca_pem().unwrap();
        let wait = |access, limit| {
            let (process, _directory) = sleeper("exec sleep 60");
            wait_until_ready(process, server.address(), access, "/readyz", limit).map(|_| ())
        };
        wait(Some((ca, "secret")), Duration::from_secs(20)).unwrap();
        let error = wait(Some((ca, "wrong")), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("answers HTTP/1.1 401"), "{error}");
        let other = crate::tls::Identity::make(&[]).unwrap().ca_pem;
        let error = wait(Some((&other, "secret")), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }

    #[test]
    fn a_process_that_ends_is_reported_with_its_log() {
        let (process, _directory) = sleeper("echo no such flag >&2; exit 3");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = wait_until_ready(process, nowhere, None, "/health", Duration::from_secs(20)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("has ended") && text.contains("no such flag"), "{text}");
    }
}
