//! Hard links: within and across layers, to names that do not stay.

use shifter_tests::fixture::{dir, file, hardlink, opaque, symlink, whiteout};

use super::{Row, check_all};

#[test]
fn hard_links_keep_the_file_that_they_were_made_of() {
    let one = || vec![file("a", "first").mode(0o755).mtime(100)];
    let link = |name: &str, target: &str| hardlink(name, target).mode(0o755).mtime(100);
    let rows: Vec<Row<'_>> = vec![
        ("in one layer", vec![[one(), vec![link("b", "a"), link("c", "a")]].concat()], &[]),
        ("to a link", vec![[one(), vec![link("b", "a"), link("c", "b"), link("d", "c")]].concat()], &[]),
        ("into an older layer", vec![one(), vec![link("b", "a")]], &[]),
        (
            "over three layers",
            vec![one(), vec![link("b", "a")], vec![link("c", "b")], vec![link("d", "a")]],
            &[],
        ),
        ("target whited out later", vec![one(), vec![link("b", "a")], vec![whiteout("a")]], &[]),
        ("target whited out behind it", vec![one(), vec![link("b", "a"), whiteout("a")]], &[]),
        ("target replaced later", vec![one(), vec![link("b", "a")], vec![file("a", "second")]], &[]),
        ("target replaced behind it", vec![one(), vec![link("b", "a"), file("a", "second")]], &[]),
        (
            "target replaced before it",
            vec![one(), vec![file("a", "second").mode(0o755).mtime(100), link("b", "a")]],
            &[],
        ),
        (
            "target replaced in its own layer",
            vec![[one(), vec![link("b", "a"), file("a", "second")]].concat()],
            &[],
        ),
        ("link replaced", vec![[one(), vec![link("b", "a")]].concat(), vec![file("b", "second")]], &[]),
        (
            "chain whose links go one by one",
            vec![
                one(),
                vec![link("b", "a")],
                vec![whiteout("a"), link("c", "b")],
                vec![whiteout("b"), link("d", "c")],
            ],
            &[],
        ),
        (
            "two files with the same content",
            vec![vec![file("a", "same"), file("b", "same"), hardlink("c", "a"), hardlink("d", "b")]],
            &[],
        ),
        (
            "to a file in a directory that becomes opaque behind it",
            vec![
                vec![dir("d").mtime(5), file("d/f", "old")],
                vec![hardlink("l", "d/f"), dir("d").mtime(6), opaque("d")],
            ],
            &[],
        ),
        (
            "to a file whose directory is whited out behind it",
            vec![vec![dir("d").mtime(5), file("d/f", "old")], vec![hardlink("l", "d/f"), whiteout("d")]],
            &[],
        ),
        (
            "to a file that an older layer hides and a newer one restores",
            vec![
                one(),
                vec![whiteout("a")],
                vec![file("a", "third").mode(0o755).mtime(100)],
                vec![link("b", "a")],
            ],
            &[],
        ),
        (
            "to a symbolic link",
            vec![vec![file("t", "x"), symlink("s", "t").mtime(9), hardlink("h", "s").mtime(9)]],
            &[],
        ),
        (
            "to a symbolic link of an older layer",
            vec![vec![symlink("s", "t").mtime(9)], vec![hardlink("h", "s").mtime(9)]],
            &[],
        ),
        (
            "to itself's replacement, twice in one layer",
            vec![vec![
                file("a", "1"),
                hardlink("b", "a"),
                file("c", "2"),
                hardlink("b", "c").mtime(1_704_067_200),
            ]],
            &[],
        ),
        (
            "large, of several blocks, masked in between",
            vec![
                vec![
                    file("big", vec![b'x'; 400_000]),
                    file("bag", [vec![b'y'; 300_000], vec![b'z'; 77]].concat()),
                ],
                vec![hardlink("k", "big"), file("big", vec![b'w'; 200_001])],
                vec![whiteout("big"), hardlink("m", "bag"), whiteout("bag")],
            ],
            &[],
        ),
        (
            "to a shadow file",
            vec![vec![dir("etc").mtime(1), file("etc/shadow", "root:x"), hardlink("copy", "etc/shadow")]],
            &[],
        ),
    ];
    check_all(rows);
}
