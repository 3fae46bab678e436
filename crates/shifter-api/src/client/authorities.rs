//! Certificate authorities for `https` gateways: the site's file, or those the host trusts.
//!
//! The host's bundle rather than one compiled in, because a site's gateway usually has a certificate of the
//! site's own authority, which its hosts already know. Nothing is read where every gateway is plain `http`.

use std::fs;
use std::path::Path;

use ureq::tls::{Certificate, PemItem, RootCerts};

use super::ClientError;

/// Where distributions keep the certificate authorities the host trusts.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Loads certificate authorities: those named, or the host's.
pub(super) fn load(named: Option<&Path>) -> Result<RootCerts, ClientError> {
    let failed = |path: String, cause: &str| ClientError::Authorities { path, cause: cause.to_owned() };
    let found = match named {
        Some(path) => path,
        None => CA_BUNDLES
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .ok_or_else(|| failed(CA_BUNDLES.join(", "), "none of these files exists"))?,
    };
    let shown = found.display().to_string();
    let pem = fs::read(found).map_err(|error| failed(shown.clone(), &error.to_string()))?;
    // Bundles of old hosts hold entries no library reads; they are passed over, as OpenSSL does.
    let certificates: Vec<Certificate<'static>> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(failed(shown, "it holds no certificate"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
