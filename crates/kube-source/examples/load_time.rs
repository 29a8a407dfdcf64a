//! Time to load a directory of 10,000 Services with 10 endpoints each, as YAML and as JSON, and then one
//! changed file; memory of the model: `cargo run --release -p kube-source --example load_time`.

use std::{
    fmt::Write,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use kube_source::ManifestSource;
use service_model::{ModelEvent, ServiceModel};

const SERVICES: usize = 10_000;
const SERVICES_PER_FILE: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for extension in ["yaml", "json"] {
        let dir = std::env::temp_dir().join(format!("kube-ipvs-load-{}-{extension}", std::process::id()));
        fs::create_dir(&dir)?;
        let measured = measure(&dir, extension);
        fs::remove_dir_all(&dir)?;
        measured?;
    }
    Ok(())
}

fn measure(dir: &Path, extension: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut bytes = 0;
    for file in 0..SERVICES / SERVICES_PER_FILE {
        let first = file * SERVICES_PER_FILE;
        let text: String = (first..first + SERVICES_PER_FILE).map(|i| objects(i, extension)).collect();
        bytes += text.len();
        fs::write(dir.join(format!("{file:03}.{extension}")), text)?;
    }
    let mut source = ManifestSource::open(dir, "node-1")?;
    let start = Instant::now();
    let batch = source.poll();
    let loaded = start.elapsed();
    println!("{extension}: {} MB, {} events in {loaded:.2?}", bytes / 1_000_000, batch.events.len());
    let before = resident()?;
    let mut model = ServiceModel::default();
    for event in batch.events {
        model.apply(event);
    }
    println!(
        "  in the model after {:.2?}, resident {} kB more",
        start.elapsed() - loaded,
        resident()? - before
    );
    fs::write(dir.join(format!("000.{extension}")), objects(0, extension))?;
    source.wait(Duration::from_secs(1));
    let start = Instant::now();
    let events = source.poll().events.into_iter().map(|event: ModelEvent| model.apply(event)).count();
    println!("  one file changed: {events} events in {:.2?}", start.elapsed());
    let start = Instant::now();
    source.poll();
    println!("  nothing changed: {:.2?}", start.elapsed());
    Ok(())
}

/// A Service and its slice.
fn objects(i: usize, extension: &str) -> String {
    let (namespace, net) = (format!("namespace-{}", i % 100), format!("{}.{}", i / 250, i % 250));
    let meta = |name: &str, labels: &str| {
        format!(
            r#"{{"name": "{name}", "namespace": "{namespace}", "uid": "01234567-89ab-cdef-0123-{i:012}"{labels}}}"#
        )
    };
    let endpoints: Vec<_> = (0..10)
        .map(|e| {
            let node = (i * 10 + e) % 500;
            format!(
                r#"{{"addresses": ["10.{net}.{e}"], "conditions": {{"ready": true, "serving": true, "terminating": false}}, "nodeName": "node-{node}", "targetRef": {{"kind": "Pod", "name": "service-{i}-7d9f8c6b5d-x{e:04}", "namespace": "{namespace}", "uid": "01234567-89ab-cdef-{e:04}-{i:012}"}}}}"#
            )
        })
        .collect();
    let label = format!(r#", "labels": {{"kubernetes.io/service-name": "service-{i}"}}"#);
    let objects = [
        format!(
            r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {{"clusterIP": "10.{net}.200", "ports": [{{"name": "http", "port": 80}}]}}}}"#,
            meta(&format!("service-{i}"), "")
        ),
        format!(
            r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {}, "addressType": "IPv4", "ports": [{{"name": "http", "port": 8080}}], "endpoints": [{}]}}"#,
            meta(&format!("service-{i}-abcde"), &label),
            endpoints.join(", ")
        ),
    ];
    let mut text = String::new();
    for object in objects {
        let written = match extension {
            "json" => writeln!(text, "{object}"),
            _ => serde_json::from_str::<serde_json::Value>(&object)
                .map(|value| serde_saphyr::to_string(&value).unwrap_or_default())
                .map_or(Err(std::fmt::Error), |yaml| writeln!(text, "---\n{yaml}")),
        };
        if written.is_err() {
            return String::new();
        }
    }
    text
}

/// Resident memory in kB.
fn resident() -> io::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4)
}
