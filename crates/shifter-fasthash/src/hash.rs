//! The two digests of a file: the original's identifier, made of samples, and that of all its bytes.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};
use shifter_core::fasthash::sample_offsets;

/// The identifier that the original gives to a file of so many bytes: 64 hexadecimal digits.
///
/// # Errors
/// What reading gives; `UnexpectedEof` where the file is shorter.
pub fn fasthash(file: &File, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut sample = Vec::new();
    for (offset, length) in sample_offsets(size) {
        sample.resize(length, 0);
        file.read_exact_at(&mut sample, offset)?;
        hash.update(&sample);
    }
    Ok(hex(hash))
}

/// Copies exactly so many bytes: their sha256, 64 hexadecimal digits.
///
/// # Errors
/// What reading and writing give; `UnexpectedEof` where there are fewer.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write, size: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match from.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        hash.update(bytes);
        to.write_all(bytes)?;
        left -= count as u64;
    }
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_file_has_the_original_s_identifier_and_its_whole_digest() {
        let digest = "ff68165577eb209adcfa2f793476a25da637142283409d6f4d8d61ee042c5e63";
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(copy(&mut &b"blah blah hash, and more"[..], &mut file, 14).unwrap(), digest);
        assert_eq!(fasthash(&file, 14).unwrap(), digest);
        file.set_len(512 << 20).unwrap();
        file.write_at(&[0; 14], 0).unwrap();
        let zeros = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
        assert_eq!(fasthash(&file, 512 << 20).unwrap(), zeros);
        let short = copy(&mut &b"short"[..], &mut io::sink(), 6).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(fasthash(&tempfile::tempfile().unwrap(), 1).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
