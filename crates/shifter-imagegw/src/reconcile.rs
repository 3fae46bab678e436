//! The catalog against the image directories: what one has and the other has not, and what dead writers left.
//!
//! Looking changes nothing. `fix` makes both agree by taking away what is half there, so that the next pull makes it
//! whole; `rebuild` enters what only the directory knows. Image directories of remote systems are looked at by a running
//! gateway only, which has the connections.

mod directory;
mod place;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use shifter_core::meta::Meta;

use self::directory::{Contents, Files};
use self::place::{Place, places};
use crate::acl;
use crate::admin::Answer;
use crate::audit;
use crate::catalog::{Catalog, Record};
use crate::config::Config;
use crate::model::Grant;
use crate::pull::{Held, Puller};

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
    /// Who wants it, for the audit log.
    pub(crate) asker: u32,
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

impl Fault {
    /// The systems and the image that it is about.
    fn names(&self, place: &Place<'_>) -> (String, String) {
        match self {
            Fault::Broken(record, _) | Fault::Meta(record, _) => {
                (record.image.system.clone(), record.image.id.clone())
            }
            Fault::Orphan(id, _) => (place.systems.join(" "), id.clone()),
        }
    }
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
    for place in places(scope.config, orders.system.as_deref(), scope.puller, &mut lines)? {
        let before = records(scope.catalog, &place).await?;
        let contents = match place.read().await {
            Ok(contents) => contents,
            // Other systems' are looked at all the same.
            Err(error) => {
                (found, left) = (found + 1, left + 1);
                lines.push(format!("{place} cannot be looked at: {error:#}"));
                continue;
            }
        };
        let records = Records { before, after: records(scope.catalog, &place).await? };
        let knows_nothing = records.all().next().is_none();
        // As a file system that is not mounted looks: what is taken away then does not come back with it.
        let bare = match contents.bare_host() {
            Some(host) => Some(format!("{place}: {host} holds")),
            None => contents.images.is_empty().then(|| format!("{place} holds")),
        };
        let bare = bare.filter(|_| records.all().any(|record| !record.grants.is_empty()));
        let is_empty = bare.is_some();
        if let Some(bare) = bare {
            lines.push(format!("{bare} no image at all; is its file system mounted? nothing is taken away"));
        }
        for fault in faults(scope, &place, &contents, &records) {
            found += 1;
            let (systems, id) = fault.names(&place);
            let (line, is_solved) = settle(scope, orders, &place, fault, (knows_nothing, is_empty)).await?;
            if is_solved {
                audit::reconciled(scope.asker, &systems, &id, &line);
            }
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
            place.tidy().await?;
        }
    }
    lines.push(match (found, left) {
        (0, _) => "the catalog and the image directories agree".to_owned(),
        (_, 0) => format!("{found} found, all settled"),
        _ => format!("{found} found, {left} left as they are"),
    });
    Ok(Answer { lines, is_well: left == 0 })
}

/// All that the catalog has of a directory: also of systems that are not asked about, whose files are no orphans.
async fn records(catalog: &dyn Catalog, place: &Place<'_>) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for system in &place.sharing {
        records.extend(catalog.list(Some(system)).await?);
    }
    Ok(records)
}

