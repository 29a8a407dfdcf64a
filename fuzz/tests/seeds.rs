//! Runs of the targets over known inputs: seeds, and findings.

use fuzz::TARGETS;

#[test]
fn every_seed_is_accepted() {
    for target in &TARGETS {
        let seeds = target.seeds().unwrap();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let refused = seeds.iter().filter(|(_, input)| !(target.run)(input)).map(|(name, _)| name);
        assert_eq!(refused.collect::<Vec<_>>(), [""; 0], "{}", target.name);
    }
}

/// A target that accepts everything would find nothing.
#[test]
fn nonsense_is_not_accepted() {
    for target in &TARGETS {
        for input in [&b""[..], b"\xff\xff\xff", b"nonsense"] {
            assert!(!(target.run)(input), "{}: {input:?}", target.name);
        }
    }
}

#[test]
fn findings_stay_mended() {
    for target in &TARGETS {
        for (name, input) in target.findings().unwrap() {
            println!("{}: {name}", target.name);
            (target.run)(&input);
        }
    }
}
