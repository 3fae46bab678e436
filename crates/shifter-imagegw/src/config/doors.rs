//! Where the gateway listens, with which certificate, and how it logs: keys that are ours.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::section::Section;
use crate::catalog::Place;

/// Where connections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    /// For a proxy on the same host; plain HTTP.
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `ADDRESS:PORT` or `unix:/PATH`.
    pub(crate) fn parse(text: &str) -> Result<Endpoint, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
            Some(_) => {
                Err(format!("\"{text}\" must have an absolute path, as unix:/run/shifter-imagegw/http.sock"))
            }
            None => text.parse().map(Endpoint::Tcp).map_err(|_| {
                format!("\"{text}\" must be ADDRESS:PORT, as 0.0.0.0:5000 or [::]:5000, or unix:/PATH")
            }),
        }
    }

    /// Whether only this host can reach it, and not even a proxy can be meant.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(self, Endpoint::Tcp(address) if address.ip().is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// PEM files; both are read again at a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The gateway's own end of things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doors {
    pub(crate) listen: Vec<Endpoint>,
    /// For all addresses, not for unix sockets.
    pub(crate) tls: Option<TlsFiles>,
    /// Where `backup`, `reconcile` and `ready` reach the running gateway, and whether the site said so.
    pub(crate) admin_socket: Option<(PathBuf, bool)>,
    pub(crate) logs_json: bool,
}

pub(super) fn read(top: &mut Section<'_>, database: &Place) -> Doors {
    let mut listen = Vec::new();
    for text in top.names("Listen") {
        match Endpoint::parse(&text) {
            Ok(endpoint) => listen.push(endpoint),
            Err(why) => top.problem("Listen", &why),
        }
    }
    if listen.is_empty() {
        listen.push(Endpoint::Tcp(SocketAddr::from(([0, 0, 0, 0], 5000))));
    }
    let tls = match (top.path("TLSCertificate"), top.path("TLSKey")) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        (Some(_), None) => {
            top.problem("TLSKey", "missing; TLSCertificate needs its private key");
            None
        }
        (None, Some(_)) => {
            top.problem("TLSCertificate", "missing; TLSKey alone serves nothing");
            None
        }
        (None, None) => None,
    };
    let beside = |file: &PathBuf| {
        let mut name = file.clone().into_os_string();
        name.push(".sock");
        (PathBuf::from(name), false)
    };
    let admin_socket = match (top.path("AdminSocket"), database) {
        (Some(path), _) => Some((path, true)),
        (None, Place::Sqlite(file)) => Some(beside(file)),
        (None, _) => None,
    };
    Doors { listen, tls, admin_socket, logs_json: top.choice("LogFormat", &["text", "json"]) == Some("json") }
}
