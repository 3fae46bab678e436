//! The identifier of imported images: SHA-256 over 1 MiB samples taken every 512 MiB.
//!
//! Kept exactly, because existing image directories are full of these identifiers. It is *not* collision
//! resistant (bytes outside the samples are invisible): never take it as proof of content. This module only
//! says which bytes are sampled; whoever reads the file hashes them.

/// Bytes in a sample.
const SAMPLE: u64 = 1 << 20;
/// Distance between the starts of samples.
const STRIDE: u64 = 512 << 20;

/// Offsets and lengths, in bytes, of the samples of a file of `file_size` bytes, in hashing order.
pub fn sample_offsets(file_size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..)
        .map(|n: u64| n.saturating_mul(STRIDE))
        .take_while(move |offset| *offset < file_size)
        .map(move |offset| (offset, SAMPLE.min(file_size - offset) as usize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// A file that is zero but for the given bytes.
    fn hash(size: u64, content: &[(u64, &[u8])]) -> String {
        let mut hasher = Sha256::new();
        for (offset, length) in sample_offsets(size) {
            let mut sample = vec![0u8; length];
            for (at, bytes) in content {
                for (i, byte) in bytes.iter().enumerate() {
                    if let Some(slot) =
                        (at + i as u64).checked_sub(offset).and_then(|p| sample.get_mut(p as usize))
                    {
                        *slot = *byte;
                    }
                }
            }
            hasher.update(&sample);
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn identifiers_equal_the_originals() {
        const MIB: u64 = 1 << 20;
        let zeros = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
        for (size, content, expected) in [
            (0, vec![], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (
                14,
                vec![(0, &b"blah blah hash"[..])],
                "ff68165577eb209adcfa2f793476a25da637142283409d6f4d8d61ee042c5e63",
            ),
            (MIB, vec![], zeros),
            (MIB + 1, vec![], zeros),
            (512 * MIB, vec![], zeros),
            (
                512 * MIB + 3,
                vec![(512 * MIB, &b"abc"[..])],
                "3b6404689f6fb3b40515a0385428aa00378bf8008a3ba2ba2ea03a2209fc80b7",
            ),
            (
                1025 * MIB,
                vec![(0, &b"A"[..]), (512 * MIB, &b"B"[..]), (1024 * MIB, &b"C"[..])],
                "e471393bf43de0be4f93f46338688eabbfaa6e6bc796d1b4a0d756c1c1a91214",
            ),
        ] {
            assert_eq!(hash(size, &content), expected, "{size} bytes");
        }
    }
}
