//! How to compress, and the exact argument vector of each tool. The original gateway's converter options
//! are mksquashfs arguments, so those are what sites have in their configuration; they are understood here
//! for both tools as far as both can.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::converter::Converter;
use crate::error::{ConvertError, OptionError};
use crate::writer::{Codec, Encoder};

/// The block size of squashfs' and the original's defaults, in bytes.
const DEFAULT_BLOCK_SIZE: u32 = 128 * 1024;
/// What mksquashfs may keep in memory; its own default is a quarter of the machine.
const MKSQUASHFS_MEMORY: &str = "512M";

/// The compressor; nodes' kernels must have it (`CONFIG_SQUASHFS_ZSTD` and the like).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard, level 1 to 22.
    Zstd(u8),
    /// gzip (zlib), level 1 to 9.
    Gzip(u8),
    /// LZ4.
    Lz4,
    /// XZ.
    Xz,
    /// Nothing is compressed; every kernel's squashfs reads it. tar2sqfs cannot write it.
    None,
}

/// mksquashfs' word for compressing nothing, from 4.6 on, and those for parts of an image, from any version.
const NO_COMPRESSION: &str = "-no-compression";
const NO_INODES: &[&str] = &["-noI", "-noInodeCompression"];
const NO_DATA: &[&str] = &["-noD", "-noDataCompression"];
const NO_FRAGMENTS: &[&str] = &["-noF", "-noFragmentCompression"];
/// What goes without saying where the three above stand: ids are part of the inodes, and attributes are there only where
/// our own writer keeps them.
const NO_OTHERS: &[&str] = &["-noX", "-noXattrCompression", "-noId", "-noIdTableCompression"];

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Compression::Zstd(_) => "zstd",
            // Images that are not compressed say gzip, as those of our own writer do.
            Compression::Gzip(_) | Compression::None => "gzip",
            Compression::Lz4 => "lz4",
            Compression::Xz => "xz",
        }
    }

    fn level(self) -> Option<u8> {
        match self {
            Compression::Zstd(level) | Compression::Gzip(level) => Some(level),
            Compression::Lz4 | Compression::Xz | Compression::None => None,
        }
    }
}

/// How [`convert`](crate::convert) makes an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The program.
    pub converter: Converter,
    /// The compressor. zstd level 3 costs a sixteenth of gzip's time for 4 % more bytes.
    pub compression: Compression,
    /// Bytes of a data block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Further arguments for mksquashfs, from the administrator's configuration.
    pub extra: Vec<String>,
}

impl Options {
    /// zstd level 3 in blocks of 128 KiB.
    pub fn new(converter: Converter) -> Self {
        Self {
            converter,
            compression: Compression::Zstd(3),
            block_size: DEFAULT_BLOCK_SIZE,
            extra: Vec::new(),
        }
    }

