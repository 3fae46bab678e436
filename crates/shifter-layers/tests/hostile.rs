//! Layers that break a rule: each must be refused by a sentence naming layer, entry and rule, before a
//! single byte is written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Item, block, dir, file, hard, header, item, merge_tars, pax_record, symlink, tar_of, with_pax};
use shifter_layers::{Limits, MergeError};

/// The error for `tars`, without the words that name the layer.
fn refusal(name: &str, tars: &[Vec<u8>], limits: &Limits) -> String {
    let error = match merge_tars(tars, limits) {
        Ok((_, summary)) => panic!("{name}: accepted, {summary:?}"),
        Err(error) => error,
    };
    assert!(!matches!(error, MergeError::WriteOutput { .. }), "{name}: {error}");
    let text = error.to_string();
    let digest = tars.iter().map(|tar| common::sha256(tar).to_string()).find(|digest| text.contains(digest));
    let digest = digest.unwrap_or_else(|| panic!("{name}: no layer named in: {text}"));
    text.replacen(&format!("layer {digest}"), "L", 1)
}

fn check(cases: Vec<(&str, Vec<Vec<Item>>, &str)>) {
    for (name, layers, expected) in cases {
        let tars: Vec<Vec<u8>> = layers.iter().map(|items| tar_of(items)).collect();
        assert_eq!(refusal(name, &tars, &Limits::default()), expected, "{name}");
    }
}

#[test]
fn names_that_could_leave_the_image() {
    check(vec![
        (
            "parent",
            vec![vec![file("../x", "")]],
            "L, entry \"../x\": names with a \"..\" component are refused",
        ),
        (
            "parent in the middle",
            vec![vec![file("a/../../etc/passwd", "")]],
            "L, entry \"a/../../etc/passwd\": names with a \"..\" component are refused",
        ),
        (
            "absolute, going up",
            vec![vec![file("/../etc/passwd", "")]],
            "L, entry \"/../etc/passwd\": names with a \"..\" component are refused",
        ),
        ("empty", vec![vec![file("", "")]], "L, entry \"\": empty names are refused"),
        (
            "terminal escapes stay out of the message",
            vec![vec![file("../\x1b[2J\n", "")]],
            "L, entry \"../\\u{1b}[2J\\n\": names with a \"..\" component are refused",
        ),
        (
            "the root as a symlink (CVE-2021-29136)",
            vec![vec![symlink(".", "/etc")]],
            "L, entry \".\": the image's root can only be a directory",
        ),
        (
            "the root as a file",
            vec![vec![file("./.", "")]],
            "L, entry \"./.\": the image's root can only be a directory",
        ),
        (
            "whiteout of the parent",
            vec![vec![file("d/.wh...", "")]],
            "L, entry \"d/.wh...\": this is not a valid whiteout name",
        ),
        (
            "whiteout of the directory itself",
            vec![vec![file(".wh..", "")]],
            "L, entry \".wh..\": this is not a valid whiteout name",
        ),
        (
            "whiteout of nothing",
            vec![vec![file(".wh.", "")]],
            "L, entry \".wh.\": this is not a valid whiteout name",
        ),
        (
            "whiteout as a directory",
            vec![vec![file("d/.wh.x/f", "")]],
            "L, entry \"d/.wh.x/f\": this is not a valid whiteout name",
        ),
    ]);
}

