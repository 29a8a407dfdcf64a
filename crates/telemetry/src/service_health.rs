//! Health check servers of Services: `spec.healthCheckNodePort`, by which load balancers find the nodes that have
//! endpoints (pkg/proxy/healthcheck/service_health.go).
//!
//! They need no health server of the process, and follow the addresses of the node. A port that somebody else has is
//! tried again every 5 seconds.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, LocalSet, spawn_local},
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    Answer, Health,
    server::{BIND_RETRY_PAUSE, Open, Site, accept_all, listen_with},
};

/// Health check of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// UID of the Service, for whoever reports its failures.
    pub uid: Arc<str>,
    /// `spec.healthCheckNodePort`
    pub port: NonZeroU16,
    /// True for IPv6.
    pub ipv6: bool,
    /// Addresses of the Service's load balancer in the family, where probes may come, too.
    pub balancers: Vec<IpAddr>,
    /// Number of ready endpoints on this node, each address once.
    pub local_endpoints: usize,
}

impl HealthCheck {
    /// Service, as `NAMESPACE/NAME`.
    fn service(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Addresses of the node that answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// All of them, whenever they come.
    #[default]
    Everywhere,
    /// These.
    At(BTreeSet<IpAddr>),
}

/// A port that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenFailure {
    /// Health check whose port it is.
    pub check: HealthCheck,
    /// Reason for it.
    pub reason: ListenFault,
}

/// Reason why the port of a health check does not answer for its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenFault {
    /// Error of the system; it is tried again until it succeeds.
    System(String),
    /// It answers for another Service, `NAMESPACE/NAME`, which has the same port.
    OfService(String),
}

/// Receiver of failures. Each is reported once, and again only after the port could be listened on at all addresses.
pub type OnFailure = Box<dyn Fn(ListenFailure) + Send>;

/// Handle of the thread that answers.
#[derive(Debug)]
pub struct HealthChecks(watch::Sender<(Vec<HealthCheck>, Listen)>);

impl HealthChecks {
    /// Starts the thread; it answers nothing so far. It ends with this handle.
    pub fn start(health: Arc<Health>, on_failure: OnFailure) -> io::Result<Self> {
        let (sender, receiver) = watch::channel(Default::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let body = move || LocalSet::new().block_on(&runtime, follow(receiver, health, on_failure));
        thread::Builder::new().name("service-health".to_owned()).spawn(body)?;
        Ok(HealthChecks(sender))
    }

    /// Replaces all health checks. Of several with one port, the first one counts, and the others are failures.
    pub fn set(&self, checks: Vec<HealthCheck>, listen: Listen) {
        self.0.send_replace((checks, listen));
    }
}

/// A health check as the server of its address sees it.
#[derive(Debug)]
pub struct ServiceSite {
    health: Arc<Health>,
    check: Mutex<HealthCheck>,
}

impl ServiceSite {
    /// The answer to whatever is asked, and the weight of the node.
    pub(crate) fn answer(&self) -> (Answer, usize) {
        let check = self.check.lock().unwrap_or_else(PoisonError::into_inner);
        let healthy = self.health.follows_changes(Instant::now());
        let HealthCheck { namespace, name, local_endpoints, .. } = &*check;
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\
             \"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
        );
        (Answer { good: healthy && *local_endpoints > 0, body }, *local_endpoints)
    }
}

/// A listening socket and what it answers.
struct Server {
    site: Arc<ServiceSite>,
    task: AbortHandle,
}

