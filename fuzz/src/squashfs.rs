//! The reader of users' squashfs images: whatever the bytes are, it ends within its limits and without panic. Inputs
//! are changes to a good image, since bytes alone would hardly ever get past the superblock.

// The image and the reading of all of it are those of the reader's own tests.
#[path = "../../crates/shifter-squashfs/tests/reader/craft.rs"]
mod craft;
#[path = "../../crates/shifter-squashfs/tests/reader/whole.rs"]
mod whole;

use bolero::check;
use shifter_squashfs::reader::Limits;

const LIMITS: Limits = Limits {
    entries: 1000,
    all_names_bytes: 10_000,
    path_bytes: 200,
    name_bytes: 50,
    depth: 8,
    uncompressed_bytes: 1 << 24,
    ratio: 1000,
    ratio_free_bytes: 1 << 20,
    xattr_bytes: 1000,
};

/// Five bytes are one change: where (two), how wide, and what.
fn change(image: &mut [u8], step: &[u8]) {
    let &[low, high, how, first, second] = step else { return };
    let at = usize::from(u16::from_le_bytes([low, high])) % image.len();
    let word = match how >> 4 {
        0..8 => u64::from(u16::from_le_bytes([first, second])),
        8..12 => u64::MAX - u64::from(first),
        _ => u64::from(first) << (second % 64),
    };
    let width = [1, 2, 4, 8][usize::from(how) % 4].min(image.len() - at);
    image[at..at + width].copy_from_slice(&word.to_le_bytes()[..width]);
}

/// Reads all, and looks at what comes of it: a whole, or a sentence.
fn read(image: &[u8]) {
    if let Err(error) = whole::read_whole(image, &LIMITS) {
        let sentence = error.to_string();
        assert!(sentence.starts_with("squashfs image, ") && sentence.len() < 1000, "{sentence}");
    }
}

#[test]
fn changed_squashfs_images_are_read_or_refused_within_their_limits() {
    let good = craft::Craft::good();
    let inodes = good.place("inodes");
    whole::read_whole(good.bytes.as_slice(), &LIMITS).expect("the image is good");
    check!().for_each(|bytes: &[u8]| {
        let mut image = good.bytes.clone();
        bytes.chunks(5).for_each(|step| change(&mut image, step));
        read(&image);
        // The same where only tables are changed, which gets further.
        let mut image = good.bytes.clone();
        bytes.chunks(5).for_each(|step| change(&mut image[inodes..], step));
        read(&image);
        let _cut = image.split_off(image.len() - bytes.len().min(image.len()) / 8);
        let length = image.len() as u64;
        if let Some(field) = image.get_mut(40..48) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        read(&image);
    });
}

#[test]
fn any_bytes_behind_a_superblock_are_read_or_refused() {
    let good = craft::Craft::good();
    check!().for_each(|bytes: &[u8]| {
        read(bytes);
        let mut image = good.bytes[..96].to_vec();
        image.extend_from_slice(bytes);
        image.resize(good.bytes.len().max(image.len()), 0);
        read(&image);
        // Compressed data of each kind, read as the table of ids and as a file's first block.
        for compressor in [1, 4, 5, 6] {
            let mut image = good.clone().with("super.compressor", &[compressor, 0]);
            let (ids, length) = (image.place("ids"), bytes.len().min(8));
            image.bytes[ids..ids + 2].copy_from_slice(&8_u16.to_le_bytes());
            image.bytes[ids + 2..ids + 2 + length].copy_from_slice(&bytes[..length]);
            read(&image.bytes);
            let (data, length) = (good.place("data"), bytes.len().min(28));
            let mut image = good.clone().with("super.compressor", &[compressor, 0]);
            image.bytes[data..data + length].copy_from_slice(&bytes[..length]);
            read(&image.bytes);
        }
    });
}
