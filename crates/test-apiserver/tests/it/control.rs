//! Control endpoint of a server in this process, and of the program.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use test_apiserver::{Control, TestApiServer};

use crate::{
    client::{Next, fetch, get, request},
    objects::service,
    watches::WATCH,
};

/// A server with its control endpoint.
struct ControlledServer {
    server: Arc<TestApiServer>,
    control: Control,
}

impl ControlledServer {
    fn new() -> Self {
        let server = Arc::new(TestApiServer::builder().token("one").start().unwrap());
        let control =
            Control::start(Arc::clone(&server), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        server.add_token("x");
        Self { server, control }
    }

    fn post(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.try_post(call, body);
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    fn try_post(&self, call: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(self.control.address(), "POST", &format!("/__test/{call}"), "", &body).json()
    }

    fn get(&self, call: &str) -> Value {
        fetch(self.control.address(), &format!("/__test/{call}")).1
    }

    fn api(&self, target: &str) -> crate::client::Answer {
        request(self.server.address(), "GET", target, "Authorization: Bearer x\r\n", "")
    }
}

#[test]
fn objects_are_written_and_marked() {
    let controlled = ControlledServer::new();
    let mut watch = controlled.api(WATCH);
    let applied = controlled.post("apply", json!([service("a", json!({})), service("b", json!({}))]));
    assert_eq!(applied["revision"], 102);
    controlled.post("apply", json!({"kind": "List", "items": [service("b", json!({"x": "y"}))]}));
    let deleted =
        controlled.post("delete", json!([{"resource": "services", "namespace": "shop", "name": "a"}]));
    assert_eq!(deleted["revision"], 104);
    for _ in 0..4 {
        watch.event();
    }
    let marks = controlled.get("mark?resource=services&namespace=shop&name=a");
    let kinds: Vec<_> =
        marks.as_array().unwrap().iter().map(|mark| (&mark["type"], &mark["revision"])).collect();
    assert_eq!(kinds, [(&json!("ADDED"), &json!(101)), (&json!("DELETED"), &json!(104))]);
    assert!(marks[1]["monotonicNs"].as_u64() > marks[0]["monotonicNs"].as_u64());
    let state = controlled.get("state");
    assert_eq!((&state["objects"]["services"], &state["watches"]["services"]), (&json!(1), &json!(1)));
    let requests = controlled.get("requests");
    assert_eq!(
        (&requests["counts"]["services"]["watch"], &requests["statuses"]["200"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(controlled.get("log")[0]["uri"], WATCH);
}

#[test]
fn faults_and_outages() {
    let controlled = ControlledServer::new();
    controlled.post("faults", json!({"services": {"refuse": {"status": 500}}}));
    assert_eq!(controlled.api("/api/v1/services").status, 500);
    controlled.post("clear", Value::Null);
    assert_eq!(controlled.api("/api/v1/services").status, 200);
    let mut watch = controlled.api(WATCH);
    controlled.post("drop-watches", json!({"how": "cut"}));
    assert_eq!(watch.next(), Next::Cut(0));
    controlled.post("stop", Value::Null);
    assert!(std::net::TcpStream::connect(controlled.server.address()).is_err());
    controlled.post("restart", Value::Null);
    assert_eq!(controlled.api("/api/v1/services").status, 200);
}

#[test]
fn the_past_comes_back() {
    let controlled = ControlledServer::new();
    assert_eq!(controlled.try_post("restart", json!({"data": "saved"})).0, 400, "nothing was saved");
    controlled.server.restart().unwrap();
    controlled.post("apply", json!([service("a", json!({}))]));
    controlled.post("save", Value::Null);
    controlled.post("apply", json!([service("b", json!({}))]));
    controlled.post("stale", json!({"on": true}));
    let count = |target| controlled.api(target).json().1["items"].as_array().unwrap().len();
    assert_eq!((count("/api/v1/services?resourceVersion=0"), count("/api/v1/services")), (1, 2));
    controlled.post("stale", json!({"on": false}));
    assert_eq!(count("/api/v1/services?resourceVersion=0"), 2);
    controlled.post("restart", json!({"data": "saved"}));
    assert_eq!(count("/api/v1/services"), 1);
    controlled.post("restart", json!({"data": "lost"}));
    assert_eq!(count("/api/v1/services"), 0);
    controlled.post("apply", json!([service("c", json!({}))]));
    controlled.post("compact", Value::Null);
    assert_eq!(controlled.api(&format!("{WATCH}&resourceVersion=100")).event()["object"]["code"], 410);
}

#[test]
fn access() {
    let controlled = ControlledServer::new();
    controlled.post("tokens", json!({"add": ["y"], "revoke": ["x"]}));
    assert_eq!(controlled.api("/api/v1/nodes").status, 401);
    controlled.post("tokens", json!({"add": ["x"]}));
    controlled.post("policy", json!({"deny": [["nodes", "list"]], "missing": ["servicecidrs"]}));
    assert_eq!(controlled.api("/api/v1/nodes").status, 403);
    assert_eq!(controlled.api("/apis/networking.k8s.io/v1/servicecidrs").status, 404);
    controlled.post("policy", json!({"allow": [["nodes", "list"]], "present": ["servicecidrs"]}));
    assert_eq!(controlled.api("/api/v1/nodes").status, 200);
    controlled.post("policy", json!({"streamingLists": "refused", "goneForm": "status"}));
    let streaming = format!("{WATCH}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    assert_eq!(controlled.api(&streaming).status, 422);
    assert_eq!(controlled.api(&format!("{WATCH}&resourceVersion=1")).status, 410);
}

#[test]
fn nonsense_is_refused() {
    let controlled = ControlledServer::new();
    for (call, body) in [
        ("faults", json!({"services": {"dealy": 5}})),
        ("faults", json!({"pods": {}})),
        ("apply", json!([{"kind": "Pod"}])),
        ("delete", json!([{"resource": "services", "name": "x"}])),
        ("drop-watches", json!({"how": "gently"})),
    ] {
        assert_eq!(controlled.try_post(call, body).0, 400, "{call}");
    }
    assert_eq!(controlled.try_post("unknown", Value::Null).0, 404);
    assert_eq!(get(controlled.control.address(), "/api/v1/services").status, 404);
}

/// The program, which ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program on free ports; returns the addresses of API and control endpoint.
fn start(directory: &std::path::Path, more: &[&str]) -> (Program, SocketAddr, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_test-apiserver"));
    command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(more).current_dir(directory);
    let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = |part: &str| part.split('/').nth(2).unwrap().parse().unwrap();
    let parts: Vec<&str> = line.split_whitespace().collect();
    (program, address(parts[1]), address(parts[3]))
}

fn directory(name: &str) -> std::path::PathBuf {
    let directory = env::temp_dir().join(format!("test-apiserver-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn the_program_loads_and_generates() {
    let directory = directory("plain");
    fs::write(directory.join("node.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: one}\n").unwrap();
    let more = ["--load", "node.yaml", "--generate", "services=20,endpoints=3"];
    let (_program, api, control) = start(&directory, &more);
    let state = fetch(control, "/__test/state").1;
    let count = |resource: &str| state["objects"][resource].as_u64().unwrap();
    assert_eq!((count("nodes"), count("services"), count("endpointslices")), (1, 20, 20));
    assert_eq!(fetch(api, "/api/v1/nodes/one").0, 200);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_program_keeps_its_certificates() {
    let directory = directory("tls");
    let more = ["--tls-dir", "tls", "--token", "secret", "--kubeconfig-out", "kubeconfig"];
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    let (program, _, control) = start(&directory, &more);
    let (certificate, kubeconfig) = (read("tls/ca.crt"), read("kubeconfig"));
    assert!(kubeconfig.contains("server: https://127.0.0.1:") && kubeconfig.contains("token: \"secret\""));
    assert_eq!(fetch(control, "/__test/state").0, 200);
    drop(program);
    let (_program, ..) = start(&directory, &more);
    assert_eq!(read("tls/ca.crt"), certificate);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_server_outlives_its_owner_while_it_is_controlled() {
    let ControlledServer { server, control } = ControlledServer::new();
    let api = server.address();
    drop(server);
    assert_eq!(get(api, "/api/v1/nodes").status, 401);
    drop(control);
    assert!(std::net::TcpStream::connect(api).is_err());
}
