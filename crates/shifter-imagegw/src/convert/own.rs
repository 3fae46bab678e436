//! Layers into an image by our own writer: the merge's data and tree go straight into squashfs. Knows nothing of jobs
//! and processes.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use shifter_layers::{
    Attributes, Layer, Limits, MergeError, Origin, Policy, Sink, Special, Summary, Tables, read_layers_from,
};
use shifter_squashfs::writer::{self, Data, Encoder, Inode, Settings, SpoolDir, WriteError, Writer};

use super::reuse::{Kept, Records, Reuse};
use super::{Failure, sentence};

/// Most bytes of hidden files' data that wait in temporary files for a link that may want them.
const MOST_SPOOLED: u64 = 64 << 30;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_millis(250);

/// Writes the image `output`, which may exist as an empty file. Temporary files are made in `spool` and have no names.
/// Of the layers, oldest first, some are `kept` in images written before, the others come from `origins`; what is made of
/// them is remembered in `records`. `report` hears, now and then, of how many layers have begun.
pub(super) fn convert(
    (layers, origins, kept): (&[Layer], Vec<Origin<'_>>, Vec<Option<Kept>>),
    (encoder, policy): (Encoder, Policy),
    output: &Path,
    (spool, records): (&Path, Option<Records<'_>>),
    report: &mut dyn FnMut(usize),
) -> Result<Summary, Failure> {
    let reuse = Reuse::open(&encoder, &policy, layers, kept, records).map_err(Failure::Needs)?;
    let origins = reuse.origins(origins);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(output)
        .map_err(|error| format!("opening {} failed: {error}", output.display()));
    let file = file.map_err(Failure::Told)?;
    let settings = Settings { encoder, ..Settings::default() };
    let writer = Writer::create(file, SpoolDir::new(spool, MOST_SPOOLED), &settings);
    let writer = writer.map_err(told)?;
    let mut sink = ImageSink { writer, reuse, report, layers: 0, told: None };
    let read = read_layers_from(layers, origins, &Limits::default(), &policy, &mut sink);
    let image = read.map_err(|error| {
        let needs = match error {
            MergeError::Records { .. } => sink.reuse.current(),
            _ => sink.reuse.needs(),
        };
        needs.map_or_else(|| told(error), Failure::Needs)
    })?;
    let mut tables = ImageTables(sink.writer.tables().map_err(told)?);
    let (root, summary) = image.write(&mut tables).map_err(told)?;
    tables.0.finish(root).map_err(told)?;
    Ok(summary)
}

fn told(error: impl std::error::Error) -> Failure {
    Failure::Told(sentence(&error))
}

struct ImageSink<'a> {
    writer: Writer,
    reuse: Reuse<'a>,
    report: &'a mut dyn FnMut(usize),
    layers: usize,
    told: Option<Instant>,
}

fn tell(report: &mut dyn FnMut(usize), layers: usize, told: &mut Option<Instant>) {
    if told.is_none_or(|told| told.elapsed() >= INTERVAL) {
        report(layers);
        *told = Some(Instant::now());
    }
}

/// A file's data; large files are reported within, too.
struct Told<'a> {
    data: &'a mut dyn io::Read,
    tell: &'a mut dyn FnMut(),
}

impl io::Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.tell)();
        self.data.read(buffer)
    }
}

impl Sink for ImageSink<'_> {
    type Data = Data;

    fn begin_segment(&mut self) -> io::Result<()> {
        self.layers += 1;
        // Always told, as is its end: the next layer may be long in coming.
        (self.report)(self.layers);
        self.reuse.begin(&mut self.writer)
    }

    fn file(&mut self, size: u64, live: bool, data: &mut dyn io::Read) -> io::Result<Data> {
        let mut told = Told { data, tell: &mut || tell(self.report, self.layers, &mut self.told) };
        let data = self.writer.file(size, live, &mut told);
        data.map_err(|error| self.reuse.failed(error))
    }

    fn kept_file(&mut self, size: u64, live: bool) -> io::Result<Data> {
        tell(self.report, self.layers, &mut self.told);
        let data = self.writer.kept_file(size, live);
        data.map_err(|error| self.reuse.failed(error))
    }

    fn records(&mut self) -> Option<&mut dyn io::Write> {
        self.reuse.records()
    }

    fn revive(&mut self, data: Data) -> io::Result<()> {
        self.writer.revive(data).map_err(failed)
    }

    fn kill(&mut self, data: Data) -> io::Result<()> {
        self.writer.kill(data).map_err(failed)
    }

    fn end_segment(&mut self) -> io::Result<()> {
        (self.report)(self.layers);
        self.reuse.end(&mut self.writer)
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

pub(super) fn failed(error: WriteError) -> io::Error {
    io::Error::other(sentence(&error))
}
