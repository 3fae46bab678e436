//! A real sshd on a loopback address of its own, run by the account it lets in, as a site's login node is for a gateway:
//! in a mount namespace, so that each host has its own files under the same name.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::accounts;
use super::daemon::{DaemonId, Start, free_port};
use super::namespace::set_mode;
use super::sandbox::Sandbox;

/// The account on the hosts.
const ACCOUNT: &str = "shifter";

/// How a host is.
#[derive(Debug, Clone, Default)]
pub struct SshdOptions {
    /// Lines of `sshd_config` that come first.
    pub config: String,
    /// What the host has in the place of directories: there, and what it sees instead.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

/// The keys and files that all hosts of a sandbox share.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The private key of the gateway's account.
    pub key: PathBuf,
    /// Another one, that no host knows.
    pub stranger: PathBuf,
    /// The hosts' keys, by address.
    pub known_hosts: PathBuf,
    /// The port that all hosts listen on.
    pub port: u16,
    directory: PathBuf,
}

/// A running host.
#[derive(Debug, Clone)]
pub struct Sshd {
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    /// `127.0.0.N`.
    pub address: String,
}

impl Sandbox {
    /// Makes the keys; the hosts come afterwards.
    pub fn ssh_keys(&mut self) -> Result<Keys> {
        let directory = self.new_directory("ssh")?;
        let account = accounts::find("gateway")?;
        for name in ["key", "stranger"] {
            self.make_key(&directory.join(name))?;
            chown(directory.join(name), Some(account.uid), Some(account.gid))?;
        }
        fs::copy(directory.join("key.pub"), directory.join("authorized_keys"))?;
        let path = |name: &str| directory.join(name);
        let (key, stranger, known_hosts) = (path("key"), path("stranger"), path("known_hosts"));
        fs::write(&known_hosts, "")?;
        Ok(Keys { key, stranger, known_hosts, port: free_port()?, directory })
    }

    /// A directory that belongs to the account on the hosts.
    pub fn host_directory(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.new_directory(name)?;
        self.give_to_host(&path)?;
        Ok(path)
    }

    /// Gives something to the account on the hosts.
    pub fn give_to_host(&self, path: &Path) -> Result<()> {
        let account = accounts::find(ACCOUNT)?;
        chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("give {} to {ACCOUNT}", path.display()))
    }

    /// Starts a host at `127.0.0.NUMBER`.
    pub fn sshd(&mut self, keys: &Keys, number: u8, options: &SshdOptions) -> Result<Sshd> {
        self.sshd_at(keys, (number, format!("127.0.0.{number}")), options, (&["unshare", "-m"], ""))
    }

    /// Starts a host at an address, by these words and after this script.
    pub(super) fn sshd_at(
        &mut self,
        keys: &Keys,
        (number, address): (u8, String),
        options: &SshdOptions,
        (by, before): (&[&str], &str),
    ) -> Result<Sshd> {
        let account = accounts::find(ACCOUNT)?;
        let host_key = keys.directory.join(format!("host-{number}"));
        if !host_key.exists() {
            self.make_key(&host_key)?;
            chown(&host_key, Some(account.uid), Some(account.gid))?;
            let public = fs::read_to_string(host_key.with_extension("pub"))?;
            let known = fs::read_to_string(&keys.known_hosts)?;
            // Whatever stands before the first host is at 127.0.0.1.
            let first = if known.is_empty() { ",[127.0.0.1]:*" } else { "" };
            let line = format!("{known}[{address}]:{}{first} {public}", keys.port);
            fs::write(&keys.known_hosts, line)?;
        }
        let config = keys.directory.join(format!("sshd_config-{number}"));
        let text = format!(
            "{}\nListenAddress {address}:{}\nHostKey {}\nAuthorizedKeysFile {}/authorized_keys\nPidFile none\n\
             UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 200\nSubsystem sftp internal-sftp\n",
            options.config,
            keys.port,
            host_key.display(),
            keys.directory.display(),
        );
        fs::write(&config, text).context("write sshd_config")?;
        let binds: String = options
            .mounts
            .iter()
            .map(|(place, seen)| format!("mount --bind \"{}\" \"{}\"; ", seen.display(), place.display()))
            .collect();
        let script = format!(
            "set -e; {before}{binds}exec setpriv --reuid={} --regid={} --clear-groups --pdeathsig=KILL /usr/sbin/sshd -D -e -f {}",
            account.uid,
            account.gid,
            config.display()
        );
        let words = [by, &["sh", "-c", &script]].concat();
        let environment = [("HOME", "/home/shifter")];
        let start = Start { name: "sshd", words: &words, ids: (0, 0), environment: &environment };
        let probe: std::net::SocketAddr = format!("{address}:{}", keys.port).parse()?;
        let ready = move || std::net::TcpStream::connect(probe).is_ok();
        let daemon = self.start_daemon(&start, &ready)?;
        Ok(Sshd { daemon, address })
    }

    fn make_key(&self, path: &Path) -> Result<()> {
        let text = path.display().to_string();
        self.root()
            .run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", &text])?
            .success()?;
        set_mode(path, 0o600)
    }
}
