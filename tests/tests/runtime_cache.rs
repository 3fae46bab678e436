//! perNodeCache: scratch file systems of a job's own on the node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use std::fs;
use std::time::Duration;

const XFS: &str = "/none:/cache:perNodeCache=size=320M";
const SHOW: &str = "grep ' /cache ' /proc/self/mountinfo | sed 's/.* - //' | cut -d' ' -f1; echo x > /cache/file && cat /cache/file";

fn machine(keys: &[(&str, &str)]) -> Machine {
    let machine = Machine::new(&shell_image(), "");
    let place = machine.sandbox.prefix().join("caches");
    fs::create_dir(&place).unwrap();
    let path = place.display().to_string();
    let fixed = [("perNodeCachePath", path.as_str()), ("mkfsXfsPath", "/usr/sbin/mkfs.xfs")];
    machine.sandbox.write_udiroot(&[&fixed[..], keys].concat()).unwrap();
    machine
}

fn left_behind(machine: &Machine) -> usize {
    fs::read_dir(machine.sandbox.prefix().join("caches")).unwrap().count()
}

#[test]
fn a_cache_is_the_users_own_and_its_file_has_no_name() {
    let machine = machine(&[]);
    for (fs, size) in [("xfs", "320M"), ("ext4", "16M"), ("tmpfs", "4M")] {
        let map = format!("/none:/cache:perNodeCache=size={size},fs={fs}");
        let out = machine.run("alice", &["-V", &map, "sh", "-c", SHOW]);
        assert_eq!(out.out(), format!("{fs}\nx\n"), "{}", out.describe());
    }
    let running = machine.start("alice", "read x");
    drop(running);
    let mut child = machine
        .as_user("alice")
        .spawn(&machine.words(&["-V", XFS, "sh", "-c", "echo ready; read x"]))
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    assert_eq!(left_behind(&machine), 0, "nothing has a name while it is used");
    drop(child.stdin.take());
    child.wait().unwrap();
    let out = machine.run("alice", &["-V", &format!("{XFS}:ro"), "sh", "-c", "touch /cache/x"]);
    assert!(out.err().contains("Read-only file system"), "{}", out.describe());
    machine.finish();
}

#[test]
fn a_cache_of_the_sites_is_there_without_asking() {
    let machine = machine(&[("siteFs", "/home:/home;/x:/scratch:perNodeCache=size=8M,fs=ext4")]);
    let out = machine.run("alice", &["sh", "-c", "echo y > /scratch/file && cat /scratch/file"]);
    assert_eq!(out.success().unwrap(), "y\n");
    machine.finish();
}

#[test]
fn a_cache_of_the_site_below_etc_is_made_and_counted_once() {
    let site = [
        ("siteFs", "/home:/home;/none:/etc/cache:perNodeCache=size=16M,fs=ext4"),
        ("perNodeCacheSizeLimit", "20M"),
    ];
    let machine = machine(&site);
    // The overlay over /etc covers the first of two mounts.
    let script = "grep ' /etc/cache ' /proc/self/mountinfo | cut -d' ' -f3 | sort -u | wc -l; echo x > /etc/cache/file && cat /etc/cache/file";
    let out = machine.run("alice", &["sh", "-c", script]);
    assert_eq!(out.out(), "1\nx\n", "{}", out.describe());
    machine.finish();
}

#[test]
fn limits_of_the_site_hold_and_failures_leave_nothing() {
    let machine = machine(&[("perNodeCacheSizeLimit", "1G"), ("perNodeCacheAllowedFsType", "xfs tmpfs")]);
    for (map, expected) in [
        ("/none:/cache:perNodeCache=size=2G", "may have 1073741824 bytes here"),
        ("/none:/cache:perNodeCache=size=8M,fs=ext4", "may be xfs or tmpfs here"),
        ("/none:/cache:perNodeCache=size=8M", "cannot make a file system of 8388608 bytes"),
        ("/none:/etc/x:perNodeCache=size=320M", "cannot be a target"),
        ("/none:/cache:perNodeCache=size=1,fs=btrfs", "has a value it cannot have"),
    ] {
        let said = machine.run("alice", &["-V", map, "true"]).failure(1).unwrap();
        assert!(said.contains(expected) && said.lines().count() == 1, "{map}: {said}");
        assert_eq!(left_behind(&machine), 0, "{map}");
    }
    machine.sandbox.write_udiroot(&[("mkfsXfsPath", "/usr/sbin/mkfs.xfs")]).unwrap();
    let said = machine.run("alice", &["-V", XFS, "true"]).failure(1).unwrap();
    assert!(said.contains("lacks perNodeCachePath"), "{said}");
    machine.finish();
}

#[test]
fn a_start_killed_while_its_cache_is_made_leaves_nothing() {
    let machine = machine(&[]);
    let words = machine.words(&["-V", XFS, "true"]);
    for round in 0..30u64 {
        let mut child = machine.as_user("alice").spawn(&words).unwrap();
        std::thread::sleep(Duration::from_millis(round));
        // Root's, while it is set up: the user could not.
        machine.sandbox.root().run(&["kill", "-9", &child.id().to_string()]).unwrap();
        child.wait().unwrap();
    }
    // mkfs ends by itself.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(left_behind(&machine), 0);
    machine.finish();
}
