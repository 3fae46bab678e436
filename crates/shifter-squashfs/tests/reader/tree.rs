//! Trees on disk with everything that squashfs can hold, and the tools that make images of them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

/// Bytes that do not compress, the same every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed | 1);
    (0..length).map(|_| random.next() as u8).collect()
}

/// xorshift64*: enough to vary inputs, and the same everywhere.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
}

/// Everything at once: kinds, names, owners, modes, sizes around blocks of 4 KiB, 128 KiB and 1 MiB, attributes.
pub(crate) fn grow(root: &Path) {
    let (text, deep) = (root.join("text"), root.join("d/e/e/p"));
    fs::create_dir_all(&text).unwrap();
    fs::create_dir_all(&deep).unwrap();
    for block in [4096, 131_072, 1_048_576] {
        let sizes = [block - 1, block, block + 1, 2 * block + 17];
        for (index, size) in sizes.into_iter().enumerate().skip(if block < 1 << 20 { 0 } else { 3 }) {
            let content: Vec<u8> = b"all work and no play\n".iter().copied().cycle().take(size).collect();
            fs::write(text.join(format!("{block}-{index}")), content).unwrap();
            fs::write(deep.join(format!("{block}-{index}")), noise(size as u64, size)).unwrap();
        }
    }
    for number in 0..300 {
        fs::write(root.join(format!("d/small{number}")), format!("small {number}\n")).unwrap();
    }
    fs::create_dir(root.join("empty directory")).unwrap();
    File::create(root.join("empty file")).unwrap();
    let long = "n".repeat(255);
    fs::write(root.join(&long), "the longest name").unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe \n\x01")), "no text").unwrap();
    symlink("../text/4096-0", root.join("d/link")).unwrap();
    symlink("t".repeat(4000), root.join("long link")).unwrap();
    fs::hard_link(root.join("text/131072-3"), root.join("d/again")).unwrap();
    fs::hard_link(root.join("text/131072-3"), root.join("z")).unwrap();
    fs::hard_link(root.join("d/small7"), root.join("text/seven")).unwrap();

    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", 3_000_000).unwrap();
    sparse.set_len(7_654_321).unwrap();
    File::create(root.join("all hole")).unwrap().set_len(2 << 20).unwrap();

    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(259, 70_000)),
        ("pipe", FileType::Fifo, 0),
    ] {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    drop(UnixListener::bind(root.join("socket")).unwrap());

    for (name, mode) in [("text/4096-1", 0o4755), ("text/4096-2", 0o2711), ("d", 0o1777), ("d/small3", 0)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(root.join("d/small1"), Some(1234), Some(4_000_000_000)).unwrap();
    let large = noise(5, 1500);
    for (name, attribute, value) in [
        ("text/4096-0", "user.one", b"1".as_slice()),
        ("text/4096-3", "user.large", &large),
        ("d/small2", "user.large", &large),
        ("d/small2", "trusted.t", b""),
        ("null", "security.mine", b"\0\xff"),
        ("d/e", "user.directory", b"yes"),
    ] {
        let flags = XattrFlags::empty();
        rustix::fs::lsetxattr(root.join(name), attribute, value, flags).unwrap();
    }
}

/// Makes an image with mksquashfs.
pub(crate) fn mksquashfs(root: &Path, image: &Path, options: &[&str]) {
    let mut command = Command::new("mksquashfs");
    command.args([root, image]).args(["-noappend", "-no-progress", "-quiet"]).args(options);
    run(&mut command);
}

/// Makes an image with tar2sqfs of what GNU tar packs.
pub(crate) fn tar2sqfs(root: &Path, image: &Path, options: &[&str]) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(root).args(["--xattrs", "--xattrs-include=*", "--format=pax", "--sparse", "-c", "."]);
    let tar = tar.stderr(Stdio::null()).output().expect("tar runs");
    let mut command = Command::new("tar2sqfs");
    command.args(["-q", "-f"]).args(options).arg(image).stdin(Stdio::piped());
    let mut child = command.spawn().expect("tar2sqfs runs");
    child.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    assert!(child.wait().unwrap().success(), "tar2sqfs {options:?}");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
