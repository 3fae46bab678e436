//! What a site adds to every container: hooks, its own tree, mounts, files of its own for `/etc`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use shifter_tests::fixture::{dir, file};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn hooks_see_the_root_being_assembled_before_and_after_the_sites_mounts() {
    let machine = Machine::new(&shell_image(), "ENV: LD_PRELOAD=/evil.so\n");
    let pre = machine.script(
        "pre.sh",
        "mkdir global; mkdir -p var/opt/cray; env > opt/env; ls -l /proc/self/fd > opt/fds",
    );
    let post = machine.script("post.sh", "ln -s global/u1 project; ls global > opt/seen");
    fs::create_dir_all("/home/shared/inside").unwrap();
    machine
        .sandbox
        .write_udiroot(&[
            ("sitePreMountHook", &pre),
            ("sitePostMountHook", &post),
            ("siteFs", "/home/shared:/global/u1;\\\n   /home/alice:/var/opt/cray/alps:ro"),
        ])
        .unwrap();
    let words =
        ["sh", "-c", "ls /project; cat /opt/seen /opt/env; touch /var/opt/cray/alps/x || echo read-only"];
    let out =
        machine.as_user("alice").env("MINE", "1").run(&machine.words(&words)).unwrap().success().unwrap();
    for line in ["inside", "u1", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "read-only"] {
        assert!(out.lines().any(|found| found == line), "{line}:\n{out}");
    }
    assert!(!out.contains("LD_PRELOAD") && !out.contains("MINE"), "hooks get nothing of the user's: {out}");
    let open = machine.run("alice", &["cat", "/opt/fds"]).success().unwrap();
    assert!(open.contains(" 0 -> ") && open.contains("/dev/null\n") && open.lines().count() <= 5, "{open}");
    machine.finish();
}

#[test]
fn a_failing_hook_stops_the_start() {
    let machine = Machine::new(&shell_image(), "");
    for (key, expected) in [
        ("sitePreMountHook", "Site premount hook failed. Exiting."),
        ("sitePostMountHook", "Site postmount hook failed."),
    ] {
        let hook = machine.script("fails.sh", "exit 3");
        machine.sandbox.write_udiroot(&[(key, &hook)]).unwrap();
        let said = machine.run("alice", &["true"]).failure(1).unwrap();
        assert!(said.contains(expected), "{said}");
    }
    machine.finish();
}

#[test]
fn the_sites_tree_is_copied_readable_by_all_and_never_written_back() {
    let machine = Machine::new(&shell_image(), "");
    let tree = machine.sandbox.prefix().join("udiImage");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/tool"), "#!/bin/sh\necho tool of the site\n").unwrap();
    fs::set_permissions(tree.join("bin/tool"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(tree.join("secret"), "readable").unwrap();
    fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("bin/tool", tree.join("link")).unwrap();
    let path = tree.display().to_string();
    let keys = [("optUdiImage", path.as_str()), ("siteEnvAppend", "PATH=/opt/udiImage/bin")];
    machine.sandbox.write_udiroot(&keys).unwrap();
    let out = machine.run("alice", &["sh", "-c", "tool; cat /opt/udiImage/secret; /opt/udiImage/link"]);
    assert_eq!(out.success().unwrap(), "tool of the site\nreadabletool of the site\n");
    let out = machine.run("alice", &["sh", "-c", "echo x > /opt/udiImage/secret"]);
    assert!(!out.status.success(), "{}", out.describe());
    machine.finish();
}

#[test]
fn a_site_tree_is_copied_once_per_state_and_a_running_container_keeps_what_it_was_built_with() {
    let machine = Machine::new(&shell_image(), "");
    let tree = machine.sandbox.prefix().join("udiImage");
    fs::create_dir_all(tree.join("lib/deep")).unwrap();
    fs::write(tree.join("lib/deep/version"), "one\n").unwrap();
    machine.sandbox.write_udiroot(&[("optUdiImage", &tree.display().to_string())]).unwrap();
    // Copies are named by sixteen hexadecimal digits; beside them lies a lock.
    let copies = || {
        let names = fs::read_dir("/run/shifter/copies").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.len() == 16).count()
    };
    let show = ["cat", "/opt/udiImage/lib/deep/version"];
    let running = machine.start("alice", "read x; cat /opt/udiImage/lib/deep/version");
    assert_eq!(machine.run("bob", &show).success().unwrap(), "one\n");
    assert_eq!(copies(), 1);
    fs::write(tree.join("lib/deep/version"), "two!\n").unwrap();
    assert_eq!(machine.run("bob", &show).success().unwrap(), "two!\n");
    assert_eq!(copies(), 2);
    let out = running.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "one\n");
    machine.finish();
}

