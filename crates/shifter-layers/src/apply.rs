//! All layers laid over each other, oldest first, from what was recorded of them (image-spec layer.md,
//! "Applying Changesets"). Each entry is judged against its own layer as read so far and against everything
//! older, as its builder saw them: links of older layers are followed, hard links find their targets.

use std::collections::HashMap;

use crate::Layer;
use crate::error::{MergeError, Rule};
use crate::limits::Limits;
use crate::name::{components, normalize, shown};
use crate::paths::{PathId, ROOT};
use crate::resolve::follow_older_links;
use crate::scan::{self, Counters};
use crate::stock::{Kind, Record, RecordId, Stock};
use crate::tree::{HOLDS_ENTRIES, OPAQUE, Stand, Tree, WHITEOUT};

/// Lays the layers, given oldest first, over each other; returns the tree that they make.
pub(crate) fn apply_layers<D: Copy>(
    stock: &mut Stock<D>,
    layers: &[Layer],
    mut counters: Counters,
    limits: &Limits,
) -> Result<Tree, MergeError> {
    let mut applying = Applying {
        stock,
        limits,
        older: Tree::new(),
        newer: Tree::new(),
        touched: Vec::new(),
        parked: HashMap::new(),
    };
    for (number, layer) in layers.iter().enumerate() {
        // Recorded the other way round.
        let records = applying.stock.layers.iter().rev().nth(number).cloned().unwrap_or_default();
        for id in records {
            let Some(record) = applying.stock.records.get(id).copied() else { continue };
            let id = RecordId::try_from(id).unwrap_or(RecordId::MAX);
            let known = applying.stock.paths.count();
            applying.take(id, &record).map_err(|rule| MergeError::Entry {
                layer: layer.digest.clone(),
                entry: shown(&archived_name(applying.stock, &record)),
                rule,
            })?;
            counters.entries += (applying.stock.paths.count() - known) as u64;
            counters.check(layer, || shown(&archived_name(applying.stock, &record)), limits)?;
        }
        applying.lay_over();
    }
    Ok(applying.older)
}

struct Applying<'a, D> {
    stock: &'a mut Stock<D>,
    limits: &'a Limits,
    /// The image as all older layers make it.
    older: Tree,
    /// The layer being applied, so far.
    newer: Tree,
    /// Paths that the layer changed, some twice.
    touched: Vec<PathId>,
    parked: HashMap<PathId, RecordId>,
}

