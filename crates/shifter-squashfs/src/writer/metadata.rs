//! Metadata blocks: 8 KiB of inodes, directories or table entries, each behind two bytes of length. A place
//! in them is the start of the compressed block and an offset in the uncompressed one.

use super::encoder::{Compressor, Encoder, METADATA_BYTES};
use super::error::WriteError;
use super::image::{Append, Image};

/// In a block's length: stored as it is.
const UNCOMPRESSED: u16 = 1 << 15;

/// A metadata block that is not compressed, as the compressor options are.
pub(super) fn uncompressed_block(bytes: &[u8]) -> Vec<u8> {
    let length = UNCOMPRESSED | bytes.len() as u16;
    [&length.to_le_bytes()[..], bytes].concat()
}

/// Where something begins in a metadata table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The block's first byte, counted from the table's.
    pub(super) block: u64,
    /// The byte in the uncompressed block.
    pub(super) offset: u16,
}

/// A growing metadata table.
pub(super) struct MetadataWriter<S> {
    sink: S,
    compressor: Compressor,
    buffer: Vec<u8>,
    output: Vec<u8>,
    written: u64,
}

impl<S: Append> MetadataWriter<S> {
    pub(super) fn new(sink: S, encoder: &Encoder) -> Result<Self, WriteError> {
        Ok(Self {
            sink,
            compressor: Compressor::new(encoder)?,
            buffer: Vec::with_capacity(METADATA_BYTES),
            output: vec![0; encoder.output_room()],
            written: 0,
        })
    }

    /// Where the next byte will be.
    pub(super) fn place(&self) -> Place {
        // The buffer is never left full, so the offset is always one inside of the block.
        Place { block: self.written, offset: self.buffer.len() as u16 }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let room = (METADATA_BYTES - self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == METADATA_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Writes out the last block. The sink, and the table's bytes in it.
    pub(super) fn finish(mut self) -> Result<(S, u64), WriteError> {
        self.end_block()?;
        Ok((self.sink, self.written))
    }

    fn end_block(&mut self) -> Result<(), WriteError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let shorter = self.compressor.compress(&self.buffer, &mut self.output)?;
        let stored = shorter.and_then(|length| self.output.get(..length)).unwrap_or(&self.buffer);
        let length = stored.len() as u16 | if shorter.is_some() { 0 } else { UNCOMPRESSED };
        self.sink.append(&length.to_le_bytes())?;
        self.sink.append(stored)?;
        self.written += 2 + stored.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Appends a table that is found through pointers to its metadata blocks: blocks, `header`, pointers. Where
/// the header, or without one the pointers, are in the image.
pub(super) fn append_table(
    image: Image,
    encoder: &Encoder,
    entries: &[u8],
    header: &[u8],
) -> Result<(Image, u64), WriteError> {
    let start = image.position();
    let mut writer = MetadataWriter::new(image, encoder)?;
    let mut pointers = Vec::new();
    for block in entries.chunks(METADATA_BYTES) {
        pointers.extend_from_slice(&(start + writer.place().block).to_le_bytes());
        writer.write(block)?;
    }
    let (mut image, _) = writer.finish()?;
    let table = image.position();
    image.append(header)?;
    image.append(&pointers)?;
    Ok((image, table))
}