    /// The defaults changed by mksquashfs arguments, as `ConverterOptions` has them. What the stream makes
    /// true anyway (`-no-xattrs`, `-all-root`, `-noappend` …) is dropped, so that it suits both tools.
    pub fn from_mksquashfs_arguments(
        converter: Converter,
        arguments: &[String],
    ) -> Result<Self, OptionError> {
        let mut options = Self::new(converter);
        let (mut compressor, mut level) = (None, None);
        let mut rest = arguments.iter();
        while let Some(option) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| OptionError::MissingValue(option.clone()));
            match option.as_str() {
                "-comp" => compressor = Some(value()?),
                "-Xcompression-level" => level = Some(value()?),
                "-b" => options.block_size = block_size(option, value()?)?,
                "-no-xattrs" | "-all-root" | "-root-owned" | "-noappend" | "-no-progress" | "-quiet"
                | "-no-recovery" => {}
                _ => options.extra.push(option.clone()),
            }
        }
        options.compression = compression(compressor.map(String::as_str), level.map(String::as_str))?;
        if options.is_uncompressed() {
            options.compression = Compression::None;
            let parts = [NO_INODES, NO_DATA, NO_FRAGMENTS, NO_OTHERS].concat();
            options.extra.retain(|option| option != NO_COMPRESSION && !parts.contains(&option.as_str()));
        }
        Ok(options)
    }

    /// Whether the further arguments leave nothing compressed; some of them alone are for mksquashfs.
    fn is_uncompressed(&self) -> bool {
        let has = |words: &[&str]| self.extra.iter().any(|option| words.contains(&option.as_str()));
        has(&[NO_COMPRESSION]) || [NO_INODES, NO_DATA, NO_FRAGMENTS].into_iter().all(has)
    }

    /// The same for our own writer; `None` where only mksquashfs understands what was asked for.
    pub fn encoder(&self) -> Option<Encoder> {
        let (codec, level) = match self.compression {
            Compression::Zstd(level) => (Codec::Zstd, Some(level)),
            Compression::Gzip(level) => (Codec::Gzip, Some(level)),
            Compression::Lz4 => (Codec::Lz4, None),
            Compression::Xz => (Codec::Xz, None),
            Compression::None => (Codec::None, None),
        };
        let encoder = Encoder::new(codec);
        let level = level.map_or(encoder.level, u32::from);
        self.extra.is_empty().then_some(Encoder { level, block_size: self.block_size, ..encoder })
    }

    /// Whether the program is there, and the options that are known here suit it; [`convert`](crate::convert) of a small
    /// stream finds out the rest.
    pub fn check(&self) -> Result<(), ConvertError<Infallible>> {
        self.converter.locate()?;
        self.arguments(Path::new("/image"))?;
        Ok(())
    }

    /// The arguments behind the program's name; `output` is absolute.
    pub(crate) fn arguments(&self, output: &Path) -> Result<Vec<OsString>, OptionError> {
        let block_size = self.block_size.to_string();
        let level = self.compression.level();
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        match self.converter {
            Converter::Tar2sqfs => {
                if let Some(option) = self.extra.first() {
                    return Err(OptionError::NeedsMksquashfs(option.clone()));
                }
                if self.compression == Compression::None {
                    return Err(OptionError::NeedsMksquashfs(NO_COMPRESSION.to_owned()));
                }
                // The output exists already, empty and private; --no-skip makes unreadable records fatal.
                push(&["--quiet", "--force", "--no-skip", "--no-xattr"]);
                push(&["--block-size", &block_size, "--compressor", self.compression.name()]);
                if let Some(level) = level {
                    push(&["--comp-extra", &format!("level={level}")]);
                }
                arguments.push(output.as_os_str().to_owned());
            }
            Converter::Mksquashfs => {
                arguments
                    .extend([OsStr::new("-"), output.as_os_str(), OsStr::new("-tar")].map(OsString::from));
                let mut push = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
                push(&["-noappend", "-no-recovery", "-no-progress", "-quiet", "-exit-on-error"]);
                // Without -root-mode the root becomes 0777: mksquashfs ignores the stream's entry for it.
                push(&["-no-xattrs", "-all-root", "-root-mode", "0755", "-mkfs-time", "0"]);
                push(&["-mem", MKSQUASHFS_MEMORY, "-b", &block_size, "-comp", self.compression.name()]);
                if let Some(level) = level {
                    push(&["-Xcompression-level", &level.to_string()]);
                }
                if self.compression == Compression::None {
                    push(&["-noI", "-noD", "-noF", "-noX"]);
                }
                arguments.extend(self.extra.iter().map(OsString::from));
            }
        }
        Ok(arguments)
    }
}

fn compression(compressor: Option<&str>, level: Option<&str>) -> Result<Compression, OptionError> {
    let parse = |default: u8, range: std::ops::RangeInclusive<u8>, expected| match level {
        None => Ok(default),
        Some(text) => text.parse().ok().filter(|level| range.contains(level)).ok_or_else(|| {
            OptionError::BadValue { option: "-Xcompression-level".into(), value: text.into(), expected }
        }),
    };
    match compressor {
        None | Some("zstd") => Ok(Compression::Zstd(parse(3, 1..=22, "zstd takes 1 to 22")?)),
        Some("gzip") => Ok(Compression::Gzip(parse(9, 1..=9, "gzip takes 1 to 9")?)),
        Some("lz4") if level.is_none() => Ok(Compression::Lz4),
        Some("xz") if level.is_none() => Ok(Compression::Xz),
        Some("lz4" | "xz") => Err(OptionError::BadValue {
            option: "-Xcompression-level".into(),
            value: level.unwrap_or_default().into(),
            expected: "lz4 and xz have no levels",
        }),
        Some(other) => Err(OptionError::BadValue {
            option: "-comp".into(),
            value: other.into(),
            expected: "use zstd, gzip, lz4 or xz, or -no-compression instead",
        }),
    }
}

