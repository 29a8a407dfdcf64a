//! Start of every test: a node, pods, manifests, and kube-ipvs running on the node.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

use e2e::{
    manifest::{Endpoint, Manifests, Service},
    net::{Both, Client, NODE, Net, OUTSIDE, Pod, PodNetwork, ProbeProgram, Server},
    observe::{Ipvs, ipvs},
    probe::{
        Answer, Proto,
        load::{self, Load},
        talk::{self, Talk},
    },
    proxy::{Proxy, Settings},
};
use testkit::{NetNs, TempDir, wait_for, wait_until};

/// Bound on everything that has to happen some time but whose duration is not what the test measures.
pub const WAIT_LIMIT: Duration = Duration::from_secs(40);

/// The prober, which the test carries inside so that the guest needs one file only. (A mere check of the code
/// has no binary to include.)
#[cfg(not(clippy))]
const PROBE: &[u8] = include_bytes!(env!("CARGO_BIN_EXE_probe"));
#[cfg(clippy)]
const PROBE: &[u8] = &[];

/// Port of every pod's server, and a second one.
pub const POD_PORTS: [u16; 2] = [8080, 8081];

/// External addresses; those of documentation (RFC 5737, RFC 3849), which no link has.
pub const EXTERNAL: Both =
    Both { v4: Ipv4Addr::new(192, 0, 2, 80), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80) };
/// Addresses of a load balancer, from the same ranges.
pub const BALANCER: Both =
    Both { v4: Ipv4Addr::new(192, 0, 2, 90), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x90) };

/// Unpacks the prober.
pub fn probe(directory: &TempDir) -> ProbeProgram {
    let path = directory.path().join("probe");
    std::fs::write(&path, PROBE).expect("write the probe");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    ProbeProgram::at(&path)
}

/// The binary under test.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("KUBE_IPVS_BIN").expect("KUBE_IPVS_BIN names the binary under test");
    PathBuf::from(path)
}

/// Everything of one test; fields in the order in which they must end.
pub struct Testbed {
    proxy: Option<Proxy>,
    /// Server beside all Services; started with the first load.
    control: OnceLock<Server>,
    /// `pods[0]` is `pod-1`, 10.244.0.11.
    pub pods: Vec<Pod>,
    pub net: Net,
    pub manifests: Manifests,
    pub settings: Settings,
    _directory: TempDir,
}

impl Testbed {
    /// A testbed with `pods` pods, no Service and nothing started.
    pub fn new(network: PodNetwork, pods: u8) -> Testbed {
        let directory = TempDir::new("traffic");
        let net = Net::new(network, probe(&directory));
        let settings = Settings::new(&binary(), directory.path());
        let manifests = Manifests::new(&settings.manifests);
        let pods =
            (1..=pods).map(|number| net.pod(&format!("pod-{number}"), 10 + number, &POD_PORTS)).collect();
        Testbed {
            proxy: None,
            control: OnceLock::new(),
            pods,
            net,
            manifests,
            settings,
            _directory: directory,
        }
    }

    /// Starts kube-ipvs with the usual flags and these.
    pub fn start(&mut self, flags: &[&str]) -> &mut Proxy {
        self.settings.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.proxy.insert(Proxy::start(&self.net.node, &self.settings))
    }

    /// Starts kube-ipvs, or restarts it, with exactly these flags.
    pub fn start_with(&mut self, flags: &[&str]) {
        self.settings = self.settings.with_flags(flags);
        match &mut self.proxy {
            Some(proxy) => proxy.restart_with(flags),
            None => self.proxy = Some(Proxy::start(&self.net.node, &self.settings)),
        }
    }

    pub fn proxy(&mut self) -> &mut Proxy {
        self.proxy.as_mut().expect("kube-ipvs was started")
    }

    pub fn ipvs(&self) -> Ipvs {
        ipvs(&self.net.node)
    }

    /// Endpoints for all of these pods, ready.
    pub fn ready(&self, numbers: std::ops::RangeInclusive<usize>) -> Vec<Endpoint> {
        self.pods[numbers.start() - 1..*numbers.end()].iter().map(Endpoint::ready).collect()
    }

    /// Waits until every address and port of the Service is bound and served by exactly these endpoints.
    #[track_caller]
    pub fn wait_served(&self, service: &Service, endpoints: &[Endpoint]) {
        wait_for(WAIT_LIMIT, &format!("{} to be served", service.name), || {
            self.check_served(service, endpoints)
        });
    }

    /// Checks that the Service is served; the error says what is still wrong.
    pub fn check_served(&self, service: &Service, endpoints: &[Endpoint]) -> Result<(), String> {
        let ipvs = self.ipvs();
        for (ip, port) in service.ips.iter().flat_map(|ip| service.ports.iter().map(move |port| (*ip, port)))
        {
            let vip = SocketAddr::new(ip, port.port);
            let Some(server) = ipvs.get(port.proto, vip) else {
                return Err(format!("no virtual server {} {vip}; there are:\n{}", port.proto, ipvs.render()));
            };
            let mut expected: Vec<_> = endpoints
                .iter()
                .map(|endpoint| SocketAddr::new(endpoint.address.like(ip), port.target))
                .collect();
            expected.sort();
            if server.serving() != expected {
                return Err(format!("{} {vip}: expected {expected:?}, there are {server:?}", port.proto));
            }
        }
        let local_routes = self.local_routes();
        match service.ips.iter().find(|ip| !local_routes.contains(&format!("local {ip} "))) {
            Some(missing) => Err(format!("{missing} has no local route; there are:\n{local_routes}")),
            None => Ok(()),
        }
    }

