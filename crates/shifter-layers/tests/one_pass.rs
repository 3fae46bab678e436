//! What the sink is told while layers are read, newest first: which data is needed, and what the tree says
//! where policy keeps more than by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::memory::{Memory, Thing};
use common::{Item, dir, file, hard, header, item, layer, mode, symlink, tar_of, with_pax};
use shifter_layers::{Compression, Device, Layer, Limits, MergeError, Policy, Special, read_layers};

fn merged(tars: &[Vec<u8>], policy: &Policy) -> Result<(Memory, usize), MergeError> {
    let folder = tempfile::tempdir().unwrap();
    let write = |(number, tar): (usize, &Vec<u8>)| layer(folder.path(), number, tar, Compression::None);
    let layers: Vec<Layer> = tars.iter().enumerate().map(write).collect();
    let mut memory = Memory::default();
    let image = read_layers(&layers, &Limits::default(), policy, &mut memory)?;
    let (root, _) = image.write(&mut memory)?;
    Ok((memory, root))
}

#[test]
fn data_that_no_name_needs_is_given_up_and_no_other() {
    type Case<'a> = (&'a str, Vec<Vec<Item>>, &'a [&'a str], &'a [&'a str]);
    let d = || dir("d");
    // Layers oldest first; data as handed over, newest layer first: needed, given up.
    let cases: Vec<Case<'_>> = vec![
        ("replaced", vec![vec![file("a", "1")], vec![file("a", "2")]], &["2"], &["1"]),
        ("whited out", vec![vec![d(), file("d/a", "1")], vec![file(".wh.d", "")]], &[], &["1"]),
        (
            "opaque, its own stay",
            vec![vec![d(), file("d/a", "1")], vec![d(), file("d/b", "2"), file("d/.wh..wh..opq", "")]],
            &["2"],
            &["1"],
        ),
        (
            "a file over its directory",
            vec![vec![d(), file("d/a", "1")], vec![file("d", "2")]],
            &["2"],
            &["1"],
        ),
        ("a directory over it", vec![vec![file("d", "1")], vec![d(), file("d/a", "2")]], &["2"], &["1"]),
        ("a device over it", vec![vec![file("a", "1")], vec![item(b'3', "a", "", 0, "")]], &[], &["1"]),
        ("below dev", vec![vec![dir("dev"), file("dev/a", "1")]], &[], &["1"]),
        ("a duplicate", vec![vec![file("a", "1"), file("a", "2")]], &["2"], &["1"]),
        (
            "a duplicate with a link",
            vec![vec![file("a", "1"), hard("b", "a"), file("a", "2")]],
            &["1", "2"],
            &[],
        ),
        (
            "hidden, and revived by a link of its layer",
            vec![vec![file("a", "1"), hard("b", "a")], vec![file("a", "2")]],
            &["2", "1"],
            &[],
        ),
        (
            "hidden with all its names",
            vec![vec![file("a", "1"), hard("b", "a")], vec![file("a", "2"), file(".wh.b", "")]],
            &["2"],
            &["1"],
        ),
        (
            "hidden by the layer that links to it",
            vec![vec![file("a", "1")], vec![hard("b", "a"), file("a", "2")]],
            &["2", "1"],
            &[],
        ),
        (
            "a chain of links over three layers, each hiding what it links to",
            vec![
                vec![file("a", "1")],
                vec![hard("b", "a"), file(".wh.a", "")],
                vec![hard("c", "b"), file(".wh.b", "")],
                vec![hard("d", "c"), file("c", "4")],
            ],
            &["4", "1"],
            &[],
        ),
        (
            "a link to a name that was replaced since",
            vec![vec![file("a", "1")], vec![file("a", "2")], vec![hard("b", "a"), file("a", "3")]],
            &["3", "2", "1"],
            &[],
        ),
        (
            "a place that an older link decides: hidden by name, and yet needed",
            vec![
                vec![dir("usr"), symlink("lib", "usr")],
                vec![file("lib/x", "1")],
                vec![dir("lib"), file("lib/x", "2")],
            ],
            &["2", "1"],
            &[],
        ),
        (
            "a hidden file that is linked through an older link",
            vec![
                vec![dir("usr"), symlink("lib", "usr")],
                vec![dir("usr"), file("usr/x", "1")],
                vec![hard("y", "lib/x"), file("usr/x", "2")],
            ],
            &["2", "1"],
            &[],
        ),
    ];
    for (name, layers, needed, given_up) in cases {
        let tars: Vec<Vec<u8>> = layers.iter().map(|items| tar_of(items)).collect();
        let (memory, _) = merged(&tars, &Policy::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let of = |live: bool| -> Vec<String> {
            let data = memory.data.iter().filter(|data| data.live == live);
            data.map(|data| data.bytes.escape_ascii().to_string()).collect()
        };
        assert_eq!((of(true), of(false)), (owned(needed), owned(given_up)), "{name}");
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_shadow_file_gives_its_content_to_no_name_and_no_image() {
    let tars = [
        tar_of(&[dir("etc"), file("etc/shadow", "hash"), file("plain", "p")]),
        tar_of(&[
            dir("etc"),
            hard("backup", "etc/shadow"),
            file(".wh.nothing", ""),
            hard("etc/gshadow", "plain"),
        ]),
    ];
    let (memory, root) = merged(&tars, &Policy::default()).unwrap();
    assert!(memory.data.iter().all(|data| data.bytes != b"hash"));
    for name in ["backup", "etc/shadow", "etc/gshadow", "plain"] {
        let inode = &memory.inodes[memory.names(root)[name]];
        assert_eq!(inode.mode, 0o400, "{name}");
        let Thing::File(data) = inode.thing else { panic!("{name}") };
        assert!(memory.data[data].bytes.is_empty(), "{name}");
    }
}

#[test]
fn policy_keeps_what_it_is_told_to_keep() {
    let device = |kind: u8, name: &str| {
        let mut head = header(kind, name.as_bytes(), b"", 0o660, 0);
        head.as_gnu_mut().unwrap().set_device_major(8);
        head.as_gnu_mut().unwrap().set_device_minor(300);
        head.set_cksum();
        head.as_bytes().to_vec()
    };
    let capability = ("SCHILY.xattr.security.capability", b"\x01=\n".as_slice());
    let records = [
        ("SCHILY.xattr.user.b", b"2".as_slice()),
        capability,
        ("SCHILY.xattr.system.posix_acl_access", b"no"),
        ("SCHILY.xattr.user.b", b"3"),
        ("uid", b"3000000"),
    ];
    let tar = [
        with_pax(&records, &mode(file("program", "x"), 0o6755)),
        device(b'3', "char"),
        device(b'4', "block"),
        device(b'6', "fifo"),
        tar_of(&[dir("dev"), item(b'3', "dev/null", "", 0o666, "")]),
    ]
    .concat();
    let keeps = Policy { owners: true, setuid: true, devices: true, fifos: true, xattrs: true };
    let look = |policy: &Policy| {
        let (memory, root) = merged(std::slice::from_ref(&tar), policy).unwrap();
        let names = memory.names(root).into_iter().filter(|(name, _)| !name.is_empty());
        let lines = names.map(|(name, at)| {
            let inode = &memory.inodes[at];
            let thing = match &inode.thing {
                Thing::Special(special) => format!("{special:?}"),
                Thing::File(_) => "file".to_owned(),
                _ => "directory".to_owned(),
            };
            format!("{name} {:o} {:?} {:?} {thing}", inode.mode, inode.owner, inode.xattrs)
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(look(&Policy::default()), ["dev 755 (0, 0) [] directory", "program 755 (0, 0) [] file"]);
    let device = Device { major: 8, minor: 300 };
    let expected = [
        format!("block 664 (1000, 1000) [] {:?}", Special::BlockDevice(device)),
        format!("char 664 (1000, 1000) [] {:?}", Special::CharDevice(device)),
        "dev 755 (1000, 1000) [] directory".to_owned(),
        format!("fifo 664 (1000, 1000) [] {:?}", Special::Fifo),
        "program 6755 (3000000, 1000) [(\"security.capability\", \"\\\\x01=\\\\n\"), (\"user.b\", \"3\")] file"
            .to_owned(),
    ];
    assert_eq!(look(&keeps), expected);

    let mut wrong = header(b'4', b"wrong", b"", 0o660, 0);
    wrong.as_gnu_mut().unwrap().set_device_major(5000);
    wrong.set_cksum();
    let tar = [wrong.as_bytes().to_vec(), vec![0; 1024]].concat();
    let error = merged(&[tar], &keeps).map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with("entry \"wrong\": the device's numbers 5000:0 are out of range"), "{error}");
}
