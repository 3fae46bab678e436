//! Random trees in random layers, against both judges. `SHIFTER_TEST_TREES` is how many (300), and
//! `SHIFTER_TEST_SEED` the first one's seed, which a failure names.

use std::sync::Arc;

use shifter_squashfs::writer::{Codec, Encoder, Settings, Special};

use crate::check::{check_image, in_own_namespace};
use crate::content::{Content, Random};
use crate::model::{Body, Place, Step, Tree};

const THREADS: usize = 4;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_trees_read_back() {
    in_own_namespace("random::random_trees_read_back", || {
        let first = from_environment("SHIFTER_TEST_SEED", 1);
        let trees = first..first + from_environment("SHIFTER_TEST_TREES", 300);
        // Mounting waits more than it works.
        let share = |thread: usize| {
            let seeds = trees.clone().skip(thread).step_by(THREADS);
            seeds.filter(|seed| std::panic::catch_unwind(|| check_seed(*seed)).is_err()).collect()
        };
        let wrong: Vec<u64> = std::thread::scope(|scope| {
            let threads = std::array::from_fn::<_, THREADS, _>(|thread| {
                scope.spawn(move || -> Vec<u64> { share(thread) })
            });
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            wrong.is_empty(),
            "wrong trees; see each with SHIFTER_TEST_TREES=1 SHIFTER_TEST_SEED={wrong:?}"
        );
    });
}

fn check_seed(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
    // xz is slow.
    let codec = match random.below(10) {
        0..=4 => Codec::Zstd,
        5 | 6 => Codec::Lz4,
        7 => Codec::Gzip,
        8 => Codec::None,
        _ => Codec::Xz,
    };
    let block_size = 1 << (12 + random.below(if codec == Codec::Xz { 3 } else { 6 }));
    let settings = Settings {
        encoder: Encoder { block_size, ..Encoder::new(codec) },
        workers: 1 + random.below(4) as usize,
        modified: 0,
    };
    let mut tree = Tree::new();
    let layers = grow(&mut tree, &mut random, u64::from(block_size));
    let place = Place::new();
    place.write_layers("image", &tree, layers.clone(), &settings);
    check_image(&place.path("image"), &tree, block_size);
    if seed.is_multiple_of(10) {
        place.write_layers("again", &tree, layers, &Settings { workers: 5, ..settings });
        assert!(place.bytes("image") == place.bytes("again"), "another number of threads, other bytes");
    }
}

/// Fills the tree, and says in which layers its files come, among others that are masked.
fn grow(tree: &mut Tree, random: &mut Random, block: u64) -> Vec<Vec<Step>> {
    let mut layers = vec![Vec::new(); 1 + random.below(3) as usize];
    let (mut folders, mut linkable) = (vec![0], Vec::new());
    let mut contents: Vec<Content> = vec![Content::default()];
    let entries = 1 << random.below(9);
    for number in 0..entries {
        let folder = folders[random.below(folders.len() as u64) as usize];
        let mut name = format!("{number}_").into_bytes();
        let extra = if random.chance(10) { random.below(240) } else { random.below(8) };
        name.extend(
            random.bytes(extra as usize).iter().map(|byte| if b"/\0".contains(byte) { 0x80 } else { *byte }),
        );
        let node = match random.below(12) {
            0 | 1 => {
                let node = tree.directory(folder, name);
                folders.push(node);
                node
            }
            2 => {
                let target = vec![1 + random.below(255) as u8; 1 + random.below(300) as usize];
                tree.add(folder, name, Body::Symlink(target))
            }
            3 => {
                let (major, minor) = (random.below(4096) as u32, random.below(1 << 20) as u32);
                let special = match random.below(4) {
                    0 => Special::Fifo,
                    1 => Special::Socket,
                    2 => Special::BlockDevice { major, minor },
                    _ => Special::CharacterDevice { major, minor },
                };
                tree.add(folder, name, Body::Special(special))
            }
            4 if !linkable.is_empty() => {
                let node = linkable[random.below(linkable.len() as u64) as usize];
                tree.link(folder, name, node);
                continue;
            }
            _ => {
                let content = content(random, block, &contents);
                contents.push(content.clone());
                let node = tree.add(folder, name, Body::File(content.clone()));
                let layer = random.below(layers.len() as u64) as usize;
                layers[layer].push(Step { node: Some(node), content, live: random.chance(80) });
                node
            }
        };
        if !matches!(tree.nodes[node].body, Body::Directory(_)) {
            linkable.push(node);
        }
        attributes(tree, node, random);
        if random.chance(30) {
            let content = content(random, block, &contents);
            contents.push(content.clone());
            let layer = random.below(layers.len() as u64) as usize;
            layers[layer].push(Step { node: None, content, live: random.chance(30) });
        }
    }
    layers
}

fn attributes(tree: &mut Tree, node: usize, random: &mut Random) {
    let node = &mut tree.nodes[node];
    if !matches!(node.body, Body::Symlink(_)) {
        node.mode = random.below(0o10000) as u16;
    }
    node.mtime = random.next() as u32;
    if random.chance(20) {
        (node.uid, node.gid) = (random.below(70_000) as u32, random.below(1 << 32) as u32);
        // chown(2) takes this for "leave it as it is".
        node.gid = node.gid.min(u32::MAX - 1);
    }
    if random.chance(10) {
        for number in 0..=random.below(3) {
            let prefix = if random.chance(50) { "trusted" } else { "security" };
            let size = random.below(200) as usize;
            node.xattrs.push((format!("{prefix}.test{number}").into_bytes(), random.bytes(size)));
        }
    }
}

fn content(random: &mut Random, block: u64, earlier: &[Content]) -> Content {
    let blocks = if random.chance(60) { 0 } else { random.below(6) };
    let edge = random.below(5);
    let size = match edge {
        0 => blocks * block,
        1 => blocks * block + 1,
        2 => ((blocks + 1) * block) - 1,
        _ => blocks * block + random.below(block),
    };
    let like = &earlier[random.below(earlier.len() as u64) as usize];
    match random.below(8) {
        0 => Content::zeros(size),
        1 => Content::of(random.bytes(size as usize)),
        2 => {
            let mut content = Content::zeros(size);
            let mut at = random.below(2 * block);
            while at + 100 < size {
                content.islands.push((at, Arc::new(random.text(100))));
                at += 100 + random.below(3 * block);
            }
            content
        }
        3 | 4 => like.clone(),
        // The same size, and different in one byte.
        5 if !like.islands.is_empty() && !like.islands[0].1.is_empty() => {
            let mut changed = like.clone();
            let bytes = Arc::make_mut(&mut changed.islands[0].1);
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1;
            changed
        }
        _ => Content::of(random.text(size as usize)),
    }
}
