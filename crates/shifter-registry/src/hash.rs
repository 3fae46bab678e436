//! Digests while bytes pass by, by either allowed hash function.

use ring::digest::{Context, SHA256, SHA512};
use shifter_core::digest::{Algorithm, Digest};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};

/// A running digest.
pub(crate) struct Hasher {
    algorithm: Algorithm,
    context: Context,
}

impl Hasher {
    /// A new one for `algorithm`.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let context = Context::new(match algorithm {
            Algorithm::Sha256 => &SHA256,
            Algorithm::Sha512 => &SHA512,
        });
        Self { algorithm, context }
    }

    /// Takes in more bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Takes in the rest of `file`; gives its length in bytes.
    pub(crate) fn read_all(&mut self, file: &mut File) -> io::Result<u64> {
        let mut buffer = vec![0; 256 * 1024];
        let mut length = 0;
        loop {
            let count = file.read(&mut buffer)?;
            match buffer.get(..count) {
                Some([]) | None => return Ok(length),
                Some(bytes) => self.update(bytes),
            }
            length += count as u64;
        }
    }

    /// The digest as text, `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        let digest = self.context.finish();
        digest.as_ref().iter().fold(format!("{}:", self.algorithm.name()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Digest of `bytes` by the algorithm of `like`, as text.
pub(crate) fn digest_like(like: &Digest, bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(like.algorithm());
    hasher.update(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_equal_the_published_vectors() {
        // FIPS 180-4 examples for "abc".
        for (algorithm, start) in [
            (Algorithm::Sha256, "sha256:ba7816bf8f01cfea414140de5dae2223"),
            (Algorithm::Sha512, "sha512:ddaf35a193617abacc417349ae204131"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert!(hasher.finish().starts_with(start));
        }
    }
}
