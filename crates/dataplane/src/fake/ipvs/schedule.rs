//! Real servers of new connections, as far as weight 0 decides them (net/netfilter/ipvs/ip_vs_*.c).

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    net::SocketAddr,
};

use lb_types::{RealServerId, Scheduler, SchedulerFlags, VirtualServer, VirtualServerId, Weight};

/// The real server that a scheduler chooses for a client; `None` if IPVS refuses the connection.
pub(super) fn schedule(
    vs: VirtualServerId,
    settings: &VirtualServer,
    reals: &[(RealServerId, Weight)],
    client: SocketAddr,
) -> Option<RealServerId> {
    let takes = |(_, weight): &&(RealServerId, Weight)| !weight.is_quiesced();
    let flags = settings.scheduler_flags;
    match settings.scheduler {
        // `ip_vs_mh_get` and `ip_vs_sh_get`: a quiesced server keeps its share of the table, and clients that
        // hash to it are refused, unless the fallback variants look on from there.
        Scheduler::MH | Scheduler::SH => {
            let first = if flags.contains(SchedulerFlags::PORT) {
                index(client, reals.len())?
            } else {
                index(client.ip(), reals.len())?
            };
            let tried = if flags.contains(SchedulerFlags::FALLBACK) { reals.len() } else { 1 };
            reals.iter().cycle().skip(first).take(tried).find(takes).map(|(rs, _)| *rs)
        }
        // `ip_vs_dh_schedule`: the destination is the VIP, so one server gets all clients, or refuses them.
        Scheduler::DH => reals.get(index(vs, reals.len())?).filter(takes).map(|(rs, _)| *rs),
        // All others skip weight 0 while they choose.
        _ => {
            let serving: Vec<_> = reals.iter().filter(takes).collect();
            serving.get(index(client, serving.len())?).map(|(rs, _)| *rs)
        }
    }
}

/// Place of a key in a table of `len`; `None` if that is empty.
fn index(key: impl Hash, len: usize) -> Option<usize> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 1).ok()?.checked_rem(len)
}
