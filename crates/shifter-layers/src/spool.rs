//! The [`Sink`] for converters that are programs of their own: they want names and data together, so data
//! waits in an unlinked temporary file until all names are known. Blocks of zeros become holes in it. What
//! newer layers hide waits in a second one, and goes when its layer ends.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::MergeError;
use crate::sink::Sink;

const BUFFER_BYTES: usize = 256 * 1024;
/// Zeros are left out in pieces of this size, that of a page.
const HOLE_BYTES: usize = 4096;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// See the module.
pub(crate) struct Spool {
    folder: PathBuf,
    kept: Temporary,
    hidden: Temporary,
    /// By number of the data.
    places: Vec<Place>,
    has_failed: bool,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    size: u64,
    is_hidden: bool,
}

/// An unlinked file, made when it is first needed.
#[derive(Default)]
struct Temporary {
    file: Option<File>,
    end: u64,
}

impl Spool {
    /// The files will be in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            kept: Temporary::default(),
            hidden: Temporary::default(),
            places: Vec::new(),
            has_failed: false,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Whether an error was the spool's own.
    pub(crate) fn failure(&self) -> bool {
        self.has_failed
    }

    /// Bytes of a file.
    pub(crate) fn size(&self, data: u32) -> u64 {
        self.places.get(data as usize).map_or(0, |place| place.size)
    }

    /// Writes the data of a file to `out`.
    pub(crate) fn copy(&mut self, data: u32, out: &mut dyn Write) -> Result<(), MergeError> {
        let spooling = |source| MergeError::Spool { folder: self.folder.clone(), source };
        let lost = || spooling(io::ErrorKind::NotFound.into());
        let place = self.places.get(data as usize).filter(|place| !place.is_hidden).ok_or_else(lost)?;
        let mut at = place.offset;
        let end = place.offset + place.size;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let piece = self.buffer.get_mut(..count).unwrap_or_default();
            let file = self.kept.file.as_ref().ok_or_else(lost)?;
            file.read_exact_at(piece, at).map_err(spooling)?;
            out.write_all(piece).map_err(|source| MergeError::WriteOutput { source })?;
            at += count as u64;
        }
        Ok(())
    }

    fn own<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.has_failed |= result.is_err();
        result
    }
}

impl Sink for Spool {
    type Data = u32;

    fn begin_segment(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, size: u64, live: bool, data: &mut dyn Read) -> io::Result<u32> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let temporary = if live { &mut self.kept } else { &mut self.hidden };
        let place = Place { offset: temporary.end, size, is_hidden: !live };
        let result = loop {
            match fill(data, &mut buffer) {
                // The layer's fault, not the spool's.
                Err(error) => return Err(error),
                Ok(0) => break Ok(()),
                Ok(count) => {
                    let piece = buffer.get(..count).unwrap_or_default();
                    if let Err(error) = temporary.append(&self.folder, piece) {
                        break Err(error);
                    }
                }
            }
        };
        self.buffer = buffer;
        self.own(result)?;
        self.places.push(place);
        Ok(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
    }

    fn revive(&mut self, data: u32) -> io::Result<()> {
        let Some(place) = self.places.get_mut(data as usize).filter(|place| place.is_hidden) else {
            return Ok(());
        };
        let mut at = place.offset;
        let end = place.offset + place.size;
        *place = Place { offset: self.kept.end, is_hidden: false, ..*place };
        let mut copy = || {
            while at < end {
                let count = usize::try_from(end - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
                let piece = self.buffer.get_mut(..count).unwrap_or_default();
                let file = self.hidden.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                file.read_exact_at(piece, at)?;
                self.kept.append(&self.folder, piece)?;
                at += count as u64;
            }
            Ok(())
        };
        let copied = copy();
        self.own(copied)
    }

    fn kill(&mut self, _data: u32) -> io::Result<()> {
        Ok(())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        self.hidden.end = 0;
        let emptied = self.hidden.file.as_ref().map_or(Ok(()), |file| file.set_len(0));
        self.own(emptied)
    }
}

impl Temporary {
    fn append(&mut self, folder: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(unlinked_file(folder)?),
        };
        let mut ends_in_hole = false;
        for piece in bytes.chunks(HOLE_BYTES) {
            ends_in_hole = ZEROS.get(..piece.len()) == Some(piece);
            if !ends_in_hole {
                file.write_all_at(piece, self.end)?;
            }
            self.end += piece.len() as u64;
        }
        if ends_in_hole { file.set_len(self.end) } else { Ok(()) }
    }
}

fn fill(data: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match data.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// A file without a name.
fn unlinked_file(folder: &Path) -> io::Result<File> {
    let unique = RandomState::new().build_hasher().finish();
    let path = folder.join(format!(".merge-{}-{unique:016x}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
