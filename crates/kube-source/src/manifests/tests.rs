use std::{fs, os::unix::fs::symlink, time::Instant};

use testkit::TempDir;

use super::*;

/// Longest wait for a change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

struct WatchedDirectory {
    dir: TempDir,
    source: ManifestSource,
}

impl WatchedDirectory {
    fn new(files: &[(&str, &str)]) -> (Self, Batch) {
        let dir = TempDir::new("manifests");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut source = ManifestSource::open(dir.path(), "n1").unwrap();
        let batch = source.poll();
        (WatchedDirectory { dir, source }, batch)
    }

    /// Replaces a file as editors and `kubectl` do.
    fn put(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.dir.path().join(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Polls for as long as unsettled changes need, and expects no event.
    fn stays_the_same(&mut self) {
        let end = Instant::now() + changes::ABSENCE_TIME * 2;
        while Instant::now() < end {
            self.source.wait(Duration::from_millis(20));
            assert_eq!(self.source.poll(), Batch::default());
        }
    }

    /// Waits until something changed.
    fn next(&mut self) -> Batch {
        let end = Instant::now() + CHANGE_TIMEOUT;
        while Instant::now() < end {
            self.source.wait(Duration::from_millis(200));
            let batch = self.source.poll();
            if batch != Batch::default() {
                return batch;
            }
        }
        panic!("nothing changed within {CHANGE_TIMEOUT:?}");
    }
}

fn service(name: &str, vip: &str) -> String {
    format!("kind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {vip}, ports: [{{port: 80}}]}}\n")
}

/// Short form of events: `+web 10.96.0.1`, `-web`, `synced`.
fn summary(batch: &Batch) -> Vec<String> {
    let short = |event: &ModelEvent| match event {
        ModelEvent::ServiceApplied(service) => format!("+{} {}", service.name.name, service.cluster_ips[0]),
        ModelEvent::ServiceDeleted(name) => format!("-{}", name.name),
        ModelEvent::SliceApplied(slice) => format!("+slice {}", slice.name.name),
        ModelEvent::SliceDeleted(name) => format!("-slice {}", name.name),
        ModelEvent::NodeApplied(node) => format!("+node {}", node.name),
        ModelEvent::NodeDeleted => "-node".to_owned(),
        ModelEvent::ServiceCidrsApplied(cidrs) => format!("cidrs {cidrs:?}"),
        ModelEvent::Synced => "synced".to_owned(),
    };
    batch.events.iter().map(short).collect()
}

#[test]
fn the_first_look_delivers_everything_and_then_only_changes_come() {
    let node = |name| format!("kind: Node\nmetadata: {{name: {name}}}\n");
    let files = [
        ("a.yaml", format!("{}---\n{}", service("web", "10.96.0.1"), service("dns", "10.96.0.2"))),
        ("node.yml", format!("{}---\n{}", node("n1"), node("n2"))),
        ("notes.txt", "not a manifest".to_owned()),
        ("other.json", r#"{"kind":"ConfigMap","metadata":{"name":"x"}}"#.to_owned()),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (mut watched, batch) = WatchedDirectory::new(&files);
    assert_eq!(summary(&batch), ["+node n1", "+dns 10.96.0.2", "+web 10.96.0.1", "synced"]);
    assert_eq!((batch.problems.len(), watched.source.poll()), (0, Batch::default()));

    watched.put("a.yaml", &format!("{}---\n{}", service("web", "10.96.0.9"), service("dns", "10.96.0.2")));
    assert_eq!(summary(&watched.next()), ["+web 10.96.0.9"]);
    watched.put("a.yaml", &service("dns", "10.96.0.2"));
    assert_eq!(summary(&watched.next()), ["-web"]);
    fs::remove_file(watched.dir.path().join("a.yaml")).unwrap();
    assert_eq!(summary(&watched.next()), ["-dns"]);
}

#[test]
fn a_broken_file_keeps_its_objects_is_reported_once_and_heals() {
    let (mut watched, _) = WatchedDirectory::new(&[
        ("a.yaml", &service("a", "10.96.0.1")),
        ("b.yaml", &service("b", "10.96.0.2")),
    ]);
    watched.put("a.yaml", "kind: Service\nmetadata: [\n");
    let batch = watched.next();
    assert_eq!(summary(&batch), [""; 0]);
    let problem = batch.problems[0].to_string();
    assert!(problem.starts_with("a.yaml:"), "{problem}");
    assert_eq!(watched.source.poll(), Batch::default(), "reported once");
    watched.put("b.yaml", &service("b", "10.96.0.3"));
    assert_eq!(summary(&watched.next()), ["+b 10.96.0.3"]);
    watched.put("a.yaml", &service("a", "10.96.0.7"));
    let batch = watched.next();
    assert_eq!((summary(&batch), batch.healed.len()), (vec!["+a 10.96.0.7".to_owned()], 1));
}

#[test]
fn a_half_written_file_deletes_nothing() {
    use std::io::Write;
    let two = format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &two)]);
    let mut file = fs::File::create(watched.dir.path().join("a.yaml")).unwrap();
    file.write_all(service("a", "10.96.0.1").as_bytes()).unwrap();
    file.flush().unwrap();
    watched.source.wait(Duration::from_millis(100));
    assert_eq!(watched.source.poll(), Batch::default(), "its writer has not closed it");
    file.write_all(format!("---\n{}", service("b", "10.96.0.5")).as_bytes()).unwrap();
    drop(file);
    assert_eq!(summary(&watched.next()), ["+b 10.96.0.5"]);
}

#[test]
fn a_swapped_link_as_in_a_mounted_config_map_is_followed() {
    let (mut watched, _) = WatchedDirectory::new(&[]);
    let path = watched.dir.path().to_owned();
    for (generation, vip) in [("..1", "10.96.0.1"), ("..2", "10.96.0.2")] {
        fs::create_dir(path.join(generation)).unwrap();
        fs::write(path.join(generation).join("web.yaml"), service("web", vip)).unwrap();
        symlink(generation, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if generation == "..1" {
            symlink("..data/web.yaml", path.join("web.yaml")).unwrap();
        }
        assert_eq!(summary(&watched.next()), [format!("+web {vip}")]);
    }
}

#[test]
fn the_first_file_by_name_has_the_say_on_an_object() {
    let (mut watched, batch) = WatchedDirectory::new(&[
        ("a.yaml", &service("web", "10.96.0.1")),
        ("b.yaml", &service("web", "10.96.0.2")),
    ]);
    assert_eq!(summary(&batch), ["+web 10.96.0.1", "synced"]);
    assert_eq!(batch.problems.len(), 1, "{:?}", batch.problems);
    let text = batch.problems[0].to_string();
    assert!(
        text.contains("b.yaml") && text.contains("a.yaml") && text.contains("Service default/web"),
        "{text}"
    );
    fs::remove_file(watched.dir.path().join("a.yaml")).unwrap();
    let batch = watched.next();
    assert_eq!((summary(&batch), batch.healed.len()), (vec!["+web 10.96.0.2".to_owned()], 1));
}

#[test]
fn a_bad_part_is_named_with_file_object_and_field() {
    let text = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {name: x, port: 0}]}\n";
    let (_, batch) = WatchedDirectory::new(&[("web.yaml", text)]);
    let lines: Vec<_> = batch.problems.iter().map(ToString::to_string).collect();
    assert!(
        lines.iter().any(|line| line.starts_with("web.yaml: Service default/web: spec.ports[1].port: ")),
        "{lines:?}"
    );
}

