//! What is offered to a conversion, what is kept of it, and what goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use super::*;

const KEY: &str = "zstd-3-131072-1-r1-k1-p00000";
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

struct Place {
    folder: tempfile::TempDir,
    indexes: LayerIndexes,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let indexes = LayerIndexes {
            directory: folder.path().join("index"),
            most_files: 3,
            most_bytes: 1 << 20,
            image_directories: vec![folder.path().join("images")],
        };
        for name in ["index", "images", "elsewhere"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["images/x.squashfs", "elsewhere/x.squashfs"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        Place { folder, indexes }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("images/x.squashfs")
    }

    fn about(&self, layer: &ConvertLayer) -> About {
        About::new(KEY, &layer.digest, &layer.compression, layer.diff_id.as_deref(), &self.image())
    }

    fn remember(&self, layer: &ConvertLayer, left_out: u64) {
        self.about(layer).write(&self.indexes.path(KEY, layer), left_out);
    }

    fn left_out(&self, layer: &ConvertLayer) -> u64 {
        About::read(&self.indexes.path(KEY, layer)).unwrap().left_out
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.indexes.directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn layer(number: u8) -> ConvertLayer {
    ConvertLayer {
        path: None,
        kept: None,
        digest: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        diff_id: Some(format!("sha256:{}", "d".repeat(64))),
        compression: "gzip".to_owned(),
    }
}

#[test]
fn only_what_speaks_of_the_same_layer_and_of_an_image_that_is_there_is_offered() {
    let place = Place::new();
    let one = layer(1);
    place.remember(&one, 7);
    let offer = place.indexes.find_one(KEY, &one).unwrap();
    assert_eq!(offer.image, place.image());
    let otherwise = [
        ConvertLayer { compression: "zstd".to_owned(), ..one.clone() },
        ConvertLayer { diff_id: None, ..one.clone() },
        ConvertLayer { digest: layer(2).digest, ..one.clone() },
    ];
    for other in otherwise {
        assert!(place.indexes.find_one(KEY, &other).is_none(), "{other:?}");
    }
    assert!(place.indexes.find_one("another", &one).is_none());
    for image in ["elsewhere/x.squashfs", "images/y.squashfs", "images/../elsewhere/x.squashfs", "images"] {
        let image = place.folder.path().join(image);
        let about = About::new(KEY, &one.digest, "gzip", one.diff_id.as_deref(), &image);
        about.write(&place.indexes.path(KEY, &one), 0);
        assert!(place.indexes.find_one(KEY, &one).is_none(), "{}", image.display());
    }
}

#[test]
fn what_a_child_wrote_replaces_only_what_failed_and_speaks_only_of_its_own_image() {
    let place = Place::new();
    let layers = [layer(1), layer(2), layer(3), layer(3), layer(4)];
    for layer in &layers {
        place.remember(layer, 10);
    }
    let offers: Vec<_> = layers.iter().map(|layer| place.indexes.find_one(KEY, layer)).collect();
    let offers = [offers[0].clone(), None, None, None, None];
    let scratch = place.indexes.scratch(ID).unwrap();
    for (number, left_out) in [0, 12, 5, 9].into_iter().enumerate() {
        place.about(&layers[number]).write(&scratch.path().join(number.to_string()), left_out);
    }
    let mut another = place.about(&layers[4]);
    another.image = place.folder.path().join("images/another.squashfs");
    another.write(&scratch.path().join("4"), 0);
    place.indexes.install(&scratch, KEY, &layers, &offers, &place.image());
    drop(scratch);
    let scratch = place.indexes.scratch(ID).unwrap();
    for (number, layer) in [&layers[0], &layers[0], &layers[1]].into_iter().enumerate() {
        let another = About::new(KEY, &layer.digest, "zstd", None, &place.image());
        another.write(&scratch.path().join(number.to_string()), 0);
    }
    place.indexes.install(&scratch, KEY, &layers, &offers, &place.image());
    drop(scratch);
    assert_eq!(layers.each_ref().map(|layer| place.left_out(layer)), [10, 12, 5, 5, 10]);
    assert_eq!(place.names().len(), 4, "{:?}", place.names());
}

#[test]
fn what_is_of_no_use_goes_and_then_what_was_unused_for_the_longest_time() {
    let place = Place::new();
    for number in 1..=5 {
        place.remember(&layer(number), 0);
        let age = Duration::from_secs(1000 - u64::from(number));
        let file = File::open(place.indexes.path(KEY, &layer(number))).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    // The oldest one is used again.
    assert!(place.indexes.find_one(KEY, &layer(1)).is_some());
    let gone = place.folder.path().join("images/gone.squashfs");
    let six = layer(6);
    About::new(KEY, &six.digest, "gzip", None, &gone).write(&place.indexes.path(KEY, &six), 0);
    fs::write(place.indexes.path(KEY, &layer(7)), "damaged").unwrap();
    fs::write(place.indexes.directory.join("README"), "a site's own").unwrap();
    place.indexes.collect();
    let mut expected: Vec<String> = [1, 4, 5]
        .map(|number| place.indexes.path(KEY, &layer(number)))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    expected.insert(0, "README".to_owned());
    assert_eq!(place.names(), expected);
    fs::remove_file(place.image()).unwrap();
    place.indexes.collect();
    assert_eq!(place.names(), ["README"]);
}