    /// Lists table `local` of both families.
    pub fn local_routes(&self) -> String {
        let [v4, v6] =
            ["-4", "-6"].map(|family| self.net.node.sh(&format!("ip {family} route show table local")));
        format!("{v4}{v6}")
    }

    /// Waits until no virtual server and no route of the Service is left.
    #[track_caller]
    pub fn wait_gone(&self, service: &Service) {
        wait_for(WAIT_LIMIT, &format!("{} to be gone", service.name), || {
            let (ipvs, local_routes) = (self.ipvs(), self.local_routes());
            let left = service.ips.iter().any(|ip| {
                local_routes.contains(&format!("local {ip} "))
                    || ipvs.servers.keys().any(|(_, vip)| vip.ip() == *ip)
            });
            if left { Err(format!("{}{local_routes}", ipvs.render())) } else { Ok(()) }
        });
    }

    /// The four kinds of clients; tests ask pod 1, so its client asks itself.
    pub fn clients(&self) -> [Client; 4] {
        let [node, outside] = [self.net.node_client(), self.net.outside_client()];
        [node, self.pods[1].client(), self.pods[0].client(), outside]
    }

    /// Makes short connections from the outside client, and a few beside them that do not pass a Service.
    pub fn load(&self, targets: &[SocketAddr]) -> Measured {
        self.load_from(&self.net.outside_client(), &load::Settings::new(targets, &OUTSIDE.each()))
    }

    /// Does the same from anywhere.
    pub fn load_from(&self, client: &Client, settings: &load::Settings) -> Measured {
        self.control.get_or_init(|| self.net.node_daemon("control", CONTROL_PORT));
        let mut control = load::Settings::new(&NODE.port(CONTROL_PORT), &OUTSIDE.each());
        (control.rate, control.workers, control.ports) = (3, 1, (30_000, 100));
        let [load, control] = [(&client.namespace, settings), (&self.net.outside, &control)]
            .map(|(namespace, settings)| namespace.enter(|| Load::start(settings)));
        Measured { load, control }
    }

    /// Opens long-lived connections from the outside client, all established when this returns.
    #[track_caller]
    pub fn talk(&self, targets: &[SocketAddr], connections: usize) -> Talk {
        self.talk_with(&talk::Settings::new(targets, &OUTSIDE.each(), connections))
    }

    /// Does the same with any settings.
    #[track_caller]
    pub fn talk_with(&self, settings: &talk::Settings) -> Talk {
        talk_from(&self.net.outside, settings)
    }
}

/// Starts conversations in a namespace; all have begun when it returns.
#[track_caller]
pub fn talk_from(namespace: &NetNs, settings: &talk::Settings) -> Talk {
    let talk = namespace.enter(|| Talk::start(settings));
    wait_for(WAIT_LIMIT, "all conversations to begin", || {
        let report = talk.progress();
        if report.established() == settings.connections { Ok(()) } else { Err(format!("{report:?}")) }
    });
    talk
}

/// Port of a server on the node to which no Service leads.
const CONTROL_PORT: u16 = 9998;

/// Latency in milliseconds from which on the guest itself is too slow to judge whether a Service made a
/// connection slow.
const SLOW_GUEST_MS: f64 = 300.0;

/// A load on a Service, and a small one that only shows how fast the guest is at the moment.
pub struct Measured {
    load: Load,
    control: Load,
}

impl Measured {
    /// Waits until `count` more connections have been made.
    #[track_caller]
    pub fn let_pass(&self, count: u64) {
        let made = || self.load.progress().connections;
        let goal = made() + count;
        let limit = WAIT_LIMIT + Duration::from_millis(100) * u32::try_from(count).unwrap_or(u32::MAX);
        wait_until(limit, &format!("{count} more connections"), || made() >= goal);
    }

    /// Ends it without judging.
    pub fn stop(self) -> load::Report {
        self.load.stop()
    }

    /// Ends it and checks that no connection failed, and that none was slow unless the guest itself was;
    /// prints the measurements.
    #[track_caller]
    pub fn assert_clean(self) {
        let (report, control) = (self.load.stop(), self.control.stop());
        println!("{report}");
        println!("control: {control}");
        assert!(report.connections > 0, "there was no load");
        assert!(report.failed() == 0, "failed connections, listed above");
        if control.longest > SLOW_GUEST_MS || control.failed() > 0 {
            println!("the guest was too slow to judge how long connections took");
        } else {
            assert!(report.slow == 0, "slow connections, listed above");
        }
    }
}

/// Checks that no conversation was cut; prints the measurements.
#[track_caller]
pub fn assert_uncut(report: &talk::Report) {
    println!(
        "{} conversations, {} messages, longest wait {} ms",
        report.established(),
        report.messages,
        report.longest
    );
    assert!(report.cut.is_empty() && report.messages > 0, "conversations were cut: {report:#?}");
}

/// Checks that every address of the Service answers this client, over its first port.
#[track_caller]
pub fn ask_all(client: &Client, service: &Service) -> Vec<Answer> {
    let port = &service.ports[0];
    let ask = |ip: &std::net::IpAddr| {
        let to = SocketAddr::new(*ip, port.port);
        let outcome = client.ask(port.proto, to);
        outcome
            .result
            .clone()
            .unwrap_or_else(|_| panic!("{} -> {} {to}: {outcome}", client.place, port.proto))
    };
    service.ips.iter().map(ask).collect()
}

/// A Service `web` with all transports at 10.96.0.80 and fd00:96::80.
pub fn web() -> Service {
    Service::new("web", WEB, &Proto::ALL)
}

/// Addresses of `web`.
pub const WEB: Both = Both {
    v4: std::net::Ipv4Addr::new(10, 96, 0, 80),
    v6: std::net::Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x80),
};
