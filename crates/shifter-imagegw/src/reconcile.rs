//! The catalog against the image directories: what one has and the other has not, and what dead writers left.
//!
//! Looking changes nothing. `fix` makes both agree by taking away what is half there, so that the next pull makes it
//! whole; `rebuild` enters what only the directory knows. Image directories of remote systems are not reached from here.

mod directory;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use shifter_core::meta::Meta;

use self::directory::{Contents, Files};
use crate::acl;
use crate::admin::Answer;
use crate::catalog::{Catalog, Record};
use crate::config::{Access, Config};
use crate::model::Grant;
use crate::publish;
use crate::pull::Puller;

/// Files younger than this may be of a pull that will enter them in a moment.
const SETTLED: Duration = Duration::from_secs(3600);

/// What is to be done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) fix: bool,
    pub(crate) rebuild: bool,
    /// Only this one; all systems otherwise.
    pub(crate) system: Option<String>,
}

/// What it is done with.
pub(crate) struct Scope<'a> {
    pub(crate) config: &'a Config,
    pub(crate) catalog: &'a dyn Catalog,
    pub(crate) gateway_uid: u32,
    /// Of the running gateway, whose pulls must not come between.
    pub(crate) puller: Option<&'a Puller>,
}

/// What does not agree.
#[derive(Debug)]
enum Fault {
    /// The catalog's image is not there, or not as long as it was; the sentence says which.
    Broken(Box<Record>, String),
    /// `.meta` is not there or says another thing than the catalog.
    Meta(Box<Record>, String),
    /// Files of an image that the catalog does not know.
    Orphan(String, Files),
}

/// An image directory with the systems that have it.
struct Place<'a> {
    directory: &'a Path,
    systems: Vec<&'a str>,
}

/// What the catalog had of a directory before that was looked through, and after.
struct Records {
    before: Vec<Record>,
    after: Vec<Record>,
}

impl Records {
    fn all(&self) -> impl Iterator<Item = &Record> {
        self.before.iter().chain(&self.after)
    }

    /// Those that stood still meanwhile: what was published or removed while the directory was looked through is neither
    /// missing nor too much.
    fn settled(&self) -> impl Iterator<Item = &Record> {
        fn key(record: &Record) -> (&str, &str, i64) {
            (&record.image.system, &record.image.id, record.revision)
        }
        let before: BTreeSet<_> = self.before.iter().map(key).collect();
        self.after.iter().filter(move |record| before.contains(&key(record)))
    }
}

/// Looks, and does what is ordered; one line for each thing found, and a last one that counts.
pub(crate) async fn run(scope: &Scope<'_>, orders: &Orders) -> anyhow::Result<Answer> {
    let (mut lines, mut found, mut left) = (Vec::new(), 0, 0);
    for place in places(scope.config, orders.system.as_deref(), &mut lines)? {
        let before = records(scope.catalog, &place).await?;
        let contents = directory::read(place.directory).await?;
        let records = Records { before, after: records(scope.catalog, &place).await? };
        let knows_nothing = records.all().next().is_none();
        // As a file system that is not mounted looks: what is taken away then does not come back with it.
        let is_empty = contents.images.is_empty() && records.all().any(|record| !record.grants.is_empty());
        if is_empty {
            let directory = place.directory.display();
            lines.push(format!(
                "{directory} holds no image at all; is its file system mounted? nothing is taken away"
            ));
        }
        for fault in faults(scope, &contents, &records) {
            found += 1;
            let (line, is_solved) = settle(scope, orders, &place, fault, (knows_nothing, is_empty)).await?;
            lines.push(line);
            left += usize::from(!is_solved);
        }
        for path in &contents.leftovers {
            found += 1;
            left += usize::from(!orders.fix);
            let done = if orders.fix { "; removed" } else { "" };
            lines.push(format!("{}: left by a writer that is dead{done}", path.display()));
        }
        if orders.fix {
            let directory = place.directory.to_owned();
            tokio::task::spawn_blocking(move || publish::remove_leftovers(&directory)).await??;
        }
    }
    lines.push(match (found, left) {
        (0, _) => "the catalog and the image directories agree".to_owned(),
        (_, 0) => format!("{found} found, all settled"),
        _ => format!("{found} found, {left} left as they are"),
    });
    Ok(Answer { lines, is_well: left == 0 })
}

