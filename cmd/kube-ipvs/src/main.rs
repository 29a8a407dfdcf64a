//! kube-ipvs: programs Linux IPVS from Kubernetes Services, in the place of kube-proxy.
//!
//! The binary only wires: flags become one validated [`config::Settings`], which becomes a loop over the kernel tables
//! ([`run`]) or one of the one-shot commands ([`commands`]).

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod advice;
mod clock;
mod commands;
mod config;
mod conn_reuse;
mod drain_saver;
mod drains;
mod flags;
mod go;
mod kernel_tables;
mod observers;
mod output;
mod run;
mod source;
mod state_dir;

use std::process::ExitCode;

use crate::{
    config::Settings,
    flags::{Cli, Command},
};

fn main() -> ExitCode {
    kernel::share_one_arena();
    kernel::keep_heap();
    let cli = flags::parse(std::env::args_os());
    match execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("kube-ipvs: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> anyhow::Result<()> {
    if let Some(Command::Version) = cli.command {
        return commands::version();
    }
    let settings = Settings::new(&cli.flags)?;
    telemetry::init_logging(settings.log_format, settings.verbosity);
    match cli.command {
        None => run::run(&settings),
        Some(Command::Plan) => commands::plan(&settings),
        Some(Command::Drains { output, watch }) => drains::drains(&settings, output, watch),
        Some(Command::Cleanup) => commands::cleanup(&settings),
        Some(Command::Version) => Ok(()),
    }
}
