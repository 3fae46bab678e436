//! Random stacks of layers: what is merged in one pass, newest layer first, must be what a naive program
//! makes of them oldest first; and no data may be given up that a name needs. The seeds are fixed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::memory::{Memory, Thing};
use common::reference::Reference;
use common::{Item, Random, dir, file, hard, item, layer, mode, symlink, tar_of};
use shifter_layers::{Compression, Layer, Limits, MergeError, Policy, read_layers};

/// How wild stacks are.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// As builders write them: each directory before its contents, no name twice in a layer, no hard links
    /// into other layers.
    Tidy,
    Wild,
}

const WORDS: [&str; 9] = ["a", "b", "c", "lib", "usr", "dev", "etc", "d", "shadow"];
const TARGETS: [&str; 8] = ["a", "b", "usr", "../a", "/lib", "a/b", "./usr/../c", "etc"];

struct Generator {
    random: Random,
    style: Style,
    files: usize,
}

impl Generator {
    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.random.below(list.len())].clone()
    }

    fn name(&mut self) -> String {
        let depth = 1 + self.random.below(3);
        // A link named etc/shadow empties a file whose data came before.
        let known = if self.style == Style::Tidy { WORDS.len() - 1 } else { WORDS.len() };
        let words: Vec<&str> = (0..depth).map(|_| self.pick(&WORDS[..known])).collect();
        words.join("/")
    }

    fn item(&mut self, so_far: &Reference) -> Item {
        let name = self.name();
        let parent = name.rsplit_once('/').map(|(parent, _)| format!("{parent}/")).unwrap_or_default();
        let links = if self.style == Style::Wild { 4 } else { 2 };
        match self.random.below(16) {
            0..=4 => {
                self.files += 1;
                let bits = self.pick(&[0o600, 0o755, 0o4711, 0o644]);
                let data = if self.random.below(8) == 0 { String::new() } else { format!("n{}", self.files) };
                mode(file(name, data), bits)
            }
            5..=7 => mode(dir(name), self.pick(&[0o700, 0o755, 0o1777])),
            8 => symlink(name, self.pick(&TARGETS)),
            9 => file(format!("{parent}.wh.{}", self.pick(&WORDS)), ""),
            10 => file(format!("{parent}.wh..wh..opq"), ""),
            11 => item(b'3', name, "", 0o666, ""),
            _ if self.random.below(4) < links => {
                let mut known: Vec<String> = so_far.newer.keys().cloned().collect();
                if self.style == Style::Wild {
                    known.extend(so_far.older.keys().cloned());
                    known.push(self.name());
                }
                if known.is_empty() {
                    return dir(name);
                }
                let target = self.pick(&known);
                hard(name, target)
            }
            _ => dir(name),
        }
    }

    /// Entries of one layer, which `reference` takes; `may_fail` adds one now and then that it refuses.
    fn layer(&mut self, reference: &mut Reference, may_fail: bool) -> (Vec<Item>, bool) {
        let mut items: Vec<Item> = Vec::new();
        for _ in 0..1 + self.random.below(12) {
            let entry = self.item(reference);
            let name = String::from_utf8(entry.name.clone()).unwrap();
            let mut entries = vec![entry];
            if self.style == Style::Tidy {
                let missing = parents(&name).into_iter().rev().map(dir);
                missing.for_each(|parent| entries.insert(0, parent));
                entries.retain(|entry| !items.iter().any(|item| item.name == entry.name));
            }
            let mut trial = reference.clone();
            match entries.iter().try_for_each(|entry| trial.take(entry)) {
                Ok(()) => {
                    *reference = trial;
                    items.extend(entries);
                }
                Err(_) if may_fail && self.random.below(40) == 0 => {
                    items.extend(entries);
                    return (items, false);
                }
                Err(_) => {}
            }
        }
        reference.end_layer();
        (items, true)
    }
}

fn parents(name: &str) -> Vec<String> {
    name.match_indices('/').map(|(at, _)| name[..at].to_owned()).collect()
}

