//! Good images with random bytes changed: whatever comes out, it comes soon, without panic and within the limits.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use shifter_squashfs::reader::Limits;

use crate::craft::Craft;
use crate::tree::{Random, mksquashfs, noise};
use crate::whole::read_whole;

/// Of each image; a second or two in a build without optimization.
const ROUNDS: u64 = 2000;

const LIMITS: Limits = Limits {
    entries: 5000,
    all_names_bytes: 100_000,
    path_bytes: 1000,
    name_bytes: 255,
    depth: 20,
    uncompressed_bytes: 1 << 26,
    ratio: 1000,
    ratio_free_bytes: 1 << 22,
    xattr_bytes: 10_000,
};

/// Numbers at which something overflows or ends.
const EDGES: [u64; 12] =
    [0, 1, 3, 0x7f, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX];

fn mutate(image: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(3) {
        // Most of them in the superblock or in the tables behind the data.
        let at = match random.below(4) {
            0 => random.below(96),
            1 => random.below(image.len()),
            _ => image.len() - 1 - random.below(image.len().min(1500)),
        };
        let width = (1 << random.below(4)).min(image.len() - at);
        match random.below(8) {
            0..3 => image[at] ^= 1 << random.below(8),
            3 => image[at] = random.next() as u8,
            4 | 5 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                image[at..at + width].copy_from_slice(&edge[..width]);
            }
            6 => {
                let from = random.below(image.len() - width + 1);
                image.copy_within(from..from + width, at);
            }
            _ => image[at] = image[at].wrapping_add(random.next() as u8 % 17).wrapping_sub(8),
        }
    }
}

fn check(name: &str, good: &[u8]) {
    read_whole(good, &LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (mut read, mut refused) = (0, 0);
    for seed in 1..=ROUNDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut image = good.to_vec();
        mutate(&mut image, &mut random);
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| read_whole(image.as_slice(), &LIMITS)));
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}, seed {seed}: {:?}", begun.elapsed());
        match outcome {
            Ok(Ok(_)) => read += 1,
            Ok(Err(error)) => {
                refused += 1;
                assert!(error.to_string().starts_with("squashfs image, "), "{name}, seed {seed}: {error}");
            }
            Err(_) => panic!("{name}, seed {seed}: panicked"),
        }
    }
    assert!(read > ROUNDS / 100 && refused > ROUNDS / 10, "{name}: {read} read, {refused} refused");
}

#[test]
fn changed_bytes_of_a_crafted_image_never_panic() {
    check("crafted", &Craft::good().bytes);
}

#[test]
fn changed_bytes_of_real_images_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir_all(root.join("d/e")).unwrap();
    for number in 0..20_usize {
        let text = format!("content of number {number}\n").repeat(number * 3);
        fs::write(root.join(format!("d/{number}")), text).unwrap();
    }
    fs::write(root.join("noise"), noise(1, 300)).unwrap();
    fs::hard_link(root.join("noise"), root.join("d/again")).unwrap();
    std::os::unix::fs::symlink("d/0", root.join("link")).unwrap();
    rustix::fs::lsetxattr(root.join("d/1"), "user.x", b"value", XattrFlags::empty()).unwrap();
    for options in [
        "-noI -noD -noF -noX -noId",
        "-noD -noF -comp zstd",
        "-comp gzip",
        "-comp zstd",
        "-comp lz4",
        "-comp xz",
        "-comp xz -Xbcj x86,arm",
    ] {
        let words: Vec<&str> = options.split(' ').chain(["-b", "4096", "-nopad"]).collect();
        mksquashfs(&root, &image, &words);
        check(options, &fs::read(&image).unwrap());
    }
}
