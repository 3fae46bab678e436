//! What cannot be written, in the words a person gets.

use std::io::{Error, Read};

use shifter_squashfs::writer::{
    Attributes, Codec, Encoder, Inode, Settings, Special, SpoolDir, Tables, WriteError, Writer,
};

use crate::model::{Place, new_file};

fn tables(place: &Place) -> Tables {
    place.create("image", &Settings::default()).tables().unwrap()
}

#[test]
fn wrong_settings_are_named() {
    let table = [
        (Codec::Zstd, 23, 131_072, "cannot compress with zstd at level 23: its levels are 1 to 22"),
        (Codec::Lz4, 0, 131_072, "cannot compress with lz4 at level 0: its levels are 1 to 1"),
        (
            Codec::Gzip,
            1,
            2048,
            "cannot write blocks of 2048 bytes: squashfs has powers of two from 4096 to 1048576",
        ),
        (
            Codec::Xz,
            1,
            100_000,
            "cannot write blocks of 100000 bytes: squashfs has powers of two from 4096 to 1048576",
        ),
    ];
    for (codec, level, block_size, expected) in table {
        let place = Place::new();
        let settings = Settings { encoder: Encoder { codec, level, block_size }, ..Settings::default() };
        let error = Writer::create(new_file(&place.path("image")), place.spool(), &settings).err();
        assert_eq!(error.unwrap().to_string(), expected);
    }
}

#[test]
fn a_file_with_something_in_it_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.path("image"), b"precious").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(place.path("image")).unwrap();
    let error = Writer::create(file, place.spool(), &Settings::default()).err().unwrap();
    assert_eq!(error.to_string(), "cannot write an image into a file that already has 8 bytes");
    assert_eq!(place.bytes("image"), b"precious");
}

#[test]
fn data_that_ends_early_or_fails_is_an_error() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(Error::other("the layer is broken"))
        }
    }
    let place = Place::new();
    let mut writer = place.create("image", &Settings::default());
    let error = writer.file(1, true, &mut &b""[..]).unwrap_err();
    assert_eq!(error.to_string(), "file data needs an open segment");
    writer.begin_segment().unwrap();
    assert_eq!(writer.begin_segment().unwrap_err().to_string(), "the segment before is not ended yet");
    for size in [10, 200_000] {
        let error = writer.file(size, true, &mut &b"four"[..]).unwrap_err();
        assert_eq!(error.to_string(), format!("a file's data ends after 4 of {size} bytes"));
        let error = writer.file(size, false, &mut b"four".chain(Failing)).unwrap_err();
        let expected = format!("cannot read a file's data after 4 of {size} bytes: the layer is broken");
        assert_eq!(error.to_string(), expected);
    }
    let error = writer.file(u64::MAX, true, &mut std::io::empty()).unwrap_err();
    assert!(error.to_string().starts_with("the image has too many or too large bytes in a file"), "{error}");
}

#[test]
fn masked_data_beyond_the_limit_is_an_error() {
    let place = Place::new();
    let spool = SpoolDir::new(place.path(""), 1_000_000);
    let image = new_file(&place.path("image"));
    let mut writer = Writer::create(image, spool.clone(), &Settings::default()).unwrap();
    writer.begin_segment().unwrap();
    writer.file(900_000, false, &mut std::io::repeat(1)).unwrap();
    // Zeros cost nothing.
    writer.file(9_000_000, false, &mut std::io::repeat(0)).unwrap();
    let error = writer.file(900_000, false, &mut std::io::repeat(2)).unwrap_err().to_string();
    assert!(error.contains("would need more than 1000000 bytes: raise the limit"), "{error}");
    drop(writer);
    assert_eq!(spool.used(), 0);
}

