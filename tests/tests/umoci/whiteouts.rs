//! What newer layers take away.

use shifter_tests::fixture::{dir, file, hardlink, opaque, symlink, whiteout};

use super::{Row, check_all};

/// umoci 0.4.7 takes the older names away when it comes to the mark, which touches a directory that the layer has
/// described already. Marks hide what is in older layers, whatever their place in the archive (image-spec, layer.md,
/// "Whiteouts"), and what the entry says of the directory stays said.
const TIME_OF_THE_ENTRY: &str = "the directory's own entry says its time";

/// A directory with a file, a directory and a link in it, and a neighbor.
fn base() -> Vec<shifter_tests::fixture::Entry> {
    vec![
        dir("d").mtime(1000),
        file("d/f", "old f").mtime(1001),
        dir("d/e").mode(0o700).mtime(1002),
        file("d/e/g", "old g").mtime(1003),
        symlink("d/l", "e").mtime(1004),
        file("n", "neighbor").mtime(1005),
    ]
}

#[test]
fn whited_out_names_are_gone() {
    let rows: Vec<Row<'_>> = vec![
        ("a file", vec![base(), vec![whiteout("d/f")]], &[]),
        ("a directory", vec![base(), vec![whiteout("d")]], &[]),
        ("a link, not what it leads to", vec![base(), vec![whiteout("d/l")]], &[]),
        ("a name that nobody has", vec![base(), vec![whiteout("d/x"), whiteout("y")]], &[]),
        ("everything", vec![base(), vec![whiteout("d"), whiteout("n"), file("m", "")]], &[]),
        ("a file, then the same name again", vec![base(), vec![whiteout("d/f"), file("d/f", "new")]], &[]),
        ("the same name, then its whiteout", vec![base(), vec![file("d/f", "new"), whiteout("d/f")]], &[]),
        (
            "a directory that comes again with less in it",
            vec![base(), vec![whiteout("d"), dir("d").mtime(7), file("d/h", "new")]],
            &[],
        ),
        (
            "a directory that comes again before its whiteout",
            vec![base(), vec![dir("d").mtime(7), file("d/h", "new"), whiteout("d")]],
            &[("d", "directory 755 of 7", TIME_OF_THE_ENTRY)],
        ),
        (
            "in one layer, back in the next",
            vec![base(), vec![whiteout("d/e")], vec![dir("d/e").mtime(8), file("d/e/z", "z")]],
            &[],
        ),
        (
            "in every layer but the last",
            vec![
                base(),
                vec![whiteout("n")],
                vec![file("n", "2")],
                vec![whiteout("n")],
                vec![file("n", "4")],
            ],
            &[],
        ),
        ("one name of a file", vec![vec![file("a", "both"), hardlink("b", "a")], vec![whiteout("a")]], &[]),
        (
            "the only one of three names",
            vec![
                vec![file("a", "x"), hardlink("b", "a"), hardlink("c", "b")],
                vec![whiteout("a"), whiteout("b")],
            ],
            &[],
        ),
        ("marks of aufs", vec![base(), vec![dir(".wh..wh.plnk"), file(".wh..wh.aufs", "")]], &[]),
        (
            "below a link of an older layer",
            vec![
                vec![dir("real").mtime(3), file("real/x", ""), file("real/y", ""), symlink("way", "real")],
                vec![whiteout("way/x")],
            ],
            &[],
        ),
    ];
    check_all(rows);
}

#[test]
fn opaque_directories_hide_what_is_older_and_nothing_newer() {
    let rows: Vec<Row<'_>> = vec![
        ("with nothing new", vec![base(), vec![dir("d").mtime(9), opaque("d")]], &[]),
        ("mark first", vec![base(), vec![dir("d").mtime(9), opaque("d"), file("d/new", "n")]], &[]),
        (
            "mark last",
            vec![base(), vec![dir("d").mtime(9), file("d/new", "n"), file("d/f", "again"), opaque("d")]],
            &[],
        ),
        (
            "mark between",
            vec![base(), vec![dir("d").mtime(9), file("d/f", "again"), opaque("d"), file("d/g", "n")]],
            &[],
        ),
        (
            "below",
            vec![base(), vec![dir("d").mtime(9), dir("d/e").mtime(9), opaque("d/e"), file("d/e/z", "z")]],
            &[],
        ),
        (
            "with directories in it that older layers have too",
            vec![base(), vec![dir("d").mtime(9), dir("d/e").mtime(10), file("d/e/z", "z"), opaque("d")]],
            &[("d/e", "directory 755 of 10", TIME_OF_THE_ENTRY)],
        ),
        (
            "of a directory that is not there",
            vec![base(), vec![dir("x").mtime(1), opaque("x"), file("x/y", "")]],
            &[],
        ),
        (
            "twice",
            vec![
                base(),
                vec![dir("d").mtime(9), opaque("d"), file("d/2", "")],
                vec![dir("d").mtime(10), opaque("d"), file("d/3", "")],
            ],
            &[],
        ),
        (
            "and a whiteout in it",
            vec![base(), vec![dir("d").mtime(9), opaque("d"), whiteout("d/f"), file("d/z", "")]],
            &[],
        ),
        ("of the whole image", vec![base(), vec![file(".wh..wh..opq", ""), file("only", "this")]], &[]),
        (
            "then more in the next layer",
            vec![base(), vec![dir("d").mtime(9), opaque("d")], vec![file("d/f", "third")]],
            &[],
        ),
    ];
    check_all(rows);
}
