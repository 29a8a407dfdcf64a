//! Writes of kernel parameters, one by one: a refusal is an error to report, not a reason to leave the node
//! without Services.

use lb_types::{Operation, SysctlOp};
use planner::keeps_routes;

use super::Run;

impl Run<'_> {
    pub(super) fn sysctls(&mut self, ops: Vec<SysctlOp>) {
        for op in ops {
            let result = self.executor.kernel.tables.sysctls.write(&op);
            match &result {
                Ok(()) => self.executed(&Operation::Sysctl(op.clone())),
                // Forwarding, in a later stage, would end the routes that could not be kept.
                Err(_) => self.forwarding_held |= keeps_routes(&op),
            }
            self.outcome.sysctls.push((op, result));
        }
    }
}
