//! Names of any length and any bytes, names twice, names that nobody introduced, and the policy.

use shifter_tests::fixture::{Entry, Layer, blk, chr, dir, fifo, file, hardlink, symlink};

use super::compare::{Bench, Case};
use super::{ROOT, Row, check_all};

#[test]
fn names_of_any_bytes_and_length_come_through() {
    let long = |count: usize| -> Vec<String> {
        let part = |number: usize| format!("{number}{}", "n".repeat(200));
        (0..count).map(|upto| (0..=upto).map(part).collect::<Vec<_>>().join("/")).collect()
    };
    let deep = |gnu: bool| -> Vec<Entry> {
        let entries = long(15).into_iter().map(|name| dir(name).mtime(50));
        let mut entries: Vec<Entry> = entries.collect();
        let last = long(15).pop().unwrap();
        entries.push(file(format!("{last}/file"), "deep").mtime(51));
        entries.push(hardlink("link", format!("{last}/file")).mtime(51));
        entries.push(symlink("symlink", &last).mtime(52));
        if gnu { entries.into_iter().map(Entry::gnu_names).collect() } else { entries }
    };
    let odd: Vec<Entry> = [
        &b"\xff\xfe\xfd"[..],
        b"caf\xe9",
        b"new\nline",
        b"tab\tbell\x07",
        b"back\\slash",
        b"  blanks  ",
        b"'quotes\"",
        b"-dash",
        b"...",
        b"*?[a]",
        "größe-\u{65e5}\u{672c}".as_bytes(),
        b"\x80",
    ]
    .iter()
    .flat_map(|name| [file(name, name), symlink([name, &b"-link"[..]].concat(), name)])
    .collect();
    let edges: Vec<Entry> = [99, 100, 101, 154, 155, 156, 254, 255]
        .map(|length| file(vec![b'e'; length], length.to_string()))
        .into();
    let edges_gnu = edges.iter().cloned().map(Entry::gnu_names).collect();
    let targets = ["/", ".", "..", "../../../x", "a//b/", "\\", "\u{1}", "x/../y"];
    let targets =
        targets.iter().enumerate().map(|(number, target)| symlink(number.to_string(), target)).collect();
    let spelled = vec![
        dir("./a").mtime(60),
        file("./a//b", "1"),
        file("a//c", "2"),
        file("./a/./d", "3"),
        dir("a/e/").mtime(61),
    ];
    let rows: Vec<Row<'_>> = vec![
        ("paths of 3000 bytes, pax", vec![deep(false)], &[]),
        ("paths of 3000 bytes, GNU", vec![deep(true)], &[]),
        ("odd bytes", vec![odd], &[]),
        (
            "absolute ones",
            vec![vec![dir("/ko-app").mtime(7), file("/ko-app/a", "1"), hardlink("/b", "/ko-app/a")]],
            &[],
        ),
        ("lengths around the header's field", vec![edges], &[]),
        ("lengths around the header's field, GNU", vec![edges_gnu], &[]),
        ("targets of symbolic links", vec![targets], &[]),
        ("one name in many spellings", vec![spelled], &[]),
        ("a file whose name ends in a slash", vec![vec![file("a/", "1"), dir("b/")]], &[]),
        ("the root itself", vec![vec![dir(".").mode(0o711).mtime(70), file("a", "")]], &[]),
    ];
    check_all(rows);
}

#[test]
fn the_last_of_several_entries_of_a_name_counts() {
    let rows: Vec<Row<'_>> = vec![
        ("files", vec![vec![file("a", "1"), file("b", "x"), file("a", "22").mode(0o700).mtime(5)]], &[]),
        ("directories", vec![vec![dir("d").mtime(1), file("d/f", ""), dir("d").mode(0o1770).mtime(2)]], &[]),
        (
            "directories in two layers",
            vec![vec![dir("d").mtime(1), file("d/f", "")], vec![dir("d").mode(0o770).mtime(2)]],
            &[],
        ),
        (
            "large files",
            vec![vec![file("a", vec![1; 500_000]), file("a", vec![2; 300_000]), file("a", vec![1; 500_000])]],
            &[],
        ),
        ("symbolic links", vec![vec![symlink("s", "1"), symlink("s", "2").mtime(3)]], &[]),
        ("other spellings", vec![vec![file("a", "1"), file("./a", "2"), file(".//a", "3")]], &[]),
    ];
    check_all(rows);
}

#[test]
fn directories_that_no_entry_introduces_are_made_and_those_that_exist_stay_as_they_are() {
    let mut bench = Bench::new();
    let layers = vec![Layer::new(vec![file("a/b/c", "x"), dir("a/d").mtime(4), whole("a/e")])];
    bench.check(Case { name: "missing parents", layers, differs: &[], implied: &["", "a", "a/b"] });
    let layers = vec![
        Layer::new(vec![dir("a").mode(0o1777).mtime(5), dir("a/b").mtime(6)]),
        Layer::new(vec![file("a/b/c", "new").mtime(7)]),
    ];
    bench.check(Case { name: "parents of an older layer", layers, differs: &[], implied: ROOT });
    bench.finish();
}

fn whole(name: &str) -> Entry {
    file(name, "whole").mode(0o600).mtime(77)
}

#[test]
fn the_policy_is_what_the_documents_say() {
    let layer = vec![
        dir("dev").mode(0o700).mtime(1),
        chr("dev/null", 1, 3),
        file("dev/plain", "x"),
        dir("dev/shm"),
        dir("bin").mtime(2),
        file("bin/su", "x").mode(0o4755).owner(0, 0),
        file("bin/wall", "x").mode(0o2711).owner(0, 5),
        file("bin/cap", "x").mode(0o755).xattr("user.note", b"1"),
        dir("home").mode(0o2750).owner(1000, 100).mtime(3),
        file("home/key", "secret").mode(0o600).owner(1000, 2_000_000),
        dir("tmp").mode(0o1777).mtime(4),
        chr("device", 5, 1),
        blk("disk", 8, 0),
        fifo("pipe"),
        dir("etc").mtime(5),
        file("etc/shadow", "root:$6$").mode(0o640),
        file("etc/gshadow-", "x").mode(0o000),
        file("etc/passwd", "root:x").mode(0o000),
    ];
    let replaced = vec![file("dev", "a file"), file("etc/x", "")];
    let rows: Vec<Row<'_>> = vec![
        ("of all sorts", vec![layer.clone()], &[]),
        ("with a newer layer", vec![layer, vec![file("etc/shadow", "root:$7$"), chr("dev/zero", 1, 5)]], &[]),
        ("where dev is a file", vec![vec![dir("etc").mtime(5)], replaced], &[]),
    ];
    let mut bench = Bench::new();
    for (name, layers, differs) in rows {
        let layers = layers.into_iter().map(Layer::new).collect();
        bench.check(Case { name, layers, differs, implied: &["", "dev"] });
    }
    bench.finish();
}

/// Archives that umoci unpacks and we refuse, on purpose: what it writes with care, we do not write at all.
#[test]
fn what_could_lead_elsewhere_is_refused_though_umoci_unpacks_it() {
    let mut bench = Bench::new();
    let rows: Vec<(&str, Vec<Entry>, &str)> = vec![
        ("a name that goes up", vec![dir("a"), file("a/../b", "")], "component are refused"),
        (
            "a name below a link of the same layer",
            vec![dir("real"), symlink("way", "real"), file("way/f", "")],
            "is not a directory in the same layer",
        ),
    ];
    for (name, entries, words) in rows {
        bench.check_refused(name, vec![Layer::new(entries)], words);
    }
    bench.finish();
}
