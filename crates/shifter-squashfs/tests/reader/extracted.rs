//! What is written to disk: the tree, nothing that could harm, nothing elsewhere.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use shifter_squashfs::reader::{
    Allowance, ExtractError, Extracted, Fidelity, Image, Limits, Source, extract,
};

use crate::craft::Craft;
use crate::tree::{grow, mksquashfs};

const PLENTY: Allowance = Allowance { bytes: 1 << 30, entries: 10_000 };

fn unpack<S: Source>(source: S, to: &Path, allowance: &Allowance) -> Result<Extracted, ExtractError> {
    let image = Image::open(source, &Limits::default()).unwrap();
    extract(&image, File::open(to).unwrap().as_fd(), allowance, Fidelity::ToRead)
}

/// Path, mode, size, names, time and link target of everything below, in order.
fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let status = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push(if status.is_symlink() {
                format!("{name} -> {}", fs::read_link(&path).unwrap().display())
            } else if status.is_dir() {
                open.push(path);
                format!("{name}/ {:o} {}", status.mode(), status.mtime())
            } else {
                let (mode, names) = (status.mode(), status.nlink());
                format!("{name} {mode:o} {} bytes {names} names {}", status.len(), status.mtime())
            });
        }
    }
    found.sort();
    found
}

#[test]
fn a_tree_is_written_without_rights_and_devices() {
    let to = tempfile::tempdir().unwrap();
    let image = Craft::good();
    let done = unpack(image.bytes.as_slice(), to.path(), &PLENTY).unwrap();
    assert_eq!(done, Extracted { entries: 5, bytes: 4916, left_out: 1 });
    // /a is setuid in the image, /d has the sticky bit, /n is a device.
    let expected = [
        "a 100755 9000 bytes 2 names 1600000000",
        "b 100755 9000 bytes 2 names 1600000000",
        "d/ 40777 1600000000",
        "d/s -> ../a",
        "d/x 100640 12 bytes 1 names 1600000000",
    ];
    assert_eq!(listing(to.path()), expected);
    assert_eq!(fs::read(to.path().join("d/x")).unwrap(), b"content of x");
    let (content, status) =
        (fs::read(to.path().join("a")).unwrap(), fs::metadata(to.path().join("a")).unwrap());
    assert!(
        content[..4096] == [b'A'; 4096] && content[4096..8192] == [0; 4096] && content[8192..] == [b't'; 808]
    );
    let own = fs::metadata("/proc/self").unwrap();
    assert_eq!((status.uid(), status.gid()), (own.uid(), own.gid()), "owners are not taken over");
}

#[test]
fn real_trees_are_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image, to) =
        (folder.path().join("tree"), folder.path().join("image"), folder.path().join("to"));
    grow(&root);
    fs::create_dir(&to).unwrap();
    mksquashfs(&root, &image, &["-comp", "zstd"]);
    let done = unpack(File::open(&image).unwrap(), &to, &PLENTY).unwrap();
    assert_eq!(done.left_out, 4);
    for name in ["null", "block", "pipe", "socket"] {
        assert!(!to.join(name).exists(), "{name}");
        fs::remove_file(root.join(name)).unwrap();
    }
    let plain = |line: String| {
        let (name, rest) = line.split_once(" 10").unwrap_or((&line, ""));
        // Setuid, setgid and sticky bits, and what the owner may not read.
        format!(
            "{name} {}",
            rest.replacen("4755", "0755", 1).replacen("2711", "0711", 1).replacen("0000", "0400", 1)
        )
    };
    let dirs = |line: String| line.replacen("41777", "40777", 1);
    let expected: Vec<String> = listing(&root).into_iter().map(plain).map(dirs).collect();
    assert_eq!(listing(&to).into_iter().map(plain).collect::<Vec<_>>(), expected);
    let compared = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([&root, &to])
        .output()
        .unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    let sparse = fs::metadata(to.join("all hole")).unwrap();
    assert!(sparse.blocks() < 64, "holes take {} blocks", sparse.blocks());
}

#[test]
fn what_lies_in_the_way_is_neither_followed_nor_written_over() {
    let table = [
        ("a", "cannot make file \"/a\" of the image: File exists (os error 17)"),
        ("b", "cannot link \"/b\" of the image: File exists (os error 17)"),
        ("d", "cannot make directory \"/d\" of the image: File exists (os error 17)"),
    ];
    for (name, expected) in table {
        let (to, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let target = if name == "d" { outside.path() } else { victim.as_path() };
        symlink(target, to.path().join(name)).unwrap();
        let error = unpack(Craft::good().bytes.as_slice(), to.path(), &PLENTY).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}

#[test]
fn no_more_is_written_than_allowed() {
    let table = [
        (
            Allowance { bytes: 4915, ..PLENTY },
            "the image unpacks to more than the 4915 bytes allowed (reached at \"/d/x\")",
        ),
        (
            Allowance { entries: 4, ..PLENTY },
            "the image unpacks to more than the 4 entries allowed (reached at \"/d/x\")",
        ),
    ];
    for (allowance, expected) in table {
        let to = tempfile::tempdir().unwrap();
        let error = unpack(Craft::good().bytes.as_slice(), to.path(), &allowance).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let to = tempfile::tempdir().unwrap();
    let just = Allowance { bytes: 4916, entries: 5 };
    assert!(unpack(Craft::good().bytes.as_slice(), to.path(), &just).is_ok());
}

#[test]
fn a_broken_image_is_named_where_it_breaks() {
    let to = tempfile::tempdir().unwrap();
    let image = Craft::good().with("data", &[0xff]);
    let error = unpack(image.bytes.as_slice(), to.path(), &PLENTY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "squashfs image, file data at byte 96, for \"/a\": the block is no valid gzip data of at most 4096 bytes"
    );
}
