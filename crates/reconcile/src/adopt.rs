//! Taking over what the kernel holds at start, and what is left over in it.

use dataplane::TableError;
use lb_types::SysctlOp;
use planner::{Mirror, MirrorServer, NodeFacts};
use tracing::{error, info};

use crate::{Reconciler, Report};

impl Reconciler {
    /// Fills the mirror from dumps of all tables.
    pub(crate) fn adopt(&mut self) -> Result<(), TableError> {
        let mut mirror = Mirror::default();
        self.adopt_servers(&mut mirror)?;
        self.adopt_vips(&mut mirror)?;
        self.adopt_rules(&mut mirror)?;
        info!(
            virtual_servers = mirror.servers.len(),
            routes = mirror.routes.len(),
            elements = mirror.elements.len(),
            "adopted what the kernel holds"
        );
        self.mirror = mirror;
        Ok(())
    }

    pub(crate) fn adopt_servers(&mut self, mirror: &mut Mirror) -> Result<(), TableError> {
        let dump = self.tables.ipvs.dump_virtual_servers()?;
        for (vs, settings) in dump.virtual_servers {
            let found = self.tables.ipvs.dump_real_servers(vs)?;
            let mut real_servers: Vec<_> = found.into_iter().map(|rs| (rs.id, rs.settings)).collect();
            real_servers.sort_unstable();
            mirror.servers.insert(vs, MirrorServer { settings, real_servers });
        }
        Ok(())
    }

    pub(crate) fn adopt_vips(&mut self, mirror: &mut Mirror) -> Result<(), TableError> {
        let vips = self.tables.vips.observe()?;
        mirror.link_ours = vips.link.is_some_and(|link| link.dummy);
        mirror.link_ready = vips.link.is_some_and(|link| link.dummy && link.up);
        (mirror.routes, mirror.addresses) = (vips.routes.into(), vips.addresses.into());
        self.facts = NodeFacts::new(&self.model.node().addresses, vips.node_addresses);
        Ok(())
    }

    pub(crate) fn adopt_rules(&mut self, mirror: &mut Mirror) -> Result<(), TableError> {
        let bit = self.config.planner.layout.masquerade_bit;
        self.config.planner.layout = self.config.local_mode.layout(self.model.node(), bit);
        let rules = self.tables.rules.observe(&self.config.planner.layout)?;
        (mirror.layout_current, mirror.elements) = (rules.layout_current, rules.elements.into());
        Ok(())
    }

    /// Kernel parameters that do not have the value they must have.
    pub(crate) fn pending_sysctls(&mut self) -> Result<Vec<SysctlOp>, TableError> {
        let mut pending = Vec::new();
        for op in self.wanted_sysctls() {
            if self.tables.sysctls.read(op.name)? != Some(op.value) {
                pending.push(op);
            }
        }
        Ok(pending)
    }

    fn wanted_sysctls(&self) -> Vec<SysctlOp> {
        let ipv6 = self.model.has_ipv6();
        let for_ipv6 = self.config.ipv6_sysctls.iter().filter(|_| ipv6);
        self.config.sysctls.iter().chain(for_ipv6).cloned().collect()
    }

    /// Writes kernel parameters that differ; a refusal is an error to report, not a reason to leave the node without
    /// services.
    pub(crate) fn write_sysctls(&mut self, report: &mut Report) {
        self.sysctls_for_ipv6 = self.model.has_ipv6();
        let pending = self.pending_sysctls().unwrap_or_else(|_| self.wanted_sysctls());
        for op in pending {
            match self.tables.sysctls.write(&op) {
                Ok(()) => {
                    info!("{op}");
                    report.written += 1;
                    self.refused_sysctls.remove(op.name);
                }
                Err(error) => {
                    report.failed += 1;
                    if self.refused_sysctls.insert(op.name) {
                        error!("{}", chain(&error));
                    }
                }
            }
        }
    }
}

/// An error with its whole chain of causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
