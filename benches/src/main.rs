//! `cargo xtask bench`: measures, prints a table, writes JSON and a picture.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use benches::{
    exact,
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
    /// 50,000 Services, 20,000 of them with a node port, instead of the usual run; needs 6 GiB of memory.
    #[arg(long, conflicts_with_all = ["kinds", "services"])]
    large: bool,
    /// VIPs alone, in each way in which they may be bound, instead of the usual run.
    #[arg(long)]
    vips: bool,
    /// Instructions instead of times, on an emulator that counts them.
    #[arg(long)]
    exact: bool,
    /// Instructions that each chain of the packet rules costs, instead of the usual exact run.
    #[arg(long, requires = "exact")]
    parts: bool,
    /// Results of an earlier exact run to compare with; a figure of kube-ipvs that is more than 5 % higher is an error.
    #[arg(long, value_name = "FILE", requires = "exact")]
    against: Option<PathBuf>,
    /// Reason why figures may be worse than before; stands in the results.
    #[arg(long, requires = "exact")]
    reason: Option<String>,
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
    println!("{}", run.line());
    if !cli.exact {
        println!("{}", run.caution());
    }
    let scratch = testkit::TempDir::new("kube-ipvs-bench");
    let bench = Bench { binary, scratch: scratch.path().to_owned() };
    let mut probe = Probe::default();
    let mut progress = |what: &str| {
        println!("[{:5.1} s] {what}", start.elapsed().as_secs_f64());
        probe.sample();
    };
    if cli.parts {
        let parts = exact::measure_parts(&bench, progress)?;
        println!("\n{}", exact::parts::table(&parts));
        return Ok(());
    }
    if cli.exact {
        let rows = exact::measure(&bench, cli.quick, progress)?;
        return report_exact(&cli, &run, &bench, rows, &destination);
    }
    if cli.vips {
        let cases = vips::measure(scratch.path(), |case| print!("{}", case.line()))?;
        run.end(start, probe);
        let results = vips::Results { run, cases };
        println!("\n{}\n{}", results.table(), results.store(&destination)?.display());
        return Ok(());
    }
    if cli.kinds || cli.large {
        let cases = measure_kinds(&cli, &bench, &mut progress)?;
        progress("done");
        run.end(start, probe);
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
    run.end(start, probe);
    let results = Results::new(run, sizes);
    println!("\n{}", results.table());
    for path in results.store(&destination)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Measures Services of all kinds.
fn measure_kinds(cli: &Cli, bench: &Bench, progress: &mut impl FnMut(&str)) -> Result<Vec<kinds::Case>> {
    progress("warming up: modules are loaded, programs are in memory");
    kinds::measure(bench, Setup::WARM_UP).context("warming up")?;
    let mut cases = Vec::new();
    let given = if cli.large { vec![Setup::LARGE] } else { Setup::mixed(&cli.services) };
    for setup in if given.is_empty() { Setup::all(cli.quick) } else { given } {
        progress(&setup.name());
        let case = kinds::measure(bench, setup).with_context(|| setup.name())?;
        print!("{}", case.line());
        cases.push(case);
    }
    Ok(cases)
}

/// Prints and stores the results of an exact run, and compares them with an earlier one.
fn report_exact(
    cli: &Cli,
    run: &Run,
    bench: &Bench,
    rows: Vec<exact::Row>,
    destination: &Path,
) -> Result<()> {
    let results = exact::report::Results {
        date: run.date.clone(),
        kernel: run.kernel.clone(),
        version: run.version.clone(),
        program_bytes: fs::metadata(&bench.binary)?.len(),
        reason: cli.reason.clone(),
        rows,
    };
    println!("\n{}", results.table());
    fs::create_dir_all(destination)?;
    let store = || results.store(&destination.join(results.file_name()));
    let Some(path) = &cli.against else { return store() };
    let before = exact::report::Results::load(path)?;
    let comparison = results.compare(&before);
    println!(
        "Compared with {}, Linux {}, {}:\n\n{}",
        before.date,
        before.kernel,
        before.version,
        comparison.table()
    );
    println!("largest difference of {} figures: {:.1} %", comparison.len(), comparison.largest() * 100.0);
    let unknown = results.rows.len() - comparison.len();
    ensure!(
        unknown == 0 || !cli.quick,
        "{unknown} figures are new: measure everything, and commit the results"
    );
    let worse: Vec<_> = comparison.worse().collect();
    let may_be_worse = worse.is_empty() || cli.reason.is_some();
    ensure!(
        may_be_worse,
        "more than 5 % worse than before; --reason=TEXT accepts that:\n{}",
        worse.join("\n")
    );
    store()
}
