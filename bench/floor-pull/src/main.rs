//! The floor of a pull: what no program that makes a compressed, verified image of gzip layers can leave out.
//!
//!   bench-floor-pull ring|sha2 LAYER BLOB_DIGEST DIFF_ID [LAYER BLOB_DIGEST DIFF_ID]…
//!
//! For each layer file: sha256 of the blob, gunzip (zlib-rs), sha256 of the archive, zstd at level 3 in independent
//! blocks of 128 KiB, with the very libraries the gateway uses; sha256 by ring, as the gateway, or by the crate `sha2`,
//! which is slower on processors without instructions for it. Digests are lower-case hexadecimal and must match.
//! It deliberately does no more: it asks no registry, reads no archive, looks for no duplicates, writes no image,
//! and does everything on one thread. It prints the bytes read, unpacked and packed.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;
use sha2::Digest as _;

/// Bytes of a data block: the default of the usual makers of squashfs images.
const BLOCK: usize = 128 << 10;
/// How much of a layer file is read at once.
const CHUNK: usize = 128 << 10;
const LEVEL: i32 = 3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench-floor-pull: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let hash = match words.next().as_deref() {
        Some("ring") => Hash::ring,
        Some("sha2") => Hash::sha2,
        _ => bail!("say first by what to hash: ring or sha2"),
    };
    let words: Vec<String> = words.collect();
    let (layers, rest) = words.as_chunks::<3>();
    if layers.is_empty() || !rest.is_empty() {
        bail!("say LAYER BLOB_DIGEST DIFF_ID for each layer");
    }
    let mut work = Work::new(hash)?;
    for [path, blob, diff_id] in layers {
        work.layer(path, blob, diff_id)?;
    }
    println!("{} {} {}", work.read, work.unpacked, work.packed);
    Ok(())
}

/// A sha256 under way.
enum Hash {
    Ring(Box<ring::digest::Context>),
    Sha2(Box<sha2::Sha256>),
}

impl Hash {
    fn ring() -> Self {
        Self::Ring(Box::new(ring::digest::Context::new(&ring::digest::SHA256)))
    }

    fn sha2() -> Self {
        Self::Sha2(Box::default())
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Ring(hash) => hash.update(bytes),
            Self::Sha2(hash) => hash.update(bytes),
        }
    }

    /// Lower-case hexadecimal.
    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Ring(hash) => hex(hash.finish().as_ref()),
            Self::Sha2(hash) => hex(&hash.finalize()),
        }
    }
}

/// Buffers and the compressor, made once, and what was done.
struct Work {
    hash: fn() -> Hash,
    compressor: zstd::bulk::Compressor<'static>,
    block: Vec<u8>,
    output: Vec<u8>,
    read: u64,
    unpacked: u64,
    packed: u64,
}

impl Work {
    fn new(hash: fn() -> Hash) -> Result<Self> {
        Ok(Self {
            hash,
            compressor: zstd::bulk::Compressor::new(LEVEL).context("set up zstd")?,
            block: vec![0; BLOCK],
            output: vec![0; zstd::zstd_safe::compress_bound(BLOCK)],
            read: 0,
            unpacked: 0,
            packed: 0,
        })
    }

    fn layer(&mut self, path: &str, blob: &str, diff_id: &str) -> Result<()> {
        let file = File::open(path).with_context(|| format!("open the layer {path}"))?;
        let source = std::io::BufReader::with_capacity(CHUNK, Hashing::new(file, (self.hash)()));
        let mut archive = MultiGzDecoder::new(source);
        let mut plain = (self.hash)();
        loop {
            let count = fill(&mut archive, &mut self.block).with_context(|| format!("unpack {path}"))?;
            let block = &self.block[..count];
            plain.update(block);
            self.unpacked += count as u64;
            if count > 0 {
                let packed =
                    self.compressor.compress_to_buffer(block, &mut self.output).context("compress")?;
                self.packed += packed.min(count) as u64;
            }
            if count < BLOCK {
                break;
            }
        }
        let read = archive.into_inner().into_inner();
        self.read += read.bytes;
        check(path, "blob", &read.hash.finish(), blob)?;
        check(path, "archive", &plain.finish(), diff_id)
    }
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn check(path: &str, what: &str, seen: &str, wanted: &str) -> Result<()> {
    ensure!(seen == wanted, "the {what} of {path} has the sha256 {seen}, not {wanted}");
    Ok(())
}

/// Hashes what is read through it.
struct Hashing {
    file: File,
    hash: Hash,
    bytes: u64,
}

impl Hashing {
    fn new(file: File, hash: Hash) -> Self {
        Self { file, hash, bytes: 0 }
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}
