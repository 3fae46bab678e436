//! Images that mkfs.erofs makes, and what is done to them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt, chown, symlink};

use rand::{Rng as _, SeedableRng as _};

use super::*;

/// An image of a tree that has one of each, made with these options.
fn image(at: &Path, options: &[&str]) -> PathBuf {
    let tree = at.join("tree");
    let (path, output) = (|name: &str| tree.join(name), at.join("image"));
    std::fs::create_dir_all(path("etc/deep")).unwrap();
    std::fs::create_dir(path("shut")).unwrap();
    std::fs::write(path("shut/in"), "shut in").unwrap();
    std::fs::write(path("etc/name"), "host").unwrap();
    std::fs::hard_link(path("etc/name"), path("second")).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 9 % 251) as u8).collect();
    std::fs::write(path("large"), large).unwrap();
    symlink("etc/../name", path("link")).unwrap();
    // So many names that they take several blocks.
    for number in 0..400 {
        std::fs::write(path(&format!("etc/deep/{}{number}", "n".repeat(90))), [number as u8]).unwrap();
    }
    fs_node(&path("pipe"), FileType::Fifo, 0);
    chown(path("etc/name"), Some(70_001), Some(7)).unwrap();
    for (name, mode) in [("etc/name", 0o4751), ("shut/in", 0o600), ("shut", 0o700)] {
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let made =
        Command::new("mkfs.erofs").args(options).args(["-T1700000000"]).arg(&output).arg(&tree).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    output
}

fn fs_node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from(0o644), device).unwrap();
}

/// What the archive of an image has, by an independent reader; or why there is none.
fn archived(at: &Path, image: &Path) -> Result<Vec<String>, String> {
    let (tree, archive) = (at.join("unpacked"), at.join("archive"));
    let job = UnpackJob {
        image: image.to_owned(),
        tree: tree.clone(),
        archive: archive.clone(),
        bytes: 10_000_000,
        reach: Reach::default(),
    };
    unpack(&find_program(PROGRAM).unwrap(), &job)?;
    let file = File::open(image).unwrap();
    let mut out = File::create(&archive).unwrap();
    write(&Erofs::open(&file)?, &Limits::default(), &tree, &mut out)?;
    let mut lines = Vec::new();
    for entry in tar::Archive::new(File::open(&archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let link = entry.link_name().unwrap().map(|link| format!(" {}", link.display())).unwrap_or_default();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let text =
            if bytes.len() < 20 { format!("{}", bytes.escape_ascii()) } else { bytes.len().to_string() };
        let (mode, kind, time) = (header.mode().unwrap(), header.entry_type(), header.mtime().unwrap());
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        lines.push(format!("{name} {mode:o} {owner:?} {time} {kind:?}{link} {text}").trim_end().to_owned());
    }
    Ok(lines)
}

#[test]
fn an_erofs_image_s_archive_has_what_the_image_has() {
    for options in
        [&[][..], &["-zlz4hc"], &["-zlz4hc,12", "-C65536", "-Eztailpacking"], &["--chunksize=4096"]]
    {
        let at = tempfile::tempdir().unwrap();
        let lines = archived(at.path(), &image(at.path(), options)).unwrap();
        let (deep, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("etc/deep/n"));
        assert_eq!(deep.len(), 400);
        let expected = [
            "./ 755 (0, 0) 1700000000 Directory",
            "empty 644 (0, 0) 1700000000 Regular",
            "etc/ 755 (0, 0) 1700000000 Directory",
            "etc/deep/ 755 (0, 0) 1700000000 Directory",
            "etc/name 4751 (70001, 7) 1700000000 Regular host",
            "large 644 (0, 0) 1700000000 Regular 3000000",
            "link 777 (0, 0) 1700000000 Symlink etc/../name",
            "pipe 644 (0, 0) 1700000000 Fifo",
            "second 4751 (70001, 7) 1700000000 Link etc/name",
            "shut/ 700 (0, 0) 1700000000 Directory",
            "shut/in 600 (0, 0) 1700000000 Regular shut in",
        ];
        assert_eq!(others, expected, "{options:?} {others:#?}");
    }
}

/// Entries and bytes, or why not.
fn walked(bytes: &[u8], limits: &Limits) -> Result<(u64, u64), String> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let image = Erofs::open(&file)?;
    Walk::new(&image, limits).run(&mut |_, _, inode| match inode.kind {
        Kind::Symlink => image.target(inode).map(drop),
        _ => Ok(()),
    })
}

