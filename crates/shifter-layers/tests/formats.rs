//! The dialects of tar: names, numbers and sparse files in every encoding, some written by GNU tar itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{self, Write};
use std::process::Command;

use common::{block, dir, file, hard, header, item_bytes, listing, merge_tars, symlink, tar_of, with_pax};
use shifter_layers::{Compression, Limits, merge};

fn end() -> Vec<u8> {
    vec![0; 1024]
}

fn merged(tar: Vec<u8>) -> Vec<String> {
    let (stream, _) = merge_tars(&[tar], &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut lines = listing(&stream).split_off(1);
    lines.sort();
    lines
}

#[test]
fn names_come_through_in_every_encoding() {
    let long = format!("{}/{}/{}", "d".repeat(120), "e".repeat(130), "f".repeat(255));
    let exact = "x".repeat(100);
    let parents =
        [format!("d 755 {}", "d".repeat(120)), format!("d 755 {}/{}", "d".repeat(120), "e".repeat(130))];
    let with_parents = |line: String| [parents.to_vec(), vec![line]].concat();

    assert_eq!(merged(tar_of(&[file(&long, "1")])), with_parents(format!("f 644 {long} = 1")), "GNU");
    let pax = [with_pax(&[("path", long.as_bytes())], &file("short", "1")), end()].concat();
    assert_eq!(merged(pax), with_parents(format!("f 644 {long} = 1")), "pax");

    let mut ustar = tar::Header::new_ustar();
    ustar.as_ustar_mut().unwrap().prefix[..4].copy_from_slice(b"some");
    ustar.as_old_mut().name[..4].copy_from_slice(b"name");
    ustar.set_entry_type(tar::EntryType::Regular);
    ustar.set_mode(0o644);
    ustar.set_mtime(0);
    ustar.set_size(0);
    ustar.set_cksum();
    let ustar = [block(&ustar, b""), end()].concat();
    assert_eq!(merged(ustar), ["d 755 some", "f 644 some/name = "]);

    let odd =
        [b"caf\xe9".as_slice(), b"\xff\xfe\x80", b"new\nline", b"back\\x2dslash", b" blanks ", b"*?[a]"];
    for name in odd {
        assert_eq!(merged(tar_of(&[file(name, "1")])), [format!("f 644 {} = 1", name.escape_ascii())]);
    }
    assert_eq!(merged(tar_of(&[file(&exact, "1")])), [format!("f 644 {exact} = 1")]);

    let target = "t".repeat(300);
    assert_eq!(merged(tar_of(&[symlink("s", &target)])), [format!("l s -> {target}")], "GNU");
    let pax = [with_pax(&[("linkpath", target.as_bytes())], &symlink("s", "short")), end()].concat();
    assert_eq!(merged(pax), [format!("l s -> {target}")], "pax");
    let hops =
        tar_of(&[file(&exact, "1"), hard(format!("{exact}y"), &exact), hard("a", format!("{exact}y"))]);
    assert_eq!(
        merged(hops),
        ["f 644 a = 1".to_owned(), format!("h {exact} => a"), format!("h {exact}y => a")]
    );
}

#[test]
fn symlink_targets_are_kept_to_the_byte() {
    for target in ["/etc/passwd", "../../../x", "./a//b/", "..", "a\\b", "\x01"] {
        let expected = format!("l s -> {}", target.as_bytes().escape_ascii());
        assert_eq!(merged(tar_of(&[symlink("s", target)])), [expected]);
    }
}

#[test]
fn pax_sizes_times_and_global_records_are_read_right() {
    let data = b"0123456789";
    let mut lying = file("a", "");
    lying.data.clear();
    let head = item_bytes(&lying);
    let extension = with_pax(&[("size", b"10"), ("mtime", b"1700000000.9")], &lying);
    let body = [extension[..extension.len() - head.len()].to_vec(), head].concat();
    let mut tar = body;
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar.extend(item_bytes(&file("b", "next")));
    let global = block(&header(b'g', b"pax_global_header", b"", 0, 19), b"19 path=everything\n");
    let tar = [global, tar, end()].concat();
    let (stream, _) = merge_tars(&[tar], &Limits::default()).unwrap();
    assert_eq!(listing(&stream)[1..], ["f 644 a = 0123456789", "f 644 b = next"]);
    let mut archive = tar::Archive::new(stream.as_slice());
    let times: Vec<u64> =
        archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [0, 1_700_000_000, 1_600_000_000]);
}

