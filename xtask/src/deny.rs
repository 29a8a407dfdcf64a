//! Licences, duplicates and sources of all crates, which cargo-deny judges after `deny.toml`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{command, paths, tally::Tally, workspace::cargo};

/// Version that is installed; a newer one may judge differently.
const VERSION: &str = "0.20.2";

/// Checks that need no network. Advisories would: their database is a repository of its own.
const CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Counts each check; skips all where cargo-deny is not to be had.
pub fn check(tally: &mut Tally) -> Result<()> {
    let lack = format!("cargo-deny {VERSION} cannot be installed");
    let Some(program) = tally.have(program(), "cargo deny", &lack, CHECKS.len()) else { return Ok(()) };
    for what in CHECKS {
        let mut deny = Command::new(&program);
        deny.current_dir(paths::repository()).args(["--locked", "check", what]);
        match command::run(&mut deny) {
            Ok(()) => tally.pass(),
            Err(_) => tally.fail(&format!("cargo deny {what}"), "see above; deny.toml says what is allowed"),
        }
    }
    Ok(())
}

/// Path of the program in the cache; installs it if it is missing.
fn program() -> Result<PathBuf> {
    let cache = paths::cache()?;
    let root = cache.join("tools").join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    println!("Installing cargo-deny {VERSION}");
    let objects = paths::target().join("cargo-deny");
    let mut install = cargo();
    install
        // The repository's settings are not meant for it, so it is built elsewhere.
        .current_dir(&cache)
        // It runs for a second, and an optimised build takes minutes.
        .args(["install", "cargo-deny", "--debug", "--locked", "--version", VERSION, "--root"])
        .arg(&root)
        .env("CARGO_TARGET_DIR", &objects)
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    let installed = command::run(&mut install);
    // The objects of the build are of no use any more.
    let _ = fs::remove_dir_all(&objects);
    installed.map(|()| program)
}