fn faults(scope: &Scope<'_>, place: &Place<'_>, contents: &Contents, records: &Records) -> Vec<Fault> {
    // Systems that share a directory share `.meta`, which names the users of all.
    let mut known: BTreeMap<String, Vec<Grant>> = BTreeMap::new();
    for record in &records.after {
        known.entry(record.image.id.clone()).or_default().extend(record.grants.iter().cloned());
    }
    let ids: BTreeSet<&String> = records.all().map(|record| &record.image.id).collect();
    let orphans = contents.images.iter().filter(|(id, _)| !ids.contains(id));
    let mut faults: Vec<Fault> =
        orphans.map(|(id, files)| Fault::Orphan(id.clone(), files.clone())).collect();
    let of_place = |record: &&Record| place.systems.contains(&record.image.system.as_str());
    for record in records.settled().filter(of_place) {
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
        Some(_) if !files.lacking[0].is_empty() => {
            Some(format!("is not there, or another, on {}", files.lacking[0].join(", ")))
        }
        Some(_) => None,
    };
    if let Some(why) = broken {
        return Some(Fault::Broken(Box::new(record.clone()), why));
    }
    let wanted = acl::for_meta(grants, scope.gateway_uid).ok()?;
    let source = image.config.source.as_deref().unwrap_or_default();
    let why = match files.meta.as_ref() {
        None if let Some(why) = &files.unread => {
            format!("its .meta cannot be read by this account: {why}")
        }
        None => "has no .meta, so that nobody can use it".to_owned(),
        Some(text) => match Meta::parse(text) {
            Err(error) => format!("its .meta cannot be read: {error}"),
            Ok(_) if !files.lacking[1].is_empty() => {
                format!("its .meta is not there, or another, on {}", files.lacking[1].join(", "))
            }
            // Written before that was noted there; a catalog that is rebuilt would take it for a registry's.
            Ok(meta) if meta.rich.as_ref().is_some_and(|rich| rich.source != *source) => {
                "its .meta does not say what file it was made of".to_owned()
            }
            Ok(meta) if same_ids(&meta.acl.uids, &wanted.uids) && same_ids(&meta.acl.gids, &wanted.gids) => {
                return None;
            }
            Ok(meta) if scope.config.environment.no_acl_in_meta => {
                // Written before that was noted there; a catalog that is rebuilt would let everybody in.
                let is_silent = meta.acl.is_public() && !meta.is_acl_left_out;
                (is_silent.then(|| "its .meta does not say that its access list was left out".to_owned()))?
            }
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
                true => (format!("{name}; taken away, {}", way_back(&record)), true),
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
            let name = format!("image {id} in {place}: the catalog does not know it");
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
            place.remove_all(&id, &files).await?;
            (format!("{name}; removed"), true)
        }
    })
}

/// How an image comes back whose file is gone: nobody can pull an imported one.
fn way_back(record: &Record) -> &'static str {
    let is_imported =
        record.image.config.source.is_some() || record.tags.iter().any(|tag| tag.itype == "custom");
    if is_imported { "import its file again" } else { "the next pull makes it anew" }
}

/// Takes a broken image from everybody: its `.meta` first, as nodes read that.
async fn take_away(scope: &Scope<'_>, place: &Place<'_>, found: &Record) -> anyhow::Result<bool> {
    let Some((_guard, mut record)) = again(scope, found).await? else { return Ok(false) };
    // A pull may have made it since, and another system's image may be sound.
    for other in known(scope, place, &record.image.id).await? {
        if !other.grants.is_empty()
            && other.image.format == record.image.format
            && place.has(&other.image).await?
        {
            return Ok(false);
        }
    }
    place.remove(&record.image.id, &record.image.format).await?;
    record.grants.clear();
    Ok(scope.catalog.store(&record).await?)
}

async fn write_meta(scope: &Scope<'_>, place: &Place<'_>, found: &Record) -> anyhow::Result<bool> {
    let Some((_guard, record)) = again(scope, found).await? else { return Ok(false) };
    let records = known(scope, place, &record.image.id).await?;
    let grants: Vec<Grant> = records.into_iter().flat_map(|record| record.grants).collect();
    let acl = acl::for_meta(&grants, scope.gateway_uid)?;
    let meta = scope.config.environment.as_written(record.image.to_meta(acl));
    place.write_meta(&record.image.id, &meta.render()).await?;
    Ok(true)
}

/// What the catalog has of an image now, for all systems of the directory.
async fn known(scope: &Scope<'_>, place: &Place<'_>, id: &str) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    for system in &place.sharing {
        records.extend(scope.catalog.record(system, id).await?);
    }
    Ok(records)
}

/// The record as it is now, with the image's lock; none if it changed since it was looked at.
async fn again(scope: &Scope<'_>, found: &Record) -> anyhow::Result<Option<(Option<Held>, Record)>> {
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
