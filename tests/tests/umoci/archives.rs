//! Archives as GNU tar writes them, in every dialect and with every kind of sparse file; compressions; and much of
//! everything: layers, entries, bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink as link};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use shifter_tests::fixture::{
    Built, Compression, Entry, Image, Layer, Manifest, digest_of, dir, file, hardlink, opaque, raw, symlink,
    whiteout,
};

use super::ROOT;
use super::compare::{Bench, Case};

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A folder of the test's, gone with the value. Not in the sandbox: there it would be in memory.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/var/lib/shifter-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tree with what archives hold; of sparse files also some that begin, end, or are nothing but holes.
fn grow(root: &Path, with_holes: bool) {
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/file"), "content").unwrap();
    fs::write(root.join("d/e/empty"), "").unwrap();
    fs::hard_link(root.join("d/file"), root.join("again")).unwrap();
    link("d/file", root.join("link")).unwrap();
    let set =
        |name: &str, time: &str| run(Command::new("touch").args(["-h", "-d", time]).arg(root.join(name)));
    if with_holes {
        type Pieces<'a> = &'a [(u64, usize)];
        let pieces: [(&str, Pieces<'_>, u64); 6] = [
            ("hole first", &[(1 << 20, 5000)], (1 << 20) + 5000),
            ("hole last", &[(0, 5000)], 3 << 20),
            ("all hole", &[], 2 << 20),
            ("odd size", &[(70_000, 1), (200_000, 4097)], 1_234_567),
            ("one piece", &[(0, 4096)], 4096),
            ("many pieces", &[], 9 << 20),
        ];
        for (name, data, size) in pieces {
            let file = File::create(root.join(name)).unwrap();
            data.iter().for_each(|(at, count)| file.write_all_at(&vec![b'p'; *count], *at).unwrap());
            if name == "many pieces" {
                (0..300).for_each(|piece| file.write_all_at(&[b'q'; 100], piece * 32_768 + 5).unwrap());
            }
            file.set_len(size).unwrap();
        }
    }
    for (name, time) in [
        ("d/e/empty", "2001-02-03 04:05:06.789"),
        ("d/file", "1970-01-01 00:00:01 UTC"),
        ("link", "2024-05-06 UTC"),
        ("d/e", "2100-01-01 UTC"),
        ("d", "1999-12-31 23:59:59.999999999 UTC"),
    ] {
        set(name, time);
    }
}

fn gnu_tar(root: &Path, options: &[&str]) -> Entry {
    raw(run(Command::new("tar").args(options).args(["--numeric-owner", "-cf", "-", "-C"]).arg(root).arg(".")))
}

#[test]
fn archives_of_every_dialect_of_gnu_tar_come_through() {
    let folder = Folder::new("dialects");
    let mut bench = Bench::new();
    let plain = folder.0.join("plain");
    grow(&plain, false);
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        let layers = vec![Layer::new(vec![gnu_tar(&plain, &[&format!("--format={format}")])])];
        bench.check(Case { name: format, layers, differs: &[], implied: &[] });
    }
    // Before 1970 a time is 1970 for us, which with_policy says of umoci's too.
    run(Command::new("touch").args(["-d", "1960-01-01 00:00:00.5 UTC"]).arg(plain.join("d/file")));
    for options in [&["--format=posix"][..], &["--format=gnu"], &["--format=posix", "--xattrs", "--acls"]] {
        let layers = vec![Layer::new(vec![gnu_tar(&plain, options)])];
        bench.check(Case { name: "times before 1970", layers, differs: &[], implied: &[] });
    }
    bench.finish();
}

