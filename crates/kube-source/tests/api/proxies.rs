//! Proxies on the way to the server.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use kube_source::{ApiOptions, ApiSource, ProxyVariables};
use test_apiserver::TestApiServer;
use testkit::TempDir;

use crate::cluster::{Cluster, filled, options};

/// A proxy that leads to one server, whatever the destination in a request.
struct Proxy {
    address: SocketAddr,
    /// Heads of the requests so far.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(server: SocketAddr, greet: fn(&mut TcpStream) -> io::Result<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("its address");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&heads);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, log) = (client.expect("a client"), Arc::clone(&log));
                thread::spawn(move || {
                    let head = greet(&mut client).expect("a request");
                    log.lock().expect("heads").push(head);
                    join(client, TcpStream::connect(server).expect("the server"));
                });
            }
        });
        Proxy { address, heads }
    }

    fn heads(&self) -> String {
        self.heads.lock().expect("heads").join("\n")
    }
}

/// Copies both ways until both have ended.
fn join(client: TcpStream, server: TcpStream) {
    let one_way = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            let _gone = io::copy(&mut from, &mut to);
            let _gone = to.shutdown(Shutdown::Both);
        });
    };
    one_way(client.try_clone().expect("clone"), server.try_clone().expect("clone"));
    one_way(server, client);
}

fn connect(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Greets a client as in RFC 1928 and 1929: requires a password and accepts any.
fn socks(client: &mut TcpStream) -> io::Result<String> {
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = read(2)?[1];
    read(usize::from(methods))?;
    client.write_all(&[5, 2])?;
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let user = usize::from(read(2)?[1]);
    let user = read(user)?;
    let password = usize::from(read(1)?[0]);
    let password = read(password)?;
    client.write_all(&[1, 0])?;
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    assert_eq!(read(4)?, [5, 1, 0, 3], "CONNECT to a name");
    let host = usize::from(read(1)?[0]);
    let host = read(host)?;
    read(2)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(format!("{} {} {}", text(&user), text(&password), text(&host)))
}

/// Host name that no name server knows.
const HOST: &str = "api.invalid";

/// A server that can only be reached over a proxy, and a kubeconfig that names it.
fn hidden() -> (TestApiServer, String) {
    let server = filled(TestApiServer::builder().tls().name(HOST), 5);
    let kubeconfig = server.kubeconfig().replace("127.0.0.1", HOST);
    (server, kubeconfig)
}

fn with_proxy(kubeconfig: &str, url: &str) -> String {
    kubeconfig.replace("  cluster:\n", &format!("  cluster:\n    proxy-url: {url}\n"))
}

#[test]
fn proxy_url_of_the_kubeconfig() {
    let (server, kubeconfig) = hidden();
    let proxy = Proxy::start(server.address(), connect);
    let port = server.address().port();
    let kubeconfig = with_proxy(&kubeconfig, &format!("http://user:p%40ss@{}", proxy.address));
    let mut cluster = Cluster::follow_by(server, &kubeconfig, |options| {
        // `proxy-url` takes precedence over these.
        options.proxies =
            ProxyVariables { https: "http://127.0.0.1:1".into(), http: String::new(), no: "*".into() };
    });
    cluster.wait_same();
    let heads = proxy.heads();
    assert!(heads.contains(&format!("CONNECT {HOST}:{port} HTTP/1.1")), "{heads}");
    assert!(heads.contains("Proxy-Authorization: Basic dXNlcjpwQHNz"), "user:p@ss: {heads}");
}

#[test]
fn socks_proxies() {
    for scheme in ["socks5", "socks5h"] {
        let (server, kubeconfig) = hidden();
        let proxy = Proxy::start(server.address(), socks);
        let kubeconfig = with_proxy(&kubeconfig, &format!("{scheme}://user:pass@{}", proxy.address));
        let mut cluster = Cluster::follow_by(server, &kubeconfig, |_| {});
        cluster.wait_same();
        assert!(proxy.heads().contains(&format!("user pass {HOST}")), "{}", proxy.heads());
    }
}

#[test]
fn proxies_of_the_environment() {
    let (server, kubeconfig) = hidden();
    let proxy = Proxy::start(server.address(), connect);
    let https = format!("http://{}", proxy.address);
    let variables = ProxyVariables { https, http: String::new(), no: "other.invalid,10.0.0.0/8".into() };
    let mut cluster = Cluster::follow_by(server, &kubeconfig, |options| options.proxies = variables);
    cluster.wait_same();
    assert!(proxy.heads().contains(HOST));
}

#[test]
fn a_malformed_proxy_is_named() {
    let dir = TempDir::new("api");
    let path = dir.path().join("kubeconfig");
    let (_server, kubeconfig) = hidden();
    let open = |kubeconfig: &str, https: &str| {
        fs::write(&path, kubeconfig).unwrap();
        let proxies = ProxyVariables { https: https.to_owned(), ..ProxyVariables::default() };
        let opened = ApiSource::open(ApiOptions { proxies, ..options(path.clone()) });
        opened.map(drop).unwrap_err().to_string()
    };
    let error = open(&with_proxy(&kubeconfig, "ftp://user:SECRET@p"), "");
    assert!(error.contains("clusters[].cluster.proxy-url") && !error.contains("SECRET"), "{error}");
    let error = open(&kubeconfig, "quic://user:SECRET@p");
    assert!(error.contains("HTTPS_PROXY") && !error.contains("SECRET"), "{error}");
}
