//! kube-ipvs as its users run it: a process, its command line, its log.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    node::Node,
    objects::{NODE_NAME, POD_CIDR, SERVICE_CIDR},
    process,
};

/// Longest wait for anything: 10,000 Services in the guest of a busy host.
pub const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Name of its process in the kernel.
const PROCESS_NAME: &str = "kube-ipvs";

/// Pause between two looks at the log.
const LOG_PAUSE: Duration = Duration::from_millis(1);

/// End of the log line of the sync after which everything is programmed.
pub const PROGRAMMED_SUFFIX: &str = "everything is programmed";

/// Source of its objects.
#[derive(Debug, Clone)]
pub enum Input {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server, by a kubeconfig file.
    Kubeconfig(PathBuf),
}

/// Settings of a start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The executable.
    pub binary: PathBuf,
    /// Source of its objects.
    pub input: Input,
    /// Directory of its state and its log.
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

/// A sync, read from a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// Number of writes that the kernel executed.
    pub writes: usize,
}

/// A running kube-ipvs; dropping it kills it.
#[derive(Debug)]
pub struct Product {
    child: Child,
    /// Process id of kube-ipvs itself, where the child is a tool around it.
    pid: u32,
    /// Time of the start.
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
    /// Starts kube-ipvs.
    pub fn start(node: &Node, settings: &Settings) -> Result<Product> {
        Product::spawn(node, settings, &[])
    }

    /// Starts it under `strace`, which writes to `summary` how often it made which system call.
    pub fn start_counted(node: &Node, settings: &Settings, summary: &Path) -> Result<Product> {
        let mut strace: Vec<OsString> = ["strace", "-f", "-qq", "-c", "-o"].map(OsString::from).into();
        strace.push(summary.into());
        let mut product = Product::spawn(node, settings, &strace)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while product.pid == product.child.id() {
            ensure!(Instant::now() < deadline, "strace has started nothing: {}", product.log.follow()?);
            product.pid = process::child_of(product.child.id(), PROCESS_NAME).unwrap_or(product.pid);
            thread::sleep(LOG_PAUSE);
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

    /// Process id of kube-ipvs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the log says that everything is programmed; returns the time at which it was seen.
    pub fn wait_until_programmed(&mut self) -> Result<Instant> {
        self.wait_for_log(|log| log.contains(PROGRAMMED_SUFFIX), "everything to be programmed", LOG_PAUSE)
    }

    /// Waits until the log contains something.
    fn wait_for_log(&mut self, found: impl Fn(&str) -> bool, what: &str, pause: Duration) -> Result<Instant> {
        let deadline = Instant::now() + LONGEST_WAIT;
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

    /// Waits until there are more syncs that changed something than `before`.
    pub fn wait_for_sync(&mut self, before: usize) -> Result<()> {
        let has_more = |log: &str| log.lines().filter_map(parse_sync).count() > before;
        self.wait_for_log(has_more, "a sync", LOG_PAUSE)?;
        Ok(())
    }

    /// Waits until the log says of `count` drains that they begin.
    pub fn wait_for_begun_drains(&mut self, count: usize) -> Result<()> {
        self.wait_for_log(
            |log| count_drain_lines(log, DRAIN_BEGINS) >= count,
            "drains to begin",
            LOG_PAUSE * 100,
        )?;
        Ok(())
    }

    /// Waits until every drain that began according to the log has ended.
    pub fn wait_for_drains(&mut self) -> Result<()> {
        let done = |log: &str| count_drain_lines(log, DRAIN_BEGINS) == count_drain_lines(log, " ended: ");
        self.wait_for_log(done, "drains to end", LOG_PAUSE * 100)?;
        Ok(())
    }

    /// Directory of its files.
    pub fn directory(&self) -> &Path {
        self.log.path.parent().unwrap_or(&self.log.path)
    }

    /// All syncs so far that changed something.
    pub fn syncs(&mut self) -> Result<Vec<Sync>> {
        Ok(self.log.follow()?.lines().filter_map(parse_sync).collect())
    }

    /// Last lines of its log.
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
            // To kill strace alone would let kube-ipvs go on.
            let _ = process::terminate(self.pid);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Part of the log line about the beginning of a drain.
const DRAIN_BEGINS: &str = " begins: ";

/// Counts the lines about drains that contain `what`.
fn count_drain_lines(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains("drain of real server") && line.contains(what)).count()
}

/// Reads a line like `... sync: 11 writes for 1 changed services took=...`.
fn parse_sync(line: &str) -> Option<Sync> {
    let (_, after) = line.split_once("sync: ")?;
    let writes = after.split_once(" writes")?.0.parse().ok()?;
    Some(Sync { writes })
}

/// Output of `kube-ipvs version`.
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