#[test]
fn sparse_files_of_every_kind_come_through() {
    let folder = Folder::new("sparse");
    let mut bench = Bench::new();
    let holes = folder.0.join("holes");
    grow(&holes, true);
    let dense = gnu_tar(&holes, &["--format=posix"]);
    let size = |entry: &Entry| {
        if let shifter_tests::fixture::Kind::Raw(bytes) = &entry.kind { bytes.len() } else { 0 }
    };
    for (options, umoci_knows) in [
        (&["--format=gnu", "--sparse"][..], false),
        (&["--format=oldgnu", "--sparse"], false),
        (&["--format=gnu", "--sparse", "--hole-detection=raw"], false),
        (&["--format=posix", "--sparse", "--sparse-version=0.0"], true),
        (&["--format=posix", "--sparse", "--sparse-version=0.1"], true),
        (&["--format=posix", "--sparse", "--sparse-version=1.0"], true),
    ] {
        let layer = gnu_tar(&holes, options);
        assert!(
            size(&layer) < size(&dense) / 4,
            "{options:?}: the archive is not sparse; has /var/lib no holes?"
        );
        // Over an older layer, and under a newer one that keeps one of them by another name only.
        let image = |layer: &Entry| {
            let older = Layer::new(vec![file("hole first", "older"), dir("many pieces").mtime(1)]);
            let newer = vec![hardlink("kept", "many pieces"), whiteout("many pieces"), whiteout("odd size")];
            Image::new(vec![older, Layer::new(vec![layer.clone()]), Layer::new(newer)]).build().unwrap()
        };
        // umoci 0.4.7 says of GNU's own kind "unknown typeflag '\\x53'", so it gets the archive without holes.
        let theirs = image(if umoci_knows { &layer } else { &dense });
        bench.check_images(&options.join(" "), &theirs, &image(&layer), &[]);
    }
    bench.finish();
}

#[test]
fn layers_of_every_compression_make_the_same_image() {
    let layers = [
        Layer::new(vec![
            dir(".").mtime(1),
            dir("d").mtime(2),
            file("d/f", vec![b'1'; 300_000]),
            file("g", "g"),
        ]),
        Layer::new(vec![file("d/f", "2"), hardlink("h", "g")]),
        Layer::new(vec![whiteout("g"), symlink("s", "h").mtime(3)]),
    ];
    let mut bench = Bench::new();
    use Compression::{Gzip, None, Zstd};
    for kinds in [[Zstd, Zstd, Zstd], [None, None, None], [Gzip, Zstd, None], [Gzip, Gzip, Gzip]] {
        bench.check_twin(&format!("{kinds:?}"), &layers, &kinds);
    }
    bench.finish();
}

#[test]
fn three_hundred_layers_come_through() {
    let layers: Vec<Layer> = (0..300_u64)
        .map(|number| {
            let mut entries =
                vec![dir("d").mtime(number), file("d/newest", number.to_string()).mtime(number)];
            entries.push(file(format!("d/{number}"), vec![b'x'; number as usize * 10]).mtime(number));
            match number % 5 {
                1 => entries.push(whiteout(&format!("d/{}", number - 1))),
                2 => entries
                    .push(hardlink(format!("l{number}"), format!("d/{}", number - 1)).mtime(number - 1)),
                3 => entries.push(file(format!("d/{}", number - 2), "again").mtime(number)),
                4 if number % 50 == 49 => entries.push(opaque("d")),
                _ => {}
            }
            Layer::new(entries)
        })
        .collect();
    let mut bench = Bench::new();
    bench.check(Case { name: "300 layers", layers, differs: &[], implied: ROOT });
    bench.finish();
}

