//! `cargo xtask bench --exact`: the benchmark that counts instructions.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    guest::{self, image::Image, qemu::Clock},
    kernels::{self, Kernel},
    paths, setup,
    showcase::{self, Measured},
    tally::Tally,
};

/// Debian packages by which rules and sets of kube-proxy are restored.
const PACKAGES: [&str; 2] = ["iptables", "ipset"];

/// Programs of those packages.
const PROGRAMS: [&str; 2] = ["iptables-nft-restore", "ip6tables-nft-restore"];

/// Place of earlier results in the guest.
const BEFORE: &str = "/before.json";

/// A run in guests whose clock counts instructions.
#[derive(Debug)]
pub struct Exact {
    /// Kernel of the guest.
    pub kernel: Kernel,
    /// Measures a part only, in a few minutes.
    pub quick: bool,
    /// Measures the chains of the packet rules one by one instead, and stores nothing.
    pub parts: bool,
    /// Memory of the guest in MiB.
    pub memory: u32,
    /// Reason why figures may be worse than before.
    pub reason: Option<String>,
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
        arguments.extend(self.parts.then(|| "--parts".to_owned()));
        if let Some(before) = against {
            image.add_file(before, BEFORE)?;
            arguments.push(format!("--against={BEFORE}"));
        }
        arguments.extend(self.reason.as_ref().map(|reason| format!("--reason={reason}")));
        let measured = Measured {
            program: &showcase::BENCH,
            kernel: &self.kernel,
            memory: self.memory,
            clock: Clock::Instructions,
        };
        let results = (!self.parts).then_some(self.results.as_path());
        measured.run(image, &programs, &arguments, results)
    }

    /// Measures several times, each time in a guest of its own, and compares with the run before, the first one with
    /// other results.
    pub fn repeat(&self, runs: u16, against: Option<PathBuf>) -> Result<ExitCode> {
        let mut before = against;
        for _ in 0..runs {
            let code = self.run(before.as_deref())?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
            let last = paths::guest_output()?.join("before.json");
            std::fs::copy(self.results.join(file_of(&self.kernel)), &last)?;
            before = Some(last);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs the quick form and compares it with the committed results, where these are of the kernel that is to be had.
pub fn check(tally: &mut Tally) -> Result<()> {
    const WHAT: &str = "benchmark by instructions";
    let kernel = showcase::BENCH.kernel(kernels::DEFAULT_SERIES)?;
    let Some(against) = comparable(&kernel)? else {
        tally.skip(WHAT, "the committed results are of another kernel version");
        return Ok(());
    };
    let results = paths::guest_output()?.join("exact");
    let exact = Exact { kernel, quick: true, parts: false, memory: guest::MEMORY_MIB, reason: None, results };
    // A figure in a hundred is off now and then; the same one is not twice.
    let passes = || match exact.run(Some(&against)) {
        Ok(code) => code == ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            false
        }
    };
    if passes() {
        tally.pass();
    } else if passes() {
        tally.pass_unsteadily(WHAT, "a figure was worse");
    } else {
        tally.fail(
            WHAT,
            "figures are worse or new, or could not be measured, twice: see above; cargo xtask bench --exact --reason \
             WHY renews them",
        );
    }
    Ok(())
}

/// The committed results of a kernel; `None`, with the reason on the terminal, if there are none of this very version.
pub fn comparable(kernel: &Kernel) -> Result<Option<PathBuf>> {
    let path = committed().join(file_of(kernel));
    if !path.exists() {
        println!("nothing to compare with: there is no {}", path.display());
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let before: Results = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    if before.kernel == kernel.release {
        return Ok(Some(path));
    }
    println!(
        "nothing to compare with: {} is of Linux {}, not of {}; renew it by `cargo xtask bench --exact`",
        path.display(),
        before.kernel,
        kernel.release
    );
    Ok(None)
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
    let mut folders =
        std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join("xtables")));
    folders.find(|folder| folder.is_dir()).context("no folder xtables below /usr/lib (package iptables)")
}
