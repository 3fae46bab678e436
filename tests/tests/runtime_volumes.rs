//! What users mount with `--volume`, and what they cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use shifter_tests::fixture::{dir, file, symlink};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::sync::atomic::{AtomicUsize, Ordering};

fn machine() -> Machine {
    let mut entries = shell_image();
    entries.extend([
        dir("data"),
        file("data/of-image", b"image\n"),
        dir("mnt"),
        dir("srv"),
        file("srv/file", b"old\n"),
        symlink("to-etc", "/etc"),
        symlink("to-data", "/data"),
        symlink("round", "/round"),
    ]);
    let machine = Machine::new(&entries, "");
    fs::create_dir_all("/home/alice/in put").unwrap();
    fs::write("/home/alice/in put/file", "alice's\n").unwrap();
    fs::create_dir_all("/home/bob/secret").unwrap();
    fs::write("/home/bob/secret/file", "bob's\n").unwrap();
    fs::set_permissions("/home/bob", fs::Permissions::from_mode(0o700)).unwrap();
    chown("/home/bob", Some(4202), Some(4202)).unwrap();
    fs::create_dir_all("/home/shared/roots").unwrap();
    fs::create_dir_all("/home/alice/own").unwrap();
    chown("/home/alice/own", Some(4201), Some(4201)).unwrap();
    machine
}

#[test]
fn a_volume_shows_its_source_at_its_target() {
    let machine = machine();
    for (volumes, script, expected) in [
        (&["-V", "/home/alice/in put:/mnt"][..], "cat /mnt/file", "alice's\n"),
        (
            &["--volume=\"/home/alice/in put:/mnt\"; /data:/new place;"],
            "ls /mnt '/new place'",
            "file\n\n/new place:\nof-image",
        ),
        (&["-V/data:/opt/mine/deep"], "ls /opt/mine/deep", "of-image\n"),
        (&["-V/data:/to-data:ro", "-V/home/alice/own:/mnt"], "ls /mnt /data | wc -l", "4\n"),
        (&["-V/home/alice/in put/file:/srv/file"], "cat /srv/file", "alice's\n"),
        (
            &["-V/home/alice/in put/file:/tmp-file:ro"],
            "cat /tmp-file; echo x > /tmp-file || echo read-only",
            "alice's\nread-only\n",
        ),
        (&["-V/home/alice/in put:/var/tmp"], "cat /var/tmp/file", "alice's\n"),
        (&["-V/to-data:/mnt"], "ls /mnt", "of-image\n"),
        (&["-V/home/alice/own:/data", "-V/srv:/data"], "ls /data", "file\n"),
        (&["-V/etc:/mnt"], "grep -c alice /mnt/passwd", "1\n"),
        (&["-V/:/mnt"], "ls /mnt/var", "empty"),
    ] {
        let words = [volumes, &["sh", "-c", script]].concat();
        let out = machine.run("alice", &words).out();
        assert!(out.contains(expected.trim_end()), "{volumes:?}: {out}");
    }
    let words =
        ["-V/data:/mnt", "sh", "-c", "grep ' /mnt ' /proc/self/mountinfo; cat /var/shifterConfig.json"];
    let out = machine.run("alice", &words).success().unwrap();
    assert!(out.contains(",nosuid,nodev") && out.contains("\"volMap\":\"/data:/mnt\""), "{out}");
    machine.finish();
}

#[test]
fn environment_volumes_are_mounted_unless_the_command_line_has_some() {
    let machine = machine();
    let user = || machine.as_user("alice").env("SHIFTER_VOLUME", "/data:/mnt");
    let run = |words: &[&str]| user().run(&machine.words(words)).unwrap().success().unwrap();
    assert_eq!(run(&["ls", "/mnt"]), "of-image\n");
    assert_eq!(run(&["-V/srv:/tmp", "sh", "-c", "ls /mnt; ls /tmp"]), "file\n");
    machine.finish();
}

