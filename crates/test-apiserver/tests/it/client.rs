//! A raw HTTP/1.1 client: one connection per request, every byte visible.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;

/// Longest wait for something that should happen.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer, with the body still on the way.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    chunked: bool,
    reader: BufReader<TcpStream>,
    /// Part of the body that was read but not returned yet.
    pending: Vec<u8>,
}

/// Next thing that came over a watch.
#[derive(Debug, PartialEq)]
pub enum Next {
    Event(Value),
    /// Nothing came in time.
    Silence,
    /// The response ended, after some bytes of a line.
    End(usize),
    /// The connection closed before the response ended, after some bytes of a line.
    Cut(usize),
}

pub fn request(address: SocketAddr, method: &str, target: &str, more: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n{more}\r\n{body}"
    )
    .unwrap();
    Answer::read(stream)
}

pub fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, "", "")
}

/// Status and body of a GET.
pub fn fetch(address: SocketAddr, target: &str) -> (u16, Value) {
    get(address, target).json()
}

impl Answer {
    fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        Self { status, headers, chunked, reader, pending: Vec::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn body(mut self) -> Vec<u8> {
        if !self.chunked {
            let length = self.header("content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            self.reader.read_exact(&mut body).unwrap();
            return body;
        }
        while self.chunk().unwrap() {}
        self.pending
    }

    pub fn json(self) -> (u16, Value) {
        let status = self.status;
        let body = self.body();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
    }

    /// Reads one chunk; returns false for the last one.
    fn chunk(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("chunk {line:?}"));
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk)?;
        self.pending.extend_from_slice(&chunk[..length]);
        Ok(length > 0)
    }

    /// The next event of a watch.
    pub fn next_within(&mut self, limit: Duration) -> Next {
        self.reader.get_ref().set_read_timeout(Some(limit)).unwrap();
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Next::Event(serde_json::from_slice(&line).unwrap());
            }
            match self.chunk() {
                Ok(true) => {}
                Ok(false) => return Next::End(self.pending.len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Silence,
                Err(_) => return Next::Cut(self.pending.len()),
            }
        }
    }

    pub fn next(&mut self) -> Next {
        self.next_within(TIMEOUT)
    }

    pub fn event(&mut self) -> Value {
        match self.next() {
            Next::Event(event) => event,
            other => panic!("no event but {other:?}"),
        }
    }

    /// Type, name and resourceVersion of the next event.
    pub fn brief(&mut self) -> (String, String, u64) {
        brief(&self.event())
    }
}

pub fn brief(event: &Value) -> (String, String, u64) {
    let text = |path| event.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    let revision = text("/object/metadata/resourceVersion").parse().unwrap_or_default();
    (text("/type"), text("/object/metadata/name"), revision)
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < TIMEOUT, "in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
