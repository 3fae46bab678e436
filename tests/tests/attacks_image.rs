//! Images that try to give their users more than they have: each attack is shown to work where the image is mounted
//! without the program, and to be nothing in a container.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Machine, image_with_probes};
use shifter_tests::fixture::{archive, blk, chr, dir, file};

/// A `security.capability` of version 2 (linux/capability.h): permitted, and effective at once.
fn file_capabilities(numbers: &[u32]) -> Vec<u8> {
    let permitted: u32 = numbers.iter().map(|number| 1 << number).sum();
    [0x0200_0001, permitted, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

const DAC_READ_SEARCH: u32 = 2;
const SETUID: u32 = 7;
const SYS_ADMIN: u32 = 21;

/// ST05, ST06: setuid and setgid bits, file capabilities, device nodes, files of root's alone.
#[test]
fn setuid_programs_file_capabilities_and_devices_of_the_image_are_inert() {
    let mut entries = image_with_probes();
    for entry in &mut entries {
        match entry.name.as_slice() {
            b"probes/id" => entry.mode = 0o6755,
            b"probes/cat" => {
                let all = file_capabilities(&[DAC_READ_SEARCH, SETUID, SYS_ADMIN]);
                *entry = entry.clone().xattr("security.capability", &all);
            }
            _ => {}
        }
    }
    entries.extend([
        file("secret", "root's\n").mode(0o600),
        dir("nodes"),
        chr("nodes/zero", 1, 5).mode(0o666),
        blk("nodes/loop0", 7, 0).mode(0o666),
    ]);
    let mut machine = Machine::new(&entries, "");
    let place = machine.sandbox.new_directory("mounted").unwrap().display().to_string();
    let root = |words: &[&str]| machine.sandbox.root().run(words).unwrap().success().unwrap();
    root(&[
        "mount",
        "-o",
        "loop,ro",
        &machine.sandbox.image_file(&machine.id, "squashfs").display().to_string(),
        &place,
    ]);
    let script = |at: &str| {
        format!(
            "{at}/probes/id -u; {at}/probes/id -g; {at}/probes/cat /proc/self/status | grep -E '^Cap(Prm|Eff)'; \
             {at}/probes/cat {at}/secret; head -c 1 {at}/nodes/zero | od -An -tx1; head -c 0 {at}/nodes/loop0"
        )
    };
    let outside = machine.as_user("alice").run(&["sh", "-c", &script(&place)]).unwrap();
    let expected = "0\n0\nCapPrm:\t0000000000200084\nCapEff:\t0000000000200084\nroot's\n 00\n";
    assert_eq!(outside.out(), expected, "mounted as it is, it is dangerous: {}", outside.describe());
    root(&["umount", &place]);

    let program = |name: &str| machine.sandbox.program(name).unwrap().display().to_string();
    let prepare = [&program("setupRoot"), "-U", "4201", "-G", "4201", "-u", "alice", "id", &machine.id];
    for prepared in [false, true] {
        if prepared {
            root(&prepare);
        }
        let out = machine.run("alice", &["sh", "-c", &script("")]);
        let nothing = "4201\n4201\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n";
        assert_eq!(out.out(), nothing, "{}", out.describe());
        for path in ["/secret", "/nodes/zero", "/nodes/loop0"] {
            let denied = |line: &str| line.contains(path) && line.contains("Permission denied");
            assert!(out.err().lines().any(denied), "{path}: {}", out.describe());
        }
    }
    root(&[&program("unsetupRoot")]);
    machine.finish();
}

/// An entry whose inode the kernel cannot read must not go missing without a word.
#[test]
fn an_image_with_an_entry_that_cannot_be_mounted_is_refused_by_its_name() {
    const TIME: u32 = 0x5eed_beef;
    let mut entries = image_with_probes();
    entries.push(file("damaged", "x").mtime(TIME.into()));
    let machine = Machine::new(&entries, "");
    let image = machine.sandbox.image_file(&machine.id, "squashfs");
    let path = image.display().to_string();
    // Written once more, with inodes that are not compressed.
    let words = ["mksquashfs", "-", &path, "-tar", "-noappend", "-quiet", "-no-progress", "-noI"];
    let made = machine.sandbox.root().stdin(archive(&entries)).run(&words).unwrap();
    assert!(made.status.success(), "{}", made.describe());
    machine.run("alice", &["cat", "/damaged"]).success().unwrap();
    let mut bytes = std::fs::read(&image).unwrap();
    let places: Vec<_> =
        (8..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == TIME.to_le_bytes()).collect();
    let [at] = places[..] else { panic!("{places:?}") };
    bytes[at - 8..at - 6].fill(0xff); // the inode's type, before mode, uid, gid and time
    let copy = image.with_extension("new"); // another inode, so another loop device
    std::fs::write(&copy, bytes).unwrap();
    std::fs::rename(copy, &image).unwrap();
    let said = machine.run("alice", &["true"]).failure(1).unwrap();
    assert!(said.contains("cannot copy the mount of damaged: ") && said.lines().count() == 1, "{said}");
    machine.finish();
}
