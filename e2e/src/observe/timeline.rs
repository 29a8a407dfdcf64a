//! Times at which real servers came, stopped taking new connections, and went, as `ipvsadm` saw it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use testkit::NetNs;

use super::{Ipvs, ipvs};

/// Pause between two looks: fine enough for limits of a second, rare enough not to be the load of a slow
/// guest.
const LOOK_PAUSE: Duration = Duration::from_millis(60);

/// One look at the virtual servers.
#[derive(Debug)]
struct Look {
    /// Time of the answer: what it shows had happened by then.
    at: Instant,
    ipvs: Ipvs,
}

/// A recording of all virtual servers, from its start until it is dropped.
#[derive(Debug)]
pub struct Timeline {
    stop: Arc<AtomicBool>,
    /// Looks that differ from the one before.
    looks: Arc<Mutex<Vec<Look>>>,
    /// Time of each look, and its distance from the one before.
    gaps: Arc<Mutex<Vec<(Instant, Duration)>>>,
    watcher: Option<JoinHandle<()>>,
}

impl Timeline {
    /// Starts a recording; it has taken the first look when this returns.
    pub fn record(node: &NetNs) -> Timeline {
        let looks = Arc::new(Mutex::new(vec![Look { at: Instant::now(), ipvs: ipvs(node) }]));
        let (stop, gaps) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (node, stopped) = (node.clone(), Arc::clone(&stop));
        let (kept, times) = (Arc::clone(&looks), Arc::clone(&gaps));
        let watcher = std::thread::spawn(move || {
            let mut before = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let look = Look { ipvs: ipvs(&node), at: Instant::now() };
                lock(&times).push((look.at, look.at.duration_since(before)));
                before = look.at;
                let mut looks = lock(&kept);
                if looks.last().is_none_or(|last| last.ipvs != look.ipvs) {
                    looks.push(look);
                }
                drop(looks);
                std::thread::sleep(LOOK_PAUSE);
            }
        });
        Timeline { stop, looks, gaps, watcher: Some(watcher) }
    }

    /// Time, after `since`, at which they were first seen to be nobody's real servers; `None` as long as one
    /// is.
    pub fn removed(&self, real: &[SocketAddr], since: Instant) -> Option<Instant> {
        self.first(since, |ipvs| weights(ipvs, real).next().is_none())
    }

    /// Time, after `since`, at which they were first seen to take no new connections, whatever the virtual
    /// server.
    pub fn quiesced(&self, real: &[SocketAddr], since: Instant) -> Option<Instant> {
        self.first(since, |ipvs| weights(ipvs, real).all(|weight| weight == 0))
    }

    /// Time, after `since`, at which they were first seen to take new connections wherever they are real
    /// servers.
    pub fn serving(&self, real: &[SocketAddr], since: Instant) -> Option<Instant> {
        let serves = |ipvs: &Ipvs| {
            let mut weights = weights(ipvs, real).peekable();
            weights.peek().is_some() && weights.all(|weight| weight > 0)
        };
        self.first(since, serves)
    }

    /// Number of looks at which fewer of them were real servers than at the first one.
    pub fn missed(&self, real: &[SocketAddr]) -> usize {
        let looks = lock(&self.looks);
        let whole = weights(&looks[0].ipvs, real).count();
        looks.iter().filter(|look| weights(&look.ipvs, real).count() < whole).count()
    }

    /// Longest time between two looks since then: by so much the recording may be late, and so slow was the
    /// guest to run one small program.
    pub fn slowest(&self, since: Instant) -> Duration {
        let gaps = lock(&self.gaps);
        gaps.iter().filter(|(at, _)| *at >= since).map(|(_, gap)| *gap).max().unwrap_or_default()
    }

    fn first(&self, since: Instant, holds: impl Fn(&Ipvs) -> bool) -> Option<Instant> {
        let looks = lock(&self.looks);
        // The last look before `since` shows the state at that moment.
        let begin = looks.iter().rposition(|look| look.at <= since).unwrap_or(0);
        looks[begin..].iter().find(|look| holds(&look.ipvs)).map(|look| look.at.max(since))
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn weights(ipvs: &Ipvs, real: &[SocketAddr]) -> impl Iterator<Item = u32> {
    let servers = ipvs.servers.values().chain(ipvs.marked.values());
    let all = servers.flat_map(|server| &server.real);
    all.filter(|(address, _)| real.contains(address)).map(|(_, weight)| *weight)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::{Look, Timeline};
    use crate::net::pod_address;
    use crate::observe::parse_ipvs;

    #[test]
    fn moments_are_the_first_looks_that_show_them() {
        let begin = Instant::now();
        let after = |milliseconds| begin + Duration::from_millis(milliseconds);
        let look = |milliseconds, weight: Option<u32>| {
            let real =
                weight.map(|weight| format!("-a -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w {weight}\n"));
            let text = format!("-A -t 10.96.0.80:80 -s rr\n{}", real.unwrap_or_default());
            Look { at: after(milliseconds), ipvs: parse_ipvs(&text) }
        };
        let looks = vec![look(0, Some(1)), look(100, Some(0)), look(200, None), look(300, Some(1))];
        let timeline = Timeline {
            stop: Arc::default(),
            looks: Arc::new(Mutex::new(looks)),
            gaps: Arc::default(),
            watcher: None,
        };
        let pod = &pod_address(11).port(8080);
        assert_eq!(timeline.serving(pod, begin), Some(begin));
        assert_eq!(timeline.quiesced(pod, after(50)), Some(after(100)));
        assert_eq!(timeline.removed(pod, after(50)), Some(after(200)));
        assert_eq!(timeline.removed(pod, after(250)), Some(after(250)));
        assert_eq!(timeline.serving(pod, after(50)), Some(after(50)));
        assert_eq!(timeline.removed(pod, after(300)), None);
        assert_eq!((timeline.missed(pod), timeline.missed(&pod_address(12).port(8080))), (1, 0));
    }
}
