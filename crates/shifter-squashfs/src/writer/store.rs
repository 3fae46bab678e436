//! The data part of the image: blocks are written in the order in which they were submitted, whatever the
//! order in which threads finish them, and a run of blocks that the image has already is left out. Which
//! data is wanted is decided in the parent module.

use std::collections::{HashSet, VecDeque};

use super::block_pool::{Block, BlockPool, KeptBlock};
use super::duplicates::{Digest, DigestIndex};
use super::error::WriteError;
use super::image::{Append, Image};
use super::spool::{Hold, SpoolDir};

/// The full blocks of a file.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Where its size words begin in [`Store::words`], and how many there are.
    pub(super) first: usize,
    pub(super) count: u32,
    /// Its first byte in the image.
    pub(super) start: u64,
    /// How many of its blocks are zeros, which take no space.
    pub(super) zeros: u32,
    /// The digest over each block's size word and the digest of its stored bytes.
    pub(super) digest: Digest,
    /// A file of the same size came before, so the blocks may be in the image already.
    candidate: bool,
    pub(super) stored: bool,
}

/// A fragment block in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its first byte in the image.
    pub start: u64,
    /// Its size word: bytes stored, bit 24 if not compressed.
    pub word: u32,
    /// The [`content_digest`](super::content_digest) of the bytes stored.
    pub digest: [u8; 32],
}

/// What a block in the queue is for.
enum Purpose {
    Run { run: u32, last: bool },
    Fragment(u32),
}

struct Slot {
    purpose: Purpose,
    state: State,
    /// The digest that the fragment, or the run with this last block, has if it is what was kept.
    expected: Option<Digest>,
}

enum State {
    Zeros,
    Compressing,
    Done(Block),
}

/// The run whose blocks are being written.
struct Open {
    hasher: blake3::Hasher,
    start: u64,
    first: usize,
    zeros: u32,
}

/// What is in the image, and what is on its way there.
pub(super) struct Store {
    pub(super) image: Image,
    pub(super) pool: BlockPool,
    queue: VecDeque<Slot>,
    /// The sequence number of the queue's front.
    front: u64,
    open: Option<Open>,
    hold: Hold,
    pub(super) runs: Vec<Run>,
    pub(super) words: Vec<u32>,
    known: DigestIndex,
    sizes: HashSet<u64>,
    /// Fragments by the packer's number; those that were left out are nothing.
    pub(super) fragments: Vec<Option<Fragment>>,
}

impl Store {
    pub(super) fn new(image: Image, pool: BlockPool, spool: &SpoolDir) -> Self {
        Self {
            image,
            pool,
            queue: VecDeque::new(),
            front: 0,
            open: None,
            hold: Hold::new(spool),
            runs: Vec::new(),
            words: Vec::new(),
            known: DigestIndex::default(),
            sizes: HashSet::new(),
            fragments: Vec::new(),
        }
    }

    /// A run with no blocks yet. Its number.
    pub(super) fn add_run(&mut self, count: u32) -> Result<u32, WriteError> {
        let run =
            Run { first: 0, count, start: 0, zeros: 0, digest: [0; 32], candidate: false, stored: false };
        let number = number(self.runs.len(), "files")?;
        self.runs.push(run);
        Ok(number)
    }

    /// To be called once before a run's blocks, with the size of its whole file.
    pub(super) fn begin_run(&mut self, run: u32, file_size: u64) {
        let seen = !self.sizes.insert(file_size);
        if let Some(run) = self.runs.get_mut(run as usize) {
            run.candidate = seen;
        }
    }

    /// The next block of a run; the blocks of a run come one behind the other.
    pub(super) fn run_block(&mut self, run: u32, last: bool, data: Vec<u8>) -> Result<(), WriteError> {
        let zeros = is_zero(&data);
        self.enqueue(Purpose::Run { run, last }, data, zeros)
    }

    /// The next block of a run, as an image written before has it; nothing for a block of zeros. `expected` is
    /// the digest of the run, with its last block.
    pub(super) fn kept_run_block(
        &mut self,
        run: u32,
        expected: Option<Digest>,
        block: Option<KeptBlock>,
    ) -> Result<(), WriteError> {
        self.enqueue_kept(Purpose::Run { run, last: expected.is_some() }, expected, block)
    }

    /// A fragment block, as an image written before has it.
    pub(super) fn kept_fragment(
        &mut self,
        number: u32,
        block: KeptBlock,
        expected: Digest,
    ) -> Result<(), WriteError> {
        self.enqueue_kept(Purpose::Fragment(number), Some(expected), Some(block))
    }

    /// A fragment block, under the packer's number.
    pub(super) fn fragment(&mut self, number: u32, data: Vec<u8>) -> Result<(), WriteError> {
        self.enqueue(Purpose::Fragment(number), data, false)
    }

