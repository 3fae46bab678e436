//! Why there is no image, in sentences with the way out. The tools' own messages are kept, bounded and on
//! one line.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::converter::Converter;

/// No usable converter on this machine.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Neither tool is installed.
    #[error(
        "no squashfs converter found in {searched}: install tar2sqfs (package squashfs-tools-ng) or mksquashfs 4.5 or newer (package squashfs-tools)"
    )]
    Missing {
        /// The directories searched, colon-separated.
        searched: &'static str,
    },
    /// Only an old mksquashfs is installed (RHEL 9 ships 4.4).
    #[error(
        "{} is version {version}, which cannot read tar streams (4.5 can): install tar2sqfs (package squashfs-tools-ng) or a newer squashfs-tools",
        program.display()
    )]
    NoTarInput {
        /// The program found.
        program: PathBuf,
        /// What it says its version is.
        version: String,
    },
    /// The program is there and does not run.
    #[error("cannot run {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A converter option that cannot be honored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The option needs a value behind it.
    #[error("converter option {0} needs a value")]
    MissingValue(String),
    /// The value is not one that the option takes.
    #[error("converter option {option}: \"{value}\" is not valid; {expected}")]
    BadValue {
        /// The option.
        option: String,
        /// The value given.
        value: String,
        /// What would be.
        expected: &'static str,
    },
    /// Options beyond compression and block size, which tar2sqfs does not have.
    #[error(
        "converter option {0} needs mksquashfs, but the converter is tar2sqfs: install squashfs-tools 4.5 or newer and select mksquashfs, or drop the option"
    )]
    NeedsMksquashfs(String),
}

/// A failed conversion; `E` is the error of whoever feeds the stream. No output file is left.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError<E> {
    /// The stream could not be made.
    #[error("{0}")]
    Feed(E),
    /// There is no converter.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The options do not fit the converter.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The converter could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output file could not be created, synced or checked.
    #[error("cannot {operation} squashfs image {}: {source}", path.display())]
    Output {
        /// What was being done.
        operation: &'static str,
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system of the output is full.
    #[error("cannot write squashfs image {}: no space left on device", path.display())]
    NoSpace {
        /// The image.
        path: PathBuf,
    },
    /// The converter gave up.
    #[error("{converter} failed on {} ({status}): {message}", path.display())]
    Tool {
        /// The converter.
        converter: Converter,
        /// The image.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, shortened and on one line.
        message: String,
    },
    /// The converter reported success and wrote something else than an image.
    #[error("{converter} wrote no valid image to {}: {source}", path.display())]
    Invalid {
        /// The converter.
        converter: Converter,
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: SuperblockError,
    },
}

/// What is wrong with the first bytes of an image.
#[derive(Debug, thiserror::Error)]
pub enum SuperblockError {
    /// It could not be read.
    #[error("cannot read the superblock: {0}")]
    Read(#[from] io::Error),
    /// Not squashfs.
    #[error("the superblock has no squashfs magic")]
    Magic,
    /// Another version than 4.0.
    #[error("the superblock is version {0}.{1}, not 4.0")]
    Version(u16, u16),
    /// The file is shorter than the image in it.
    #[error("the image needs {needed} bytes, the file has {present}")]
    Truncated {
        /// Bytes that the superblock says.
        needed: u64,
        /// Bytes of the file.
        present: u64,
    },
}
