//! Images that nobody should make: each is refused with a sentence that says where and why.

use std::fs::{self, File};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use shifter_squashfs::reader::{Category, Image, Limits};

use crate::craft::Craft;
use crate::tree::mksquashfs;
use crate::whole::{Whole, read_whole};

/// Enough for the good image, and little else.
const SMALL: Limits = Limits {
    entries: 100,
    all_names_bytes: 1000,
    path_bytes: 100,
    name_bytes: 20,
    depth: 5,
    uncompressed_bytes: 100_000,
    ratio: 100,
    ratio_free_bytes: 1 << 20,
    xattr_bytes: 100,
};

/// What is said of the image, without the beginning that all sentences share.
fn refusal(image: &Craft, limits: &Limits) -> Option<String> {
    let begun = Instant::now();
    let error = read_whole(image.bytes.as_slice(), limits).err()?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{error}: took {:?}", begun.elapsed());
    let text = error.to_string();
    Some(text.strip_prefix("squashfs image, ").expect("all begin so").to_owned())
}

fn told(whole: &Whole) -> Vec<String> {
    whole
        .entries
        .values()
        .map(|(entry, xattrs)| format!("{} {:?} {xattrs:?}", entry.path.escape_ascii(), entry.inode))
        .collect()
}

/// Fields and their bytes, and what is said.
type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a str);

