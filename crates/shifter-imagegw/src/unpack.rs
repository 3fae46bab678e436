//! An image as a tree of files, for programs that look at one: unpacked by a child with our own reader, by descriptor,
//! without devices and shut in, into a directory that only this account can enter. It judges nothing; an image that the
//! reader refuses goes no further.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shifter_squashfs::reader::{self, Allowance, Fidelity, Image, Limits};

use crate::confine::Reach;
use crate::convert::{ConvertError, Converter, answer, read_job, sentence, shut_in};
use crate::publish::{PublishError, Scratch};

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Scratch(#[from] PublishError),
    #[error(transparent)]
    Child(#[from] ConvertError),
}

/// An unpacked image; removed with the value.
pub(crate) struct Unpacked {
    pub(crate) tree: PathBuf,
    /// An empty directory for temporary files.
    pub(crate) temporary: PathBuf,
    _scratch: Scratch,
}

impl Unpacked {
    /// Unpacks a squashfs image below `expand`, at most so many bytes of files; `exactly` for who makes another image
    /// of the tree.
    pub(crate) async fn new(
        converter: &Converter,
        image: &Path,
        (expand, id): (&Path, &str),
        bytes: u64,
        exactly: bool,
    ) -> Result<Unpacked, UnpackError> {
        let place = place(expand.to_owned(), id.to_owned()).await?;
        let reach = Reach {
            read: vec![image.to_owned()],
            make: vec![place.tree.clone()],
            links: true,
            attributes: true,
            times: exactly,
            ..Reach::default()
        };
        let job = UnpackJob { image: image.to_owned(), tree: place.tree.clone(), bytes, exactly, reach };
        let (entries, bytes) = converter.work("unpack", &job, None, &|_, _| {}).await?;
        tracing::debug!(id, entries, bytes, "image unpacked");
        Ok(place)
    }
}

async fn place(expand: PathBuf, id: String) -> Result<Unpacked, UnpackError> {
    let made = tokio::task::spawn_blocking(move || {
        let scratch = Scratch::create(&expand, &id)?;
        let (tree, temporary) = (scratch.path().join("image"), scratch.path().join("tmp"));
        for path in [&tree, &temporary] {
            let made = std::fs::DirBuilder::new().mode(0o700).create(path);
            made.map_err(|source| PublishError::Io { operation: "creating", path: path.clone(), source })?;
        }
        Ok(Unpacked { tree, temporary, _scratch: scratch })
    });
    made.await.map_err(|error| ConvertError::Start(error.into()))?
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct UnpackJob {
    image: PathBuf,
    /// An empty directory.
    tree: PathBuf,
    /// Bytes of files that may be written.
    bytes: u64,
    #[serde(default)]
    exactly: bool,
    /// All that the child may touch.
    reach: Reach,
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
    let fidelity = if job.exactly { Fidelity::ToCopy } else { Fidelity::ToRead };
    let image = Image::open(file, &limits).map_err(|error| sentence(&error))?;
    let done =
        reader::extract(&image, tree.as_fd(), &allowance, fidelity).map_err(|error| sentence(&error))?;
    Ok((done.entries, done.bytes))
}