/// So many files in one directory and so many in each of some others, of which a second layer hides and links some.
fn check_entries(mut bench: Bench, name: &str, in_one: u32, folders: u32, in_each: u32) {
    let mut first = vec![dir("one").mtime(1), dir("many").mtime(2)];
    let digits = |number: u32| file(format!("one/file-{number}"), format!("{number}")).mtime(number.into());
    first.extend((0..in_one).map(digits));
    for folder in 0..folders {
        first.push(dir(format!("many/{folder}")).mtime(folder.into()));
        let letters = |number: u32| file(format!("many/{folder}/{number}"), vec![b'm'; number as usize]);
        first.extend((0..in_each).map(|number| letters(number).mtime(3)));
    }
    let mut second: Vec<Entry> =
        (0..in_one).step_by(7).map(|number| whiteout(&format!("one/file-{number}"))).collect();
    second.extend((0..folders).step_by(3).map(|folder| whiteout(&format!("many/{folder}"))));
    let link = |folder: u32| hardlink(format!("link-{folder}"), format!("many/{folder}/100")).mtime(3);
    second.extend((1..folders).step_by(3).map(link));
    let layers = [first, second].map(Layer::new).to_vec();
    bench.check(Case { name, layers, differs: &[], implied: ROOT });
    bench.finish();
}

#[test]
fn forty_thousand_entries_come_through() {
    check_entries(Bench::new(), "40,000 entries", 20_000, 100, 200);
}

#[test]
#[ignore = "umoci writes half a million files to /var/lib, which takes minutes; cargo xtask soak large runs it"]
fn half_a_million_entries_come_through() {
    let folder = Folder::new("entries");
    check_entries(Bench::new().on_disk(&folder.0), "500,000 entries", 100_000, 1000, 400);
}

/// Bytes of zeros in the large file, and what is behind them.
const ZEROS: u64 = 8 << 30;
const TAIL: &[u8] = b"the end of a file of more than eight gibibytes";

fn check_large(start: &[u8]) {
    let folder = Folder::new("large");
    let mut bench = Bench::new().on_disk(&folder.0);
    let image = image_of(&large_layer(start));
    bench.check_images("more than 8 GiB", &image, &image, ROOT);
    bench.finish();
}

#[test]
#[ignore = "umoci writes 8 GiB to /var/lib, which takes minutes; cargo xtask soak large runs it"]
fn a_file_beyond_8_gib_with_its_size_in_base_256_comes_through() {
    let size = ZEROS + TAIL.len() as u64;
    let mut header = header(b'0', 0);
    header[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    check_large(&checked(header));
}

#[test]
#[ignore = "umoci writes 8 GiB to /var/lib, which takes minutes; cargo xtask soak large runs it"]
fn a_file_beyond_8_gib_with_its_size_in_a_pax_record_comes_through() {
    let record = format!("19 size={}\n", ZEROS + TAIL.len() as u64);
    assert_eq!(record.len(), 19);
    let mut body = record.into_bytes();
    body.resize(512, 0);
    check_large(&[checked(header(b'x', 19)), body, checked(header(b'0', 0))].concat());
}

fn header(kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..4].copy_from_slice(b"huge");
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..124].copy_from_slice(b"0000000\x000000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"14524535400\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block
}

fn checked(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The layer's blob, in members of gzip, and the digest of what it unpacks to.
fn large_layer(start: &[u8]) -> (Vec<u8>, String) {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zeros = vec![0; 64 << 20];
    let member = gzip(&zeros);
    let mut end = TAIL.to_vec();
    end.resize(512 + 1024, 0);
    let (mut blob, mut plain) = (gzip(start), Sha256::new());
    plain.update(start);
    for _ in 0..ZEROS / zeros.len() as u64 {
        blob.extend_from_slice(&member);
        plain.update(&zeros);
    }
    blob.extend(gzip(&end));
    plain.update(&end);
    let hex: String = plain.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    (blob, format!("sha256:{hex}"))
}

fn image_of((blob, diff_id): &(Vec<u8>, String)) -> Built {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(), "digest": digest_of(&config),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "size": blob.len(), "digest": digest_of(blob),
        }],
    });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let top = digest_of(&bytes);
    let manifest = Manifest { media_type: media_type.to_owned(), bytes };
    Built {
        blobs: BTreeMap::from([(digest_of(&config), config), (digest_of(blob), blob.clone())]),
        manifests: BTreeMap::from([(top.clone(), manifest)]),
        top,
    }
}
