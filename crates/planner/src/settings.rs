//! Settings of a Service's virtual servers: what its annotations ask for, as far as the configuration allows
//! it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use drain::Overrides;
use lb_types::{Front, Persistence, Protocol, RealServer, Scheduler, SchedulerFlags, VirtualServer};
use service_model::{Service, TrafficPolicy, annotations};

use crate::{Binding, PlannerConfig, ProblemKind, ServiceOverrides};

/// Substitutes for a configured scheduler that the kernel lacks, in this order. None of them needs weights.
const SUBSTITUTES: [Scheduler; 6] =
    [Scheduler::RR, Scheduler::WRR, Scheduler::LC, Scheduler::WLC, Scheduler::MH, Scheduler::SH];

/// Schedulers that choose by the address of the client. `mh` moves few clients when endpoints come and go.
const HASHING: [Scheduler; 2] = [Scheduler::MH, Scheduler::SH];

/// Schedulers that leave a real server of weight 0 (one that drains) its share of the clients, who are refused, unless
/// the fallback flag gives them to another (net/netfilter/ipvs/ip_vs_mh.c, ip_vs_sh.c).
const WITH_FALLBACK: [Scheduler; 2] = [Scheduler::MH, Scheduler::SH];

/// Tells whether a scheduler refuses clients while one of several endpoints drains, whatever its flags
/// (net/netfilter/ipvs/ip_vs_dh.c).
pub fn refuses_while_draining(scheduler: Scheduler) -> bool {
    scheduler == Scheduler::DH
}

/// Candidates for Services that name no scheduler: the configured one, then its substitutes.
pub fn default_schedulers(configured: Scheduler) -> impl Iterator<Item = Scheduler> {
    [configured].into_iter().chain(SUBSTITUTES.into_iter().filter(move |name| *name != configured))
}

/// Scheduler of Services that name none; the configured one if the kernel has no candidate at all.
pub fn default_scheduler(config: &PlannerConfig) -> Scheduler {
    let available = |name: &Scheduler| !config.unavailable_schedulers.contains(name);
    default_schedulers(config.scheduler).find(available).unwrap_or(config.scheduler)
}

impl PlannerConfig {
    /// Tells whether annotations about more than drains count.
    pub(crate) fn hears_all(&self) -> bool {
        self.service_overrides == ServiceOverrides::All
    }

    /// Scheduler that a Service names, if the configuration lets it; the kernel may lack it.
    pub fn named_scheduler(&self, service: &Service) -> Option<Scheduler> {
        let named = service.settings.scheduler.filter(|name| self.allowed_schedulers.contains(name));
        named.filter(|_| self.hears_all())
    }

    /// Scheduler that stands in for the session affinity of fronts with a mark, of those that the kernel has.
    fn hashing_scheduler(&self) -> Option<Scheduler> {
        HASHING.into_iter().find(|name| !self.unavailable_schedulers.contains(name))
    }
}

/// Schedulers of which a Service needs the first one that the kernel has, for session affinity under a Local policy.
pub fn hashing_schedulers(service: &Service) -> &'static [Scheduler] {
    let has_marks = service.external_traffic_policy == TrafficPolicy::Local;
    if service.affinity.is_some() && has_marks { &HASHING } else { &[] }
}

/// Scheduler and persistence of a Service's virtual servers.
///
/// Like kube-proxy (pkg/proxy/ipvs/proxier.go), `mh` hashes the source port too unless told otherwise; unlike
/// it, a Service can name its own scheduler, and fallback is on: quiescing a real server must cost no client
/// anything.
///
/// Session affinity of a front with a mark is the scheduler's work: the kernel sends the connections of a persistent
/// virtual server to the port that the client has called unless that is the virtual server's own, and one with a
/// mark has none (`ip_vs_sched_persist`, net/netfilter/ipvs/ip_vs_core.c).
///
/// So is it for FTP at an address that is this node's only in part: to a persistent virtual server of port 21 the kernel
/// gives connections to all unprivileged ports of the address (`ip_vs_service_find`, net/netfilter/ipvs/ip_vs_ctl.c),
/// those of programs of the node, and those of its processes to another machine, included. Where all ports of the
/// address lead to IPVS, none is anybody else's.
pub(crate) fn desire_settings(
    service: &Service,
    front: &Front,
    binding: Binding,
    config: &PlannerConfig,
) -> VirtualServer {
    let one_packet = config.hears_all() && service.settings.one_packet && front.protocol() == Protocol::Udp;
    let (affinity, hashes) = match service.affinity {
        Some(_) if front.is_marked() || !binding.is_whole() && is_ftp(front) => {
            (None, config.hashing_scheduler())
        }
        affinity => (affinity, None),
    };
    let (scheduler, scheduler_flags) = match hashes {
        Some(scheduler) => (scheduler, SchedulerFlags::FALLBACK),
        None => desire_scheduler(service, config),
    };
    VirtualServer {
        scheduler,
        scheduler_flags,
        persistence: affinity.map(|affinity| Persistence {
            timeout_seconds: affinity.timeout_seconds,
            prefix_length: front.family().host_prefix(),
        }),
        one_packet,
    }
}

fn is_ftp(front: &Front) -> bool {
    front.protocol() == Protocol::Tcp && front.port.port.get() == 21
}

