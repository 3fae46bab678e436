//! Image directories of other hosts, over ssh. A file is sent as `.ID.partial.DIGEST`, checked there by size and
//! sha256, flushed, and renamed, on one host after the other: where hosts share a file system, the second has it already.
//!
//! The digest in a partial file's name is its content's, so whoever sends the same goes on where a connection broke, be
//! it after a restart. Two that do so at once write the same bytes. Nothing is tried again that only a person can change.

mod fetch;
mod send;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

pub(crate) use self::fetch::Fetched;
use super::sftp::{Attributes, Open, SftpError};
use super::ssh::{Connection, Fault, Ssh};
use super::{Account, Listed, TransferError};
use crate::publish::{self, Published};

/// Waits between attempts. Who sends a megabyte more than before begins with the first again.
const WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
const PROGRESS: u64 = 1 << 20;

/// A connection that nobody used for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// A partial file that nobody wrote to for so long is nobody's. By the clock of its own host.
const DEAD: u32 = 3600;

/// Most bytes of a `.meta` that is read.
const MOST_SMALL: u64 = 8 << 20;

/// The hosts of a system.
pub(crate) struct Remote {
    directory: String,
    hosts: Vec<Host>,
    ssh: Ssh,
    sockets: PathBuf,
    /// Our program there.
    fasthash: String,
}

struct Host {
    name: String,
    link: Slot,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// A connection, with what is done once on it.
struct Link {
    connection: Connection,
    is_swept: AtomicBool,
    used: Mutex<Instant>,
}

impl Link {
    async fn fault(&self, doing: &str, error: &SftpError) -> Fault {
        self.connection.fault(doing, error).await
    }

