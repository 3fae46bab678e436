//! A new tag of an image that is known: only what changed is fetched, and the image is the one that a gateway makes
//! that knows nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::site::{Site, local, names};
use shifter_tests::fixture::{Built, Image, Layer, dir, file, shell_entries};
use shifter_tests::harness::RegistryOptions;

/// Three layers, of which the last one says which release it is.
fn release(number: u32) -> Built {
    let mut base = vec![dir("."), dir("bin"), dir("etc"), dir("opt"), file("etc/release", "none")];
    base.extend(shell_entries("bin").unwrap());
    let large: String = (0..60_000).map(|line| format!("line {line} of what stays\n")).collect();
    let middle = vec![dir("opt"), file("opt/large", large.as_bytes()), file("opt/small", "small")];
    let top = vec![dir("etc"), file("etc/release", format!("{number}"))];
    Image::new(vec![Layer::new(base), Layer::new(middle), Layer::new(top)]).build().unwrap()
}

fn site_with(images: &[(&Built, &str)]) -> Site {
    Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (built, tag) in images {
            sandbox.push(&registry, built, "app", tag).unwrap();
        }
        vec![local(&registry.url)]
    })
}

impl Looked for Site {
    fn blobs(&self) -> PathBuf {
        self.gateway.state.join("cache/sha256")
    }

    fn image(&self, built: &Built) -> Vec<u8> {
        fs::read(self.gateway.images.join(format!("{}.squashfs", built.id()))).unwrap()
    }
}

/// What these tests look at.
trait Looked {
    fn blobs(&self) -> PathBuf;
    fn image(&self, built: &Built) -> Vec<u8>;

    /// Takes all blobs out of the cache, so that those that lie there next have been fetched.
    fn forget_blobs(&self) {
        for name in names(&self.blobs()) {
            fs::remove_file(self.blobs().join(name)).unwrap();
        }
    }

    fn fetched(&self) -> Vec<String> {
        names(&self.blobs()).into_iter().filter(|name| !name.starts_with('.')).collect()
    }
}

fn hex(digests: &[String]) -> Vec<String> {
    let mut hex: Vec<String> = digests.iter().map(|d| d.trim_start_matches("sha256:").to_owned()).collect();
    hex.sort();
    hex
}

/// The image as a gateway makes it that has an empty cache.
fn fresh(built: &Built) -> Vec<u8> {
    apart(|| {
        let site = site_with(&[(built, "x")]);
        site.pull("alice", "local/app:x").success().unwrap();
        let image = site.image(built);
        site.finish();
        image
    })
}

/// A sandbox takes its thread along, so each needs one.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn of_a_new_release_only_the_layer_that_changed_is_fetched() {
    let releases = [release(1), release(2), release(3)];
    let expected = [fresh(&releases[1]), fresh(&releases[2])];
    let site = site_with(&[(&releases[0], "1"), (&releases[1], "2"), (&releases[2], "3")]);
    site.pull("alice", "local/app:1").success().unwrap();
    assert_eq!(site.fetched(), hex(&releases[0].layer_digests()));
    for ((number, built), expected) in [("2", &releases[1]), ("3", &releases[2])].into_iter().zip(&expected) {
        site.forget_blobs();
        site.pull("alice", &format!("local/app:{number}")).success().unwrap();
        assert_eq!(site.fetched(), hex(&built.layer_digests()[2..]), "release {number}");
        assert!(site.image(built) == *expected, "release {number} is another image");
        let script = "cat /etc/release; wc -l < /opt/large; cat /opt/small";
        assert_eq!(site.script(&format!("local/app:{number}"), script), format!("{number}60000\nsmall"));
    }
    assert_eq!(site.expansions(), [] as [&str; 0]);
    let index = site.gateway.state.join("cache/index");
    assert_eq!(names(&index).len(), 5, "{:?}", names(&index));
    site.finish();
}

/// What can happen between two pulls, by the state directory and the image directory.
type Mishap = fn(&Path, &Path);

#[test]
fn whatever_happened_to_what_is_remembered_the_image_is_the_same() {
    let (one, two) = (release(1), release(2));
    let expected = fresh(&two);
    let mishaps: [(&str, Mishap); 5] = [
        ("nothing is remembered", |state, _| fs::remove_dir_all(state.join("cache/index")).unwrap()),
        ("it is damaged", |state, _| change(&state.join("cache/index"), |bytes| bytes[100] ^= 1)),
        ("it is cut short", |state, _| change(&state.join("cache/index"), |bytes| bytes.truncate(200))),
        ("the image is gone", |_, images| change(images, Vec::clear)),
        ("the image is damaged", |_, images| {
            change(images, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
        }),
    ];
    let attempt = |what: &str, mishap: Mishap| {
        let site = site_with(&[(&one, "1"), (&two, "2")]);
        site.pull("alice", "local/app:1").success().unwrap();
        site.forget_blobs();
        mishap(&site.gateway.state, &site.gateway.images);
        site.pull("alice", "local/app:2").success().unwrap();
        assert_eq!(site.fetched(), hex(&two.layer_digests()), "{what}");
        assert!(site.image(&two) == expected, "{what}: another image");
        site.finish();
    };
    for (what, mishap) in mishaps {
        apart(|| attempt(what, mishap));
    }
}

fn change(folder: &Path, change: fn(&mut Vec<u8>)) {
    for name in names(folder) {
        let path = folder.join(name);
        if path.extension().is_some_and(|extension| extension != "meta") {
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
    }
}
