//! The content of one archived file as a stream of exactly its size, the holes of sparse files filled with
//! zeros. What went wrong with the layer is kept apart, because the reader only sees an [`io::Error`].

use std::io::{self, Read};

use crate::archive::{Archive, Entry};
use crate::error::MergeError;
use crate::sparse::Segment;

/// See the module.
pub(crate) struct Content<'a> {
    archive: &'a mut Archive,
    /// Pieces still to come.
    segments: std::slice::Iter<'a, Segment>,
    segment: Segment,
    at: u64,
    size: u64,
    failure: Option<MergeError>,
}

impl<'a> Content<'a> {
    pub(crate) fn new(archive: &'a mut Archive, entry: &'a Entry) -> Self {
        let size = entry.size;
        let (segments, segment) = match &entry.segments {
            Some(segments) => (segments.as_slice(), Segment { offset: 0, bytes: 0 }),
            None => (Default::default(), Segment { offset: 0, bytes: size }),
        };
        Self { archive, segments: segments.iter(), segment, at: 0, size, failure: None }
    }

    /// What is wrong with the layer, if reading failed.
    pub(crate) fn failure(self) -> Option<MergeError> {
        self.failure
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.segment.offset + self.segment.bytes {
            match self.segments.next() {
                Some(next) => self.segment = *next,
                None => break,
            }
        }
        let Segment { offset, bytes } = self.segment;
        // Data up to the segment's end; a hole up to its beginning, or after the last one to the file's end.
        let (is_data, until) = match self.at {
            at if at < offset => (false, offset),
            at if at < offset + bytes => (true, offset + bytes),
            _ => (false, self.size),
        };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let Some(wanted) = buffer.get_mut(..most) else { return Ok(0) };
        let count = if is_data {
            self.archive.read_data(wanted).map_err(|failure| {
                self.failure = Some(failure);
                io::Error::from(io::ErrorKind::InvalidData)
            })?
        } else {
            wanted.fill(0);
            most
        };
        self.at += count as u64;
        Ok(count)
    }
}
