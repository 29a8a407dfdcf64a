//! Runs a target under libFuzzer. `FUZZ_TARGET` chooses it; without it, the program prints the names of all.
//! The seeds go into the folder `FUZZ_SEEDS`.
#![no_main]

use std::{env, path::Path, process, sync::OnceLock};

use fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fn prepare() {
    let Ok(name) = env::var("FUZZ_TARGET") else {
        for target in &TARGETS {
            println!("{}", target.name);
        }
        process::exit(0);
    };
    let target = fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    if let Ok(folder) = env::var("FUZZ_SEEDS") {
        target.write_seeds(Path::new(&folder)).expect("seeds can be read and written");
    }
    let _ = TARGET.set(target);
}

fuzz_target!(init: prepare(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(input);
    }
});
