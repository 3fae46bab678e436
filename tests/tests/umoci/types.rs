//! Every type in the place of every other: in the next layer, and in the same one.

use shifter_tests::fixture::{Entry, Layer, chr, dir, fifo, file, hardlink, symlink};

use super::compare::{Bench, Case};
use super::{ROOT, Row, check_all};

/// What may stand at `x`: its name, and its entries.
fn kinds() -> Vec<(&'static str, Vec<Entry>)> {
    vec![
        ("file", vec![file("x", "content").mtime(11)]),
        ("empty file", vec![file("x", "").mode(0o755).mtime(12)]),
        ("directory", vec![dir("x").mtime(13)]),
        (
            "full directory",
            vec![
                dir("x").mode(0o1777).mtime(14),
                file("x/in", "in it").mtime(15),
                dir("x/sub").mtime(16),
                file("x/sub/deep", "deep").mtime(17),
            ],
        ),
        ("link to a file", vec![symlink("x", "other").mtime(18)]),
        ("link to a directory", vec![symlink("x", "folder").mtime(19)]),
        ("link to nothing", vec![symlink("x", "/nowhere").mtime(20)]),
        ("hard link", vec![hardlink("x", "other").mtime(21)]),
        ("pipe", vec![fifo("x").mtime(22)]),
        ("device", vec![chr("x", 1, 3).mtime(23)]),
    ]
}

fn base() -> Vec<Entry> {
    vec![
        file("other", "other's").mtime(21),
        dir("folder").mtime(31),
        file("folder/inside", "inside").mtime(32),
    ]
}

#[test]
fn every_type_takes_the_place_of_every_other() {
    let mut bench = Bench::new();
    for (before, first) in kinds() {
        for (after, second) in kinds() {
            let older = [base(), first.clone()].concat();
            let name = format!("{before}, then {after} in the next layer");
            let layers = [older.clone(), second.clone()].map(Layer::new).to_vec();
            bench.check(Case { name: &name, layers, differs: &[], implied: ROOT });
            let name = format!("{before}, then {after} in a third layer");
            let layers = [older.clone(), vec![file("more", "")], second.clone()].map(Layer::new).to_vec();
            bench.check(Case { name: &name, layers, differs: &[], implied: ROOT });
        }
    }
    bench.finish();
}

#[test]
fn every_type_takes_the_place_of_every_other_in_one_layer() {
    let mut bench = Bench::new();
    for (before, first) in kinds() {
        for (after, second) in kinds() {
            let name = format!("{before}, then {after} in one layer");
            let layers = vec![Layer::new([base(), first.clone(), second].concat())];
            bench.check(Case { name: &name, layers, differs: &[], implied: ROOT });
        }
    }
    bench.finish();
}

#[test]
fn entries_below_links_of_older_layers_go_where_they_lead() {
    let usr = || vec![dir("usr").mtime(1), dir("usr/lib").mtime(2), symlink("lib", "usr/lib").mtime(3)];
    let rows: Vec<Row<'_>> = vec![
        ("relative", vec![usr(), vec![file("lib/new", "n").mtime(4)]], &[]),
        (
            "absolute",
            vec![vec![dir("a").mtime(1), symlink("s", "/a")], vec![file("s/f", "x"), dir("s/d").mtime(4)]],
            &[],
        ),
        ("two links", vec![[usr(), vec![symlink("l2", "lib")]].concat(), vec![file("l2/f", "x")]], &[]),
        (
            "up and down",
            vec![[usr(), vec![symlink("usr/up", "../usr/lib")]].concat(), vec![file("usr/up/f", "x")]],
            &[],
        ),
        (
            "a directory instead of the link",
            vec![usr(), vec![dir("lib").mtime(5), file("lib/new", "n")]],
            &[],
        ),
        (
            "a file over one below",
            vec![[usr(), vec![file("usr/lib/f", "1")]].concat(), vec![file("lib/f", "2")]],
            &[],
        ),
        (
            "a hard link to a name behind one",
            vec![[usr(), vec![file("usr/lib/f", "1")]].concat(), vec![hardlink("h", "lib/f")]],
            &[],
        ),
    ];
    check_all(rows);
}
