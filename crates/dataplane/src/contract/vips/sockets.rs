//! Programs of the node that listen on its addresses.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use lb_types::{Protocol, VipPort};

use super::{NODE_V4, NODE_V6, VipsWorld};

const PORT: u16 = 5353;

fn port(protocol: Protocol, addr: IpAddr, number: u16) -> VipPort {
    VipPort { addr, protocol, port: NonZeroU16::new(number).expect("ports of tests are not 0") }
}

/// All transports of both families on a port; without SCTP where the kernel has none.
fn all(world: &mut dyn VipsWorld, number: u16) -> Vec<VipPort> {
    let protocols = &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..if world.has_sctp() { 3 } else { 2 }];
    let of = |protocol| [NODE_V4, NODE_V6].map(|addr| port(protocol, addr, number));
    protocols.iter().copied().flat_map(of).collect()
}

#[track_caller]
fn listeners(world: &mut dyn VipsWorld, ports: &[VipPort]) -> Vec<VipPort> {
    world.table().listeners(ports).expect("the kernel tells").into_iter().collect()
}

pub(super) fn bound(world: &mut dyn VipsWorld) {
    let (ours, others) = (all(world, PORT), all(world, PORT + 1));
    assert_eq!(listeners(world, &ours), []);
    for port in ours.iter().copied() {
        world.listen(port.protocol, Some(port.addr), PORT);
        assert_eq!(listeners(world, &[port]), [port]);
    }
    let mut expected = ours.clone();
    expected.sort_unstable();
    assert_eq!(listeners(world, &ours), expected);
    assert_eq!(listeners(world, &others), [], "another port");
    // These listen at all addresses, as the daemons of the host do, which have nothing to do with a VIP.
    for protocol in others.iter().map(|port| port.protocol).collect::<BTreeSet<_>>() {
        world.listen(protocol, None, PORT + 1);
    }
    assert_eq!(listeners(world, &others), []);
    world.stop_listening();
    assert_eq!(listeners(world, &ours), []);
}

/// The client's own end of a connection has the address and a port, too.
pub(super) fn connected(world: &mut dyn VipsWorld) {
    for (protocol, addr) in [(Protocol::Tcp, NODE_V4), (Protocol::Tcp, NODE_V6)] {
        world.listen(protocol, Some(addr), PORT);
        let client = world.connect(addr, PORT);
        assert_eq!(listeners(world, &[port(protocol, addr, client)]), []);
    }
}
