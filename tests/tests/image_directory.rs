//! Image directories on file systems that sites have: one that refuses root, as NFS with `root_squash`, and one with a
//! quota.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;

use common::site::{Site, local, names, noise};
use serde_json::Value;
use shifter_tests::fixture::{Built, Image, Layer, dir, file, shell_entries};
use shifter_tests::harness::{Outcome, RegistryOptions, RootSquashed};

const GATEWAY: u32 = 4210;

fn image(seed: u64) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("etc/noise", noise(400_000, seed))];
    entries.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(entries)]).build().unwrap()
}

/// A site whose images are in a directory of such a file system, of this mode; with what it shows.
fn site(images: &[(&str, &Built)], mode: u32) -> (Site, RootSquashed, PathBuf) {
    let mut site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (tag, built) in images {
            sandbox.push(&registry, built, "app", tag).unwrap();
        }
        vec![local(&registry.url)]
    });
    let squashed = site.sandbox.root_squashed().unwrap();
    let behind = squashed.behind.join("images");
    fs::create_dir(&behind).unwrap();
    chown(&behind, Some(GATEWAY), Some(GATEWAY)).unwrap();
    fs::set_permissions(&behind, fs::Permissions::from_mode(mode)).unwrap();
    let place = squashed.path.join("images").display().to_string();
    let mut config: Value = serde_json::from_slice(&fs::read(&site.gateway.config).unwrap()).unwrap();
    config["Platforms"]["testsystem"]["local"]["imageDir"] = place.clone().into();
    fs::write(&site.gateway.config, config.to_string()).unwrap();
    let url = format!("http://{}", site.gateway.authority);
    let keys = [("imageGateway", url.as_str()), ("system", "testsystem"), ("imagePath", &place)];
    site.sandbox.write_udiroot(&keys).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    (site, squashed, behind)
}

fn reconcile(site: &Site, words: &[&str]) -> Outcome {
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let config = site.gateway.config.display().to_string();
    let all = [&[program.as_str(), "reconcile", "--config", &config], words].concat();
    site.sandbox.root().run(&all).unwrap()
}

#[test]
fn a_gateway_keeps_images_on_a_file_system_that_refuses_root() {
    let (one, two) = (image(1), image(2));
    let (mut site, squashed, behind) = site(&[("1", &one), ("2", &two)], 0o755);
    site.pull("alice", "app:1").success().unwrap();
    site.pull("bob", "app:1").success().unwrap();
    site.pull("alice", "app:2").success().unwrap();
    for name in names(&behind) {
        let found = fs::metadata(behind.join(&name)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (GATEWAY, 0o600), "{name}");
    }
    assert_eq!(site.run("alice", "app:1", &["cat", "/etc/noise"]).status.code(), Some(0));
    site.shifterimg("alice", &["rm", "app:2"]).success().unwrap();
    let files: Vec<String> = ["meta", "squashfs"].map(|end| format!("{}.{end}", one.id())).into();
    assert_eq!(names(&behind), files);
    assert!(reconcile(&site, &[]).success().unwrap().contains("agree"), "the running gateway looks");
    // Without one it is root who looks, and may list, but not read.
    site.sandbox.stop(site.gateway.daemon).unwrap();
    for words in [&[][..], &["--fix"]] {
        let said = reconcile(&site, words);
        let text = said.out() + &said.err();
        assert!(!said.status.success() && text.contains("Permission denied"), "{}", said.describe());
        assert!(!text.contains("has no .meta"), "{text}");
        assert_eq!(names(&behind), files);
    }
    squashed.remove().unwrap();
    site.finish();
}

/// ST47.
#[test]
fn a_quota_on_the_image_directory_is_said_and_leaves_nothing() {
    let (one, two) = (image(1), image(2));
    let (mut site, squashed, behind) = site(&[("1", &one), ("2", &two)], 0o700);
    site.pull("alice", "app:1").success().unwrap();
    let before = names(&behind);
    let used: u64 = before.iter().map(|name| fs::metadata(behind.join(name)).unwrap().len()).sum();
    for quota in [used + 10_000, used + 300_000] {
        squashed.set_quota(Some(quota));
        let said = site.pull("bob", "app:2");
        assert!(said.err().contains("quota exceeded"), "{}", said.describe());
        assert_eq!(names(&behind), before, "nothing is left");
    }
    // What needs no room goes on: another one's grant of what is there, whose list is not longer.
    site.pull("bob", "app:1").success().unwrap();
    assert_eq!(site.run("bob", "app:1", &["true"]).status.code(), Some(0));
    squashed.set_quota(None);
    site.pull("bob", "app:2").success().unwrap();
    assert_eq!(site.run("bob", "app:2", &["true"]).status.code(), Some(0));
    site.sandbox.stop(site.gateway.daemon).unwrap();
    squashed.remove().unwrap();
    site.finish();
}
