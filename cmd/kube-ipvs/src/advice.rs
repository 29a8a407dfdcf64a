//! Warnings about faults of the configuration that would otherwise show as time-outs.

use std::net::IpAddr;

use lb_types::IpFamily;
use planner::NodePortAddresses;
use reconcile::LocalMode;
use service_model::{ModelEvent, Node};
use tracing::{info, warn};

use crate::config::{Settings, Source};

/// Logs what of the configuration has no effect, or another one than it seems.
pub fn report_settings(settings: &Settings) {
    if settings.mode_is_default {
        info!("no proxy mode is configured: it is ipvs, the only one; kube-proxy's default is iptables");
    }
    for warning in &settings.warnings {
        warn!("{warning}");
    }
}

/// Warnings for the start. `server` is the address of the API server.
pub fn warnings(settings: &Settings, server: Option<IpAddr>) -> impl Iterator<Item = String> {
    let url = std::env::var("KUBERNETES_PORT").ok();
    let vip = server.and_then(|server| vip_warning(settings, server, url.as_deref()));
    let masquerade = nothing_masqueraded(settings).map(str::to_owned);
    let servers = two_servers_at_one_port(settings);
    masquerade.into_iter().chain(node_ports_of_one_family(settings)).chain(servers).chain(vip)
}

fn two_servers_at_one_port(settings: &Settings) -> Option<String> {
    let (healthz, metrics) = (settings.healthz?, settings.metrics?);
    let is_everywhere = healthz.ip().is_unspecified() || metrics.ip().is_unspecified();
    let meet = healthz.port() == metrics.port() && (healthz.ip() == metrics.ip() || is_everywhere);
    meet.then(|| {
        format!(
            "--healthz-bind-address is {healthz} and --metrics-bind-address {metrics}: only one of both servers can listen \
             there; give one of them another port, or none"
        )
    })
}

/// Warning of kube-proxy as well (cmd/kube-proxy/app/server.go, `checkBadConfig`).
fn node_ports_of_one_family(settings: &Settings) -> Option<String> {
    let NodePortAddresses::Prefixes(prefixes) = &settings.reconcile.planner.node_port_addresses else {
        return None;
    };
    let has = |family| prefixes.iter().any(|net| IpFamily::of(net.ip()) == family);
    let missing = IpFamily::ALL.into_iter().find(|family| !has(*family))?;
    Some(format!(
        "--nodeport-addresses (nodePortAddresses) has no {missing} range: node ports of {missing} are served at all \
         addresses; add a range of {missing}, or use primary"
    ))
}

/// Warning of kube-proxy as well (cmd/kube-proxy/app/server.go, `checkBadConfig`).
fn nothing_masqueraded(settings: &Settings) -> Option<&'static str> {
    let LocalMode::ClusterCidr(cidrs) = &settings.reconcile.local_mode else { return None };
    (cidrs.is_empty() && !settings.reconcile.planner.masquerade_all).then_some(
        "no --cluster-cidr (clusterCIDR) is given, which --detect-local-mode=ClusterCIDR needs: connections from outside \
         of the cluster to ClusterIPs are not masqueraded, and time out where the endpoint is on another node, and under \
         externalTrafficPolicy Local pods count as clients outside; give --cluster-cidr, another --detect-local-mode, or --masquerade-all",
    )
}

/// Watches the Node for values that contradict the configuration, and for its absence.
#[derive(Debug)]
pub struct NodeAdvice {
    node_name: String,
    local_mode: LocalMode,
    /// True once there was a Node.
    was_there: bool,
    /// True while there is none.
    is_missing: bool,
    /// True once nobody waits for it any more.
    is_synced: bool,
    /// Warning that holds.
    current: Option<String>,
}

impl NodeAdvice {
    /// Advice about the Node that the settings name.
    pub fn new(settings: &Settings) -> Self {
        NodeAdvice {
            node_name: settings.node_name.clone(),
            local_mode: settings.reconcile.local_mode.clone(),
            was_there: false,
            is_missing: false,
            is_synced: false,
            current: None,
        }
    }

    /// Takes an event; returns a warning if it is another one than before.
    pub fn take(&mut self, event: &ModelEvent) -> Option<&str> {
        let warning = match event {
            ModelEvent::NodeApplied(node) => {
                (self.was_there, self.is_missing) = (true, false);
                node_warning(node, &self.local_mode)
            }
            ModelEvent::NodeDeleted => {
                self.is_missing = true;
                self.absence()
            }
            ModelEvent::Synced => {
                self.is_synced = true;
                self.absence().or_else(|| self.current.clone())
            }
            _ => return None,
        };
        let is_new = warning != self.current;
        self.current = warning;
        self.current.as_deref().filter(|_| is_new)
    }

