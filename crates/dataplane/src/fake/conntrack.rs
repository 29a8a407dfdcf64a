//! The connection tracking in memory.

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr, rc::Rc};

use lb_types::{ConntrackFilter, ConntrackTarget, Protocol};

use super::faults::Faults;
use crate::{ConntrackTable, ErrorKind, TableError, contract::conntrack::Flow};

/// The connection tracking in memory.
///
/// A clone is another handle to the same table. Only calls through [`ConntrackTable`] are counted and can fail.
#[derive(Clone, Default)]
pub struct FakeConntrack(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    flows: BTreeSet<Flow>,
    calls: usize,
    /// Filters of all calls.
    log: Vec<ConntrackFilter>,
    faults: Faults<ConntrackFilter>,
}

impl FakeConntrack {
    /// Makes a client connect.
    ///
    /// # Panics
    /// Panics if one of its directions is tracked already, which no kernel allows.
    pub fn add(&self, flow: Flow) {
        let flows = &mut self.0.borrow_mut().flows;
        let taken = |direction| flows.iter().flat_map(directions).any(|other| other == direction);
        assert!(
            !directions(&flow).into_iter().any(taken),
            "there is a tracked connection like {flow:?} in {flows:?}"
        );
        flows.insert(flow);
    }

    /// All tracked connections.
    pub fn flows(&self) -> BTreeSet<Flow> {
        self.0.borrow().flows.clone()
    }

    /// Calls so far, each of which walks the kernel's table.
    pub fn calls(&self) -> usize {
        self.0.borrow().calls
    }

    /// Filters of all calls since the last time; empties the log.
    pub fn take_filters(&self) -> Vec<ConntrackFilter> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }

    /// The next call fails as a whole, before anything is deleted.
    pub fn fail_next_call(&self, kind: ErrorKind) {
        self.0.borrow_mut().faults.fail_next_call(kind);
    }
}

impl ConntrackTable for FakeConntrack {
    fn delete_flows(&mut self, filters: &[ConntrackFilter]) -> Result<usize, TableError> {
        let state = &mut *self.0.borrow_mut();
        state.calls += 1;
        state.faults.next_call("delete flows")?;
        state.log.extend_from_slice(filters);
        let before = state.flows.len();
        state.flows.retain(|flow| !filters.iter().any(|filter| is_meant(filter, flow)));
        Ok(before - state.flows.len())
    }
}

/// Keys under which the kernel's table holds a tracked connection.
fn directions(flow: &Flow) -> [(Protocol, SocketAddr, SocketAddr); 2] {
    let Flow { protocol, client, to, server } = *flow;
    [(protocol, client, to), (protocol, server, client)]
}

fn is_meant(filter: &ConntrackFilter, flow: &Flow) -> bool {
    let service = SocketAddr::new(filter.front.port.addr, filter.front.port.port.get());
    let target = match filter.target {
        ConntrackTarget::RealServer(rs) => SocketAddr::new(rs.addr, rs.port.get()),
        ConntrackTarget::Untranslated => flow.to,
    };
    flow.protocol == filter.front.port.protocol && flow.to == service && flow.server == target
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::conntrack::{CASES, FlowsWorld};

    struct FakeConntrackWorld {
        table: FakeConntrack,
        hands: FakeConntrack,
    }

    impl FlowsWorld for FakeConntrackWorld {
        fn table(&mut self) -> &mut dyn ConntrackTable {
            &mut self.table
        }

        fn add(&mut self, flows: &[Flow]) {
            for flow in flows {
                self.hands.add(*flow);
            }
        }

        fn flows(&mut self) -> BTreeSet<Flow> {
            self.hands.flows()
        }
    }

    #[test]
    fn the_fake_meets_every_demand() {
        for case in CASES {
            eprintln!("{}", case.name);
            let hands = FakeConntrack::default();
            (case.run)(&mut FakeConntrackWorld { table: hands.clone(), hands });
        }
    }

    #[test]
    fn calls_are_counted_logged_and_can_fail() {
        let hands = FakeConntrack::default();
        let mut table = hands.clone();
        hands.fail_next_call(ErrorKind::Transient);
        assert!(table.delete_flows(&[]).is_err_and(|error| error.is_retryable()));
        assert_eq!(table.delete_flows(&[]).expect("the failure is over"), 0);
        assert_eq!((hands.calls(), hands.take_filters()), (2, vec![]));
    }
}
