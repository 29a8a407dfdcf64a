//! The real API server: `etcd` and `kube-apiserver` as child processes, from the folder that
//! `KUBEBUILDER_ASSETS` names.
//!
//! The layout of that folder and the flags are those of controller-runtime's envtest. No controller runs, so
//! only the test creates EndpointSlices and service accounts. Faults cannot be injected.

mod arguments;
mod process;

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    kubeconfig,
    tls::{Identity, TlsError, signing_key},
};
use arguments::Layout;
use process::{Process, wait_until_ready};

/// Longest start of each of the two programs.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Environment variable that names the folder of the programs.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Failure to start a real API server.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// A program is missing.
    #[error("{0} is not a file")]
    Missing(PathBuf),
    /// A file could not be written, or a port or process could not be obtained.
    #[error("{what}")]
    Prepare {
        /// Step that failed.
        what: String,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A program ended, or was not ready in time.
    #[error("{program} {what}; the end of its log:\n{log}")]
    NotReady {
        /// Name of the program.
        program: &'static str,
        /// State of the program.
        what: String,
        /// Last lines of its output.
        log: String,
    },
}

pub(crate) fn prepare(what: impl Into<String>) -> impl FnOnce(io::Error) -> RealError {
    let what = what.into();
    move |source| RealError::Prepare { what, source }
}

/// A user with a bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Bearer token.
    pub token: String,
    /// Name of the user.
    pub name: String,
    /// Groups of the user; `system:masters` may do everything.
    pub groups: Vec<String>,
}

impl User {
    /// A user who may do everything.
    #[must_use]
    pub fn administrator(token: &str) -> Self {
        Self { token: token.to_owned(), name: "admin".to_owned(), groups: vec!["system:masters".to_owned()] }
    }
}

/// Properties of a real server.
#[derive(Clone, Debug)]
pub struct RealBuilder {
    assets: PathBuf,
    address: Ipv4Addr,
    service_cidrs: String,
    names: Vec<String>,
    users: Vec<User>,
    flags: Vec<String>,
}

