//! Copies a catalog's images, with all that leads to them, those that may be restored, and what tags meant, into another;
//! any number of times.
//!
//! The source is another database or a file that `mongoexport` wrote, for servers that today's driver
//! refuses. What the target knows better stays: of two versions of a thing the later one counts. Jobs
//! are not copied; their callers ask again. Nor are lookups that were counted. Image files are not touched.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::{Catalog, CatalogError, Meant, Place, Purpose, Record, State, Tag, mongo, open, order};
use crate::acl;
use crate::model::{Image, TagKey, now};

/// Changes of tags that are copied in one step.
const MOST_AT_ONCE: usize = 100;

/// What is copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Place(Place),
    /// Extended JSON, as `mongoexport --collection images` writes.
    Exported(PathBuf),
}

/// What was done, or would be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) new: usize,
    pub(crate) changed: usize,
    pub(crate) unchanged: usize,
    /// Documents of a source that stood for an image that another stood for, too.
    pub(crate) merged: usize,
    /// Expired images that may be restored, and that the target does not know.
    pub(crate) retired: usize,
    /// Changes of tags that the target does not know.
    pub(crate) meanings: usize,
}

/// What there is to copy.
#[derive(Default)]
struct Contents {
    records: Vec<Record>,
    retired: Vec<Record>,
    meanings: Vec<Meant>,
}

impl Contents {
    async fn read(catalog: &dyn Catalog) -> Result<Contents, CatalogError> {
        Ok(Contents {
            records: catalog.list(None).await?,
            retired: catalog.retired(None, None).await?,
            meanings: catalog.all_meanings().await?,
        })
    }
}

/// Copies. With `is_trial` nothing is written anywhere.
pub(crate) async fn migrate(source: &Source, target: &Place, is_trial: bool) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let contents = match source {
        Source::Place(place) if place == target => bail!("{place} is both source and target"),
        Source::Place(place) => match open(place, Purpose::Look).await? {
            None => bail!("there is no catalog at {place}"),
            Some(catalog) => {
                let contents = Contents::read(&*catalog).await;
                catalog.close().await;
                contents?
            }
        },
        Source::Exported(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {} failed", path.display()))?;
            let documents = mongo::exported(&text)
                .with_context(|| format!("{} is not what mongoexport writes", path.display()))?;
            let count = documents.len();
            let merged = mongo::merge(documents)
                .with_context(|| format!("{} is not an export of the collection images", path.display()))?;
            outcome.merged = count - merged.len();
            let records = merged.into_iter().map(|merged| merged.record).collect();
            Contents { records, ..Contents::default() }
        }
    };
    let purpose = if is_trial { Purpose::Look } else { Purpose::Use };
    let catalog = open(target, purpose).await?;
    let known = match &catalog {
        Some(catalog) => Contents::read(&**catalog).await?,
        None => Contents::default(),
    };
    // Nothing of an expired image is in the way of what the source has of it, but what is being removed is.
    for record in known.retired.iter().filter(|record| record.state == State::Expiring) {
        let Image { system, id, .. } = &record.image;
        if contents.records.iter().any(|new| name(new) == name(record)) {
            bail!(
                "image {id} of system {system} is being removed from {target}; run this again when that is done"
            );
        }
    }
    let meanings = unknown(contents.meanings, &known.meanings);
    let retired = restorable(contents.retired, &contents.records, &known);
    (outcome.retired, outcome.meanings) = (retired.len(), meanings.len());
    let steps = plan(contents.records, &known.records, &mut outcome);
    let Some(catalog) = catalog else { return Ok(outcome) };
    if is_trial {
        catalog.close().await;
        return Ok(outcome);
    }
    // First, or storing an image would note that its tags mean it since they were confirmed last.
    for some in meanings.chunks(MOST_AT_ONCE) {
        catalog.add_meanings(some).await.context("copying what tags meant failed")?;
    }
    for record in steps.iter().chain(&retired) {
        let Image { system, id, .. } = &record.image;
        let is_stored = catalog.store(record).await;
        if !is_stored.with_context(|| format!("copying image {id} of system {system} failed"))? {
            bail!("image {id} of system {system} was changed in {target} meanwhile; run this again");
        }
    }
    catalog.close().await;
    Ok(outcome)
}

