//! What the running kernel lacks, in words. Nothing is loaded: a setuid program is no way to load modules.

use crate::error::Error;
use shifter_sys::directory::{read_host, read_u16};
use std::os::fd::OwnedFd;

const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// A mount error as the user should read it: if the kernel has no such file system, or perhaps not the codec of this
/// image, that is what is said.
pub(crate) fn explained(error: shifter_sys::Error, kind: &str, image: Option<&OwnedFd>) -> Error {
    let known = read_host("/proc/filesystems", 1 << 20).unwrap_or_default();
    if error.errno() == Some(ENODEV) && !has(&known, kind) {
        return Error::NoFileSystem { kind: kind.to_owned() };
    }
    match image.and_then(|image| codec_of(kind, image)) {
        Some((codec, option)) if matches!(error.errno(), Some(EINVAL | EOPNOTSUPP)) => {
            Error::Codec { error, codec, option }
        }
        _ => Error::System(error),
    }
}

/// Name and kernel option of an image's codec.
fn codec_of(kind: &str, image: &OwnedFd) -> Option<(&'static str, String)> {
    if kind == "squashfs" {
        let number = read_u16(image, SQUASHFS_CODEC)?.checked_sub(1)?;
        let (codec, option) = SQUASHFS_CODECS.get(usize::from(number))?;
        return Some((codec, format!("SQUASHFS_{option}")));
    }
    let named = kind == "erofs" && read_u16(image, EROFS_FEATURES)? & 2 != 0;
    let bits = if named { read_u16(image, EROFS_CODECS_AT)? } else { 0 };
    let (_, codec, option) = EROFS_CODECS.iter().find(|(bit, ..)| bits & bit != 0)?;
    Some((codec, format!("EROFS_FS_ZIP_{option}")))
}

/// Where a squashfs says how it is compressed (Documentation/filesystems/squashfs.rst), by number from 1.
const SQUASHFS_CODEC: u64 = 20;
const SQUASHFS_CODECS: [(&str, &str); 6] =
    [("gzip", "ZLIB"), ("lzma", "LZMA"), ("lzo", "LZO"), ("xz", "XZ"), ("lz4", "LZ4"), ("zstd", "ZSTD")];
/// Where an EROFS says whether it names its algorithms, and which, by bit (fs/erofs/erofs_fs.h); the latest first. LZ4 is
/// always there.
const EROFS_FEATURES: u64 = 1024 + 80;
const EROFS_CODECS_AT: u64 = 1024 + 84;
const EROFS_CODECS: [(u16, &str, &str); 3] =
    [(8, "zstd", "ZSTD"), (4, "deflate", "DEFLATE"), (2, "lzma", "LZMA")];

/// Whether `/proc/filesystems` of this text has a line for `kind` (proc_filesystems(5)).
fn has(text: &str, kind: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().next_back() == Some(kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // the tests' own files
    use super::*;

    #[test]
    fn an_old_kernel_is_named_in_one_sentence() {
        let cause = shifter_sys::error::Cause::Kernel(std::io::Error::from_raw_os_error(38));
        let missing = shifter_sys::Error { operation: "set the flags of", object: "/".to_owned(), cause };
        let said = Error::System(missing).to_string();
        assert!(said.starts_with("this kernel is older than Linux 5.12, which shifter needs"), "{said}");
    }

    #[test]
    fn the_codec_of_an_image_is_read_from_where_its_format_has_it() {
        let image = |words: &[(usize, u8)]| {
            let mut bytes = vec![0; 2048];
            words.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            let path = std::env::temp_dir().join(format!("shifter-codec-{}", std::process::id()));
            std::fs::write(&path, bytes).and_then(|()| std::fs::File::open(&path)).map(OwnedFd::from)
        };
        for (kind, words, expected) in [
            ("squashfs", &[(20, 6)][..], Some("SQUASHFS_ZSTD")),
            ("squashfs", &[(20, 1)], Some("SQUASHFS_ZLIB")),
            ("squashfs", &[(20, 7)], None),
            ("squashfs", &[], None),
            ("erofs", &[(1104, 2), (1108, 8)], Some("EROFS_FS_ZIP_ZSTD")),
            ("erofs", &[(1104, 3), (1108, 3)], Some("EROFS_FS_ZIP_LZMA")),
            ("erofs", &[(1104, 1), (1108, 8)], None),
            ("xfs", &[(20, 6), (1104, 2), (1108, 8)], None),
        ] {
            let found = image(words).ok().and_then(|image| codec_of(kind, &image));
            assert_eq!(found.map(|(_, option)| option).as_deref(), expected, "{kind} {words:?}");
        }
    }

    #[test]
    fn a_kernel_without_squashfs_is_told_by_its_list() {
        let list = "nodev\tsysfs\nnodev\ttmpfs\n\text4\n\tsquashfs3\n";
        for (kind, expected) in
            [("tmpfs", true), ("ext4", true), ("squashfs", false), ("nodev", false), ("", false)]
        {
            assert_eq!(has(list, kind), expected, "{kind}");
        }
        let said = Error::NoFileSystem { kind: "squashfs".to_owned() }.to_string();
        assert!(
            said.contains("no apparent support for squashfs") && said.contains("modprobe squashfs"),
            "{said}"
        );
    }
}
