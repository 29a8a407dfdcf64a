//! Packet rules that kube-proxy has left on this node.

use std::{fmt, fs, thread, time::Duration};

use lb_types::words;
use packet_rules::Leftovers;
use tracing::{info, warn};

use crate::kernel_tables::chain;

/// Pauses before each look for them: another program may change the tables at the same time, and a kube-proxy that still
/// runs writes them again.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(600)];

words! {
    /// Fate of the packet rules that kube-proxy has left.
    #[derive(Default)]
    KubeProxyRules {
        /// They are removed once this process has programmed all Services.
        #[default]
        Remove = "remove",
        /// They stay, and a warning names them.
        Keep = "keep",
    }
    /// Text that is no value of the flag.
    UnknownFate = "unknown value {0:?}: expected remove or keep"
}

impl KubeProxyRules {
    /// Treats them on a thread of its own: with thousands of Services that may take the kernel seconds.
    pub fn treat(self) {
        let treat = move || {
            mention_legacy_tables();
            for (round, pause) in PAUSES.into_iter().enumerate() {
                thread::sleep(pause);
                if self.treat_now() && round > 0 {
                    warn!(
                        "packet rules of kube-proxy were there again: does it still run on this node? Only one of both \
                         may"
                    );
                }
                if self == KubeProxyRules::Keep {
                    break;
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("leftovers".to_owned()).spawn(treat) {
            warn!("cannot start a thread that looks for packet rules of kube-proxy: {error}");
        }
    }

    /// Treats them once; tells whether there were any that it could remove.
    fn treat_now(self) -> bool {
        let found = match Leftovers::find() {
            Ok(found) => found,
            Err(error) => {
                warn!("cannot look for packet rules that kube-proxy has left: {}", chain(&error));
                return false;
            }
        };
        if found.is_empty() {
            return false;
        }
        if self == KubeProxyRules::Keep {
            warn!(
                "kube-proxy has left packet rules: {found}; they refuse ports that Services get now, or lead to \
                 endpoints that are gone; --kube-proxy-rules=remove removes them"
            );
            return false;
        }
        match found.remove() {
            Ok(()) => info!("removed packet rules that kube-proxy has left: {found}"),
            Err(error) => warn!(
                "cannot remove packet rules that kube-proxy has left ({found}): {}; will be tried again",
                chain(&error)
            ),
        }
        true
    }
}

/// Line for `kube-ipvs plan`, if there are any.
pub fn announce(fate: KubeProxyRules) -> Option<impl fmt::Display> {
    mention_legacy_tables();
    let found = Leftovers::find().ok().filter(|found| !found.is_empty())?;
    let what = match fate {
        KubeProxyRules::Remove => "removed once all Services are programmed",
        KubeProxyRules::Keep => "kept (--kube-proxy-rules=keep)",
    };
    Some(format!("# packet rules that kube-proxy has left are {what}: {found}\n"))
}

/// The tables of iptables-legacy are no part of nf_tables, and what is in them is not seen.
fn mention_legacy_tables() {
    let is_used = |file: &str| {
        fs::read_to_string(file)
            .is_ok_and(|names| names.lines().any(|name| name == "nat" || name == "filter"))
    };
    if is_used("/proc/net/ip_tables_names") || is_used("/proc/net/ip6_tables_names") {
        warn!(
            "this node has tables of iptables-legacy; if kube-proxy has used them, its rules are still there, and refuse \
             ports that Services get now: iptables-legacy-save | grep KUBE-SERVICES shows them, and a reboot removes them"
        );
    }
}
