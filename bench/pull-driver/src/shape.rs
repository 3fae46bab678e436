//! The images that are pulled: seven layers of real files, the same with a changed last layer, half a million
//! entries, ten gigabytes in one stream.
//!
//! Layers are as real images have them: unequal, newer ones overwrite and remove files of older ones, some names
//! are hard links and symlinks, and every layer carries the directories it writes into. Owners other than root,
//! devices and extended attributes are left to the tests.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use shifter_tests::fixture::{Entry, dir, file, hardlink, symlink};

use crate::corpus::Source;
use crate::layer::{Layer, LayerWriter};

/// The layers' shares of the bytes, oldest first, in percent. The last one is what another tag changes.
const SHARES: [u64; 7] = [38, 24, 14, 10, 6, 3, 5];

/// gzip's default, which most images are made with.
const LEVEL: u32 = 6;
/// For streams whose only purpose is their length.
const FAST: u32 = 1;

/// One in so many files of a layer gets a symlink, a hard link, is overwritten or removed by the next layer.
const SYMLINKED: usize = 15;
const LINKED: usize = 100;
const OVERWRITTEN: usize = 150;
const REMOVED: usize = 200;

/// The files of an image, divided into its layers.
pub(crate) struct Shape {
    layers: Vec<Vec<Source>>,
}

impl Shape {
    /// Divides files, sorted by name, by the shares.
    pub(crate) fn new(files: Vec<Source>) -> Self {
        let total: u64 = files.iter().map(|file| file.size).sum();
        let mut layers: Vec<Vec<Source>> = SHARES.map(|_| Vec::new()).into();
        let (mut number, mut sum, mut limit) = (0, 0, SHARES[0]);
        for file in files {
            while number + 1 < SHARES.len() && sum * 100 >= limit * total {
                number += 1;
                limit += SHARES[number];
            }
            sum += file.size;
            layers[number].push(file);
        }
        Self { layers }
    }

    /// All layers, oldest first.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>> {
        (0..self.layers.len()).map(|number| self.layer(number, 0)).collect()
    }

    /// The last layer with other contents for each version.
    pub(crate) fn last_layer(&self, version: u32) -> Result<Layer> {
        self.layer(self.layers.len() - 1, version)
    }

    fn layer(&self, number: usize, version: u32) -> Result<Layer> {
        let mut writer = Directories { writer: LayerWriter::new(LEVEL), known: BTreeSet::new() };
        let salt = |index: usize| format!("{number:02x}{version:06x}{index:08x}");
        for (index, source) in self.layers[number].iter().enumerate() {
            writer.push(content(source, &salt(index))?)?;
            let last = source.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if index % SYMLINKED == 1 {
                writer.push(symlink(suffixed(&source.name, b".symlink"), last))?;
            }
            if index % LINKED == 2 {
                writer.push(hardlink(suffixed(&source.name, b".hardlink"), &source.name))?;
            }
        }
        let older = number.checked_sub(1).map_or(&[][..], |older| &self.layers[older]);
        for (index, source) in older.iter().enumerate() {
            if index % OVERWRITTEN == 3 {
                writer.push(content(source, &salt(0x8000_0000 + index))?)?;
            } else if index % REMOVED == 4 {
                writer.push(removed(&source.name))?;
            }
        }
        writer.writer.finish()
    }
}

/// Writes each entry's directories before it, once per layer.
struct Directories {
    writer: LayerWriter,
    known: BTreeSet<Vec<u8>>,
}

impl Directories {
    fn push(&mut self, entry: Entry) -> Result<()> {
        let slashes = entry.name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (at, _) in slashes {
            let parent = &entry.name[..at];
            if !self.known.contains(parent) {
                self.known.insert(parent.to_vec());
                self.writer.push(dir(parent))?;
            }
        }
        self.writer.push(entry)
    }
}

/// The file with a salt in front, so that neither two files nor two first blocks are equal.
fn content(source: &Source, salt: &str) -> Result<Entry> {
    let bytes = fs::read(&source.path).with_context(|| format!("read {}", source.path.display()))?;
    Ok(file(&source.name, [salt.as_bytes(), &bytes].concat()).mode(source.mode))
}

fn suffixed(name: &[u8], suffix: &[u8]) -> Vec<u8> {
    [name, suffix].concat()
}

