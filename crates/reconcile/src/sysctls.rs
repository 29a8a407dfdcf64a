//! Kernel parameters: which of them differ from what they must be, and writing those.
//!
//! They are compared at start, with every audit, and when somebody has touched our link: IPv6 that is switched off there
//! takes the routes along.

use std::{borrow::Cow, collections::BTreeSet};

use dataplane::{TableError, Touched};
use lb_types::{SysctlNeed, SysctlOp, SysctlWhen};
use planner::{accept_ra, keep_advertised, must_write};
use tracing::{error, info};

use crate::{Reconciler, Report, adopt::chain};

/// Whether the node has no IPv6, wherever.
const NO_IPV6: &str = "net/ipv6/conf/all/disable_ipv6";
/// What our link inherits when it is made.
const NO_IPV6_ON_NEW_LINKS: &str = "net/ipv6/conf/default/disable_ipv6";

/// What is known about kernel parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sysctls {
    /// Those that could not be written, so that each is reported once.
    pub(crate) refused: BTreeSet<Cow<'static, str>>,
    /// Those that had their value once, and need it no more than once.
    settled: BTreeSet<Cow<'static, str>>,
    /// Whether those that only Services with IPv6 need have been written.
    for_ipv6: bool,
}

/// Writes that are due.
#[derive(Debug, Default)]
struct Pending {
    ops: Vec<SysctlOp>,
    /// Why it is not known whether forwarding may be switched on.
    doubt: Option<TableError>,
}

impl Reconciler {
    /// What would be written: before the link is made, and once it is there.
    pub(crate) fn plan_sysctls(&mut self) -> Result<[Vec<SysctlOp>; 2], TableError> {
        let Pending { ops, doubt } = self.pending_sysctls(false);
        doubt.map_or(Ok(()), Err)?;
        Ok([ops, self.pending_sysctls(true).ops])
    }

    /// Writes those that differ as soon as a Service needs them.
    pub(crate) fn write_sysctls_for_ipv6(&mut self, report: &mut Report) {
        if self.model.has_ipv6() && !self.sysctls.for_ipv6 {
            self.write_sysctls_or_later(report);
        }
    }

    /// Writes parameters that differ. What must not be written before something is known, which cannot be read now, is
    /// looked at again together with the tables that are in doubt.
    pub(crate) fn write_sysctls_or_later(&mut self, report: &mut Report) {
        if self.write_sysctls(report).is_err() {
            self.suspects.tables.insert(Touched::Vips);
        }
    }

    /// Writes parameters that differ; a refusal is an error to report, not a reason to leave the node without services.
    /// An error means that IPv6 forwarding waits until it is known which routes that would end.
    pub(crate) fn write_sysctls(&mut self, report: &mut Report) -> Result<(), TableError> {
        self.sysctls.for_ipv6 = self.model.has_ipv6();
        let Pending { mut ops, doubt } = self.pending_sysctls(false);
        if self.mirror.link_ready {
            ops.extend(self.pending_sysctls(true).ops);
        }
        self.forget_healed(&ops);
        self.write_in_order(&ops, report);
        self.check_parameters(report);
        doubt.map_or(Ok(()), Err)
    }

    /// The same for those of our link, which has just been made.
    pub(crate) fn write_link_sysctls(&mut self, report: &mut Report) {
        let ops = self.pending_sysctls(true).ops;
        self.write_in_order(&ops, report);
        self.check_parameters(report);
    }

    fn write_in_order(&mut self, ops: &[SysctlOp], report: &mut Report) {
        let mut loses_routes = false;
        for op in ops {
            let is_forwarding = self.needed_when(op) == Some(SysctlWhen::Ipv6Forwarding);
            if is_forwarding && loses_routes {
                continue;
            }
            let written = self.write_sysctl(op, report);
            // No need of the configuration: it keeps the routes that forwarding would end.
            loses_routes |= !written && self.needed_when(op).is_none();
        }
    }

