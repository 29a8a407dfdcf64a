use std::time::Duration;

use drain::{Cause, EndpointGone, Ledger, Outcome, Overrides};
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

/// All of a ledger, as it is saved.
fn saved(ledger: &Ledger) -> impl Iterator<Item = Saved> {
    ledger.iter().map(|(key, drain)| {
        let reading = ledger.next_reading(&key.front).unwrap();
        Saved::new(key, drain, drain.waits_for(reading, || None))
    })
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = Dir::new("round-trip");
    let (file, ledger) = (dir.file("boot-1"), ledger());
    file.save(saved(&ledger)).unwrap();
    let loaded = file.load().unwrap();
    assert_eq!(loaded.problems, [""; 0]);
    assert_eq!(loaded.drains, saved(&ledger).collect::<Vec<_>>());
    let [first, second] = &loaded.drains[..] else { panic!("{loaded:?}") };
    assert_eq!(
        (first.pod(), first.policy, first.deadline),
        (Some("shop/web-1"), Policy::AllConnections, None)
    );
    assert_eq!((second.pod(), second.deadline), (None, Some(Duration::from_secs(2_900))));
    file.save(saved(&Ledger::default())).unwrap();
    assert_eq!(file.load().unwrap().drains, []);
}

/// Word for word as the process wrote it that knew neither `podEnded` nor `waitsFor`.
const OLD: &str = r#"{"version":1,"bootId":"boot-1","drains":[{"cause":"terminating","deadlineMillis":null,"pod":"shop/web-1/3f2504e0","policy":"all-connections","realServer":"10.244.0.11:8080","service":{"endpointGone":"drain","lingerMillis":1500,"policy":"all-connections","silenceMillis":9000,"timeoutMillis":0},"sinceMillis":1000500,"virtualServer":"10.96.0.80:80/TCP"},{"cause":"left-slices","deadlineMillis":2900000,"policy":"active-only","realServer":"[fd00::11]:8080","sinceMillis":2000000,"virtualServer":"10.96.0.80:80/TCP"}]}"#;

#[test]
fn a_file_of_before_is_understood() {
    let loaded = Dir::new("old").file("boot-1").parse(OLD.as_bytes()).unwrap();
    assert_eq!(loaded.problems, [""; 0]);
    let ledger = ledger();
    let expect = saved(&ledger).map(|saved| Saved { waits_for: None, ..saved });
    assert_eq!(loaded.drains, expect.collect::<Vec<_>>());
}

#[test]
fn nothing_of_the_format_has_changed_but_what_was_added() {
    let dir = Dir::new("format");
    let file = dir.file("boot-1");
    let without_waits = |saved: Saved| Saved { waits_for: None, ..saved };
    file.save(saved(&ledger()).map(without_waits)).unwrap();
    let read = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
    assert_eq!(read(&fs::read(file.path()).unwrap()), read(OLD.as_bytes()));
    let mut ledger = ledger();
    ledger.pod_ended(&key("10.244.0.11:8080"));
    file.save(saved(&ledger)).unwrap();
    let text = fs::read_to_string(file.path()).unwrap();
    let counts = [r#""podEnded":true"#, r#""waitsFor":{"readingAtMillis":1001000}"#]
        .map(|part| text.matches(part).count());
    assert_eq!(counts, [1, 2], "{text}");
}

#[test]
fn whatever_is_waited_for_is_loaded_and_what_is_not_known_costs_nothing() {
    let dir = Dir::new("waits");
    let (file, at) = (dir.file("boot-1"), Duration::from_millis(1_234_567));
    let waits = [
        (WaitsFor::Connections(12), r#"{"connections":12}"#),
        (WaitsFor::Quiet(at), r#"{"quietUntilMillis":1234567}"#),
        (WaitsFor::Answer(at), r#"{"answerUntilMillis":1234567}"#),
        (WaitsFor::Slice(at), r#"{"sliceUntilMillis":1234567}"#),
        (WaitsFor::Reading(at), r#"{"readingAtMillis":1234567}"#),
        (WaitsFor::Removal(Outcome::TimedOut), r#"{"removal":"timed-out"}"#),
        (
            WaitsFor::Retry { at, refused: "ENOENT".to_owned() },
            r#"{"retry":{"atMillis":1234567,"refused":"ENOENT"}}"#,
        ),
        (WaitsFor::Base, r#""base""#),
        (WaitsFor::Dump, r#""dump""#),
    ];
    let one = saved(&ledger()).next().unwrap();
    for (waits_for, text) in waits {
        let saved = Saved { waits_for: Some(waits_for), ..one.clone() };
        file.save([saved.clone()].into_iter()).unwrap();
        let written = fs::read_to_string(file.path()).unwrap();
        assert!(written.contains(&format!(r#""waitsFor":{text}"#)), "{written}");
        assert_eq!(file.load().unwrap().drains, [saved]);
        for unknown in [r#"{"moon":"full"}"#, "null", "7"] {
            let loaded = file.parse(written.replace(text, unknown).as_bytes()).unwrap();
            assert_eq!(loaded.drains, [Saved { waits_for: None, ..one.clone() }], "{:?}", loaded.problems);
        }
    }
}

#[test]
fn no_file_and_one_of_another_boot_say_nothing() {
    let dir = Dir::new("boots");
    assert_eq!(dir.file("boot-1").load().unwrap().drains, []);
    dir.file("boot-1").save(saved(&ledger())).unwrap();
    assert_eq!(dir.file("boot-2").load().unwrap().drains, []);
    assert_eq!(dir.file("boot-1").load().unwrap().drains.len(), 2);
}

#[test]
fn damage_costs_no_more_than_is_damaged() {
    let dir = Dir::new("damage");
    let file = dir.file("boot-1");
    file.save(saved(&ledger())).unwrap();
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
    file.save(saved(&ledger)).unwrap();
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
