//! `cargo xtask bench --exact`: the benchmark that counts instructions, alone and as a tier of the tests.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    guest::{MEMORY_MIB, image::Image, qemu::Clock},
    kernels::{self, Kernel},
    paths, setup,
    showcase::{self, Measured},
    tally::Tally,
};

/// Debian packages by which rules and sets of kube-proxy are restored.
const PACKAGES: [&str; 2] = ["iptables", "ipset"];

/// Programs of those packages.
const PROGRAMS: [&str; 2] = ["iptables-restore", "ip6tables-restore"];

/// Place of earlier results in the guest.
const BEFORE: &str = "/before.json";

/// A run in guests whose clock counts instructions.
#[derive(Debug)]
pub struct Exact {
    /// Kernel of the guest.
    pub kernel: Kernel,
    /// Measures a part only, in a few minutes.
    pub quick: bool,
    /// Folder for the results.
    pub results: PathBuf,
}

/// Part of the results of a run.
#[derive(Debug, Deserialize)]
struct Results {
    kernel: String,
}

impl Exact {
    /// Measures, and compares with earlier results if there are some.
    pub fn run(&self, against: Option<&Path>) -> Result<ExitCode> {
        setup::ensure_also(&PACKAGES)?;
        let programs = showcase::build(&showcase::BENCH)?;
        let mut image = Image::new(&self.kernel)?;
        for program in PROGRAMS {
            let host = paths::find_program(program).with_context(|| format!("{program} is missing"))?;
            image.add_program(&host, &format!("/usr/bin/{program}"))?;
        }
        let extensions = extensions()?;
        image.add_tree(&extensions, &extensions.to_string_lossy())?;
        let mut arguments = vec!["--exact".to_owned()];
        arguments.extend(self.quick.then(|| "--quick".to_owned()));
        if let Some(before) = against {
            image.add_file(before, BEFORE)?;
            arguments.push(format!("--against={BEFORE}"));
        }
        let measured = Measured {
            program: &showcase::BENCH,
            kernel: &self.kernel,
            memory: MEMORY_MIB,
            clock: Clock::Instructions,
        };
        measured.run(image, &programs, &arguments, Some(&self.results))
    }

    /// Measures several times, each time in a guest of its own, and compares with the run before.
    pub fn repeat(&self, runs: usize) -> Result<ExitCode> {
        let mut before = None;
        for _ in 0..runs {
            let code = self.run(before.as_deref())?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
            let last = self.results.with_extension("before.json");
            std::fs::copy(self.results.join(file_of(&self.kernel)), &last)?;
            before = Some(last);
        }
        before.map(std::fs::remove_file).transpose()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs the quick part and compares it with the committed results, if those are of the same kernel.
pub fn check(tally: &mut Tally) -> Result<()> {
    let kernel = kernels::ensure(kernels::series(kernels::DEFAULT_SERIES)?)?;
    let committed = committed().join(file_of(&kernel));
    let text = std::fs::read_to_string(&committed).with_context(|| committed.display().to_string())?;
    let before: Results = serde_json::from_str(&text).with_context(|| committed.display().to_string())?;
    if before.kernel != kernel.release {
        let why = format!(
            "the results in {} are of Linux {}, not of {}; renew them by `cargo xtask bench --exact`",
            committed.display(),
            before.kernel,
            kernel.release
        );
        println!("{why}");
        tally.skip("comparison by instructions", &why);
        return Ok(());
    }
    let exact = Exact { kernel, quick: true, results: paths::guest_output()?.join("exact") };
    match exact.run(Some(&committed))? {
        ExitCode::SUCCESS => tally.pass(),
        code => bail!("it ended with {code:?}, see above"),
    }
    Ok(())
}

/// Folder of the committed results.
pub fn committed() -> PathBuf {
    paths::repository().join("benches/results")
}

/// Name of the results of a kernel.
fn file_of(kernel: &Kernel) -> String {
    let series: Vec<_> = kernel.release.split('.').take(2).collect();
    format!("exact-linux-{}.json", series.join("."))
}

/// Folder of the matches and targets of iptables, which it loads at run time.
fn extensions() -> Result<PathBuf> {
    let mut folders = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join("xtables")));
    folders.find(|folder| folder.is_dir()).context("no folder xtables below /usr/lib (package iptables)")
}
