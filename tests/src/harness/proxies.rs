//! Real proxies that sites have between their gateway and the world: squid, tinyproxy, dante.
//!
//! Open to everybody on this machine, without caches; only what they log is of interest.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::accounts;
use super::daemon::{DaemonId, Start, accepts, free_port};
use super::sandbox::Sandbox;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP.
    Squid,
    /// HTTP.
    Tinyproxy,
    /// SOCKS 5.
    Dante,
}

/// A running proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    /// `127.0.0.1:port`.
    pub authority: String,
    log: PathBuf,
}

impl Proxy {
    /// The requests it has logged.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Sandbox {
    /// Starts a proxy.
    pub fn proxy(&mut self, kind: ProxyKind) -> Result<Proxy> {
        let directory = self.new_directory("proxy")?;
        let account = accounts::find("registry")?;
        chown(&directory, Some(account.uid), Some(account.gid)).context("give a directory to the proxy")?;
        let (log, path, port) = (directory.join("log"), directory.join("configuration"), free_port()?);
        let (shown, dir) = (log.display(), directory.display());
        let (words, text) = match kind {
            ProxyKind::Squid => (
                vec!["squid", "-N", "-f"],
                format!(
                    "http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\npid_filename none\n\
                     access_log stdio:{shown}\ncache_log {dir}/squid.log\ncoredump_dir {dir}\nnetdb_filename none\n\
                     pinger_enable off\nshutdown_lifetime 0 seconds\n"
                ),
            ),
            ProxyKind::Tinyproxy => (
                vec!["tinyproxy", "-d", "-c"],
                format!("Port {port}\nListen 127.0.0.1\nLogFile \"{shown}\"\nLogLevel Connect\nTimeout 60\n"),
            ),
            ProxyKind::Dante => (
                // Its name on Debian, and elsewhere.
                vec![if self.find_program("danted").is_some() { "danted" } else { "sockd" }, "-f"],
                format!(
                    "logoutput: {shown}\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\n\
                     socksmethod: none\nclient pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
                     socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 log: connect }}\n"
                ),
            ),
        };
        fs::write(&path, text).context("write a proxy's configuration")?;
        let path = path.display().to_string();
        let name = words.first().copied().unwrap_or_default();
        let words = [&words[..], &[path.as_str()]].concat();
        let start = Start { name, words: &words, ids: (account.uid, account.gid), environment: &[] };
        let daemon = self.start_daemon(&start, &move || accepts(port))?;
        Ok(Proxy { daemon, authority: format!("127.0.0.1:{port}"), log })
    }
}