fn places<'a>(
    config: &'a Config,
    system: Option<&str>,
    lines: &mut Vec<String>,
) -> anyhow::Result<Vec<Place<'a>>> {
    if let Some(name) = system
        && !config.platforms.contains_key(name)
    {
        bail!("system {} is not configured", name.escape_default());
    }
    let is_meant = |name: &str| system.is_none_or(|wanted| wanted == name);
    let mut places: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for (name, platform) in &config.platforms {
        match platform.access {
            Access::Local => {
                places.entry(&platform.image_dir).or_default().push(name);
                if is_meant(name) {
                    wanted.insert(platform.image_dir.as_path());
                }
            }
            Access::Remote if is_meant(name) => {
                lines.push(format!("system {name}: its images are on other hosts and are not looked at"));
            }
            Access::Remote => {}
        }
    }
    let places = places.into_iter().filter(|(directory, _)| wanted.contains(directory));
    Ok(places.map(|(directory, systems)| Place { directory, systems }).collect())
}

/// All that the catalog has of a directory: also of systems that are not asked about, whose files are no orphans.
async fn records(catalog: &dyn Catalog, place: &Place<'_>) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for system in &place.systems {
        records.extend(catalog.list(Some(system)).await?);
    }
    Ok(records)
}

fn faults(scope: &Scope<'_>, contents: &Contents, records: &Records) -> Vec<Fault> {
    // Systems that share a directory share `.meta`, which names the users of all.
    let mut known: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    for record in &records.after {
        known.entry(record.image.id.clone()).or_default().extend(record.grants.iter().cloned());
    }
    let ids: BTreeSet<&String> = records.all().map(|record| &record.image.id).collect();
    let orphans = contents.images.iter().filter(|(id, _)| !ids.contains(id));
    let mut faults: Vec<Fault> =
        orphans.map(|(id, files)| Fault::Orphan(id.clone(), files.clone())).collect();
    for record in records.settled() {
        let grants = known.get(&record.image.id).map(Vec::as_slice).unwrap_or_default();
        faults.extend(fault_of(scope, contents, record, grants));
    }
    faults
}

fn fault_of(scope: &Scope<'_>, contents: &Contents, record: &Record, grants: &[Grant]) -> Option<Fault> {
    // Nobody may use it: whoever pulls it next makes it anew.
    if record.grants.is_empty() {
        return None;
    }
    let image = &record.image;
    let nothing = Files::default();
    let files = contents.images.get(&image.id).unwrap_or(&nothing);
    let broken = match files.image(&image.format) {
        None => Some("is in the catalog and not in the directory".to_owned()),
        // 0: an original gateway made it, which does not say.
        Some(size) if image.size > 0 && size != image.size => {
            Some(format!("has {size} bytes and had {} when it was published", image.size))
        }
        Some(_) => None,
    };
    if let Some(why) = broken {
        return Some(Fault::Broken(Box::new(record.clone()), why));
    }
    let wanted = acl::for_meta(grants, scope.gateway_uid).ok()?;
    let why = match files.meta.as_ref() {
        None => "has no .meta, so that nobody can use it".to_owned(),
        Some(text) => match Meta::parse(text) {
            Err(error) => format!("its .meta cannot be read: {error}"),
            Ok(meta) if same_ids(&meta.acl.uids, &wanted.uids) && same_ids(&meta.acl.gids, &wanted.gids) => {
                return None;
            }
            Ok(_) if scope.config.environment.no_acl_in_meta => return None,
            Ok(_) => "its .meta names other users than the catalog".to_owned(),
        },
    };
    Some(Fault::Meta(Box::new(record.clone()), why))
}

fn same_ids(a: &[u32], b: &[u32]) -> bool {
    a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}

