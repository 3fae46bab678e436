//! Where a system's images are, and how files get there: into a directory of this machine, or into one of each of some
//! hosts. Whatever the kind, files appear whole and of mode 0600 or not at all, the image before its `.meta`.
//!
//! Decides nothing about who may use what, and knows no catalog.

mod options;
mod quote;
mod remote;
mod sftp;
mod ssh;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use shifter_fasthash::talk::Request;

pub(crate) use self::options::{of_scp, of_ssh};
pub(crate) use self::remote::Fetched;
use self::remote::Remote;
use crate::config::{Access, Config, Platform};
use crate::publish::{self, Complete, NewImage, PublishError, Published};

/// Why files did not get where they belong, or nothing could be learned about them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("host {host}: {why}")]
    Host { host: String, why: String },
    #[error("the gateway is shutting down")]
    Stopping,
}

/// How a remote system is reached: every host has an `imageDir` of the same name and gets every image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) hosts: Vec<String>,
    pub(crate) username: String,
    pub(crate) key: Option<PathBuf>,
    /// Options of ssh, checked.
    pub(crate) options: Vec<String>,
    /// Our program for imports there, a name or a path.
    pub(crate) fasthash: String,
}

/// A file of an image directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Bytes.
    pub(crate) size: u64,
    /// Seconds since 1970, by the clock of the machine that has it.
    pub(crate) modified: u64,
    /// Hosts that lack it, or have another size of it; none in a directory of this machine.
    pub(crate) missing_on: Vec<String>,
}

/// A system's image directory.
pub(crate) enum Store {
    Local(PathBuf),
    Remote(Box<Remote>),
}

impl Store {
    /// Connects to nothing, and touches nothing.
    pub(crate) fn new(config: &Config, platform: &Platform) -> Store {
        match &platform.remote {
            Some(account) => {
                let program = find_ssh().unwrap_or_else(|| PathBuf::from("ssh"));
                let sockets = config.expand_directory.join("ssh");
                Store::Remote(Box::new(Remote::new(program, account.clone(), &platform.image_dir, &sockets)))
            }
            None => Store::Local(platform.image_dir.clone()),
        }
    }

    /// A file for an image to be written to: where it will be, or in `expand` if that is elsewhere.
    pub(crate) fn new_image(&self, expand: &Path, id: &str, format: &str) -> Result<NewImage, PublishError> {
        match self {
            Store::Local(directory) => NewImage::create(directory, id, format),
            Store::Remote(_) => NewImage::create(expand, id, format),
        }
    }