#[test]
fn broken_images_are_refused_and_never_panic_or_run_on() {
    let at = tempfile::tempdir().unwrap();
    let good = std::fs::read(image(at.path(), &["-zlz4hc"])).unwrap();
    let limits = Limits { uncompressed_bytes: 10_000_000, ..Limits::default() };
    let (entries, bytes) = walked(&good, &limits).unwrap();
    assert_eq!((entries, bytes), (411, 3_000_000 + 400 + 4 + 4 + 7));
    for (limits, expected) in [
        (Limits { entries: 410, ..limits }, "more or deeper"),
        (Limits { depth: 2, ..limits }, "more or deeper"),
        (Limits { uncompressed_bytes: 3_000_000, ..limits }, "unpacks to more than 3000000 bytes"),
    ] {
        let why = walked(&good, &limits).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
    let changed = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        walked(&bytes, &limits).unwrap_err()
    };
    assert!(changed(1024, &[0]).contains("no EROFS image"));
    assert!(changed(1024 + 81, &[1]).contains("features 0x100"));
    assert!(changed(1024 + 86, &[1]).contains("in other files"));
    assert!(changed(1024 + 12, &[40]).contains("blocks of 2^40"));
    assert!(walked(&good[..good.len() - 1], &limits).unwrap_err().contains("it is cut off"));
    assert!(walked(b"", &limits).unwrap_err().contains("no EROFS image"));
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        if random.random() {
            bytes.truncate(random.random_range(2000..good.len()));
            // No longer said to be as long as it was.
            bytes[1024 + 36..1024 + 40].fill(0);
        }
        // Where superblock, inodes and names are.
        for _ in 0..random.random_range(1..6) {
            let place = random.random_range(1024..bytes.len().min(60_000));
            bytes[place] = random.random();
        }
        refused += u32::from(walked(&bytes, &limits).is_err());
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn an_image_may_unpack_to_much_but_not_to_anything() {
    assert_eq!(limits(u64::MAX, 0).uncompressed_bytes, 1 << 30);
    assert_eq!(limits(u64::MAX, 1 << 20).uncompressed_bytes, (1 << 30) + (2000 << 20));
    assert_eq!(limits(1 << 38, 1 << 40).uncompressed_bytes, 1 << 38);
    assert_eq!(limits(1 << 38, u64::MAX).uncompressed_bytes, 1 << 38);
}

#[test]
fn holes_of_an_erofs_image_s_files_take_no_room() {
    use std::os::unix::fs::MetadataExt as _;
    let at = tempfile::tempdir().unwrap();
    let tree = at.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    File::create(tree.join("hole")).unwrap().set_len(100 << 20).unwrap();
    let image = image(at.path(), &["-zlz4hc"]);
    let lines = archived(at.path(), &image).unwrap();
    assert!(lines.iter().any(|line| line.starts_with("hole ") && line.ends_with(" 104857600")), "{lines:?}");
    let archive = std::fs::metadata(at.path().join("archive")).unwrap();
    assert!(archive.len() > 100 << 20 && archive.blocks() * 512 < 8 << 20, "{}", archive.blocks());
}

#[test]
fn a_directory_that_holds_itself_ends_the_import() {
    let at = tempfile::tempdir().unwrap();
    let good = std::fs::read(image(at.path(), &[])).unwrap();
    let file = File::open(at.path().join("image")).unwrap();
    let image = Erofs::open(&file).unwrap();
    let root = image.root().unwrap();
    let entries = image.entries(&root).unwrap();
    let (_, shut) = entries.iter().find(|(name, _)| name == b"shut").unwrap();
    // The number of the inode, where it stands before its name's offset in the root directory.
    let (from, to) = (shut.to_le_bytes(), root.number.to_le_bytes());
    let place = good.windows(8).enumerate().skip(1152).find(|(_, w)| *w == from).unwrap().0;
    let mut bytes = good.clone();
    bytes[place..place + 8].copy_from_slice(&to);
    let why = walked(&bytes, &Limits::default()).unwrap_err();
    assert!(why.contains("the directory /shut has two names"), "{why}");
}
