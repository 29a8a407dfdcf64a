//! The guest tests of the workspace, and the image that holds them.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Executable},
    command,
    guest::image::Image,
    kernels::Kernel,
    libtest, paths,
    workspace::{Package, Workspace},
};

/// Feature that turns on a package's guest tests.
const FEATURE: &str = "guest";

/// Packages whose tests drive the real programs, which are then built and packed too, and measure them:
/// nothing else runs on the host meanwhile.
const END_TO_END: &[&str] = &["e2e", "kube-ipvs"];

/// Tests and programs, built and ready to run.
#[derive(Debug)]
pub struct Plan {
    /// Tests of one adapter and the kernel, in the order in which they run. They measure no time.
    pub contracts: Vec<Case>,
    /// Tests of the real programs.
    pub end_to_end: Vec<Case>,
    tests: Vec<Executable>,
    programs: Vec<Executable>,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Package of the test.
    pub package: String,
    /// The test program in the guest.
    pub program: String,
    /// Name of the test within the program.
    pub test: String,
    /// True if it is marked as ignored: it never runs.
    pub ignored: bool,
    /// Time after which the guest kills it.
    pub timeout: Duration,
}

impl Plan {
    /// Builds the guest tests of the workspace, or of some packages, and lists them.
    pub fn build(packages: &[String], profile: &str, filter: Option<&str>) -> Result<Self> {
        let workspace = Workspace::load()?;
        let selected = select(&workspace, packages)?;
        // Programs come first: tests may include them, and cargo builds the two in any order.
        let programs = if selected.iter().any(|package| END_TO_END.contains(&package.name.as_str())) {
            build::programs(profile, &programs_of(&workspace))?
        } else {
            Vec::new()
        };
        let tests = build_tests(&selected, profile)?;
        let mut cases = Vec::new();
        for package in selected {
            // Cargo reports executables as they are finished, in any order.
            for target in guest_targets(package) {
                let is_it = |test: &&Executable| test.package_id == package.id && test.target == target;
                let executable = tests.iter().find(is_it).with_context(|| format!("no test {target}"))?;
                cases.extend(list(&package.name, executable)?);
            }
        }
        cases.retain(|case| filter.is_none_or(|filter| case.test.contains(filter)));
        let (end_to_end, contracts) =
            cases.into_iter().partition(|case| END_TO_END.contains(&case.package.as_str()));
        Ok(Self { contracts, end_to_end, tests, programs })
    }

    /// Makes the guest's file system with all of them.
    pub fn image(&self, kernel: &Kernel) -> Result<Image> {
        let mut image = Image::new(kernel)?;
        for test in &self.tests {
            image.add_built(&test.path, &guest_path(test))?;
        }
        add_programs(&mut image, &self.programs)?;
        if let Some(assets) = std::env::var_os(ASSETS) {
            let tree = Path::new(&assets);
            image.add_tree(tree, GUEST_ASSETS).with_context(|| format!("{ASSETS}: {}", tree.display()))?;
        }
        Ok(image)
    }
}

/// Puts built programs into `/bin` and the example manifests into `/examples`.
pub fn add_programs(image: &mut Image, programs: &[Executable]) -> Result<()> {
    for program in programs {
        image.add_built(&program.path, &format!("/bin/{}", program.target))?;
    }
    let examples = paths::repository().join("manifests/examples");
    if examples.is_dir() {
        image.add_tree(&examples, "/examples")?;
    }
    Ok(())
}

/// Variable that names a folder with `etcd` and `kube-apiserver`, the real ones, for the tests that can use
/// them.
const ASSETS: &str = "KUBEBUILDER_ASSETS";
const GUEST_ASSETS: &str = "/assets";

/// Variables in the environment of tests and programs.
pub fn environment(kernel: &Kernel) -> Vec<(String, String)> {
    let fixed = [
        ("KUBE_IPVS_BIN", "/bin/kube-ipvs"),
        ("KUBE_IPVS_EXAMPLES", "/examples"),
        ("KUBE_IPVS_KERNEL_SERIES", &kernel.series),
        ("HOME", "/root"),
        ("TMPDIR", "/tmp"),
    ];
    let passed_on =
        ["RUST_LOG", "RUST_BACKTRACE", "CI", "CHAOS_SEED", "CHAOS_MINUTES", "CHAOS_SOURCE", "CHAOS_VERBOSE"];
    let passed_on = passed_on.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let assets = std::env::var_os(ASSETS).map(|_| (ASSETS.to_owned(), GUEST_ASSETS.to_owned()));
    let fixed = fixed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    fixed.chain(passed_on).chain(assets).collect()
}

