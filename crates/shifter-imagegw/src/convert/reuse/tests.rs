//! An image made with layers of another must be, byte for byte, the image made of all its layers; and nothing that
//! happened to what is remembered may change that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use sha2::{Digest as _, Sha256};
use shifter_core::digest::Digest;
use shifter_layers::Compression;
use shifter_squashfs::reader::{Image, Limits};
use shifter_squashfs::writer::Codec;

use super::super::{Failure, own};
use super::*;

/// Small blocks: files of a few KiB have blocks, ends, holes and equals.
fn encoder() -> Encoder {
    Encoder { block_size: 4096, ..Encoder::default() }
}

/// One entry of a layer; the bytes of a file are told by a number.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    File(String, u64),
    Directory(String),
    Symlink(String, String),
    Link(String, String),
}

/// Some hundred different contents of all kinds of sizes, a few of them with equal blocks or ends.
fn content(number: u64) -> Vec<u8> {
    let block = 4096;
    let (size, seed) = match number % 8 {
        0 => (0, 0),
        1 => (700, number / 16),
        2 => (block, number / 16),
        3 => (block * 2 + 700, number / 16),
        4 => (block * 2 + 30, number / 32),
        5 => (3000, number),
        6 => (block * 3, 0),
        _ => (1500, number / 32),
    };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut bytes: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Half of the files can be compressed.
            if seed % 2 == 0 { (state >> 61) as u8 } else { (state >> 33) as u8 }
        })
        .collect();
    if number % 8 == 6 {
        bytes[..block * 2].fill(0);
    }
    bytes
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_mode(0o644);
        let mut data = Vec::new();
        header.set_size(0);
        let name = match item {
            Item::File(name, number) => {
                data = content(*number);
                header.set_size(data.len() as u64);
                header.set_entry_type(tar::EntryType::Regular);
                name
            }
            Item::Directory(name) => {
                header.set_entry_type(tar::EntryType::Directory);
                name
            }
            Item::Symlink(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).unwrap();
                name
            }
            Item::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).unwrap();
                name
            }
        };
        tar.append_data(&mut header, name, data.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A place for layers, images and what is remembered.
struct Place {
    folder: tempfile::TempDir,
    made: usize,
}

/// A made image.
struct Made {
    image: PathBuf,
    /// Of each layer, oldest first.
    indexes: Vec<PathBuf>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.image).unwrap()
    }

    fn kept(&self, number: usize) -> (PathBuf, PathBuf) {
        (self.indexes[number].clone(), self.image.clone())
    }
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap(), made: 0 }
    }

    fn layer(&self, items: &[Item]) -> ConvertLayer {
        let bytes = archive(items);
        let digest = sha256(&bytes);
        let path = self.folder.path().join(digest.hex());
        fs::write(&path, bytes).unwrap();
        let digest = digest.to_string();
        ConvertLayer {
            path: Some(path),
            kept: None,
            diff_id: Some(digest.clone()),
            digest,
            compression: "none".into(),
        }
    }

    /// Converts, with layers that are kept in others' images.
    fn try_make(
        &mut self,
        layers: &[ConvertLayer],
        kept: &[Option<(PathBuf, PathBuf)>],
        encoder: Encoder,
    ) -> Result<Made, Failure> {
        self.made += 1;
        let at = |name: &str| self.folder.path().join(format!("{}-{name}", self.made));
        let (image, records) = (at("image"), at("records"));
        fs::create_dir(&records).unwrap();
        let read: Vec<Layer> = layers
            .iter()
            .map(|layer| Layer {
                path: layer.path.clone().unwrap_or_default(),
                digest: Digest::parse(&layer.digest).unwrap(),
                diff_id: layer.diff_id.as_deref().map(|text| Digest::parse(text).unwrap()),
                compression: Compression::None,
                read: Default::default(),
            })
            .collect();
        let from =
            kept.iter().cloned().map(|kept| kept.map(|(index, image)| Kept { index, image })).collect();
        // One name for all, so that what is remembered can be compared.
        let remembered = Records { folder: &records, job: layers, image: Path::new("/images/x.squashfs") };
        let places = (self.folder.path(), Some(remembered));
        let archives = read.iter().map(|_| Origin::Archive).collect();
        own::convert((&read, archives, from), (encoder, Policy::default()), &image, places, &mut |_| {})?;
        let indexes = (0..layers.len()).map(|number| records.join(number.to_string())).collect();
        Ok(Made { image, indexes })
    }

    /// As the gateway does: what is needed after all is read. Also says how many layers were not read.
    fn make(
        &mut self,
        layers: &[ConvertLayer],
        mut kept: Vec<Option<(PathBuf, PathBuf)>>,
    ) -> Result<(Made, usize), String> {
        loop {
            match self.try_make(layers, &kept, encoder()) {
                Ok(made) => return Ok((made, kept.iter().flatten().count())),
                Err(Failure::Needs(layer)) => assert!(kept[layer].take().is_some(), "needs what it has"),
                Err(Failure::Told(why)) => return Err(why),
            }
        }
    }

    fn make_whole(&mut self, layers: &[ConvertLayer]) -> Result<Made, String> {
        let (made, kept) = self.make(layers, vec![None; layers.len()])?;
        assert_eq!(kept, 0);
        Ok(made)
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::sha256_from_hex(&hex).unwrap()
}