    /// Writes everything under way.
    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        while !self.queue.is_empty() {
            self.write_front()?;
        }
        Ok(())
    }

    fn enqueue(&mut self, purpose: Purpose, data: Vec<u8>, zeros: bool) -> Result<(), WriteError> {
        let sequence = self.next_sequence()?;
        if zeros {
            self.pool.give_back(data);
            self.queue.push_back(Slot { purpose, state: State::Zeros, expected: None });
            return Ok(());
        }
        self.queue.push_back(Slot { purpose, state: State::Compressing, expected: None });
        self.pool.submit(sequence, data)
    }

    fn enqueue_kept(
        &mut self,
        purpose: Purpose,
        expected: Option<Digest>,
        block: Option<KeptBlock>,
    ) -> Result<(), WriteError> {
        let sequence = self.next_sequence()?;
        let Some(block) = block else {
            self.queue.push_back(Slot { purpose, state: State::Zeros, expected });
            return Ok(());
        };
        self.queue.push_back(Slot { purpose, state: State::Compressing, expected });
        self.pool.submit_kept(sequence, block)
    }

    /// Makes room in the queue; the number of what will be its last.
    fn next_sequence(&mut self) -> Result<u64, WriteError> {
        while let Some(block) = self.pool.poll()? {
            self.arrived(block);
        }
        while matches!(self.queue.front(), Some(Slot { state: State::Done(_) | State::Zeros, .. }))
            || self.queue.len() >= self.pool.limit()
        {
            self.write_front()?;
        }
        Ok(self.front + self.queue.len() as u64)
    }

    fn arrived(&mut self, block: Block) {
        let place = block.sequence.checked_sub(self.front).and_then(|place| usize::try_from(place).ok());
        if let Some(slot) = place.and_then(|place| self.queue.get_mut(place)) {
            slot.state = State::Done(block);
        }
    }

    fn write_front(&mut self) -> Result<(), WriteError> {
        while matches!(self.queue.front(), Some(Slot { state: State::Compressing, .. })) {
            let block = self.pool.wait()?;
            self.arrived(block);
        }
        let Some(slot) = self.queue.pop_front() else { return Ok(()) };
        self.front += 1;
        let block = match slot.state {
            State::Done(block) => Some(block),
            State::Zeros | State::Compressing => None,
        };
        match slot.purpose {
            Purpose::Fragment(number) => self.write_fragment(number, block.as_ref(), slot.expected)?,
            Purpose::Run { run, last } => self.write_block(run, last, block.as_ref(), slot.expected)?,
        }
        if let Some(block) = block {
            self.pool.recycle(block);
        }
        Ok(())
    }

    fn write_fragment(
        &mut self,
        number: u32,
        block: Option<&Block>,
        expected: Option<Digest>,
    ) -> Result<(), WriteError> {
        let Some(block) = block else { return Ok(()) };
        check(&block.digest, expected)?;
        let fragment = Fragment { start: self.image.position(), word: block.word, digest: block.digest };
        self.image.append(block.stored())?;
        if self.fragments.len() <= number as usize {
            self.fragments.resize(number as usize + 1, None);
        }
        if let Some(place) = self.fragments.get_mut(number as usize) {
            *place = Some(fragment);
        }
        Ok(())
    }

    fn write_block(
        &mut self,
        number: u32,
        last: bool,
        block: Option<&Block>,
        expected: Option<Digest>,
    ) -> Result<(), WriteError> {
        let Some(run) = self.runs.get_mut(number as usize) else { return Ok(()) };
        let open = self.open.get_or_insert_with(|| Open {
            hasher: blake3::Hasher::new(),
            start: self.image.position(),
            first: self.words.len(),
            zeros: 0,
        });
        let (word, digest) = block.map_or((0, [0; 32]), |block| (block.word, block.digest));
        open.hasher.update(&word.to_le_bytes());
        open.hasher.update(&digest);
        open.zeros += u32::from(word == 0);
        self.words.push(word);
        match block {
            Some(block) if run.candidate => self.hold.append(block.stored())?,
            Some(block) => self.image.append(block.stored())?,
            None => {}
        }
        if !last {
            return Ok(());
        }
        let Some(Open { hasher, start, first, zeros }) = self.open.take() else { return Ok(()) };
        let digest: Digest = hasher.finalize().into();
        check(&digest, expected)?;
        *run = Run { first, start, zeros, digest, stored: true, ..*run };
        let candidate = run.candidate;
        let equal = self.known.find(&digest, digest_of(&self.runs));
        match equal.and_then(|equal| self.runs.get(equal as usize)).filter(|_| candidate).cloned() {
            Some(equal) => {
                self.words.truncate(first);
                self.hold.forget()?;
                if let Some(run) = self.runs.get_mut(number as usize) {
                    *run = equal;
                }
            }
            None => {
                self.hold.keep(&mut self.image)?;
                if equal.is_none() {
                    self.known.put(&digest, number, digest_of(&self.runs));
                }
            }
        }
        Ok(())
    }
}

/// What was taken from an image written before must be what was put there.
fn check(found: &Digest, expected: Option<Digest>) -> Result<(), WriteError> {
    match expected {
        Some(expected) if expected != *found => Err(WriteError::Kept("its bytes have changed".to_owned())),
        _ => Ok(()),
    }
}

fn digest_of<'a>(runs: &'a [Run]) -> impl Fn(u32) -> &'a Digest {
    const NONE: &Digest = &[0; 32];
    |number| runs.get(number as usize).map_or(NONE, |run| &run.digest)
}

/// The next number of a table that has `length` entries; the last one is kept free for "none".
pub(super) fn number(length: usize, what: &'static str) -> Result<u32, WriteError> {
    let limit = u64::from(u32::MAX);
    u32::try_from(length).ok().filter(|number| *number < u32::MAX).ok_or(WriteError::Limit { what, limit })
}

pub(super) fn is_zero(data: &[u8]) -> bool {
    // In pieces, so that it ends at once for nearly all data.
    data.chunks(64).all(|piece| piece.iter().fold(0, |sum, byte| sum | byte) == 0)
}
