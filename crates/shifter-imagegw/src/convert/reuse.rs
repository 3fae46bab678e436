//! The child's side of layers that need not be read again: which segments come from images written before, and what
//! is remembered of the layers of this one. Which layers those are, and where it is all kept, the gateway decides.

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shifter_layers::{Layer, Origin, Policy};
use shifter_squashfs::writer::{Encoder, WriteError, Writer};

use super::ConvertLayer;
use super::index::{self, About, Index, IndexWriter};
use super::own::failed;

/// A layer that is remembered.
pub(super) struct Kept {
    /// What is remembered.
    pub(super) index: PathBuf,
    /// The image that has its data.
    pub(super) image: PathBuf,
}

impl Kept {
    pub(super) fn of(layer: &ConvertLayer) -> Option<Self> {
        let (index, image) = layer.path.clone().zip(layer.kept.clone())?;
        Some(Kept { index, image })
    }
}

/// Where, and as what, this conversion is remembered.
pub(super) struct Records<'a> {
    pub(super) folder: &'a Path,
    pub(super) job: &'a [ConvertLayer],
    /// What the image will be called.
    pub(super) image: &'a Path,
}

/// See the module.
pub(super) struct Reuse<'a> {
    key: String,
    /// Oldest first.
    kept: Vec<Option<Index>>,
    records: Option<Records<'a>>,
    /// Layers that have begun, newest first.
    begun: usize,
    writing: Option<IndexWriter>,
    needs: Option<usize>,
}

impl<'a> Reuse<'a> {
    /// Opens what is remembered of layers; or says which layer, oldest first, is needed after all.
    pub(super) fn open(
        encoder: &Encoder,
        policy: &Policy,
        layers: &[Layer],
        kept: Vec<Option<Kept>>,
        records: Option<Records<'a>>,
    ) -> Result<Self, usize> {
        let key = index::key(encoder, policy);
        let open = |(number, (layer, kept)): (usize, (&Layer, Option<Kept>))| {
            let Some(Kept { index, image }) = kept else { return Ok(None) };
            let index = Index::open(&index, &image).map_err(|_| number)?;
            let about = index.about();
            let diff_id = layer.diff_id.as_ref().map(ToString::to_string);
            match about.key == key && about.layer == layer.digest.to_string() && about.diff_id == diff_id {
                true => Ok(Some(index)),
                false => Err(number),
            }
        };
        let kept = layers.iter().zip(kept).enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Reuse { key, kept, records, begun: 0, writing: None, needs: None })
    }

    /// Where the entries of each layer are read: of those that are not kept, as `others` says.
    pub(super) fn origins<'o>(&self, others: Vec<Origin<'o>>) -> Vec<Origin<'o>> {
        let origin = |(index, other): (&Option<Index>, Origin<'o>)| match index {
            Some(index) => Origin::Records(Box::new(index.records())),
            None => other,
        };
        self.kept.iter().zip(others).map(origin).collect()
    }

    /// The layer being read.
    pub(super) fn current(&self) -> Option<usize> {
        // Behind the oldest layer there may be one more segment, which is nobody's.
        self.kept.len().checked_sub(self.begun).filter(|_| self.begun > 0)
    }

    /// The layer that could not be taken from where it was remembered to be.
    pub(super) fn needs(&self) -> Option<usize> {
        self.needs
    }

    /// Opens the next older layer's segment.
    pub(super) fn begin(&mut self, writer: &mut Writer) -> io::Result<()> {
        self.begun += 1;
        let Some(number) = self.current() else { return writer.begin_segment().map_err(failed) };
        self.writing = self.records.as_ref().and_then(|records| {
            let layer = records.job.get(number)?;
            let diff_id = layer.diff_id.as_deref();
            let about = About::new(&self.key, &layer.digest, &layer.compression, diff_id, records.image);
            Some(IndexWriter::create(records.folder.join(number.to_string()), about))
        });
        let begun = match self.kept.get(number).and_then(Option::as_ref) {
            Some(index) => index.segment().and_then(|segment| writer.begin_kept_segment(segment)),
            None => writer.begin_segment(),
        };
        begun.map_err(|error| self.failed(error))
    }

    /// Where the entries of the current layer are to be remembered.
    pub(super) fn records(&mut self) -> Option<&mut dyn Write> {
        self.writing.as_mut().map(|writing| writing as &mut dyn Write)
    }

    /// Closes the segment.
    pub(super) fn end(&mut self, writer: &mut Writer) -> io::Result<()> {
        let segment = writer.end_segment().map_err(|error| self.failed(error))?;
        if let Some(writing) = self.writing.take() {
            writing.finish(writer, &segment);
        }
        Ok(())
    }

    /// Remembers whether it is the current layer's fault, or rather that of what is remembered of it.
    pub(super) fn failed(&mut self, error: WriteError) -> io::Error {
        if matches!(error, WriteError::Kept(_)) {
            self.needs = self.current();
        }
        failed(error)
    }
}
