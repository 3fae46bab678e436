//! Tables of so many items that their metadata blocks are just full, just not, or begin another; and fragments that
//! are.

use shifter_squashfs::writer::{Codec, Encoder, Settings, Special};

use crate::check::{check_image, check_kernel, in_own_namespace};
use crate::content::Random;
use crate::model::{Body, Place, Tree};

const BLOCK: u32 = 4096;
/// What a metadata block holds.
const METADATA: usize = 8192;

fn check(tree: &Tree) {
    let encoder = Encoder { block_size: BLOCK, ..Encoder::new(Codec::Lz4) };
    let place = Place::new();
    place.write("image", tree, &Settings { encoder, ..Settings::default() });
    check_image(&place.path("image"), tree, BLOCK);
}

fn around(count: usize) -> [usize; 3] {
    [count - 1, count, count + 1]
}

#[test]
fn tables_that_just_fill_their_blocks_read_back() {
    in_own_namespace("tables::tables_that_just_fill_their_blocks_read_back", || {
        let mut random = Random(1);
        for count in around(METADATA / 16) {
            let (mut fragments, mut sets) = (Tree::new(), Tree::new());
            for number in 0..count {
                // More than half a block: no two of them in one fragment.
                fragments.file(0, format!("{number}"), random.bytes(BLOCK as usize / 2 + 1 + number % 100));
                let node = sets.add(0, format!("{number}"), Body::Special(Special::Fifo));
                sets.nodes[node].xattrs.push((b"trusted.n".to_vec(), number.to_le_bytes().to_vec()));
            }
            check(&fragments);
            check(&sets);
        }
        for count in around(METADATA / 4) {
            let mut owners = Tree::new();
            for number in 1..count {
                let node = owners.add(0, format!("{number}"), Body::Special(Special::Fifo));
                owners.nodes[node].uid = number as u32;
            }
            check(&owners);
        }
        for count in around(METADATA / 8).into_iter().chain(around(METADATA / 4)) {
            // The root has an inode too.
            let mut exported = Tree::new();
            (1..count).for_each(|number| {
                exported.add(0, format!("{number}"), Body::Special(Special::Socket));
            });
            check(&exported);
        }
    });
}

/// With names and targets of every length around it, an inode or an entry ends at every byte around a block's end.
#[test]
fn inodes_and_names_that_end_at_any_byte_around_a_blocks_end_read_back() {
    in_own_namespace("tables::inodes_and_names_that_end_at_any_byte_around_a_blocks_end_read_back", || {
        for shift in 0..70 {
            let mut tree = Tree::new();
            // Inodes of 24 bytes and their targets, just short of three blocks and then over their ends.
            for number in 0..3 {
                tree.add(0, format!("a{number}"), Body::Symlink(vec![b't'; METADATA / 2 - 200 + shift]));
                tree.add(0, format!("b{number}"), Body::Symlink(vec![b't'; METADATA / 2 - 200 + shift]));
                for more in 0..20 {
                    tree.file(0, format!("c{number}-{more}"), Vec::new());
                }
            }
            // A directory's header of 12 bytes, and entries of 8 and their names.
            let folder = tree.directory(0, "d");
            for number in 0..33 {
                let length = if number == 0 { 150 + shift } else { 240 };
                let mut name = format!("{number:02}").into_bytes();
                name.resize(length, b'n');
                tree.add(folder, name, Body::Special(Special::Fifo));
            }
            check(&tree);
        }
    });
}

#[test]
fn tails_that_just_fill_a_fragment_read_back() {
    in_own_namespace("tables::tails_that_just_fill_a_fragment_read_back", || {
        let block = BLOCK as usize;
        let mut random = Random(2);
        let table: [&[usize]; 8] = [
            &[block - 1, 1],
            &[block - 1, 2],
            &[block - 1, 1, 1],
            &[1, block - 1],
            &[block / 2, block / 2],
            &[block / 2, block / 2 + 1],
            &[block / 2, block / 2 - 1, 1, 1],
            &[2 * block - 1, block + 1, block, 3 * block + 7, block - 7],
        ];
        for sizes in table {
            let mut tree = Tree::new();
            for (number, size) in sizes.iter().enumerate() {
                tree.file(0, format!("{number}"), random.bytes(*size));
            }
            check(&tree);
        }
    });
}

#[test]
fn a_directory_as_large_as_the_plain_inode_can_say_reads_back() {
    in_own_namespace("tables::a_directory_as_large_as_the_plain_inode_can_say_reads_back", || {
        // It says up to 65,535 bytes, with three for the dots; 263 of these make 65,251.
        for last in 200..=256 {
            let mut tree = Tree::new();
            let folder = tree.directory(0, "d");
            for (number, length) in [240; 263].into_iter().chain([last, 20]).enumerate() {
                let mut name = format!("{number:03}").into_bytes();
                name.resize(length, b'n');
                tree.add(folder, name, Body::Special(Special::Fifo));
            }
            let encoder = Encoder { block_size: BLOCK, ..Encoder::new(Codec::Lz4) };
            let place = Place::new();
            place.write("image", &tree, &Settings { encoder, ..Settings::default() });
            check_kernel(&place.path("image"), &tree, BLOCK);
        }
    });
}
