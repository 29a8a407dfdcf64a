//! One step of a rolling update, in the order in which a Deployment and the kubelet do it.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::{try_wait_for, wait_for};

use super::examples::Examples;
use super::screen::Screen;
use crate::net::{Both, Net, Pod};
use crate::observe::ipvs;

/// How long the demo waits for the old real servers to go before it moves on and says so.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What became of an old pod's real servers.
pub struct Gone {
    /// The pod.
    pub pod: String,
    /// From turning terminating to the end of its process.
    pub killed: Duration,
    /// From turning terminating to the removal of its last real server; `None` if that did not happen in time.
    pub removed: Option<Duration>,
}

/// What a rolling update needs besides the pods.
pub struct Rollout<'a> {
    /// Where to say what happens.
    pub screen: &'a Screen,
    /// The world.
    pub net: &'a Net,
    /// The manifests that are edited.
    pub examples: &'a mut Examples,
}

impl Rollout<'_> {
    /// Put `new` in the place of `old`, whose process ends `grace` after it turned terminating.
    pub fn replace(&mut self, old: Pod, new: &Pod, grace: Duration) -> Result<Gone> {
        let (net, name) = (self.net, old.name.clone());
        self.examples.add_like(old.address, new.address, &new.name)?;
        wait_for(PATIENCE, &format!("{} to become a real server", new.name), || {
            if real_servers(net, new.address) > 0 { Ok(()) } else { Err("it is none yet") }
        });
        self.screen.step(&format!("{} ({}) is ready and a real server", new.name, new.address.v4));
        self.examples.terminate(old.address)?;
        let terminating = Instant::now();
        self.screen.step(&format!("{name} ({}) turns terminating", old.address.v4));
        let address = old.address;
        let gone = std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let look = || if real_servers(net, address) == 0 { Ok(()) } else { Err("still there") };
                let removed = try_wait_for(PATIENCE, "the real servers to go", look);
                removed.ok().map(|()| terminating.elapsed())
            });
            let killed = self.end(old, terminating + grace)?;
            let killed = killed.duration_since(terminating);
            anyhow::Ok(Gone { pod: name, killed, removed: watch.join().unwrap_or_default() })
        })?;
        self.screen.step(&match gone.removed {
            Some(removed) => {
                format!("{}: its real servers were gone after {:.1} s", gone.pod, removed.as_secs_f64())
            }
            None => format!("{}: its real servers are still there", gone.pod),
        });
        Ok(gone)
    }

    /// At `due` the process ends, then the network goes, then the endpoint leaves its slices.
    fn end(&mut self, mut pod: Pod, due: Instant) -> Result<Instant> {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        pod.kill();
        let killed = Instant::now();
        pod.disconnect();
        self.screen.step(&format!("{}: its process and its network are gone", pod.name));
        self.examples.remove(pod.address)?;
        Ok(killed)
    }
}

/// Real servers with one of these addresses, in all virtual servers, draining ones included.
fn real_servers(net: &Net, address: Both) -> usize {
    let ipvs = ipvs(&net.node);
    ipvs.servers
        .values()
        .flat_map(|server| server.real.keys())
        .filter(|real| address.contains(real.ip()))
        .count()
}