#[test]
fn entries_without_data_have_none_whatever_their_size_says() {
    let mut lying = header(b'5', b"d", b"", 0o755, 512);
    lying.set_cksum();
    let tar = [lying.as_bytes().to_vec(), item_bytes(&file("f", "1")), end()].concat();
    assert_eq!(merged(tar), ["d 755 d", "f 644 f = 1"]);
    let old = |name: &[u8], data: &[u8]| {
        let mut head = header(b'0', name, b"", 0o755, data.len() as u64);
        head.as_mut_bytes()[156] = 0;
        head.set_cksum();
        block(&head, data)
    };
    let old_archive = [old(b"old/", b""), old(b"file", b"1"), end()].concat();
    assert_eq!(merged(old_archive), ["d 755 old", "f 755 file = 1"]);
    // Go's reader, and so every builder and runtime written in Go, takes a type of '0' at its word.
    assert_eq!(merged(tar_of(&[file("file/", "1")])), ["f 644 file = 1"]);
}

/// Runs GNU tar in a folder with `f`, a sparse file of 3 MiB and 200 data pieces.
fn gnu_tar(arguments: &[&str]) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let sparse = std::fs::File::create(folder.path().join("f")).unwrap();
    for piece in 0..200_u64 {
        sparse.write_all_at(&[b'a' + (piece % 26) as u8; 100], piece * 16_384 + 5).unwrap();
    }
    sparse.set_len(3 << 20 | 1).unwrap();
    let output =
        Command::new("tar").args(arguments).args(["-cf", "-", "f"]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn sparse_files_of_every_kind_are_expanded() {
    let (plain, _) = merge_tars(&[gnu_tar(&["--format=gnu"])], &Limits::default()).unwrap();
    let versions = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"];
    let kinds = versions.map(|version| vec!["--format=pax", "--sparse", version]);
    for arguments in kinds.into_iter().chain([vec!["--format=gnu", "--sparse"]]) {
        let tar = gnu_tar(&arguments);
        assert!(tar.len() < 2 << 20, "the archive is not sparse; the file system of the test has no holes");
        let (stream, summary) =
            merge_tars(&[tar], &Limits::default()).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!(summary.file_bytes, 3 << 20 | 1, "{arguments:?}");
        assert!(listing(&stream) == listing(&plain), "{arguments:?}");
    }
}

/// Keeps the beginning, counts the rest.
struct Counter(Vec<u8>, u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() < 1 << 20 {
            self.0.extend_from_slice(bytes);
        }
        self.1 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_beyond_8_gib_keep_their_size() {
    let size = (8_u64 << 30) + 1;
    let mut head = header(b'S', b"huge", b"", 0o644, 0);
    head.as_gnu_mut().unwrap().set_real_size(size);
    head.set_cksum();
    let tar = [head.as_bytes().to_vec(), tar_of(&[dir("after")])].concat();
    let folder = tempfile::tempdir().unwrap();
    let layer = common::layer(folder.path(), 0, &tar, Compression::None);
    let mut out = Counter(Vec::new(), 0);
    merge(&[layer], &Limits::default(), &mut out).unwrap();
    assert_eq!(out.1, 512 * 3 + size.next_multiple_of(512) + 1024);
    let mut archive = tar::Archive::new(out.0.as_slice());
    let sizes: Vec<u64> =
        archive.entries().unwrap().take(3).map(|entry| entry.unwrap().header().size().unwrap()).collect();
    assert_eq!(sizes, [0, 0, size]);
}