#[test]
fn a_copy_that_was_cut_short_is_made_anew() {
    let machine = Machine::new(&shell_image(), "");
    let tree = machine.sandbox.prefix().join("udiImage");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("whole"), "whole\n").unwrap();
    fs::create_dir_all("/run/shifter/copies/partial/some/dir").unwrap();
    fs::set_permissions("/run/shifter", fs::Permissions::from_mode(0o700)).unwrap();
    fs::write("/run/shifter/copies/partial/some/file", "half").unwrap();
    machine.sandbox.write_udiroot(&[("optUdiImage", &tree.display().to_string())]).unwrap();
    let out = machine.run("alice", &["sh", "-c", "ls /opt/udiImage; cat /opt/udiImage/whole"]);
    assert_eq!(out.success().unwrap(), "modules\nwhole\nwhole\n");
    assert!(!std::path::Path::new("/run/shifter/copies/partial").exists());
    machine.finish();
}

#[test]
fn files_of_the_site_take_the_place_of_generated_ones() {
    let machine = Machine::new(&shell_image(), "");
    let etc = machine.sandbox.prefix().join("etc");
    let write = |name: &str, text: &str| fs::write(etc.join(name), text).unwrap();
    write("passwd", "root:x:0:0::/:/bin/sh\nalice:x:4201:4201::/home/alice:/bin/sh\n");
    write("group", "root:x:0:\nphysics:x:4301:bob\nother:x:77:alice\n");
    machine.sandbox.write_udiroot(&[("populateEtcDynamically", "0"), ("allowLibcPwdCalls", "0")]).unwrap();
    let said = machine.run("alice", &["id"]).failure(1).unwrap();
    assert!(said.contains("nsswitch.conf") && said.contains("populateEtcDynamically=1"), "{said}");
    write("nsswitch.conf", "passwd: files\ngroup: files\n");
    write("clustername", "example");
    let out =
        machine.run("alice", &["cat", "/etc/passwd", "/etc/group", "/etc/group.orig", "/etc/clustername"]);
    assert_eq!(
        out.success().unwrap(),
        "root:x:0:0::/:/bin/sh\nalice:x:4201:4201::/home/alice:/bin/sh\nphysics:x:4301:alice\nother:x:77:\n\
         root:x:0:\nphysics:x:4301:bob\nother:x:77:alice\nexample"
    );
    machine.finish();
}

#[test]
fn imported_users_come_with_their_groups_from_the_sites_files_or_the_hosts() {
    let machine = Machine::new(&shell_image(), "");
    let etc = machine.sandbox.prefix().join("etc");
    let text = "alice:x:4201:4201::/home/alice:/bin/sh\nsshd:x:74:4302::/:/sbin/nologin\n";
    fs::write(etc.join("passwd"), text).unwrap();
    machine.sandbox.write_udiroot(&[("allowLibcPwdCalls", "0"), ("usersToImport", "sshd bob")]).unwrap();
    let out = machine.run("alice", &["sh", "-c", "cut -d: -f1,3,4 /etc/passwd; sort /etc/group"]);
    let groups = fs::read_to_string("/etc/group").unwrap();
    let line =
        |gid: &str| groups.lines().find(|line| line.split(':').nth(2) == Some(gid)).unwrap().to_owned();
    let bobs = line("4202");
    let bob = bobs.split(':').next().unwrap();
    let text = out.success().unwrap();
    assert!(text.starts_with("alice:4201:4201\nsshd:74:4302\nbob:4202:4202\n"), "{text}");
    assert!(text.contains(&format!("\n{bob}:x:4202:\n")) && text.contains(":x:4302:alice\n"), "{text}");
    machine.finish();
}

