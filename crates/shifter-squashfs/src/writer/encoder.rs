//! Codecs: what may be chosen, and one reusable compression context per thread. Every block is compressed
//! alone, so its bytes depend on its content and the [`Encoder`] only. Which codecs a node's kernel reads is
//! not known here.

use std::fmt;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::error::WriteError;

/// Raised whenever equal input and equal settings give other bytes than before, also by a new version of a
/// compression library: what was remembered about blocks written earlier is then void.
pub const ENCODER_VERSION: u32 = 1;

/// Uncompressed bytes of a metadata block.
pub(super) const METADATA_BYTES: usize = 8192;

/// A compression method of squashfs 4.0 that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Zstandard, levels 1 to 22 (`CONFIG_SQUASHFS_ZSTD`, Linux 4.14).
    Zstd,
    /// zlib, levels 1 to 9; every kernel's squashfs.
    Gzip,
    /// LZ4, level 1 (`CONFIG_SQUASHFS_LZ4`).
    Lz4,
    /// XZ, presets 1 to 9 (`CONFIG_SQUASHFS_XZ`).
    Xz,
    /// Nothing is compressed, level 0; the superblock says gzip.
    None,
}

impl Codec {
    /// The lowest, the default and the highest level.
    pub const fn levels(self) -> (u32, u32, u32) {
        match self {
            Codec::Zstd => (1, 3, 22),
            Codec::Gzip => (1, 9, 9),
            Codec::Lz4 => (1, 1, 1),
            Codec::Xz => (1, 6, 9),
            Codec::None => (0, 0, 0),
        }
    }

    /// The superblock's number (`fs/squashfs/squashfs_fs.h`).
    pub(super) const fn number(self) -> u16 {
        match self {
            Codec::Gzip | Codec::None => 1,
            Codec::Xz => 4,
            Codec::Lz4 => 5,
            Codec::Zstd => 6,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Codec::Zstd => "zstd",
            Codec::Gzip => "gzip",
            Codec::Lz4 => "lz4",
            Codec::Xz => "xz",
            Codec::None => "none",
        })
    }
}

/// How blocks are made. Shown (`zstd-3-131072-1`), it is the key under which equal content has equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoder {
    /// The codec.
    pub codec: Codec,
    /// Its level, within [`Codec::levels`].
    pub level: u32,
    /// Bytes of a data block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
}

impl Encoder {
    /// The codec at its default level (zstd: 3) in blocks of 128 KiB.
    pub const fn new(codec: Codec) -> Self {
        Self { codec, level: codec.levels().1, block_size: 128 * 1024 }
    }

    pub(super) fn check(&self) -> Result<(), WriteError> {
        let (codec, level, (lowest, _, highest)) = (self.codec, self.level, self.codec.levels());
        if !(lowest..=highest).contains(&level) {
            return Err(WriteError::Level { codec, level, lowest, highest });
        }
        if !self.block_size.is_power_of_two() || !(4096..=1 << 20).contains(&self.block_size) {
            return Err(WriteError::BlockSize(self.block_size));
        }
        Ok(())
    }

    /// The compressor options behind the superblock, where they differ from what a reader assumes
    /// (`struct *_comp_opts` of squashfs-tools; lz4's are demanded by the kernel).
    pub(super) fn options(&self) -> Vec<u8> {
        match self.codec {
            Codec::Zstd if self.level != 15 => self.level.to_le_bytes().to_vec(),
            // Level, a window of 2^15 bytes, the default strategy.
            Codec::Gzip if self.level != 9 => [&self.level.to_le_bytes()[..], &[15, 0, 0, 0]].concat(),
            // Version 1 of the stream format, no flags.
            Codec::Lz4 => vec![1, 0, 0, 0, 0, 0, 0, 0],
            _ => Vec::new(),
        }
    }

    /// The largest input of [`Compressor::compress`].
    fn largest_input(&self) -> usize {
        METADATA_BYTES.max(self.block_size as usize)
    }