/// Knuth's 64-bit linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Files and directories mostly keep apart: a layer with something below a file is refused.
    fn name(&mut self) -> String {
        const DIRECTORIES: [&str; 4] = ["a", "b", "etc", "lib"];
        const FILES: [&str; 4] = ["f", "g", "shadow", "h"];
        let mut words: Vec<&str> = (0..self.below(3)).map(|_| DIRECTORIES[self.below(4)]).collect();
        words.push(FILES[self.below(4)]);
        words.join("/")
    }

    fn items(&mut self, names: &mut Vec<String>) -> Vec<Item> {
        let mut items = Vec::new();
        for _ in 0..1 + self.below(14) {
            let name = self.name();
            let parent = name.rsplit_once('/').map(|(parent, _)| format!("{parent}/")).unwrap_or_default();
            let known = names.get(self.below(names.len() + 1)).cloned();
            let item = match (self.below(16), known) {
                (0, _) => Item::Symlink(if self.below(2) == 0 { "a".into() } else { name }, "lib".into()),
                (1, _) => Item::File(format!("{parent}.wh..wh..opq"), 0),
                (2, _) => Item::Directory(format!("{parent}b")),
                (3..=4, Some(known)) => Item::File(whiteout(&known), 0),
                (5..=6, Some(known)) => {
                    // Mostly one of this layer; another may be gone, which ends the conversion.
                    let own = items.iter().rev().find_map(|item| match item {
                        Item::File(name, _) if !name.contains(".wh.") => Some(name.clone()),
                        _ => None,
                    });
                    Item::Link(name, own.filter(|_| self.below(8) > 0).unwrap_or(known))
                }
                (7..=8, Some(known)) => Item::File(known, self.below(120) as u64),
                (9, Some(known)) => Item::Directory(known),
                _ => Item::File(name, self.below(120) as u64),
            };
            if let Item::File(name, _) = &item
                && !name.contains(".wh.")
            {
                names.push(name.clone());
            }
            items.push(item);
        }
        items
    }
}

fn whiteout(name: &str) -> String {
    match name.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{name}"),
    }
}

/// More of them where wanted: `STACKS=100000 cargo test --release -p shifter-imagegw changed_stacks`.
fn count() -> u64 {
    std::env::var("STACKS").ok().and_then(|count| count.parse().ok()).unwrap_or(150)
}

