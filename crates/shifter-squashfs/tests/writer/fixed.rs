//! Trees chosen for the format's edges.

use std::path::Path;

use shifter_squashfs::Superblock;
use shifter_squashfs::writer::{Codec, Encoder, Settings, Special};

use crate::check::{Mounted, check_image, check_kernel, in_own_namespace};
use crate::content::{Content, Random};
use crate::model::{Body, Place, Tree};

const CODECS: [Codec; 5] = [Codec::Zstd, Codec::Gzip, Codec::Lz4, Codec::Xz, Codec::None];

fn settings(codec: Codec, block_size: u32) -> Settings {
    Settings { encoder: Encoder { block_size, ..Encoder::new(codec) }, workers: 2, modified: 1_700_000_000 }
}

fn small_blocks() -> Settings {
    settings(Codec::Zstd, 4096)
}

/// Files of every size around the edges of blocks: of text, noise, zeros, and zeros between noise.
fn sizes(block: u64) -> Tree {
    let mut tree = Tree::new();
    let mut random = Random(block);
    let sizes =
        [0, 1, 2, block - 1, block, block + 1, 2 * block - 1, 2 * block, 2 * block + 1, 5 * block + 7];
    for size in sizes {
        tree.file(0, format!("text-{size}"), random.text(size as usize));
        tree.file(0, format!("noise-{size}"), random.bytes(size as usize));
        tree.add(0, format!("zeros-{size}"), Body::File(Content::zeros(size)));
        let mut islands = random.bytes(size as usize);
        for (at, byte) in islands.iter_mut().enumerate() {
            *byte = if (at as u64 / block) % 2 == 1 { 0 } else { *byte };
        }
        tree.file(0, format!("islands-{size}"), islands);
    }
    tree
}

#[test]
fn files_of_every_codec_and_block_size_read_back() {
    in_own_namespace("fixed::files_of_every_codec_and_block_size_read_back", || {
        for codec in CODECS {
            for shift in [12, 13, 16, 17, 20] {
                let place = Place::new();
                let tree = sizes(1 << shift);
                place.write("image", &tree, &settings(codec, 1 << shift));
                check_image(&place.path("image"), &tree, 1 << shift);
            }
        }
    });
}

#[test]
fn every_level_reads_back_and_shows_in_the_options() {
    in_own_namespace("fixed::every_level_reads_back_and_shows_in_the_options", || {
        for codec in CODECS {
            let (lowest, _, highest) = codec.levels();
            for level in [lowest, highest] {
                let place = Place::new();
                let tree = sizes(65_536);
                let encoder = Encoder { codec, level, block_size: 65_536 };
                place.write("image", &tree, &Settings { encoder, ..Settings::default() });
                check_image(&place.path("image"), &tree, 65_536);
                let path = place.path("image");
                let shown = crate::check::run("unsquashfs", &["-stat".as_ref(), path.as_os_str()]);
                let shown = String::from_utf8_lossy(&shown).into_owned();
                let expected = match codec {
                    Codec::Zstd | Codec::Gzip if level != 9 => {
                        format!("Compression {codec}\n\tcompression-level {level}")
                    }
                    Codec::None => "Compression gzip".into(),
                    codec => format!("Compression {codec}"),
                };
                assert!(shown.contains(&expected), "{codec} {level}: {shown}");
            }
        }
    });
}

#[test]
fn the_superblock_says_what_was_asked_for() {
    let place = Place::new();
    let summary = place.write("image", &sizes(4096), &small_blocks());
    let bytes = place.bytes("image");
    assert_eq!(bytes.len() % 4096, 0);
    assert!(bytes.len() as u64 - summary.bytes_used < 4096);
    let superblock = Superblock::read(&std::fs::File::open(place.path("image")).unwrap()).unwrap();
    assert_eq!(superblock.bytes_used, summary.bytes_used);
    assert_eq!((superblock.inodes, superblock.block_size, superblock.compressor), (41, 4096, 6));
    assert_eq!(summary.inodes, 41);
    assert_eq!(bytes[8..12], 1_700_000_000_u32.to_le_bytes());
}