    /// Room that an output buffer needs.
    pub(super) fn output_room(&self) -> usize {
        let largest = self.largest_input();
        match self.codec {
            Codec::Zstd => zstd::zstd_safe::compress_bound(largest),
            Codec::Lz4 => get_maximum_output_size(largest),
            Codec::Gzip | Codec::Xz => largest,
            Codec::None => 0,
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new(Codec::Zstd)
    }
}

impl fmt::Display for Encoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}-{ENCODER_VERSION}", self.codec, self.level, self.block_size)
    }
}

/// A compression context, used again for every block.
pub(super) struct Compressor {
    codec: Codec,
    context: Context,
}

enum Context {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(flate2::Compress),
    Lz4(CompressTable),
    Xz { preset: u32, dictionary: u32 },
    None,
}

impl Compressor {
    pub(super) fn new(encoder: &Encoder) -> Result<Self, WriteError> {
        encoder.check()?;
        let Encoder { codec, level, .. } = *encoder;
        let context = match codec {
            Codec::Zstd => {
                let level = i32::try_from(level).unwrap_or(i32::MAX);
                let context = zstd::bulk::Compressor::new(level);
                Context::Zstd(context.map_err(|error| failed(codec, error.to_string()))?)
            }
            Codec::Gzip => Context::Gzip(flate2::Compress::new(flate2::Compression::new(level), true)),
            Codec::Lz4 => Context::Lz4(CompressTable::large()),
            // The kernel expects a dictionary of one block unless options say otherwise.
            Codec::Xz => Context::Xz {
                preset: level,
                dictionary: u32::try_from(encoder.largest_input()).unwrap_or(u32::MAX),
            },
            Codec::None => Context::None,
        };
        Ok(Self { codec, context })
    }

    /// Compresses into the front of `output`, which has [`Encoder::output_room`]. Nothing means that the
    /// input is at least as short and is to be stored as it is.
    pub(super) fn compress(&mut self, input: &[u8], output: &mut [u8]) -> Result<Option<usize>, WriteError> {
        let codec = self.codec;
        let room = output.len().min(input.len());
        let length = match &mut self.context {
            Context::None => return Ok(None),
            Context::Zstd(context) => {
                let length = context.compress_to_buffer(input, output);
                length.map_err(|error| failed(codec, error.to_string()))?
            }
            Context::Lz4(table) => {
                let length = compress_into_with_table(input, output, table);
                length.map_err(|error| failed(codec, error.to_string()))?
            }
            // Both simply run out of room where the result would not be shorter.
            Context::Gzip(context) => {
                context.reset();
                let output = output.get_mut(..room).unwrap_or_default();
                let status = context.compress(input, output, flate2::FlushCompress::Finish);
                match status.map_err(|error| failed(codec, error.to_string()))? {
                    flate2::Status::StreamEnd => usize::try_from(context.total_out()).unwrap_or(usize::MAX),
                    _ => return Ok(None),
                }
            }
            Context::Xz { preset, dictionary } => {
                let mut stream = xz_stream(*preset, *dictionary).map_err(|e| failed(codec, e.to_string()))?;
                let output = output.get_mut(..room).unwrap_or_default();
                let status = stream.process(input, output, liblzma::stream::Action::Finish);
                match status {
                    Ok(liblzma::stream::Status::StreamEnd) => {
                        usize::try_from(stream.total_out()).unwrap_or(usize::MAX)
                    }
                    Ok(_) => return Ok(None),
                    Err(error) => return Err(failed(codec, error.to_string())),
                }
            }
        };
        Ok((length < input.len()).then_some(length))
    }
}

fn xz_stream(preset: u32, dictionary: u32) -> Result<liblzma::stream::Stream, liblzma::stream::Error> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(preset)?;
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    // The kernel's decoder knows no other check.
    Stream::new_stream_encoder(&filters, Check::Crc32)
}

fn failed(codec: Codec, message: String) -> WriteError {
    WriteError::Compress { codec, message }
}
