//! kube-ipvs as a process: started in the node's namespace, killed, restarted, and asked through its command
//! line.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{CommandError, NetNs, try_output, wait_until};

use crate::manifest::NODE_NAME;

/// Flag for the pods' ranges, which most clusters set.
pub const CLUSTER_CIDRS: &str = "--cluster-cidr=10.244.0.0/16,fd00:244::/56";
/// Flag for the ranges of ClusterIPs used everywhere here.
pub const SERVICE_CIDRS: &str = "--service-cidrs=10.96.0.0/16,fd00:96::/112";

/// Lines of the log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 120;

/// Source of objects.
#[derive(Debug, Clone)]
pub enum Source {
    /// The directory of manifests.
    Manifests,
    /// An API server, by a kubeconfig file.
    Kubeconfig(PathBuf),
    /// An API server at this address, with the service account that is mounted into every Pod.
    ServiceAccount(SocketAddr),
}

impl Source {
    /// Environment that a Pod finds.
    fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Source::Manifests | Source::Kubeconfig(_) => Vec::new(),
            Source::ServiceAccount(server) => vec![
                ("KUBERNETES_SERVICE_HOST", server.ip().to_string()),
                ("KUBERNETES_SERVICE_PORT", server.port().to_string()),
            ],
        }
    }
}

/// Settings of a start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Path of the executable.
    pub binary: PathBuf,
    /// Name of its node.
    pub node: &'static str,
    /// Directory that it follows, unless there is an API server.
    pub manifests: PathBuf,
    /// Source of its objects.
    pub source: Source,
    /// Directory of its state; private to a test.
    pub state: PathBuf,
    /// File for its standard error; later starts append.
    pub log: PathBuf,
    /// Flags besides those that are always given.
    pub flags: Vec<String>,
}

impl Settings {
    /// Settings with everything below `directory`, manifests in `directory/manifests`; flags as most clusters
    /// have them.
    pub fn new(binary: &Path, directory: &Path) -> Settings {
        let settings = Settings {
            binary: binary.to_owned(),
            node: NODE_NAME,
            manifests: directory.join("manifests"),
            source: Source::Manifests,
            state: directory.join("state"),
            log: directory.join("kube-ipvs.log"),
            flags: vec![CLUSTER_CIDRS.to_owned()],
        };
        for path in [&settings.manifests, &settings.state] {
            std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        settings
    }

    /// Settings of another node, which follows the same objects and has a state and a log of its own.
    pub fn on_node(&self, node: &'static str) -> Settings {
        let state = self.state.with_file_name(format!("state-{node}"));
        std::fs::create_dir_all(&state).unwrap_or_else(|error| panic!("{}: {error}", state.display()));
        Settings { node, state, log: self.log.with_file_name(format!("{node}.log")), ..self.clone() }
    }

    /// Copies the settings with other flags.
    pub fn with_flags<S: AsRef<str>>(&self, flags: &[S]) -> Settings {
        let flags = flags.iter().map(|flag| flag.as_ref().to_owned()).collect();
        Settings { flags, ..self.clone() }
    }

    fn arguments(&self) -> Vec<&OsStr> {
        let mut arguments: Vec<&OsStr> =
            ["--hostname-override", self.node, SERVICE_CIDRS].into_iter().map(OsStr::new).collect();
        match &self.source {
            Source::Manifests => arguments.extend([OsStr::new("--manifests"), self.manifests.as_os_str()]),
            Source::Kubeconfig(path) => arguments.extend([OsStr::new("--kubeconfig"), path.as_os_str()]),
            Source::ServiceAccount(_) => {}
        }
        arguments.extend([OsStr::new("--state-dir"), self.state.as_os_str()]);
        arguments.extend(self.flags.iter().map(OsStr::new));
        arguments
    }

    /// Runs `kube-ipvs plan` with the same flags.
    pub fn plan(&self, node: &NetNs) -> Result<String, CommandError> {
        try_output(
            node.command(&self.binary).arg("plan").args(self.arguments()).envs(self.source.environment()),
        )
    }

    /// Runs `kube-ipvs --init-only` with the same flags.
    pub fn init(&self, node: &NetNs) -> Result<String, CommandError> {
        let mut command = node.command(&self.binary);
        try_output(command.arg("--init-only").args(self.arguments()).envs(self.source.environment()))
    }

    /// Runs `kube-ipvs cleanup`.
    pub fn cleanup(&self, node: &NetNs) -> Result<String, CommandError> {
        try_output(node.command(&self.binary).args(["cleanup", "--state-dir"]).arg(&self.state))
    }

    /// Runs `kube-ipvs drains` with these arguments; the answer comes from the node, not from flags.
    pub fn drains(&self, node: &NetNs, arguments: &[&str]) -> Result<String, CommandError> {
        let mut command = node.command(&self.binary);
        try_output(command.args(["drains", "--state-dir"]).arg(&self.state).args(arguments))
    }

    /// Runs `kube-ipvs version`.
    pub fn version(&self) -> Result<String, CommandError> {
        try_output(Command::new(&self.binary).arg("version"))
    }
}

/// Part of the first line of a start.
const START_LINE: &str = "kube-ipvs starts";

/// Part of the line that follows the first dump of everything.
const ADOPTED_LINE: &str = "adopted what the kernel holds";

/// A running kube-ipvs. Dropping it kills it, and shows the end of its log if a test is failing.
#[derive(Debug)]
pub struct Proxy {
    node: NetNs,
    settings: Settings,
    child: Child,
    /// Number of its starts in the log, once it has started.
    starts: usize,
}

impl Proxy {
    /// Starts it inside the node's namespace; the kernel shows when it is ready, and the caller waits for
    /// that.
    pub fn start(node: &NetNs, settings: &Settings) -> Proxy {
        Proxy { node: node.clone(), settings: settings.clone(), child: spawn(node, settings), starts: 1 }
    }

