//! Layers read, once each and newest first: entries judged and recorded, the data of files handed to the
//! sink as it comes. What needs older layers is judged later, in [`apply`](crate::apply).

use std::io;

use crate::archive::{self, Entry};
use crate::entries::{Entries, Opened};
use crate::error::{MergeError, Near, Rule};
use crate::limits::Limits;
use crate::live::Liveness;
use crate::name::{components, normalize, shown, split_last};
use crate::paths::{PathId, ROOT};
use crate::policy::Policy;
use crate::records;
use crate::sink::Sink;
use crate::stock::{Kind, Owner, Record, Stock};
use crate::{Layer, Summary};

/// In front of a name that hides one of an older layer (image-spec layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// In front of the names that aufs kept for itself in old layers.
const AUFS: &[u8] = b".wh..wh.";
/// Marks a directory that hides all of its older contents.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The reading of all layers.
pub(crate) struct Scan<'a, S: Sink> {
    sink: &'a mut S,
    limits: &'a Limits,
    policy: &'a Policy,
    live: Liveness,
    pub(crate) stock: Stock<S::Data>,
    pub(crate) counters: Counters,
    pub(crate) summary: Summary,
    buffer: Vec<u8>,
}

/// What is held against the limits.
#[derive(Default)]
pub(crate) struct Counters {
    /// Entries read, and paths that they made known besides their own.
    pub(crate) entries: u64,
    /// Bytes of their names, targets and extended attributes.
    pub(crate) name_bytes: u64,
    /// Bytes of all regular files read, holes included.
    file_bytes: u64,
}

/// Where an entry ends up, judged by its name and type alone.
enum Place {
    Entry(PathId),
    Whiteout(PathId),
    Opaque(PathId),
    Parked(PathId),
    /// A name of aufs's own.
    Nowhere,
}

impl<'a, S: Sink> Scan<'a, S> {
    pub(crate) fn new(sink: &'a mut S, limits: &'a Limits, policy: &'a Policy) -> Self {
        let stock = Stock::new();
        let live = Liveness::new(stock.emptied);
        let (counters, summary) = (Counters::default(), Summary::default());
        Self { sink, limits, policy, live, stock, counters, summary, buffer: Vec::new() }
    }

    /// Reads one more layer, older than those before.
    pub(crate) fn read_layer(
        &mut self,
        layer: &Layer,
        opened: Opened<'_>,
        is_oldest: bool,
    ) -> Result<(), MergeError> {
        let budget = self.limits.uncompressed_bytes.saturating_sub(self.summary.uncompressed_bytes);
        let mut archive = opened.entries(layer, self.limits, self.policy, budget);
        let first_record = self.stock.records.len();
        self.sink.begin_segment().map_err(write_output)?;
        self.live.begin_layer(u32::try_from(self.stock.files.len()).unwrap_or(u32::MAX), is_oldest);
        while let Some(entry) = archive.next_entry()? {
            self.summary.entries_read += 1;
            if let Some(records) = self.sink.records() {
                let _remembered_there = records::write_entry(&entry, &mut self.buffer, records);
            }
            self.take(&mut archive, &entry, layer)?;
        }
        self.summary.uncompressed_bytes += archive.position();
        if let Some(records) = self.sink.records() {
            let _remembered_there = records::write_end(archive.position(), records);
        }
        if let (Some(expected), Some(actual)) = (&layer.diff_id, archive.digest())
            && expected.to_string() != actual
        {
            let (layer, expected) = (layer.digest.clone(), expected.clone());
            return Err(MergeError::DiffId { layer, expected, actual: actual.to_owned() });
        }
        for (file, is_needed, was_told) in self.live.verdicts(&self.stock.paths) {
            let Some(file) = self.stock.files.get(file as usize) else { continue };
            match (is_needed, was_told) {
                (true, false) => self.sink.revive(file.data).map_err(write_output)?,
                (false, true) => self.sink.kill(file.data).map_err(write_output)?,
                _ => {}
            }
        }
        self.sink.end_segment().map_err(write_output)?;
        let records = self.stock.records.get(first_record..).unwrap_or_default();
        self.live.end_layer(&self.stock.paths, records);
        self.stock.layers.push(first_record..self.stock.records.len());
        Ok(())
    }