#[test]
fn entries_below_what_is_no_directory() {
    let rule = "is not a directory in the same layer (entries are never written through links)";
    check(vec![
        (
            "symlink, then file",
            vec![vec![symlink("a", "/etc"), file("a/passwd", "x")]],
            &format!("L, entry \"a/passwd\": its parent \"a\" {rule}"),
        ),
        (
            "symlink to the parent, then file",
            vec![vec![dir("d"), symlink("d/up", "../.."), file("d/up/x", "x")]],
            &format!("L, entry \"d/up/x\": its parent \"d/up\" {rule}"),
        ),
        (
            "file, then directory below",
            vec![vec![file("a", ""), dir("a/b")]],
            &format!("L, entry \"a/b\": its parent \"a\" {rule}"),
        ),
        (
            "symlink, then whiteout below",
            vec![
                vec![dir("etc"), file("etc/passwd", "")],
                vec![symlink("a", "etc"), file("a/.wh.passwd", "")],
            ],
            &format!("L, entry \"a/.wh.passwd\": its parent \"a\" {rule}"),
        ),
        (
            "symlink, then opaque",
            vec![vec![symlink("a", "etc"), file("a/.wh..wh..opq", "")]],
            &format!("L, entry \"a/.wh..wh..opq\": its parent \"a\" {rule}"),
        ),
        (
            "an older link that leads to one of this layer",
            vec![vec![dir("real"), symlink("old", "way")], vec![symlink("way", "real"), file("old/x", "")]],
            &format!("L, entry \"old/x\": its parent \"way\" {rule}"),
        ),
        (
            "hard link to a symlink, then file below",
            vec![vec![symlink("a", "/etc"), hard("b", "a"), file("b/x", "")]],
            &format!("L, entry \"b/x\": its parent \"b\" {rule}"),
        ),
    ]);
}

#[test]
fn hard_links_to_what_they_may_not_have() {
    check(vec![
        (
            "outside",
            vec![vec![hard("a", "../../etc/shadow")]],
            "L, entry \"a\": hard link target \"../../etc/shadow\" is refused: names with a \"..\" component are refused",
        ),
        (
            "absolute, and not in the image",
            vec![vec![hard("a", "/etc/shadow")]],
            "L, entry \"a\": hard link target \"/etc/shadow\" does not exist in this layer or the ones below",
        ),
        (
            "missing",
            vec![vec![hard("a", "b")]],
            "L, entry \"a\": hard link target \"b\" does not exist in this layer or the ones below",
        ),
        (
            "later in the same layer",
            vec![vec![hard("a", "b"), file("b", "")]],
            "L, entry \"a\": hard link target \"b\" does not exist in this layer or the ones below",
        ),
        (
            "only in a newer layer",
            vec![vec![hard("a", "b")], vec![file("b", "")]],
            "L, entry \"a\": hard link target \"b\" does not exist in this layer or the ones below",
        ),
        (
            "gone since an older layer",
            vec![vec![file("b", "")], vec![file(".wh.b", "")], vec![hard("a", "b")]],
            "L, entry \"a\": hard link target \"b\" does not exist in this layer or the ones below",
        ),
        (
            "through a symlink",
            vec![vec![dir("d"), file("d/f", ""), symlink("s", "d"), hard("a", "s/f")]],
            "L, entry \"a\": hard link target \"s/f\" does not exist in this layer or the ones below",
        ),
        (
            "a directory",
            vec![vec![dir("d"), hard("a", "d")]],
            "L, entry \"a\": hard link target \"d\" is a directory",
        ),
        ("the root", vec![vec![hard("a", "./")]], "L, entry \"a\": hard link target \"./\" is a directory"),
        (
            "nothing",
            vec![vec![hard("a", "")]],
            "L, entry \"a\": hard link target \"\" is refused: empty names are refused",
        ),
    ]);
}

#[test]
fn entries_that_images_do_not_have() {
    check(vec![
        (
            "unknown type",
            vec![vec![item(b'M', "a", "", 0o644, "")]],
            "L, entry \"a\": entries of type 'M' are not supported",
        ),
        (
            "symlink to nothing",
            vec![vec![symlink("a", "")]],
            "L, entry \"a\": the symlink's target is empty, too long or contains a NUL byte",
        ),
    ]);
    let end = vec![0; 1024];
    let pax = |records: &[(&str, &[u8])], item: &Item| vec![[with_pax(records, item), end.clone()].concat()];
    let sparse =
        [("GNU.sparse.major", b"2".as_slice()), ("GNU.sparse.name", b"a"), ("GNU.sparse.realsize", b"9")];
    let cases = [
        (
            "pax sparse 2.0",
            pax(&sparse, &file("a", "1\n0\n1\n")),
            "L, entry \"a\": sparse files in this pax format (GNU.sparse.major) are not supported; rebuild the layer without sparse files",
        ),
        (
            "NUL in a pax name",
            pax(&[("path", b"a\0b")], &file("a", "")),
            "L, entry \"a\\0b\": names with a NUL byte are refused",
        ),
        (
            "pax name that leaves the image",
            pax(&[("path", b"../x")], &file("harmless", "")),
            "L, entry \"../x\": names with a \"..\" component are refused",
        ),
        (
            "symlink target longer than a path can be",
            vec![tar_of(&[symlink("a", [b'x'; 5000])])],
            "L, entry \"a\": the symlink's target is empty, too long or contains a NUL byte",
        ),
    ];
    for (name, tars, expected) in cases {
        assert_eq!(refusal(name, &tars, &Limits::default()), expected, "{name}");
    }
}

