//! Kernel modules: the presence of each, and the advice about a missing one.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use lb_types::Scheduler;

use crate::KernelRelease;

/// Something that the kernel may lack because a module is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelModule {
    /// IPVS itself: the generic-netlink family `IPVS` cannot be resolved.
    IpVs,
    /// A scheduler: NEW_SERVICE or SET_SERVICE fails with ENOENT.
    Scheduler(Scheduler),
    /// Dummy links: creating one fails with EOPNOTSUPP.
    Dummy,
    /// nftables: the subsystem or an expression is missing.
    NfTables,
    /// Connection tracking: masquerade and `net.ipv4.vs.conntrack` need it.
    NfConntrack,
    /// Access to single tracked connections.
    NfConntrackNetlink,
}

impl KernelModule {
    /// Modules without which nothing works, whatever the configuration.
    pub const REQUIRED: [KernelModule; 4] =
        [KernelModule::IpVs, KernelModule::Dummy, KernelModule::NfTables, KernelModule::NfConntrack];

    /// Name that modprobe takes.
    pub fn name(&self) -> String {
        match self {
            KernelModule::IpVs => "ip_vs".to_owned(),
            KernelModule::Scheduler(scheduler) => format!("ip_vs_{scheduler}"),
            KernelModule::Dummy => "dummy".to_owned(),
            KernelModule::NfTables => "nf_tables".to_owned(),
            KernelModule::NfConntrack => "nf_conntrack".to_owned(),
            KernelModule::NfConntrackNetlink => "nf_conntrack_netlink".to_owned(),
        }
    }

    /// Function that does not work without it.
    const fn purpose(&self) -> &'static str {
        match self {
            KernelModule::IpVs => "load balancing",
            KernelModule::Scheduler(_) => "the configured scheduler",
            KernelModule::Dummy => "the link kube-ipvs0",
            KernelModule::NfTables => "masquerade and reject rules",
            KernelModule::NfConntrack => "masquerade",
            KernelModule::NfConntrackNetlink => {
                "deleting tracked UDP connections when their real server goes or their Service comes; \
                 everything else works without it"
            }
        }
    }

    /// Kernel configuration options that build it.
    fn config_options(&self) -> String {
        match self {
            KernelModule::IpVs => {
                "CONFIG_IP_VS, CONFIG_IP_VS_PROTO_TCP and _UDP, CONFIG_IP_VS_NFCT".to_owned()
            }
            KernelModule::Scheduler(scheduler) => {
                format!("CONFIG_IP_VS_{}", scheduler.as_str().to_uppercase())
            }
            KernelModule::Dummy => "CONFIG_DUMMY".to_owned(),
            KernelModule::NfTables => {
                "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_MASQ, \
                 CONFIG_NFT_NAT, CONFIG_NFT_REJECT"
                    .to_owned()
            }
            KernelModule::NfConntrack => "CONFIG_NF_CONNTRACK".to_owned(),
            KernelModule::NfConntrackNetlink => "CONFIG_NF_CT_NETLINK".to_owned(),
        }
    }
}

impl fmt::Display for KernelModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// Presence of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModulePresence {
    /// It is loaded, or part of the kernel image.
    Present,
    /// It is installed for the running kernel but not loaded; the kernel loads most when they are needed.
    Loadable,
    /// The running kernel's module lists are readable and do not have it.
    NotInstalled,
    /// It is not loaded, and the module lists are not readable here (a container without `/lib/modules`).
    Unknown,
}

/// A missing module, with the way to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "kernel module {module} is missing (needed for {}): {}",
    .module.purpose(),
    remedy(*.module, *.presence, .release)
)]
pub struct MissingModule {
    /// The missing module.
    pub module: KernelModule,
    /// Knowledge about its presence.
    pub presence: ModulePresence,
    /// The running kernel's release.
    pub release: String,
}

/// Advice about a missing module.
fn remedy(module: KernelModule, presence: ModulePresence, release: &str) -> String {
    let load = format!(
        "load it on the node with `modprobe {module}`, \
         and at every boot with `echo {module} > /etc/modules-load.d/{module}.conf`"
    );
    let install = format!(
        "the kernel needs {}; distributions put the module into a package such as \
         linux-modules-extra-{release} (Ubuntu) or kernel-modules-core (Fedora, RHEL)",
        module.config_options()
    );
    match presence {
        ModulePresence::Present | ModulePresence::Loadable => load,
        ModulePresence::Unknown => format!("{load}; if that fails, {install}"),
        ModulePresence::NotInstalled => format!("it is not installed for kernel {release}: {install}"),
    }
}

/// Reader of the lists of modules.
#[derive(Clone, Debug)]
pub struct ModuleFinder {
    /// `/`, or the directory where the host's is mounted.
    root: PathBuf,
    release: String,
}

impl ModuleFinder {
    /// A finder for a kernel, below a root directory (`/` unless the host's is mounted elsewhere).
    pub fn new(root: impl Into<PathBuf>, release: &KernelRelease) -> Self {
        ModuleFinder { root: root.into(), release: release.text.trim().to_owned() }
    }

    /// A finder for the running kernel.
    pub fn running() -> Self {
        ModuleFinder::new("/", &KernelRelease::running())
    }

    /// Finds out whether a module is there, without loading it.
    pub fn presence(&self, module: KernelModule) -> ModulePresence {
        let name = module.name();
        if self.is_loaded(&name) {
            return ModulePresence::Present;
        }
        let lists = self.root.join("lib/modules").join(&self.release);
        if listed(&lists.join("modules.builtin"), &name) == Some(true) {
            return ModulePresence::Present;
        }
        match listed(&lists.join("modules.dep"), &name) {
            Some(true) => ModulePresence::Loadable,
            Some(false) => ModulePresence::NotInstalled,
            None => ModulePresence::Unknown,
        }
    }

    /// Schedulers whose modules are loaded, or part of the kernel image.
    pub fn loaded_schedulers(&self) -> impl Iterator<Item = Scheduler> {
        let present =
            |name: &Scheduler| self.presence(KernelModule::Scheduler(*name)) == ModulePresence::Present;
        Scheduler::known().filter(present)
    }

    /// Error about a module that the kernel turned out not to have.
    pub fn missing(&self, module: KernelModule) -> MissingModule {
        MissingModule { module, presence: self.presence(module), release: self.release.clone() }
    }

    /// Tells whether `/sys/module` lists it: that has loaded modules and those builtin ones that have
    /// parameters.
    fn is_loaded(&self, name: &str) -> bool {
        self.root.join("sys/module").join(name).exists()
            || fs::read_to_string(self.root.join("proc/modules"))
                .is_ok_and(|text| text.lines().any(|line| line.split(' ').next() == Some(name)))
    }
}

/// Tells whether a list such as `modules.dep` has a module; `None` if the list cannot be read.
fn listed(list: &Path, name: &str) -> Option<bool> {
    let text = fs::read_to_string(list).ok()?;
    Some(text.lines().any(|line| module_name(line) == name))
}

/// Name of the module of a line such as `kernel/net/netfilter/nf_tables.ko.xz: ...`.
fn module_name(line: &str) -> String {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().trim().replace('-', "_")
}

#[cfg(test)]
mod tests;