    /// Settings of its start.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Everything that it has logged, earlier starts included.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.settings.log).unwrap_or_default()
    }

    /// Lines of the log that contain all of `parts`.
    pub fn log_lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(str::to_owned).collect()
    }

    /// Tells whether it has read what the kernel holds since its last start.
    pub fn has_adopted(&self) -> bool {
        let log = self.log();
        log.rsplit_once(START_LINE).is_some_and(|(before, since)| {
            before.matches(START_LINE).count() + 1 == self.starts && since.contains(ADOPTED_LINE)
        })
    }

    /// Fails with the log if it has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("kube-ipvs has ended by itself: {status}");
        }
    }

    /// Fails if one of its threads has a capability beside NET_BIND_SERVICE and NET_ADMIN, or could get one back.
    #[track_caller]
    pub fn assert_unprivileged(&self) {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process");
        let statuses: Vec<String> = threads
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok())
            .collect();
        assert!(statuses.len() > 3, "{} threads", statuses.len());
        for status in statuses {
            let line =
                |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            let few = "0000000000001400";
            assert_eq!(["CapPrm:", "CapEff:", "CapBnd:"].map(line), [few; 3], "{status}");
            assert_eq!(["CapInh:", "CapAmb:"].map(line), ["0000000000000000"; 2], "{status}");
            assert_eq!(line("NoNewPrivs:"), "1", "{status}");
        }
    }

    /// Kills it with SIGKILL; it is gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it with SIGTERM; returns the time that it took. Panics if it does not end, or not with success.
    #[track_caller]
    pub fn terminate(&mut self) -> Duration {
        // It is slow to start in an emulated guest, and a signal before that ends it as any program.
        wait_until(Duration::from_secs(20), "kube-ipvs to start", || {
            self.log_lines(&[START_LINE]).len() >= self.starts
                || self.child.try_wait().is_ok_and(|status| status.is_some())
        });
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).unwrap_or_else(|error| panic!("SIGTERM: {error}"));
        let mut status = None;
        let took = wait_until(Duration::from_secs(20), "kube-ipvs to end after SIGTERM", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "after SIGTERM: {status:?}");
        took
    }

    /// Starts it again after [`Proxy::kill`] or [`Proxy::terminate`].
    pub fn start_again(&mut self) {
        // One that was killed may not have come to its line.
        self.starts = self.log_lines(&[START_LINE]).len() + 1;
        self.child = spawn(&self.node, &self.settings);
    }

    /// Stops it and starts it with other flags.
    pub fn restart_with<S: AsRef<str>>(&mut self, flags: &[S]) {
        self.terminate();
        self.settings = self.settings.with_flags(flags);
        self.start_again();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let start = lines.len().saturating_sub(LOG_LINES_SHOWN);
            let Settings { node, flags, .. } = &self.settings;
            eprintln!("--- kube-ipvs {flags:?} on {node}, its log from line {} on", start + 1);
            if let Some(status) = ended {
                eprintln!("--- it had ended by itself: {status}");
            }
            eprintln!("{}\n---", lines[start..].join("\n"));
        }
    }
}

fn spawn(node: &NetNs, settings: &Settings) -> Child {
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&settings.log)
        .unwrap_or_else(|error| panic!("{}: {error}", settings.log.display()));
    let mut command = node.command(&settings.binary);
    command.args(settings.arguments()).envs(settings.source.environment());
    // RUST_LOG is removed: kube-ipvs logs what an operator sees.
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    testkit::die_with_thread(&mut command)
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", settings.binary.display()))
}