#[test]
fn a_volume_that_cannot_be_mounted_is_refused_in_one_sentence() {
    let machine = machine();
    let places = "is filled by Shifter and cannot be a target";
    for (volume, expected) in [
        ("/nowhere:/mnt", "FAILED to find real path for volume \"from\""),
        ("/nowhere:/mnt", "of the host only siteFs (/home) and /tmp are there"),
        ("/home/bob/secret:/mnt", "Permission denied"),
        ("/round:/mnt", "FAILED to find real path"),
        ("/data:/etc/x", places),
        ("/data:/var/log", places),
        ("/data:/dev", places),
        ("/data:/proc", places),
        ("/data:/sys/fs", places),
        ("/data:/opt/udiImage", places),
        ("/data:/", places),
        ("/data:/to-etc", "leads to /etc, which Shifter fills"),
        ("/data:/to-etc/ssh", "leads to /etc/ssh, which Shifter fills"),
        ("/data:/data/made", "its parent belongs to another mount"),
        ("/data:/home/shared/roots", "is not on an approved device for volume mounts"),
        ("/data:/srv/file", "source and target must both be directories or both be files"),
        ("/data:/mnt:rec", "Invalid mount flags specified"),
        ("/data:/mnt:rw", "\"rw\" is no flag"),
        ("/data", "names no target"),
        ("data:/mnt", "is not an absolute path"),
        ("/data/../etc:/mnt", "has a .. in it"),
        ("/da\nta:/mnt", "control character"),
        ("/proc/self/root:/mnt", "FAILED to find real path"),
        ("/proc/1/cwd:/mnt", "FAILED to find real path"),
    ] {
        let said = machine.run("alice", &["-V", volume, "true"]).failure(1).unwrap();
        assert!(said.contains(expected) && said.lines().count() == 1, "{volume}: {said}");
    }
    let own = machine.run("alice", &["-V/data:/home/alice/own", "ls", "/home/alice/own"]);
    assert_eq!(own.success().unwrap(), "of-image\n", "a directory of the user's own is a good target");
    machine.finish();
}

#[test]
fn sites_narrow_and_widen_where_users_may_mount() {
    let machine = machine();
    fs::write("/etc/shifter/shifter.conf", "volumeDeny=/mnt\nvolumeAllow=/var/lib/db\n").unwrap();
    let said = machine.run("alice", &["-V/data:/mnt", "true"]).failure(1).unwrap();
    assert!(said.contains("cannot be a target"), "{said}");
    let out = machine.run("alice", &["-V/data:/var/lib/db", "ls", "/var/lib/db"]);
    assert_eq!(out.success().unwrap(), "of-image\n");
    machine.finish();
}

#[test]
fn no_volume_reaches_the_host_through_a_mount_the_site_shares_with_it() {
    let machine = machine();
    machine.sandbox.write_udiroot(&[("siteFs", "/home:/home:shared")]).unwrap();
    let said = machine.run("alice", &["-V/data:/home/alice/own", "true"]).failure(1).unwrap();
    assert!(said.contains("the site shares with the host"), "{said}");
    // The leak check would find the mount.
    machine.finish();
}

#[test]
fn a_hundred_volumes_are_mounted() {
    let machine = machine();
    let map: Vec<String> = (0..100).map(|number| format!("/data:/many/v-{number}:ro")).collect();
    let map = map.join(";");
    let out = machine.run("alice", &["-V", &map, "sh", "-c", "cat /many/*/of-image | wc -l"]);
    assert_eq!(out.success().unwrap().trim(), "100");
    machine.finish();
}

/// ST19, ST20: names that change between look-up and mount (CVE-2021-30465). One thread exchanges a directory and a
/// link ten thousand times while containers start; whatever they show, it is never the host's.
#[test]
fn a_source_or_target_exchanged_meanwhile_leads_nowhere_else() {
    let machine = machine();
    let place = "/home/alice/own";
    for name in ["dir", "from", "to"] {
        fs::create_dir(format!("{place}/{name}")).unwrap();
        chown(format!("{place}/{name}"), Some(4201), Some(4201)).unwrap();
    }
    fs::create_dir("/home/alice/own/from/inside").unwrap();
    // The host has this file, no container does.
    let secret = machine.sandbox.prefix().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("hosts-own"), "").unwrap();
    std::os::unix::fs::symlink(&secret, format!("{place}/link")).unwrap();
    std::os::unix::fs::symlink("/etc", format!("{place}/to-link")).unwrap();
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while rounds.fetch_add(1, Ordering::Relaxed) < 10_000 {
                for (one, other) in [("from", "link"), ("to", "to-link")] {
                    let (one, other) = (format!("{place}/{one}"), format!("{place}/{other}"));
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        let (mut started, mut refused) = (0, 0);
        let volumes = format!("{place}/from:/mnt;/srv:{place}/to");
        while rounds.load(Ordering::Relaxed) < 10_000 {
            let script = "ls /mnt; grep -c alice /etc/passwd; ls /etc/file 2>&-";
            let out = machine.run("alice", &["-V", &volumes, "sh", "-c", script]);
            match out.status.code() {
                Some(1) if out.err().starts_with("shifter: FAILED to setup user-requested mounts.") => {
                    refused += 1
                }
                _ => {
                    assert_eq!(out.out(), "inside\n1\n", "{}", out.describe());
                    started += 1;
                }
            }
        }
        assert!(started > 0 && refused > 0, "{started} started, {refused} were refused: nothing was raced");
    });
    machine.finish();
}
