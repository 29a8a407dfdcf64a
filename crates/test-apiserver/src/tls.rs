//! Certificate authority and server certificate, made at start.

use std::{net::IpAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Names of protocols in TLS.
pub(crate) const HTTP2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// Names in every server certificate; the last one is the address of the host in QEMU's user network.
const CERTIFICATE_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "10.0.2.2"];

/// Failure of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Keys or certificates could not be made.
    #[error("make certificates")]
    Make(#[source] rcgen::Error),
    /// A text is not PEM.
    #[error("read certificates")]
    Read(#[source] tokio_rustls::rustls::pki_types::pem::Error),
    /// Certificates do not fit their key.
    #[error("use certificates")]
    Use(#[source] tokio_rustls::rustls::Error),
}

/// Certificates and key with which a server proves its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Certificate of the authority, for clients.
    pub ca_pem: String,
    /// Certificate of the server.
    pub certificate_pem: String,
    /// Key of the server.
    pub key_pem: String,
}

impl Identity {
    /// Makes an identity for 127.0.0.1, localhost, 10.0.2.2 and `names` (host names or addresses).
    ///
    /// # Errors
    ///
    /// If a name is malformed.
    pub fn make(names: &[String]) -> Result<Self, TlsError> {
        make(names).map_err(TlsError::Make)
    }

    /// TLS that offers these protocols, the best first.
    pub(crate) fn acceptor(&self, protocols: &[&[u8]]) -> Result<TlsAcceptor, TlsError> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(TlsError::Read)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(TlsError::Read)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Use)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(TlsError::Use)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
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

    let names: Vec<String> =
        CERTIFICATE_NAMES.iter().map(|&name| name.to_owned()).chain(names.iter().cloned()).collect();
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate_pem = server.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok(Identity { ca_pem, certificate_pem, key_pem: key.serialize_pem() })
}

/// Makes a key for tokens of service accounts: private and public part, in PEM.
pub(crate) fn signing_key() -> Result<(String, String), TlsError> {
    let key = KeyPair::generate().map_err(TlsError::Make)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Configuration of a client that trusts one authority.
pub(crate) fn client_config(ca_pem: &str) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(TlsError::Read)?;
    roots.add(authority).map_err(TlsError::Use)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(TlsError::Use)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Host part of a URL.
pub(crate) fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
