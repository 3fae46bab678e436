//! What the running kernel lacks, in words. Nothing is loaded: a setuid program is no way to load modules.

use crate::error::Error;
use shifter_sys::directory::{read_host, read_u16};
use std::os::fd::OwnedFd;

const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// A mount error as the user should read it: if the kernel has no such file system, or perhaps not the codec of this
/// image, that is what is said.
pub(crate) fn explained(error: shifter_sys::Error, kind: &str, image: &OwnedFd) -> Error {
    let known = read_host("/proc/filesystems", 1 << 20).unwrap_or_default();
    if error.errno() == Some(ENODEV) && !has(&known, kind) {
        return Error::NoFileSystem { kind: kind.to_owned() };
    }
    let codec = Some(kind).filter(|kind| *kind == "squashfs").and_then(|_| read_u16(image, CODEC_OFFSET));
    match codec.and_then(|number| CODECS.get(usize::from(number).checked_sub(1)?)) {
        Some((codec, option)) if error.errno() == Some(EINVAL) => Error::Codec { error, codec, option },
        _ => Error::System(error),
    }
}

/// Where a squashfs says how it is compressed (Documentation/filesystems/squashfs.rst), by number from 1.
const CODEC_OFFSET: u64 = 20;
const CODECS: [(&str, &str); 6] =
    [("gzip", "ZLIB"), ("lzma", "LZMA"), ("lzo", "LZO"), ("xz", "XZ"), ("lz4", "LZ4"), ("zstd", "ZSTD")];

/// Whether `/proc/filesystems` of this text has a line for `kind` (proc_filesystems(5)).
fn has(text: &str, kind: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().next_back() == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named_in_one_sentence() {
        let cause = shifter_sys::error::Cause::Kernel(std::io::Error::from_raw_os_error(38));
        let missing = shifter_sys::Error { operation: "set the flags of", object: "/".to_owned(), cause };
        let said = Error::System(missing).to_string();
        assert!(said.starts_with("this kernel is older than Linux 5.12, which shifter needs"), "{said}");
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
