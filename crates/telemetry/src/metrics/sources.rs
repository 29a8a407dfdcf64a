//! Metrics of the sources of objects, and of the program itself.

use prometheus::{IntCounterVec, IntGaugeVec, core::Collector};

use super::{catch_up, counters, gauges};

/// Metrics of the sources of objects, by kind (`services`, `endpointslices`, `nodes`, `servicecidrs`).
#[derive(Debug)]
pub struct SourceMetrics {
    following: IntGaugeVec,
    lists: IntCounterVec,
    errors: IntCounterVec,
    requests: IntCounterVec,
    build: IntGaugeVec,
}

impl SourceMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let metrics = SourceMetrics {
            following: gauges(
                "kube_ipvs_source_following",
                "1 while changes of the kind arrive, else 0",
                &["kind"],
            )?,
            lists: counters(
                "kube_ipvs_source_lists_total",
                "Complete lists of a kind: one at the start, others after a watch could not be resumed",
                &["kind"],
            )?,
            errors: counters(
                "kube_ipvs_source_errors_total",
                "Requests for a kind that ended in a way that keeps changes from arriving, by code as in /readyz",
                &["kind", "code"],
            )?,
            requests: counters(
                "rest_client_requests_total",
                "Requests to the API server, by status (<error> without an answer), method and host",
                &["code", "host", "method"],
            )?,
            build: gauges("kube_ipvs_build_info", "Version of the program; always 1", &["version"])?,
        };
        metrics.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(metrics)
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.following.clone()),
            Box::new(self.lists.clone()),
            Box::new(self.errors.clone()),
            Box::new(self.requests.clone()),
            Box::new(self.build.clone()),
        ]
    }

    /// Sets whether changes of a kind arrive.
    pub fn set_following(&self, kind: &str, following: bool) {
        self.following.with_label_values(&[kind]).set(i64::from(following));
    }

    /// Sets the number of complete lists of a kind so far.
    pub fn set_lists(&self, kind: &str, total: u64) {
        catch_up(&self.lists.with_label_values(&[kind]), total);
    }

    /// Sets the number of failures so far.
    pub fn set_errors(&self, kind: &str, code: &str, total: u64) {
        catch_up(&self.errors.with_label_values(&[kind, code]), total);
    }

    /// Sets the number of requests so far; `status` is `None` for those without an answer.
    pub fn set_requests(&self, status: Option<u16>, host: &str, method: &str, total: u64) {
        let code = status.map_or_else(|| "<error>".to_owned(), |status| status.to_string());
        catch_up(&self.requests.with_label_values(&[code.as_str(), host, method]), total);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crate::Metrics;

    #[test]
    fn sources_and_the_version() {
        let metrics = Metrics::new([]).unwrap();
        metrics.sources.set_following("services", false);
        metrics.sources.set_following("services", true);
        metrics.sources.set_lists("services", 1);
        metrics.sources.set_errors("nodes", "forbidden", 1);
        metrics.sources.set_requests(Some(200), "10.0.0.1:6443", "GET", 1);
        metrics.sources.set_requests(None, "10.0.0.1:6443", "GET", 1);
        let text = metrics.render(Instant::now()).unwrap();
        for line in [
            "kube_ipvs_source_following{kind=\"services\"} 1",
            "kube_ipvs_source_lists_total{kind=\"services\"} 1",
            "kube_ipvs_source_errors_total{code=\"forbidden\",kind=\"nodes\"} 1",
            "rest_client_requests_total{code=\"200\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
            "rest_client_requests_total{code=\"<error>\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
            &format!("kube_ipvs_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
