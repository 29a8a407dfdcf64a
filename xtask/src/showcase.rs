//! `cargo xtask demo` and `cargo xtask bench`: programs of the packages `e2e` and `benches` on a real kernel.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Error, Result, bail};
use clap::Args;

use crate::{
    build::{self, Executable},
    command,
    exact::{self, Exact},
    guest::{
        self,
        cli::{report, to_terminal},
        image::Image,
        protocol::Task,
        qemu::Clock,
    },
    guest_test::{add_programs, environment},
    kernels::{self, Kernel},
    paths, setup,
};

/// Time that no program takes, in seconds of the host.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(3 * 3600);

/// Folder for the results of a program that measures, which finds it in `KUBE_IPVS_RESULTS`.
pub const RESULTS: &str = "/results";

/// Variable that holds the commit which a program measures.
const COMMIT: &str = "KUBE_IPVS_COMMIT";

/// A program for people to watch.
#[derive(Debug)]
pub struct Program {
    package: &'static str,
    name: &'static str,
    /// Modules that it needs besides those that every kernel of ours has.
    modules: &'static [&'static str],
    /// Folder of its results, below the repository.
    results: Option<&'static str>,
}

const DEMO: Program = Program { package: "e2e", name: "demo", modules: &[], results: None };

/// The benchmark.
pub const BENCH: Program =
    Program { package: "benches", name: "bench", modules: &["nlmon"], results: Some("benches/results") };

/// Commands that give the program a network of its own: interfaces, sysfs and named namespaces.
const PRIVATE_NETWORK: &str = "mount -t sysfs sysfs /sys && mkdir -p /run/netns && \
    mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec \"$@\"";

/// Arguments of `demo` and `bench`.
#[derive(Debug, Args)]
pub struct Showcase {
    /// Runs in a guest with a kernel of this series, even if this host has IPVS.
    #[arg(long)]
    kernel: Option<String>,
    /// Memory of the guest in MiB.
    #[arg(long, default_value_t = guest::MEMORY_MIB)]
    memory: u32,
    /// Passed on to the program.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Counts instructions instead of time, in a guest whose clock does that. Compares with the committed results of the
    /// same kernel: a figure of kube-ipvs that is more than 5 % higher is an error.
    #[arg(long)]
    exact: bool,
    /// Measures a part only, in a few minutes, and leaves the committed results alone.
    #[arg(long, requires = "exact")]
    quick: bool,
    /// Prints what each chain of the packet rules costs, by measuring without it, and stores nothing.
    #[arg(long, requires = "exact", conflicts_with_all = ["quick", "runs", "reason"])]
    parts: bool,
    /// Number of runs, each in a guest of its own and compared with the one before.
    #[arg(long, default_value_t = 1, requires = "exact", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Reason why figures of kube-ipvs may be more than 5 % higher than the committed ones; stands in the results.
    #[arg(long, requires = "exact")]
    reason: Option<String>,
    #[command(flatten)]
    showcase: Showcase,
}

impl Bench {
    /// Measures.
    pub fn run(&self) -> Result<ExitCode> {
        if !self.exact {
            return self.showcase.bench();
        }
        if !self.showcase.arguments.is_empty() {
            bail!("--exact takes no arguments for the program: {:?}", self.showcase.arguments);
        }
        setup::ensure()?;
        let results = if self.quick { paths::guest_output()?.join("exact") } else { exact::committed() };
        let kernel = self.showcase.kernel_for(&BENCH)?;
        let Bench { quick, parts, ref reason, .. } = *self;
        let against = if parts { None } else { exact::comparable(&kernel)? };
        let memory = self.showcase.memory;
        let exact = Exact { kernel, quick, parts, memory, reason: reason.clone(), results };
        if parts {
            return exact.run(None);
        }
        exact.repeat(self.runs, against)
    }
}

impl Showcase {
    /// Runs the rolling update; returns the exit code of the program.
    pub fn demo(&self) -> Result<ExitCode> {
        self.run(&DEMO)
    }

    /// Measures, and copies the results to `benches/results`.
    fn bench(&self) -> Result<ExitCode> {
        self.run(&BENCH)
    }

    fn run(&self, program: &Program) -> Result<ExitCode> {
        setup::ensure()?;
        let programs = build(program)?;
        if self.kernel.is_none() && host_has_ipvs() {
            println!("This host has IPVS: running in a private network namespace");
            return self.on_host(program, &programs);
        }
        self.in_guest(program, &programs)
    }

