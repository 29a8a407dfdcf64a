//! A certificate authority and a server certificate, made at start.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Names that every server certificate carries; the last is the host as QEMU's user network shows it to guests.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "10.0.2.2"];

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Making keys or certificates.
    #[error("making certificates")]
    Make(#[source] rcgen::Error),
    /// PEM that is none.
    #[error("reading certificates")]
    Read(#[source] tokio_rustls::rustls::pki_types::pem::Error),
    /// Certificates that do not fit their key.
    #[error("using certificates")]
    Use(#[source] tokio_rustls::rustls::Error),
}

/// What a server needs to prove that it is the one meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// For clients.
    pub ca_pem: String,
    /// The server's certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Identity {
    /// Makes one for 127.0.0.1, localhost, 10.0.2.2 and `names` (host names or addresses).
    ///
    /// # Errors
    ///
    /// If a name is neither.
    pub fn make(names: &[String]) -> Result<Self, TlsError> {
        make(names).map_err(TlsError::Make)
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(TlsError::Read)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(TlsError::Read)?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Use)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(TlsError::Use)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn make(names: &[String]) -> Result<Identity, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "kube-ipvs test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_pem = authority.self_signed(&authority_key)?.pem();

    let names: Vec<String> = NAMES.iter().map(|&name| name.to_owned()).chain(names.iter().cloned()).collect();
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate_pem = server.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok(Identity { ca_pem, certificate_pem, key_pem: key.serialize_pem() })
}

/// A key for tokens of service accounts: private and public, in PEM.
pub(crate) fn signing_key() -> Result<(String, String), TlsError> {
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// For clients that trust one authority.
pub(crate) fn client_config(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(TlsError::Read)?;
    roots.add(authority).map_err(TlsError::Use)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(TlsError::Use)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The host part of a URL.
pub(crate) fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
