//! The kernel's rules (net/netfilter/ipvs/ip_vs_ctl.c), in the kernel's order of checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use lb_types::{
    ConnectionCounters, ForwardingMethod, IpFamily, IpvsOp, RealServer, RealServerId, Scheduler,
    TrafficCounters, VirtualServer, VirtualServerId,
};

use super::{IpvsSnapshot, schedule::schedule};
use crate::{ObservedRealServer, VirtualServerDump};

/// Counters of a real server.
#[derive(Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) connections: ConnectionCounters,
    pub(super) traffic: TrafficCounters,
}

/// The tables of one network namespace.
#[derive(Default)]
pub(super) struct Tables {
    entries: BTreeMap<VirtualServerId, Entry>,
    /// Counters of removed real servers: adding one again gives them back (`ip_vs_trash_get_dest`).
    trash: BTreeMap<(VirtualServerId, RealServerId), Counters>,
    /// Number of additions: dumps list the latest real server first.
    additions: u64,
    pub(super) schedulers: Option<BTreeSet<Scheduler>>,
    pub(super) unsupported: usize,
    pub(super) broadcasts: BTreeSet<Ipv4Addr>,
}

struct Entry {
    settings: VirtualServer,
    real_servers: BTreeMap<RealServerId, Real>,
}

struct Real {
    settings: RealServer,
    counters: Counters,
    added: u64,
}

impl Tables {
    /// Executes an operation or returns the error number with which the kernel refuses it.
    pub(super) fn execute(&mut self, op: &IpvsOp) -> Result<(), i32> {
        match *op {
            IpvsOp::AddVirtualServer { vs, settings } => self.add_virtual_server(vs, settings),
            IpvsOp::SetVirtualServer { vs, settings } => self.set_virtual_server(vs, settings),
            IpvsOp::DeleteVirtualServer { vs } => self.delete_virtual_server(vs),
            IpvsOp::AddRealServer { vs, rs, settings } => self.add_real_server(vs, rs, settings),
            IpvsOp::SetRealServer { vs, rs, settings } => self.set_real_server(vs, rs, settings),
            IpvsOp::DeleteRealServer { vs, rs } => self.delete_real_server(vs, rs),
        }
    }

    fn add_virtual_server(&mut self, vs: VirtualServerId, settings: VirtualServer) -> Result<(), i32> {
        if self.entries.contains_key(&vs) {
            return Err(libc::EEXIST);
        }
        self.check_virtual_server(vs, &settings)?;
        self.entries.insert(vs, Entry { settings, real_servers: BTreeMap::new() });
        Ok(())
    }

    fn set_virtual_server(&mut self, vs: VirtualServerId, settings: VirtualServer) -> Result<(), i32> {
        if !self.entries.contains_key(&vs) {
            return Err(libc::ESRCH);
        }
        self.check_virtual_server(vs, &settings)?;
        self.entry(vs)?.settings = settings;
        Ok(())
    }

    fn delete_virtual_server(&mut self, vs: VirtualServerId) -> Result<(), i32> {
        let entry = self.entries.remove(&vs).ok_or(libc::ESRCH)?;
        self.trash.extend(entry.real_servers.into_iter().map(|(rs, real)| ((vs, rs), real.counters)));
        Ok(())
    }

    fn add_real_server(
        &mut self,
        vs: VirtualServerId,
        rs: RealServerId,
        settings: RealServer,
    ) -> Result<(), i32> {
        let exists = self.entry(vs)?.real_servers.contains_key(&rs);
        check_family(vs, rs, &settings)?;
        check_ranges(&settings)?;
        if exists {
            return Err(libc::EEXIST);
        }
        if !self.is_valid_real_server(rs.addr) {
            return Err(libc::EINVAL);
        }
        let counters = self.trash.remove(&(vs, rs)).unwrap_or_default();
        self.additions += 1;
        let added = self.additions;
        self.entry(vs)?.real_servers.insert(rs, Real { settings, counters, added });
        Ok(())
    }

    fn set_real_server(
        &mut self,
        vs: VirtualServerId,
        rs: RealServerId,
        settings: RealServer,
    ) -> Result<(), i32> {
        let entry = self.entry(vs)?;
        check_family(vs, rs, &settings)?;
        check_ranges(&settings)?;
        entry.real_servers.get_mut(&rs).ok_or(libc::ENOENT)?.settings = settings;
        Ok(())
    }

    fn delete_real_server(&mut self, vs: VirtualServerId, rs: RealServerId) -> Result<(), i32> {
        let real = self.entry(vs)?.real_servers.remove(&rs).ok_or(libc::ENOENT)?;
        self.trash.insert((vs, rs), real.counters);
        Ok(())
    }

    fn entry(&mut self, vs: VirtualServerId) -> Result<&mut Entry, i32> {
        self.entries.get_mut(&vs).ok_or(libc::ESRCH)
    }

    /// Checks as `ip_vs_add_service` and `ip_vs_edit_service` do; a prefix length that IPv4 cannot have never
    /// gets that far.
    fn check_virtual_server(&self, vs: VirtualServerId, settings: &VirtualServer) -> Result<(), i32> {
        if !self.has_scheduler(settings.scheduler) {
            return Err(libc::ENOENT);
        }
        let Some(persistence) = settings.persistence else { return Ok(()) };
        let valid = match vs.family() {
            IpFamily::V4 => 0..=32,
            IpFamily::V6 => 1..=128,
        };
        if valid.contains(&persistence.prefix_length) { Ok(()) } else { Err(libc::EINVAL) }
    }