    /// Warning of a Node that is not there, although nobody waits for it any more.
    fn absence(&self) -> Option<String> {
        let name = &self.node_name;
        let text = if self.was_there {
            format!(
                "the Node {name} was deleted: /healthz tells load balancers to send nothing here; its last addresses, \
                 zone and pod ranges stay in use"
            )
        } else {
            format!(
                "there is no Node {name}: no endpoint counts as one of this node, which Local policies ask for, its zone, \
                 addresses and pod ranges are not known, and /healthz tells load balancers to send nothing here; if it has \
                 another name, give that with --hostname-override"
            )
        };
        (self.is_missing && self.is_synced).then_some(text)
    }
}

/// Warning of a Node that does not go with the configuration. kube-proxy waits for `spec.podCIDRs` and ends without, and
/// ends where the ranges are all of the wrong family (cmd/kube-proxy/app/server.go, `checkBadIPConfig`).
fn node_warning(node: &Node, mode: &LocalMode) -> Option<String> {
    let (ranges, name, remedy) = match mode {
        LocalMode::NodeCidr => (
            &node.pod_cidrs,
            "spec.podCIDRs of the Node",
            "if the network plugin assigns no ranges, use another --detect-local-mode",
        ),
        LocalMode::ClusterCidr(cidrs) if !cidrs.is_empty() => {
            (cidrs, "--cluster-cidr (clusterCIDR)", "add one, or use another --detect-local-mode")
        }
        _ => return None,
    };
    let has = |family: &IpFamily| ranges.iter().any(|net| IpFamily::of(net.ip()) == *family);
    let what = if ranges.is_empty() {
        "the Node has no spec.podCIDRs, which --detect-local-mode=NodeCIDR needs".to_owned()
    } else if node.addresses.keys().any(has) {
        return None;
    } else {
        let family = node.addresses.keys().next()?;
        format!("{name} has no {family} range, although the Node has an {family} address")
    };
    Some(format!(
        "{what}: connections from outside of the cluster to ClusterIPs are not masqueraded there, and time out where \
         the endpoint is on another node; {remedy}"
    ))
}

/// Warning of an API server behind a VIP that this process has to program first.
///
/// kubelet writes the VIP of the Service `default/kubernetes` into KUBERNETES_SERVICE_HOST, which a Pod may override,
/// and into KUBERNETES_PORT (`kubelets_url`, such as `tcp://10.96.0.1:443`), which nobody does.
fn vip_warning(settings: &Settings, server: IpAddr, kubelets_url: Option<&str>) -> Option<String> {
    let Source::Api { kubeconfig, master } = &settings.source else { return None };
    let in_range = settings.reconcile.ownership.service_cidrs.iter().any(|net| net.contains(server));
    if !in_range && kubelets_url.and_then(host_of) != Some(server) {
        return None;
    }
    let (where_from, remedy) = match (master, kubeconfig) {
        (Some(_), _) => ("--master", "name an address of the API server itself there"),
        (None, Some(_)) => {
            ("the kubeconfig", "name an address of the API server itself there, or with --master")
        }
        (None, None) => (
            "KUBERNETES_SERVICE_HOST",
            "set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT in the Pod's env to an address of the API server \
             itself, or use --kubeconfig",
        ),
    };
    Some(format!(
        "the API server's address {server} (from {where_from}) is a ClusterIP. Nothing answers there \
         before this process has programmed it, for which it needs the API server, unless another proxy still serves \
         it; {remedy}"
    ))
}