#[test]
fn a_directory_that_is_not_there_is_an_error_that_names_it() {
    let error = ManifestSource::open(Path::new("/no/such/dir"), "n1").err().unwrap();
    assert!(error.to_string().contains("/no/such/dir"));
}

#[test]
fn a_broken_document_spoils_no_other() {
    let [a, b, c] =
        [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.3")].map(|(name, vip)| service(name, vip));
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &format!("{a}---\n{b}---\n{c}"))]);
    let a = service("a", "10.96.0.7");
    watched
        .put("a.yaml", &format!("{a}---\nkind: Service\nmetadata: {{name: b\n---\n# c is gone, or is it?\n"));
    let batch = watched.next();
    assert_eq!(summary(&batch), ["+a 10.96.0.7"], "b and c stay until the file can be read as a whole");
    let problem = batch.problems[0].to_string();
    assert!(problem.starts_with("a.yaml:") && problem.contains("not YAML: "), "{problem}");
    assert_eq!((batch.problems.len(), batch.healed.len()), (1, 0));
    watched.put("a.yaml", &format!("{a}---\n{b}"));
    let batch = watched.next();
    assert_eq!((summary(&batch), batch.problems.len(), batch.healed.len()), (vec!["-c".to_owned()], 0, 1));
}

#[test]
fn a_file_that_editors_move_away_keeps_its_objects() {
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).unwrap();
    watched.source.wait(Duration::from_millis(10));
    assert_eq!(watched.source.poll(), Batch::default());
    fs::write(watched.path("a.yaml"), service("a", "10.96.0.2")).unwrap();
    assert_eq!(summary(&watched.next()), ["+a 10.96.0.2"]);
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).unwrap();
    assert_eq!(summary(&watched.next()), ["-a"]);
}