#[test]
fn a_sealed_root_is_read_only_and_a_slave_mount_sees_later_host_mounts() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir("/home/late").unwrap();
    machine
        .sandbox
        .write_udiroot(&[
            ("mountUdiRootWritable", "0"),
            ("mountPropagationStyle", "slave"),
            ("siteFs", "/home:/home:slave"),
        ])
        .unwrap();
    let script = "read x; cat /home/late/file; grep ' / / ' /proc/self/mountinfo";
    let mut child = machine.start("alice", script);
    machine.sandbox.root().run(&["mount", "-t", "tmpfs", "late", "/home/late"]).unwrap().success().unwrap();
    fs::write("/home/late/file", "came later\n").unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    machine.sandbox.root().run(&["umount", "/home/late"]).unwrap().success().unwrap();
    assert!(text.starts_with("came later\n") && text.contains(" / / ro,"), "{text}");
    machine.finish();
}

#[test]
fn a_root_of_ramfs_keeps_no_image_from_starting_and_shows_no_keys_of_the_image() {
    let mut entries = shell_image();
    entries.extend([file("etc/of-image", "x"), dir("etc/ssh"), file("etc/ssh/key", "of the image")]);
    let machine = Machine::new(&entries, "");
    machine.sandbox.write_udiroot(&[("rootfsType", "ramfs")]).unwrap();
    let script = "cat /etc/of-image; ls -A /etc/ssh; stat -f -c %T /; touch /etc/ssh/x /x";
    let out = machine.run("alice", &["sh", "-c", script]);
    assert!(out.out().starts_with('x') && out.out().lines().count() == 1, "{}", out.describe());
    assert!(out.err().contains("/etc/ssh/x: Read-only file system"), "{}", out.describe());
    assert!(out.err().contains("/x: Permission denied"), "{}", out.describe());
    machine.finish();
}

#[test]
fn what_the_site_mounts_below_etc_is_seen_through_the_overlay() {
    let mut entries = shell_image();
    entries.extend([dir("etc/opt"), file("etc/opt/of-image", "x")]);
    let machine = Machine::new(&entries, "");
    fs::create_dir("/home/wlm_detect").unwrap();
    fs::write("/home/wlm_detect/libwlm", "site").unwrap();
    machine.sandbox.write_udiroot(&[("siteFs", "/home/wlm_detect:/etc/opt/cray/wlm_detect")]).unwrap();
    let out = machine.run("alice", &["cat", "/etc/opt/cray/wlm_detect/libwlm", "/etc/opt/of-image"]);
    assert_eq!(out.success().unwrap(), "sitex");
    machine.finish();
}

#[test]
fn a_shared_site_mount_sends_later_mounts_both_ways() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir("/home/both").unwrap();
    let root = machine.sandbox.root();
    let run = |words: &[&str]| root.run(words).unwrap().success().unwrap();
    run(&["mount", "-t", "tmpfs", "both", "/home/both"]);
    for name in ["from-host", "from-container"] {
        fs::create_dir(format!("/home/both/{name}")).unwrap();
    }
    machine.sandbox.write_udiroot(&[("siteFs", "/home/both:/home/both:shared")]).unwrap();
    let mut child = machine.start("alice", "cat");
    run(&["mount", "-t", "tmpfs", "late", "/home/both/from-host"]);
    let inside = format!("--target={}", child.id());
    run(&["nsenter", &inside, "--mount", "mount", "-t", "tmpfs", "late", "/home/both/from-container"]);
    let host = run(&["cat", "/proc/self/mountinfo"]);
    let container = run(&["cat", &format!("/proc/{}/mountinfo", child.id())]);
    drop(child.stdin.take());
    child.wait().unwrap();
    run(&["umount", "-R", "/home/both"]);
    for place in [" /home/both/from-host ", " /home/both/from-container "] {
        assert!(host.contains(place) && container.contains(place), "{place}\n{host}\n{container}");
    }
    machine.finish();
}

