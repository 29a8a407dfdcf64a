//! A rolling update of all pods of a Service under load, for people to watch; see `e2e::demo`.

use std::{panic::catch_unwind, process::ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The pods of the demo run this executable, too.
    let result = match words.split_first() {
        Some((first, rest)) if first == e2e::demo::PROBE_WORD => e2e::probe::cli::run(rest),
        _ => catch_unwind(e2e::demo::run).unwrap_or_else(|_| Err(anyhow::anyhow!("the reason is above"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}