#[test]
fn without_notifications_looks_are_enough() {
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    watched.source.directory.stop_watching();
    fs::write(watched.path("a.yaml"), service("a", "10.96.0.2")).unwrap();
    fs::write(watched.path("b.yaml"), service("b", "10.96.0.3")).unwrap();
    assert_eq!(summary(&watched.next()), ["+a 10.96.0.2", "+b 10.96.0.3"]);
    fs::remove_file(watched.path("a.yaml")).unwrap();
    assert_eq!(summary(&watched.next()), ["-a"]);
}

#[test]
fn a_file_behind_a_link_is_followed_in_place() {
    let elsewhere = TempDir::new("elsewhere");
    let target = elsewhere.path().join("web.txt");
    fs::write(&target, service("web", "10.96.0.1")).unwrap();
    let (mut watched, _) = WatchedDirectory::new(&[]);
    symlink(&target, watched.path("web.yaml")).unwrap();
    assert_eq!(summary(&watched.next()), ["+web 10.96.0.1"]);
    fs::write(&target, service("web", "10.96.0.2")).unwrap();
    assert_eq!(summary(&watched.next()), ["+web 10.96.0.2"]);
    fs::remove_file(&target).unwrap();
    assert_eq!(summary(&watched.next()), ["-web"], "a link that leads nowhere is no file");
}

#[test]
fn a_directory_that_is_away_keeps_its_objects() {
    let parent = TempDir::new("parent");
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), service("a", "10.96.0.1")).unwrap();
    let mut source = ManifestSource::open(&path, "n1").unwrap();
    assert_eq!(summary(&source.poll()), ["+a 10.96.0.1", "synced"]);
    fs::rename(&path, parent.path().join("old")).unwrap();
    let batch = source.poll();
    assert_eq!((summary(&batch).len(), batch.problems.len()), (0, 1));
    assert!(batch.problems[0].to_string().contains("cannot be listed"), "{}", batch.problems[0]);
    assert_eq!(source.poll(), Batch::default(), "reported once");

    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), service("a", "10.96.0.2")).unwrap();
    let mut watched = WatchedDirectory { dir: parent, source };
    let batch = watched.next();
    assert_eq!((batch.healed.len(), batch.problems.len()), (1, 0));
    if batch.events.is_empty() {
        assert_eq!(summary(&watched.next()), ["+a 10.96.0.2"]);
    }
    fs::write(path.join("a.yaml"), service("a", "10.96.0.3")).unwrap();
    assert_eq!(summary(&watched.next()), ["+a 10.96.0.3"], "the new directory is watched");
}

