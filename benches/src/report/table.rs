//! The results as text.

use std::fmt::Write as _;

use super::{KubeProxy, Results, SizeResults, Verdict};
use crate::running::Idle;

/// A row: its title, and its value at each size.
type Row = (&'static str, fn(&SizeResults) -> String);

const PROGRAMMING: &[Row] = &[
    ("kube-ipvs, first write to last", |r| time(r.programming.product.first_to_last_write_ms)),
    ("  process start to last write (manifests)", |r| time(r.programming.product.start_to_last_write_ms)),
    ("  CPU time of the process", |r| time(r.programming.product.cpu_ms)),
    ("  its netlink writes replayed", |r| time(r.programming.replay_ms)),
    ("kube-ipvs, IPVS alone", |r| time(r.programming.ipvs_alone.all_ms)),
    ("  encoding and writing of it", |r| time(r.programming.ipvs_alone.apply_ms)),
    ("  its netlink writes replayed", |r| time(r.programming.replay_ipvs_ms)),
    ("ipvsadm -R, the same rules", |r| time(r.programming.ipvsadm.wall_ms)),
    ("messages that write / in so many sends", |r| {
        let netlink = &r.programming.counts.netlink;
        format!("{} / {}", netlink.write_messages, netlink.write_sends)
    }),
    ("system calls until programmed", |r| {
        r.programming.counts.system_calls.get("total").map_or("no strace".to_owned(), u64::to_string)
    }),
];

const RUNNING: &[Row] = &[
    ("cold start with an API server", |r| time(r.running.start_ms)),
    ("  before the first write / CPU time in all", |r| {
        format!("{} / {}", time(r.running.start_to_first_write_ms), time(r.running.start_cpu_ms))
    }),
    ("one change, API's answer to kernel, p50 / p99", |r| {
        let latency = &r.running.changes.answer_to_kernel;
        format!("{} / {}", time(latency.p50_ms), time(latency.p99_ms))
    }),
    ("one change, watch event to kernel, p50 / p99", |r| {
        let latency = &r.running.changes.event_to_kernel;
        format!("{} / {}", time(latency.p50_ms), time(latency.p99_ms))
    }),
    ("  how exactly the kernel was watched", |r| time(r.running.changes.resolution_ms)),
    ("  netlink sends / messages a change", |r| {
        let counts = &r.running.change_counts;
        format!("{:.1} / {:.1}", counts.sends_per_change, counts.messages_per_change)
    }),
    ("  system calls a change", |r| {
        r.running.change_counts.system_calls_per_change.map_or("no strace".to_owned(), |n| format!("{n:.0}"))
    }),
    ("burst of changes, all in the kernel", |r| {
        format!("{}: {}", r.running.burst.changes, time(r.running.burst.all_ms))
    }),
    ("  syncs", |r| r.running.burst.syncs.to_string()),
    ("restart until ready / writes", |r| {
        format!("{} / {}", time(r.running.restart.ready_ms), r.running.restart.writes)
    }),
    ("resident memory, peak / settled", |r| {
        let memory = &r.running.memory;
        format!("{:.1} / {:.1} MB", memory.peak_kb as f64 / 1e3, memory.settled_kb as f64 / 1e3)
    }),
    ("CPU when idle", |r| format!("{:.2} % of a core", r.running.idle.percent_of_a_core)),
    ("CPU with 1,000 real servers draining", |r| {
        let measured = |idle: &Idle| format!("{:.2} % of a core", idle.percent_of_a_core);
        r.running.draining.as_ref().map_or_else(|| "-".to_owned(), measured)
    }),
];

/// Renders the whole table.
pub fn render(results: &Results) -> String {
    let mut text =
        format!("{}\n{}\n{}\n", results.run.line(), results.run.caution(), results.run.disturbance());
    for (title, rows) in [("Programming an empty kernel", PROGRAMMING), ("Running", RUNNING)] {
        let _ = write!(text, "\n{title:<48}");
        for size in &results.sizes {
            let _ = write!(text, "{:>22}", format!("{} x {}", size.size.services, size.size.endpoints));
        }
        text.push('\n');
        for (name, value) in rows {
            let _ = write!(text, "{name:<48}");
            for size in &results.sizes {
                let _ = write!(text, "{:>22}", value(size));
            }
            text.push('\n');
        }
    }
    text.push_str("\nTargets\n");
    for verdict in &results.targets {
        text.push_str(&render_verdict(verdict));
    }
    text.push_str(&render_kube_proxy(&results.kube_proxy));
    text
}

fn render_verdict(verdict: &Verdict) -> String {
    let Verdict { target, measured, limit, unit, met } = verdict;
    let mark = if *met { "met   " } else { "MISSED" };
    format!("  {mark}  {target:<58}{measured:>10.2}  (limit {limit} {unit})\n")
}

fn render_kube_proxy(figures: &KubeProxy) -> String {
    let KubeProxy { note, programmed_ms, change_ms, full_sync_ms, idle_percent, resident_mb } = figures;
    format!(
        "\nFor comparison: {note}\n  programmed {}, one change {} to {}, full sync {}, idle {idle_percent} % of a core, {resident_mb} MB\n",
        time(*programmed_ms),
        time(change_ms[0]),
        time(change_ms[1]),
        time(*full_sync_ms),
    )
}

/// Renders milliseconds with three digits that count.
pub fn time(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 1_000.0 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_three_digits() {
        let shown = [97_412.0, 9_900.0, 123.4, 12.34, 1.234, 0.05].map(time);
        assert_eq!(shown, ["97.4 s", "9.90 s", "123 ms", "12.3 ms", "1.23 ms", "0.05 ms"]);
    }
}
