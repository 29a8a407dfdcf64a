//! The side inside a guest, which takes tasks from the host's port, runs them, and reports.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    PORT,
    kmsg::Kmsg,
    processes,
    protocol::{GuestFile, Hello, Message, Outcome, Task},
};

/// Time between two messages by which the host sees that the kernel still schedules us.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);

/// Time in which the rest must come after a task has ended or was killed: its output, its exit status.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// The writing side of the port; messages of different threads do not mix.
#[derive(Clone)]
struct Host(Arc<Mutex<File>>);

impl Host {
    fn send(&self, message: &Message) -> Result<()> {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        message.encode(&mut *port).context("writing to the host")
    }
}

/// Serves the host until it says `Quit` or goes away.
pub fn serve() -> Result<()> {
    let port = open_port()?;
    let mut input = port.try_clone()?;
    let host = Host(Arc::new(Mutex::new(port)));
    let mut kmsg = Kmsg::open();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    host.send(&Message::Hello(Hello { release }))?;
    let alive = host.clone();
    thread::spawn(move || {
        while alive.send(&Message::Alive).is_ok() {
            thread::sleep(HEARTBEAT_PERIOD);
        }
    });
    loop {
        match Message::decode(&mut input)? {
            Some(Message::Run(task)) => {
                kmsg.skip();
                let mut outcome = run(&task, &host);
                remove_namespaces();
                outcome.kernel = kmsg.warnings();
                host.send(&Message::Done(outcome))?;
            }
            Some(Message::Fetch(path)) => fetch(&path, &host)?,
            Some(Message::Quit) | None => return Ok(()),
            Some(other) => bail!("unexpected message {other:?}"),
        }
    }
}

/// Finds the port by its name; it appears some time after its driver was loaded.
fn open_port() -> Result<File> {
    for _ in 0..200 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT {
                let device = Path::new("/dev").join(entry.file_name());
                return OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&device)
                    .with_context(|| format!("opening {}", device.display()));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("no virtio port named {PORT}");
}

fn run(task: &Task, host: &Host) -> Outcome {
    let start = Instant::now();
    let mut outcome = match spawn(task) {
        Ok((child, output)) => {
            let pump = pump(output, host.clone());
            let outcome = wait(child, Duration::from_millis(task.timeout_ms));
            let leftovers = processes::kill_all();
            finish(&pump);
            Outcome { leftovers, ..outcome }
        }
        Err(error) => Outcome { error: Some(format!("{error:#}")), ..Outcome::default() },
    };
    outcome.millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

/// Starts the program in a process group of its own, with one pipe for both of its outputs.
fn spawn(task: &Task) -> Result<(Child, PipeReader)> {
    let (program, arguments) = task.argv.split_first().context("no program given")?;
    let (reader, writer) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        .envs(task.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/root")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    Ok((child, reader))
}

/// Sends output on as it comes.
fn pump(mut output: PipeReader, host: Host) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if host.send(&Message::Output(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    })
}

/// Waits for the pump to see the end of the pipe, unless some unkillable process holds it open.
fn finish(pump: &JoinHandle<()>) {
    let deadline = Instant::now() + REST_TIMEOUT;
    while !pump.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait(mut child: Child, timeout: Duration) -> Outcome {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    match receiver.recv_timeout(timeout) {
        Ok(status) => outcome_of(status),
        Err(RecvTimeoutError::Disconnected) => outcome_of(Err(io::Error::other("nobody waited"))),
        Err(RecvTimeoutError::Timeout) => {
            processes::kill_group(pid);
            let status = receiver.recv_timeout(REST_TIMEOUT);
            let outcome = status.map(outcome_of).unwrap_or_default();
            Outcome { timed_out: true, ..outcome }
        }
    }
}

fn outcome_of(status: io::Result<ExitStatus>) -> Outcome {
    match status {
        Ok(status) => Outcome { code: status.code(), signal: status.signal(), ..Outcome::default() },
        Err(error) => Outcome { error: Some(error.to_string()), ..Outcome::default() },
    }
}

/// Removes named network namespaces that a task left behind, so that the next one finds none.
fn remove_namespaces() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let _ = Command::new("ip").args(["netns", "delete"]).arg(entry.file_name()).status();
    }
}

fn fetch(path: &str, host: &Host) -> Result<()> {
    let mut files = Vec::new();
    let mut error = String::new();
    match collect(Path::new(path), String::new(), &mut files) {
        Ok(()) => {
            for (path, relative) in files {
                host.send(&Message::File(GuestFile { path: relative, contents: fs::read(path)? }))?;
            }
        }
        Err(cause) => error = format!("{path}: {cause:#}"),
    }
    host.send(&Message::Fetched(error))
}

/// Lists the files below a path with their paths relative to it.
fn collect(path: &Path, relative: String, files: &mut Vec<(PathBuf, String)>) -> Result<()> {
    if !fs::metadata(path)?.is_dir() {
        files.push((path.to_owned(), relative));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = if relative.is_empty() { name } else { format!("{relative}/{name}") };
        collect(&entry.path(), below, files)?;
    }
    Ok(())
}
