//! `cargo xtask bench`: measures, prints a table, writes JSON and a picture.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use benches::{
    kinds::{self, Setup},
    noise::Probe,
    objects::Size,
    product,
    programming::{self, Bench},
    report::{Results, Run, SizeResults},
    running::{self, Samples},
    vips,
};
use clap::Parser;

/// Measures kube-ipvs on this machine's kernel; needs root and IPVS.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Fewer sizes and fewer samples.
    #[arg(long)]
    quick: bool,
    /// Services of all kinds, and node ports on nodes with 1, 4 and 16 addresses, instead of the usual run; with
    /// --services, only the former.
    #[arg(long)]
    kinds: bool,
    /// VIPs alone, in each way in which they may be bound, instead of the usual run.
    #[arg(long)]
    vips: bool,
    /// Numbers of Services, with ten endpoints each.
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    services: Vec<usize>,
}

impl Cli {
    fn sizes(&self) -> Vec<Size> {
        let services = match (&*self.services, self.quick) {
            ([], true) => &[100, 1_000][..],
            ([], false) => &[100, 1_000, 10_000],
            (given, _) => given,
        };
        services.iter().copied().map(Size::of).collect()
    }

    /// Samples of a run; the idle time holds one audit, or two.
    fn samples(&self) -> Samples {
        if self.quick {
            Samples { changes: 30, idle: Duration::from_secs(32) }
        } else {
            Samples { changes: 200, idle: Duration::from_secs(62) }
        }
    }
}

fn main() -> Result<()> {
    let start = Instant::now();
    let cli = Cli::parse();
    let variable = |name: &str| std::env::var_os(name).with_context(|| format!("{name} is not set"));
    let binary = PathBuf::from(variable("KUBE_IPVS_BIN")?);
    let destination = PathBuf::from(variable("KUBE_IPVS_RESULTS")?);
    let mut run = Run::here(product::version(&binary)?, cli.quick)?;
    println!("{}\n{}", run.line(), run.caution());
    let scratch = testkit::TempDir::new("kube-ipvs-bench");
    let bench = Bench { binary, scratch: scratch.path().to_owned() };
    let mut probe = Probe::default();
    let mut progress = |what: &str| {
        println!("[{:5.1} s] {what}", start.elapsed().as_secs_f64());
        probe.sample();
    };
    if cli.vips {
        let cases = vips::measure(scratch.path(), |case| print!("{}", case.line()))?;
        run.seconds = start.elapsed().as_secs_f64();
        run.noise = probe.noise();
        let results = vips::Results { run, cases };
        println!("\n{}\n{}", results.table(), results.store(&destination)?.display());
        return Ok(());
    }
    if cli.kinds {
        progress("warming up: modules are loaded, programs are in memory");
        kinds::measure(&bench, Setup::WARM_UP).context("warming up")?;
        let mut cases = Vec::new();
        let given = Setup::mixed(&cli.services);
        for setup in if given.is_empty() { Setup::all(cli.quick) } else { given } {
            progress(&setup.name());
            let case = kinds::measure(&bench, setup).with_context(|| setup.name())?;
            print!("{}", case.line());
            cases.push(case);
        }
        progress("done");
        run.seconds = start.elapsed().as_secs_f64();
        run.noise = probe.noise();
        let results = kinds::Results { run, cases };
        println!("\n{}\n{}", results.table(), results.store(&destination)?.display());
        return Ok(());
    }
    progress("warming up: modules are loaded, programs are in memory");
    programming::measure(&bench, Size::of(10)).context("warming up")?;
    let mut sizes = Vec::new();
    for size in cli.sizes() {
        let Size { services, endpoints } = size;
        progress(&format!("{services} x {endpoints}: programming"));
        let programming = programming::measure(&bench, size)?;
        progress(&format!("{services} x {endpoints}: running"));
        let running = running::measure(&bench, size, cli.samples())?;
        sizes.push(SizeResults { size, programming, running });
    }
    progress("done");
    run.seconds = start.elapsed().as_secs_f64();
    run.noise = probe.noise();
    let results = Results::new(run, sizes);
    println!("\n{}", results.table());
    for path in results.store(&destination)? {
        println!("{}", path.display());
    }
    Ok(())
}