/// Compares what is said of each row.
pub(crate) fn check(table: &[Row]) {
    let mut wrong = Vec::new();
    for (fields, expected) in table {
        let image = fields.iter().fold(Craft::good(), |image, (field, bytes)| image.with(field, bytes));
        let found = refusal(&image, &SMALL).unwrap_or_else(|| "no refusal".to_owned());
        if found != *expected {
            wrong.push(format!("{fields:?}:\n  found    {found}\n  expected {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.concat());
}

#[test]
fn the_image_that_all_others_spoil_is_good() {
    let whole = read_whole(Craft::good().bytes.as_slice(), &SMALL).unwrap();
    let paths: Vec<String> = whole.entries.keys().map(|path| path.escape_ascii().to_string()).collect();
    assert_eq!(paths, ["", "a", "b", "d", "d/s", "d/x", "n"]);
    assert_eq!((whole.bytes, whole.held), (9012, 4916));
    let (_, xattrs) = &whole.entries[b"n".as_slice()];
    let xattrs: Vec<_> = xattrs.iter().map(|x| (x.name.as_slice(), x.value.as_slice())).collect();
    assert_eq!(xattrs, [(b"user.k".as_slice(), b"value".as_slice()), (b"security.s", b"value")]);
}

#[test]
fn every_bit_of_the_superblock_is_refused_or_means_nothing() {
    let good = Craft::good();
    let expected = told(&read_whole(good.bytes.as_slice(), &SMALL).unwrap());
    for byte in 0..96 {
        for bit in 0..8 {
            let mut image = good.clone();
            image.bytes[byte] ^= 1 << bit;
            match read_whole(image.bytes.as_slice(), &SMALL) {
                Err(error) => assert!(error.to_string().len() < 300, "{error}"),
                // The time, the flags, and nothing else.
                Ok(whole) => {
                    assert_eq!(told(&whole), expected, "byte {byte} bit {bit}");
                    assert!((8..12).contains(&byte) || (24..26).contains(&byte), "byte {byte} bit {bit}");
                }
            }
        }
    }
}

#[test]
fn images_cut_anywhere_are_refused() {
    let good = Craft::good();
    for length in 0..good.bytes.len() {
        let mut cut = good.clone();
        cut.bytes.truncate(length);
        let said = refusal(&cut, &SMALL).unwrap_or_else(|| panic!("cut at {length}: read"));
        assert!(said.contains("cut off"), "{length}: {said}");
        // And one that admits its length.
        if length >= 96 {
            let said = refusal(&cut.with("super.length", &(length as u64).to_le_bytes()), &SMALL);
            let said = said.unwrap_or_else(|| panic!("cut at {length}: read"));
            assert!(!said.contains("cannot read the file"), "{length}: {said}");
        }
    }
}

#[test]
fn each_limit_is_kept_and_says_so() {
    type Change = fn(&mut Limits, u64);
    // What the good image needs, and what is said of one less.
    let table: &[(Change, u64, &str)] = &[
        (
            |limits, value| limits.entries = value,
            6,
            "superblock at byte 4: inodes that the superblock counts: 6, more than the 5 allowed",
        ),
        (
            |limits, value| limits.all_names_bytes = value,
            10,
            "tree, for \"/n\": bytes of all names: 10, more than the 9 allowed",
        ),
        (
            |limits, value| limits.path_bytes = value as usize,
            4,
            "inode table, block at byte 944, its byte 88, for \"/d/s\": bytes of the symlink's target: 4, more than the 3 allowed",
        ),
        (
            |limits, value| limits.name_bytes = value as usize,
            1,
            "directory table, block at byte 1170, its byte 50, for \"/\": bytes of a name: 1, more than the 0 allowed",
        ),
        (
            |limits, value| limits.depth = value as usize,
            2,
            "tree, for \"/d/s\": directories above the entry: 2, more than the 1 allowed",
        ),
        (
            |limits, value| limits.uncompressed_bytes = value,
            9012,
            "tree, for \"/d/x\": bytes of all files: 9012, more than the 9011 allowed",
        ),
        (
            |limits, value| (limits.ratio, limits.ratio_free_bytes) = (0, value),
            4916,
            "tree, for \"/d/x\": bytes of all files without holes, for an image of this size: 4916, more than the 4915 allowed",
        ),
        (
            |limits, value| (limits.ratio, limits.ratio_free_bytes) = (1, value),
            4916 - 1369,
            "tree, for \"/d/x\": bytes of all files without holes, for an image of this size: 4916, more than the 4915 allowed",
        ),
        (
            |limits, value| limits.xattr_bytes = value,
            12,
            "xattr table, block at byte 1294, its byte 9, for \"/n\": bytes of an inode's extended attributes: 12, more than the 11 allowed",
        ),
    ];
    let good = Craft::good();
    assert_eq!(good.bytes.len(), 1369);
    for (change, needed, expected) in table {
        let (mut enough, mut less) = (SMALL, SMALL);
        change(&mut enough, *needed);
        change(&mut less, needed - 1);
        assert_eq!(refusal(&good, &enough), None, "{expected}");
        assert_eq!(refusal(&good, &less).as_deref(), Some(*expected));
        let error = read_whole(good.bytes.as_slice(), &less).unwrap_err();
        assert_eq!(error.category(), Category::TooMuch);
    }
}

#[test]
fn what_is_asked_again_and_again_comes_to_an_end() {
    let good = Craft::good();
    let limits = Limits { ratio: 0, ratio_free_bytes: 4916, ..SMALL };
    let (entry, _) = &read_whole(good.bytes.as_slice(), &limits).unwrap().entries[b"a".as_slice()];
    let image = Image::open(good.bytes.as_slice(), &limits).unwrap();
    let read = |_| io::copy(&mut image.data(entry)?, &mut io::sink());
    let error = (0..100).map(read).find_map(Result::err).unwrap();
    assert_eq!(
        error.to_string(),
        "squashfs image, file data at byte 96, for \"/a\": bytes decompressed for an image of this size: 21672, more than the 19664 allowed"
    );
}

#[test]
fn many_names_of_the_same_bytes_are_a_bomb() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir(&root).unwrap();
    for number in 0..1200 {
        File::create(root.join(number.to_string())).unwrap().set_len(1 << 20).unwrap();
    }
    mksquashfs(&root, &image, &["-comp", "lz4", "-b", "1M", "-no-sparse"]);
    let length = fs::metadata(&image).unwrap().len();
    assert!(length < 100_000, "{length} bytes: mksquashfs stores equal files once");
    // Before any of it is decompressed.
    let image = Image::open(File::open(&image).unwrap(), &Limits::default()).unwrap();
    let mut walk = image.walk().unwrap();
    let error = std::iter::from_fn(|| Some(walk.next())).find_map(Result::err).unwrap();
    assert_eq!(error.category(), Category::TooMuch, "{error}");
    assert!(error.to_string().contains("bytes of all files without holes"), "{error}");
}

#[test]
fn hostile_images_are_read_within_200_mib() {
    // The other tests again, where more memory would end the process.
    let program = std::env::current_exe().unwrap();
    for tests in ["hostile_rows::", "mutated::", "hostile::each", "hostile::many"] {
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 204800; exec \"$@\"", "sh", program.to_str().unwrap()])
            .args([tests, "--test-threads=1"])
            .env("MALLOC_ARENA_MAX", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains(" 0 passed"), "{tests}: {said}");
    }
}
