//! Which files of this machine's `/usr` an image is made of: real names, contents and sizes, whole directories
//! spread over the tree, the same choice in every run on the same machine.
//!
//! Only what can be read is taken. Nothing is written, and links are not followed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Files larger than this part of the image are left out: a handful of them would be half of it.
const LARGEST_PART: u64 = 64;

/// A file to be in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it is read.
    pub(crate) path: PathBuf,
    /// The name in the image, without a leading slash.
    pub(crate) name: Vec<u8>,
    /// Bytes.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl Source {
    /// The name without its last component.
    fn directory(&self) -> &[u8] {
        let slash = self.name.iter().rposition(|byte| *byte == b'/');
        &self.name[..slash.unwrap_or(0)]
    }
}

/// Chooses `count` files of about `bytes` in all, sorted by name.
pub(crate) fn choose(root: &Path, count: usize, bytes: u64) -> Result<Vec<Source>> {
    let mut candidates = Vec::new();
    list(root, bytes / LARGEST_PART, &mut candidates)?;
    candidates.sort_by(|a, b| (a.directory(), &a.name).cmp(&(b.directory(), &b.name)));
    let mut chosen = spread(&candidates, count, bytes);
    if chosen.len() < count {
        bail!("{} has too few small files for an image of {count}", root.display());
    }
    chosen.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(chosen)
}

fn list(directory: &Path, largest: u64, found: &mut Vec<Source>) -> Result<()> {
    // A directory that cannot be listed is none of ours.
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
        if kind.is_dir() {
            list(&entry.path(), largest, found)?;
        }
        if !kind.is_file() {
            continue;
        }
        let path = entry.path();
        let Ok(seen) = fs::symlink_metadata(&path) else { continue };
        if (1..=largest).contains(&seen.size()) {
            let name = path.as_os_str().as_encoded_bytes();
            let name = name.strip_prefix(b"/").unwrap_or(name).to_vec();
            found.push(Source { path, name, size: seen.size(), mode: seen.permissions().mode() & 0o755 });
        }
    }
    Ok(())
}

/// Goes over the directories in long steps, taking the files that keep the bytes near their share; several times
/// where there are too few, under other names. The candidates are sorted by directory.
fn spread(candidates: &[Source], count: usize, bytes: u64) -> Vec<Source> {
    let directories: Vec<&[Source]> = candidates.chunk_by(|a, b| a.directory() == b.directory()).collect();
    let slack = bytes / LARGEST_PART;
    let mut chosen: Vec<Source> = Vec::with_capacity(count);
    let mut total = 0;
    let step = step(directories.len());
    for pass in 0..50_usize {
        let mut at = 0;
        for _ in 0..directories.len() {
            for source in directories[at] {
                if chosen.len() == count {
                    return chosen;
                }
                let share = bytes * (chosen.len() as u64 + 1) / count as u64;
                if total + source.size > share + slack {
                    continue;
                }
                total += source.size;
                let mut source = source.clone();
                if pass > 0 {
                    source.name = [format!("again-{pass}/").as_bytes(), &source.name].concat();
                }
                chosen.push(source);
            }
            at = (at + step) % directories.len();
        }
    }
    chosen
}

/// About 0.618 of the length, and prime to it, so that every candidate is visited once.
fn step(length: usize) -> usize {
    let divides = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let wanted = length * 618 / 1000;
    (wanted.max(1)..=length.max(1)).find(|step| divides(length, *step) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(sizes: &[u64]) -> Vec<Source> {
        sizes
            .iter()
            .enumerate()
            .map(|(number, size)| Source {
                path: PathBuf::new(),
                name: format!("{}/{number:03}", number / 7).into_bytes(),
                size: *size,
                mode: 0o644,
            })
            .collect()
    }

    #[test]
    fn every_candidate_is_visited_once() {
        for length in [1, 2, 3, 10, 100, 618, 1000, 123_641] {
            let step = step(length);
            let mut seen = vec![false; length];
            let mut at = 0;
            for _ in 0..length {
                seen[at] = true;
                at = (at + step) % length;
            }
            assert!(seen.iter().all(|seen| *seen), "{length}");
        }
    }

    #[test]
    fn bytes_stay_near_the_share_and_names_are_unique() {
        for (count, bytes) in [(50, 100 << 20), (250, 100 << 20), (100, 200 << 20)] {
            let sizes: Vec<u64> = (0..100).map(|number| 1000 + number * 40_000).collect();
            let chosen = spread(&candidates(&sizes), count, bytes);
            let total: u64 = chosen.iter().map(|source| source.size).sum();
            assert_eq!(chosen.len(), count);
            assert!(total <= bytes + bytes / LARGEST_PART, "{total} of {bytes}");
            let mut names: Vec<_> = chosen.iter().map(|source| &source.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }
}