    /// Whether images can be read where they are, by this machine.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Store::Local(_))
    }

    /// Whether the image file is there, everywhere, regular and of the size that was published.
    pub(crate) async fn is_published(
        &self,
        id: &str,
        format: &str,
        size: u64,
    ) -> Result<bool, TransferError> {
        match self {
            Store::Local(directory) => {
                let (directory, id, format) = (directory.clone(), id.to_owned(), format.to_owned());
                blocking(move || Ok(publish::is_published(&directory, &id, &format, size))).await
            }
            Store::Remote(remote) => remote.is_published(&format!("{id}.{format}"), size).await,
        }
    }

    /// Gives an image its name, everywhere. `progress` hears of bytes and hosts that have them already.
    pub(crate) async fn publish(
        &self,
        image: Complete,
        id: &str,
        format: &str,
        progress: &(dyn Fn(u64, usize) + Sync),
    ) -> Result<Published, TransferError> {
        match self {
            Store::Local(_) => blocking(move || image.publish()).await,
            Store::Remote(remote) => {
                let file = image.file.try_clone();
                let file = file.map_err(|source| PublishError::Io {
                    operation: "reading",
                    path: PathBuf::from(format!("{id}.{format}")),
                    source,
                })?;
                let name = format!("{id}.{format}");
                remote.put_file(id, &name, file, &image.published, progress).await?;
                Ok(image.published.clone())
            }
        }
    }

    /// Writes `.meta`, unless it says the same already.
    pub(crate) async fn publish_meta(&self, id: &str, text: &str) -> Result<(), TransferError> {
        match self {
            Store::Local(directory) => {
                let (directory, id, text) = (directory.clone(), id.to_owned(), text.to_owned());
                blocking(move || publish::publish_meta(&directory, &id, &text)).await
            }
            Store::Remote(remote) => remote.put_bytes(id, &format!("{id}.meta"), text.as_bytes()).await,
        }
    }

    /// What `.meta` says; none where there is none.
    pub(crate) async fn read_meta(&self, id: &str) -> Result<Option<Vec<u8>>, TransferError> {
        let name = format!("{id}.meta");
        match self {
            Store::Local(directory) => {
                let path = directory.join(name);
                blocking(move || publish::read_small(&path)).await
            }
            Store::Remote(remote) => remote.read_small(&name).await,
        }
    }

    /// Removes `.meta` alone: nodes then take the image for one that is not there.
    pub(crate) async fn remove_meta(&self, id: &str) -> Result<(), TransferError> {
        let names = [format!("{id}.meta")];
        match self {
            Store::Local(directory) => {
                let directory = directory.clone();
                blocking(move || publish::remove_published(&directory, &names)).await
            }
            Store::Remote(remote) => remote.remove(&names).await,
        }
    }

    /// Removes `.meta`, then the image; what is not there is no failure. Where some hosts cannot be reached, the others
    /// are done, and it fails: to be called again.
    pub(crate) async fn remove(&self, id: &str, format: &str) -> Result<(), TransferError> {
        let names = [format!("{id}.meta"), format!("{id}.{format}")];
        match self {
            Store::Local(directory) => {
                let directory = directory.clone();
                blocking(move || publish::remove_published(&directory, &names)).await
            }
            Store::Remote(remote) => remote.remove(&names).await,
        }
    }

    /// The files in the image directory, those of others and partial ones, too.
    pub(crate) async fn list(&self) -> Result<BTreeMap<String, Listed>, TransferError> {
        match self {
            Store::Local(directory) => {
                let directory = directory.clone();
                blocking(move || list(&directory)).await
            }
            Store::Remote(remote) => remote.list().await,
        }
    }

    /// Brings a file that a user names from the first host into `to`; on this machine, files are opened and not brought.
    pub(crate) async fn fetch(&self, request: &Request, to: &File) -> Result<Fetched, TransferError> {
        match self {
            Store::Local(_) => Ok(Fetched::Refused("the system is not remote".to_owned())),
            Store::Remote(remote) => remote.fetch(request, to).await,
        }
    }

    /// Whether files could be published, as far as that can be told without doing it.
    pub(crate) async fn try_out(&self) -> Result<(), TransferError> {
        match self {
            Store::Local(_) => Ok(()),
            Store::Remote(remote) => remote.connect().await,
        }
    }
}

fn list(directory: &Path) -> Result<BTreeMap<String, Listed>, PublishError> {
    let io = |source| PublishError::Io { operation: "listing", path: directory.to_owned(), source };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        // What is gone by now, or is no file, or has a name that is not ours.
        let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else { continue };
        if metadata.is_file() {
            let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |at| at.as_secs());
            found.insert(name, Listed { size: metadata.len(), modified, missing_on: Vec::new() });
        }
    }
    Ok(found)
}

/// What is wrong with this machine for the remote systems of a configuration, found before any pull is: whether `ssh`
/// is there, and the keys, as whoever runs this may read them. Connects to nothing.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    let remote = config.platforms.iter().filter_map(|(name, p)| Some((name, p.remote.as_ref()?)));
    for (system, account) in remote {
        if find_ssh().is_none() {
            return Err(format!(
                "system {system} is remote, and there is no ssh in PATH; install OpenSSH's client"
            ));
        }
        if let Some(key) = &account.key {
            let file = std::fs::File::open(key);
            let metadata = file.and_then(|file| file.metadata()).map_err(|error| {
                format!("the key {} of system {system} cannot be read: {error}", key.display())
            })?;
            // ssh would ignore it, and say no more than that permission was denied.
            if metadata.mode() & 0o077 != 0 || !metadata.is_file() {
                return Err(format!(
                    "the key {} of system {system} has mode {:o}, and ssh uses no key that others may read; chmod 600",
                    key.display(),
                    metadata.permissions().mode() & 0o7777
                ));
            }
        }
    }
    Ok(())
}

/// Whether two systems' images are in the same place.
pub(crate) fn is_shared(one: &Platform, other: &Platform) -> bool {
    let hosts = |platform: &Platform| platform.remote.clone().map(|account| account.hosts);
    let meet = match (hosts(one), hosts(other)) {
        (None, None) => one.access == Access::Local && other.access == Access::Local,
        (Some(ours), Some(theirs)) => ours.iter().any(|host| theirs.contains(host)),
        _ => false,
    };
    meet && one.image_dir == other.image_dir
}

fn find_ssh() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join("ssh"))
        .find(is_program)
}

/// Runs file work where it does not hold up others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, TransferError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| TransferError::Stopping)??)
}

#[cfg(test)]
mod tests;