#[test]
fn a_link_that_a_user_could_make_is_no_way_to_a_site_mount() {
    let machine = Machine::new(&shell_image(), "");
    fs::create_dir_all("/home/private/inside").unwrap();
    fs::write("/home/private/inside/secret", "secret").unwrap();
    fs::set_permissions("/home/private", fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir("/home/open").unwrap();
    fs::set_permissions("/home/open", fs::Permissions::from_mode(0o1777)).unwrap();
    let link = ["ln", "-s", "/home/private/inside", "/home/open/share"];
    machine.as_user("alice").run(&link).unwrap().success().unwrap();
    machine.sandbox.write_udiroot(&[("siteFs", "/home/open/share:/share")]).unwrap();
    let said = machine.run("alice", &["cat", "/share/secret"]).failure(1).unwrap();
    assert!(said.contains("cannot trust /home/open/share"), "{said}");
    // Root's own link is followed, also to a place that everybody may write.
    symlink("/home/open", "/home/scratch").unwrap();
    fs::write("/home/open/data", "data").unwrap();
    machine.sandbox.write_udiroot(&[("siteFs", "/home/scratch:/scratch;/home/open:/open")]).unwrap();
    let out = machine.run("alice", &["cat", "/scratch/data", "/open/data"]).success().unwrap();
    assert_eq!(out, "datadata");
    machine.finish();
}

#[test]
fn the_hosts_proc_is_kept_so_hidden_processes_stay_hidden() {
    let machine = Machine::new(&shell_image(), "");
    let root = machine.sandbox.root();
    root.run(&["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"]).unwrap().success().unwrap();
    let out = machine.run("alice", &["sh", "-c", "ls -d /proc/1 || echo hidden; ls -d /proc/self/"]);
    root.run(&["umount", "/proc"]).unwrap().success().unwrap();
    assert_eq!(out.success().unwrap(), "hidden\n/proc/self/\n");
    machine.finish();
}

#[test]
fn hosts_and_resolv_conf_of_the_site_win_and_absent_ones_are_empty() {
    let machine = Machine::new(&shell_image(), "");
    let etc = machine.sandbox.prefix().join("etc");
    for name in ["passwd", "group", "nsswitch.conf"] {
        fs::copy(format!("/etc/{name}"), etc.join(name)).unwrap();
    }
    fs::write(etc.join("hosts"), "192.0.2.1 of-the-site\n").unwrap();
    fs::remove_file("/etc/resolv.conf").unwrap();
    machine.sandbox.write_udiroot(&[("populateEtcDynamically", "0")]).unwrap();
    let out = machine.run("alice", &["cat", "/etc/hosts", "/etc/resolv.conf"]);
    assert_eq!(out.success().unwrap(), "192.0.2.1 of-the-site\n");
    machine.finish();
}

#[test]
fn a_lookup_believes_only_an_identifier_and_a_success() {
    let machine = Machine::new(&shell_image(), "");
    let program = machine.sandbox.prefix().join("bin/shifterimg");
    let id = machine.id.clone();
    let run = |script: &str| {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        machine.as_user("alice").run(&machine.program(&["--image=docker:debian:12", "id", "-u"])).unwrap()
    };
    for (script, good) in [
        (format!("echo err 28; echo {id}"), true),
        (format!("[ \"$1 $2\" = \"lookup docker:debian:12\" ] && [ $(id -u) = 4201 ] && echo {id}"), true),
        (format!("[ -z \"$HOME\" ] && ! grep -q 'CapEff.*[1-9a-f]' /proc/self/status && echo {id}"), true),
        (format!("echo {id}; exit 1"), false),
        ("echo ../../../etc/passwd".to_owned(), false),
        ("exit 0".to_owned(), false),
        ("yes".to_owned(), false),
    ] {
        let out = run(&script);
        assert_eq!(out.status.success(), good, "{script}: {}", out.describe());
    }
    machine.finish();
}
