//! What the merged image looks like, layer rule by layer rule: tables of layers and the listing expected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Item, dir, file, hard, header, item, listing, merge_tars, mode, symlink, tar_of};
use shifter_layers::Limits;

type Case<'a> = (&'a str, Vec<Vec<Item>>, &'a [&'a str]);

fn check(cases: Vec<Case<'_>>) {
    for (name, layers, expected) in cases {
        let tars: Vec<Vec<u8>> = layers.iter().map(|items| tar_of(items)).collect();
        let (stream, _) = merge_tars(&tars, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut found = listing(&stream);
        assert_eq!(found.first().map(String::as_str), Some("d 755 ."), "{name}");
        found.remove(0);
        // Of the order, `listing` has checked what matters.
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn whiteouts_hide_older_layers_only() {
    check(vec![
        ("no layer at all", vec![], &[]),
        (
            "a file goes",
            vec![vec![file("a", "1"), file("b", "1")], vec![file(".wh.a", "")]],
            &["f 644 b = 1"],
        ),
        ("a tree goes", vec![vec![dir("d"), file("d/x", "1")], vec![file(".wh.d", "")]], &[]),
        (
            "the same layer's entry stays, before or after",
            vec![
                vec![file("a", "old"), file("b", "old")],
                vec![file("a", "new"), file(".wh.a", ""), file(".wh.b", ""), file("b", "new")],
            ],
            &["f 644 a = new", "f 644 b = new"],
        ),
        (
            "a replaced tree does not come back",
            vec![vec![dir("d"), file("d/old", "1")], vec![file(".wh.d", ""), dir("d"), file("d/new", "2")]],
            &["d 755 d", "f 644 d/new = 2"],
        ),
        (
            "opaque, wherever it stands in the layer",
            vec![
                vec![dir("d"), file("d/a", "1"), dir("d/s"), file("d/s/x", "1")],
                vec![dir("d"), file("d/b", "2"), file("d/.wh..wh..opq", ""), file("d/c", "2")],
            ],
            &["d 755 d", "f 644 d/b = 2", "f 644 d/c = 2"],
        ),
        (
            "opaque without an entry of the directory",
            vec![vec![mode(dir("d"), 0o1777), file("d/a", "1")], vec![file("d/.wh..wh..opq", "")]],
            &["d 1777 d"],
        ),
        (
            "opaque root",
            vec![vec![file("a", "1")], vec![file(".wh..wh..opq", ""), file("b", "2")]],
            &["f 644 b = 2"],
        ),
        ("a whiteout of nothing", vec![vec![file("a", "1")], vec![file("x/y/.wh.z", "")]], &["f 644 a = 1"]),
        (
            "a whiteout below what is no directory changes nothing",
            vec![vec![file("a", "1")], vec![file("a/.wh.z", "")]],
            &["f 644 a = 1"],
        ),
        (
            "a whiteout that is a hard link or a device still hides",
            vec![
                vec![file("a", "1"), file("b", "1"), file("c", "1")],
                vec![hard(".wh.a", "b"), item(b'3', ".wh.b", "", 0, "")],
            ],
            &["f 644 c = 1"],
        ),
        (
            "a name that comes back two layers later",
            vec![vec![file("a", "1")], vec![file(".wh.a", "")], vec![file("a", "3")]],
            &["f 644 a = 3"],
        ),
        (
            "aufs leftovers are no files",
            vec![vec![
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", "parked"),
                file(".wh..wh.aufs", ""),
                hard("a", ".wh..wh.plnk/1.2"),
            ]],
            &["f 644 a = parked"],
        ),
        ("a component that only starts alike", vec![vec![file(".whale", "1")]], &["f 644 .whale = 1"]),
    ]);
}

#[test]
fn types_replace_each_other_in_every_direction() {
    let tree = || vec![dir("x"), file("x/in", "1")];
    check(vec![
        ("file over dir", vec![tree(), vec![file("x", "f")]], &["f 644 x = f"]),
        ("symlink over dir", vec![tree(), vec![symlink("x", "/etc")]], &["l x -> /etc"]),
        ("dir over file", vec![vec![file("x", "f")], tree()], &["d 755 x", "f 644 x/in = 1"]),
        ("dir over symlink", vec![vec![symlink("x", "y")], tree()], &["d 755 x", "f 644 x/in = 1"]),
        ("file over symlink", vec![vec![symlink("x", "y")], vec![file("x", "f")]], &["f 644 x = f"]),
        ("symlink over file", vec![vec![file("x", "f")], vec![symlink("x", "y")]], &["l x -> y"]),
        (
            "file, dir, file: nothing of the first comes back",
            vec![vec![file("x", "f")], tree(), vec![file("x", "g")]],
            &["f 644 x = g"],
        ),
        (
            "dir, file, dir: nothing of the first comes back",
            vec![tree(), vec![file("x", "f")], vec![dir("x"), file("x/new", "2")]],
            &["d 755 x", "f 644 x/new = 2"],
        ),
        (
            "dir over dir keeps the contents and takes the mode",
            vec![tree(), vec![mode(dir("x"), 0o1777)]],
            &["d 1777 x", "f 644 x/in = 1"],
        ),
        (
            "an implied dir over dir keeps the mode",
            vec![vec![mode(dir("x"), 0o1777)], vec![file("x/new", "2")]],
            &["d 1777 x", "f 644 x/new = 2"],
        ),
        (
            "a device hides and is not written",
            vec![vec![file("x", "f")], vec![item(b'3', "x", "", 0, "")]],
            &[],
        ),
        (
            "parents nobody archived",
            vec![vec![file("a/b/c", "1")]],
            &["d 755 a", "d 755 a/b", "f 644 a/b/c = 1"],
        ),
    ]);
}

#[test]
fn within_a_layer_the_last_duplicate_wins() {
    check(vec![
        ("files", vec![vec![file("a", "1"), file("a", "22")]], &["f 644 a = 22"]),
        ("dir, then file", vec![vec![dir("a"), file("a/b", "1"), file("a", "2")]], &["f 644 a = 2"]),
        (
            "file, then dir: older contents stay hidden",
            vec![vec![dir("a"), file("a/old", "1")], vec![file("a", "2"), dir("a"), file("a/new", "3")]],
            &["d 755 a", "f 644 a/new = 3"],
        ),
        (
            "symlink, then dir, then below it",
            vec![vec![symlink("a", "/etc"), dir("a"), file("a/passwd", "x")]],
            &["d 755 a", "f 644 a/passwd = x"],
        ),
        ("the root twice", vec![vec![dir("./"), dir("/"), file("./a", "1")]], &["f 644 a = 1"]),
    ]);
}

#[test]
fn hard_links_keep_the_content_they_were_made_with() {
    check(vec![
        ("in one layer", vec![vec![file("b", "1"), hard("a", "b")]], &["f 644 a = 1", "h b => a"]),
        (
            "chains",
            vec![vec![file("a", "1"), hard("b", "a"), hard("c", "./b"), hard("d", "c")]],
            &["f 644 a = 1", "h b => a", "h c => a", "h d => a"],
        ),
        ("to an older layer", vec![vec![file("a", "1")], vec![hard("b", "a")]], &["f 644 a = 1", "h b => a"]),
        (
            "the target is replaced later in the same layer",
            vec![vec![file("a", "1"), hard("b", "a"), file("a", "2")]],
            &["f 644 b = 1", "f 644 a = 2"],
        ),
        (
            "the target is replaced in a newer layer",
            vec![vec![file("a", "1"), hard("b", "a")], vec![file("a", "2")]],
            &["f 644 b = 1", "f 644 a = 2"],
        ),
        (
            "the target is whited out by the linking layer, before or after",
            vec![
                vec![file("a", "1"), file("c", "1c")],
                vec![file(".wh.a", ""), hard("b", "a"), hard("d", "c"), file(".wh.c", "")],
            ],
            &["f 644 b = 1", "f 644 d = 1c"],
        ),
        (
            "the target is masked by a file over its directory",
            vec![vec![file("d/a", "1")], vec![hard("b", "d/a"), file("d", "f")]],
            &["f 644 b = 1", "f 644 d = f"],
        ),
        (
            "the newer layer's file is meant when it has the name too",
            vec![vec![file("a", "1")], vec![file("a", "2"), hard("b", "a")]],
            &["f 644 a = 2", "h b => a"],
        ),
        (
            "the older one is meant when the newer comes later",
            vec![vec![file("a", "1")], vec![hard("b", "a"), file("a", "2")]],
            &["f 644 b = 1", "f 644 a = 2"],
        ),
        (
            "across three layers",
            vec![
                vec![file("a", "1")],
                vec![hard("b", "a")],
                vec![hard("c", "b"), file(".wh.a", "")],
                vec![file("b", "4")],
            ],
            &["f 644 c = 1", "f 644 b = 4"],
        ),
        ("to itself", vec![vec![file("a", "1"), hard("a", "a")]], &["f 644 a = 1"]),
        (
            "over a file",
            vec![vec![file("a", "1"), file("b", "2"), hard("b", "a")]],
            &["f 644 a = 1", "h b => a"],
        ),
        ("to a symlink", vec![vec![symlink("a", "t"), hard("b", "a")]], &["l a -> t", "l b -> t"]),
        (
            "to a device",
            vec![vec![item(b'4', "a", "", 0, ""), hard("b", "a"), file("c", "1")]],
            &["f 644 c = 1"],
        ),
        ("empty files", vec![vec![file("a", ""), hard("b", "a")]], &["f 644 a = ", "h b => a"]),
    ]);
}

#[test]
fn policy_makes_images_readable_and_harmless() {
    check(vec![
        (
            "modes",
            vec![vec![
                mode(file("su", "s"), 0o4755),
                mode(file("secret", "k"), 0o600),
                mode(dir("d"), 0o2700),
                mode(dir("t"), 0o1777),
            ]],
            &["d 755 d", "d 1777 t", "f 755 su = s", "f 644 secret = k"],
        ),
        (
            "devices, fifos and everything below dev",
            vec![vec![
                item(b'3', "null", "", 0o666, ""),
                item(b'4', "sda", "", 0o666, ""),
                item(b'6', "fifo", "", 0o666, ""),
                dir("dev"),
                dir("dev/shm"),
                file("dev/shm/x", "1"),
                symlink("dev/fd", "/proc/self/fd"),
                file("device", "kept"),
                hard("linked", "dev/shm/x"),
            ]],
            &["d 755 dev", "f 644 linked = 1", "f 644 device = kept"],
        ),
        ("dev as a symlink becomes a directory", vec![vec![symlink("dev", "/etc")]], &["d 755 dev"]),
        (
            "shadow files are emptied, under every name",
            vec![vec![
                mode(file("etc/shadow", "root:$6$x"), 0o640),
                file("etc/gshadow-", "y"),
                hard("copy", "etc/shadow"),
                file("etc/shadowed", "no secret"),
            ]],
            &[
                "d 755 etc",
                "f 400 copy = ",
                "h etc/shadow => copy",
                "f 400 etc/gshadow- = ",
                "f 644 etc/shadowed = no secret",
            ],
        ),
    ]);
}

#[test]
fn times_are_kept_and_clamped() {
    let mut future = header(b'0', b"future", b"", 0o644, 0);
    future.set_mtime(1 << 40);
    future.set_cksum();
    let mut past = header(b'0', b"past", b"", 0o644, 0);
    past.as_old_mut().mtime = [0xff; 12];
    past.set_cksum();
    let tar = [future.as_bytes().to_vec(), past.as_bytes().to_vec(), tar_of(&[file("now", "")])].concat();
    let (stream, _) = merge_tars(&[tar], &Limits::default()).unwrap();
    let mut archive = tar::Archive::new(stream.as_slice());
    let times: Vec<u64> =
        archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [0, u64::from(u32::MAX), 0, 1_600_000_000]);
}

#[test]
fn the_stream_depends_on_nothing_but_the_layers() {
    let items: Vec<Item> = (0..200).map(|n| file(format!("d{}/f{n}", n % 7), format!("{n}"))).collect();
    let tars = [tar_of(&items), tar_of(&[file(".wh.d3", ""), hard("x", "d3/f3")])];
    let (first, summary) = merge_tars(&tars, &Limits::default()).unwrap();
    let (second, _) = merge_tars(&tars, &Limits::default()).unwrap();
    assert_eq!(first, second);
    assert_eq!((summary.entries_read, summary.directories), (202, 7));
    let kept = 200 - (0..200).filter(|n| n % 7 == 3).count() as u64 + 1;
    assert_eq!(summary.files, kept);
}

#[test]
fn links_of_older_layers_lead_to_directories_inside_the_image() {
    let merged_usr =
        || vec![dir("usr"), dir("usr/lib"), file("usr/lib/ld.so", "ld"), symlink("lib", "usr/lib")];
    let usr = |added: &'static [&'static str]| [&["d 755 usr", "d 755 usr/lib"], added].concat();
    type Owned<'a> = (&'a str, Vec<Vec<Item>>, Vec<&'a str>);
    let cases: Vec<Owned<'_>> = vec![
        (
            "a file without its directory's entry",
            vec![merged_usr(), vec![file("lib/new", "2")]],
            usr(&["f 644 usr/lib/ld.so = ld", "l lib -> usr/lib", "f 644 usr/lib/new = 2"]),
        ),
        (
            "a directory below",
            vec![merged_usr(), vec![dir("lib/modules"), file("lib/modules/m", "2")]],
            usr(&[
                "d 755 usr/lib/modules",
                "f 644 usr/lib/ld.so = ld",
                "l lib -> usr/lib",
                "f 644 usr/lib/modules/m = 2",
            ]),
        ),
        ("a whiteout", vec![merged_usr(), vec![file("lib/.wh.ld.so", "")]], usr(&["l lib -> usr/lib"])),
        (
            "an opaque directory",
            vec![merged_usr(), vec![file("lib/.wh..wh..opq", "")]],
            usr(&["l lib -> usr/lib"]),
        ),
        (
            "a hard link's target",
            vec![merged_usr(), vec![hard("copy", "lib/ld.so")]],
            usr(&["f 644 copy = ld", "h usr/lib/ld.so => copy", "l lib -> usr/lib"]),
        ),
        (
            "absolute, through the parent, and in two steps",
            vec![
                merged_usr(),
                vec![symlink("one", "/lib"), symlink("usr/two", "../../../one/.")],
                vec![file("usr/two/new", "3")],
            ],
            usr(&[
                "f 644 usr/lib/ld.so = ld",
                "l lib -> usr/lib",
                "l one -> /lib",
                "l usr/two -> ../../../one/.",
                "f 644 usr/lib/new = 3",
            ]),
        ),
        (
            "a directory entry replaces the link",
            vec![merged_usr(), vec![dir("lib"), file("lib/new", "2")]],
            vec!["d 755 lib", "d 755 usr", "d 755 usr/lib", "f 644 usr/lib/ld.so = ld", "f 644 lib/new = 2"],
        ),
        (
            "a link that the layer hides first is not followed",
            vec![merged_usr(), vec![file(".wh.lib", ""), file("lib/new", "2")]],
            vec!["d 755 lib", "d 755 usr", "d 755 usr/lib", "f 644 usr/lib/ld.so = ld", "f 644 lib/new = 2"],
        ),
        (
            "a link to nothing makes its target appear, inside the image",
            vec![
                vec![symlink("a", "/host/../only"), symlink("b", "../..")],
                vec![file("a/f", "2"), file("b/g", "2")],
            ],
            vec!["d 755 only", "l a -> /host/../only", "l b -> ../..", "f 644 only/f = 2", "f 644 g = 2"],
        ),
        (
            "links to a file and to themselves are replaced",
            vec![
                vec![symlink("f", "file"), file("file", "1"), symlink("x", "x")],
                vec![file("f/a", "2"), file("x/a", "2")],
            ],
            vec!["d 755 f", "d 755 x", "f 644 file = 1", "f 644 f/a = 2", "f 644 x/a = 2"],
        ),
    ];
    check(cases.iter().map(|(name, layers, lines)| (*name, layers.clone(), lines.as_slice())).collect());
}