#[test]
fn archives_that_are_damaged() {
    let good = tar_of(&[file("a", "contents")]);
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    let mut bad_number = header(b'0', b"a", b"", 0o644, 0);
    bad_number.as_old_mut().size = *b"0000000009x\0";
    bad_number.set_cksum();
    let mut negative = header(b'0', b"a", b"", 0o644, 0);
    negative.as_old_mut().size = [0xff; 12];
    negative.set_cksum();
    let end = vec![0_u8; 1024];
    let extension = |kind: u8, data: &[u8]| block(&header(kind, b"x", b"", 0, data.len() as u64), data);
    let huge = header(b'L', b"././@LongLink", b"", 0, 100 << 30);
    let at = |offset: u64, near: &str, fault: &str| {
        format!("L is not a valid tar archive at byte {offset}, {near}: {fault}")
    };
    let (start, in_a, behind_a) = ("before the first entry", "in entry \"a\"", "behind entry \"a\"");
    let truncated = "it ends in the middle of an entry; the layer is truncated";
    let cases = [
        ("not a tar", vec![b'x'; 2048], at(512, start, "the checksum field is not a number in range")),
        ("checksum", flipped, at(512, start, "the header checksum does not match")),
        ("cut in a header", good[..100].to_vec(), at(100, start, truncated)),
        ("cut in data", good[..514].to_vec(), at(514, in_a, truncated)),
        ("cut in padding", good[..900].to_vec(), at(900, in_a, truncated)),
        (
            "cut between entries",
            good[..1024].to_vec(),
            at(1024, behind_a, "it ends without an end-of-archive marker; the layer may be truncated"),
        ),
        (
            "empty file",
            Vec::new(),
            at(0, start, "it ends without an end-of-archive marker; the layer may be truncated"),
        ),
        (
            "a second archive behind the first",
            [good.clone(), good.clone()].concat(),
            at(2048, behind_a, "data follows the end-of-archive marker"),
        ),
        (
            "an entry behind one zero block",
            [good[..1536].to_vec(), good.clone()].concat(),
            at(1536, behind_a, "data follows the end-of-archive marker"),
        ),
        (
            "size is no number",
            bad_number.as_bytes().to_vec(),
            at(512, in_a, "the size field is not a number in range"),
        ),
        (
            "negative size",
            negative.as_bytes().to_vec(),
            at(512, in_a, "the size field is not a number in range"),
        ),
        (
            "a long name of 100 GiB",
            huge.as_bytes().to_vec(),
            at(512, start, "an extension header of 107374182400 bytes is larger than allowed"),
        ),
        (
            "a long name for nothing",
            [extension(b'L', b"name\0"), end.clone()].concat(),
            at(2048, start, "an extension header describes no entry"),
        ),
        (
            "pax length",
            [extension(b'x', b"99 path=a\n"), end.clone()].concat(),
            at(522, start, "a pax record is malformed"),
        ),
        (
            "a header behind an entry",
            [good[..1024].to_vec(), vec![b'x'; 512]].concat(),
            at(1536, behind_a, "the checksum field is not a number in range"),
        ),
        (
            "pax size",
            [extension(b'x', &pax_record("size", b"-1")), end].concat(),
            at(523, start, "a pax record is malformed (key \"size\")"),
        ),
    ];
    for (name, tar, expected) in cases {
        assert_eq!(refusal(name, &[tar], &Limits::default()), expected, "{name}");
    }
}

