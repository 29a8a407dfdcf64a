//! What every nftables table must do.

use lb_types::RulesLayout;

use crate::RulesTable;

/// One demand on a table.
pub struct Case {
    /// What is demanded.
    pub name: &'static str,
    /// Panics if it is not met; the table does not exist at the start.
    pub run: fn(&mut dyn RulesTable),
}

/// All demands.
pub const CASES: &[Case] = &[Case { name: "no table at first", run: no_table_at_first }];

fn no_table_at_first(table: &mut dyn RulesTable) {
    let seen = table.observe(&RulesLayout::default()).unwrap();
    assert!(!seen.table && !seen.layout_current && seen.elements.is_empty());
}
