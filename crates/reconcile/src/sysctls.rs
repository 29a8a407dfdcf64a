//! Values of kernel parameters. The loop reads them at start, with every audit, and when somebody has touched
//! our link, because switching IPv6 off there removes the routes as well. The plan says what must be written
//! then.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use dataplane::TableError;
use lb_types::{Operation, SysctlNeed, SysctlOp, SysctlWhen};
use planner::{Plan, accept_ra, keeps_routes};
use tracing::{error, info};

use crate::{Report, TableName, kernel::Kernel, problems::chain};

/// Parameter that switches IPv6 off on all links.
const NO_IPV6: &str = "net/ipv6/conf/all/disable_ipv6";
/// Parameter that our link inherits when it is made.
const NO_IPV6_ON_NEW_LINKS: &str = "net/ipv6/conf/default/disable_ipv6";

impl Kernel {
    /// Reads the needed parameters. An error means that nobody knows which routes the forwarding of IPv6
    /// would end; until that is known, forwarding is not planned.
    pub(crate) fn observe_sysctls(
        &mut self,
        needs: &[SysctlNeed],
        needs_ipv6: bool,
    ) -> Result<(), TableError> {
        self.mirror.sysctls.needs_ipv6 = needs_ipv6;
        self.mirror.sysctls.has_ipv6 = needs_ipv6 && matches!(self.tables.sysctls.read(NO_IPV6), Ok(Some(0)));
        let mut result = Ok(());
        for need in needs.iter().filter(|need| self.mirror.sysctls.applies(need)).cloned().collect::<Vec<_>>()
        {
            self.observe_sysctl(&need);
            if need.when == SysctlWhen::Ipv6Forwarding && self.mirror.sysctls.differs(&need) {
                let advertised = self.advertised();
                result = advertised.map(|links| self.mirror.sysctls.advertised = links);
            }
        }
        result
    }

    fn observe_sysctl(&mut self, need: &SysctlNeed) {
        let name = &need.op.name;
        let mut current = self.tables.sysctls.read(name);
        if need.when == SysctlWhen::OnLink && matches!(current, Ok(None)) {
            current = self.tables.sysctls.read(NO_IPV6_ON_NEW_LINKS);
        }
        let Ok(Some(value)) = current else {
            self.mirror.sysctls.values.remove(name);
            return;
        };
        self.mirror.sysctls.values.insert(name.clone(), value);
        if need.when == SysctlWhen::Once {
            let must_write = self.mirror.sysctls.differs(need);
            if !must_write || !self.is_ours_to_set(need, value) {
                self.mirror.sysctls.settled.insert(name.clone());
            }
        }
    }

    /// Tells whether a parameter can be written here. Some are the same in all network namespaces, and only
    /// the node's first one can write them.
    fn is_ours_to_set(&mut self, need: &SysctlNeed, value: u32) -> bool {
        let is_writable = self.tables.sysctls.is_writable(&need.op.name);
        if !is_writable {
            let (name, wanted) = (need.op.name.replace('/', "."), need.op.value);
            info!(
                "{name} stays {value}: it cannot be set in this network namespace; on the node's own, \
                 sysctl -w {name}={wanted} sets what kube-proxy would"
            );
        }
        is_writable
    }

    /// Interfaces that would lose routes by the forwarding of IPv6, with their `accept_ra`.
    fn advertised(&mut self) -> Result<Option<BTreeMap<String, u32>>, TableError> {
        self.mirror.sysctls.advertised = None;
        let mut links = BTreeMap::new();
        for link in self.tables.vips.advertised_links()? {
            // An interface without the parameter has just gone.
            if let Some(value) = self.tables.sysctls.read(&accept_ra(&link))? {
                links.insert(link, value);
            }
        }
        Ok(Some(links))
    }
}

/// Parameters that could not be written, so that each is reported once.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedSysctls(BTreeSet<Cow<'static, str>>);

impl RefusedSysctls {
    /// Names of the refused parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(ToString::to_string)
    }

    /// Takes in the results of writes. A refused parameter that needs no write any more was set by somebody
    /// else.
    pub(crate) fn follow(
        &mut self,
        plan: &Plan,
        written: Vec<(SysctlOp, Result<(), TableError>)>,
        report: &mut Report,
    ) {
        let planned: BTreeSet<_> = plan
            .operations()
            .filter_map(|op| match op {
                Operation::Sysctl(op) => Some(&op.name),
                _ => None,
            })
            .collect();
        for name in self.0.extract_if(.., |name| !planned.contains(name)) {
            info!("healed: sysctl {name}");
        }
        for (op, result) in written {
            match result {
                Ok(()) => {
                    let why = if keeps_routes(&op) {
                        ": it has its IPv6 default route by router advertisement, which forwarding would end otherwise"
                    } else {
                        ""
                    };
                    info!("{op}{why}");
                    self.0.remove(&op.name);
                }
                Err(error) => {
                    if self.0.insert(op.name.clone()) {
                        report.refuse(TableName::Sysctls, None, 1);
                        let consequence = if keeps_routes(&op) {
                            "; IPv6 forwarding is not switched on, because that would end the default route there"
                        } else {
                            ""
                        };
                        error!("{}{consequence}", chain(&error));
                    }
                }
            }
        }
    }
}
