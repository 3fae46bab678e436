//! One block decompressed into a buffer of known size, never beyond. Nothing is allocated in proportion to what
//! a block claims: xz's dictionary is bounded here, the others decompress in place.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use xz4rust::{XzDecoder, XzNextBlockResult};

/// mksquashfs' and the kernel's largest dictionary is one block's size, and blocks have at most 1 MiB.
const XZ_DICTIONARY: usize = 1 << 20;

/// How an image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// zlib streams (RFC 1950).
    Gzip,
    /// LZ4 blocks, without frames.
    Lz4,
    /// xz streams.
    Xz,
    /// Zstandard frames.
    Zstd,
}

impl Codec {
    /// The compressor of a superblock's number, or the name of one that is not read.
    pub(super) fn from_number(number: u16) -> Result<Self, Option<&'static str>> {
        match number {
            1 => Ok(Codec::Gzip),
            2 => Err(Some("lzma")),
            3 => Err(Some("lzo")),
            4 => Ok(Codec::Xz),
            5 => Ok(Codec::Lz4),
            6 => Ok(Codec::Zstd),
            _ => Err(None),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Codec::Gzip => "gzip",
            Codec::Lz4 => "lz4",
            Codec::Xz => "xz",
            Codec::Zstd => "zstd",
        })
    }
}

/// A decompressor with what it needs from block to block.
pub(super) enum Decompressor {
    Gzip(Box<Decompress>),
    Lz4,
    Xz(Box<XzDecoder<'static>>),
    Zstd(Box<zstd::bulk::Decompressor<'static>>),
}

impl Decompressor {
    pub(super) fn new(codec: Codec) -> std::io::Result<Self> {
        Ok(match codec {
            Codec::Gzip => Self::Gzip(Box::new(Decompress::new(true))),
            Codec::Lz4 => Self::Lz4,
            Codec::Xz => Self::Xz(XzDecoder::in_heap_with_alloc_dict_size(0, XZ_DICTIONARY)),
            Codec::Zstd => Self::Zstd(Box::new(zstd::bulk::Decompressor::new()?)),
        })
    }

    /// Decompresses one block; how many bytes it was, or nothing if the input is invalid or does not fit.
    pub(super) fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        match self {
            Self::Gzip(stream) => {
                stream.reset(true);
                match stream.decompress(input, output, FlushDecompress::Finish) {
                    Ok(Status::StreamEnd) => usize::try_from(stream.total_out()).ok(),
                    Ok(Status::Ok | Status::BufError) | Err(_) => None,
                }
            }
            Self::Lz4 => lz4_flex::block::decompress_into(input, output).ok(),
            Self::Xz(decoder) => {
                decoder.reset();
                unpack_xz(decoder, input, output)
            }
            Self::Zstd(decoder) => decoder.decompress_to_buffer(input, output).ok(),
        }
    }
}

fn unpack_xz(decoder: &mut XzDecoder<'static>, input: &[u8], output: &mut [u8]) -> Option<usize> {
    let (mut read, mut written) = (0_usize, 0_usize);
    loop {
        let result = decoder.decode(input.get(read..)?, output.get_mut(written..)?).ok()?;
        read = read.checked_add(result.input_consumed())?;
        written = written.checked_add(result.output_produced())?;
        match result {
            XzNextBlockResult::EndOfStream(..) => return Some(written),
            XzNextBlockResult::NeedMoreData(..) if !result.made_progress() => return None,
            XzNextBlockResult::NeedMoreData(..) => {}
        }
    }
}
