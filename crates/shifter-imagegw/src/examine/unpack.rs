//! The child that unpacks an image for an examiner: our own reader, by descriptor, without devices and shut in. It
//! judges nothing; an image that the reader refuses is not examined and not published.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shifter_squashfs::reader::{self, Allowance, Image, Limits};

use crate::confine::Reach;
use crate::convert::{answer, read_job, sentence, shut_in};

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UnpackJob {
    pub(super) image: PathBuf,
    /// An empty directory.
    pub(super) tree: PathBuf,
    /// Bytes of files that may be written.
    pub(super) bytes: u64,
    /// All that the child may touch.
    pub(super) reach: Reach,
}

/// The child: reads the job, unpacks, answers. Returns the exit status.
pub(crate) fn child() -> u8 {
    answer(read_job().and_then(|job| unpack(&job)))
}

fn unpack(job: &UnpackJob) -> Result<(u64, u64), String> {
    shut_in(&job.reach)?;
    let open = |path: &PathBuf| {
        File::open(path).map_err(|error| format!("opening {} failed: {error}", path.display()))
    };
    let (file, tree) = (open(&job.image)?, open(&job.tree)?);
    let limits = Limits::default();
    let allowance = Allowance { bytes: job.bytes, entries: limits.entries };
    let image = Image::open(file, &limits).map_err(|error| sentence(&error))?;
    let done = reader::extract(&image, tree.as_fd(), &allowance).map_err(|error| sentence(&error))?;
    Ok((done.entries, done.bytes))
}
