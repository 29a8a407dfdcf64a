//! kube-ipvs as its users run it: a process, its command line, its log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::node::Node;
use crate::objects::{NODE_NAME, POD_CIDR, SERVICE_CIDR};
use crate::process;

/// Longest that anything is waited for: 10,000 Services in the guest of a busy host.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What the kernel calls its process.
const NAME: &str = "kube-ipvs";

/// Pause between two looks at the log.
const LOOK: Duration = Duration::from_millis(1);

/// The log line of the sync after which everything is programmed ends with this.
const PROGRAMMED: &str = "everything is programmed";

/// Where its objects come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A directory.
    Manifests(PathBuf),
    /// An API server.
    Kubeconfig(PathBuf),
}

/// How to start it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The executable.
    pub binary: PathBuf,
    /// Where its objects come from.
    pub input: Input,
    /// Its state and its log.
    pub directory: PathBuf,
    /// Flags besides those that it always has.
    pub flags: Vec<&'static str>,
}

impl Settings {
    fn command_line(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.binary.clone().into()];
        let (flag, path) = match &self.input {
            Input::Manifests(path) => ("--manifests", path),
            Input::Kubeconfig(path) => ("--kubeconfig", path),
        };
        words.extend([flag.into(), path.clone().into_os_string()]);
        words.extend(["--state-dir".into(), self.directory.join("state").into_os_string()]);
        let ranges = [format!("--service-cidrs={SERVICE_CIDR}"), format!("--cluster-cidr={POD_CIDR}")];
        words.extend(ranges.map(OsString::from));
        words.extend(["--hostname-override", NODE_NAME].map(OsString::from));
        words.extend(self.flags.iter().map(OsString::from));
        words
    }
}

/// One line about a sync, from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// Writes that the kernel executed.
    pub writes: usize,
}

/// A running kube-ipvs; dropping it kills it.
#[derive(Debug)]
pub struct Product {
    child: Child,
    /// The process itself, where the child is a tool around it.
    pid: u32,
    /// When it was started.
    pub started: Instant,
    log: LogReader,
}

#[derive(Debug)]
struct LogReader {
    path: PathBuf,
    file: File,
    text: String,
}

impl LogReader {
    fn follow(&mut self) -> Result<&str> {
        self.file.read_to_string(&mut self.text).with_context(|| self.path.display().to_string())?;
        Ok(&self.text)
    }
}

impl Product {
    /// Starts it.
    pub fn start(node: &Node, settings: &Settings) -> Result<Product> {
        Product::spawn(node, settings, &[])
    }

    /// Starts it under `strace`, which writes to `summary` how often which system call was made.
    pub fn start_counted(node: &Node, settings: &Settings, summary: &Path) -> Result<Product> {
        let mut strace: Vec<OsString> = ["strace", "-f", "-qq", "-c", "-o"].map(OsString::from).into();
        strace.push(summary.into());
        let mut product = Product::spawn(node, settings, &strace)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while product.pid == product.child.id() {
            ensure!(Instant::now() < deadline, "strace has started nothing: {}", product.log.follow()?);
            product.pid = process::child_of(product.child.id(), NAME).unwrap_or(product.pid);
            thread::sleep(LOOK);
        }
        Ok(product)
    }

    fn spawn(node: &Node, settings: &Settings, around: &[OsString]) -> Result<Product> {
        fs::create_dir_all(settings.directory.join("state"))?;
        let path = settings.directory.join("kube-ipvs.log");
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let words: Vec<OsString> = around.iter().cloned().chain(settings.command_line()).collect();
        let mut command = node.ns.command(&words[0]);
        command.args(&words[1..]).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let started = Instant::now();
        let child = testkit::die_with_thread(&mut command)
            .spawn()
            .with_context(|| format!("starting {}", Path::new(&words[0]).display()))?;
        let file = File::open(&path)?;
        Ok(Product { pid: child.id(), child, started, log: LogReader { path, file, text: String::new() } })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it says that everything is programmed; returns when it was seen to say so.
    pub fn wait_until_programmed(&mut self) -> Result<Instant> {
        self.wait_for_log(|log| log.contains(PROGRAMMED), "everything to be programmed", LOOK)
    }

    /// Waits for something to stand in the log.
    fn wait_for_log(&mut self, found: impl Fn(&str) -> bool, what: &str, pause: Duration) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if found(self.log.follow()?) {
                return Ok(Instant::now());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("kube-ipvs has ended ({status}):\n{}", self.log_end()?);
            }
            if Instant::now() > deadline {
                bail!("waited in vain for {what}; the log:\n{}", self.log_end()?);
            }
            thread::sleep(pause);
        }
    }

    /// Waits until it has said of so many drains that they begin.
    pub fn wait_for_begun_drains(&mut self, count: usize) -> Result<()> {
        self.wait_for_log(|log| of_drains(log, BEGINS) >= count, "drains to begin", LOOK * 100)?;
        Ok(())
    }

    /// Waits until every drain that it said to have begun has ended.
    pub fn wait_for_drains(&mut self) -> Result<()> {
        let done = |log: &str| of_drains(log, BEGINS) == of_drains(log, " ended: ");
        self.wait_for_log(done, "drains to end", LOOK * 100)?;
        Ok(())
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.log.path.parent().unwrap_or(&self.log.path)
    }

    /// All syncs that changed something so far.
    pub fn syncs(&mut self) -> Result<Vec<Sync>> {
        Ok(self.log.follow()?.lines().filter_map(parse_sync).collect())
    }

    /// The last lines of its log.
    pub fn log_end(&mut self) -> Result<String> {
        let lines: Vec<_> = self.log.follow()?.lines().collect();
        Ok(lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// Asks it to end and waits for that; the kernel keeps everything.
    pub fn stop(mut self) -> Result<()> {
        process::terminate(self.pid)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "kube-ipvs ended with {status}:\n{}", self.log_end()?);
        Ok(())
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if self.pid != self.child.id() {
            // Killing strace alone would let it go on.
            let _ = process::terminate(self.pid);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the log says when a drain begins.
const BEGINS: &str = " begins: ";

/// Lines about drains that say something.
fn of_drains(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains("drain of real server") && line.contains(what)).count()
}

/// Reads a line like `... sync: 11 writes for 1 changed services took=...`.
fn parse_sync(line: &str) -> Option<Sync> {
    let (_, after) = line.split_once("sync: ")?;
    let writes = after.split_once(" writes")?.0.parse().ok()?;
    Some(Sync { writes })
}

/// What `kube-ipvs version` prints.
pub fn version(binary: &Path) -> Result<String> {
    Ok(testkit::try_output(Command::new(binary).arg("version"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_sync;

    #[test]
    fn syncs_are_read_from_the_log() {
        let line = "2026-11-21T08:00:00Z  INFO kube_ipvs::run: sync: 12 writes for 3 changed services; everything is programmed took=1.5ms";
        assert_eq!(parse_sync(line).map(|sync| sync.writes), Some(12));
        assert_eq!(parse_sync("INFO kube-ipvs starts"), None);
    }
}
