//! Layers into an image by our own writer: the merge's data and tree go straight into squashfs. Knows nothing of jobs
//! and processes.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use shifter_layers::{Attributes, Layer, Limits, Policy, Sink, Special, Summary, Tables, read_layers};
use shifter_squashfs::writer::{self, Data, Encoder, Inode, Settings, SpoolDir, WriteError, Writer};

use super::sentence;

/// Most bytes of hidden files' data that wait in temporary files for a link that may want them.
const MOST_SPOOLED: u64 = 64 << 30;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_millis(250);

/// Writes the image `output`, which may exist as an empty file. Temporary files are made in `spool` and have no names.
/// `report` hears, now and then, of how many layers have begun and how many bytes of files came.
pub(super) fn convert(
    layers: &[Layer],
    encoder: Encoder,
    output: &Path,
    spool: &Path,
    report: &mut dyn FnMut(usize, u64),
) -> Result<Summary, String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(output)
        .map_err(|error| format!("opening {} failed: {error}", output.display()))?;
    let settings = Settings { encoder, ..Settings::default() };
    let writer = Writer::create(file, SpoolDir::new(spool, MOST_SPOOLED), &settings);
    let writer = writer.map_err(|error| sentence(&error))?;
    let mut sink = ImageSink { writer, report, layers: 0, bytes: 0, told: None };
    let read = read_layers(layers, &Limits::default(), &Policy::default(), &mut sink);
    let image = read.map_err(|error| sentence(&error))?;
    let mut tables = ImageTables(sink.writer.tables().map_err(|error| sentence(&error))?);
    let (root, summary) = image.write(&mut tables).map_err(|error| sentence(&error))?;
    tables.0.finish(root).map_err(|error| sentence(&error))?;
    Ok(summary)
}

struct ImageSink<'a> {
    writer: Writer,
    report: &'a mut dyn FnMut(usize, u64),
    layers: usize,
    bytes: u64,
    told: Option<Instant>,
}

impl ImageSink<'_> {
    fn tell(&mut self) {
        if self.told.is_none_or(|told| told.elapsed() >= INTERVAL) {
            (self.report)(self.layers, self.bytes);
            self.told = Some(Instant::now());
        }
    }
}

impl Sink for ImageSink<'_> {
    type Data = Data;

    fn begin_segment(&mut self) -> io::Result<()> {
        self.layers += 1;
        self.tell();
        self.writer.begin_segment().map_err(failed)
    }

    fn file(&mut self, size: u64, live: bool, data: &mut dyn io::Read) -> io::Result<Data> {
        let data = self.writer.file(size, live, data).map_err(failed)?;
        self.bytes += size;
        self.tell();
        Ok(data)
    }

    fn revive(&mut self, data: Data) -> io::Result<()> {
        self.writer.revive(data).map_err(failed)
    }

    fn kill(&mut self, data: Data) -> io::Result<()> {
        self.writer.kill(data).map_err(failed)
    }

    fn end_segment(&mut self) -> io::Result<()> {
        self.writer.end_segment().map(drop).map_err(failed)
    }
}

struct ImageTables(writer::Tables);

impl Tables for ImageTables {
    type Data = Data;
    type Inode = Inode;

    fn file(
        &mut self,
        number: u32,
        data: Data,
        attributes: &Attributes<'_>,
        links: u32,
    ) -> io::Result<Inode> {
        with(attributes, |attributes| self.0.file(number, data, attributes, links))
    }

    fn symlink(&mut self, number: u32, target: &[u8], attributes: &Attributes<'_>) -> io::Result<Inode> {
        with(attributes, |attributes| self.0.symlink(number, target, attributes, 1))
    }

    fn special(&mut self, number: u32, special: Special, attributes: &Attributes<'_>) -> io::Result<Inode> {
        let special = match special {
            Special::BlockDevice(device) => {
                writer::Special::BlockDevice { major: device.major, minor: device.minor }
            }
            Special::CharDevice(device) => {
                writer::Special::CharacterDevice { major: device.major, minor: device.minor }
            }
            Special::Fifo => writer::Special::Fifo,
        };
        with(attributes, |attributes| self.0.special(number, special, attributes, 1))
    }

    fn directory(
        &mut self,
        number: u32,
        parent: u32,
        attributes: &Attributes<'_>,
        entries: &[(&[u8], Inode)],
    ) -> io::Result<Inode> {
        let entries = entries.iter().map(|(name, inode)| (*name, *inode));
        with(attributes, |attributes| self.0.directory(number, parent, attributes, entries))
    }
}

fn with<T>(
    attributes: &Attributes<'_>,
    write: impl FnOnce(&writer::Attributes<'_>) -> Result<T, WriteError>,
) -> io::Result<T> {
    let xattrs: Vec<(&[u8], &[u8])> =
        attributes.xattrs.iter().map(|(name, value)| (&**name, &**value)).collect();
    let Attributes { mode, uid, gid, mtime, .. } = *attributes;
    write(&writer::Attributes { mode, uid, gid, mtime, xattrs: &xattrs }).map_err(failed)
}

fn failed(error: WriteError) -> io::Error {
    io::Error::other(sentence(&error))
}