    fn on_host(&self, program: &Program, programs: &[Executable]) -> Result<ExitCode> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", PRIVATE_NETWORK, "sh"]);
        command.arg(path_of(programs, program.name)?).args(&self.arguments);
        command.env("KUBE_IPVS_BIN", path_of(programs, "kube-ipvs")?);
        command.env("KUBE_IPVS_EXAMPLES", paths::repository().join("manifests/examples"));
        command.envs(commit().map(|commit| (COMMIT, commit)));
        if let Some(results) = program.results {
            let results = paths::repository().join(results);
            paths::create(&results)?;
            command.env("KUBE_IPVS_RESULTS", results);
        }
        let status = command.status().with_context(|| format!("starting {}", command::render(&command)))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    fn in_guest(&self, program: &Program, programs: &[Executable]) -> Result<ExitCode> {
        let kernel = self.kernel_for(program)?;
        let results = program.results.map(|results| paths::repository().join(results));
        let measured = Measured { program, kernel: &kernel, memory: self.memory, clock: Clock::Host };
        measured.run(Image::new(&kernel)?, programs, &self.arguments, results.as_deref())
    }

    fn kernel_for(&self, program: &Program) -> Result<Kernel> {
        program.kernel(self.kernel.as_deref().unwrap_or(kernels::DEFAULT_SERIES))
    }
}

impl Program {
    /// Kernel of a series for it; fetches it anew if it was cached before such modules were wanted.
    pub fn kernel(&self, series: &str) -> Result<Kernel> {
        let series = kernels::series(series)?;
        let kernel = kernels::ensure(series)?;
        let complete =
            self.modules.iter().try_fold(true, |all, module| Ok::<_, Error>(all && kernel.has(module)?))?;
        if complete { Ok(kernel) } else { kernels::update(series) }
    }
}

/// A program in a guest.
#[derive(Debug)]
pub struct Measured<'a> {
    /// The program.
    pub program: &'a Program,
    /// Kernel of the guest.
    pub kernel: &'a Kernel,
    /// Memory of the guest in MiB.
    pub memory: u32,
    /// Clock of the guest.
    pub clock: Clock,
}

impl Measured<'_> {
    /// Boots a guest with an image and the programs, runs the program, and copies its results to a folder.
    pub fn run(
        &self,
        mut image: Image,
        programs: &[Executable],
        arguments: &[String],
        results: Option<&Path>,
    ) -> Result<ExitCode> {
        let Measured { program, kernel, memory, clock } = *self;
        add_programs(&mut image, programs)?;
        image.add_folder(RESULTS);
        let what = format!("{}-{}", program.name, std::process::id());
        println!("Starting a guest with Linux {}", kernel.release);
        let mut session = guest::boot_by(clock, kernel, &image, memory, &what)?;
        let mut env = environment(kernel);
        env.push(("KUBE_IPVS_RESULTS".to_owned(), RESULTS.to_owned()));
        env.extend(commit().map(|commit| (COMMIT.to_owned(), commit)));
        let mut argv = vec![format!("/bin/{}", program.name)];
        argv.extend_from_slice(arguments);
        let timeout_ms = u64::try_from(PROGRAM_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let outcome = session.run(&Task { argv, env, timeout_ms }, to_terminal)?;
        if let Some(results) = results {
            session.fetch(RESULTS, results)?;
            println!("Results are in {}", results.display());
        }
        session.quit();
        Ok(report(&outcome, kernel, &what))
    }
}

/// Commit that is measured, if git knows it.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(paths::repository());
    command::capture(&mut git).ok().map(|text| text.trim().to_owned())
}

/// Builds the program, and the product as users get it.
pub fn build(program: &Program) -> Result<Vec<Executable>> {
    let Program { package, name, .. } = program;
    println!("Building kube-ipvs and {name}");
    let selection = ["--package", "kube-ipvs", "--package", package, "--bin", "kube-ipvs", "--bin", name];
    build::programs("release", &selection.map(str::to_owned))
}

fn path_of<'a>(programs: &'a [Executable], name: &str) -> Result<&'a PathBuf> {
    let found = programs.iter().find(|program| program.target == name);
    found.map(|program| &program.path).with_context(|| format!("cargo built no {name}"))
}

/// Tells whether we are root on a kernel with IPVS, loading it if need be.
fn host_has_ipvs() -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    if let Some(modprobe) = paths::find_program("modprobe") {
        let _ = command::capture_any(Command::new(modprobe).arg("ip_vs"));
    }
    Path::new("/proc/net/ip_vs").exists()
}
