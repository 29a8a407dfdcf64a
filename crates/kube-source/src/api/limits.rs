//! Limits of time and size for requests.

use std::time::Duration;

/// Limits of requests. No wait for a server is without one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest wait for the head of a response, and between two parts of a list or of one line of a watch.
    /// The API server itself lets requests queue for up to 15 s (a quarter of `--request-timeout`, API
    /// Priority and Fairness).
    pub response: Duration,
    /// Longest duration of a whole list, of a page, or of the beginning of a streaming list. The API server
    /// ends its answers itself after a minute (`--request-timeout`).
    pub list: Duration,
    /// Longest time without a complete line of a watch, which then ends and is resumed. API servers send a
    /// bookmark about every minute (`bookmarkFrequency` in
    /// staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go), but none while they know of nothing newer
    /// than the version with which the watch began (`process` in `cache_watcher.go`). Without etcd's
    /// `--watch-progress-notify-interval`, that lasts until an object of that kind is written.
    pub silence: Duration,
    /// The same for the beginning of a streaming list: servers that do not know it stay silent after the last
    /// object.
    pub first_silence: Duration,
    /// Longest wait for the first list of a kind that is not vital, and for the Node to be in it; kube-proxy waits as
    /// long for the Node (`NewNodeManager` in pkg/proxy/node.go).
    pub patience: Duration,
    /// Pause between two requests for a kind that is not vital and that the server does not have or does not
    /// show.
    pub absence: Duration,
    /// Least age at which a connection is replaced; the greatest is a half more. Each is replaced when its
    /// watch ends. Otherwise connections that moved to other API servers during an upgrade would never come
    /// back.
    pub connection: Duration,
    /// Least time between two reads of the credentials after failures.
    pub renewal: Duration,
    /// Longest run of an exec credential plugin.
    pub plugin: Duration,
    /// Objects on one page of a list, as in client-go's pager.
    pub page: u32,
    /// Size of the largest list, or page of one, that is read.
    pub list_bytes: usize,
    /// Length of the longest line of a watch, that is, of the largest object; by default etcd stores none of
    /// more than 1.5 MiB.
    pub line_bytes: usize,
    /// Rate of events.
    pub events: EventLimits,
}

/// Rate at which one node writes events, of which in a large cluster many nodes have the same.
#[derive(Clone, Debug)]
pub struct EventLimits {
    /// Events that may be written at once, after none for a while (`defaultSpamBurst` in
    /// tools/record/events_cache.go of client-go).
    pub burst: u32,
    /// Time after which one more may be written.
    pub refill: Duration,
    /// Time over which nodes spread what all of them see.
    pub spread: Duration,
    /// Pause after the first failure; it doubles with each further one.
    pub retry: Duration,
}

impl Default for EventLimits {
    fn default() -> Self {
        EventLimits {
            burst: 25,
            refill: Duration::from_secs(5),
            spread: Duration::from_secs(30),
            retry: Duration::from_secs(1),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            response: Duration::from_secs(30),
            list: Duration::from_mins(1),
            silence: Duration::from_secs(150),
            first_silence: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            absence: Duration::from_mins(5),
            connection: Duration::from_mins(10),
            renewal: Duration::from_secs(10),
            plugin: Duration::from_mins(1),
            page: 500,
            list_bytes: 1 << 30,
            line_bytes: 32 << 20,
            events: EventLimits::default(),
        }
    }
}