#[test]
fn lists_hold_objects() {
    let list = "apiVersion: v1\nkind: List\nitems:\n\
                - {kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n\
                - {kind: Service, metadata: {name: b}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}\n\
                - text\n- {metadata: {name: c}}\n- {kind: Service, metadata: {}}\n- null\n";
    let typed = r#"{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": [
        {"metadata": {"name": "a-1", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "IPv4"}]}"#;
    let (_, batch) = WatchedDirectory::new(&[("list.yaml", list), ("typed.json", typed)]);
    assert_eq!(summary(&batch), ["+a 10.96.0.1", "+b 10.96.0.2", "+slice a-1", "synced"]);
    let problems: Vec<_> = batch.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    for (problem, expect) in problems.iter().zip([
        "list.yaml:1: items[2]: an API object is expected, found text",
        "list.yaml:1: items[3].kind: the kind of an object is expected, found nothing",
        "list.yaml:1: items[4].metadata.name: Service: a name is expected, found nothing",
    ]) {
        assert!(problem.starts_with(expect), "{problem}");
    }
}

#[test]
fn kinds_of_other_groups_are_not_ours() {
    let text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: fn}\nspec: text\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {ports: 7}\n---\n\
                apiVersion: v1\nkind: ConfigMapList\nitems: [{kind: Service}]\n";
    let (_, batch) = WatchedDirectory::new(&[("other.yaml", text)]);
    assert_eq!(
        (summary(&batch), batch.problems.len()),
        (vec!["synced".to_owned()], 0),
        "{:?}",
        batch.problems
    );
}

#[test]
fn an_object_that_is_not_served_any_more_is_deleted() {
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    watched.put("a.yaml", &service("a", "None"));
    assert_eq!(summary(&watched.next()), ["-a"]);
    watched.put("a.yaml", &service("a", "10.96.0.1"));
    assert_eq!(summary(&watched.next()), ["+a 10.96.0.1"]);
    watched.put("a.yaml", &service("a", "127.0.0.1"));
    let batch = watched.next();
    assert_eq!((summary(&batch), batch.problems.len()), (vec!["-a".to_owned()], 1));
    fs::remove_file(watched.path("a.yaml")).unwrap();
    let batch = watched.next();
    assert_eq!((summary(&batch).len(), batch.healed.len()), (0, 1));
    assert!(watched.source.store.is_empty(), "nothing is kept of a file that is gone");
}

/// Conformance: e2e/service should be able to change the type from ExternalName to ClusterIP
/// Conformance: e2e/service should be able to change the type from ExternalName to NodePort
/// Conformance: e2e/service should be able to change the type from ClusterIP to ExternalName
/// Conformance: e2e/service should be able to change the type from NodePort to ExternalName
#[test]
fn a_service_may_become_an_external_name_and_back() {
    let named = "kind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, externalName: a.example}\n";
    let typed = |kind: &str| service("a", "10.96.0.1").replace("spec: {", &format!("spec: {{type: {kind}, "));
    for kind in ["ClusterIP", "NodePort"] {
        let (mut watched, first) = WatchedDirectory::new(&[("a.yaml", named)]);
        assert_eq!(summary(&first), ["synced"]);
        watched.put("a.yaml", &typed(kind).replace("port: 80}", "port: 80, nodePort: 30080}"));
        assert_eq!(summary(&watched.next()), ["+a 10.96.0.1"]);
        watched.put("a.yaml", named);
        assert_eq!(summary(&watched.next()), ["-a"]);
    }
}

#[test]
fn an_object_may_move_to_another_file() {
    let (mut watched, _) = WatchedDirectory::new(&[("b.yaml", &service("web", "10.96.0.1"))]);
    watched.put("a.yaml", &service("web", "10.96.0.1"));
    let batch = watched.next();
    assert_eq!((summary(&batch).len(), batch.problems.len()), (0, 1), "{batch:?}");
    fs::remove_file(watched.path("b.yaml")).unwrap();
    let batch = watched.next();
    assert_eq!((summary(&batch).len(), batch.healed.len()), (0, 1), "it never went away: {batch:?}");
}