    fn write_sysctl(&mut self, op: &SysctlOp, report: &mut Report) -> bool {
        let keeps_routes = self.needed_when(op).is_none();
        match self.tables.sysctls.write(op) {
            Ok(()) => {
                let why = if keeps_routes {
                    ": it has its IPv6 default route by router advertisement, which forwarding would end otherwise"
                } else {
                    ""
                };
                info!("{op}{why}");
                report.written += 1;
                self.sysctls.refused.remove(&op.name);
                true
            }
            Err(error) => {
                if self.sysctls.refused.insert(op.name.clone()) {
                    report.failed += 1;
                    let consequence = if keeps_routes {
                        "; IPv6 forwarding is not switched on, because that would end the default route there"
                    } else {
                        ""
                    };
                    error!("{}{consequence}", chain(&error));
                }
                false
            }
        }
    }

    /// What could not be written and needs no write any more was set by somebody else.
    fn forget_healed(&mut self, pending: &[SysctlOp]) {
        let is_pending = |name: &Cow<'static, str>| pending.iter().any(|op| op.name == *name);
        for name in self.sysctls.refused.extract_if(.., |name| !is_pending(name)) {
            info!("healed: sysctl {name}");
        }
    }

    fn needed_when(&self, op: &SysctlOp) -> Option<SysctlWhen> {
        self.config.sysctls.iter().find(|need| need.op.name == op.name).map(|need| need.when)
    }

    fn pending_sysctls(&mut self, of_link: bool) -> Pending {
        let mut pending = Pending::default();
        let needs = self.config.sysctls.clone();
        for need in needs.into_iter().filter(|need| (need.when == SysctlWhen::OnLink) == of_link) {
            if !self.applies(&need) || !self.differs(&need) {
                continue;
            }
            if need.when == SysctlWhen::Ipv6Forwarding {
                match self.keep_advertised_routes() {
                    Ok(ops) => pending.ops.extend(ops),
                    Err(error) => {
                        pending.doubt = Some(error);
                        continue;
                    }
                }
            }
            pending.ops.push(need.op);
        }
        pending
    }

    fn applies(&mut self, need: &SysctlNeed) -> bool {
        match need.when {
            SysctlWhen::Always => true,
            SysctlWhen::Once => !self.sysctls.settled.contains(&need.op.name),
            SysctlWhen::Ipv6Forwarding => self.model.has_ipv6(),
            SysctlWhen::OnLink => {
                self.model.has_ipv6() && matches!(self.tables.sysctls.read(NO_IPV6), Ok(Some(0)))
            }
        }
    }

    /// Whether a parameter must be written.
    fn differs(&mut self, need: &SysctlNeed) -> bool {
        let once = need.when == SysctlWhen::Once;
        let mut current = self.tables.sysctls.read(&need.op.name);
        if need.when == SysctlWhen::OnLink && matches!(current, Ok(None)) {
            current = self.tables.sysctls.read(NO_IPV6_ON_NEW_LINKS);
        }
        match current {
            Ok(Some(value)) if must_write(need, value) => !once || self.is_ours_to_set(need, value),
            Ok(Some(_)) => {
                if once {
                    self.sysctls.settled.insert(need.op.name.clone());
                }
                false
            }
            // The module that has it is loaded with our packet rules at the latest.
            Ok(None) => !once && need.when != SysctlWhen::OnLink,
            Err(_) => !once,
        }
    }

    /// Some parameters are the same in all network namespaces, and can be written in the node's first one alone.
    fn is_ours_to_set(&mut self, need: &SysctlNeed, value: u32) -> bool {
        let writable = self.tables.sysctls.is_writable(&need.op.name);
        if !writable && self.sysctls.settled.insert(need.op.name.clone()) {
            let (name, wanted) = (need.op.name.replace('/', "."), need.op.value);
            info!(
                "{name} stays {value}: it cannot be set in this network namespace; on the node's own, \
                 sysctl -w {name}={wanted} sets what kube-proxy would"
            );
        }
        writable
    }

    /// The writes that must come before forwarding.
    fn keep_advertised_routes(&mut self) -> Result<Vec<SysctlOp>, TableError> {
        let mut ops = Vec::new();
        for link in self.tables.vips.advertised_links()? {
            // Without the parameter the interface has just gone.
            if let Some(value) = self.tables.sysctls.read(&accept_ra(&link))? {
                ops.extend(keep_advertised(&link, value));
            }
        }
        Ok(ops)
    }
}