/// `dir/name` becomes the empty file `dir/.wh.name` (OCI image specification, layers).
fn removed(name: &[u8]) -> Entry {
    let at = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    file([&name[..at], b".wh.", &name[at..]].concat(), b"")
}

/// Layers of `count` entries in all: small files, symlinks and hard links in directories of a hundred.
pub(crate) fn many_entries(count: usize) -> Result<Vec<Layer>> {
    const IN_ONE: usize = 100;
    let mut layers = Vec::new();
    for number in 0..SHARES.len() {
        let mut writer = LayerWriter::new(FAST);
        let first = count * number / SHARES.len();
        let next = count * (number + 1) / SHARES.len();
        for index in 0..next - first {
            let directory = format!("opt/layer-{number}/directory-{:05}", index / IN_ONE);
            let entry = match index % IN_ONE {
                0 => dir(&directory),
                98 => symlink(format!("{directory}/symlink"), "file-01.py"),
                99 => hardlink(format!("{directory}/hardlink"), format!("{directory}/file-02.py")),
                at => file(format!("{directory}/file-{at:02}.py"), format!("number = {number}_{index}\n")),
            };
            writer.push(entry)?;
        }
        layers.push(writer.finish()?);
    }
    Ok(layers)
}

/// One layer of about `bytes`: mostly zeros, but no two blocks are equal and none is all zeros, so that neither
/// holes nor duplicates make it shorter.
pub(crate) fn long_stream(bytes: u64) -> Result<Layer> {
    const FILE: u64 = 256 << 20;
    const PAGE: usize = 4096;
    let mut writer = LayerWriter::new(FAST);
    writer.push(dir("data"))?;
    let mut pages = 0_u64;
    for number in 0..bytes.div_ceil(FILE) {
        let size = FILE.min(bytes - number * FILE);
        let mut content = vec![0; size as usize];
        for page in content.chunks_mut(PAGE) {
            pages += 1;
            let text = format!("page {pages} of a long stream\n");
            for (byte, letter) in page.iter_mut().zip(text.bytes()) {
                *byte = letter;
            }
        }
        writer.push(file(format!("data/part-{number:04}"), content))?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn shape(sizes: impl Iterator<Item = u64>) -> Shape {
        let files = sizes.enumerate().map(|(number, size)| Source {
            path: PathBuf::from("/dev/null"),
            name: format!("usr/{}/{number:04}", number / 10).into_bytes(),
            size,
            mode: 0o644,
        });
        Shape::new(files.collect())
    }

    #[test]
    fn files_are_divided_by_bytes() {
        let shape = shape((0..1000).map(|_| 100));
        let counts: Vec<u64> = shape.layers.iter().map(|layer| layer.len() as u64 / 10).collect();
        assert_eq!(counts, SHARES);
        let uneven = self::shape([1, 1, 1, 1, 1, 1, 1, 1_000_000].into_iter());
        assert_eq!(uneven.layers.iter().map(Vec::len).sum::<usize>(), 8);
    }

    #[test]
    fn another_version_changes_the_last_layer_alone() -> Result<()> {
        let shape = shape((0..1000).map(|_| 100));
        let (one, same, other) = (shape.layers()?, shape.last_layer(0)?, shape.last_layer(1)?);
        assert_eq!(one.last().map(|layer| &layer.diff_id), Some(&same.diff_id));
        assert_ne!(same.diff_id, other.diff_id);
        assert_eq!((same.entries, same.unpacked), (other.entries, other.unpacked));
        Ok(())
    }

    #[test]
    fn streams_have_the_length_and_entries_asked_for() -> Result<()> {
        let entries: u64 = many_entries(2000)?.iter().map(|layer| layer.entries).sum();
        assert_eq!(entries, 2000);
        let layer = long_stream(3 << 20)?;
        assert!((3 << 20..(3 << 20) + 4096).contains(&layer.unpacked), "{}", layer.unpacked);
        assert_eq!(layer.entries, 2);
        Ok(())
    }

    #[test]
    fn a_whiteout_names_the_file_it_hides() {
        for (name, hidden) in [("a", ".wh.a"), ("a/b", "a/.wh.b"), ("a/b/c", "a/b/.wh.c")] {
            assert_eq!(removed(name.as_bytes()).name, hidden.as_bytes());
        }
    }
}