#[test]
fn changed_stacks_become_what_they_become_from_all_their_layers() {
    let (mut tried, mut reused, mut needed, mut refused) = (0, 0, 0, 0);
    for seed in 0..count() {
        let mut random = Random(seed);
        let mut place = Place::new();
        let mut names = Vec::new();
        let mut layers: Vec<ConvertLayer> = Vec::new();
        let mut before: Option<Made> = None;
        for _ in 0..4 {
            let old = layers.clone();
            // Layers go, come and change, mostly the newest.
            for _ in 0..1 + random.below(2) {
                let at = layers.len() - random.below(layers.len().min(3) + 1);
                match random.below(4) {
                    0 if at < layers.len() => drop(layers.remove(at)),
                    1 if at < layers.len() => layers[at] = place.layer(&random.items(&mut names)),
                    _ => layers.insert(at, place.layer(&random.items(&mut names))),
                }
            }
            let kept: Vec<_> = layers
                .iter()
                .map(|layer| {
                    let number = old.iter().position(|known| known.digest == layer.digest)?;
                    before.as_ref().map(|before| before.kept(number))
                })
                .collect();
            let offered = kept.iter().flatten().count();
            let whole = place.make_whole(&layers);
            match (whole, place.make(&layers, kept)) {
                (Ok(whole), Ok((made, taken))) => {
                    assert!(made.bytes() == whole.bytes(), "seed {seed}: another image");
                    for (one, other) in made.indexes.iter().zip(&whole.indexes) {
                        assert!(
                            fs::read(one).unwrap() == fs::read(other).unwrap(),
                            "seed {seed}: another index"
                        );
                    }
                    tried += 1;
                    reused += taken;
                    needed += offered - taken;
                    before = Some(made);
                }
                (Err(one), Err(other)) => {
                    assert_eq!(one, other, "seed {seed}");
                    refused += 1;
                    (layers, before) = (Vec::new(), None);
                    names.clear();
                }
                (one, other) => panic!("seed {seed}: {:?}, but {:?}", one.err(), other.err()),
            }
        }
    }
    println!("{tried} images, {reused} layers taken over, {needed} needed after all, {refused} refused");
    // Otherwise the stacks are too tame to try anything.
    let least = [count() * 2, count(), count() / 20, count() / 50];
    let all = [tried, reused, needed, refused];
    assert!(all.iter().zip(least).all(|(found, least)| *found as u64 >= least), "{all:?}");
}

/// Two layers and a third one on top; and the image of the first two.
fn two_and_three(place: &mut Place) -> (Vec<ConvertLayer>, Made, Made) {
    let file = |name: &str, number| Item::File(name.to_owned(), number);
    let base =
        place.layer(&[Item::Directory("lib".into()), file("lib/one", 3), file("lib/two", 17), file("x", 6)]);
    let middle = place.layer(&[file("lib/two", 33), Item::Link("y".into(), "x".into()), file("z", 49)]);
    let top = place.layer(&[file("top", 5), file("zz", 19)]);
    let before = place.make_whole(&[base.clone(), middle.clone()]).unwrap();
    let layers = vec![base, middle, top];
    let whole = place.make_whole(&layers).unwrap();
    (layers, before, whole)
}

#[test]
fn a_new_layer_on_top_needs_no_other_to_be_read() {
    let mut place = Place::new();
    let (mut layers, before, whole) = two_and_three(&mut place);
    for layer in &mut layers[..2] {
        layer.path = None;
    }
    let made = place.try_make(&layers, &[Some(before.kept(0)), Some(before.kept(1)), None], encoder());
    assert!(made.is_ok_and(|made| made.bytes() == whole.bytes()));
}

#[test]
fn what_a_newer_layer_hid_and_another_shows_is_read_again() {
    let mut place = Place::new();
    let base = place.layer(&[Item::File("large".into(), 2), Item::File("small".into(), 5)]);
    for hidden in ["large", "small"] {
        let hiding = place.layer(&[Item::File(whiteout(hidden), 0)]);
        let before = place.make_whole(&[base.clone(), hiding]).unwrap();
        let layers = [base.clone()];
        let made = place.try_make(&layers, &[Some(before.kept(0))], encoder());
        assert!(matches!(made, Err(Failure::Needs(0))), "{hidden}");
        let whole = place.make_whole(&layers).unwrap();
        assert!(place.make(&layers, vec![Some(before.kept(0))]).unwrap().0.bytes() == whole.bytes());
        // Hidden again, it is not missed.
        let other = place.layer(&[Item::File(whiteout(hidden), 0), Item::File("more".into(), 7)]);
        let layers = [base.clone(), other];
        assert_eq!(place.make(&layers, vec![Some(before.kept(0)), None]).unwrap().1, 1, "{hidden}");
    }
}

