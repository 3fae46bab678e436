//! Threads that compress blocks and hash what is to be stored. Blocks come back in any order; putting them
//! in order is [`super::store`]'s. Buffers travel with the blocks and are used again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::duplicates::{Digest, content_digest};
use super::encoder::{Compressor, Encoder};
use super::error::WriteError;

/// In a block's size word: stored as it is. The lower bits are the bytes stored; no bytes is a block of zeros.
pub(super) const UNCOMPRESSED: u32 = 1 << 24;

/// Bytes that all blocks under way may have together, input and output.
const MEMORY: usize = 64 << 20;

struct Job {
    sequence: u64,
    /// The block is taken from there, rather than made of the input.
    kept: Option<KeptBlock>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A block as it is stored in an image written before.
pub(super) struct KeptBlock {
    pub(super) image: Arc<File>,
    /// Its first byte there.
    pub(super) start: u64,
    /// Its size word, which fits the blocks of the encoder.
    pub(super) word: u32,
}

/// A block that was compressed, or could not be made shorter.
pub(super) struct Block {
    pub(super) sequence: u64,
    /// The size word.
    pub(super) word: u32,
    /// The digest of the bytes to store.
    pub(super) digest: Digest,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Block {
    /// The bytes to store.
    pub(super) fn stored(&self) -> &[u8] {
        let length = (self.word & !UNCOMPRESSED) as usize;
        let bytes = if self.word & UNCOMPRESSED == 0 { &self.output } else { &self.input };
        bytes.get(..length).unwrap_or_default()
    }
}

/// The threads, and the buffers not in use.
pub(super) struct BlockPool {
    jobs: Option<Sender<Job>>,
    blocks: Receiver<Result<Block, WriteError>>,
    threads: Vec<JoinHandle<()>>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    encoder: Encoder,
    limit: usize,
}

impl BlockPool {
    /// `workers` of 0 are as many as the machine has processors for us.
    pub(super) fn start(encoder: &Encoder, workers: usize) -> Result<Self, WriteError> {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if workers == 0 { processors() } else { workers };
        let in_memory = MEMORY / (encoder.block_size as usize * 2);
        let workers = workers.min(in_memory);
        let (jobs, queue) = channel::<Job>();
        let (finished, blocks) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self {
            jobs: Some(jobs),
            blocks,
            threads: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            encoder: *encoder,
            limit: (workers * 3 + 2).min(in_memory),
        };
        for _ in 0..workers {
            let (queue, finished) = (Arc::clone(&queue), finished.clone());
            let mut compressor = Compressor::new(encoder)?;
            let work = move || {
                while let Some(job) = next(&queue) {
                    // A panic inside of a library must not leave the writer waiting.
                    let block = catch_unwind(AssertUnwindSafe(|| compress(&mut compressor, job)));
                    if finished.send(block.unwrap_or(Err(WriteError::ThreadsEnded))).is_err() {
                        break;
                    }
                }
            };
            let thread = std::thread::Builder::new().name("squashfs-block".into()).spawn(work);
            pool.threads.push(thread.map_err(WriteError::Thread)?);
        }
        Ok(pool)
    }

    /// How many blocks may be under way.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A buffer for a block, with whatever was in it last.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.inputs.pop().unwrap_or_else(|| Vec::with_capacity(self.encoder.block_size as usize))
    }

    /// Takes back a buffer that was not submitted.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        self.inputs.push(buffer);
    }

    /// Takes back the buffers of a block that is written.
    pub(super) fn recycle(&mut self, block: Block) {
        self.give_back(block.input);
        self.outputs.push(block.output);
    }

    /// Has a block compressed.
    pub(super) fn submit(&mut self, sequence: u64, input: Vec<u8>) -> Result<(), WriteError> {
        let output = self.outputs.pop().unwrap_or_else(|| vec![0; self.encoder.output_room()]);
        let jobs = self.jobs.as_ref().ok_or(WriteError::ThreadsEnded)?;
        jobs.send(Job { sequence, kept: None, input, output }).map_err(|_| WriteError::ThreadsEnded)
    }

    /// Has a block read and hashed.
    pub(super) fn submit_kept(&mut self, sequence: u64, kept: KeptBlock) -> Result<(), WriteError> {
        let input = self.buffer();
        let output = self.outputs.pop().unwrap_or_else(|| vec![0; self.encoder.output_room()]);
        let jobs = self.jobs.as_ref().ok_or(WriteError::ThreadsEnded)?;
        let job = Job { sequence, kept: Some(kept), input, output };
        jobs.send(job).map_err(|_| WriteError::ThreadsEnded)
    }

    /// Waits for some block.
    pub(super) fn wait(&mut self) -> Result<Block, WriteError> {
        self.blocks.recv().map_err(|_| WriteError::ThreadsEnded)?
    }

    /// Some block, if one is finished.
    pub(super) fn poll(&mut self) -> Result<Option<Block>, WriteError> {
        self.blocks.try_recv().ok().transpose()
    }
}

impl Drop for BlockPool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Panics were caught and told above.
            let _ = thread.join();
        }
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().ok()?.recv().ok()
}

fn compress(compressor: &mut Compressor, job: Job) -> Result<Block, WriteError> {
    let Job { sequence, kept, input, mut output } = job;
    if let Some(kept) = kept {
        return fetch(sequence, &kept, input, output);
    }
    let length = compressor.compress(&input, &mut output)?;
    let word = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut block =
        Block { sequence, word: UNCOMPRESSED | word(input.len()), digest: [0; 32], input, output };
    if let Some(length) = length {
        block.word = word(length);
    }
    block.digest = content_digest(block.stored());
    Ok(block)
}

/// Reads a block that is stored elsewhere.
fn fetch(
    sequence: u64,
    kept: &KeptBlock,
    mut input: Vec<u8>,
    mut output: Vec<u8>,
) -> Result<Block, WriteError> {
    let length = (kept.word & !UNCOMPRESSED) as usize;
    let bytes = match kept.word & UNCOMPRESSED {
        0 => output.get_mut(..length),
        _ => {
            input.resize(length, 0);
            Some(input.as_mut_slice())
        }
    };
    let bytes = bytes.ok_or_else(|| WriteError::Kept(format!("a block has {length} bytes")))?;
    let read = kept.image.read_exact_at(bytes, kept.start);
    read.map_err(|error| WriteError::Kept(format!("reading a block failed: {error}")))?;
    let digest = content_digest(bytes);
    Ok(Block { sequence, word: kept.word, digest, input, output })
}
