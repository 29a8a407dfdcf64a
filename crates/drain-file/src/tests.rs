use drain::{Cause, EndpointGone, Ledger, Policy};
use testkit::TempDir;

use super::*;

struct Dir(TempDir);

impl Dir {
    fn new(name: &str) -> Self {
        Dir(TempDir::new(name))
    }

    fn file(&self, boot: &str) -> DrainFile {
        DrainFile::new(self.0.path(), boot.to_owned())
    }
}

fn key(rs: &str) -> Key {
    let vs: lb_types::VipPort = "10.96.0.80:80/TCP".parse().unwrap();
    Key { front: vs.into(), rs: rs.parse().unwrap() }
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    let overrides = Overrides {
        policy: Some(Policy::AllConnections),
        linger: Some(Duration::from_millis(1500)),
        timeout: Some(Duration::ZERO),
        silence: Some(Duration::from_secs(9)),
        endpoint_gone: Some(EndpointGone::Drain),
    };
    ledger.begin(key("10.244.0.11:8080"), Cause::Terminating, &overrides, Duration::from_millis(1_000_500));
    ledger.note_pod(&key("10.244.0.11:8080"), &"shop/web-1/3f2504e0".into());
    let since = Duration::from_secs(2_000);
    ledger.begin(key("[fd00::11]:8080"), Cause::LeftSlices, &Overrides::NONE, since);
    ledger
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = Dir::new("round-trip");
    let (file, ledger) = (dir.file("boot-1"), ledger());
    file.save(ledger.iter()).unwrap();
    let loaded = file.load().unwrap();
    assert_eq!(loaded.problems, [""; 0]);
    let known: Vec<_> = loaded.drains.iter().map(|saved| (saved.key, saved.record.clone())).collect();
    let expect: Vec<_> = ledger.iter().map(|(key, drain)| (*key, Record::from(drain))).collect();
    assert_eq!(known, expect);
    let [Saved { entry: first, .. }, Saved { entry: second, .. }] = &loaded.drains[..] else {
        panic!("{loaded:?}")
    };
    assert_eq!(
        (first.pod(), first.policy(), first.deadline()),
        (Some("shop/web-1"), "all-connections", None)
    );
    assert_eq!((second.pod(), second.deadline()), (None, Some(Duration::from_secs(2_900))));
    file.save(Ledger::default().iter()).unwrap();
    assert_eq!(file.load().unwrap().drains, []);
}

#[test]
fn no_file_and_one_of_another_boot_say_nothing() {
    let dir = Dir::new("boots");
    assert_eq!(dir.file("boot-1").load().unwrap().drains, []);
    dir.file("boot-1").save(ledger().iter()).unwrap();
    assert_eq!(dir.file("boot-2").load().unwrap().drains, []);
    assert_eq!(dir.file("boot-1").load().unwrap().drains.len(), 2);
}

#[test]
fn damage_costs_no_more_than_is_damaged() {
    let dir = Dir::new("damage");
    let file = dir.file("boot-1");
    file.save(ledger().iter()).unwrap();
    let good = fs::read_to_string(file.path()).unwrap();
    for (damaged, problem) in [
        (good.replacen("10.244.0.11:8080", "nowhere", 1), "\"nowhere\""),
        (good.replacen("10.96.0.80:80/TCP", "10.96.0.80", 1), "\"10.96.0.80\""),
        (good.replacen("\"terminating\"", "\"bored\"", 1), "\"bored\""),
        (good.replacen("\"sinceMillis\":1000500", "\"sinceMillis\":-1", 1), "-1"),
        (good.replacen(r#""lingerMillis":1500"#, r#""lingerMillis":"a""#, 1), "a"),
    ] {
        assert_ne!(damaged, good);
        fs::write(file.path(), &damaged).unwrap();
        let loaded = file.load().unwrap();
        assert_eq!(loaded.drains.len(), 1, "{damaged}");
        assert!(loaded.problems[0].contains(problem), "{:?}", loaded.problems);
    }
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        fs::write(file.path(), &good[..cut]).unwrap();
        assert!(matches!(file.load(), Err(LoadError::Damaged(_))), "cut at {cut}");
    }
    fs::write(file.path(), good.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(matches!(file.load(), Err(LoadError::Version(2))));
    fs::write(file.path(), [0xff; 9]).unwrap();
    assert!(matches!(file.load(), Err(LoadError::Damaged(_))));
}

#[test]
fn no_link_is_followed_and_nobody_else_can_read() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let dir = Dir::new("drain-file-links");
    let (file, ledger) = (dir.file("boot"), ledger());
    let victim = dir.0.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["drain.json", "drain.json.next"] {
        symlink(&victim, dir.0.path().join(name)).unwrap();
    }
    assert!(matches!(file.load(), Err(LoadError::Read(_))), "a link is not read");
    file.save(ledger.iter()).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let metadata = fs::symlink_metadata(file.path()).unwrap();
    assert!(metadata.is_file());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(file.load().unwrap().drains.len(), 2);
}

#[test]
fn a_pipe_in_its_place_is_no_file() {
    let dir = Dir::new("drain-file-pipe");
    let file = dir.file("boot");
    testkit::run(&["mkfifo".as_ref(), file.path().as_os_str()]);
    assert!(matches!(file.load(), Err(LoadError::Read(_))));
}
