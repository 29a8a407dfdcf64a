//! One step of a rolling update, in the order in which a Deployment and the kubelet do it.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::wait_for;

use super::{examples::Examples, screen::Screen};
use crate::{
    net::{Both, Net, Pod},
    observe::ipvs,
};

/// Time for what must happen before the next step.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// An old pod on its way out.
pub struct Old {
    /// Name of the pod.
    pub name: String,
    /// Its addresses, at which its real servers may have any port.
    pub address: Both,
    /// Time at which it turned terminating.
    pub terminating: Instant,
}

/// Parts of a rolling update besides the pods.
pub struct Rollout<'a> {
    /// Screen that shows what happens.
    pub screen: &'a Screen,
    /// Node, pods and client.
    pub net: &'a Net,
    /// Manifests that are edited.
    pub examples: &'a mut Examples,
}

impl Rollout<'_> {
    /// Puts `new` in the place of `old`, whose process ends `grace` after it turned terminating.
    pub fn replace(&mut self, mut old: Pod, new: &Pod, grace: Duration) -> Result<Old> {
        let (net, name) = (self.net, old.name.clone());
        self.examples.add_like(old.address, new.address, &new.name)?;
        wait_for(STEP_TIMEOUT, &format!("{} to become a real server", new.name), || {
            if real_servers(net, new.address, |_| true) > 0 { Ok(()) } else { Err("it is none yet") }
        });
        self.examples.terminate(old.address)?;
        let gone = Old { name, address: old.address, terminating: Instant::now() };
        wait_for(STEP_TIMEOUT, &format!("{} to take no new connections", gone.name), || {
            if real_servers(net, old.address, |weight| weight > 0) == 0 {
                Ok(())
            } else {
                Err("it still does")
            }
        });
        std::thread::sleep(grace.saturating_sub(gone.terminating.elapsed()));
        // The process ends, then the network goes, then the endpoint leaves its slices.
        old.kill();
        let killed = gone.terminating.elapsed();
        old.disconnect();
        self.examples.remove(old.address)?;
        self.screen.step(&format!(
            "{} takes the place of {}, which ended {:.1} s after it turned terminating",
            new.name,
            gone.name,
            killed.as_secs_f64()
        ));
        Ok(gone)
    }
}

/// Counts real servers with one of these addresses, in all virtual servers, with such a weight.
fn real_servers(net: &Net, address: Both, weight: impl Fn(u32) -> bool) -> usize {
    let ipvs = ipvs(&net.node);
    let all = ipvs.servers.values().flat_map(|server| &server.real);
    all.filter(|(real, is)| address.contains(real.ip()) && weight(**is)).count()
}