/// Address in `tcp://10.96.0.1:443` or `tcp://[fd00::1]:443`.
fn host_of(url: &str) -> Option<IpAddr> {
    let (host, _port) = url.strip_prefix("tcp://")?.rsplit_once(':')?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::testing::invocation;

    fn settings(args: &[&str]) -> Settings {
        Settings::new(&invocation(args)).unwrap()
    }

    /// Conformance: app Test_getLocalDetectors
    #[test]
    fn only_a_mode_without_its_prefixes_is_warned_of() {
        let warns = |args: &[&str]| nothing_masqueraded(&settings(args)).is_some();
        assert!(warns(&[]));
        for fine in ["--cluster-cidr=10.244.0.0/16", "--detect-local-mode=NodeCIDR", "--masquerade-all"] {
            assert!(!warns(&[fine]), "{fine}");
        }
    }

    #[test]
    fn two_servers_at_one_port_are_warned_of() {
        for (healthz, metrics, expect) in [
            ("127.0.0.1:10249", "127.0.0.1:10249", true),
            ("[::]:10249", "127.0.0.1:10249", true),
            ("127.0.0.2:10249", "127.0.0.1:10249", false),
            ("[::]:10256", "127.0.0.1:10249", false),
            ("", "127.0.0.1:10249", false),
        ] {
            let flags =
                [format!("--healthz-bind-address={healthz}"), format!("--metrics-bind-address={metrics}")];
            let warning = two_servers_at_one_port(&settings(&[&flags[0], &flags[1]]));
            assert_eq!(warning.is_some(), expect, "{flags:?}: {warning:?}");
        }
    }

    /// Conformance: app Test_checkBadIPConfig
    #[test]
    fn a_node_without_ranges_is_warned_of_where_they_count() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let node = |addresses: &[&str], pods: &[&str]| {
            let addresses = addresses.iter().map(|addr| addr.parse().unwrap());
            let addresses = addresses.map(|addr| (IpFamily::of(addr), addr)).collect();
            Node { addresses, pod_cidrs: nets(pods), ..Node::default() }
        };
        let both = ["10.0.0.1", "fd00::1"];
        let cluster = |list: &[&str]| LocalMode::ClusterCidr(nets(list));
        for (addresses, pods, mode, expect) in [
            (&both[..], &[][..], LocalMode::NodeCidr, Some("the Node has no spec.podCIDRs")),
            (&both[..1], &["10.244.1.0/24"][..], LocalMode::NodeCidr, None),
            (
                &both[1..],
                &["10.244.1.0/24"],
                LocalMode::NodeCidr,
                Some("spec.podCIDRs of the Node has no IPv6"),
            ),
            (&both[..1], &[], cluster(&["10.244.0.0/16"]), None),
            (&both[..1], &[], cluster(&["fd00:244::/56"]), Some("(clusterCIDR) has no IPv4 range")),
            // A cluster of one family on nodes with both.
            (&both, &[], cluster(&["10.244.0.0/16"]), None),
            // The start has warned of that one.
            (&both, &[], cluster(&[]), None),
            (&both, &[], LocalMode::None, None),
        ] {
            let warning = node_warning(&node(addresses, pods), &mode);
            let is_expected = match (&warning, expect) {
                (Some(warning), Some(part)) => warning.contains(part),
                (warning, part) => warning.is_none() && part.is_none(),
            };
            assert!(is_expected, "{addresses:?} {pods:?} {mode:?}: {warning:?}");
        }
    }

    /// Conformance: app Test_checkBadConfig
    #[test]
    fn a_family_without_a_range_for_node_ports_is_warned_of() {
        let warning =
            |ranges: &str| node_ports_of_one_family(&settings(&[&format!("--nodeport-addresses={ranges}")]));
        for fine in ["", "primary", "10.0.0.0/8,fd00::/8"] {
            assert_eq!(warning(fine), None, "{fine}");
        }
        for (range, missing) in [("10.0.0.0/8", "no IPv6 range"), ("fd00::/8", "no IPv4 range")] {
            assert!(warning(range).is_some_and(|text| text.contains(missing)), "{range}");
        }
    }

    #[test]
    fn an_api_server_behind_a_vip_of_ours_is_warned_of_with_the_place_to_mend() {
        const URL: Option<&str> = Some("tcp://10.96.0.1:443");
        let warning =
            |args: &[&str], server: &str, url| vip_warning(&settings(args), server.parse().unwrap(), url);
        let cidrs = "--service-cidrs=10.96.0.0/16,fd00:96::/112";
        for (args, server, url, part) in [
            (&[][..], "10.96.0.1", URL, Some("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT")),
            (&[], "fd00:96::1", Some("tcp://[fd00:96::1]:443"), Some("KUBERNETES_SERVICE_HOST")),
            (&[], "192.168.0.2", URL, None),
            (&[], "10.96.0.1", None, None),
            (&[cidrs], "10.96.0.1", None, Some("KUBERNETES_SERVICE_HOST")),
            (&[cidrs], "fd00:96::1", None, Some("KUBERNETES_SERVICE_HOST")),
            (&[cidrs], "192.168.0.2", None, None),
            (&[cidrs, "--kubeconfig=/k"], "10.96.0.1", None, Some("(from the kubeconfig)")),
            (&[cidrs, "--master=https://10.96.0.1"], "10.96.0.1", URL, Some("(from --master)")),
            (&[cidrs, "--manifests=/m"], "10.96.0.1", URL, None),
        ] {
            let got = warning(args, server, url);
            match part {
                Some(part) => {
                    assert!(got.as_ref().is_some_and(|text| text.contains(part)), "{server}: {got:?}")
                }
                None => assert_eq!(got, None, "{args:?} {server} {url:?}"),
            }
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_named_once_nobody_waits_for_it() {
        let mut advice = NodeAdvice::new(&settings(&["--cluster-cidr=10.244.0.0/16"]));
        assert_eq!(advice.take(&ModelEvent::NodeDeleted), None, "it may come");
        let warning = advice.take(&ModelEvent::Synced).map(str::to_owned).unwrap();
        assert!(warning.starts_with("there is no Node n1: ") && warning.contains("--hostname-override"));
        assert_eq!(advice.take(&ModelEvent::NodeDeleted), None);
        assert_eq!(advice.take(&ModelEvent::NodeApplied(Node::default())), None);
        let deleted = advice.take(&ModelEvent::NodeDeleted).unwrap();
        assert!(deleted.starts_with("the Node n1 was deleted: "), "{deleted}");
    }
}
