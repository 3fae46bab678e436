//! One layer's file, decompressed and hashed by a thread of its own, which stays a few buffers ahead of the
//! merge; buffers go back to it when they have been read. Limits are the reader's work: what a bomb makes
//! here is never more than these buffers.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use ring::digest::{Context, SHA256, SHA512};
use shifter_core::digest::Algorithm;

use crate::Compression;

/// Bytes of a buffer; large enough that handing it over costs nothing.
const BUFFER_BYTES: usize = 256 * 1024;
/// Buffers of a layer, and there is one layer at a time.
const BUFFERS: usize = 4;

/// A layer's file, and how much of it was read.
pub(crate) struct Counted {
    pub(crate) file: File,
    pub(crate) read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// What the thread hands over.
enum Message {
    /// A buffer and how many of its bytes count; more follow.
    Bytes(Vec<u8>, usize),
    /// The end, with the digest as `sha256:…` where one was wanted.
    End(Option<String>),
    Failed(io::Error),
}

/// The reader's end of a layer; dropping it ends the thread.
pub(crate) struct Feeder {
    /// `None` once the end was seen.
    full: Option<Receiver<Message>>,
    empty: Option<Sender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    digest: Option<String>,
}

impl Feeder {
    /// Starts to read `file`.
    pub(crate) fn start(
        file: Counted,
        compression: Compression,
        algorithm: Option<Algorithm>,
    ) -> io::Result<Self> {
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            // Reads frame after frame; windows beyond 128 MiB are refused by zstd itself.
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
            Compression::None => Box::new(file),
        };
        let (empty, empties) = channel();
        let (fulls, full) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            // Cannot fail, the other end is at hand.
            let _ = empty.send(Vec::new());
        }
        let hasher = algorithm.map(|algorithm| (algorithm, hasher(algorithm)));
        let work = move || feed(reader, hasher, &empties, &fulls);
        let thread = Builder::new().name("layer".to_owned()).spawn(work)?;
        Ok(Self { full: Some(full), empty: Some(empty), thread: Some(thread), digest: None })
    }

    /// The next bytes in exchange for a buffer that was read: the new buffer, and how many of its bytes
    /// count. None count at the end.
    pub(crate) fn exchange(&mut self, old: Vec<u8>) -> io::Result<(Vec<u8>, usize)> {
        let Some(full) = &self.full else { return Ok((old, 0)) };
        if !old.is_empty()
            && let Some(empty) = &self.empty
        {
            // Nobody takes it once the thread is at its end.
            let _ = empty.send(old);
        }
        match full.recv() {
            Ok(Message::Bytes(buffer, count)) => Ok((buffer, count)),
            Ok(Message::End(digest)) => {
                (self.full, self.digest) = (None, digest);
                Ok((Vec::new(), 0))
            }
            Ok(Message::Failed(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread that decompresses it ended early")),
        }
    }

    /// The digest of everything read, once the end was seen.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // Both ends closed, whatever the thread does next fails, and it returns.
        (self.full, self.empty) = (None, None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: ends when the layer does, or when nobody listens.
fn feed(
    mut reader: Box<dyn Read + Send>,
    mut hasher: Option<(Algorithm, Context)>,
    empties: &Receiver<Vec<u8>>,
    fulls: &SyncSender<Message>,
) {
    while let Ok(mut buffer) = empties.recv() {
        // Most layers are smaller than all buffers.
        buffer.resize(BUFFER_BYTES, 0);
        let (count, failure) = fill(&mut reader, &mut buffer);
        if let Some((_, hasher)) = &mut hasher {
            hasher.update(buffer.get(..count).unwrap_or_default());
        }
        if count > 0 && fulls.send(Message::Bytes(buffer, count)).is_err() {
            return;
        }
        if let Some(error) = failure {
            let _ = fulls.send(Message::Failed(error));
            return;
        }
        if count == 0 {
            let digest = hasher.map(|(algorithm, hasher)| {
                let hex: String = hasher.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}:{hex}", algorithm.name())
            });
            let _ = fulls.send(Message::End(digest));
            return;
        }
    }
}

/// Fills the buffer as far as the layer goes. Bytes before a failure count.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

fn hasher(algorithm: Algorithm) -> Context {
    Context::new(match algorithm {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha512 => &SHA512,
    })
}
