//! The steps of the probe, one after the other, in the calling thread.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener},
    num::NonZeroU16,
    thread,
    time::{Duration, Instant},
};

use dataplane::{IpvsTable as _, Sysctls as _, TableError};
use ipvs::IpvsClient;
use kernel::{CONN_REUSE_MODE, CONNTRACK, EXPIRE_NODEST_CONN, ProbeOutcome, ProcSysctls};
use lb_types::{
    IpvsOp, Protocol, RealServer, RealServerId, Scheduler, SysctlOp, VipPort, VirtualServer, VirtualServerId,
    Weight,
};

use crate::{
    Control, ProbeError, namespace,
    tcp::{self, Client},
};

const VIP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PORT: NonZeroU16 = port(80);
const TARGET: NonZeroU16 = port(8080);
/// Port of a real server that makes NAT ask for connection tracking: FTPPORT in the kernel.
const TRACKING_PORT: NonZeroU16 = port(21);
/// Real servers of the virtual server from the start.
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4)];
/// Real server that the control adds.
const LATE_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// Time for the first connection, which nothing is in the way of.
const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the other connections: a client repeats a SYN that is dropped after 1 s.
const CONNECT_TIMEOUT_BEFORE_RETRY: Duration = Duration::from_millis(400);
/// Duration from which on a connection may be due to the repeated SYN.
const RETRY_SUSPECTED_FROM: Duration = Duration::from_millis(900);
/// Time for the end of the first connection to show in the counters of IPVS.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// Number of tracked connections in the thread's network namespace.
const TRACKED_COUNT: &str = "net/netfilter/nf_conntrack_count";

const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}

/// Finds out whether the first SYN of a reused port survives, and, if so, whether a drop would have shown.
pub(crate) fn run(with_control: bool) -> (Result<ProbeOutcome, ProbeError>, Control) {
    match reuse_a_port() {
        Err(error) => (Err(error), Control::NotRun),
        Ok(None) => (Ok(ProbeOutcome::SynDropped), Control::NotRun),
        Ok(Some((scene, client))) => {
            let control = if with_control {
                scene.control(client).unwrap_or_else(Control::NotAvailable)
            } else {
                Control::NotRun
            };
            (Ok(ProbeOutcome::SynSurvived), control)
        }
    }
}

/// Makes the second connection from one port; returns it if its first SYN survived.
fn reuse_a_port() -> Result<Option<(Scene, Client)>, ProbeError> {
    let mut scene = Scene::new()?;
    let first = connect(FIRST_CONNECT_TIMEOUT)?.ok_or(ProbeError::NoFirstConnection)?;
    if scene.sysctls.read(TRACKED_COUNT)?.unwrap_or(0) == 0 {
        return Err(ProbeError::NoConntrack);
    }
    first.reset()?;
    scene.wait_for_the_end()?;
    let second = match connect(CONNECT_TIMEOUT_BEFORE_RETRY)? {
        Some(second) if !second.needed_a_retry()? => second,
        _ => return Ok(None),
    };
    Ok(Some((scene, second)))
}

fn connect(patience: Duration) -> Result<Option<Client>, ProbeError> {
    tcp::connect(SocketAddrV4::new(VIP, PORT.get()), patience)
}

fn virtual_server(port: NonZeroU16) -> VirtualServerId {
    VipPort { addr: IpAddr::V4(VIP), protocol: Protocol::Tcp, port }.into()
}

fn real_server(addr: Ipv4Addr, port: NonZeroU16) -> RealServerId {
    RealServerId { addr: IpAddr::V4(addr), port }
}

/// A virtual server with two real servers, alone in a network namespace.
struct Scene {
    ipvs: IpvsClient,
    sysctls: ProcSysctls,
    /// Listeners of the real servers.
    listeners: Vec<TcpListener>,
}

impl Scene {
    fn new() -> Result<Self, ProbeError> {
        namespace::enter()?;
        let ipvs = IpvsClient::open().map_err(TableError::from)?;
        let mut scene = Scene { ipvs, sysctls: ProcSysctls::default(), listeners: Vec::new() };
        for (name, value) in [(CONNTRACK, 1), (CONN_REUSE_MODE, 1), (EXPIRE_NODEST_CONN, 0)] {
            scene.sysctls.write(&SysctlOp::new(name, value))?;
        }
        scene.add_virtual_server(TRACKING_PORT, &[(SERVERS[0], TRACKING_PORT)])?;
        scene.add_virtual_server(PORT, &SERVERS.map(|addr| (addr, TARGET)))?;
        for addr in SERVERS {
            scene.listen(addr)?;
        }
        Ok(scene)
    }

    fn listen(&mut self, addr: Ipv4Addr) -> Result<(), ProbeError> {
        self.listeners.push(tcp::listen(SocketAddrV4::new(addr, TARGET.get()))?);
        Ok(())
    }

    fn add_virtual_server(
        &mut self,
        port: NonZeroU16,
        servers: &[(Ipv4Addr, NonZeroU16)],
    ) -> Result<(), ProbeError> {
        let vs = virtual_server(port);
        let mut ops = vec![IpvsOp::AddVirtualServer { vs, settings: VirtualServer::new(Scheduler::RR) }];
        ops.extend(servers.iter().map(|(addr, port)| IpvsOp::AddRealServer {
            vs,
            rs: real_server(*addr, *port),
            settings: RealServer::SERVING,
        }));
        self.apply(&ops)
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<(), ProbeError> {
        let report = self.ipvs.apply(ops)?;
        match report.failed.into_iter().next() {
            Some(failed) => Err(ProbeError::Refused(failed.reason)),
            None if report.replies_lost => {
                Err(ProbeError::Refused("the kernel's answers were lost".to_owned()))
            }
            None => Ok(()),
        }
    }

    /// Waits until IPVS counts no connection as active any more. It reads the counters and not
    /// `/proc/net/ip_vs_conn`, which walks the connections of the whole node.
    fn wait_for_the_end(&mut self) -> Result<(), ProbeError> {
        let start = Instant::now();
        loop {
            let real_servers = self.ipvs.dump_real_servers(virtual_server(PORT))?;
            if real_servers.iter().all(|rs| rs.connections.active == 0) {
                return Ok(());
            }
            if start.elapsed() > END_TIMEOUT {
                return Err(ProbeError::NoEnd);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the client of an established connection vanish and uses its port again while its real server
    /// takes no new connections: every kernel that has `conn_reuse_mode` then drops the first SYN.
    fn control(mut self, client: Client) -> Result<Control, ProbeError> {
        self.sysctls.write(&SysctlOp::new(EXPIRE_NODEST_CONN, 1))?;
        client.vanish()?;
        self.listen(LATE_SERVER)?;
        let vs = virtual_server(PORT);
        let quiesced = RealServer::SERVING.with_weight(Weight::QUIESCED);
        let mut ops = SERVERS
            .map(|addr| IpvsOp::SetRealServer { vs, rs: real_server(addr, TARGET), settings: quiesced })
            .to_vec();
        let late = real_server(LATE_SERVER, TARGET);
        ops.push(IpvsOp::AddRealServer { vs, rs: late, settings: RealServer::SERVING });
        self.apply(&ops)?;
        Ok(match connect(CONNECT_TIMEOUT_BEFORE_RETRY)? {
            Some(client) if client.took < RETRY_SUSPECTED_FROM => Control::NoDropSeen,
            _ => Control::DropSeen,
        })
    }
}
