//! A scheduler whose module is not installed.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use e2e::{
    manifest::Service,
    net::{PodNetwork, cluster_ip},
    probe::Proto,
};
use testkit::{try_run, wait_for, wait_until};

use crate::testbed::{Testbed, WAIT_LIMIT, ask_all};

/// The module of a scheduler, moved away until this is dropped.
struct Hidden {
    module: PathBuf,
    aside: PathBuf,
}

impl Hidden {
    fn new(scheduler: &str) -> Hidden {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
        let directory = format!("/lib/modules/{}/kernel/net/netfilter/ipvs", release.trim());
        let module = PathBuf::from(format!("{directory}/ip_vs_{scheduler}.ko"));
        let hidden = Hidden { aside: module.with_extension("hidden"), module };
        fs::rename(&hidden.module, &hidden.aside).expect("hide the module");
        // Another test may have used the module; its network namespace ends some time after it.
        let loaded = format!("/sys/module/ip_vs_{scheduler}");
        wait_until(WAIT_LIMIT, "the module to be unloaded", || {
            let _ = try_run(&["rmmod", &format!("ip_vs_{scheduler}")]);
            !fs::exists(&loaded).unwrap_or_default()
        });
        hidden
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = fs::rename(&self.aside, &self.module);
    }
}

fn get(testbed: &Testbed, port: u16, path: &str) -> Result<String, String> {
    let request = || {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    testbed.net.node.enter(request).map_err(|error| error.to_string())
}

#[track_caller]
fn wait_says(testbed: &Testbed, page: &Page, part: &str, says: bool) {
    let Page { port, path } = *page;
    wait_for(WAIT_LIMIT, &format!("{path} to say {part}: {says}"), || match get(testbed, port, path)? {
        text if text.contains(part) == says => Ok(()),
        text => Err(text),
    });
}

/// A page that kube-ipvs serves on the node.
struct Page {
    port: u16,
    path: &'static str,
}

const READYZ: Page = Page { port: 10_256, path: "/readyz" };
const METRICS: Page = Page { port: 10_249, path: "/metrics" };

#[test]
fn without_the_module_of_the_default_scheduler_services_work_and_the_node_says_so_slow() {
    let hidden = Hidden::new("ovf");
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
    let all = testbed.ready(1..=2);
    testbed.manifests.serve(&service, &all);
    testbed.start(&["--ipvs-scheduler=ovf"]);
    testbed.wait_served(&service, &all);
    ask_all(&testbed.net.outside_client(), &service);
    let scheduler = |testbed: &Testbed| {
        let ipvs = testbed.ipvs();
        ipvs.get(Proto::Tcp, cluster_ip(80).port(80)[0]).map(|vs| vs.scheduler.clone()).unwrap_or_default()
    };
    assert_eq!(scheduler(&testbed), "rr");
    wait_says(&testbed, &READYZ, r#"{"code":"scheduler-unavailable","word":"ovf","blocks":false}"#, true);
    wait_says(&testbed, &READYZ, r#""ready":true"#, true);
    wait_says(&testbed, &METRICS, r#"kube_ipvs_scheduler_unavailable{scheduler="ovf"} 1"#, true);
    let lines =
        testbed.proxy().log_lines(&["WARN", "no scheduler ovf (--ipvs-scheduler)", "modprobe ip_vs_ovf"]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    drop(hidden);
    // kube-ipvs asks the kernel again after half a minute.
    wait_until(2 * WAIT_LIMIT, "the scheduler to be used", || scheduler(&testbed) == "ovf");
    wait_says(&testbed, &READYZ, "scheduler-unavailable", false);
    wait_says(&testbed, &METRICS, "kube_ipvs_scheduler_unavailable{", false);
    ask_all(&testbed.net.outside_client(), &service);
}
