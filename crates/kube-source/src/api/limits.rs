//! How long and how much is waited for.

use std::time::Duration;

/// Limits of requests. Nothing that a server does or leaves undone is waited for without one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For the head of a response, and between two parts of a list or of a line of a watch. The API server itself lets
    /// requests queue for up to 15 s (a quarter of `--request-timeout`, API Priority and Fairness).
    pub response: Duration,
    /// For a whole list, a page of one, or the begin of a streaming list. The API server ends its answers itself after
    /// a minute (`--request-timeout`).
    pub list: Duration,
    /// A watch without a complete line for so long is given up and resumed. API servers send a bookmark about every
    /// minute (`bookmarkFrequency` in staging/src/k8s.io/apiserver/pkg/storage/cacher/cacher.go), but none at all while
    /// they know of nothing newer than what the watch began with (`process` in `cache_watcher.go`): without etcd's
    /// `--watch-progress-notify-interval`, until an object of that kind is written.
    pub silence: Duration,
    /// The same for the begin of a streaming list: servers that do not know it stay silent after the last object.
    pub first_silence: Duration,
    /// Until a kind that is not vital has been listed; kube-proxy waits as long for the Node (`NewNodeManager` in
    /// pkg/proxy/node.go).
    pub patience: Duration,
    /// Between two requests for a kind that is not vital and that the server does not have or does not show.
    pub absence: Duration,
    /// Connections are replaced after this time or up to a half more, each when its watch ends: only so those that
    /// moved to other API servers during an upgrade come back.
    pub connection: Duration,
    /// Credentials are read again at most this often after failures.
    pub renewal: Duration,
    /// For an exec credential plugin.
    pub plugin: Duration,
    /// Objects of one page of a list, as in client-go's pager.
    pub page: u32,
    /// Longest list, or page of one, that is read.
    pub list_bytes: usize,
    /// Longest line of a watch, that is, the largest object; etcd takes none of more than 1.5 MiB by default.
    pub line_bytes: usize,
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
        }
    }
}
