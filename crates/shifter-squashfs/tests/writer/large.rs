//! Half a million entries in little memory, and an image of more than 4 GiB. The second needs 9 GB of disk
//! and a minute, so it is run by `cargo test -- --ignored` only.

use shifter_squashfs::writer::{Attributes, Codec, Encoder, Settings};

use crate::check::{check_kernel, in_own_namespace};
use crate::content::{Content, Random};
use crate::model::{Body, Place, Tree};

/// The most memory this process had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn half_a_million_entries_take_little_memory() {
    // In a process of its own, whose peak is this test's.
    in_own_namespace("large::half_a_million_entries_take_little_memory", || {
        const FILES: u32 = 500_000;
        const PER_FOLDER: u32 = 500;
        let place = Place::new();
        let mut writer = place.create("image", &Settings::default());
        writer.begin_segment().unwrap();
        let mut written = Vec::new();
        for number in 0..FILES {
            let bytes = format!("the contents of file number {number}, which nobody else has");
            written.push(writer.file(bytes.len() as u64, true, &mut bytes.as_bytes()).unwrap());
        }
        writer.end_segment().unwrap();
        let mut tables = writer.tables().unwrap();
        let plain = Attributes { mode: 0o755, ..Attributes::default() };
        let folders = FILES / PER_FOLDER;
        let mut entries = Vec::new();
        let mut number = 1 + folders;
        for folder in 0..folders {
            let mut names = Vec::new();
            for file in 0..PER_FOLDER {
                number += 1;
                let data = written[(folder * PER_FOLDER + file) as usize];
                names.push((format!("file-{file:04}"), tables.file(number, data, &plain, 1).unwrap()));
            }
            entries.push((
                format!("folder-{folder:05}"),
                tables.directory(2 + folder, 1, &plain, names).unwrap(),
            ));
        }
        let root = tables.directory(1, 1, &plain, entries).unwrap();
        let summary = tables.finish(root).unwrap();
        assert_eq!(summary.inodes, FILES + folders + 1);
        let peak = peak();
        println!("{} inodes: {peak} KiB at most", summary.inodes);
        assert!(peak < 80 * 1024, "{peak} KiB");
        let mounted = crate::check::Mounted::new(&place.path("image"));
        for number in (0..FILES).step_by(9973) {
            let path = format!("folder-{:05}/file-{:04}", number / PER_FOLDER, number % PER_FOLDER);
            let expected = format!("the contents of file number {number}, which nobody else has");
            assert_eq!(std::fs::read_to_string(mounted.0.join(path)).unwrap(), expected);
        }
    });
}

#[test]
#[ignore = "needs 9 GB of disk and a minute; cargo xtask soak large runs it"]
fn data_beyond_four_gibibytes_of_image_reads_back() {
    in_own_namespace("large::data_beyond_four_gibibytes_of_image_reads_back", || {
        let mut tree = Tree::new();
        let noise = std::sync::Arc::new(Random(1).bytes(64 << 20));
        for number in 0..66_u64 {
            // Different by one byte at the end of each block of 1 MiB.
            let mut bytes = noise.as_ref().clone();
            bytes.chunks_mut(1 << 20).for_each(|block| block[5] ^= number as u8);
            tree.add(0, format!("{number}"), Body::File(Content::of(bytes)));
        }
        let last = tree.file(0, "tail", Random(2).bytes(1000));
        tree.nodes[last].mode = 0o600;
        let encoder = Encoder { block_size: 1 << 20, ..Encoder::new(Codec::None) };
        let place = Place::new();
        let summary = place.write("image", &tree, &Settings { encoder, ..Settings::default() });
        assert!(summary.bytes_used > 4 << 30);
        check_kernel(&place.path("image"), &tree, 1 << 20);
    });
}
