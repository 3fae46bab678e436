//! Image formats beside squashfs, and directories of the host as images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;

const ID: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// A machine and a tree of root's with a shell, as images are unpacked.
fn machine() -> (Machine, PathBuf) {
    let machine = Machine::new(&shell_image(), "");
    let tree = machine.sandbox.prefix().join("tree");
    for directory in ["bin", "etc", "usr/lib", "var/lib/state", "opt/tool"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["sh", "cat", "id", "grep", "ls"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    fs::write(tree.join("etc/os-release"), "NAME=tree\n").unwrap();
    fs::write(tree.join("etc/private"), "root's\n").unwrap();
    fs::set_permissions(tree.join("etc/private"), fs::Permissions::from_mode(0o600)).unwrap();
    (machine, tree)
}

fn root(machine: &Machine, script: &str) {
    machine.sandbox.root().run(&["sh", "-ec", script]).unwrap().success().unwrap();
}

const SHOW: [&str; 3] =
    ["sh", "-c", "cat /etc/os-release; id -u; ls /opt /var/lib; echo > /usr/x || echo read-only"];
const SHOWN: &str = "NAME=tree\n4201\n/opt:\ntool\nudiImage\n\n/var/lib:\nstate\nread-only\n";

#[test]
fn erofs_xfs_and_directory_images_start_like_squashfs() {
    let (machine, tree) = machine();
    let (images, tree) = (machine.sandbox.images().display().to_string(), tree.display().to_string());
    let image = format!("--image=id:{ID}");
    let run =
        || machine.as_user("alice").run(&machine.program(&[&[image.as_str()], &SHOW[..]].concat())).unwrap();
    for (format, make) in [
        ("erofs", format!("mkfs.erofs --quiet {images}/{ID}.erofs {tree}")),
        (
            "xfs",
            format!(
                "truncate -s 320M {images}/{ID}.xfs; mkfs.xfs -q {images}/{ID}.xfs; mkdir -p {tree}.m; \
                 mount -o loop {images}/{ID}.xfs {tree}.m; cp -a {tree}/. {tree}.m; umount {tree}.m"
            ),
        ),
        ("VFS", format!("cp -a {tree} {images}/{ID}")),
    ] {
        root(&machine, &make);
        if format == "xfs" {
            machine.sandbox.write_record(ID, "FORMAT: xfs\n").unwrap();
            let said = run().failure(1).unwrap();
            assert!(
                said.contains("format \"xfs\" is not supported") && said.contains("xfsImages=1"),
                "{said}"
            );
            fs::write("/etc/shifter/shifter.conf", "xfsImages=1\n").unwrap();
        }
        machine.sandbox.write_record(ID, &format!("FORMAT: {format}\n")).unwrap();
        let out = run();
        assert_eq!(out.out(), SHOWN, "{format}: {}", out.describe());
    }
    // The name the original looked for, and a directory that is somebody else's.
    root(&machine, &format!("mv {images}/{ID} {images}/{ID}."));
    assert_eq!(run().out(), SHOWN);
    chown(format!("{images}/{ID}."), Some(4202), None).unwrap();
    let said = run().failure(1).unwrap();
    assert!(said.contains("belongs neither to root nor to the image owner"), "{said}");
    machine.finish();
}

#[test]
fn containers_of_one_erofs_image_share_its_device() {
    let (machine, tree) = machine();
    let (images, tree) = (machine.sandbox.images().display().to_string(), tree.display().to_string());
    root(&machine, &format!("mkfs.erofs --quiet {images}/{ID}.erofs {tree}"));
    machine.sandbox.write_record(ID, "FORMAT: erofs\n").unwrap();
    let image = format!("--image=id:{ID}");
    let words = machine.program(&[&image, "sh", "-c", "grep ' /usr ' /proc/self/mountinfo; exec cat"]);
    let mut first = machine.as_user("alice").spawn(&words).unwrap();
    use std::io::{BufRead as _, BufReader};
    let mut line = String::new();
    BufReader::new(first.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let other = machine.as_user("bob").stdin("").run(&words).unwrap().success().unwrap();
    let device = |line: &str| line.split(' ').nth(2).unwrap().to_owned();
    assert_eq!(device(&line), device(&other));
    drop(first.stdin.take());
    first.wait().unwrap();
    machine.finish();
}

#[test]
fn a_directory_is_an_image_only_where_site_and_permissions_allow() {
    let (machine, tree) = machine();
    let local = format!("--image=local:{}", tree.display());
    let run = |words: &[&str]| machine.as_user("alice").run(&machine.program(words)).unwrap();
    let said = run(&[&local, "id"]).failure(1).unwrap();
    assert!(said.contains("lacks allowLocalChroot=1"), "{said}");
    let of_site = machine.sandbox.prefix().join("udiImage");
    fs::create_dir(&of_site).unwrap();
    fs::write(of_site.join("file"), "the site's\n").unwrap();
    let of_site = of_site.display().to_string();
    machine.sandbox.write_udiroot(&[("allowLocalChroot", "1"), ("optUdiImage", &of_site)]).unwrap();
    assert_eq!(run(&[&[local.as_str()], &SHOW[..]].concat()).out(), SHOWN);
    let out = run(&[&local, "sh", "-c", "cat /etc/private; cat /var/shifterConfig.json"]);
    assert!(out.err().contains("Permission denied"), "{}", out.describe());
    assert!(out.out().contains(&format!("\"identifier\":\"{}\"", tree.display())), "{}", out.describe());
    for closed in [tree.clone(), tree.join("var"), tree.join("etc")] {
        for mode in [0o700, 0o711] {
            fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
            let out = run(&[&local, "ls", "/var/lib", "/etc/private"]);
            assert!(out.err().contains("Permission denied"), "{closed:?} {mode:o}: {}", out.describe());
            assert!(!out.out().contains("state") || closed.ends_with("etc"), "{}", out.describe());
        }
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let out = run(&["--image=local:/", "/bin/sh", "-c", "ls -d /usr /etc/passwd /opt/udiImage"]);
    assert_eq!(out.success().unwrap(), "/etc/passwd\n/opt/udiImage\n/usr\n");
    let out = run(&[&local, "cat", "/opt/udiImage/file"]);
    assert_eq!(out.out(), "the site's\n", "{}", out.describe());
    for (path, expected) in
        [("/nowhere", "No such file"), ("/etc/passwd", "Not a directory"), ("/proc/self/root", "")]
    {
        let said = run(&[&format!("--image=local:{path}"), "id"]).failure(1).unwrap();
        assert!(said.contains(expected) && said.lines().count() == 1, "{path}: {said}");
    }
    machine.finish();
}