/// Scheduler of a Service with its flags: the one that it names, or else the configured one.
fn desire_scheduler(service: &Service, config: &PlannerConfig) -> (Scheduler, SchedulerFlags) {
    let named = config.named_scheduler(service).filter(|name| !config.unavailable_schedulers.contains(name));
    let scheduler = named.unwrap_or_else(|| default_scheduler(config));
    // Flags next to the name of a scheduler are meant for that one, not for its substitute.
    let follows = service.settings.scheduler.is_none_or(|name| name == scheduler);
    let heard = follows && config.hears_all();
    (scheduler, desire_flags(scheduler, heard.then_some(service)))
}

/// Settings of a Service's real servers while they serve.
pub(crate) fn desire_real_server(service: &Service, config: &PlannerConfig) -> RealServer {
    let limit = service.settings.max_connections.filter(|_| config.hears_all());
    RealServer { upper_threshold: limit.map_or(0, NonZeroU32::get), ..RealServer::SERVING }
}

/// Flags of a scheduler; those that the Service asks for, if one is given.
fn desire_flags(scheduler: Scheduler, service: Option<&Service>) -> SchedulerFlags {
    let default = if scheduler == Scheduler::MH { SchedulerFlags::PORT } else { SchedulerFlags::NONE };
    let flags = service.and_then(|service| service.settings.scheduler_flags).unwrap_or(default);
    let refused = service.is_some_and(|service| service.settings.no_fallback);
    if WITH_FALLBACK.contains(&scheduler) && !refused { flags.with(SchedulerFlags::FALLBACK) } else { flags }
}

/// Drain settings that a Service asks for in place of the configuration's, as far as it may have them.
pub(crate) fn desire_drain(service: &Service, config: &PlannerConfig) -> Option<Arc<Overrides>> {
    let wanted = service.settings.drain.as_ref()?;
    if config.service_overrides == ServiceOverrides::None {
        return None;
    }
    match too_long(wanted, config) {
        Some((_, max)) => Some(Overrides { timeout: Some(max), ..**wanted }.into()),
        None => Some(wanted.clone()),
    }
}

/// Timeout that exceeds the longest one allowed, together with that one. Zero is no deadline at all, and so
/// exceeds any.
fn too_long(wanted: &Overrides, config: &PlannerConfig) -> Option<(Duration, Duration)> {
    let (timeout, max) = (wanted.timeout?, config.graceful_timeout_max?);
    (timeout.is_zero() || timeout > max).then_some((timeout, max))
}

/// Problems of a Service's annotations: what they ask for and must not, or should not, have.
pub(crate) fn settings_problems(service: &Service, config: &PlannerConfig) -> Vec<ProblemKind> {
    let mut problems: Vec<_> = forbidden(service, config.service_overrides)
        .map(|annotation| ProblemKind::AnnotationForbidden {
            annotation,
            overrides: config.service_overrides,
        })
        .collect();
    if config.hears_all() {
        problems.extend(scheduler_problem(service.settings.scheduler, config));
    }
    if config.service_overrides != ServiceOverrides::None {
        let exceeds = service.settings.drain.as_deref().and_then(|wanted| too_long(wanted, config));
        problems.extend(exceeds.map(|(timeout, max)| ProblemKind::TimeoutTooLong { timeout, max }));
    }
    problems
}

fn scheduler_problem(named: Option<Scheduler>, config: &PlannerConfig) -> Option<ProblemKind> {
    let scheduler = named?;
    if !config.allowed_schedulers.contains(&scheduler) {
        let instead = config.scheduler;
        return Some(ProblemKind::SchedulerNotAllowed { scheduler, instead });
    }
    refuses_while_draining(scheduler).then_some(ProblemKind::RefusesWhileDraining { scheduler })
}

/// Annotations of a Service that the configuration forbids.
fn forbidden(service: &Service, overrides: ServiceOverrides) -> impl Iterator<Item = &'static str> {
    let (settings, drain) =
        (&service.settings, service.settings.drain.as_deref().unwrap_or(&Overrides::NONE));
    let flags = settings.scheduler_flags.is_some();
    let others = [
        (annotations::SCHEDULER, settings.scheduler.is_some()),
        (annotations::SCHEDULER_FLAGS, flags),
        (annotations::MAX_CONNECTIONS, settings.max_connections.is_some()),
        (annotations::ONE_PACKET, settings.one_packet),
        (annotations::EXTERNAL_IP_BINDING, settings.external_ip_binding.is_some()),
    ];
    let graceful = [
        (annotations::GRACEFUL_POLICY, drain.policy.is_some()),
        (annotations::GRACEFUL_LINGER, drain.linger.is_some()),
        (annotations::GRACEFUL_TIMEOUT, drain.timeout.is_some()),
        (annotations::GRACEFUL_SILENCE, drain.silence.is_some()),
        (annotations::GRACEFUL_ENDPOINT_GONE, drain.endpoint_gone.is_some()),
    ];
    let others = others.into_iter().filter(move |_| overrides != ServiceOverrides::All);
    let graceful = graceful.into_iter().filter(move |_| overrides == ServiceOverrides::None);
    others.chain(graceful).filter(|(_, is_set)| *is_set).map(|(annotation, _)| annotation)
}
