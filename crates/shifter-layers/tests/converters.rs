//! The merged stream through both squashfs tools and back through the kernel: what users will see. Needs
//! root (loop mounts), tar2sqfs and mksquashfs 4.5 or newer; a missing one fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{dir, file, hard, merge_tars, mode, symlink, tar_of};
use shifter_layers::Limits;

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn convert_and_mount(tool: &str, stream: &[u8], folder: &Path) -> Mounted {
    let image = folder.join(tool);
    let mut command = Command::new(tool);
    match tool {
        "tar2sqfs" => command.args(["--quiet", "--no-skip", "-c", "zstd"]).arg(&image),
        _ => command.arg("-").arg(&image).args([
            "-tar",
            "-comp",
            "zstd",
            "-root-mode",
            "0755",
            "-exit-on-error",
        ]),
    };
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stream).unwrap();
    assert!(child.wait().unwrap().success(), "{tool}");
    let place = folder.join(format!("{tool}.mnt"));
    fs::create_dir(&place).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).args([&image, &place]).status();
    assert!(mounted.unwrap().success(), "{tool}");
    Mounted(place)
}

/// Every name below `place`: type, mode, size of files, target of symlinks; sorted.
fn tree(place: &Path, below: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(place.join(below)).unwrap() {
        let name = below.join(entry.unwrap().file_name());
        let full = place.join(&name);
        let status = fs::symlink_metadata(&full).unwrap();
        assert_eq!((status.uid(), status.gid()), (0, 0));
        let shown = name.as_os_str().as_bytes().escape_ascii();
        if status.is_dir() {
            lines.push(format!("d {:o} {shown}", status.mode() & 0o7777));
            tree(place, &name, lines);
        } else if status.is_symlink() {
            let target = fs::read_link(&full).unwrap();
            lines.push(format!("l {shown} -> {}", target.as_os_str().as_bytes().escape_ascii()));
        } else {
            assert!(status.is_file(), "{shown}");
            lines.push(format!(
                "f {:o} {shown} {} links {}",
                status.mode() & 0o7777,
                status.len(),
                status.nlink()
            ));
        }
    }
    lines.sort();
}

#[test]
fn users_see_the_same_image_through_either_tool() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(255));
    let exact = "e".repeat(100);
    let target = "t".repeat(400);
    let layers = [
        tar_of(&[
            mode(dir("etc"), 0o700),
            file("etc/shadow", "root:secret"),
            file("etc/os-release", "ID=test\n"),
            mode(file("su", "su"), 0o4711),
            file("gone", "1"),
            mode(dir("tmp"), 0o1777),
            file("z-target", "linked"),
            dir("usr"),
        ]),
        tar_of(&[
            file(".wh.gone", ""),
            hard("a-link", "z-target"),
            hard("usr/m-link", "a-link"),
            file(&long, vec![1; 200_000]),
            file(&exact, "exact"),
            hard(format!("{exact}-link"), &exact),
            symlink("symlink", &target),
            file(b"caf\xe9\xff", "bytes"),
            hard(b"\xfelink", b"caf\xe9\xff"),
            file("unit-\\x2d.slice", "systemd"),
            file("new\nline", "1"),
            file(" leading", "1"),
            file("empty", ""),
            file("dev/console", ""),
        ]),
    ];
    let (stream, summary) = merge_tars(&layers, &Limits::default()).unwrap();
    let mut expected: Vec<String> = vec![
        "d 755 etc".into(),
        "f 400 etc/shadow 0 links 1".into(),
        "f 644 etc/os-release 8 links 1".into(),
        "f 755 su 2 links 1".into(),
        "d 1777 tmp".into(),
        "f 644 a-link 6 links 3".into(),
        "f 644 z-target 6 links 3".into(),
        "d 755 usr".into(),
        "f 644 usr/m-link 6 links 3".into(),
        format!("d 755 {}", "d".repeat(150)),
        format!("f 644 {long} 200000 links 1"),
        format!("f 644 {exact} 5 links 2"),
        format!("f 644 {exact}-link 5 links 2"),
        format!("l symlink -> {target}"),
        "f 644 caf\\xe9\\xff 5 links 2".into(),
        "f 644 \\xfelink 5 links 2".into(),
        "f 644 unit-\\\\x2d.slice 7 links 1".into(),
        "f 644 new\\nline 1 links 1".into(),
        "f 644  leading 1 links 1".into(),
        "f 644 empty 0 links 1".into(),
        "d 755 dev".into(),
    ];
    expected.sort();
    for tool in ["tar2sqfs", "mksquashfs"] {
        let folder = tempfile::tempdir().unwrap();
        let mounted = convert_and_mount(tool, &stream, folder.path());
        let mut lines = Vec::new();
        tree(&mounted.0, Path::new(""), &mut lines);
        assert_eq!(lines, expected, "{tool}");
        assert_eq!(fs::metadata(&mounted.0).unwrap().mode() & 0o7777, 0o755, "{tool}: root");
        let inode = |name: &[u8]| fs::metadata(mounted.0.join(OsStr::from_bytes(name))).unwrap().ino();
        assert_eq!(inode(b"a-link"), inode(b"z-target"), "{tool}");
        assert_eq!(inode(b"a-link"), inode(b"usr/m-link"), "{tool}");
        assert_eq!(inode(b"\xfelink"), inode(b"caf\xe9\xff"), "{tool}");
        assert_eq!(fs::read(mounted.0.join("z-target")).unwrap(), b"linked");
        assert_eq!(fs::read(mounted.0.join(&long)).unwrap(), vec![1; 200_000]);
        let image = fs::read(folder.path().join(tool)).unwrap();
        let inodes = u32::from_le_bytes(image[4..8].try_into().unwrap());
        assert_eq!(u64::from(inodes), summary.directories + summary.files + summary.symlinks, "{tool}");
    }
}