impl<D: Copy> Applying<'_, D> {
    fn take(&mut self, id: RecordId, record: &Record) -> Result<(), Rule> {
        match record.kind {
            Kind::Parked => {
                self.parked.insert(record.path, id);
                Ok(())
            }
            Kind::Opaque => {
                let path = self.follow(record.path)?;
                self.make_directories(path, true)?;
                self.newer.flag(&self.stock.paths, path, OPAQUE);
                Ok(())
            }
            Kind::Whiteout => {
                let path = self.locate(record.path)?;
                self.make_directories(self.stock.paths.parent(path), false)?;
                self.newer.flag(&self.stock.paths, path, WHITEOUT);
                self.touched.push(path);
                Ok(())
            }
            Kind::Directory => {
                let path = self.locate(record.path)?;
                self.make_directories(self.stock.paths.parent(path), true)?;
                // What replaces a file of the same layer replaces everything older as well.
                let replaces = matches!(self.newer.at(path), Stand::Leaf(_));
                let flags = if replaces { HOLDS_ENTRIES | OPAQUE } else { HOLDS_ENTRIES };
                self.newer.put(&self.stock.paths, path, Stand::Directory(id));
                self.newer.flag(&self.stock.paths, path, flags);
                self.touched.push(path);
                Ok(())
            }
            Kind::HardLink => {
                let path = self.locate(record.path)?;
                let target = self.link_target(record)?;
                self.put_leaf(path, target)
            }
            _ => {
                let path = self.locate(record.path)?;
                self.put_leaf(path, id)
            }
        }
    }

    /// Replaces whatever the layer had there, with everything below.
    fn put_leaf(&mut self, path: PathId, id: RecordId) -> Result<(), Rule> {
        self.make_directories(self.stock.paths.parent(path), true)?;
        self.newer.put(&self.stock.paths, path, Stand::Leaf(id));
        self.newer.unflag(&self.stock.paths, path, OPAQUE | HOLDS_ENTRIES);
        self.touched.push(path);
        Ok(())
    }

    /// What a hard link means at this point of the layer: an earlier entry, else what older layers have
    /// there, even if this layer hides it (the layer was made while it could still be seen).
    fn link_target(&mut self, record: &Record) -> Result<RecordId, Rule> {
        let raw = self.stock.paths.text(record.value).to_vec();
        let target = normalize(&raw, self.limits)
            .map_err(|rule| Rule::BadLinkTarget { target: shown(&raw), rule: Box::new(rule) })?;
        let target = self.stock.paths.walk(ROOT, components(&target));
        if let Some(parked) = self.parked.get(&target) {
            return Ok(*parked);
        }
        // Where the way to the target is barred, it is looked for as it was written, and not found.
        let target = self.locate(target).unwrap_or(target);
        let found = match self.newer.at(target) {
            Stand::Nothing => self.older.at(target),
            Stand::Implied if !self.newer.has(target, HOLDS_ENTRIES) => self.older.at(target),
            found => found,
        };
        match found {
            Stand::Leaf(id) => Ok(id),
            Stand::Nothing => Err(Rule::MissingLinkTarget(shown(&raw))),
            Stand::Implied | Stand::Directory(_) => Err(Rule::LinkToDirectory(shown(&raw))),
        }
    }

    /// Where a path really lies, its last component not followed.
    fn locate(&mut self, path: PathId) -> Result<PathId, Rule> {
        let parent = self.stock.paths.parent(path);
        let found = self.follow(parent)?;
        if found == parent {
            return Ok(path);
        }
        let name = self.stock.paths.name(path).to_vec();
        Ok(self.stock.paths.child(found, &name))
    }

    fn follow(&mut self, path: PathId) -> Result<PathId, Rule> {
        let found = follow_older_links(path, &self.newer, &self.older, self.stock, self.limits)?;
        let paths = &self.stock.paths;
        let is_reserved = |path| paths.name(path).starts_with(scan::WHITEOUT);
        if found != path && paths.upwards(found).any(is_reserved) {
            return Err(Rule::BadWhiteout);
        }
        Ok(found)
    }

    /// Makes `path` and everything above it directories of the layer. `holds` is false for what only
    /// whiteouts need.
    fn make_directories(&mut self, path: PathId, holds: bool) -> Result<(), Rule> {
        let upwards: Vec<PathId> = self.stock.paths.upwards(path).collect();
        for above in upwards.into_iter().rev() {
            match self.newer.at(above) {
                Stand::Leaf(_) => {
                    return Err(Rule::ParentNotDirectory(shown(&self.stock.paths.whole(above))));
                }
                Stand::Nothing => {
                    self.newer.put(&self.stock.paths, above, Stand::Implied);
                    self.touched.push(above);
                }
                Stand::Implied | Stand::Directory(_) => {}
            }
            if holds {
                self.newer.flag(&self.stock.paths, above, HOLDS_ENTRIES);
            }
        }
        Ok(())
    }

    /// Ends a layer: lays it over the older ones.
    fn lay_over(&mut self) {
        let Self { stock, older, newer, touched, .. } = self;
        let paths = &stock.paths;
        touched.push(ROOT);
        for &path in touched.iter() {
            if newer.has(path, WHITEOUT) && older.at(path) != Stand::Nothing {
                older.put(paths, path, Stand::Nothing);
            }
            if newer.has(path, OPAQUE) {
                older.clear_below(path);
            }
        }
        for &path in touched.iter() {
            match (newer.at(path), older.at(path)) {
                // Whiteouts alone create nothing and replace nothing.
                (Stand::Nothing, _) => {}
                (Stand::Implied, _) if !newer.has(path, HOLDS_ENTRIES) => {}
                (Stand::Implied, Stand::Implied | Stand::Directory(_)) => {}
                (new, _) => older.put(paths, path, new),
            }
        }
        newer.reset(ROOT);
        touched.clear();
        self.parked.clear();
    }
}

/// The name of a record's entry, as it was archived.
fn archived_name<D: Copy>(stock: &Stock<D>, record: &Record) -> Vec<u8> {
    let in_directory = |directory: PathId, name: &[u8]| match directory {
        ROOT => name.to_vec(),
        _ => [stock.paths.whole(directory).as_slice(), name].join(&b'/'),
    };
    match record.kind {
        Kind::Whiteout => {
            let name = [scan::WHITEOUT, stock.paths.name(record.path)].concat();
            in_directory(stock.paths.parent(record.path), &name)
        }
        Kind::Opaque => in_directory(record.path, scan::OPAQUE),
        _ if record.path == ROOT => b"./".to_vec(),
        _ => stock.paths.whole(record.path),
    }
}