#[test]
fn names_that_directories_cannot_hold_are_errors() {
    let long = vec![b'n'; 257];
    let table: [(&[&[u8]], &str); 8] = [
        (&[b""], "cannot write the name \"\": names have 1 to 256 bytes"),
        (&[&long], "names have 1 to 256 bytes"),
        (&[b"."], "cannot write the name \".\": it means a directory already"),
        (&[b".."], "cannot write the name \"..\": it means a directory already"),
        (&[b"a/b"], "cannot write the name \"a/b\": names hold neither slashes nor zero bytes"),
        (&[b"a\0\xff"], "cannot write the name \"a\\x00\\xff\": names hold neither slashes nor zero bytes"),
        (&[b"a", b"a"], "cannot write the name \"a\": the directory has it twice"),
        (&[b"a", b"\xff", b"b"], "cannot write the name \"b\": the directory's entries are not sorted"),
    ];
    for (names, expected) in table {
        let place = Place::new();
        let mut tables = tables(&place);
        let fifo = tables.special(2, Special::Fifo, &Attributes::default(), 1).unwrap();
        let entries: Vec<(&[u8], Inode)> = names.iter().map(|name| (*name, fifo)).collect();
        let error = tables.directory(1, 1, &Attributes::default(), entries).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn inodes_that_squashfs_cannot_hold_are_errors() {
    let place = Place::new();
    let mut tables = tables(&place);
    let plain = Attributes::default();
    let value = vec![0; 65_537];
    let long = [&b"user."[..], &[b'n'; 251]].concat();
    let mut wrong_xattr = |name: &[u8], value: &[u8]| {
        let xattrs = [(name, value)];
        let attributes = Attributes { xattrs: &xattrs, ..plain };
        tables.special(1, Special::Fifo, &attributes, 1).unwrap_err().to_string()
    };
    let names = "names have 1 to 255 bytes and no zero bytes";
    assert_eq!(
        wrong_xattr(b"system.posix_acl_access", b""),
        "cannot write the extended attribute \"system.posix_acl_access\": squashfs has user., trusted. and security. only"
    );
    assert!(wrong_xattr(b"user.", b"").ends_with(names));
    assert!(wrong_xattr(&long, b"").ends_with(names));
    assert!(wrong_xattr(b"user.a", &value).ends_with("values have up to 65536 bytes"));
    for target in [vec![], vec![b'x'; 4096]] {
        let error = tables.symlink(1, &target, &plain, 1).unwrap_err().to_string();
        let expected = "Linux reads 1 to 4095";
        assert!(error.contains(&format!("{} bytes", target.len())) && error.ends_with(expected), "{error}");
    }
    let device = Special::BlockDevice { major: 5000, minor: 0 };
    let error = tables.special(1, device, &plain, 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot write device 5000:0: "), "{error}");
    for id in 0..65_535 {
        tables.special(1 + id, Special::Fifo, &Attributes { uid: id, ..plain }, 1).unwrap();
    }
    let error = tables.special(70_000, Special::Fifo, &Attributes { uid: 70_000, ..plain }, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image has too many or too large different owners: squashfs holds at most 65535"
    );
}

#[test]
fn inode_numbers_must_be_one_to_n() {
    let place = Place::new();
    let plain = Attributes::default();
    let mut first = tables(&place);
    let error = first.special(0, Special::Fifo, &plain, 1).unwrap_err();
    assert_eq!(error.to_string(), "inode number 0 is used twice, or is 0");
    let fifo = first.special(3, Special::Fifo, &plain, 1).unwrap();
    let error = first.symlink(3, b"x", &plain, 1).unwrap_err();
    assert_eq!(error.to_string(), "inode number 3 is used twice, or is 0");
    let root = first.directory(1, 1, &plain, [("f", fifo)]).unwrap();
    assert_eq!(first.finish(root).unwrap_err().to_string(), "inode number 2 is missing");

    let mut second = Place::new().create("image", &Settings::default()).tables().unwrap();
    let fifo = second.special(1, Special::Fifo, &plain, 1).unwrap();
    assert_eq!(second.finish(fifo).unwrap_err().to_string(), "the root of the image is not a directory");
    // Neither has become an image.
    assert_eq!(place.bytes("image")[..96], [0; 96]);
}

#[test]
fn a_full_disk_is_named() {
    crate::check::in_own_namespace("limits::a_full_disk_is_named", || {
        let place = Place::new();
        std::fs::create_dir(place.path("small")).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"].map(std::ffi::OsStr::new);
        crate::check::run("mount", &[&mount[..], &[place.path("small").as_os_str()]].concat());
        let mut writer = place.create("small/image", &Settings::default());
        writer.begin_segment().unwrap();
        let noise = crate::content::Random(1).bytes(3 << 20);
        let done =
            writer.file(noise.len() as u64, true, &mut noise.as_slice()).and_then(|_| writer.end_segment());
        let error = done.unwrap_err();
        assert!(matches!(error, WriteError::Image { .. }));
        assert!(error.to_string().starts_with("cannot write the squashfs image: No space left"), "{error}");
        drop(writer);
        crate::check::run("umount", &[place.path("small").as_os_str()]);
    });
}
