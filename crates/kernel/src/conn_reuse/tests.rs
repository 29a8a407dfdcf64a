use ProbeOutcome::{SynDropped, SynSurvived};

use super::*;

const ZERO: Option<u32> = Some(0);
const ONE: Option<u32> = Some(1);

/// Decides for a release as `uname -r` prints it.
fn decide(flag: &str, release: &str, vendor: Option<u32>, probe: Option<ProbeOutcome>) -> ConnReuseDecision {
    let (flag, version) = (flag.parse().unwrap(), release.parse().ok());
    decide_conn_reuse_mode(&ConnReuseFacts { flag, version, vendor, probe })
}

fn check(
    (flag, release): (&str, &str),
    (vendor, probe): (Option<u32>, Option<ProbeOutcome>),
    (mode, source): (Option<u32>, &str),
) {
    let got = decide(flag, release, vendor, probe);
    assert_eq!(
        (got.mode.map(ConnReuseMode::value), got.reason.source()),
        (mode, source),
        "{flag} {release} vendor {vendor:?} probe {probe:?}: {got}"
    );
}

/// Checks the decision of `auto` for a release: with nothing known, the probe's two outcomes, and the vendor
/// file's two values.
fn check_auto(release: &str, expect: [(Option<u32>, &str); 5]) {
    let facts =
        [(None, None), (None, Some(SynSurvived)), (None, Some(SynDropped)), (ONE, None), (ZERO, None)];
    for (facts, expect) in facts.into_iter().zip(expect) {
        check(("auto", release), facts, expect);
    }
}

#[test]
fn auto_below_4_1_leaves_it() {
    for release in ["3.10.0-1160.119.1.el7.x86_64", "4.0", "4.0.9-gentoo"] {
        check_auto(release, [(None, "version"); 5]);
    }
}

#[test]
fn auto_from_4_1_to_5_8_goes_by_behaviour() {
    let by_behaviour =
        [(ZERO, "unknown"), (ONE, "probe"), (ZERO, "probe"), (ONE, "vendor"), (ZERO, "vendor")];
    for release in [
        "4.1",
        "4.4",
        "4.14.193-vendor.1",
        "4.18.0-553.el8",
        "4.18.0-553.el8_10.x86_64",
        "4.19.139",
        "4.19.140",
        "4.19.0-27-cloud-amd64",
        "5.4.58",
        "5.4.59",
        "5.4.0-216-generic",
        "5.8",
        "5.8.18-300.fc33.x86_64",
        "5.8.0-rc7+",
    ] {
        check_auto(release, by_behaviour);
    }
}

#[test]
fn auto_with_garbage_for_a_release_goes_by_behaviour() {
    for release in ["", "garbage", "six.one", "5"] {
        check_auto(
            release,
            [(ZERO, "unknown"), (ONE, "probe"), (ZERO, "probe"), (ONE, "vendor"), (ZERO, "vendor")],
        );
    }
}

#[test]
fn auto_from_5_9_on_sets_1_whatever_an_older_proxy_left() {
    for release in [
        "5.9",
        "5.10",
        "5.10.0-33-cloud-amd64",
        "5.14.0-503.26.1.el9_5.x86_64",
        "5.15.167.4-microsoft-standard-WSL2",
        "6.1.0-rc1+",
        "6.8",
        "6.12.107+deb13-cloud-amd64",
        "7.2",
    ] {
        check_auto(release, [(ONE, "version"); 5]);
    }
}

#[test]
fn the_vendors_file_goes_before_the_probe() {
    check(("auto", "4.19.91-vendor"), (ONE, Some(SynDropped)), (ONE, "vendor"));
    check(("auto", "4.19.91-vendor"), (ZERO, Some(SynSurvived)), (ZERO, "vendor"));
}

#[test]
fn the_flag_goes_before_everything() {
    for release in ["3.10", "4.4", "5.4.58", "6.12", "garbage"] {
        for facts in [(None, None), (ONE, Some(SynSurvived)), (ZERO, Some(SynDropped))] {
            check(("0", release), facts, (ZERO, "flag"));
            check(("1", release), facts, (ONE, "flag"));
            check(("keep", release), facts, (None, "flag"));
        }
    }
}

#[test]
fn the_probe_is_needed_only_where_it_would_decide() {
    let facts = |flag: &str, release: &str, vendor| ConnReuseFacts {
        flag: flag.parse().unwrap(),
        version: release.parse().ok(),
        vendor,
        probe: Some(SynSurvived),
    };
    assert!(needs_probe(&facts("auto", "4.19.139", None)));
    assert!(needs_probe(&facts("auto", "garbage", None)));
    for (flag, release, vendor) in [
        ("auto", "4.19.139", ONE),
        ("auto", "5.10", None),
        ("auto", "4.0", None),
        ("0", "5.4", None),
        ("keep", "5.4", None),
    ] {
        assert!(!needs_probe(&facts(flag, release, vendor)), "{flag} {release} {vendor:?}");
    }
}

#[test]
fn flags_parse_and_print() {
    for text in ["auto", "0", "1", "keep"] {
        assert_eq!(text.parse::<ConnReuseFlag>().unwrap().to_string(), text);
    }
    for text in ["", "2", "Auto", "true"] {
        assert!(text.parse::<ConnReuseFlag>().is_err(), "{text:?}");
    }
}

#[test]
fn decisions_read_well() {
    let cases = [
        (decide("auto", "6.12.107+deb13", None, None), "conn_reuse_mode=1 (kernel 6.12.107 does not drop"),
        (decide("auto", "4.19.139", None, Some(SynDropped)), "conn_reuse_mode=0 (probed: this kernel drops"),
        (decide("auto", "4.4", None, None), "conn_reuse_mode=0 (the version cannot tell"),
        (decide("auto", "4.19.9", ONE, None), "conn_reuse_mode=1 (the vendor's net/ipv4/vs/"),
        (decide("keep", "6.1", None, None), "conn_reuse_mode left alone (set by --conn-reuse-mode)"),
    ];
    for (decision, expect) in cases {
        assert!(decision.to_string().starts_with(expect), "{decision}");
    }
}
