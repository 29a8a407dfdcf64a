//! Taking over what the kernel holds at start, and what is left over in it.

use dataplane::TableError;
use planner::{Mirror, MirrorServer, NodeFacts};
use tracing::info;

use crate::Reconciler;

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
        self.node_findings.bridges = vips.bridges;
        Ok(())
    }

    pub(crate) fn adopt_rules(&mut self, mirror: &mut Mirror) -> Result<(), TableError> {
        let bit = self.config.planner.layout.masquerade_bit;
        self.config.planner.layout = self.config.local_mode.layout(self.model.node(), bit);
        let rules = self.tables.rules.observe(&self.config.planner.layout)?;
        (mirror.layout_current, mirror.elements) = (rules.layout_current, rules.elements.into());
        Ok(())
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
