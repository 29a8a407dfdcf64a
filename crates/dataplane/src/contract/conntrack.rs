//! Demands on every table of tracked connections.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use lb_types::{ConntrackFilter, Protocol, RealServerId, VipPort};

use crate::ConntrackTable;

/// A tracked connection, as far as it matters here. No other tracked connection shares one of its two
/// directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Sender of the first packet.
    pub client: SocketAddr,
    /// Destination of the first packet.
    pub to: SocketAddr,
    /// Sender of the answers: the destination itself unless that is translated.
    pub server: SocketAddr,
}

/// A network namespace with a table under test, and clients in it. At the start it tracks no connection.
pub trait FlowsWorld {
    /// The table under test.
    fn table(&mut self) -> &mut dyn ConntrackTable;
    /// Makes clients connect.
    fn add(&mut self, flows: &[Flow]);
    /// All tracked connections of TCP and UDP, as others see them.
    fn flows(&mut self) -> BTreeSet<Flow>;
}

/// One demand on a table.
pub struct Case {
    /// The demand in words.
    pub name: &'static str,
    /// Panics if the table does not meet the demand; the world is fresh.
    pub run: fn(&mut dyn FlowsWorld),
}

/// All demands.
pub const CASES: &[Case] = &[
    Case { name: "without tracked connections there is nothing to delete", run: nothing },
    Case { name: "only the real server's tracked connections of that service port", run: of_one_real_server },
    Case { name: "only tracked connections that no real server has", run: untranslated },
    Case { name: "a number is not a service port", run: numbers },
    Case { name: "several filters at once", run: several },
    Case { name: "hundreds of connections", run: many },
];

/// One family's addresses.
struct Net {
    client: fn(u16) -> SocketAddr,
    vip: IpAddr,
    other_vip: IpAddr,
    node: IpAddr,
    servers: [IpAddr; 2],
}

const V4: Net = Net {
    client: |port| SocketAddr::new(v4(192, 0, 2, 7), port),
    vip: v4(10, 96, 0, 10),
    other_vip: v4(10, 96, 0, 11),
    node: v4(192, 0, 2, 1),
    servers: [v4(10, 244, 0, 11), v4(10, 244, 0, 12)],
};

const V6: Net = Net {
    client: |port| SocketAddr::new(v6(2, 7), port),
    vip: v6(0x96, 10),
    other_vip: v6(0x96, 11),
    node: v6(2, 1),
    servers: [v6(0x244, 11), v6(0x244, 12)],
};

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host))
}

const PORT: u16 = 53;
const TARGET: u16 = 5353;
const NODE_PORT: u16 = 30_053;

fn udp(client: SocketAddr, to: impl Into<SocketAddr>, server: impl Into<SocketAddr>) -> Flow {
    Flow { protocol: Protocol::Udp, client, to: to.into(), server: server.into() }
}

fn direct(client: SocketAddr, to: IpAddr, port: u16) -> Flow {
    udp(client, (to, port), (to, port))
}

fn service(addr: IpAddr, port: u16) -> VipPort {
    VipPort { addr, protocol: Protocol::Udp, port: port_of(port) }
}

fn port_of(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN)
}

fn real_server(addr: IpAddr) -> RealServerId {
    RealServerId { addr, port: port_of(TARGET) }
}

/// Deletes, and checks from outside that exactly these tracked connections went.
#[track_caller]
fn expect_gone(world: &mut dyn FlowsWorld, filters: &[ConntrackFilter], gone: &[Flow]) {
    let mut left = world.flows();
    for flow in gone {
        assert!(left.remove(flow), "the case expects {flow:?} to be there");
    }
    let count = world.table().delete_flows(filters).expect("the table can be changed");
    assert_eq!((count, world.flows()), (gone.len(), left), "{filters:?}");
    let again = world.table().delete_flows(filters).expect("the table can be changed");
    assert_eq!(again, 0, "nothing is left to delete");
}

fn nothing(world: &mut dyn FlowsWorld) {
    for net in [V4, V6] {
        let service = service(net.vip, PORT);
        let of_server = ConntrackFilter::of_real_server(service, real_server(net.servers[0]));
        expect_gone(world, &[of_server, ConntrackFilter::untranslated(service)], &[]);
        expect_gone(world, &[], &[]);
    }
}

