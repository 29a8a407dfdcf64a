//! kube-ipvs: programs Linux IPVS from Kubernetes Services, in the place of kube-proxy.
//!
//! The binary only wires: flags and a file ([`invocation`]) become one validated [`config::Settings`], which becomes a
//! loop over the kernel tables ([`run`]) or one of the one-shot commands ([`commands`]).

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod advice;
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
mod allocator;
mod clock;
mod commands;
mod config;
mod config_watch;
mod conn_reuse;
mod drain_saver;
mod drains;
mod events;
mod flags;
mod invocation;
mod kernel_tables;
mod leftovers;
mod measures;
mod observers;
mod output;
mod process;
mod restart;
mod run;
mod source;
mod state_dir;

use std::process::ExitCode;

use crate::{
    config::Settings,
    flags::{Command, Task},
    invocation::{CommandLine, Invocation},
    restart::Stopped,
};

fn main() -> ExitCode {
    kernel::share_one_arena();
    kernel::keep_heap();
    let line = CommandLine::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match execute(&line).and_then(|stopped| stopped.follow(line.args())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Who collects the log of the process wants its last words in the same form.
            if line.cli.task() == Task::Run && tracing::dispatcher::has_been_set() {
                tracing::error!("kube-ipvs ends: {error:#}");
            } else {
                output::complain(&format!("kube-ipvs: {error:#}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(line: &CommandLine) -> anyhow::Result<Stopped> {
    let task = line.cli.task();
    if let Task::Version(request) = task {
        commands::version(request)?;
        return Ok(Stopped::Done);
    }
    let text = line.read_file()?;
    let invocation = Invocation::new(line, text.as_deref())?;
    let settings = Settings::new(&invocation)?;
    telemetry::init_logging(settings.log_format, settings.verbosity);
    match task {
        Task::Run => {
            let process = process::of(line, &invocation, &settings);
            return run::run(&settings, process, config_watch::of(line, text, &invocation));
        }
        Task::Command(Command::Plan) => commands::plan(&settings)?,
        Task::Command(Command::Drains { output, watch }) => drains::drains(&settings, output, watch)?,
        Task::Command(Command::Cleanup) => commands::cleanup(&settings)?,
        Task::Init => commands::init(&settings)?,
        Task::WriteConfig(path) => commands::write_config(path, invocation.complete_config(line), &settings)?,
        Task::Version(_) | Task::Command(Command::Version) => {}
    }
    Ok(Stopped::Done)
}
