use clap::FromArgMatches as _;

use super::*;

fn cli(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&try_parse(args)?)
}

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    cli(["kube-ipvs"].iter().chain(args).map(OsString::from))
}

#[test]
fn arguments_that_are_no_text_are_named() {
    let bytes = |bytes: &[&[u8]]| {
        let args = [&b"kube-ipvs"[..]]
            .into_iter()
            .chain(bytes.iter().copied())
            .map(|arg| OsString::from_vec(arg.to_vec()));
        cli(args.collect::<Vec<_>>())
    };
    let error = bytes(&[b"plan", b"--hostname-override=n\xff", b"-v=4"]).unwrap_err().to_string();
    assert!(error.contains(r"--hostname-override=n\xFF") && !error.contains("-v=4"), "{error}");
    assert!(bytes(&[b"pl\xe4n"]).is_err() && bytes(&[b"--\xff_x=1"]).is_err());
    let cli = bytes(&[b"--state_dir=/run/\xff_x"]).unwrap();
    assert_eq!(cli.flags.state_dir.as_os_str().as_bytes(), b"/run/\xff_x", "a file may have any name");
}

#[test]
fn spellings_of_kube_proxy() {
    let cli =
        parse(&["--masquerade_all", "--ipvs-sync_period=10s", "-v=4", "--cluster-cidr=a_b/8,c/9"]).unwrap();
    assert!(cli.flags.masquerade_all);
    assert_eq!(cli.flags.ipvs_sync_period, Duration::from_secs(10));
    assert_eq!(
        (cli.flags.verbosity, cli.flags.cluster_cidr),
        (4, vec!["a_b/8".to_owned(), "c/9".to_owned()])
    );
    let last_wins = parse(&["--masquerade-all=T", "--masquerade-all=false"]).unwrap();
    assert!(!last_wins.flags.masquerade_all);
    let lists = parse(&[
        "--cluster-cidr=a",
        "--cluster-cidr=b",
        "--nodeport-addresses=a",
        "--nodeport_addresses=b,c",
    ]);
    let flags = lists.unwrap().flags;
    assert_eq!(flags.cluster_cidr, ["b"], "one text in kube-proxy");
    assert_eq!(flags.nodeport_addresses, ["a", "b", "c"], "a list in kube-proxy");
    let negative = parse(&["--oom-score-adj", "-998", "-v", "5"]).unwrap().flags;
    assert_eq!((negative.oom_score_adj, negative.verbosity), (-998, 5));
}

#[test]
fn commands_take_the_same_flags() {
    let cli = parse(&["plan", "--manifests", "/m"]).unwrap();
    assert_eq!((cli.command, cli.flags.manifests), (Some(Command::Plan), Some("/m".into())));
    assert!(
        parse(&["--manifests"]).is_err() && parse(&["--no-such-flag"]).is_err() && parse(&["extra"]).is_err()
    );
}
#[test]
fn the_version_can_be_asked_for_in_two_ways() {
    let version = |args: &[&str]| parse(args).map(|cli| cli.process.version).ok();
    for (args, expect) in [
        (&["--version"][..], Some(VersionRequest::Line)),
        (&["-V"], Some(VersionRequest::Line)),
        (&["--version=true"], Some(VersionRequest::Line)),
        (&["--version=raw"], Some(VersionRequest::Raw)),
        (&["--version=false"], Some(VersionRequest::No)),
        (&[], Some(VersionRequest::No)),
        (&["--version=v1.2.3"], None),
    ] {
        assert_eq!(version(args), expect, "{args:?}");
    }
}

/// `Args` in cmd/kube-proxy/app/server.go: templates leave empty arguments.
#[test]
fn empty_arguments_are_dropped_unless_they_are_values() {
    for (args, expect) in [
        (&["", "--v=2", ""][..], &["--v=2"][..]),
        (&["--cluster-cidr", "", "", "plan", ""], &["--cluster-cidr", "", "plan"]),
        (&["-v", "", "--cluster_cidr", ""], &["-v", "", "--cluster_cidr", ""]),
        (&["--cleanup", "", "--cluster-cidr=", ""], &["--cleanup", "--cluster-cidr="]),
    ] {
        let mut got: Vec<OsString> =
            [&["kube-ipvs"], args].concat().into_iter().map(OsString::from).collect();
        super::drop_empty(&mut got);
        assert_eq!(got[1..], expect.iter().map(OsString::from).collect::<Vec<_>>(), "{args:?}");
    }
}

#[test]
fn flags_can_stand_for_commands() {
    for (args, task) in [
        (&[][..], Task::Run),
        (&["--cleanup", "--init-only"], Task::Command(Command::Cleanup)),
        (&["--cleanup=false", "--init-only"], Task::Init),
        (&["--cleanup", "--write-config-to=/c"], Task::WriteConfig(Path::new("/c"))),
        (&["--write-config-to="], Task::Run),
        (&["--cleanup", "--version"], Task::Version(VersionRequest::Line)),
        (&["version"], Task::Version(VersionRequest::Line)),
        (&["plan"], Task::Command(Command::Plan)),
    ] {
        assert_eq!(parse(args).unwrap().task(), task, "{args:?}");
    }
}
