//! The side outside of a guest, which boots it, runs tasks in it one after the other, and notices when it
//! dies.

use std::{
    fs,
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    kmsg,
    protocol::{GuestFile, Message, Outcome, Task},
    qemu::{Emulator, Machine},
};

/// Time for the boot, which takes a few seconds; a busy host makes that more.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// Time without a message `Alive` after which a guest counts as hanging.
const LONGEST_SILENCE: Duration = Duration::from_secs(90);

/// Time after a task's own timeout, at which the guest kills it, until the guest itself counts as hanging.
const KILL_TIMEOUT: Duration = Duration::from_secs(45);

/// A running guest.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    emulator: Emulator,
    port: UnixStream,
    messages: Receiver<io::Result<Message>>,
    /// Folder of the socket; goes with the session.
    _socket: SocketFolder,
}

impl Session {
    /// Boots the machine and waits for its agent.
    pub fn boot(machine: Machine) -> Result<Self> {
        let socket = SocketFolder::create()?;
        let listener = UnixListener::bind(socket.path()).context("listening for the guest")?;
        listener.set_nonblocking(true)?;
        let mut emulator = machine.start(&socket.path())?;
        let port = accept(&listener, &mut emulator, &machine.console)?;
        let mut input = port.try_clone()?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            while let Some(message) = Message::decode(&mut input).transpose() {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut session = Self { machine, emulator, port, messages, _socket: socket };
        match session.receive(Instant::now() + BOOT_TIMEOUT * session.machine.clock.slowness())? {
            Message::Hello(_) => Ok(session),
            other => bail!("the guest started with {other:?}"),
        }
    }

    /// Runs a task, and hands its output on as it comes. An error means that the guest is of no more use; it
    /// says why, and where the console's log is.
    pub fn run(&mut self, task: &Task, mut output: impl FnMut(&[u8])) -> Result<Outcome> {
        Message::Run(task.clone()).encode(&mut self.port).context("sending a task to the guest")?;
        let deadline = Instant::now() + Duration::from_millis(task.timeout_ms) + KILL_TIMEOUT;
        loop {
            match self.receive(deadline)? {
                Message::Output(bytes) => output(&bytes),
                Message::Done(outcome) => return Ok(outcome),
                other => bail!("the guest answered a task with {other:?}"),
            }
        }
    }

    /// Copies a file or a folder out of the guest.
    pub fn fetch(&mut self, guest: &str, to: &Path) -> Result<()> {
        Message::Fetch(guest.to_owned()).encode(&mut self.port)?;
        loop {
            match self.receive(Instant::now() + LONGEST_SILENCE)? {
                Message::File(file) => write_file(&file, to)?,
                Message::Fetched(error) if error.is_empty() => return Ok(()),
                Message::Fetched(error) => bail!("copying from the guest: {error}"),
                other => bail!("the guest answered a fetch with {other:?}"),
            }
        }
    }

    /// Powers the guest off.
    pub fn quit(mut self) {
        let _ = Message::Quit.encode(&mut self.port);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.emulator.try_wait().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Receives the next message other than `Alive`.
    fn receive(&mut self, deadline: Instant) -> Result<Message> {
        loop {
            let wait = (LONGEST_SILENCE * self.machine.clock.slowness())
                .min(deadline.saturating_duration_since(Instant::now()));
            match self.messages.recv_timeout(wait) {
                Ok(Ok(Message::Alive)) if Instant::now() < deadline => {}
                Ok(Ok(Message::Alive)) | Err(RecvTimeoutError::Timeout) => {
                    bail!(self.death("the guest hangs"))
                }
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(error)) => bail!(self.death(&format!("the guest's port broke: {error}"))),
                Err(RecvTimeoutError::Disconnected) => bail!(self.death("the guest went away")),
            }
        }
    }

    /// Describes a dead guest by the first bug on its console.
    fn death(&self, what: &str) -> String {
        describe_death(what, &self.machine.console)
    }
}

fn describe_death(what: &str, console: &Path) -> String {
    let log = fs::read(console).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let bug = log.lines().find(|line| kmsg::is_bug(line));
    let bug = bug.map(|line| format!(": {}", line.trim())).unwrap_or_default();
    format!("{what}{bug}; console log: {}", console.display())
}

/// Waits for the emulator to connect; it does so before the guest starts.
fn accept(listener: &UnixListener, emulator: &mut Emulator, console: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("waiting for the emulator"),
        }
        if let Some(status) = emulator.try_wait() {
            let log = fs::read_to_string(console).unwrap_or_default();
            bail!("the emulator ended with {status}: {}", log.trim());
        }
        if Instant::now() > deadline {
            bail!("the emulator did not connect");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn write_file(file: &GuestFile, to: &Path) -> Result<()> {
    if file.path.split('/').any(|part| part == "..") {
        bail!("the guest sent a file outside of the folder: {}", file.path);
    }
    let path = if file.path.is_empty() { to.to_owned() } else { to.join(&file.path) };
    if let Some(parent) = path.parent() {
        crate::paths::create(parent)?;
    }
    fs::File::create(&path)
        .and_then(|mut host| host.write_all(&file.contents))
        .with_context(|| format!("writing {}", path.display()))
}

/// A private folder with a short path: the paths of Unix sockets are limited to 107 bytes.
#[derive(Debug)]
struct SocketFolder(PathBuf);

impl SocketFolder {
    fn create() -> Result<Self> {
        for attempt in 0..1000 {
            let dir = std::env::temp_dir().join(format!("kube-ipvs-{}-{attempt}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self(dir)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("creating {}", dir.display())),
            }
        }
        bail!("no free folder name in {}", std::env::temp_dir().display());
    }

    fn path(&self) -> PathBuf {
        self.0.join("port")
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
