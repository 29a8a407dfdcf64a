use std::{fs, os::unix::fs::symlink, time::Instant};

use testkit::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(5);

struct World {
    dir: TempDir,
    source: ManifestSource,
}

impl World {
    fn new(files: &[(&str, &str)]) -> (Self, Batch) {
        let dir = TempDir::new("manifests");
        files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
        let mut source = ManifestSource::open(dir.path(), "n1").unwrap();
        let batch = source.poll();
        (World { dir, source }, batch)
    }

    /// Replaces a file as editors and `kubectl` do.
    fn put(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.dir.path().join(name)).unwrap();
    }

    /// Waits until something changed.
    fn next(&mut self) -> Batch {
        let end = Instant::now() + LONG;
        while Instant::now() < end {
            self.source.wait(Duration::from_millis(200));
            let batch = self.source.poll();
            if batch != Batch::default() {
                return batch;
            }
        }
        panic!("nothing changed within {LONG:?}");
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
    let (mut world, batch) = World::new(&files);
    assert_eq!(summary(&batch), ["+node n1", "+dns 10.96.0.2", "+web 10.96.0.1", "synced"]);
    assert_eq!((batch.problems.len(), world.source.poll()), (0, Batch::default()));

    world.put("a.yaml", &format!("{}---\n{}", service("web", "10.96.0.9"), service("dns", "10.96.0.2")));
    assert_eq!(summary(&world.next()), ["+web 10.96.0.9"]);
    world.put("a.yaml", &service("dns", "10.96.0.2"));
    assert_eq!(summary(&world.next()), ["-web"]);
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(summary(&world.next()), ["-dns"]);
}

#[test]
fn a_broken_file_keeps_its_objects_is_reported_once_and_heals() {
    let (mut world, _) =
        World::new(&[("a.yaml", &service("a", "10.96.0.1")), ("b.yaml", &service("b", "10.96.0.2"))]);
    world.put("a.yaml", "kind: Service\nmetadata: [\n");
    let batch = world.next();
    assert_eq!(summary(&batch), [""; 0]);
    let problem = batch.problems[0].to_string();
    assert!(problem.starts_with("a.yaml:"), "{problem}");
    assert_eq!(world.source.poll(), Batch::default(), "reported once");
    world.put("b.yaml", &service("b", "10.96.0.3"));
    assert_eq!(summary(&world.next()), ["+b 10.96.0.3"]);
    world.put("a.yaml", &service("a", "10.96.0.7"));
    let batch = world.next();
    assert_eq!((summary(&batch), batch.healed.len()), (vec!["+a 10.96.0.7".to_owned()], 1));
}

#[test]
fn a_half_written_file_deletes_nothing() {
    use std::io::Write;
    let two = format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2"));
    let (mut world, _) = World::new(&[("a.yaml", &two)]);
    let mut file = fs::File::create(world.dir.path().join("a.yaml")).unwrap();
    file.write_all(service("a", "10.96.0.1").as_bytes()).unwrap();
    file.flush().unwrap();
    world.source.wait(Duration::from_millis(100));
    assert_eq!(world.source.poll(), Batch::default(), "its writer has not closed it");
    file.write_all(format!("---\n{}", service("b", "10.96.0.5")).as_bytes()).unwrap();
    drop(file);
    assert_eq!(summary(&world.next()), ["+b 10.96.0.5"]);
}

#[test]
fn a_swapped_link_as_in_a_mounted_config_map_is_followed() {
    let (mut world, _) = World::new(&[]);
    let path = world.dir.path().to_owned();
    for (generation, vip) in [("..1", "10.96.0.1"), ("..2", "10.96.0.2")] {
        fs::create_dir(path.join(generation)).unwrap();
        fs::write(path.join(generation).join("web.yaml"), service("web", vip)).unwrap();
        symlink(generation, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if generation == "..1" {
            symlink("..data/web.yaml", path.join("web.yaml")).unwrap();
        }
        assert_eq!(summary(&world.next()), [format!("+web {vip}")]);
    }
}

#[test]
fn the_first_file_by_name_has_the_say_on_an_object() {
    let (mut world, batch) =
        World::new(&[("a.yaml", &service("web", "10.96.0.1")), ("b.yaml", &service("web", "10.96.0.2"))]);
    assert_eq!(summary(&batch), ["+web 10.96.0.1", "synced"]);
    assert_eq!(batch.problems.len(), 1, "{:?}", batch.problems);
    let text = batch.problems[0].to_string();
    assert!(
        text.contains("b.yaml") && text.contains("a.yaml") && text.contains("Service default/web"),
        "{text}"
    );
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    let batch = world.next();
    assert_eq!((summary(&batch), batch.healed.len()), (vec!["+web 10.96.0.2".to_owned()], 1));
}

#[test]
fn a_bad_part_is_named_with_file_object_and_field() {
    let text = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {name: x, port: 0}]}\n";
    let (_, batch) = World::new(&[("web.yaml", text)]);
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