/// Selects the packages with guest tests; to name one that has none is an error.
fn select<'a>(workspace: &'a Workspace, names: &[String]) -> Result<Vec<&'a Package>> {
    for name in names {
        let package = workspace.package(name).with_context(|| format!("no package {name}"))?;
        if guest_targets(package).is_empty() {
            bail!("package {name} has no test target that requires the feature `{FEATURE}`");
        }
    }
    let with_tests = workspace.packages.iter().filter(|package| !guest_targets(package).is_empty());
    Ok(with_tests.filter(|package| names.is_empty() || names.contains(&package.name)).collect())
}

fn guest_targets(package: &Package) -> Vec<&str> {
    let requires = |required: &[String]| required.iter().any(|feature| feature == FEATURE);
    let targets = package.targets_of("test").filter(|target| requires(&target.required_features));
    targets.map(|target| target.name.as_str()).collect()
}

/// Builds the tests of all packages in one cargo run, so that they share their dependencies.
fn build_tests(packages: &[&Package], profile: &str) -> Result<Vec<Executable>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let mut selection = Vec::new();
    for package in packages {
        selection.extend(["--package".to_owned(), package.name.clone()]);
        selection.extend(["--features".to_owned(), format!("{}/{FEATURE}", package.name)]);
        for target in guest_targets(package) {
            selection.extend(["--test".to_owned(), target.to_owned()]);
        }
    }
    let built = build::tests(profile, &selection)?;
    // Cargo also builds programs of the packages and equally named tests of other packages.
    let is_guest_test = |executable: &Executable| {
        let package = packages.iter().find(|package| package.id == executable.package_id);
        package.is_some_and(|package| guest_targets(package).contains(&executable.target.as_str()))
    };
    Ok(built.into_iter().filter(is_guest_test).collect())
}

/// Cargo's arguments for all programs of the packages that have some.
fn programs_of(workspace: &Workspace) -> Vec<String> {
    let with_programs = |name: &&&str| {
        workspace.package(name).is_some_and(|package| package.targets_of("bin").next().is_some())
    };
    let names = END_TO_END.iter().filter(with_programs);
    names.flat_map(|name| ["--package".to_owned(), (*name).to_owned()]).chain(["--bins".to_owned()]).collect()
}

/// Asks a test program on the host for its tests; only running them needs the guest.
fn list(package: &str, executable: &Executable) -> Result<Vec<Case>> {
    let ask = |more: &[&str]| {
        let text = command::capture(Command::new(&executable.path).arg("--list").args(more))?;
        anyhow::Ok(libtest::parse_list(&text))
    };
    let ignored = ask(&["--ignored"])?;
    let cases = ask(&[])?.into_iter().map(|test| Case {
        package: package.to_owned(),
        program: guest_path(executable),
        ignored: ignored.contains(&test),
        timeout: timeout(&test),
        test,
    });
    Ok(cases.collect())
}

/// Time for a test: more for one with `_slow` in its name; `KUBE_IPVS_GUEST_TIMEOUT` sets the seconds of all
/// others, and of these if it is more. It is for hangs: on a busy host an honest test takes five times longer
/// than on an idle one.
fn timeout(test: &str) -> Duration {
    let chosen = std::env::var("KUBE_IPVS_GUEST_TIMEOUT").ok().and_then(|seconds| seconds.parse().ok());
    let slow = test.contains("_slow");
    Duration::from_secs(if slow { chosen.unwrap_or(0).max(900) } else { chosen.unwrap_or(240) })
}

/// Path of a test program in the guest; the names are unique, because they end in a hash.
fn guest_path(test: &Executable) -> String {
    let file = test.path.file_name().unwrap_or_default();
    format!("/tests/{}", file.to_string_lossy())
}