/// Keeps the servers as they are wanted.
async fn follow(
    mut wanted: watch::Receiver<(Vec<HealthCheck>, Listen)>,
    health: Arc<Health>,
    on_failure: OnFailure,
) {
    let open: Open = Rc::default();
    let mut servers: BTreeMap<SocketAddr, Server> = BTreeMap::new();
    let mut failing: BTreeMap<SocketAddr, String> = BTreeMap::new();
    let mut reports = Reports { on_failure, reported: BTreeSet::new(), failed: BTreeSet::new() };
    loop {
        let ByAddress { checks, rivals } = by_address(&wanted.borrow_and_update());
        servers.retain(|addr, server| {
            let stays = checks.contains_key(addr);
            if !stays {
                server.task.abort();
            }
            stays
        });
        failing.retain(|addr, _| checks.contains_key(addr));
        for (check, other) in rivals {
            reports.add_rival(check, &other);
        }
        // What has been aborted closes its socket before another one takes its port.
        tokio::task::yield_now().await;
        for (addr, check) in checks {
            if let Some(server) = servers.get(&addr) {
                *server.site.check.lock().unwrap_or_else(PoisonError::into_inner) = check;
                continue;
            }
            let described = format!("Service {}: spec.healthCheckNodePort", check.service());
            match listen_on(addr).and_then(TcpListener::from_std) {
                Ok(listener) => {
                    if failing.remove(&addr).is_some() {
                        info!("{described}: answers on {addr} again");
                    }
                    let site =
                        Arc::new(ServiceSite { health: Arc::clone(&health), check: Mutex::new(check) });
                    let served = accept_all(listener, Site::Service(Arc::clone(&site)), Rc::clone(&open));
                    servers.insert(addr, Server { site, task: spawn_local(served).abort_handle() });
                }
                // The kernel runs without the family.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => {
                    let reason = error.to_string();
                    if failing.get(&addr) != Some(&reason) {
                        warn!(
                            "{described}: cannot listen on {addr}: {error}; load balancers take this node for one \
                             without endpoints; trying again every {BIND_RETRY_PAUSE:?}"
                        );
                        failing.insert(addr, reason.clone());
                    }
                    reports.add(check, ListenFault::System(reason));
                }
            }
        }
        reports.end_round();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = sleep(BIND_RETRY_PAUSE), if !failing.is_empty() => {}
        }
    }
}

/// Failures that are handed out once: one report for all addresses of a Service's port, as long as it fails.
struct Reports {
    on_failure: OnFailure,
    /// Services, as `NAMESPACE/NAME`, and ports, whose failures are handed out.
    reported: BTreeSet<(String, NonZeroU16)>,
    /// Those that have failed since [`Reports::end_round`].
    failed: BTreeSet<(String, NonZeroU16)>,
}

impl Reports {
    /// Hands a failure out if it is new; returns whether it is.
    fn add(&mut self, check: HealthCheck, reason: ListenFault) -> bool {
        let key = (check.service(), check.port);
        self.failed.insert(key.clone());
        let is_new = self.reported.insert(key);
        if is_new {
            (self.on_failure)(ListenFailure { check, reason });
        }
        is_new
    }

    /// Adds a Service whose port another one has.
    fn add_rival(&mut self, check: HealthCheck, other: &str) {
        let (service, port) = (check.service(), check.port);
        if self.add(check, ListenFault::OfService(other.to_owned())) {
            warn!(
                "Service {service}: spec.healthCheckNodePort: {port} is answered for Service {other}, which has it, too; give \
                 one of them another"
            );
        }
    }

    /// Forgets failures that have not come again.
    fn end_round(&mut self) {
        self.reported = std::mem::take(&mut self.failed);
    }
}

/// Addresses at which to listen, each with its health check.
#[derive(Default)]
struct ByAddress {
    checks: BTreeMap<SocketAddr, HealthCheck>,
    /// Those whose port another Service has, with its name.
    rivals: Vec<(HealthCheck, String)>,
}

fn by_address((checks, listen): &(Vec<HealthCheck>, Listen)) -> ByAddress {
    let mut all = ByAddress::default();
    for check in checks {
        let addresses: Vec<IpAddr> = match listen {
            Listen::Everywhere if check.ipv6 => vec![Ipv6Addr::UNSPECIFIED.into()],
            Listen::Everywhere => vec![Ipv4Addr::UNSPECIFIED.into()],
            Listen::At(addresses) => {
                let all = addresses.iter().chain(&check.balancers);
                all.filter(|addr| addr.is_ipv6() == check.ipv6).copied().collect()
            }
        };
        for addr in addresses {
            match all.checks.entry(SocketAddr::new(addr, check.port.get())) {
                Entry::Vacant(entry) => _ = entry.insert(check.clone()),
                Entry::Occupied(entry) if entry.get().service() != check.service() => {
                    all.rivals.push((check.clone(), entry.get().service()));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    all
}

/// Listens on an address of one family, whether it is there already or not.
fn listen_on(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen_with(addr, |socket| match addr {
        SocketAddr::V6(_) => socket.set_only_v6(true).and_then(|()| socket.set_freebind_v6(true)),
        SocketAddr::V4(_) => {
            // So that it answers from the address of a load balancer, which need not be one of this node; where the
            // privilege is missing, it answers at the node's own addresses alone.
            let _less = socket.set_ip_transparent_v4(true);
            socket.set_freebind_v4(true)
        }
    })
}

#[cfg(test)]
mod tests;