#[test]
fn inodes_across_metadata_blocks_read_back() {
    in_own_namespace("fixed::inodes_across_metadata_blocks_read_back", || {
        // Block lists from a few bytes to several metadata blocks, so that inodes begin and end everywhere.
        let mut tree = Tree::new();
        let mut random = Random(7);
        for number in 0..400_u64 {
            let blocks = if number % 50 == 0 { 5000 + number } else { random.below(40) };
            let mut content = Content::zeros(blocks * 4096 + random.below(4096));
            if content.size > 20_000 {
                content.islands.push((8192, std::sync::Arc::new(random.text(5000))));
            }
            tree.add(0, format!("{number}"), Body::File(content));
            let target = vec![b'x'; 1 + random.below(900) as usize];
            tree.add(0, format!("link-{number}"), Body::Symlink(target));
        }
        let longest = vec![b'y'; 4095];
        tree.add(0, "longest", Body::Symlink(longest));
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        check_image(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn directories_around_every_limit_of_a_header_read_back() {
    in_own_namespace("fixed::directories_around_every_limit_of_a_header_read_back", || {
        for (entries, length) in
            [(1, 1), (255, 4), (256, 4), (257, 4), (512, 5), (513, 5), (300, 20), (600, 250), (3000, 100)]
        {
            let mut tree = Tree::new();
            let mut random = Random(entries + length);
            for directory in 0..4 {
                let folder = tree.directory(0, format!("d{directory}"));
                for number in 0..entries {
                    let name = format!("{number:0width$}", width = length as usize);
                    let body = match random.below(3) {
                        0 => Body::Symlink(b"/target".to_vec()),
                        1 => Body::Special(Special::Fifo),
                        _ => Body::File(Content::of(name.clone().into_bytes())),
                    };
                    tree.add(folder, name, body);
                }
            }
            let place = Place::new();
            place.write("image", &tree, &small_blocks());
            check_image(&place.path("image"), &tree, 4096);
        }
    });
}

#[test]
fn links_to_distant_inodes_read_back() {
    in_own_namespace("fixed::links_to_distant_inodes_read_back", || {
        // More inodes between two neighbors of a directory than an entry can tell the distance of.
        let mut tree = Tree::new();
        let far = tree.directory(0, "a");
        let first = tree.file(far, "first", b"first".to_vec());
        for number in 0..33_000 {
            tree.add(far, format!("n{number}"), Body::Special(Special::Socket));
        }
        let last = tree.file(far, "z", b"last".to_vec());
        let mixed = tree.directory(0, "b");
        for number in 0..50 {
            tree.link(mixed, format!("{number}-first"), first);
            tree.link(mixed, format!("{number}-last"), last);
        }
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        check_kernel(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn names_may_be_any_bytes() {
    in_own_namespace("fixed::names_may_be_any_bytes", || {
        let mut tree = Tree::new();
        for byte in (1..=255_u8).filter(|byte| *byte != b'/' && *byte != b'.') {
            tree.file(0, [byte], vec![byte]);
            tree.file(0, [b'x', byte, 0xff], vec![byte, byte]);
            let folder = tree.directory(0, [byte; 100]);
            tree.file(folder, [byte; 255], vec![byte; 3]);
        }
        tree.file(0, "...", b"dots".to_vec());
        tree.file(0, "größe-\u{65e5}\u{672c}", b"words".to_vec());
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        check_image(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn names_of_256_bytes_are_found_by_the_kernel() {
    in_own_namespace("fixed::names_of_256_bytes_are_found_by_the_kernel", || {
        let mut tree = Tree::new();
        for byte in b'a'..=b'z' {
            for length in [254, 255, 256] {
                tree.file(0, vec![byte; length], vec![byte; length]);
            }
        }
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        // Other file systems hold 255 bytes at most, so unsquashfs cannot unpack this.
        check_kernel(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn deep_trees_read_back() {
    in_own_namespace("fixed::deep_trees_read_back", || {
        let mut tree = Tree::new();
        let mut folder = 0;
        for depth in 0..1900 {
            folder = tree.directory(folder, "d");
            tree.file(folder, "f", format!("{depth}").into_bytes());
        }
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        check_image(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn special_files_owners_modes_and_times_read_back() {
    in_own_namespace("fixed::special_files_owners_modes_and_times_read_back", || {
        let mut tree = Tree::new();
        let bodies = [
            Body::Special(Special::BlockDevice { major: 8, minor: 1 }),
            Body::Special(Special::CharacterDevice { major: 4095, minor: 1_048_575 }),
            Body::Special(Special::Fifo),
            Body::Special(Special::Socket),
            Body::File(Content::of(b"x".to_vec())),
            Body::Directory(Default::default()),
        ];
        for (number, body) in bodies.into_iter().enumerate() {
            for mode in [0, 0o7777, 0o4755, 0o2640, 0o1777] {
                let node = tree.add(0, format!("{number}-{mode:o}"), body.clone());
                let node = &mut tree.nodes[node];
                node.mode = mode;
                (node.uid, node.gid) = (u32::from(mode) * 1_000_000, u32::MAX - 1 - u32::from(mode));
                node.mtime = if mode == 0 { 0 } else { u32::MAX / (number as u32 + 1) };
            }
        }
        let linked = tree.add(0, "linked", Body::Special(Special::Fifo));
        tree.link(0, "linked-too", linked);
        let link = tree.add(0, "link", Body::Symlink(b"\xff\x01".to_vec()));
        tree.link(0, "link-too", link);
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        check_image(&place.path("image"), &tree, 4096);
    });
}

#[test]
fn extended_attributes_of_all_kinds_read_back() {
    in_own_namespace("fixed::extended_attributes_of_all_kinds_read_back", || {
        let mut tree = Tree::new();
        let mut random = Random(3);
        // As ping has: version 2, effective, permitted CAP_NET_RAW (struct vfs_cap_data).
        let capability = [&[1, 0, 0, 2, 0, 0x20], &[0; 14][..]].concat();
        let long_name = [&b"user."[..], &[b'n'; 250]].concat();
        let sets: [Vec<(Vec<u8>, Vec<u8>)>; 5] = [
            vec![(b"user.empty".to_vec(), Vec::new())],
            vec![(b"trusted.a".to_vec(), b"1".to_vec()), (b"security.b".to_vec(), b"2".to_vec())],
            vec![(b"security.capability".to_vec(), capability), (long_name, random.bytes(100))],
            // More than a metadata block, on the root too.
            vec![(b"trusted.large".to_vec(), random.bytes(60_000))],
            (0..30).map(|number| (format!("trusted.{number}").into_bytes(), random.text(300))).collect(),
        ];
        tree.nodes[0].xattrs.clone_from(&sets[3]);
        for (number, set) in sets.iter().enumerate() {
            let bodies = [
                Body::File(Content::of(b"x".to_vec())),
                Body::File(Content::zeros(10_000)),
                Body::Directory(Default::default()),
                Body::Symlink(b"target".to_vec()),
                Body::Special(Special::Fifo),
                Body::Special(Special::BlockDevice { major: 1, minor: 2 }),
            ];
            for (kind, body) in bodies.into_iter().enumerate() {
                // Only files and directories may have attributes in "user." on Linux.
                let user = set.iter().any(|(name, _)| name.starts_with(b"user."));
                let node = tree.add(0, format!("{number}-{kind}"), body);
                if kind < 3 || !user {
                    tree.nodes[node].xattrs.clone_from(set);
                }
            }
        }
        let place = Place::new();
        place.write("image", &tree, &small_blocks());
        // The file systems under temporary directories seldom hold that much for one file.
        check_kernel(&place.path("image"), &tree, 4096);
        for node in &mut tree.nodes {
            let bytes: usize = node.xattrs.iter().map(|(_, value)| value.len()).sum();
            node.xattrs.retain(|_| bytes < 1000);
        }
        place.write("small", &tree, &small_blocks());
        check_image(&place.path("small"), &tree, 4096);
    });
}

#[test]
fn files_beyond_four_gibibytes_read_back() {
    in_own_namespace("fixed::files_beyond_four_gibibytes_read_back", || {
        let mut tree = Tree::new();
        let mut random = Random(9);
        let around: u64 = 4 << 30;
        for (name, size) in [
            ("above", around + 5),
            ("more", 5 << 30),
            ("below", around - 1),
            ("at", around),
            ("next", around + 1),
        ] {
            let mut content = Content::zeros(size);
            for at in [0, (3 << 30) + 12_345, size - 4_000] {
                content.islands.push((at, std::sync::Arc::new(random.text(4_000))));
            }
            tree.add(0, name, Body::File(content));
        }
        tree.add(0, "nothing", Body::File(Content::zeros(6 << 30)));
        let place = Place::new();
        place.write("image", &tree, &settings(Codec::Zstd, 1 << 20));
        check_image(&place.path("image"), &tree, 1 << 20);
        assert!(place.bytes("image").len() < 300_000);
    });
}

/// Seconds that this process has computed, also in the kernel (proc_pid_stat(5), fields 14 and 15): other work on the
/// machine does not count.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = text.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

#[test]
fn seventy_thousand_names_in_a_directory_are_found_at_once() {
    in_own_namespace("fixed::seventy_thousand_names_in_a_directory_are_found_at_once", || {
        let mut tree = Tree::new();
        let folder = tree.directory(0, "many");
        for number in 0..70_000 {
            tree.file(
                folder,
                format!("file-with-a-longer-name-{number}.txt"),
                format!("{number}").into_bytes(),
            );
        }
        let place = Place::new();
        place.write("image", &tree, &Settings::default());
        let mounted = Mounted::new(&place.path("image"));
        let used = processor_time();
        for number in 0..70_000 {
            let path = mounted.0.join(format!("many/file-with-a-longer-name-{number}.txt"));
            let found = std::fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(found.len(), number.to_string().len() as u64);
        }
        let used = processor_time() - used;
        println!("70,000 lookups: {used} s of processor time");
        // Without an index it takes minutes.
        assert!(used < 30.0, "70,000 lookups took {used} s of processor time");
        assert!(std::fs::symlink_metadata(mounted.0.join("many/file-with-a-longer-name-x")).is_err());
        drop(mounted);
        check_image(&place.path("image"), &tree, 131_072);
    });
}

#[test]
fn seventy_thousand_hard_links_read_back() {
    in_own_namespace("fixed::seventy_thousand_hard_links_read_back", || {
        let mut tree = Tree::new();
        let file = tree.file(0, "file", b"one for all".to_vec());
        let write_names = |tree: &mut Tree, names: u32, check: fn(&Path, &Tree, u32)| {
            for number in tree.links()[file]..names {
                tree.link(0, format!("link-{number}"), file);
            }
            let place = Place::new();
            let summary = place.write("image", tree, &Settings::default());
            assert_eq!(summary.inodes, 2);
            check(&place.path("image"), tree, 131_072);
        };
        // ext4, where temporary directories may lie, has 65,000 names for a file at most.
        write_names(&mut tree, 65_000, check_image);
        write_names(&mut tree, 70_000, check_kernel);
    });
}

#[test]
fn the_number_of_threads_never_changes_the_image() {
    let mut tree = sizes(65_536);
    let mut random = Random(11);
    for number in 0..60 {
        let size = random.below(400_000) as usize;
        tree.file(0, format!("more-{number}"), random.text(size));
    }
    for codec in CODECS {
        let place = Place::new();
        for workers in [1, 4, 0] {
            let settings = Settings { workers, ..settings(codec, 65_536) };
            place.write(&format!("{workers}"), &tree, &settings);
        }
        assert!(place.bytes("1") == place.bytes("4"), "{codec}");
        assert!(place.bytes("1") == place.bytes("0"), "{codec}");
    }
}
