//! Finding equal content by its digest: a set of small numbers, each standing for an entry of a table that
//! holds the digest. A slot is four bytes, so that half a million files take four megabytes.

/// A digest of content.
pub(super) type Digest = [u8; 32];

/// The digest by which content is compared: BLAKE3, as hard to collide as sha256 and several times as fast. It never
/// leaves our own cache, so that nobody else has to know it.
pub fn content_digest(bytes: &[u8]) -> [u8; 32] {
    blake3::hash(bytes).into()
}

const EMPTY: u32 = u32::MAX;

/// Numbers by digest; the digests themselves stay where the numbers lead.
#[derive(Default)]
pub(super) struct DigestIndex {
    slots: Vec<u32>,
    used: usize,
}

impl DigestIndex {
    /// The number under this digest; `digest_of` tells the digest of a number.
    pub(super) fn find<'a>(&self, digest: &Digest, digest_of: impl Fn(u32) -> &'a Digest) -> Option<u32> {
        let slot = self.slot(digest, &digest_of)?;
        self.slots.get(slot).copied().filter(|number| *number != EMPTY)
    }

    /// Puts a number under its digest, instead of the one there.
    pub(super) fn put<'a>(&mut self, digest: &Digest, number: u32, digest_of: impl Fn(u32) -> &'a Digest) {
        // At most three quarters full, so that a search ends soon.
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow(&digest_of);
        }
        if let Some(slot) = self.slot(digest, &digest_of).and_then(|slot| self.slots.get_mut(slot)) {
            self.used += usize::from(*slot == EMPTY);
            *slot = number;
        }
    }

    /// Where this digest is, or would go.
    fn slot<'a>(&self, digest: &Digest, digest_of: &impl Fn(u32) -> &'a Digest) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let start = digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)) as usize;
        let places = (0..self.slots.len()).map(|step| start.wrapping_add(step) & mask);
        places.into_iter().find(|place| match self.slots.get(*place) {
            Some(&EMPTY) | None => true,
            Some(&number) => digest_of(number) == digest,
        })
    }

    fn grow<'a>(&mut self, digest_of: &impl Fn(u32) -> &'a Digest) {
        let larger = vec![EMPTY; (self.slots.len() * 2).max(64)];
        let numbers = std::mem::replace(&mut self.slots, larger);
        for number in numbers.into_iter().filter(|number| *number != EMPTY) {
            if let Some(slot) = self.slot(digest_of(number), digest_of)
                && let Some(slot) = self.slots.get_mut(slot)
            {
                *slot = number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_digest_is_found_and_only_those() {
        let digest = |number: u32| {
            let mut digest = [0; 32];
            // All but the last few share the bytes that choose the slot.
            digest[31] = (number >> 8) as u8;
            digest[30] = number as u8;
            digest[0] = u8::from(number.is_multiple_of(7));
            digest
        };
        let digests: Vec<Digest> = (0..5000).map(digest).collect();
        let mut index = DigestIndex::default();
        for number in 0..4000_u32 {
            assert_eq!(index.find(&digests[number as usize], |n| &digests[n as usize]), None);
            index.put(&digests[number as usize], number, |n| &digests[n as usize]);
        }
        for number in 0..5000_u32 {
            let found = index.find(&digests[number as usize], |n| &digests[n as usize]);
            assert_eq!(found, Some(number).filter(|number| *number < 4000));
        }
    }

    #[test]
    fn a_later_number_takes_the_place_of_an_earlier_one() {
        let digests = [[1; 32], [1; 32]];
        let mut index = DigestIndex::default();
        index.put(&digests[0], 0, |n| &digests[n as usize]);
        index.put(&digests[1], 1, |n| &digests[n as usize]);
        assert_eq!(index.find(&[1; 32], |n| &digests[n as usize]), Some(1));
        assert_eq!(index.used, 1);
    }
}
