//! Both converters, really run: what they write for a merged stream, and what is left when something
//! breaks. Needs root (loop mounts, tmpfs), tar2sqfs, mksquashfs 4.5 and unsquashfs; a missing one fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use shifter_squashfs::{Compression, ConvertError, Converter, Options, Superblock, convert};

const BOTH: [Converter; 2] = [Converter::Tar2sqfs, Converter::Mksquashfs];

fn add(stream: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o640 });
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(data.len() as u64);
    if link.is_empty() {
        stream.append_data(&mut header, name, data).unwrap();
    } else {
        stream.append_link(&mut header, name, link).unwrap();
    }
}

fn sample() -> Vec<u8> {
    let mut stream = tar::Builder::new(Vec::new());
    add(&mut stream, tar::EntryType::Directory, "./", "", b"");
    add(&mut stream, tar::EntryType::Directory, "d", "", b"");
    add(&mut stream, tar::EntryType::Regular, "d/file", "", b"contents");
    add(&mut stream, tar::EntryType::Link, "again", "d/file", b"");
    add(&mut stream, tar::EntryType::Symlink, "link", "d/file", b"");
    add(&mut stream, tar::EntryType::Regular, &"n".repeat(200), "", &vec![7; 300_000]);
    stream.into_inner().unwrap()
}

fn tool(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    output.stdout
}

/// A mount that goes away with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], place: &Path) -> Self {
        fs::create_dir_all(place).unwrap();
        tool("mount", &[arguments, &[place.to_str().unwrap()]].concat());
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn images_mount_and_hold_what_was_fed() {
    for converter in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("-image.squashfs");
        let answer = convert(&Options::new(converter), &output, |out| out.write_all(&sample()).map(|()| 42));
        assert_eq!(answer.unwrap(), 42, "{converter}");
        let superblock = Superblock::read(&File::open(&output).unwrap()).unwrap();
        // The root, d, the file with two names, the symlink, the long name.
        assert_eq!((superblock.inodes, superblock.compressor, superblock.block_size), (5, 6, 131_072));
        assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);

        let place = folder.path().join("mnt");
        let _mounted = Mounted::new(&["-t", "squashfs", "-o", "loop,ro", output.to_str().unwrap()], &place);
        let (one, two) =
            (fs::metadata(place.join("d/file")).unwrap(), fs::metadata(place.join("again")).unwrap());
        assert_eq!((one.ino(), one.nlink(), one.uid()), (two.ino(), 2, 0), "{converter}");
        assert_eq!((one.mode() & 0o7777, one.mtime()), (0o640, 1_600_000_000));
        assert_eq!(fs::read(place.join("link")).unwrap(), b"contents");
        assert_eq!(fs::read(place.join("n".repeat(200))).unwrap(), vec![7; 300_000]);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o755, "{converter}: root");
        assert!(tool("unsquashfs", &["-cat", output.to_str().unwrap(), "again"]) == b"contents");
    }
}

#[test]
fn every_compression_is_one_the_kernel_reads() {
    let table = [
        (Compression::Zstd(1), 6),
        (Compression::Gzip(6), 1),
        (Compression::Lz4, 5),
        (Compression::Xz, 4),
        (Compression::None, 1),
    ];
    for converter in BOTH {
        for (compression, number) in table {
            if (converter, compression) == (Converter::Tar2sqfs, Compression::None) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let output = folder.path().join("image");
            let options = Options { compression, block_size: 65_536, ..Options::new(converter) };
            convert(&options, &output, |out| out.write_all(&sample())).unwrap();
            let superblock = Superblock::read(&File::open(&output).unwrap()).unwrap();
            assert_eq!((superblock.compressor, superblock.block_size), (number, 65_536), "{converter}");
            // Not by unsquashfs 4.5: it cannot read the id table of lz4 images by tar2sqfs 1.2.
            let place = folder.path().join("mnt");
            let source = output.to_str().unwrap();
            let _mounted = Mounted::new(&["-t", "squashfs", "-o", "loop,ro", source], &place);
            let found = fs::read(place.join("d/file")).unwrap();
            assert_eq!(found, b"contents", "{converter} {compression:?}");
        }
    }
}