fn merged(layers: &[Layer]) -> Result<(Memory, Vec<String>), MergeError> {
    let mut memory = Memory::default();
    let image = read_layers(layers, &Limits::default(), &Policy::default(), &mut memory)?;
    let (root, summary) = image.write(&mut memory)?;
    let names = memory.names(root);
    let mut first_names = std::collections::BTreeMap::new();
    let mut lines: Vec<String> = names
        .iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, at)| {
            let inode = &memory.inodes[*at];
            match &inode.thing {
                Thing::Directory(_) => format!("{path}: directory {:o}", inode.mode),
                Thing::File(data) => {
                    let first = first_names.entry(*at).or_insert(path);
                    let bytes = memory.data[*data].bytes.escape_ascii();
                    format!("{path}: file {:o} {bytes} as {first}", inode.mode)
                }
                Thing::Symlink(target) => format!("{path}: link to {}", target.escape_ascii()),
                Thing::Special(special) => panic!("{path}: {special:?}"),
            }
        })
        .collect();
    lines.sort();
    let counted = summary.directories + summary.files + summary.symlinks + summary.hard_links;
    assert_eq!(names.len() as u64, counted);
    Ok((memory, lines))
}

#[derive(Debug, Default)]
struct Seen {
    accepted: usize,
    refused: usize,
    given_up: usize,
    revived: usize,
    killed: usize,
    unused: usize,
}

fn try_stacks(style: Style, seeds: std::ops::Range<u64>) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Seen::default();
    for seed in seeds {
        let mut generator = Generator { random: Random(seed), style, files: 0 };
        let mut reference = Reference::default();
        let mut stack: Vec<Vec<Item>> = Vec::new();
        let mut is_good = true;
        for _ in 0..1 + generator.random.below(5) {
            let (items, layer_is_good) = generator.layer(&mut reference, style == Style::Wild);
            stack.push(items);
            is_good &= layer_is_good;
            if !is_good {
                break;
            }
        }
        let layers: Vec<Layer> = stack
            .iter()
            .enumerate()
            .map(|(number, items)| layer(folder.path(), number, &tar_of(items), Compression::None))
            .collect();
        let stack = || {
            let show = |item: &Item| {
                let link = item.link.escape_ascii();
                let (name, data) = (item.name.escape_ascii(), item.data.escape_ascii());
                format!("{} {name} {link} {data}", char::from(item.kind))
            };
            let lines: Vec<Vec<String>> =
                stack.iter().map(|items| items.iter().map(show).collect()).collect();
            format!("seed {seed}: {lines:#?}")
        };
        let result = std::panic::catch_unwind(|| merged(&layers));
        let result = result.unwrap_or_else(|_| panic!("{}", stack()));
        match (result, is_good) {
            (Ok((memory, lines)), true) => {
                seen.accepted += 1;
                assert_eq!(lines, reference.listing(), "{}", stack());
                seen.given_up += memory.data.iter().filter(|data| !data.live).count();
                let unused = memory.data.iter().filter(|data| data.live && !data.used).count();
                assert!(style == Style::Wild || unused == 0, "data that nothing names: {}", stack());
                seen.unused += unused;
                seen.revived += memory.revived;
                seen.killed += memory.killed;
            }
            (Err(MergeError::Entry { .. }), false) => seen.refused += 1,
            (Ok(_), false) => panic!("accepted: {}", stack()),
            (Err(error), _) => panic!("{error}: {}", stack()),
        }
    }
    seen
}

/// More of them where wanted: `STACKS=1000000 cargo test --release -p shifter-layers --test property`.
fn count() -> u64 {
    std::env::var("STACKS").ok().and_then(|count| count.parse().ok()).unwrap_or(1500)
}

#[test]
fn wild_stacks_become_what_a_naive_merge_makes_of_them() {
    let seen = try_stacks(Style::Wild, 0..count());
    println!("{seen:?}");
    // Otherwise the stacks are too tame to try anything.
    assert!(seen.refused > 100 && seen.given_up > 1000 && seen.revived > 50 && seen.killed > 50, "{seen:?}");
}

#[test]
fn of_tidy_stacks_no_data_is_kept_that_no_name_needs() {
    let seen = try_stacks(Style::Tidy, 0..count());
    println!("{seen:?}");
    assert!(seen.accepted > 1000 && seen.given_up > 1000 && seen.revived > 50, "{seen:?}");
}