#[test]
fn of_two_objects_in_one_file_the_last_counts() {
    let text = format!("{}---\n{}", service("web", "10.96.0.1"), service("web", "10.96.0.2"));
    let (_, batch) = WatchedDirectory::new(&[("a.yaml", &text)]);
    assert_eq!(summary(&batch), ["+web 10.96.0.2", "synced"]);
    assert_eq!(batch.problems.len(), 1);
    assert!(batch.problems[0].to_string().starts_with("a.yaml: Service default/web: stands twice"));
}

#[test]
fn a_file_that_is_no_text_keeps_its_objects() {
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    fs::write(watched.path("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let batch = watched.next();
    assert_eq!((summary(&batch).len(), batch.problems.len()), (0, 1));
    assert!(batch.problems[0].to_string().contains("cannot be read"), "{}", batch.problems[0]);
    watched.put("a.yaml", &service("a", "10.96.0.1"));
    let batch = watched.next();
    assert_eq!((summary(&batch).len(), batch.healed.len()), (0, 1));
}

/// Conformance: node TestNodeManagerOnNodeDelete
#[test]
fn a_node_that_is_gone_and_comes_back() {
    let (mut watched, _) = WatchedDirectory::new(&[("node.yaml", "kind: Node\nmetadata: {name: n1}\n")]);
    fs::remove_file(watched.path("node.yaml")).unwrap();
    assert_eq!(summary(&watched.next()), ["-node"]);
    watched.put("node.yaml", "kind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}\n");
    assert_eq!(summary(&watched.next()), ["+node n1"]);
}

#[test]
fn touching_a_file_changes_nothing() {
    let (mut watched, _) = WatchedDirectory::new(&[("a.yaml", &service("a", "10.96.0.1"))]);
    watched.put("a.yaml", &format!("# a comment\n{}", service("a", "10.96.0.1")));
    fs::write(watched.path("notes.txt"), "x").unwrap();
    fs::write(watched.path(".a.yaml.swp"), service("x", "10.96.0.9")).unwrap();
    fs::create_dir(watched.path("dir.yaml")).unwrap();
    watched.stays_the_same();
}

#[test]
fn waiting_ends_in_time() {
    let (mut watched, _) = WatchedDirectory::new(&[]);
    let start = Instant::now();
    let mut may_have_changed = false;
    while !may_have_changed {
        assert!(start.elapsed() < CHANGE_TIMEOUT);
        may_have_changed = watched.source.wait(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= Duration::from_millis(100), "it wakes up without a reason");
}

#[test]
fn many_files_and_documents_are_all_delivered_in_order() {
    let name = |i: usize| format!("svc-{i:05}");
    let vip = |i: usize| format!("10.96.{}.{}", i / 250, i % 250 + 1);
    let document = |i: usize| format!("---\n{}# {}\n", service(&name(i), &vip(i)), "x".repeat(400));
    let files: Vec<_> = (0..2000)
        .collect::<Vec<_>>()
        .chunks(300)
        .enumerate()
        .map(|(i, part)| (format!("{i}.yaml"), part.iter().map(|i| document(*i)).collect::<String>()))
        .collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (mut watched, batch) = WatchedDirectory::new(&files);
    let expect = (0..2000).map(|i| format!("+{} {}", name(i), vip(i))).chain(["synced".to_owned()]);
    assert_eq!(summary(&batch), expect.collect::<Vec<_>>());
    watched.put("6.yaml", &document(1999));
    assert_eq!(watched.next().events.len(), 199, "one file was read, the rest was left alone");
}

/// The examples in the repository have no problems, and deliver what they should.
#[test]
fn the_examples_are_right() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests/examples");
    let batch = ManifestSource::open(&dir, "demo-node").unwrap().poll();
    assert_eq!(batch.problems, []);
    let summary = summary(&batch);
    for expect in [
        "+node demo-node",
        "+dns 10.96.0.53",
        "+shop 10.96.0.90",
        "+signalling 10.96.0.36",
        "+web 10.96.0.80",
        "+slice web-v4",
        "+slice web-v6",
        "synced",
    ] {
        assert!(summary.iter().any(|line| line == expect), "{expect}: {summary:?}");
    }
}
