//! Images of real tools read equal to the trees they were made of.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use shifter_squashfs::reader::{Category, Chunk, Codec, Entry, Image, Inode, Kind, Limits};

use crate::tree::{grow, mksquashfs, noise, tar2sqfs};
use crate::whole::{Whole, read_whole};

/// Everything below a directory, by its path from there.
fn on_disk(root: &Path) -> BTreeMap<Vec<u8>, PathBuf> {
    let mut found = BTreeMap::from([(Vec::new(), root.to_owned())]);
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), path.clone());
            if path.symlink_metadata().unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn xattrs_on_disk(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut names, mut value) = (vec![0_u8; 4096], vec![0_u8; 4096]);
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let names: Vec<&[u8]> =
        names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    let mut found: Vec<_> = names
        .into_iter()
        .map(|name| {
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// What a squashfs device number means (`new_decode_dev` of linux/kdev_t.h).
fn device(packed: u32) -> u64 {
    rustix::fs::makedev((packed & 0xf_ff00) >> 8, packed & 0xff | packed >> 12 & 0xf_ff00)
}

fn same_kind(inode: &Inode, status: &Metadata, path: &Path) -> bool {
    let kind = status.file_type();
    match &inode.kind {
        Kind::Directory(_) => kind.is_dir(),
        Kind::File(layout) => kind.is_file() && layout.size == status.len(),
        Kind::Symlink { target } => {
            kind.is_symlink() && fs::read_link(path).unwrap().as_os_str().as_bytes() == target
        }
        Kind::BlockDevice(packed) => kind.is_block_device() && device(*packed) == status.rdev(),
        Kind::CharacterDevice(packed) => kind.is_char_device() && device(*packed) == status.rdev(),
        Kind::Fifo => kind.is_fifo(),
        Kind::Socket => kind.is_socket(),
    }
}

/// Compares content piece by piece; a hole's first and last page must be zero, or all of it where it is small.
fn compare_content(image: &Image<File>, entry: &Entry, path: &Path) {
    let (file, mut at) = (File::open(path).unwrap(), 0);
    let mut data = image.data(entry).unwrap();
    while let Some(chunk) = data.next_chunk().unwrap() {
        let (expected, length) = match chunk {
            Chunk::Data(bytes) => (bytes.to_vec(), bytes.len() as u64),
            Chunk::Hole(length) => (vec![0; length as usize], length),
        };
        let mut bytes = vec![0; expected.len()];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == expected, "{} from byte {at} on", path.display());
        at += length;
    }
    assert_eq!(at, file.metadata().unwrap().len(), "{}", path.display());
}

struct Told {
    xattrs: bool,
    links: bool,
    root: bool,
    sockets: bool,
}

const ALL: Told = Told { xattrs: true, links: true, root: true, sockets: true };

fn compare(root: &Path, image_path: &Path, told: &Told, context: &str) -> Whole {
    let limits = Limits::default();
    let image = Image::open(File::open(image_path).unwrap(), &limits).unwrap();
    let whole = read_whole(File::open(image_path).unwrap(), &limits)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut expected = on_disk(root);
    if !told.sockets {
        expected.retain(|_, path| !path.symlink_metadata().unwrap().file_type().is_socket());
    }
    let names = |name: &Vec<u8>| name.escape_ascii().to_string();
    assert_eq!(
        whole.entries.keys().map(names).collect::<Vec<_>>(),
        expected.keys().map(names).collect::<Vec<_>>(),
        "{context}"
    );
    let mut identities = BTreeMap::new();
    for (name, path) in &expected {
        let (entry, xattrs) = &whole.entries[name];
        let (status, inode) = (path.symlink_metadata().unwrap(), &entry.inode);
        if name.is_empty() && !told.root {
            continue;
        }
        let context = format!("{context}: {}", path.display());
        assert!(same_kind(inode, &status, path), "{context}: {:?}", inode.kind);
        let attributes = &inode.attributes;
        assert_eq!(
            (u32::from(attributes.mode), attributes.uid, attributes.gid, i64::from(attributes.modified)),
            (status.mode() & 0o7777, status.uid(), status.gid(), status.mtime()),
            "{context}"
        );
        if told.links && !status.is_dir() {
            let first = identities.entry(status.ino()).or_insert(inode.number);
            assert_eq!((inode.number, u64::from(inode.links)), (*first, status.nlink()), "{context}");
        }
        let mut found: Vec<_> = xattrs.iter().map(|x| (x.name.clone(), x.value.clone())).collect();
        found.sort();
        assert_eq!(found, if told.xattrs { xattrs_on_disk(path) } else { Vec::new() }, "{context}");
        if status.is_file() && status.len() < 1 << 30 {
            compare_content(&image, entry, path);
        }
    }
    if told.links {
        let numbers: std::collections::BTreeSet<u32> = identities.values().copied().collect();
        assert_eq!(numbers.len(), identities.len(), "{context}: different files have one number");
    }
    whole
}

#[test]
fn mksquashfs_images_read_equal_to_their_trees() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    grow(&root);
    let table: &[(&str, Codec, u32)] = &[
        ("-comp gzip", Codec::Gzip, 1 << 17),
        ("-comp gzip -b 4096 -Xcompression-level 1", Codec::Gzip, 4096),
        ("-comp gzip -b 1M", Codec::Gzip, 1 << 20),
        ("-comp zstd -Xcompression-level 1", Codec::Zstd, 1 << 17),
        ("-comp zstd -b 4096 -Xcompression-level 19", Codec::Zstd, 4096),
        ("-comp zstd -b 1M -Xcompression-level 3 -always-use-fragments", Codec::Zstd, 1 << 20),
        ("-comp lz4", Codec::Lz4, 1 << 17),
        ("-comp lz4 -Xhc -b 4096", Codec::Lz4, 4096),
        ("-comp lz4 -b 1M -no-duplicates", Codec::Lz4, 1 << 20),
        ("-comp xz", Codec::Xz, 1 << 17),
        ("-comp xz -b 4096 -Xbcj x86", Codec::Xz, 4096),
        ("-comp xz -b 1M -Xbcj arm,x86 -Xdict-size 50%", Codec::Xz, 1 << 20),
        ("-comp gzip -no-fragments", Codec::Gzip, 1 << 17),
        ("-comp zstd -noI -noD -noF -noX -noId", Codec::Zstd, 1 << 17),
        ("-comp zstd -noI", Codec::Zstd, 1 << 17),
        ("-comp zstd -noD -noF -no-exports -b 8K", Codec::Zstd, 8192),
        ("-comp gzip -no-sparse", Codec::Gzip, 1 << 17),
        ("-comp gzip -no-xattrs", Codec::Gzip, 1 << 17),
        ("-comp gzip -no-hardlinks -nopad", Codec::Gzip, 1 << 17),
    ];
    for (options, codec, block_size) in table {
        mksquashfs(&root, &image, &options.split(' ').collect::<Vec<_>>());
        let opened = Image::open(File::open(&image).unwrap(), &Limits::default()).unwrap();
        assert_eq!((opened.codec(), opened.block_size()), (*codec, *block_size), "{options}");
        let told = Told {
            xattrs: !options.contains("-no-xattrs"),
            links: !options.contains("-no-hardlinks"),
            ..ALL
        };
        let whole = compare(&root, &image, &told, options);
        assert!(whole.held < whole.bytes || options.contains("-no-sparse"), "{options}: no holes");
    }
}

