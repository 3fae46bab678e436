//! One layer's uncompressed bytes: opened, decompressed, counted against the limits and, where wanted,
//! hashed, all in one buffer. Knows nothing of what the bytes mean.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;

use sha2::{Digest as _, Sha256, Sha512};
use shifter_core::digest::{Algorithm, Digest};

use crate::error::MergeError;
use crate::limits::Limits;
use crate::{Compression, Layer};

const BUFFER_BYTES: usize = 256 * 1024;

/// What tells whether a path still leads to the file that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

/// A layer being read; see the module.
pub(crate) struct LayerStream {
    layer: Digest,
    reader: Box<dyn Read>,
    identity: FileIdentity,
    hasher: Option<Hasher>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes decompressed so far; what lies in the buffer included.
    produced: u64,
    budget: u64,
    limits: Limits,
}

impl LayerStream {
    /// Opens a layer that may still expand to `budget` bytes. `hash` is the algorithm to hash with.
    pub(crate) fn open(
        layer: &Layer,
        hash: Option<Algorithm>,
        budget: u64,
        limits: &Limits,
    ) -> Result<Self, MergeError> {
        let opening =
            |source| MergeError::OpenLayer { layer: layer.digest.clone(), path: layer.path.clone(), source };
        let file = File::open(&layer.path).map_err(opening)?;
        let status = file.metadata().map_err(opening)?;
        let identity = FileIdentity {
            device: status.dev(),
            inode: status.ino(),
            bytes: status.size(),
            changed: (status.mtime(), status.mtime_nsec()),
        };
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        let reader: Box<dyn Read> = match layer.compression {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            // Reads frame after frame; windows beyond 128 MiB are refused by zstd itself.
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(opening)?),
            Compression::None => Box::new(file),
        };
        let hasher = hash.map(|algorithm| match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::default()),
        });
        Ok(Self {
            layer: layer.digest.clone(),
            reader,
            identity,
            hasher,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            produced: 0,
            budget,
            limits: *limits,
        })
    }

    /// The layer's name for errors.
    pub(crate) fn layer(&self) -> &Digest {
        &self.layer
    }

    /// Which file this is.
    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Offset of the next byte in the uncompressed stream.
    pub(crate) fn position(&self) -> u64 {
        self.produced - (self.end - self.start) as u64
    }

    /// The next bytes, as many as are at hand; none at the end.
    pub(crate) fn chunk(&mut self) -> Result<&[u8], MergeError> {
        if self.start == self.end {
            self.refill()?;
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    /// Marks `count` bytes of the last [`chunk`](Self::chunk) as used.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Fills `block` as far as the stream goes; returns the number of bytes.
    pub(crate) fn read_up_to(&mut self, block: &mut [u8]) -> Result<usize, MergeError> {
        let mut filled = 0;
        while filled < block.len() {
            let wanted = block.len() - filled;
            let chunk = self.chunk()?;
            let count = chunk.len().min(wanted);
            if count == 0 {
                break;
            }
            for (to, from) in block.iter_mut().skip(filled).zip(chunk) {
                *to = *from;
            }
            filled += count;
            self.consume(count);
        }
        Ok(filled)
    }

    /// Passes over `count` bytes; returns how many there were.
    pub(crate) fn skip(&mut self, count: u64) -> Result<u64, MergeError> {
        let mut skipped = 0;
        while skipped < count {
            let there = self.chunk()?.len();
            if there == 0 {
                break;
            }
            let step = usize::try_from(count - skipped).unwrap_or(there).min(there);
            self.consume(step);
            skipped += step as u64;
        }
        Ok(skipped)
    }

    /// The digest of everything read, as `sha256:…`; meaningful at the end of the stream.
    pub(crate) fn digest(&mut self) -> Option<String> {
        let (name, bytes) = match self.hasher.take()? {
            Hasher::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{name}:{hex}"))
    }

    fn refill(&mut self) -> Result<(), MergeError> {
        (self.start, self.end) = (0, 0);
        let count = loop {
            match self.reader.read(&mut self.buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(MergeError::ReadLayer { layer: self.layer.clone(), source }),
            }
        };
        self.end = count;
        self.produced += count as u64;
        if self.produced > self.budget {
            let limit = self.limits.uncompressed_bytes;
            return Err(MergeError::TooManyBytes { layer: self.layer.clone(), limit });
        }
        let ratio = self.limits.ratio;
        if self.produced > self.limits.ratio_free_bytes
            && self.produced > self.identity.bytes.saturating_mul(ratio)
        {
            return Err(MergeError::Ratio { layer: self.layer.clone(), limit: ratio });
        }
        let fresh = self.buffer.get(..count).unwrap_or_default();
        match &mut self.hasher {
            Some(Hasher::Sha256(hasher)) => hasher.update(fresh),
            Some(Hasher::Sha512(hasher)) => hasher.update(fresh),
            None => {}
        }
        Ok(())
    }
}
