//! TLS of the listeners: a certificate chain and its key from two PEM files, read again at every reload.
//!
//! Connections that are open keep what they began with. Clients are known by munge, never by certificates.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;

/// What new connections begin with.
#[derive(Clone)]
pub(crate) struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    pub(crate) fn new(files: &TlsFiles) -> anyhow::Result<Tls> {
        Ok(Tls(Arc::new(RwLock::new(load(files)?))))
    }

    /// Takes what [`load`] has read for all connections from now on.
    pub(crate) fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// Reads and checks the files: the key must be the certificate's.
pub(crate) fn load(files: &TlsFiles) -> anyhow::Result<Arc<ServerConfig>> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("TLSCertificate: reading the certificates of {certificate} failed"))?;
    let private = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("TLSKey: reading the private key of {key} failed"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("preparing TLS failed")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| {
            format!("TLSCertificate: {certificate} and the key {key} cannot be used together")
        })?;
    Ok(Arc::new(config))
}