fn block_size(option: &str, text: &str) -> Result<u32, OptionError> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, 1024 * 1024)),
    };
    let bytes = digits.parse::<u32>().ok().and_then(|count| count.checked_mul(unit));
    bytes.filter(|bytes| bytes.is_power_of_two() && (4096..=1 << 20).contains(bytes)).ok_or_else(|| {
        OptionError::BadValue {
            option: option.into(),
            value: text.into(),
            expected: "block sizes are powers of two from 4K to 1M",
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn parse(text: &str) -> Result<Options, OptionError> {
        let words: Vec<String> = text.split_whitespace().map(String::from).collect();
        Options::from_mksquashfs_arguments(Converter::Mksquashfs, &words)
    }

    #[test]
    fn sites_mksquashfs_arguments_are_understood() {
        let table: &[(&str, Compression, u32, &[&str])] = &[
            ("", Compression::Zstd(3), 131_072, &[]),
            ("-no-xattrs", Compression::Zstd(3), 131_072, &[]),
            ("-comp gzip", Compression::Gzip(9), 131_072, &[]),
            ("-comp gzip -Xcompression-level 1 -b 1M", Compression::Gzip(1), 1 << 20, &[]),
            ("-Xcompression-level 15 -comp zstd -b 65536", Compression::Zstd(15), 65_536, &[]),
            ("-comp lz4 -all-root", Compression::Lz4, 131_072, &[]),
            ("-no-compression -b 64K", Compression::None, 65_536, &[]),
            ("-noI -noD -comp lz4 -noF -noX", Compression::None, 131_072, &[]),
            (
                "-noInodeCompression -noDataCompression -noFragmentCompression",
                Compression::None,
                131_072,
                &[],
            ),
            ("-no-compression -processors 4", Compression::None, 131_072, &["-processors", "4"]),
            ("-noI -noD", Compression::Zstd(3), 131_072, &["-noI", "-noD"]),
            ("-noF -noX -noId", Compression::Zstd(3), 131_072, &["-noF", "-noX", "-noId"]),
            ("-comp xz -processors 4", Compression::Xz, 131_072, &["-processors", "4"]),
        ];
        for (text, compression, block_size, extra) in table {
            let options = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((options.compression, options.block_size), (*compression, *block_size), "{text}");
            assert_eq!(options.extra, *extra, "{text}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let table = [
            ("-comp", "converter option -comp needs a value"),
            (
                "-comp lzma",
                "converter option -comp: \"lzma\" is not valid; use zstd, gzip, lz4 or xz, or -no-compression instead",
            ),
            (
                "-b 100",
                "converter option -b: \"100\" is not valid; block sizes are powers of two from 4K to 1M",
            ),
            (
                "-b 4096M",
                "converter option -b: \"4096M\" is not valid; block sizes are powers of two from 4K to 1M",
            ),
            (
                "-Xcompression-level 23",
                "converter option -Xcompression-level: \"23\" is not valid; zstd takes 1 to 22",
            ),
            (
                "-comp lz4 -Xcompression-level 1",
                "converter option -Xcompression-level: \"1\" is not valid; lz4 and xz have no levels",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn argument_vectors_are_exact() {
        let show = |options: &Options| {
            options.arguments(Path::new("/x/-o")).map(|words| words.join(OsStr::new(" ")))
        };
        let tar2sqfs = Options::new(Converter::Tar2sqfs);
        assert_eq!(
            show(&tar2sqfs),
            Ok("--quiet --force --no-skip --no-xattr --block-size 131072 --compressor zstd --comp-extra level=3 /x/-o".into())
        );
        let mut mksquashfs = Options::new(Converter::Mksquashfs);
        mksquashfs.extra = vec!["-processors".into(), "1".into()];
        assert_eq!(
            show(&mksquashfs),
            Ok("- /x/-o -tar -noappend -no-recovery -no-progress -quiet -exit-on-error -no-xattrs -all-root -root-mode 0755 -mkfs-time 0 -mem 512M -b 131072 -comp zstd -Xcompression-level 3 -processors 1".into())
        );
        let refused = Options { converter: Converter::Tar2sqfs, ..mksquashfs.clone() };
        assert_eq!(show(&refused), Err(OptionError::NeedsMksquashfs("-processors".into())));
        let stored = Options { compression: Compression::None, extra: Vec::new(), ..mksquashfs };
        assert_eq!(
            show(&stored),
            Ok("- /x/-o -tar -noappend -no-recovery -no-progress -quiet -exit-on-error -no-xattrs -all-root -root-mode 0755 -mkfs-time 0 -mem 512M -b 131072 -comp gzip -noI -noD -noF -noX".into())
        );
        let refused = Options { converter: Converter::Tar2sqfs, ..stored };
        assert_eq!(show(&refused), Err(OptionError::NeedsMksquashfs("-no-compression".into())));
    }
}
