//! Sites keep images and users' files on file systems that give root no rights (NFS with `root_squash`): what works
//! there, whose rights it needs, and what is said where it cannot work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::harness::RootSquashed;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

const GATEWAY: u32 = 4210;
const ALICE: u32 = 4201;

fn give(path: impl AsRef<Path>, owner: u32, mode: u32) {
    chown(&path, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory behind the squashed file system.
fn make(squashed: &RootSquashed, path: &str, owner: u32, mode: u32) {
    fs::create_dir(squashed.behind.join(path)).unwrap();
    give(squashed.behind.join(path), owner, mode);
}

/// Moves the machine's image into a directory `images` of the gateway's, which nobody else can read.
fn move_images(machine: &Machine, squashed: &RootSquashed, parent: &str) -> String {
    let images = format!("{parent}images");
    make(squashed, &images, GATEWAY, 0o700);
    for suffix in ["squashfs", "meta"] {
        let old = machine.sandbox.image_file(&machine.id, suffix);
        let new = squashed.behind.join(&images).join(old.file_name().unwrap());
        fs::rename(old, &new).unwrap();
        give(new, GATEWAY, 0o600);
    }
    squashed.path.join(images).display().to_string()
}

#[test]
fn the_stand_in_refuses_root_and_asks_others_for_their_permissions() {
    let mut machine = Machine::new(&shell_image(), "");
    let squashed = machine.sandbox.root_squashed().unwrap();
    make(&squashed, "closed", ALICE, 0o700);
    fs::write(squashed.behind.join("closed/file"), "alice's\n").unwrap();
    give(squashed.behind.join("closed/file"), ALICE, 0o600);
    let file = squashed.path.join("closed/file").display().to_string();
    let list = ["ls", &squashed.path.join("closed").display().to_string()];
    let as_alice = machine.as_user("alice");
    assert_eq!(as_alice.run(&["cat", &file]).unwrap().success().unwrap(), "alice's\n");
    assert_eq!(as_alice.run(&list).unwrap().success().unwrap(), "file\n");
    for other in [machine.sandbox.root(), machine.as_user("bob")] {
        for words in [&["cat", file.as_str()], &list] {
            let said = other.run(words).unwrap();
            assert!(
                !said.status.success() && said.err().contains("Permission denied"),
                "{}",
                said.describe()
            );
        }
    }
    squashed.remove().unwrap();
    machine.finish();
}

#[test]
fn images_that_only_their_owner_may_open_start_privately_and_prepared() {
    let mut machine = Machine::new(&shell_image(), "");
    let squashed = machine.sandbox.root_squashed().unwrap();
    let images = move_images(&machine, &squashed, "");
    machine.sandbox.write_udiroot(&[("imagePath", &images)]).unwrap();
    let read = machine.sandbox.root().run(&["cat", &format!("{images}/{}.meta", machine.id)]).unwrap();
    assert!(read.err().contains("Permission denied"), "root itself has no access: {}", read.describe());
    let out = machine.run("alice", &["sh", "-c", "id -u; stat -f -c %T /bin"]);
    assert_eq!(out.out(), "4201\nsquashfs\n", "{}", out.describe());
    let program = |name: &str| machine.sandbox.program(name).unwrap().display().to_string();
    let words = [&program("setupRoot"), "-U", "4201", "-G", "4201", "-u", "alice", "id", &machine.id];
    machine.sandbox.root().run(&words).unwrap().success().unwrap();
    let out = machine.run("alice", &["-v", "true"]);
    assert!(out.status.success() && out.err().contains("joined     the container"), "{}", out.describe());
    machine.sandbox.root().run(&[&program("unsetupRoot")]).unwrap().success().unwrap();
    squashed.remove().unwrap();
    machine.finish();
}

#[test]
fn an_image_directory_below_one_that_root_cannot_search_is_refused_by_its_path() {
    let mut machine = Machine::new(&shell_image(), "");
    let squashed = machine.sandbox.root_squashed().unwrap();
    make(&squashed, "service", GATEWAY, 0o700);
    let images = move_images(&machine, &squashed, "service/");
    machine.sandbox.write_udiroot(&[("imagePath", &images)]).unwrap();
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    let expected = format!("cannot open {images}: Permission denied");
    assert!(said.contains(&expected) && said.lines().count() == 1, "{said}");
    give(squashed.behind.join("service"), GATEWAY, 0o711);
    machine.run("alice", &["true"]).success().unwrap();
    squashed.remove().unwrap();
    machine.finish();
}

#[test]
fn a_volume_is_opened_with_its_users_rights_and_a_site_mount_with_roots() {
    let mut machine = Machine::new(&shell_image(), "");
    let squashed = machine.sandbox.root_squashed().unwrap();
    make(&squashed, "alice", ALICE, 0o700);
    make(&squashed, "alice/data", ALICE, 0o700);
    fs::write(squashed.behind.join("alice/data/file"), "alice's\n").unwrap();
    give(squashed.behind.join("alice/data/file"), ALICE, 0o600);
    let export = squashed.path.display().to_string();
    machine.sandbox.write_udiroot(&[("siteFs", &format!("{export}:/export"))]).unwrap();
    let volume = "-V/export/alice/data:/mnt";
    let out = machine.run("alice", &[volume, "cat", "/mnt/file", "/export/alice/data/file"]);
    assert_eq!(out.out(), "alice's\nalice's\n", "{}", out.describe());
    let out = machine.run("alice", &["-w/export/alice/data", "cat", "file"]);
    assert_eq!(out.out(), "alice's\n", "{}", out.describe());
    let said = machine.run("bob", &[volume, "true"]).failure(1).unwrap();
    let sentence =
        "FAILED to find real path for volume \"from\": cannot find /export/alice/data: Permission denied";
    assert!(said.contains(sentence) && said.lines().count() == 1, "{said}");
    // The directory itself need not be open to root, those above it must be.
    machine.sandbox.write_udiroot(&[("siteFs", &format!("{export}/alice:/mine"))]).unwrap();
    assert_eq!(machine.run("alice", &["cat", "/mine/data/file"]).success().unwrap(), "alice's\n");
    machine.sandbox.write_udiroot(&[("siteFs", &format!("{export}/alice/data:/mine"))]).unwrap();
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    let sentence = format!("cannot open {export}/alice/data: Permission denied");
    assert!(said.contains(&sentence) && said.lines().count() == 1, "{said}");
    squashed.remove().unwrap();
    machine.finish();
}
