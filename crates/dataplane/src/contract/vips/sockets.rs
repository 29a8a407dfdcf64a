//! Programs of the node that listen on its addresses.

use std::{net::IpAddr, num::NonZeroU16};

use lb_types::{Protocol, VipPort};

use super::{NODE_V4, NODE_V6, VipsWorld};

const PORT: u16 = 5353;

fn port(protocol: Protocol, addr: IpAddr, number: u16) -> VipPort {
    VipPort { addr, protocol, port: NonZeroU16::new(number).expect("ports of tests are not 0") }
}

/// TCP and UDP of both families on a port.
fn all(number: u16) -> Vec<VipPort> {
    let of = |protocol| [NODE_V4, NODE_V6].map(|addr| port(protocol, addr, number));
    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(of).collect()
}

#[track_caller]
fn listeners(world: &mut dyn VipsWorld, ports: &[VipPort]) -> Vec<VipPort> {
    world.table().listeners(ports).expect("the kernel tells").into_iter().collect()
}

pub(super) fn bound(world: &mut dyn VipsWorld) {
    assert_eq!(listeners(world, &all(PORT)), []);
    for port in all(PORT) {
        world.listen(port.protocol, Some(port.addr), PORT);
        assert_eq!(listeners(world, &[port]), [port]);
    }
    let mut expected = all(PORT);
    expected.sort_unstable();
    assert_eq!(listeners(world, &all(PORT)), expected);
    assert_eq!(listeners(world, &all(PORT + 1)), [], "another port");
    // These listen at all addresses, as the daemons of the host do, which have nothing to do with a VIP.
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        world.listen(protocol, None, PORT + 1);
    }
    assert_eq!(listeners(world, &all(PORT + 1)), []);
    world.stop_listening();
    assert_eq!(listeners(world, &all(PORT)), []);
    let sctp = port(Protocol::Sctp, NODE_V4, PORT);
    assert_eq!(listeners(world, &[sctp]), [sctp], "the kernel does not tell");
}

/// The client's own end of a connection has the address and a port, too.
pub(super) fn connected(world: &mut dyn VipsWorld) {
    for (protocol, addr) in [(Protocol::Tcp, NODE_V4), (Protocol::Tcp, NODE_V6)] {
        world.listen(protocol, Some(addr), PORT);
        let client = world.connect(addr, PORT);
        assert_eq!(listeners(world, &[port(protocol, addr, client)]), []);
    }
}