#[test]
fn what_is_remembered_is_of_no_use_for_other_layers_encoders_and_digests() {
    let mut place = Place::new();
    let (layers, before, _) = two_and_three(&mut place);
    let needs =
        |made: Result<Made, Failure>, layer| matches!(made, Err(Failure::Needs(needs)) if needs == layer);
    let kept = [Some(before.kept(0)), None, None];
    for other in
        [Encoder { codec: Codec::Gzip, ..encoder() }, Encoder { level: 4, ..encoder() }, Encoder::default()]
    {
        assert!(needs(place.try_make(&layers, &kept, other), 0), "{other}");
    }
    assert!(needs(place.try_make(&layers, &[None, Some(before.kept(0)), None], encoder()), 1));
    let mut unverified = layers.clone();
    unverified[0].diff_id = None;
    assert!(needs(place.try_make(&unverified, &kept, encoder()), 0));
    for gone in
        [(before.indexes[0].clone(), "/nonexistent".into()), ("/nonexistent".into(), before.image.clone())]
    {
        assert!(needs(place.try_make(&layers, &[Some(gone), None, None], encoder()), 0));
    }
}

#[test]
fn no_damaged_byte_of_what_is_remembered_changes_the_image() {
    let mut place = Place::new();
    let (layers, before, whole) = two_and_three(&mut place);
    let damaged = place.folder.path().join("damaged");
    let index = fs::read(&before.indexes[0]).unwrap();
    let kept = |number: usize| match number {
        0 => Some((damaged.clone(), before.image.clone())),
        _ => None,
    };
    let kept = [kept(0), kept(1), kept(2)];
    for at in 0..index.len() {
        let mut bytes = index.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&damaged, bytes).unwrap();
        let made = place.try_make(&layers, &kept, encoder());
        assert!(matches!(made, Err(Failure::Needs(0))), "byte {at}");
    }
    for length in 0..index.len() {
        fs::write(&damaged, &index[..length]).unwrap();
        let made = place.try_make(&layers, &kept, encoder());
        assert!(matches!(made, Err(Failure::Needs(0))), "cut to {length}");
    }
    fs::write(&damaged, &index).unwrap();
    assert!(place.try_make(&layers, &kept, encoder()).is_ok_and(|made| made.bytes() == whole.bytes()));
}

#[test]
fn an_image_that_lost_or_changed_bytes_changes_no_other() {
    let mut place = Place::new();
    let (layers, before, whole) = two_and_three(&mut place);
    let damaged = place.folder.path().join("damaged");
    let image = before.bytes();
    let kept = [Some((before.indexes[0].clone(), damaged.clone())), None, None];
    let (mut same, mut needed) = (0, 0);
    for at in (0..image.len()).step_by(11) {
        let mut changed = image.clone();
        changed[at] ^= 0x10;
        for bytes in [changed.as_slice(), &image[..at]] {
            fs::write(&damaged, bytes).unwrap();
            match place.try_make(&layers, &kept, encoder()) {
                Ok(made) => {
                    same += 1;
                    assert!(made.bytes() == whole.bytes(), "byte {at}");
                }
                Err(Failure::Needs(0)) => needed += 1,
                Err(_) => panic!("byte {at}"),
            }
        }
    }
    assert!(same > 100 && needed > 300, "{same}, {needed}");
}

#[test]
fn what_somebody_made_up_with_the_right_sum_ends_in_an_image_or_a_refusal() {
    let mut place = Place::new();
    let (layers, before, whole) = two_and_three(&mut place);
    let forged = place.folder.path().join("forged");
    let kept = [Some((forged.clone(), before.image.clone())), None, None];
    let index = fs::read(&before.indexes[0]).unwrap();
    let summed = index.len() - 32;
    let mut random = Random(1);
    let (mut made_images, mut needed, mut told) = (0, 0, 0);
    for at in 0..summed {
        let mut bytes = index[..summed].to_vec();
        bytes[at] = random.below(256) as u8;
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        fs::write(&forged, bytes).unwrap();
        match place.try_make(&layers, &kept, encoder()) {
            Ok(made) => {
                made_images += 1;
                if made.bytes() != whole.bytes() {
                    // Another tree, as another layer would make it, but an image.
                    let file = fs::File::open(&made.image).unwrap();
                    let image = Image::open(file, &Limits::default()).unwrap();
                    let mut walk = image.walk().unwrap();
                    while walk.next().unwrap_or_else(|error| panic!("byte {at}: {error}")).is_some() {}
                }
            }
            Err(Failure::Needs(_)) => needed += 1,
            Err(Failure::Told(_)) => told += 1,
        }
    }
    println!("{made_images} images, {needed} needed, {told} refused");
    assert!(made_images > 20 && needed > 100, "{made_images}, {needed}, {told}");
}
