//! What `shifter` refuses, and in which words: one sentence, exit 1, nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, shell_image};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

fn mode(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The words fail with status 1 and say `expected`, on one line.
fn refused(machine: &Machine, user: &str, words: &[&str], expected: &str) {
    let said = machine.as_user(user).run(&machine.program(words)).unwrap().failure(1).unwrap();
    assert!(said.contains(expected), "{words:?} must say {expected:?}, said: {said}");
    assert!(said.starts_with("shifter: ") && said.lines().count() == 1, "one sentence, said: {said}");
}

#[test]
fn people_who_cannot_have_containers_are_told_why() {
    let machine = Machine::new(&shell_image(), "");
    let image = format!("--image=id:{}", machine.id);
    refused(&machine, "dave", &[&image, "id"], "ordinary user whose primary group is not 0");
    let out = machine.sandbox.root().run(&machine.program(&[&image, "id"])).unwrap().failure(1).unwrap();
    assert!(out.contains("ordinary user"), "{out}");
    mode(machine.sandbox.program("shifter").unwrap(), 0o755);
    refused(&machine, "alice", &[&image, "id"], "not setuid root");
    machine.finish();
}

#[test]
fn images_that_are_not_there_or_not_theirs_are_refused() {
    let machine = Machine::new(&shell_image(), "");
    let other = "b".repeat(64);
    refused(&machine, "alice", &[&format!("--image=id:{other}"), "id"], "FAILED to find requested image");
    refused(&machine, "alice", &["--image=id:../../etc/passwd", "id"], "cannot be part of a id image name");
    refused(&machine, "alice", &["--image=id:..", "id"], "is not an image identifier");
    let mine = format!("--image=id:{}", machine.id);
    let record = |text: &str| machine.sandbox.write_record(&machine.id, text).unwrap();
    for (text, expected) in [
        ("FORMAT: squashfs\nUSERACL: 4202\n", "FAILED permission denied to image"),
        ("FORMAT: squashfs\nGROUPACL: 0\n", "FAILED permission denied to image"),
        ("FORMAT: squashfs\nUSERACL: nobody\n", "is damaged, line 2"),
        ("FORMAT: ext4\n", "format \"ext4\" is not supported"),
        ("FORMAT: ../x\n", "format \"../x\" is not supported"),
        ("FORMAT: squashfs\nCMD: ['a', \"it's\"]\n", "is damaged, line 2"),
        (
            "FORMAT: squashfs\n#shifter1 {\"size\":1,\"sha256\":\"\",\"env\":[]}\n",
            "not the one its record was written for",
        ),
        ("FORMAT: squashfs\n#shifter1 {\n", "is damaged, line 2"),
    ] {
        record(text);
        refused(&machine, "alice", &[&mine, "id"], expected);
    }
    for text in ["FORMAT: squashfs\nUSERACL: 4202\nGROUPACL: 4301\n", "FORMAT: squashfs\nUSERACL: 4201\n"] {
        record(text);
        machine.run("alice", &["true"]).success().unwrap();
    }
    machine.finish();
}

#[test]
fn an_image_that_others_could_change_is_refused() {
    let machine = Machine::new(&shell_image(), "");
    let mine = format!("--image=id:{}", machine.id);
    let (image, record) = (
        machine.sandbox.image_file(&machine.id, "squashfs"),
        machine.sandbox.image_file(&machine.id, "meta"),
    );
    let check = |expected: &str| refused(&machine, "alice", &[&mine, "id"], expected);
    for file in [&image, &record] {
        mode(file, 0o622);
        check("can be written by group or others");
        mode(file, 0o600);
        chown(file, Some(4202), None).unwrap();
        check("does not belong to root");
        chown(file, Some(0), None).unwrap();
        let moved = file.with_extension("moved");
        fs::rename(file, &moved).unwrap();
        symlink(&moved, file).unwrap();
        check("FAILED to find requested image");
        fs::remove_file(file).unwrap();
        let made = machine.sandbox.root().run(&["mkfifo", &file.display().to_string()]).unwrap();
        made.success().unwrap();
        check("FAILED to find requested image");
        fs::remove_file(file).unwrap();
        fs::rename(&moved, file).unwrap();
    }
    mode(machine.sandbox.images(), 0o777);
    check("can be written by group or others");
    mode(machine.sandbox.images(), 0o755);
    // Another owner of the directory is the image owner: trusted, but no user of containers.
    chown(machine.sandbox.images(), Some(4210), Some(4210)).unwrap();
    chown(&image, Some(4210), Some(4210)).unwrap();
    machine.run("alice", &["true"]).success().unwrap();
    refused(&machine, "gateway", &[&mine, "id"], "the owner of the images cannot run containers");
    machine.finish();
}

#[test]
fn an_image_cut_short_is_refused_by_the_kernel_and_said() {
    let machine = Machine::new(&shell_image(), "");
    let image = machine.sandbox.image_file(&machine.id, "squashfs");
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(512).unwrap();
    let mine = format!("--image=id:{}", machine.id);
    refused(&machine, "alice", &[&mine, "id"], "cannot mount squashfs");
    machine.finish();
}

#[test]
fn a_configuration_that_others_could_change_or_that_is_wrong_is_refused() {
    let machine = Machine::new(&shell_image(), "");
    let mine = format!("--image=id:{}", machine.id);
    let conf = "/etc/shifter/udiRoot.conf";
    let good = fs::read_to_string(conf).unwrap();
    let check = |expected: &str| refused(&machine, "alice", &[&mine, "id"], expected);
    mode(conf, 0o646);
    check("FAILED to parse udiRoot configuration");
    mode(conf, 0o664);
    check("can be written by group or others");
    mode(conf, 0o644);
    chown(conf, Some(4201), None).unwrap();
    check("does not belong to root");
    chown(conf, Some(0), None).unwrap();
    mode("/etc/shifter", 0o777);
    check("a directory on its way, can be written");
    mode("/etc/shifter", 0o755);
    for (line, expected) in [
        ("udiMonut=/x", "unknown key \"udiMonut\"; did you mean \"udiMount\"?"),
        ("rootfsType=ext4", "must be tmpfs or ramfs"),
        ("siteFs=/a:/etc", "is filled by Shifter"),
        ("siteFs=/nosuchdirectory", "cannot open /nosuchdirectory"),
        ("siteFs=/home:/home/alice/made", "in which nothing is made"),
        ("siteFs=/etc/hostname:/media", ""),
        ("usersToImport=nosuchuser", "FAILED to import user nosuchuser"),
        ("imagePath=/nosuchdirectory", "FAILED to find requested image"),
        ("sitePreMountHook=/nosuchhook", "cannot open /nosuchhook"),
        ("sitePreMountHook=/tmp/hook", "can be written by group or others"),
    ] {
        fs::write(conf, format!("{good}{line}\n")).unwrap();
        if expected.is_empty() {
            machine.run("alice", &["cat", "/media"]).success().unwrap();
        } else {
            check(expected);
        }
    }
    fs::write(conf, &good).unwrap();
    fs::write("/etc/shifter/shifter.conf", "imageowner=1\n").unwrap();
    check("did you mean \"imageOwner\"?");
    fs::write("/etc/shifter/shifter.conf", "imageOwner=4210\n").unwrap();
    chown(machine.sandbox.image_file(&machine.id, "meta"), Some(4210), None).unwrap();
    machine.run("alice", &["true"]).success().unwrap();
    fs::remove_file(conf).unwrap();
    check("FAILED to parse udiRoot configuration");
    machine.finish();
}

#[test]
fn a_link_to_a_configuration_in_a_trusted_place_is_followed_and_another_is_not() {
    let machine = Machine::new(&shell_image(), "");
    let mine = format!("--image=id:{}", machine.id);
    fs::rename("/etc/shifter", "/etc/shifter-real").unwrap();
    symlink("shifter-real", "/etc/shifter").unwrap();
    machine.run("alice", &["true"]).success().unwrap();
    fs::remove_file("/etc/shifter").unwrap();
    fs::create_dir("/tmp/conf").unwrap();
    fs::copy("/etc/shifter-real/udiRoot.conf", "/tmp/conf/udiRoot.conf").unwrap();
    symlink("/tmp/conf", "/etc/shifter").unwrap();
    refused(&machine, "alice", &[&mine, "id"], "can be written by group or others");
    fs::remove_dir_all("/tmp/conf").unwrap();
    machine.finish();
}

#[test]
fn a_wrong_command_line_gets_the_message_before_the_usage() {
    let machine = Machine::new(&shell_image(), "");
    for (words, expected) in [
        (&["--colour"][..], "shifter: there is no option --colour\nUsage:"),
        (&["--image"], "shifter: --image needs a value\nUsage:"),
        (&["id"], "shifter: No image specified, or specified incorrectly!"),
        (&["--image=docker:nothere", "id"], "FAILED to lookup image docker:nothere"),
    ] {
        let said = machine.as_user("alice").run(&machine.program(words)).unwrap().failure(1).unwrap();
        assert!(said.contains(expected), "{words:?}: {said}");
    }
    let help = machine.as_user("alice").run(&machine.program(&["--help"])).unwrap().success().unwrap();
    assert!(help.starts_with("Usage: shifter"), "{help}");
    machine.finish();
}