    fn take(&mut self, archive: &mut Entries<'_>, entry: &Entry, layer: &Layer) -> Result<(), MergeError> {
        let refuse = |archive: &Entries<'_>, rule| archive.refuse(&entry.raw_name, rule);
        let name = normalize(&entry.raw_name, self.limits).map_err(|rule| refuse(archive, rule))?;
        let xattr_bytes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.counters.name_bytes += (name.len() + entry.link.len() + xattr_bytes) as u64;
        if entry.kind == archive::Kind::File {
            self.counters.file_bytes = self.counters.file_bytes.saturating_add(entry.size);
        }
        // Before anything is stored: one entry may name much and hold terabytes of holes.
        self.counters.check(layer, || shown(&entry.raw_name), self.limits)?;
        let known = self.stock.paths.count();
        let place = self.place(entry, &name).map_err(|rule| refuse(archive, rule))?;
        let record = self.record(archive, entry, place)?;
        self.stock.records.extend(record);
        // Of the paths that are new now, one is the entry's own.
        self.counters.entries += (self.stock.paths.count() - known).max(1) as u64;
        self.counters.check(layer, || shown(&entry.raw_name), self.limits)
    }

    fn place(&mut self, entry: &Entry, name: &[u8]) -> Result<Place, Rule> {
        let (parent, last) = split_last(name);
        let starts_with = |name: &[u8], start: &[u8]| components(name).any(|part| part.starts_with(start));
        let paths = &mut self.stock.paths;
        if starts_with(name, AUFS) {
            return Ok(match entry.kind {
                _ if last == OPAQUE && !starts_with(parent, WHITEOUT) => {
                    Place::Opaque(paths.walk(ROOT, components(parent)))
                }
                archive::Kind::File => Place::Parked(paths.walk(ROOT, components(name))),
                _ => Place::Nowhere,
            });
        }
        if starts_with(parent, WHITEOUT) {
            return Err(Rule::BadWhiteout);
        }
        // Whatever type a whiteout's entry has: some builders make it a hard link to another one.
        if let Some(hidden) = last.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Rule::BadWhiteout);
            }
            let parent = paths.walk(ROOT, components(parent));
            return Ok(Place::Whiteout(paths.child(parent, hidden)));
        }
        if name.is_empty() && entry.kind != archive::Kind::Directory {
            return Err(Rule::RootNotDirectory);
        }
        Ok(Place::Entry(paths.walk(ROOT, components(name))))
    }

    fn record(
        &mut self,
        archive: &mut Entries<'_>,
        entry: &Entry,
        place: Place,
    ) -> Result<Option<Record>, MergeError> {
        let (path, kind, value) = match place {
            Place::Nowhere => return Ok(None),
            Place::Whiteout(path) => (path, Kind::Whiteout, 0),
            Place::Opaque(path) => (path, Kind::Opaque, 0),
            Place::Parked(path) => {
                let file = self.hand_over(archive, entry, true)?;
                self.live.parked();
                (path, Kind::Parked, file)
            }
            Place::Entry(path) => {
                let (kind, value) = self.entry_at(archive, entry, path)?;
                (path, kind, value)
            }
        };
        let mode = match kind {
            Kind::Directory => self.policy.directory_mode(entry.mode),
            Kind::Symlink => 0o777,
            _ => self.policy.file_mode(entry.mode),
        };
        let (uid, gid) = entry.owner;
        let owner = self.stock.owners.number(Owner { uid, gid, xattrs: entry.xattrs.clone() });
        Ok(Some(Record { path, value, mtime: entry.mtime, owner, mode, kind }))
    }

    fn entry_at(
        &mut self,
        archive: &mut Entries<'_>,
        entry: &Entry,
        path: PathId,
    ) -> Result<(Kind, u32), MergeError> {
        let refuse = |archive: &Entries<'_>, rule| Err(archive.refuse(&entry.raw_name, rule));
        let (kind, value) = match entry.kind {
            archive::Kind::Directory => {
                self.live.directory(&self.stock.paths, path);
                return Ok((Kind::Directory, 0));
            }
            archive::Kind::File => {
                let is_shadow = self.stock.shadows.contains(&path);
                let is_live = self.live.is_file_live(&self.stock.paths, path);
                let file = match is_shadow {
                    true => self.hand_over_nothing(archive, is_live)?,
                    false => self.hand_over(archive, entry, is_live)?,
                };
                self.live.file(&self.stock.paths, path, file, is_live);
                return Ok((if is_shadow { Kind::Shadow } else { Kind::File }, file));
            }
            archive::Kind::HardLink => {
                let target = match normalize(&entry.link, self.limits) {
                    Ok(target) => self.stock.paths.walk(ROOT, components(&target)),
                    Err(rule) => {
                        let (target, rule) = (shown(&entry.link), Box::new(rule));
                        return refuse(archive, Rule::BadLinkTarget { target, rule });
                    }
                };
                self.live.link(&self.stock.paths, path, target);
                return Ok((Kind::HardLink, self.stock.paths.keep(&entry.link)));
            }
            archive::Kind::Symlink => {
                let target = entry.link.as_slice();
                if target.is_empty() || target.len() > self.limits.name_bytes || target.contains(&0) {
                    return refuse(archive, Rule::BadSymlinkTarget);
                }
                (Kind::Symlink, self.stock.paths.keep(target))
            }
            archive::Kind::BlockDevice(device) => (Kind::BlockDevice, device.encoded()),
            archive::Kind::CharDevice(device) => (Kind::CharDevice, device.encoded()),
            archive::Kind::Fifo => (Kind::Fifo, 0),
            archive::Kind::LeftOut => (Kind::LeftOut, 0),
        };
        self.live.other(&self.stock.paths, path);
        Ok((kind, value))
    }

    /// Gives a file's data to the sink; returns its number. A fault of the layer is told before the sink's.
    fn hand_over(
        &mut self,
        archive: &mut Entries<'_>,
        entry: &Entry,
        is_live: bool,
    ) -> Result<u32, MergeError> {
        let taken = match archive {
            Entries::Records(_) => self.sink.kept_file(entry.size, is_live),
            Entries::Archive(archive) => {
                let mut content = archive.content(entry);
                let taken = self.sink.file(entry.size, is_live, &mut content);
                if let Some(failure) = content.failure() {
                    return Err(failure);
                }
                taken
            }
        };
        Ok(self.stock.add_file(entry.size, taken.map_err(write_output)?))
    }

    fn hand_over_nothing(&mut self, archive: &Entries<'_>, is_live: bool) -> Result<u32, MergeError> {
        let taken = match archive {
            Entries::Records(_) => self.sink.kept_file(0, is_live),
            Entries::Archive(_) => self.sink.file(0, is_live, &mut io::empty()),
        };
        let data = taken.map_err(write_output)?;
        Ok(self.stock.add_file(0, data))
    }
}

impl Counters {
    /// `name` is that of the entry that was counted last.
    pub(crate) fn check(
        &self,
        layer: &Layer,
        name: impl FnOnce() -> String,
        limits: &Limits,
    ) -> Result<(), MergeError> {
        let place = || (layer.digest.clone(), Near::Entry(name()));
        if self.entries > limits.entries {
            let ((layer, near), limit) = (place(), limits.entries);
            return Err(MergeError::TooManyEntries { layer, near, limit });
        }
        if self.name_bytes > limits.all_names_bytes {
            let ((layer, near), limit) = (place(), limits.all_names_bytes);
            return Err(MergeError::TooManyNameBytes { layer, near, limit });
        }
        if self.file_bytes > limits.uncompressed_bytes {
            let ((layer, near), limit) = (place(), limits.uncompressed_bytes);
            return Err(MergeError::TooManyBytes { layer, near, limit });
        }
        Ok(())
    }
}

pub(crate) fn write_output(source: io::Error) -> MergeError {
    MergeError::WriteOutput { source }
}
