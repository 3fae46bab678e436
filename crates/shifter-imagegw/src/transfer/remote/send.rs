//! One attempt to bring one file to one host: there already, or sent from where the last attempt got to, checked,
//! flushed, renamed.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::super::sftp::{CHUNK, Handle, Open, Pending, SftpError};
use super::super::ssh::Fault;
use super::{DEAD, Link, Remote};
use crate::publish::{self, Published};

/// Reads or writes under way: 2 MiB, which keeps a line of 1 Gbit/s and 16 ms busy.
const UNDER_WAY: usize = 64;

/// Bytes read from the file at a time.
const BLOCK: usize = 32 * CHUNK;

/// What is no larger is read back rather than asked for its digest.
const SMALL: u64 = 1 << 20;

/// What is sent.
pub(super) enum Source {
    File(Arc<File>),
    Bytes(Arc<[u8]>),
}

pub(super) struct Sending<'a> {
    pub(super) remote: &'a Remote,
    pub(super) source: &'a Source,
    pub(super) part: &'a str,
    pub(super) target: &'a str,
    pub(super) published: &'a Published,
    /// Hears of bytes that are there.
    pub(super) report: &'a (dyn Fn(u64) + Sync),
}

impl Sending<'_> {
    pub(super) async fn send(&self, link: &Link) -> Result<(), Fault> {
        let sftp = &link.connection.sftp;
        if self.is_there(link, self.target).await? {
            // Another host's on the same file system, or ours, and the answer was lost.
            let mode = sftp.chmod(self.target, 0o600).await;
            let _ = sftp.remove(self.part).await;
            return self.told(link, "changing the mode of", self.target, mode).await;
        }
        let sent = self.send_part(link).await;
        if sent.as_ref().is_err_and(|fault| !fault.is_passing) {
            // Nobody will go on with it.
            let _ = sftp.remove(self.part).await;
        }
        sent
    }

    async fn send_part(&self, link: &Link) -> Result<(), Fault> {
        let sftp = &link.connection.sftp;
        let found = sftp.lstat(self.part).await;
        let found = self.told(link, "looking at", self.part, found).await?;
        let how = if found.is_some() { Open::Write } else { Open::New };
        let file = sftp.open(self.part, how).await;
        let file = self.told(link, "creating", self.part, file).await?;
        let mode = sftp.chmod(self.part, 0o600).await;
        self.told(link, "changing the mode of", self.part, mode).await?;
        self.sweep(link, &file).await;
        let from = found.map_or(0, |found| found.size);
        if from > self.published.size {
            return Err(self.begin_again(link, "a partial file is too long").await);
        }
        self.write(link, &file, from).await?;
        let flushed = sftp.fsync(&file).await;
        if let Err(error) = flushed {
            return Err(self.no_space(link, "flushing", &error).await);
        }
        let closed = sftp.close(file).await;
        self.told(link, "closing", self.part, closed).await?;
        if !self.is_there(link, self.part).await? {
            return Err(self.begin_again(link, "what arrived is not what was sent").await);
        }
        let renamed = sftp.rename(self.part, self.target).await;
        self.told(link, "renaming a part to", self.target, renamed).await?;
        // The name's own way to the disk. Servers that open no directories as files have none for it.
        if let Ok(directory) = sftp.open(&self.remote.path(""), Open::Read).await {
            let _ = sftp.fsync(&directory).await;
            let _ = sftp.close(directory).await;
        }
        Ok(())
    }

    /// Removes the part, so that the next attempt sends all of it.
    async fn begin_again(&self, link: &Link, why: &str) -> Fault {
        let _ = link.connection.sftp.remove(self.part).await;
        Fault::passing(format!("{why} ({})", self.part))
    }

    async fn write(&self, link: &Link, file: &Handle, from: u64) -> Result<(), Fault> {
        let sftp = &link.connection.sftp;
        let mut under_way: VecDeque<(u64, Pending)> = VecDeque::new();
        let mut offset = from;
        (self.report)(offset);
        let result = async {
            while offset < self.published.size {
                let block = self.block(offset).await.map_err(Err)?;
                for chunk in block.chunks(CHUNK) {
                    if under_way.len() >= UNDER_WAY {
                        self.one_written(&mut under_way).await.map_err(Ok)?;
                    }
                    let pending = sftp.begin_write(file, offset, chunk).await.map_err(Ok)?;
                    offset += chunk.len() as u64;
                    under_way.push_back((offset, pending));
                }
            }
            while !under_way.is_empty() {
                self.one_written(&mut under_way).await.map_err(Ok)?;
            }
            Ok(())
        };
        match result.await {
            Ok(()) => Ok(()),
            Err(Ok(error)) => Err(self.no_space(link, "writing", &error).await),
            Err(Err(fault)) => Err(fault),
        }
    }

    async fn one_written(&self, under_way: &mut VecDeque<(u64, Pending)>) -> Result<(), SftpError> {
        if let Some((end, pending)) = under_way.pop_front() {
            pending.written().await?;
            (self.report)(end);
        }
        Ok(())
    }

    /// What is to be sent from here on, some of it.
    async fn block(&self, offset: u64) -> Result<Vec<u8>, Fault> {
        let length = (self.published.size - offset).min(BLOCK as u64);
        let length = usize::try_from(length).unwrap_or(BLOCK);
        match self.source {
            Source::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).and_then(|rest| rest.get(..length));
                rest.map(<[u8]>::to_vec).ok_or_else(|| Fault::lasting("less is there than was to be sent"))
            }
            Source::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut block = vec![0; length];
                    file.read_exact_at(&mut block, offset).map(|()| block)
                });
                let read = read.await.map_err(|_| Fault::lasting("the gateway is shutting down"))?;
                read.map_err(|error| {
                    Fault::lasting(format!("reading the image that was made failed: {error}"))
                })
            }
        }
    }

    /// Whether a file there is what is sent.
    async fn is_there(&self, link: &Link, path: &str) -> Result<bool, Fault> {
        let found = link.connection.sftp.lstat(path).await;
        match self.told(link, "looking at", path, found).await? {
            Some(found) if found.is_file() && found.size == self.published.size => {}
            _ => return Ok(false),
        }
        if self.published.size > SMALL
            && let Some(sum) = self.sha256sum(link, path).await
        {
            return Ok(sum == self.published.sha256);
        }
        let read = self.read_back(link, path).await;
        Ok(self.told(link, "reading back", path, read).await? == self.published.sha256)
    }

    /// The digest of a file, by the host's own program. None where it has none, or the account may not run it.
    async fn sha256sum(&self, link: &Link, path: &str) -> Option<String> {
        // A slow disk's 20 MB/s.
        let limit = Duration::from_secs(60 + self.published.size / 20_000_000);
        let output = link.connection.run(&["sha256sum", path], limit).await.ok()?;
        let sum = (output.status == Some(0)).then(|| sum(&output.stdout)).flatten();
        if sum.is_none() {
            tracing::debug!(said = output.said, "no sha256sum there; the file is read back");
        }
        sum
    }

    async fn read_back(&self, link: &Link, path: &str) -> Result<String, SftpError> {
        let sftp = &link.connection.sftp;
        let file = sftp.open(path, Open::Read).await?;
        let mut hash = Context::new(&SHA256);
        let (mut begun, mut read) = (0, 0);
        let mut under_way = VecDeque::new();
        while read < self.published.size {
            while under_way.len() < UNDER_WAY && begun < self.published.size {
                under_way.push_back(sftp.begin_read(&file, begun).await?);
                begun += CHUNK as u64;
            }
            let Some(pending) = under_way.pop_front() else { break };
            let data = pending.data().await?;
            if data.is_empty() {
                break;
            }
            hash.update(&data);
            read += data.len() as u64;
            if data.len() < CHUNK {
                // Less than was asked for: what was asked for after it is not what comes next.
                under_way.clear();
                begun = read;
            }
        }
        sftp.close(file).await?;
        Ok(publish::hex(hash.finish().as_ref()))
    }

    /// Removes what dead processes left, once on each connection.
    async fn sweep(&self, link: &Link, ours: &Handle) {
        if link.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let sftp = &link.connection.sftp;
        let swept = async {
            // Ours was opened just now, and if it is new, its time is now by the host's clock.
            let now = sftp.fstat(ours).await?.modified;
            for (name, found) in sftp.list(&self.remote.path("")).await? {
                let path = self.remote.path(&name);
                let is_dead = found.is_file() && now.saturating_sub(found.modified) > DEAD;
                if publish::is_part_name(&name) && is_dead && path != self.part {
                    sftp.remove(&path).await?;
                    tracing::info!(path, "removed what a dead process left");
                }
            }
            Ok::<(), SftpError>(())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "looking for leftovers failed");
        }
    }

    /// What a failed write means. The protocol has no word for a full disk; how much is left tells.
    async fn no_space(&self, link: &Link, doing: &str, error: &SftpError) -> Fault {
        let directory = &self.remote.directory;
        let sftp = &link.connection.sftp;
        if matches!(error, SftpError::Status { code: 4, .. }) {
            let left = sftp.space(&self.remote.path("")).await;
            return Fault::lasting(match left {
                Some(left) if left < self.published.size => format!(
                    "no space is left in {directory}; nothing was left behind, free some space and pull again"
                ),
                _ => format!("{doing} {} failed: {error}; a quota may be used up", self.part),
            });
        }
        link.fault(&format!("{doing} {}", self.part), error).await
    }

    async fn told<T>(
        &self,
        link: &Link,
        doing: &str,
        path: &str,
        done: Result<T, SftpError>,
    ) -> Result<T, Fault> {
        match done {
            Ok(value) => Ok(value),
            Err(error) => Err(link.fault(&format!("{doing} {path}"), &error).await),
        }
    }
}

/// The digest in what sha256sum prints, `\` in front of it where the name is an odd one. Start files of the account's
/// shell may print something, too.
fn sum(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let first = |line: &str| line.trim_start_matches('\\').split_whitespace().next().map(str::to_owned);
    let is_sum = |word: &String| {
        word.len() == 64 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    text.lines().filter_map(first).rfind(is_sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn digests_are_found_among_what_shells_print() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        for (output, expected) in [
            (format!("{hex}  /images/x\n"), Some(hex)),
            (format!("\\{hex}  /images/x\\ny\n"), Some(hex)),
            (format!("Welcome!\n{hex}  /images/x\n"), Some(hex)),
            ("sha256sum: not found\n".to_owned(), None),
            (format!("{}  /x\n", &hex[1..]), None),
            (String::new(), None),
        ] {
            assert_eq!(sum(output.as_bytes()).as_deref(), expected, "{output}");
        }
    }
}
