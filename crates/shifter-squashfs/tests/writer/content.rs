//! What files hold: islands of bytes in a sea of zeros, so that terabytes can be described. And numbers that
//! are random enough, and the same for the same seed.

use std::io::Read;
use std::sync::Arc;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `end`, without it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    /// Bytes that compress about as text does.
    pub fn text(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 16);
        while bytes.len() < count {
            let word = self.below(500);
            bytes.extend_from_slice(format!("{:x} ", word * word * 7919).as_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size: u64,
    /// Offset and bytes, in order and apart.
    pub islands: Vec<(u64, Arc<Vec<u8>>)>,
}

impl Content {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, islands: vec![(0, Arc::new(bytes))] }
    }

    pub fn zeros(size: u64) -> Self {
        Self { size, islands: Vec::new() }
    }

    pub fn reader(&self) -> Reader<'_> {
        Reader { content: self, at: 0, island: 0 }
    }

    /// Bytes of blocks that are nothing but zeros, the end of the file aside.
    pub fn sparse(&self, block: u64) -> u64 {
        let mut reader = self.reader();
        let mut zeros = 0;
        for number in 0..self.size / block {
            if self
                .islands
                .iter()
                .all(|(at, b)| *at >= (number + 1) * block || at + b.len() as u64 <= number * block)
            {
                zeros += block;
                reader.at = (number + 1) * block;
                continue;
            }
            let mut bytes = vec![0; block as usize];
            reader.at = number * block;
            reader.island = 0;
            reader.read_exact(&mut bytes).unwrap();
            zeros += if bytes.iter().all(|byte| *byte == 0) { block } else { 0 };
        }
        zeros
    }
}

pub struct Reader<'a> {
    content: &'a Content,
    at: u64,
    island: usize,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Content { size, islands } = self.content;
        while islands.get(self.island).is_some_and(|(at, bytes)| at + bytes.len() as u64 <= self.at) {
            self.island += 1;
        }
        let (start, bytes) = islands.get(self.island).map_or((*size, &[][..]), |(at, bytes)| (*at, bytes));
        let count;
        if self.at < start {
            count = buffer.len().min((start - self.at).min(1 << 30) as usize);
            buffer[..count].fill(0);
        } else {
            let rest = &bytes[(self.at - start).min(bytes.len() as u64) as usize..];
            // In odd pieces, as a decompressor gives them.
            count = buffer.len().min(rest.len()).min(70_001);
            buffer[..count].copy_from_slice(&rest[..count]);
        }
        self.at += count as u64;
        Ok(count)
    }
}
