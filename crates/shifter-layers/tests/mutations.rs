//! Thousands of slightly damaged layers: whatever the bytes, the answer is a merged stream or an error,
//! never a panic, an endless loop or a stream that breaks its own rules. The seeds are fixed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Random, dir, file, hard, header, item, listing, merge_tars, mode, symlink, tar_of, with_pax};
use shifter_layers::Limits;

fn base() -> Vec<u8> {
    let mut sparse = header(b'S', b"sparse", b"", 0o644, 512);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.set_real_size(4096);
    gnu.sparse[0].set_offset(1024);
    gnu.sparse[0].set_length(512);
    sparse.set_cksum();
    [
        common::block(&sparse, &[9; 512]),
        with_pax(&[("path", b"pax/name"), ("size", b"3"), ("mtime", b"1.5")], &file("p", "abc")),
        tar_of(&[
            dir("d"),
            file("d/f", "contents"),
            hard("d/g", "d/f"),
            symlink("s", "d"),
            mode(file("x".repeat(150), "long"), 0o4755),
            file("d/.wh..wh..opq", ""),
            file(".wh.old", ""),
            item(b'3', "device", "", 0, ""),
            file("dev/null", ""),
        ]),
    ]
    .concat()
}

/// Makes the checksums of all plausible headers right, so that damage gets past the first check.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn damaged_layers_never_panic_and_never_yield_a_bad_stream() {
    let below = tar_of(&[dir("d"), file("d/old", "1"), file("old", "1"), symlink("pax", "d")]);
    let limits = Limits { uncompressed_bytes: 1 << 20, entries: 1000, ..Limits::default() };
    let base = base();
    let interesting =
        [0, b'.', b'/', b'0', b'5', b'7', b'9', 0x80, 0xff, b'\n', b'=', b'x', b'L', b'S', b'1'];
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..2000 {
        let mut random = Random(seed);
        let mut tar = base.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(tar.len());
            match random.below(5) {
                0 => tar[at] = interesting[random.below(interesting.len())],
                1 => tar[at] ^= 1 << random.below(8),
                // Most of a tar is padding; aim at the first bytes of a block, or at its type.
                2 => tar[at / 512 * 512 + random.below(12)] = interesting[random.below(interesting.len())],
                3 => tar[at / 512 * 512 + 156] = interesting[random.below(interesting.len())],
                _ => {
                    let from = random.below(tar.len()) / 512 * 512;
                    let block: Vec<u8> = tar[from..from + 512].to_vec();
                    tar.splice(at / 512 * 512..at / 512 * 512, block);
                }
            }
        }
        if random.below(20) == 0 {
            tar.truncate(random.below(tar.len()));
        }
        if random.below(4) > 0 {
            mend(&mut tar);
        }
        match merge_tars(&[below.clone(), tar], &limits) {
            Ok((stream, summary)) => {
                accepted += 1;
                let lines = listing(&stream).len() as u64;
                let counted = summary.directories + summary.files + summary.symlinks + summary.hard_links;
                assert_eq!(lines, counted, "seed {seed}");
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains(char::is_control), "seed {seed}");
            }
        }
    }
    // Otherwise the damage is too mild or too heavy to try anything.
    assert!(accepted > 250 && refused > 250, "{accepted} accepted, {refused} refused");
}