#[test]
fn tar2sqfs_images_read_equal_to_their_trees() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    grow(&root);
    // Tar has no sockets, and tar2sqfs gives the root attributes of its own.
    let told = Told { root: false, sockets: false, ..ALL };
    let table =
        ["-c gzip", "-c zstd -b 4096", "-c lz4 -b 1048576", "-c xz -b 8192", "-c xz -X x86 -e", "-c gzip -T"];
    for options in table {
        tar2sqfs(&root, &image, &options.split(' ').collect::<Vec<_>>());
        compare(&root, &image, &told, options);
    }
}

#[test]
fn lzo_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir(&root).unwrap();
    mksquashfs(&root, &image, &["-comp", "lzo"]);
    let error = Image::open(File::open(&image).unwrap(), &Limits::default()).err().unwrap();
    assert_eq!(error.category(), Category::Unsupported);
    assert_eq!(
        error.to_string(),
        "squashfs image, superblock at byte 20: the image is compressed with lzo, which is not read here: write it anew with zstd, gzip, lz4 or xz"
    );
}

#[test]
fn empty_large_deep_and_appended_trees_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir(&root).unwrap();
    mksquashfs(&root, &image, &[]);
    assert_eq!(compare(&root, &image, &ALL, "empty").entries.len(), 1);
    tar2sqfs(&root, &image, &[]);
    compare(&root, &image, &Told { root: false, ..ALL }, "empty, tar2sqfs");

    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..20_000 {
        let name = format!("{number:05}-{}", "n".repeat(number % 60));
        fs::write(many.join(name), number.to_string()).unwrap();
    }
    let deep = root.join("deep/".repeat(200));
    fs::create_dir_all(deep).unwrap();
    mksquashfs(&root, &image, &["-comp", "zstd"]);
    assert_eq!(compare(&root, &image, &ALL, "20,000 names").entries.len(), 20_202);

    let second = folder.path().join("second");
    fs::create_dir(&second).unwrap();
    fs::write(second.join("more"), noise(3, 500_000)).unwrap();
    let output = std::process::Command::new("mksquashfs")
        .args([second.join("more"), image.clone()])
        .args(["-no-progress", "-quiet"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::copy(second.join("more"), root.join("more")).unwrap();
    let whole = read_whole(File::open(&image).unwrap(), &Limits::default()).unwrap();
    assert_eq!(whole.entries.len(), 20_203);
}

#[test]
fn a_file_of_more_than_4_gib_is_read_with_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image_path) = (folder.path().join("tree"), folder.path().join("image"));
    fs::create_dir(&root).unwrap();
    let size = (5 << 30) + 12_345;
    let file = File::create(root.join("large")).unwrap();
    file.set_len(size).unwrap();
    let marks = [(0, b"begin"), ((4 << 30) - 3, b"cross"), (size - 5, b"final")];
    for (at, mark) in marks {
        file.write_all_at(mark, at).unwrap();
    }
    mksquashfs(&root, &image_path, &["-comp", "lz4"]);
    let whole = compare(&root, &image_path, &ALL, "large");
    assert_eq!(whole.bytes, size);
    assert!(whole.held < 1 << 20, "{} bytes are held", whole.held);
    let image = Image::open(File::open(&image_path).unwrap(), &Limits::default()).unwrap();
    let mut data = image.data(&whole.entries[b"large".as_slice()].0).unwrap();
    let mut at = 0_u64;
    while let Some(chunk) = data.next_chunk().unwrap() {
        match chunk {
            Chunk::Hole(length) => at += length,
            Chunk::Data(bytes) => {
                let mut expected = vec![0; bytes.len()];
                file_at(&root.join("large"), &mut expected, at);
                assert!(bytes == expected, "from byte {at} on");
                at += bytes.len() as u64;
            }
        }
    }
    assert_eq!(at, size);
}

fn file_at(path: &Path, buffer: &mut [u8], at: u64) {
    File::open(path).unwrap().read_exact_at(buffer, at).unwrap();
}

#[test]
fn readers_of_any_size_see_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (root, image_path) = (folder.path().join("tree"), folder.path().join("image"));
    grow(&root);
    mksquashfs(&root, &image_path, &["-comp", "zstd", "-b", "4096"]);
    let image = Image::open(File::open(&image_path).unwrap(), &Limits::default()).unwrap();
    let whole = read_whole(File::open(&image_path).unwrap(), &Limits::default()).unwrap();
    for name in ["sparse", "text/4096-3", "empty file", "all hole", "d/small1"] {
        let expected = fs::read(root.join(name)).unwrap();
        for size in [13, 4096, 5000] {
            let mut data = image.data(&whole.entries[name.as_bytes()].0).unwrap();
            let (mut buffer, mut found) = (vec![0xee; size], Vec::new());
            loop {
                match data.read(&mut buffer).unwrap() {
                    0 => break,
                    length => found.extend_from_slice(&buffer[..length]),
                }
            }
            assert!(found == expected, "{name}, {size} bytes at once");
        }
    }
}