#[test]
fn tar2sqfs_writes_equal_bytes_for_equal_streams() {
    let folder = tempfile::tempdir().unwrap();
    let images = ["one", "two"].map(|name| {
        let output = folder.path().join(name);
        convert(&Options::new(Converter::Tar2sqfs), &output, |out| out.write_all(&sample())).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        fs::read(output).unwrap()
    });
    assert!(images[0] == images[1]);
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_failing_feeder_leaves_no_file_and_keeps_its_own_words() {
    for converter in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let error = convert(&Options::new(converter), &folder.path().join("image"), |out| {
            out.write_all(&sample()[..2048]).unwrap();
            Err::<(), _>("layer 3 is truncated")
        });
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "layer 3 is truncated", "{converter}");
        assert!(matches!(error, ConvertError::Feed(_)));
        assert_eq!(files_in(folder.path()), 0, "{converter}");
    }
}

#[test]
fn a_stream_that_is_no_tar_fails_in_the_tools_words() {
    for converter in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("image");
        let rubbish = vec![b'x'; 8 << 20];
        let error = convert(&Options::new(converter), &output, |out| out.write_all(&rubbish)).unwrap_err();
        assert!(matches!(error, ConvertError::Tool { .. }), "{converter}: {error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{converter} failed on ")), "{text}");
        assert!(
            !text.contains("roken pipe") && !text.contains("no reason") && !text.contains('\n'),
            "{text}"
        );
        assert_eq!(files_in(folder.path()), 0, "{converter}");
    }
}

#[test]
fn a_truncated_stream_is_no_image() {
    for converter in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let whole = sample();
        let error = convert(&Options::new(converter), &folder.path().join("image"), |out| {
            out.write_all(&whole[..whole.len() - 200_000])
        });
        assert!(matches!(error, Err(ConvertError::Tool { .. })), "{converter}: {error:?}");
        assert_eq!(files_in(folder.path()), 0, "{converter}");
    }
}

#[test]
fn a_full_disk_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=256k", "none"], &folder.path().join("disk"));
    let mut data = vec![0_u8; 3 << 20];
    let mut state = 1_u32;
    for byte in &mut data {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let mut stream = tar::Builder::new(Vec::new());
    add(&mut stream, tar::EntryType::Regular, "noise", "", &data);
    let stream = stream.into_inner().unwrap();
    for converter in BOTH {
        let output = disk.0.join("image");
        let error = convert(&Options::new(converter), &output, |out| out.write_all(&stream)).unwrap_err();
        let expected = format!("cannot write squashfs image {}: no space left on device", output.display());
        assert_eq!(error.to_string(), expected, "{converter}");
        assert_eq!(files_in(&disk.0), 0, "{converter}");
    }
}

#[test]
fn an_existing_output_is_neither_used_nor_removed() {
    for converter in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("image");
        fs::write(&output, "precious").unwrap();
        let error = convert(&Options::new(converter), &output, |out| out.write_all(&sample())).unwrap_err();
        assert!(
            matches!(&error, ConvertError::Output { operation: "create", source, .. }
            if source.kind() == io::ErrorKind::AlreadyExists),
            "{error}"
        );
        assert_eq!(fs::read(&output).unwrap(), b"precious");
    }
}

#[test]
fn bad_tool_options_come_back_as_the_tools_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(Converter::Mksquashfs);
    options.extra = vec!["-no-such-option".into()];
    let output = folder.path().join("image");
    let error = convert(&options, &output, |out| out.write_all(&sample())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("invalid option") && text.len() < 2000, "{text}");
    assert_eq!(files_in(folder.path()), 0);
}
