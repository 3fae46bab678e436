//! Packing the ends of files into fragment blocks. What a fragment holds depends on its segment's files
//! alone: each different tail once, in order, masked or not, also if a newer segment has it already. Whether
//! the fragment is then wanted depends on who uses it.

use super::duplicates::{Digest, DigestIndex, content_digest};
use super::error::WriteError;
use super::image::Append;
use super::kept::KeptFragments;
use super::spool::{SpoolDir, SpoolFile};
use super::store::{Store, number};

/// One tail as packed in one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) digest: Digest,
    /// The packer's number of the fragment, and the first byte in it.
    pub(super) fragment: u32,
    pub(super) offset: u32,
    /// The tail to read instead: an equal one of a newer segment, or this one.
    pub(super) source: u32,
}

/// A fragment of the open segment.
struct Packed {
    /// Live files that read it.
    users: u32,
    /// Where its bytes are in the spool (of a kept segment: nowhere), and how many, if nobody used it when it
    /// was full.
    spooled: Option<(u64, usize)>,
}

/// All tails, and the fragment being filled.
pub(super) struct Tails {
    pub(super) tails: Vec<Tail>,
    known: DigestIndex,
    block_size: usize,
    /// The tails and fragments before these are of closed segments.
    first_tail: u32,
    first_fragment: u32,
    packed: Vec<Packed>,
    /// The open fragment's bytes, and how many there are; of a kept segment only their number is known.
    buffer: Vec<u8>,
    filled: usize,
    spool: Option<SpoolFile>,
    kept: Option<KeptFragments>,
}

impl Tails {
    pub(super) fn new(block_size: usize) -> Self {
        Self {
            tails: Vec::new(),
            known: DigestIndex::default(),
            block_size,
            first_tail: 0,
            first_fragment: 0,
            packed: Vec::new(),
            buffer: Vec::new(),
            filled: 0,
            spool: None,
            kept: None,
        }
    }

    /// The packer's number of the next fragment.
    pub(super) fn next_fragment(&self) -> u32 {
        self.first_fragment + self.packed.len() as u32
    }

    /// The segment that was just begun has these fragments in an image written before.
    pub(super) fn keep(&mut self, kept: KeptFragments) {
        self.kept = Some(kept);
    }

    /// As [`add`](Self::add), in a kept segment, which needs no bytes.
    pub(super) fn add_kept(
        &mut self,
        digest: Digest,
        length: usize,
        store: &mut Store,
        spool: &SpoolDir,
    ) -> Result<u32, WriteError> {
        self.pack(digest, length, &[], store, spool)
    }

    /// Packs a tail unless this segment has an equal one. Its number; nobody uses it yet.
    pub(super) fn add(
        &mut self,
        bytes: &[u8],
        store: &mut Store,
        spool: &SpoolDir,
    ) -> Result<u32, WriteError> {
        self.pack(content_digest(bytes), bytes.len(), bytes, store, spool)
    }

    fn pack(
        &mut self,
        digest: Digest,
        length: usize,
        bytes: &[u8],
        store: &mut Store,
        spool: &SpoolDir,
    ) -> Result<u32, WriteError> {
        let equal = self.known.find(&digest, digest_of(&self.tails));
        if let Some(equal) = equal.filter(|equal| *equal >= self.first_tail) {
            return Ok(equal);
        }
        number(self.packed.len() + self.first_fragment as usize, "fragments")?;
        let number = number(self.tails.len(), "files")?;
        let elsewhere = equal
            .and_then(|equal| self.tails.get(equal as usize))
            .filter(|equal| self.in_image(equal.source, store))
            .map(|equal| equal.source);
        if self.packed.is_empty() || self.filled + length > self.block_size {
            self.close_fragment(store, spool)?;
            self.packed.push(Packed { users: 0, spooled: None });
        }
        self.tails.push(Tail {
            digest,
            fragment: self.next_fragment() - 1,
            offset: u32::try_from(self.filled).unwrap_or(u32::MAX),
            source: elsewhere.unwrap_or(number),
        });
        self.buffer.extend_from_slice(bytes);
        self.filled += length;
        self.known.put(&digest, number, digest_of(&self.tails));
        Ok(number)
    }

    /// One more live file reads this tail, or one less.
    pub(super) fn use_more(&mut self, tail: u32, more: bool) {
        let Some(fragment) = self.source(tail).map(|source| source.fragment) else { return };
        let place = fragment.checked_sub(self.first_fragment).map(|place| place as usize);
        if let Some(packed) = place.and_then(|place| self.packed.get_mut(place)) {
            packed.users = if more { packed.users + 1 } else { packed.users.saturating_sub(1) };
        }
    }

    /// The tail that is read for this one.
    pub(super) fn source(&self, tail: u32) -> Option<&Tail> {
        self.tails.get(self.tails.get(tail as usize)?.source as usize)
    }

    /// Hands the last fragment on, as well as those that nobody had used before.
    pub(super) fn end_segment(&mut self, store: &mut Store, spool: &SpoolDir) -> Result<(), WriteError> {
        self.close_fragment(store, spool)?;
        if let Some(kept) = self.kept.take() {
            if kept.count() != self.packed.len() {
                return Err(WriteError::Kept("it had another number of fragments".to_owned()));
            }
            for ((place, number), packed) in (0..).zip(self.first_fragment..).zip(&self.packed) {
                if let (Some((_, length)), true) = (packed.spooled, packed.users > 0) {
                    kept.submit(place, number, length, store)?;
                }
            }
        }
        for (number, packed) in (self.first_fragment..).zip(&self.packed) {
            if let (Some((offset, length)), true, Some(file)) =
                (packed.spooled, packed.users > 0, &self.spool)
            {
                let mut bytes = store.pool.buffer();
                bytes.resize(length, 0);
                file.read_at(&mut bytes, offset)?;
                store.fragment(number, bytes)?;
            }
        }
        self.spool = None;
        self.first_fragment = self.next_fragment();
        self.packed.clear();
        self.first_tail = number(self.tails.len(), "files")?;
        Ok(())
    }

    fn close_fragment(&mut self, store: &mut Store, spool: &SpoolDir) -> Result<(), WriteError> {
        let number = self.next_fragment().saturating_sub(1);
        let place = self.packed.len().saturating_sub(1);
        let length = std::mem::take(&mut self.filled);
        let Some(packed) = self.packed.last_mut().filter(|_| length > 0) else { return Ok(()) };
        if let Some(kept) = &self.kept {
            match packed.users > 0 {
                true => kept.submit(place, number, length, store)?,
                false => packed.spooled = Some((0, length)),
            }
        } else if packed.users > 0 {
            let empty = store.pool.buffer();
            store.fragment(number, std::mem::replace(&mut self.buffer, empty))?;
        } else {
            let file = match &mut self.spool {
                Some(file) => file,
                None => self.spool.insert(SpoolFile::create(spool)?),
            };
            packed.spooled = Some((file.length(), self.buffer.len()));
            file.append(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Whether a tail of a closed segment is in the image.
    fn in_image(&self, tail: u32, store: &Store) -> bool {
        let tail = self.tails.get(tail as usize);
        tail.and_then(|tail| store.fragments.get(tail.fragment as usize)).is_some_and(Option::is_some)
    }
}

fn digest_of<'a>(tails: &'a [Tail]) -> impl Fn(u32) -> &'a Digest {
    const NONE: &Digest = &[0; 32];
    |number| tails.get(number as usize).map_or(NONE, |tail| &tail.digest)
}