fn of_one_real_server(world: &mut dyn FlowsWorld) {
    for net in [V4, V6] {
        let [first, second] = net.servers;
        let mine = [1001, 1002].map(|port| udp((net.client)(port), (net.vip, PORT), (first, TARGET)));
        let others = [
            udp((net.client)(1003), (net.vip, PORT), (second, TARGET)),
            udp((net.client)(1004), (net.vip, PORT), (first, TARGET + 1)),
            udp((net.client)(1011), (net.vip, PORT + 1), (first, TARGET)),
            udp((net.client)(1012), (net.other_vip, PORT), (first, TARGET)),
            udp((net.client)(1013), (net.node, NODE_PORT), (first, TARGET)),
            direct((net.client)(1014), first, TARGET),
            direct((net.client)(1005), net.vip, PORT),
        ];
        world.add(&mine);
        world.add(&others);
        let filter = ConntrackFilter::of_real_server(service(net.vip, PORT), real_server(first));
        expect_gone(world, &[filter], &mine);
    }
}

fn untranslated(world: &mut dyn FlowsWorld) {
    for net in [V4, V6] {
        let early = [direct((net.client)(1001), net.vip, PORT), direct((net.client)(1002), net.vip, PORT)];
        let others = [
            direct((net.client)(1003), net.vip, PORT + 1),
            direct((net.client)(1003), net.other_vip, PORT),
            udp((net.client)(1003), (net.vip, PORT), (net.servers[0], TARGET)),
            udp((net.client)(1004), (net.vip, PORT), (net.servers[0], PORT)),
        ];
        world.add(&early);
        world.add(&others);
        expect_gone(world, &[ConntrackFilter::untranslated(service(net.vip, PORT))], &early);
    }
}

/// The number of a node port is an ordinary port elsewhere, a service's port may be a client's, and the real
/// server of one tracked connection is the client of another.
fn numbers(world: &mut dyn FlowsWorld) {
    for net in [V4, V6] {
        let [server, elsewhere] = net.servers;
        let mine = udp((net.client)(1001), (net.node, NODE_PORT), (server, TARGET));
        let foreign = [
            direct((net.client)(1001), elsewhere, NODE_PORT),
            direct((net.client)(NODE_PORT), elsewhere, PORT),
            udp((net.client)(1015), (elsewhere, NODE_PORT), (server, TARGET)),
            direct(SocketAddr::new(server, TARGET), net.node, PORT),
            direct(SocketAddr::new(net.node, NODE_PORT), server, TARGET),
            direct(SocketAddr::new(elsewhere, TARGET), net.node, NODE_PORT),
            Flow { protocol: Protocol::Tcp, ..mine },
        ];
        world.add(&[mine]);
        world.add(&foreign);
        let filter = ConntrackFilter::of_real_server(service(net.node, NODE_PORT), real_server(server));
        expect_gone(world, &[filter], &[mine]);
    }
}

fn several(world: &mut dyn FlowsWorld) {
    let mut filters = vec![];
    let mut gone = vec![];
    for net in [V4, V6] {
        let [first, second] = net.servers;
        gone.extend([
            udp((net.client)(1001), (net.vip, PORT), (first, TARGET)),
            udp((net.client)(1002), (net.node, NODE_PORT), (first, TARGET)),
            udp((net.client)(1003), (net.other_vip, PORT), (second, TARGET)),
            direct((net.client)(1004), net.other_vip, PORT),
        ]);
        let kept = [
            udp((net.client)(1005), (net.other_vip, PORT), (first, TARGET)),
            udp((net.client)(1006), (net.vip, PORT), (second, TARGET)),
            direct((net.client)(1007), net.vip, PORT),
        ];
        world.add(&gone[gone.len() - 4..]);
        world.add(&kept);
        filters.extend([
            ConntrackFilter::of_real_server(service(net.vip, PORT), real_server(first)),
            ConntrackFilter::of_real_server(service(net.node, NODE_PORT), real_server(first)),
            ConntrackFilter::of_real_server(service(net.other_vip, PORT), real_server(second)),
            ConntrackFilter::untranslated(service(net.other_vip, PORT)),
        ]);
    }
    filters.push(filters[0]);
    expect_gone(world, &filters, &gone);
}

fn many(world: &mut dyn FlowsWorld) {
    let flows = |server| {
        (0..300u16)
            .map(|n| {
                udp(
                    (V4.client)(2000 + 2 * n + u16::from(server)),
                    (V4.vip, PORT),
                    (V4.servers[usize::from(server)], TARGET),
                )
            })
            .collect::<Vec<_>>()
    };
    let [mine, others] = [flows(false), flows(true)];
    world.add(&mine);
    world.add(&others);
    let filter = ConntrackFilter::of_real_server(service(V4.vip, PORT), real_server(V4.servers[0]));
    expect_gone(world, &[filter], &mine);
}
