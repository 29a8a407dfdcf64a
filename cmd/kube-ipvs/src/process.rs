//! Facts about the process, for the pages of the metrics server.

use std::{net::SocketAddr, time::Instant};

use jiff::Timestamp;
use proxy_config::ConfigFile;
use telemetry::Process;

use crate::{
    config::Settings,
    invocation::{CommandLine, Invocation},
};

/// Facts for the pages of a process that starts now.
pub fn of(line: &CommandLine, invocation: &Invocation, settings: &Settings) -> Process {
    Process {
        name: "kube-ipvs",
        version: env!("CARGO_PKG_VERSION"),
        started: Timestamp::now(),
        begun: Instant::now(),
        config: effective_config(invocation.complete_config(line), settings).to_json(),
        flags: line.flag_values(),
    }
}

/// The configuration with what the defaults of addresses, mode and the bit of steering mean on this node.
pub fn effective_config(mut config: ConfigFile, settings: &Settings) -> ConfigFile {
    let text = |addr: Option<SocketAddr>| addr.map(|addr| addr.to_string()).unwrap_or_default();
    config.proxy.mode = "ipvs".to_owned();
    config.proxy.healthz_bind_address = text(settings.healthz);
    config.proxy.metrics_bind_address = text(settings.metrics);
    config.ipvs.steer_mark_bit = Some(settings.reconcile.planner.layout.steer_bit.into());
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::testing::command_line;

    const FILE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                        bindAddress: '::'\nipvs: {scheduler: lc, syncPeriod: 45s}\n";

    /// Conformance: app TestConfigz
    #[test]
    fn the_pages_show_the_configuration_in_effect_and_the_flags_as_typed() {
        let line = command_line(&[
            "--graceful-timeout=1m",
            "--ipvs-scheduler=wrr",
            "--service-cidrs=10.0.0.0/16,fd00::/112",
        ]);
        let invocation = Invocation::new(&line, Some(FILE)).unwrap();
        let process = of(&line, &invocation, &Settings::new(&invocation).unwrap());
        let config: serde_json::Value = serde_json::from_str(&process.config).unwrap();
        let of_proxy = |path: &str| config["kubeproxy.config.k8s.io"].pointer(path).cloned();
        for (path, value) in [
            ("/mode", "ipvs"),
            ("/metricsBindAddress", "[::1]:10249"),
            ("/ipvs/scheduler", "lc"),
            ("/ipvs/syncPeriod", "45s"),
            ("/ipvs/minSyncPeriod", "0s"),
            ("/hostnameOverride", "n1"),
        ] {
            assert_eq!(of_proxy(path), Some(value.into()), "{path}");
        }
        assert_eq!(config["kube-ipvs.io"]["gracefulTimeout"], "1m0s");
        assert_eq!(config["kube-ipvs.io"]["gracefulSilence"], "3s", "a default");
        let flag = |name: &str| process.flags.get(name).map(String::as_str);
        assert_eq!(flag("ipvs-scheduler"), Some("wrr"), "the file wins, and this is what was typed");
        assert_eq!(flag("service-cidrs"), Some("10.0.0.0/16,fd00::/112"));
        assert_eq!(flag("graceful-silence"), Some("3s"));
        assert_eq!(flag("kubeconfig"), Some(""));
        assert_eq!([flag("help"), flag("logtostderr")], [None, None]);
    }
}