/// What tags meant and the target does not know.
fn unknown(mut meanings: Vec<Meant>, target: &[Meant]) -> Vec<Meant> {
    fn place(meant: &Meant) -> (&TagKey, &str, u64) {
        (&meant.key, &meant.id, meant.since.to_bits())
    }
    let known: HashSet<_> = target.iter().map(place).collect();
    meanings.retain(|meant| !known.contains(&place(meant)));
    meanings
}

/// The retired records to store: of images that are nowhere else, with those of their tags that mean no image now.
fn restorable(source: Vec<Record>, published: &[Record], target: &Contents) -> Vec<Record> {
    let known: HashSet<_> =
        published.iter().chain(&target.records).chain(&target.retired).map(name).collect();
    let ready = published.iter().chain(&target.records);
    let taken: HashSet<TagKey> =
        ready.flat_map(|record| record.tags.iter().map(|tag| key(record, tag))).collect();
    let mut steps = Vec::new();
    for mut record in source {
        if !known.contains(&name(&record)) {
            let tags = std::mem::take(&mut record.tags);
            record.tags = tags.into_iter().filter(|tag| !taken.contains(&key(&record, tag))).collect();
            steps.push(Record { revision: 0, ..record });
        }
    }
    steps
}

/// The records to store in the target, each on top of what is there.
fn plan(source: Vec<Record>, target: &[Record], outcome: &mut Outcome) -> Vec<Record> {
    let mut meanings: HashMap<TagKey, (f64, String)> = HashMap::new();
    for record in source.iter().chain(target) {
        for tag in &record.tags {
            let meaning = (tag.asked, record.image.id.clone());
            let last = meanings.entry(key(record, tag)).or_insert_with(|| meaning.clone());
            if order(last, &meaning).is_lt() {
                *last = meaning;
            }
        }
    }
    let known: HashMap<(&str, &str), &Record> = target.iter().map(|record| (name(record), record)).collect();
    let mut steps = Vec::new();
    for mut record in source {
        let id = record.image.id.clone();
        // One that is over does not count, and its users' time begins anew: nothing goes because it was moved.
        if record.image.expiration < now() {
            record.image.expiration = 0.0;
        }
        let tags = std::mem::take(&mut record.tags);
        record.tags = tags.into_iter().filter(|tag| meanings[&key(&record, tag)].1 == id).collect();
        match known.get(&name(&record)) {
            None => {
                outcome.new += 1;
                steps.push(Record { revision: 0, ..record });
            }
            Some(known) => match both(known, &record) {
                both if both == **known => outcome.unchanged += 1,
                both => {
                    outcome.changed += 1;
                    steps.push(both);
                }
            },
        }
    }
    steps
}

fn name(record: &Record) -> (&str, &str) {
    (&record.image.system, &record.image.id)
}

fn key(record: &Record, tag: &Tag) -> TagKey {
    TagKey { system: record.image.system.clone(), itype: tag.itype.clone(), tag: tag.tag.clone() }
}

/// What two catalogs know of one image; its place is the first one's.
fn both(known: &Record, source: &Record) -> Record {
    let mut both = known.clone();
    // An image whose size nobody knows was seen by an original gateway only.
    let worth = |of: &Record| (of.image.size > 0, of.image.last_pull);
    if worth(source) > worth(known) {
        both.image = source.image.clone();
    }
    both.image.expiration = known.image.expiration.max(source.image.expiration);
    source.digests.iter().for_each(|digest| both.add_digest(digest.clone()));
    source.tags.iter().for_each(|tag| both.add_tag(tag.clone()));
    both.grants = acl::merged(source.grants.iter().chain(&known.grants));
    both.sort();
    both
}
