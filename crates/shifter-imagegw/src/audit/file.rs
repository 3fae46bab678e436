//! The file of the audit log: events to lines, written by one thread, 0600, appended. When the file was
//! moved or removed, as log rotation does, the next line opens a new one; no signal is needed.
//!
//! Nothing is dropped: when the disk is slower than the requests, they wait.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};

use super::TARGET;

/// Lines on their way to the thread.
const QUEUE: usize = 4096;

/// Most bytes written at once.
const BATCH: usize = 256 << 10;

/// Longest wait for the last lines when the program ends.
const LAST: Duration = Duration::from_secs(5);

enum Message {
    Line(String),
    /// To be answered when all before it is written.
    Flush(SyncSender<()>),
}

/// Turns events of the audit target into lines of a file.
pub(crate) struct AuditLog {
    queue: SyncSender<Message>,
}

/// Waits, when dropped, until what was noted is written.
pub(crate) struct Flush {
    queue: SyncSender<Message>,
}

impl AuditLog {
    /// Opens the file and starts its thread.
    pub(crate) fn open(path: &Path) -> io::Result<(AuditLog, Flush)> {
        let file = open(path)?;
        let (queue, messages) = sync_channel(QUEUE);
        let path = path.to_owned();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || write(path, file, &messages))?;
        Ok((AuditLog { queue: queue.clone() }, Flush { queue }))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, is_done) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(LAST);
        }
    }
}

impl<S: Subscriber> Layer<S> for AuditLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut time = String::new();
        // Writing to a string does not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let mut line = Line(format!("{{\"time\":\"{time}\""));
        event.record(&mut line);
        line.0.push_str("}\n");
        // The thread ends with the program only.
        let _ = self.queue.send(Message::Line(line.0));
    }
}

/// A JSON object being written.
struct Line(String);

impl Line {
    fn add(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, ",\"{}\":{value}", field.name());
    }
}

impl Visit for Line {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, if value { "true" } else { "false" });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // A string cannot fail to serialize.
        if !value.is_empty() {
            self.add(field, &serde_json::to_string(value).unwrap_or_default());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn open(path: &Path) -> io::Result<File> {
    let not_through_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(not_through_links)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// Whether the name leads to another file by now, or to none.
fn is_rotated(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
        (Err(_), _) => true,
        (_, Err(_)) => false,
    }
}

fn write(path: PathBuf, mut file: File, messages: &Receiver<Message>) {
    let mut batch = String::new();
    while let Ok(first) = messages.recv() {
        let mut flushes = Vec::new();
        for message in std::iter::once(first).chain(messages.try_iter()) {
            match message {
                Message::Line(line) => batch.push_str(&line),
                Message::Flush(done) => flushes.push(done),
            }
            if batch.len() >= BATCH {
                break;
            }
        }
        if is_rotated(&path, &file) {
            match open(&path) {
                Ok(new) => file = new,
                // Better into the old file than nowhere.
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "opening the audit log anew failed");
                }
            }
        }
        if let Err(error) = file.write_all(batch.as_bytes()) {
            tracing::error!(path = %path.display(), %error, lost = batch, "writing the audit log failed");
        }
        batch.clear();
        for done in flushes {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::Decision;
    use super::*;

    fn decision(tag: &str, uid: Option<u32>) -> Decision<'_> {
        let (request, action, why) = ("r1", "lookup", "a \"reason\"\n");
        Decision { request, uid, action, tag, allowed: true, why, ..Decision::default() }
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn decisions_are_whole_private_lines_and_rotation_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let (layer, flush) = AuditLog::open(&path).unwrap();
        let sender = layer.queue.clone();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            decision("a:1", Some(7)).note();
            tracing::info!("something else");
            drop(flush);
            std::fs::rename(&path, &moved).unwrap();
            decision("b:1", None).note();
            drop(Flush { queue: sender });
        });
        let first = &lines(&moved)[0];
        assert_eq!((lines(&moved).len(), lines(&path).len()), (1, 1));
        let time = first["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert_eq!((first["uid"].as_u64(), first["tag"].as_str()), (Some(7), Some("a:1")));
        assert_eq!((first["allowed"].as_bool(), first["why"].as_str()), (Some(true), Some("a \"reason\"\n")));
        assert!(lines(&path)[0].get("uid").is_none(), "nobody proved who they are");
        for path in [&path, &moved] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(AuditLog::open(&path).is_err());
    }
}