impl RealBuilder {
    /// Uses the programs in `assets`.
    #[must_use]
    pub fn new(assets: &Path) -> Self {
        Self {
            assets: assets.to_owned(),
            address: Ipv4Addr::LOCALHOST,
            service_cidrs: "10.96.0.0/16".to_owned(),
            names: Vec::new(),
            users: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// Listens on this address instead of the loopback address.
    #[must_use]
    pub fn address(self, address: Ipv4Addr) -> Self {
        Self { address, ..self }
    }

    /// Sets the ranges of ClusterIPs: one, or two of different families, separated by a comma.
    #[must_use]
    pub fn service_cidrs(self, cidrs: &str) -> Self {
        Self { service_cidrs: cidrs.to_owned(), ..self }
    }

    /// Adds a host name or address to the certificate.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Adds a user; the token of the first one is in [`RealApiServer::kubeconfig`]. By default there is an
    /// administrator.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Adds a flag for `kube-apiserver`, such as `--etcd-compaction-interval=2s`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Starts both programs; when this returns, the API answers.
    ///
    /// # Errors
    ///
    /// If a program is missing, ends, or is not ready in a minute.
    pub fn start(mut self) -> Result<RealApiServer, RealError> {
        let [etcd, apiserver] = ["etcd", "kube-apiserver"].map(|program| self.assets.join(program));
        for program in [&etcd, &apiserver] {
            if !program.is_file() {
                return Err(RealError::Missing(program.clone()));
            }
        }
        if self.users.is_empty() {
            self.users.push(User::administrator("admin-token"));
        }
        let directory = Directory::make()?;
        let layout = self.layout(&directory.0)?;
        let identity = Identity::make(&self.certificate_names())?;
        write_files(&layout, &identity, &self.users)?;

        let token = self.users[0].token.clone();
        let programs = Programs { etcd, apiserver, layout, identity, token };
        let etcd = programs.start_etcd()?;
        let apiserver = programs.start_apiserver()?;
        Ok(RealApiServer { apiserver, etcd, programs, _directory: directory })
    }

    fn certificate_names(&self) -> Vec<String> {
        self.names.iter().cloned().chain([self.address.to_string()]).collect()
    }

    fn layout(&self, directory: &Path) -> Result<Layout, RealError> {
        let free = |address: Ipv4Addr| {
            let listener = TcpListener::bind((address, 0))?;
            listener.local_addr()
        };
        let free = |address| free(address).map_err(prepare("finding a free port"));
        Ok(Layout {
            directory: directory.to_owned(),
            api: free(self.address)?,
            etcd_client: free(Ipv4Addr::LOCALHOST)?,
            etcd_peer: free(Ipv4Addr::LOCALHOST)?,
            service_cidrs: self.service_cidrs.clone(),
            flags: self.flags.clone(),
        })
    }
}

/// Everything that is needed to start the two programs, also again.
#[derive(Debug)]
struct Programs {
    etcd: PathBuf,
    apiserver: PathBuf,
    layout: Layout,
    identity: Identity,
    token: String,
}

impl Programs {
    fn start_etcd(&self) -> Result<Process, RealError> {
        let etcd = Process::start("etcd", &self.etcd, &self.layout.etcd(), &self.layout.directory)?;
        // `/readyz` of the API server covers its health.
        wait_until_ready(etcd, self.layout.etcd_client, None, "/version", READY_TIMEOUT)
    }

    fn start_apiserver(&self) -> Result<Process, RealError> {
        let flags = self.layout.apiserver();
        let apiserver = Process::start("kube-apiserver", &self.apiserver, &flags, &self.layout.directory)?;
        let access = Some((self.identity.ca_pem.as_str(), self.token.as_str()));
        wait_until_ready(apiserver, self.layout.api, access, "/readyz", READY_TIMEOUT)
    }
}

fn write_files(layout: &Layout, identity: &Identity, users: &[User]) -> Result<(), RealError> {
    let (private, public) = signing_key()?;
    let files = [
        (layout.certificate(), &identity.certificate_pem),
        (layout.key(), &identity.key_pem),
        (layout.signing_key(), &private),
        (layout.signing_public_key(), &public),
        (layout.tokens(), &arguments::token_file(users)),
    ];
    for (file, text) in files {
        fs::write(&file, text).map_err(prepare(format!("writing {}", file.display())))?;
    }
    Ok(())
}

/// Folder of one server, removed with it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn make() -> Result<Self, RealError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let path = env::temp_dir().join(format!("kube-apiserver-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).map_err(prepare(format!("making {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `kube-apiserver` with its `etcd`; both end with this value.
#[derive(Debug)]
pub struct RealApiServer {
    /// Dropped before etcd, whose loss it would log for a while.
    apiserver: Process,
    etcd: Process,
    programs: Programs,
    _directory: Directory,
}

impl RealApiServer {
    /// Starts the description of a server, if `KUBEBUILDER_ASSETS` is set.
    #[must_use]
    pub fn from_env() -> Option<RealBuilder> {
        let assets = env::var_os(ASSETS).filter(|value| !value.is_empty())?;
        Some(RealBuilder::new(Path::new(&assets)))
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.programs.layout.api)
    }

    /// The certificate of the authority that signed the server's.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.programs.identity.ca_pem
    }

    /// A kubeconfig with the token of the first user.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_with(&self.programs.token)
    }

    /// A kubeconfig with any token.
    #[must_use]
    pub fn kubeconfig_with(&self, token: &str) -> String {
        kubeconfig::render(&self.url(), Some(self.ca_pem()), Some(token))
    }

    /// Process ids of `kube-apiserver` and `etcd`, for tests that stop or kill them.
    #[must_use]
    pub fn pids(&self) -> [u32; 2] {
        [self.apiserver.id(), self.etcd.id()]
    }

    /// Kills `kube-apiserver`.
    pub fn stop_apiserver(&mut self) {
        self.apiserver.stop();
    }

    /// Starts `kube-apiserver` again, on the same port; when this returns, the API answers.
    ///
    /// # Errors
    ///
    /// As [`RealBuilder::start`].
    pub fn start_apiserver(&mut self) -> Result<(), RealError> {
        self.apiserver.stop();
        self.apiserver = self.programs.start_apiserver()?;
        Ok(())
    }

    /// Kills `etcd`; its data stays.
    pub fn stop_etcd(&mut self) {
        self.etcd.stop();
    }

    /// Starts `etcd` again, on the same port.
    ///
    /// # Errors
    ///
    /// As [`RealBuilder::start`].
    pub fn start_etcd(&mut self) -> Result<(), RealError> {
        self.etcd.stop();
        self.etcd = self.programs.start_etcd()?;
        Ok(())
    }

    /// Kills both programs and removes all objects.
    ///
    /// # Errors
    ///
    /// If the data cannot be removed.
    pub fn lose_data(&mut self) -> Result<(), RealError> {
        self.stop_apiserver();
        self.stop_etcd();
        let data = self.programs.layout.etcd_data();
        fs::remove_dir_all(&data).map_err(prepare(format!("removing {}", data.display())))
    }
}