/// Settles one thing if that is ordered; the line about it, and whether it is settled.
async fn settle(
    scope: &Scope<'_>,
    orders: &Orders,
    place: &Place<'_>,
    fault: Fault,
    (knows_nothing, is_empty): (bool, bool),
) -> anyhow::Result<(String, bool)> {
    Ok(match fault {
        Fault::Broken(record, why) => {
            let name = format!("image {} of system {}: {why}", record.image.id, record.image.system);
            match orders.fix && !is_empty && take_away(scope, place, &record).await? {
                true => (format!("{name}; taken away, the next pull makes it anew"), true),
                false => (name, false),
            }
        }
        Fault::Meta(record, why) => {
            let name = format!("image {} of system {}: {why}", record.image.id, record.image.system);
            match orders.fix && write_meta(scope, place, &record).await? {
                true => (format!("{name}; written anew"), true),
                false => (name, false),
            }
        }
        Fault::Orphan(id, files) => {
            let name = format!("image {id} in {}: the catalog does not know it", place.directory.display());
            if orders.rebuild {
                return Ok(match rebuild::enter(scope, place, &id, &files).await? {
                    Ok(()) => (format!("{name}; entered"), true),
                    Err(why) => (format!("{name}, and it cannot be entered: {why}"), false),
                });
            }
            if !orders.fix {
                return Ok((name, false));
            }
            if knows_nothing {
                let hint = "nor any other there: if it was lost, --rebuild enters them; nothing is removed";
                return Ok((format!("{name}, {hint}"), false));
            }
            if files
                .changed
                .is_some_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < SETTLED))
            {
                return Ok((format!("{name}, and it is younger than an hour; left alone"), false));
            }
            // A pull may have entered it since.
            if !known(scope, place, &id).await?.is_empty() {
                return Ok((format!("{name}, and it was entered meanwhile; left alone"), false));
            }
            remove(files.paths.clone()).await?;
            (format!("{name}; removed"), true)
        }
    })
}

/// Takes a broken image from everybody: its `.meta` first, as nodes read that.
async fn take_away(scope: &Scope<'_>, place: &Place<'_>, found: &Record) -> anyhow::Result<bool> {
    let Some((_guard, mut record)) = again(scope, found).await? else { return Ok(false) };
    let path = |end: &str| place.directory.join(format!("{}.{end}", record.image.id));
    let size = match tokio::fs::metadata(path(&record.image.format)).await {
        Ok(found) => Some(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("looking at an image failed"),
    };
    // A pull may have made it since, and another system's image may be sound.
    for other in known(scope, place, &record.image.id).await? {
        let is_sound = size.is_some_and(|size| other.image.size == 0 || other.image.size == size);
        if is_sound && !other.grants.is_empty() && other.image.format == record.image.format {
            return Ok(false);
        }
    }
    remove(vec![path("meta"), path(&record.image.format)]).await?;
    record.grants.clear();
    Ok(scope.catalog.store(&record).await?)
}

async fn write_meta(scope: &Scope<'_>, place: &Place<'_>, found: &Record) -> anyhow::Result<bool> {
    let Some((_guard, record)) = again(scope, found).await? else { return Ok(false) };
    let records = known(scope, place, &record.image.id).await?;
    let grants: Vec<Grant> = records.into_iter().flat_map(|record| record.grants).collect();
    let acl = acl::for_meta(&grants, scope.gateway_uid)?;
    let acl = if scope.config.environment.no_acl_in_meta { Default::default() } else { acl };
    let meta = record.image.to_meta(acl);
    let (directory, id, text) = (place.directory.to_owned(), record.image.id, meta.render());
    tokio::task::spawn_blocking(move || publish::publish_meta(&directory, &id, &text)).await??;
    Ok(true)
}

/// What the catalog has of an image now, for all systems of the directory.
async fn known(scope: &Scope<'_>, place: &Place<'_>, id: &str) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for system in &place.systems {
        records.extend(scope.catalog.record(system, id).await?);
    }
    Ok(records)
}

/// The record as it is now, with the image's lock; none if it changed since it was looked at.
async fn again(
    scope: &Scope<'_>,
    found: &Record,
) -> anyhow::Result<Option<(Option<tokio::sync::OwnedMutexGuard<()>>, Record)>> {
    let (system, id) = (&found.image.system, &found.image.id);
    let guard = match scope.puller {
        Some(puller) => match scope.config.platforms.get(system) {
            Some(platform) => Some(puller.hold(platform, id).await),
            None => None,
        },
        None => None,
    };
    let record = scope.catalog.record(system, id).await?;
    Ok(record.filter(|record| record.revision == found.revision).map(|record| (guard, record)))
}

async fn remove(paths: Vec<PathBuf>) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        for path in paths {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {} failed", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await?
}
