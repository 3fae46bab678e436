//! One layer's uncompressed bytes, counted against the limits. Knows nothing of what the bytes mean.

use std::fs::File;

use shifter_core::digest::Digest;

use crate::Layer;
use crate::error::{MergeError, Near};
use crate::feeder::{Counted, Feeder};
use crate::limits::Limits;
use crate::name::shown;

/// A layer being read; see the module.
pub(crate) struct LayerStream {
    layer: Digest,
    feeder: Feeder,
    compressed_bytes: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes decompressed so far, what lies in the buffer included, as far as they may be read.
    produced: u64,
    budget: u64,
    /// All that may be read was, and there is more.
    is_over: bool,
    limits: Limits,
    /// The last entry's name, once there was one, and whether the reading is still in it.
    entry: Option<Vec<u8>>,
    is_in_entry: bool,
}

impl LayerStream {
    /// Starts to decompress a layer's file. Hashed only where a diff_id is known.
    pub(crate) fn start(layer: &Layer, file: File, limits: &Limits) -> Result<Self, MergeError> {
        let reading = |source| MergeError::ReadLayer { layer: layer.digest.clone(), source };
        let compressed_bytes = file.metadata().map_err(reading)?.len();
        let algorithm = layer.diff_id.as_ref().map(Digest::algorithm);
        let file = Counted { file, read: layer.read.clone() };
        let feeder = Feeder::start(file, layer.compression, algorithm).map_err(reading)?;
        Ok(Self {
            layer: layer.digest.clone(),
            feeder,
            compressed_bytes,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            produced: 0,
            budget: limits.uncompressed_bytes,
            is_over: false,
            limits: *limits,
            entry: None,
            is_in_entry: false,
        })
    }

    /// Allows the layer no more than `budget` bytes; to be called before the first is read.
    pub(crate) fn allow(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// The layer's name for errors.
    pub(crate) fn layer(&self) -> &Digest {
        &self.layer
    }

    /// The entry of this archived name begins; for errors.
    pub(crate) fn enter(&mut self, raw_name: &[u8]) {
        let entry = self.entry.get_or_insert_default();
        entry.clear();
        entry.extend_from_slice(raw_name);
        self.is_in_entry = true;
    }

    /// The entry has ended.
    pub(crate) fn leave(&mut self) {
        self.is_in_entry = false;
    }

    /// Where the reading is.
    pub(crate) fn near(&self) -> Near {
        match self.entry.as_deref().map(shown) {
            Some(name) if self.is_in_entry => Near::Entry(name),
            Some(name) => Near::Behind(name),
            None => Near::Start,
        }
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

    /// Copies the next bytes into `block`, at most those at hand; returns how many, 0 only at the end.
    pub(crate) fn read_some(&mut self, block: &mut [u8]) -> Result<usize, MergeError> {
        let chunk = self.chunk()?;
        let count = chunk.len().min(block.len());
        if let (Some(to), Some(from)) = (block.get_mut(..count), chunk.get(..count)) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }

    /// Fills `block` as far as the stream goes; returns the number of bytes.
    pub(crate) fn read_up_to(&mut self, block: &mut [u8]) -> Result<usize, MergeError> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest)? {
                0 => break,
                count => filled += count,
            }
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

    /// The digest of everything read, as `sha256:…`, at the end of the stream.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.feeder.digest()
    }

    fn refill(&mut self) -> Result<(), MergeError> {
        if self.is_over {
            return Err(self.over());
        }
        (self.start, self.end) = (0, 0);
        let (buffer, count) = self
            .feeder
            .exchange(std::mem::take(&mut self.buffer))
            .map_err(|source| MergeError::ReadLayer { layer: self.layer.clone(), source })?;
        (self.buffer, self.end) = (buffer, count);
        self.produced += count as u64;
        // What may be read is given out first, so that the error names the entry that goes beyond.
        let surplus = self.produced.saturating_sub(self.budget.min(self.largest_by_ratio()));
        if surplus > 0 {
            self.is_over = true;
            self.produced -= surplus;
            self.end = count.saturating_sub(usize::try_from(surplus).unwrap_or(usize::MAX));
            if self.end == 0 {
                return Err(self.over());
            }
        }
        Ok(())
    }

    fn largest_by_ratio(&self) -> u64 {
        self.compressed_bytes.saturating_mul(self.limits.ratio).max(self.limits.ratio_free_bytes)
    }

    fn over(&self) -> MergeError {
        let (layer, near) = (self.layer.clone(), self.near());
        match self.budget <= self.largest_by_ratio() {
            true => MergeError::TooManyBytes { layer, near, limit: self.limits.uncompressed_bytes },
            false => MergeError::Ratio { layer, near, limit: self.limits.ratio },
        }
    }
}
