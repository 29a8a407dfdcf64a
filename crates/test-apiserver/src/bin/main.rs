//! A test API server as a program; see the library.

use std::{
    error::Error,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use clap::Parser;
use test_apiserver::{Builder, Control, Identity, Load, TestApiServer, parse_objects};

/// A test double of the Kubernetes API server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address of the API.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Address of the control endpoint (plain HTTP, /__test/).
    #[arg(long, default_value = "127.0.0.1:6444")]
    control: SocketAddr,
    /// Folder of ca.crt, tls.crt and tls.key, which are made if they do not exist; without it, the API is
    /// plain HTTP.
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// Additional host name or address in the certificate.
    #[arg(long = "name")]
    names: Vec<String>,
    /// Bearer token to accept; without one, requests need none.
    #[arg(long = "token")]
    tokens: Vec<String>,
    /// File for a kubeconfig with the first token.
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
    /// File with initial objects, in YAML or JSON.
    #[arg(long)]
    load: Vec<PathBuf>,
    /// Generated initial objects: services=N,endpoints=M (of each Service).
    #[arg(long, value_parser = Load::parse)]
    generate: Option<Load>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut builder = TestApiServer::builder().listen(arguments.listen);
    for token in &arguments.tokens {
        builder = builder.token(token);
    }
    if let Some(directory) = &arguments.tls_dir {
        builder = with_tls(builder, directory, &arguments.names)?;
    }
    let server = Arc::new(builder.start()?);
    for file in &arguments.load {
        server.objects().apply_all(parse_objects(&fs::read_to_string(file)?)?)?;
    }
    if let Some(load) = arguments.generate {
        server.objects().apply_all(load.objects())?;
    }
    if let Some(file) = &arguments.kubeconfig_out {
        write_atomically(file, &server.kubeconfig())?;
    }
    let control = Control::start(Arc::clone(&server), arguments.control)?;
    println!("API {} control http://{}/__test/", server.url(), control.address());
    loop {
        thread::park();
    }
}

/// Has the server speak TLS. The certificates outlive the process, so that clients trust the next one, too.
fn with_tls(builder: Builder, directory: &Path, names: &[String]) -> Result<Builder, Box<dyn Error>> {
    let [ca, certificate, key] = ["ca.crt", "tls.crt", "tls.key"].map(|file| directory.join(file));
    if key.exists() {
        let read = |path: &Path| fs::read_to_string(path);
        let identity =
            Identity { ca_pem: read(&ca)?, certificate_pem: read(&certificate)?, key_pem: read(&key)? };
        return Ok(builder.identity(identity));
    }
    fs::create_dir_all(directory)?;
    let identity = Identity::make(names)?;
    write_atomically(&ca, &identity.ca_pem)?;
    write_atomically(&certificate, &identity.certificate_pem)?;
    // The key comes last: if it exists, so do the others.
    write_atomically(&key, &identity.key_pem)?;
    Ok(builder.identity(identity))
}

/// Writes a file so that a reader never sees half of it.
fn write_atomically(file: &Path, text: &str) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}