    fn idle(&self) -> Duration {
        self.used.lock().map(|used| used.elapsed()).unwrap_or_default()
    }
}

impl Remote {
    pub(super) fn new(program: PathBuf, account: Account, directory: &Path, sockets: &Path) -> Remote {
        let hosts = account.hosts.iter().map(|name| Host { name: name.clone(), link: Slot::default() });
        Remote {
            // The configuration is text, so the path is.
            directory: directory.display().to_string().trim_end_matches('/').to_owned(),
            hosts: hosts.collect(),
            fasthash: account.fasthash.clone(),
            ssh: Ssh::new(program, account, sockets),
            sockets: sockets.to_owned(),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// The connection to a host; a new one where there is none that lives.
    async fn link(&self, host: &Host) -> Result<Arc<Link>, Fault> {
        let mut slot = host.link.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.connection.is_over()) {
            if let Ok(mut used) = link.used.lock() {
                *used = Instant::now();
            }
            return Ok(link.clone());
        }
        *slot = None;
        // Where it cannot be made, ssh says so.
        let _ = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .recursive(true)
            .create(&self.sockets);
        let connection = Connection::open(&self.ssh, &host.name).await;
        let connection = connection
            .map_err(|fault| Fault { why: format!("connecting failed: {}", fault.why), ..fault })?;
        let directory = if self.directory.is_empty() { "/" } else { &self.directory };
        match connection.sftp.stat(directory).await {
            Ok(Some(found)) if found.is_directory() => {}
            Ok(_) => {
                return Err(Fault::lasting(format!(
                    "imageDir {directory} is not a directory there; create it, or mount the file system it is on"
                )));
            }
            Err(error) => return Err(connection.fault(&format!("looking at {directory}"), &error).await),
        }
        let link = Arc::new(Link { connection, is_swept: false.into(), used: Mutex::new(Instant::now()) });
        tokio::spawn(close_when_idle(Arc::downgrade(&host.link), Arc::downgrade(&link)));
        *slot = Some(link.clone());
        Ok(link)
    }

    /// Does something on a host, again where a failure may pass. `reached` grows with what need not be done again.
    async fn on<T, F>(
        &self,
        host: &Host,
        reached: &AtomicU64,
        work: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, TransferError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let (mut failures, mut mark) = (0, 0);
        loop {
            let done = match self.link(host).await {
                Ok(link) => work(link).await,
                Err(fault) => Err(fault),
            };
            let fault = match done {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let now = reached.load(Ordering::Relaxed);
            if now >= mark + PROGRESS {
                (mark, failures) = (now, 0);
            }
            let Some(wait) = WAITS.get(failures).filter(|_| fault.is_passing) else {
                return Err(TransferError::Host { host: host.name.clone(), why: fault.why });
            };
            tracing::warn!(host = host.name, why = fault.why, "tried again in {wait:?}");
            failures += 1;
            // It may be there and yet not work.
            *host.link.lock().await = None;
            tokio::time::sleep(*wait).await;
        }
    }

    pub(super) async fn connect(&self) -> Result<(), TransferError> {
        for host in &self.hosts {
            self.on(host, &AtomicU64::new(0), |_| async { Ok(()) }).await?;
        }
        Ok(())
    }

    pub(super) async fn is_published(&self, name: &str, size: u64) -> Result<bool, TransferError> {
        let path = &self.path(name);
        for host in &self.hosts {
            let look = |link: Arc<Link>| async move {
                let found = link.connection.sftp.lstat(path).await;
                match found {
                    Ok(found) => Ok(found.is_some_and(|found| found.is_file() && found.size == size)),
                    Err(error) => Err(link.fault(&format!("looking for {path}"), &error).await),
                }
            };
            if !self.on(host, &AtomicU64::new(0), look).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) async fn put_file(
        &self,
        id: &str,
        name: &str,
        file: File,
        published: &Published,
        progress: &(dyn Fn(u64, usize) + Sync),
    ) -> Result<(), TransferError> {
        self.put(id, name, send::Source::File(Arc::new(file)), published, progress).await
    }

    pub(super) async fn put_bytes(&self, id: &str, name: &str, bytes: &[u8]) -> Result<(), TransferError> {
        let sum = ring::digest::digest(&ring::digest::SHA256, bytes);
        let published = Published { size: bytes.len() as u64, sha256: publish::hex(sum.as_ref()) };
        self.put(id, name, send::Source::Bytes(bytes.into()), &published, &|_, _| ()).await
    }

    async fn put(
        &self,
        id: &str,
        name: &str,
        source: send::Source,
        published: &Published,
        progress: &(dyn Fn(u64, usize) + Sync),
    ) -> Result<(), TransferError> {
        let part = publish::part_name_of(id, published.sha256.get(..16).unwrap_or_default());
        let (part, target) = (self.path(&part), self.path(name));
        for (done, host) in self.hosts.iter().enumerate() {
            let reached = AtomicU64::new(0);
            let report = |bytes: u64| {
                progress(reached.fetch_max(bytes, Ordering::Relaxed).max(bytes), done);
            };
            let sending = send::Sending {
                remote: self,
                source: &source,
                part: &part,
                target: &target,
                published,
                report: &report,
            };
            let sending = &sending;
            self.on(host, &reached, |link| async move { sending.send(&link).await }).await?;
        }
        Ok(())
    }

    pub(super) async fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, TransferError> {
        let path = &self.path(name);
        let Some(host) = self.hosts.first() else { return Ok(None) };
        let read = |link: Arc<Link>| async move {
            let sftp = &link.connection.sftp;
            let found = async {
                match sftp.lstat(path).await? {
                    Some(found) if found.is_file() && found.size <= MOST_SMALL => {}
                    _ => return Ok(None),
                }
                let file = sftp.open(path, Open::Read).await?;
                let mut bytes = Vec::new();
                while bytes.len() as u64 <= MOST_SMALL {
                    let more = sftp.begin_read(&file, bytes.len() as u64).await?.data().await?;
                    if more.is_empty() {
                        break;
                    }
                    bytes.extend(more);
                }
                sftp.close(file).await?;
                Ok(Some(bytes))
            };
            match found.await {
                Ok(found) => Ok(found),
                Err(error) => Err(link.fault(&format!("reading {path}"), &error).await),
            }
        };
        self.on(host, &AtomicU64::new(0), read).await
    }

    pub(super) async fn remove(&self, names: &[String]) -> Result<(), TransferError> {
        let mut outcome = Ok(());
        for host in &self.hosts {
            for name in names {
                let path = &self.path(name);
                let remove = |link: Arc<Link>| async move {
                    match link.connection.sftp.remove(path).await {
                        Ok(_) => Ok(()),
                        Err(error) => Err(link.fault(&format!("removing {path}"), &error).await),
                    }
                };
                let removed = self.on(host, &AtomicU64::new(0), remove).await;
                if removed.is_err() {
                    // Never the image before what promises it.
                    outcome = outcome.and(removed);
                    break;
                }
            }
        }
        outcome
    }

    pub(super) async fn list(&self) -> Result<BTreeMap<String, Listed>, TransferError> {
        let mut lists = Vec::new();
        for host in &self.hosts {
            let directory = &self.path("");
            let list = |link: Arc<Link>| async move {
                match link.connection.sftp.list(directory).await {
                    Ok(names) => Ok(names),
                    Err(error) => Err(link.fault(&format!("listing {directory}"), &error).await),
                }
            };
            lists.push((host.name.as_str(), self.on(host, &AtomicU64::new(0), list).await?));
        }
        Ok(merged(lists))
    }
}

/// What hosts have, in one list: as the first that has it says.
fn merged(lists: Vec<(&str, Vec<(String, Attributes)>)>) -> BTreeMap<String, Listed> {
    let mut found: BTreeMap<String, Listed> = BTreeMap::new();
    let mut seen: Vec<String> = Vec::new();
    for (host, names) in lists {
        let names: BTreeMap<_, _> = names.into_iter().filter(|(_, there)| there.is_file()).collect();
        for (name, listed) in &mut found {
            if names.get(name).is_none_or(|there| there.size != listed.size) {
                listed.missing_on.push(host.to_owned());
            }
        }
        for (name, there) in names {
            let new = Listed { size: there.size, modified: there.modified.into(), missing_on: seen.clone() };
            found.entry(name).or_insert(new);
        }
        seen.push(host.to_owned());
    }
    found
}

/// Closes a connection when nobody has used it for a while.
async fn close_when_idle(slot: Weak<tokio::sync::Mutex<Option<Arc<Link>>>>, link: Weak<Link>) {
    loop {
        tokio::time::sleep(IDLE / 5).await;
        let Some(slot) = slot.upgrade() else { return };
        let mut slot = slot.lock().await;
        // Gone, or ours is not the one any more.
        let Some(held) = slot.as_ref().filter(|held| std::ptr::eq(Arc::as_ptr(held), link.as_ptr())) else {
            return;
        };
        if Arc::strong_count(held) == 1 && held.idle() > IDLE {
            *slot = None;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