    pub(super) fn has_scheduler(&self, scheduler: Scheduler) -> bool {
        self.schedulers.as_ref().map_or_else(
            || scheduler.as_str().parse::<Scheduler>().is_ok(),
            |available| available.contains(&scheduler),
        )
    }

    /// Checks as `ip_vs_new_dest` does: `inet_addr_type` must call the address local or unicast.
    fn is_valid_real_server(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => {
                let loopback = Ipv4Addr::new(127, 255, 255, 255);
                let broadcast = addr.is_broadcast() || addr == loopback || self.broadcasts.contains(&addr);
                !(addr.is_unspecified() || addr.is_multicast() || broadcast)
            }
            IpAddr::V6(addr) => {
                !(addr.is_unspecified() || addr.is_multicast() || addr.is_unicast_link_local())
            }
        }
    }

    pub(super) fn flush(&mut self) {
        for vs in self.entries.keys().copied().collect::<Vec<_>>() {
            let _ = self.delete_virtual_server(vs);
        }
    }

    pub(super) fn expire_trash(&mut self) {
        self.trash.clear();
    }

    /// # Panics
    /// Panics if there is no such real server.
    pub(super) fn counters(&mut self, vs: VirtualServerId, rs: RealServerId) -> &mut Counters {
        match self.entries.get_mut(&vs).and_then(|entry| entry.real_servers.get_mut(&rs)) {
            Some(real) => &mut real.counters,
            None => panic!("no real server {rs} of {vs}"),
        }
    }

    pub(super) fn end_connections(&mut self) {
        for real in self.entries.values_mut().flat_map(|entry| entry.real_servers.values_mut()) {
            real.counters.connections = ConnectionCounters::default();
        }
    }

    /// Dumps in another order than that of keys: nobody may rely on it.
    pub(super) fn dump_virtual_servers(&self) -> VirtualServerDump {
        let virtual_servers = self.entries.iter().rev().map(|(vs, entry)| (*vs, entry.settings)).collect();
        VirtualServerDump { virtual_servers, unsupported: self.unsupported }
    }

    /// Traffic of virtual servers: that of the real servers that they have now.
    pub(super) fn dump_traffic(&self) -> Vec<(VirtualServerId, TrafficCounters)> {
        let of = |entry: &Entry| {
            let mut sum = TrafficCounters::default();
            for real in entry.real_servers.values() {
                sum.connections += real.counters.traffic.connections;
                sum.packets_in += real.counters.traffic.packets_in;
                sum.packets_out += real.counters.traffic.packets_out;
                sum.bytes_in += real.counters.traffic.bytes_in;
                sum.bytes_out += real.counters.traffic.bytes_out;
            }
            sum
        };
        self.entries.iter().map(|(vs, entry)| (*vs, of(entry))).collect()
    }

    /// Dumps the latest addition first, as the kernel does.
    pub(super) fn dump_real_servers(&self, vs: VirtualServerId) -> Vec<ObservedRealServer> {
        let Some(entry) = self.entries.get(&vs) else { return Vec::new() };
        let mut reals: Vec<_> = entry.real_servers.iter().collect();
        reals.sort_by_key(|(_, real)| std::cmp::Reverse(real.added));
        reals
            .into_iter()
            .map(|(id, real)| ObservedRealServer {
                id: *id,
                settings: real.settings,
                connections: real.counters.connections,
                traffic: real.counters.traffic,
            })
            .collect()
    }

    /// The real server of a new connection; `None` if IPVS refuses it.
    pub(super) fn schedule(&self, vs: VirtualServerId, client: SocketAddr) -> Option<RealServerId> {
        let entry = self.entries.get(&vs)?;
        let mut reals: Vec<_> = entry.real_servers.iter().collect();
        reals.sort_by_key(|(_, real)| std::cmp::Reverse(real.added));
        let weights: Vec<_> = reals.into_iter().map(|(rs, real)| (*rs, real.settings.weight)).collect();
        schedule(vs, &entry.settings, &weights, client)
    }

    pub(super) fn snapshot(&self) -> IpvsSnapshot {
        self.entries
            .iter()
            .map(|(vs, entry)| {
                let reals = entry.real_servers.iter().map(|(rs, real)| (*rs, real.settings)).collect();
                (*vs, (entry.settings, reals))
            })
            .collect()
    }
}

/// Checks as `ip_vs_genl_set_cmd` does: only tunnels lead to real servers of the other family.
fn check_family(vs: VirtualServerId, rs: RealServerId, settings: &RealServer) -> Result<(), i32> {
    let fits = vs.family() == IpFamily::of(rs.addr) || settings.forwarding == ForwardingMethod::Tunnel;
    if fits { Ok(()) } else { Err(libc::EINVAL) }
}

/// Checks as `ip_vs_add_dest` and `ip_vs_edit_dest` do: the weight is an int.
fn check_ranges(settings: &RealServer) -> Result<(), i32> {
    let weight_fits = i32::try_from(settings.weight.0).is_ok();
    let fits = weight_fits && settings.lower_threshold <= settings.upper_threshold;
    if fits { Ok(()) } else { Err(libc::ERANGE) }
}