#[test]
fn maps_of_sparse_files_that_contradict_themselves() {
    type Map = &'static [(u64, u64)];
    let table: &[(&str, Map, u64, u64)] = &[
        ("overlap", &[(0, 512), (256, 256)], 768, 4096),
        ("unordered", &[(1024, 512), (0, 512)], 1024, 4096),
        ("beyond the end", &[(4000, 512)], 512, 4096),
        ("less data than segments", &[(0, 512), (1024, 512)], 512, 4096),
        ("more data than segments", &[(0, 512)], 1024, 4096),
        ("wraps around", &[(1 << 62, 1 << 62), (1 << 62, 1 << 62)], 512, 4096),
    ];
    for (name, map, stored, real) in table {
        let mut head = header(b'S', b"sparse", b"", 0o644, *stored);
        let gnu = head.as_gnu_mut().unwrap();
        gnu.set_real_size(*real);
        for (slot, (offset, bytes)) in gnu.sparse.iter_mut().zip(*map) {
            slot.set_offset(*offset);
            slot.set_length(*bytes);
        }
        head.set_cksum();
        let tar = [block(&head, &vec![1; usize::try_from(*stored).unwrap()]), vec![0; 1024]].concat();
        let found = refusal(name, &[tar], &Limits::default());
        let expected = ", in entry \"sparse\": the map of a sparse file is inconsistent";
        assert!(found.ends_with(expected), "{name}: {found}");
    }
}

#[test]
fn layers_beyond_the_limits() {
    let limits = Limits {
        layers: 3,
        entries: 10,
        all_names_bytes: 7000,
        depth: 5,
        uncompressed_bytes: 100_000,
        sparse_segments: 20,
        ..Limits::default()
    };
    let many: Vec<Item> = (0..6).map(|n| file(format!("f{n}"), "")).collect();
    let deep = tar_of(&[file("1/2/3/4/5/6", "")]);
    let mut sparse = header(b'S', b"holes", b"", 0o644, 0);
    sparse.as_gnu_mut().unwrap().set_real_size(1 << 40);
    sparse.set_cksum();
    let sparse = [sparse.as_bytes().to_vec(), vec![0; 1024]].concat();
    let long = |name: usize| tar_of(&[file("x".repeat(name), "")]);
    let path = tar_of(&[file("y/".repeat(3000), "")]);
    let cases = [
        (
            "entries of all layers",
            vec![tar_of(&many), tar_of(&many)],
            "the image's layers hold more than 10 entries (reached in L, in entry \"f4\")",
        ),
        (
            "directories implied by few entries",
            vec![tar_of(&[file("1/2/3/4/a", ""), file("5/6/7/8/a", ""), file("9/a", "")])],
            "the image's layers hold more than 10 entries (reached in L, in entry \"9/a\")",
        ),
        (
            "text of names",
            vec![tar_of(&[symlink("a", [b't'; 4000]), symlink("b", [b't'; 3000])])],
            "the names in the image's layers take more than 7000 bytes (reached in L, in entry \"b\")",
        ),
        ("depth", vec![deep], "L, entry \"1/2/3/4/5/6\": the name has 6 components, more than allowed"),
        (
            "bytes",
            vec![tar_of(&[file("a", vec![0; 200_000])])],
            "the image's layers expand to more than 100000 bytes (reached in L, in entry \"a\")",
        ),
        (
            "bytes of all layers",
            vec![tar_of(&[file("a", vec![0; 60_000])]), tar_of(&[file("a", vec![0; 60_001])])],
            "the image's layers expand to more than 100000 bytes (reached in L, in entry \"a\")",
        ),
        (
            "holes",
            vec![sparse],
            "the image's layers expand to more than 100000 bytes (reached in L, in entry \"holes\")",
        ),
        (
            "component",
            vec![long(256)],
            &format!(
                "L, entry \"{}…\": a component of the name has 256 bytes, more than allowed",
                "x".repeat(200)
            ),
        ),
        (
            "name",
            vec![path],
            &format!("L, entry \"{}…\": the name has 6000 bytes, more than allowed", "y/".repeat(100)),
        ),
    ];
    for (name, tars, expected) in cases {
        assert_eq!(refusal(name, &tars, &limits), expected, "{name}");
    }
    let four = vec![tar_of(&[]); 4];
    let error = merge_tars(&four, &limits).unwrap_err();
    assert_eq!(error.to_string(), "the image has 4 layers, more than the 3 allowed");
}
