//! The targets over what is known: seeds, and what once broke a parser.

use fuzz::TARGETS;

#[test]
fn every_seed_is_understood() {
    for target in &TARGETS {
        let seeds = target.seeds().unwrap();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let refused = seeds.iter().filter(|(_, input)| !(target.run)(input)).map(|(name, _)| name);
        assert_eq!(refused.collect::<Vec<_>>(), [""; 0], "{}", target.name);
    }
}

/// One that accepts everything would find nothing.
#[test]
fn nonsense_is_not_understood() {
    for target in &TARGETS {
        for input in [&b""[..], b"\xff\xff\xff", b"nonsense"] {
            assert!(!(target.run)(input), "{}: {input:?}", target.name);
        }
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    for target in &TARGETS {
        for (name, input) in target.findings().unwrap() {
            println!("{}: {name}", target.name);
            (target.run)(&input);
        }
    }
}
