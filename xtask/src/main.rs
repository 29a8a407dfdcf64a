//! Everything around the code: set-up, guests with real kernels, tests, the demo and the benchmarks.
//!
//! It depends on none of the other packages, because it installs the libraries that they link.

mod apt;
mod build;
mod checks;
mod command;
mod conformance;
mod deny;
mod exact;
mod fuzz;
mod guest;
mod guest_test;
mod image;
mod kernels;
mod libtest;
mod manifests;
mod monitoring;
mod paths;
mod schemas;
mod setup;
mod showcase;
mod tally;
mod tiers;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Tasks around kube-ipvs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Cli {
    /// Installs the Debian packages that the other commands need.
    Setup,
    /// Runs every tier of tests.
    Test(tiers::Test),
    /// Writes e2e/CONFORMANCE.md: what kube-proxy's tests demand, and which tests show it.
    Conformance(conformance::Conformance),
    /// Writes manifests/rendered: the objects of each way of installing.
    Manifests(manifests::Manifests),
    /// Writes the image as an OCI archive, with a bill of materials.
    Image(image::Image),
    /// Runs every parser of outside input on inputs made to break it.
    Fuzz(fuzz::Fuzz),
    /// Shows a rolling update on a real kernel.
    Demo(showcase::Showcase),
    /// Measures on a real kernel.
    Bench(showcase::Bench),
    /// Runs things on real kernels.
    #[command(subcommand)]
    Guest(guest::cli::GuestCommand),
    /// The program inside a guest.
    #[command(hide = true)]
    GuestAgent,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli {
        Cli::Setup => setup::ensure().map(|()| ExitCode::SUCCESS),
        Cli::Test(test) => Ok(test.run()),
        Cli::Conformance(conformance) => conformance.run(),
        Cli::Manifests(manifests) => manifests.run(),
        Cli::Image(image) => image.run(),
        Cli::Fuzz(fuzz) => fuzz.run(),
        Cli::Demo(showcase) => showcase.demo(),
        Cli::Bench(bench) => bench.run(),
        Cli::Guest(command) => command.run(),
        Cli::GuestAgent => guest::agent::serve().map(|()| ExitCode::SUCCESS),
    }
}
