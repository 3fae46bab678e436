//! A real munged with its own key and socket.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::accounts::host_account;
use super::daemon::{DaemonId, Start};
use super::namespace::set_mode;
use super::sandbox::Sandbox;

/// A running munged.
#[derive(Debug, Clone)]
pub struct Munged {
    /// For [`Sandbox::stop`].
    pub daemon: DaemonId,
    /// Its socket.
    pub socket: PathBuf,
}

impl Sandbox {
    /// Starts munged; `name` keeps several apart, each with a key of its own.
    pub fn munged(&mut self, name: &str) -> Result<Munged> {
        let directory = self.new_directory(&format!("munge-{name}"))?;
        let (uid, gid) = host_account("munge").unwrap_or((0, 0));
        let key = directory.join("munge.key");
        // A key needs only to be secret from nobody here, and different for each daemon.
        let secret: Vec<u8> =
            directory.as_os_str().as_encoded_bytes().iter().copied().cycle().take(1024).collect();
        fs::write(&key, secret).with_context(|| format!("write {}", key.display()))?;
        set_mode(&key, 0o400)?;
        for path in [&directory, &key] {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("give {} to munge", path.display()))?;
        }
        let socket = directory.join("socket");
        let path = |name: &str| directory.join(name).display().to_string();
        let options = [
            format!("--key-file={}", key.display()),
            format!("--socket={}", socket.display()),
            format!("--pid-file={}", path("pid")),
            format!("--log-file={}", path("munged.log")),
            format!("--seed-file={}", path("seed")),
        ];
        let mut words = vec!["munged", "--foreground"];
        words.extend(options.iter().map(String::as_str));
        let start = Start { name: "munged", words: &words, ids: (uid, gid), environment: &[] };
        let probe = socket.clone();
        let daemon = self.start_daemon(&start, &move || UnixStream::connect(&probe).is_ok())?;
        self.offer_by_default(&socket)?;
        Ok(Munged { daemon, socket })
    }

    /// The first munged is the one that clients find where libmunge looks unless told otherwise.
    fn offer_by_default(&self, socket: &Path) -> Result<()> {
        let place = Path::new("/run/munge");
        if fs::read_link(place.join("munge.socket.2")).is_ok_and(|target| target.starts_with(self.prefix())) {
            return Ok(());
        }
        // What the host has there belongs to another daemon, and this /run is the sandbox's own.
        let _absent_is_fine = fs::remove_dir_all(place);
        fs::create_dir(place).with_context(|| format!("create {}", place.display()))?;
        set_mode(place, 0o755)?;
        symlink(socket, place.join("munge.socket.2")).context("link munge's default socket")
    }
}
