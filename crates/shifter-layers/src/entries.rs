//! One layer's entries, whether they come from its archive or from what was recorded of it.

use std::fs::File;
use std::io::Read;

use crate::archive::{Archive, Entry};
use crate::error::{MergeError, Rule};
use crate::limits::Limits;
use crate::policy::Policy;
use crate::records::Records;
use crate::stream::LayerStream;
use crate::{Layer, Origin};

/// A layer that can be read.
pub(crate) enum Opened<'a> {
    Archive(Box<LayerStream>),
    Records(Box<dyn Read + 'a>),
}

impl<'a> Opened<'a> {
    pub(crate) fn open(layer: &Layer, origin: Origin<'a>, limits: &Limits) -> Result<Self, MergeError> {
        match origin {
            Origin::Archive => {
                let opening = |source| {
                    let (layer, path) = (layer.digest.clone(), layer.path.clone());
                    MergeError::OpenLayer { layer, path, source }
                };
                let file = File::open(&layer.path).map_err(opening)?;
                LayerStream::start(layer, file, limits).map(|stream| Opened::Archive(Box::new(stream)))
            }
            Origin::Later(ask) => {
                let asking = |source| MergeError::ReadLayer { layer: layer.digest.clone(), source };
                let file = ask().map_err(asking)?;
                LayerStream::start(layer, file, limits).map(|stream| Opened::Archive(Box::new(stream)))
            }
            Origin::Records(records) => Ok(Opened::Records(records)),
        }
    }

    /// Its entries; the archive may have, or have had, `budget` bytes.
    pub(crate) fn entries(self, layer: &Layer, limits: &Limits, policy: &Policy, budget: u64) -> Entries<'a> {
        match self {
            Opened::Archive(mut stream) => {
                stream.allow(budget);
                let archive = Archive::new(*stream, layer.diff_id.is_some(), limits, policy);
                Entries::Archive(Box::new(archive))
            }
            Opened::Records(input) => Entries::Records(Records::new(&layer.digest, input, limits, budget)),
        }
    }
}

/// A layer being read.
pub(crate) enum Entries<'a> {
    Archive(Box<Archive>),
    Records(Records<'a>),
}

impl Entries<'_> {
    /// The next entry; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, MergeError> {
        match self {
            Entries::Archive(archive) => archive.next_entry(),
            Entries::Records(records) => records.next_entry(),
        }
    }

    /// Bytes of the uncompressed archive, at the end.
    pub(crate) fn position(&self) -> u64 {
        match self {
            Entries::Archive(archive) => archive.stream().position(),
            Entries::Records(records) => records.position(),
        }
    }

    /// The digest of an archive that was read to its end; that of records was checked when they were made.
    pub(crate) fn digest(&self) -> Option<&str> {
        match self {
            Entries::Archive(archive) => archive.stream().digest(),
            Entries::Records(_) => None,
        }
    }

    /// An error for the entry with this archived name.
    pub(crate) fn refuse(&self, raw_name: &[u8], rule: Rule) -> MergeError {
        match self {
            Entries::Archive(archive) => archive.refuse(raw_name, rule),
            Entries::Records(records) => records.refuse(raw_name, rule),
        }
    }
}
