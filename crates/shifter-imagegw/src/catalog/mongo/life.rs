//! Images that leave and come back, what tags meant, and lookups, as documents.
//!
//! An image that leaves keeps its document and gets the original's states; `metrics` is the original's
//! collection, read and written as it does. Tombstones of an original gateway are left alone: they have
//! nothing to come back with.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::options::UpdateOptions;

use super::documents;
use super::fields::Fields;
use super::{Mongo, Operation, is_duplicate, merge};
use crate::catalog::life::MOST_HISTORY;
use crate::catalog::{CatalogError, Meant, Record, State, Turn, Use, readable};
use crate::model::{Image, TagKey};

/// Matches what we retired.
pub(super) fn retired() -> Document {
    let states = [State::Expiring.as_str(), State::Expired.as_str()];
    doc! { "status": { "$in": states.to_vec() }, "shifter": { "$exists": true } }
}

/// What is asked for here, in which order.
pub(super) fn indexes(catalog: &Mongo) -> [(&Collection<Document>, Document); 3] {
    [
        (&catalog.metrics, doc! { "system": 1, "time": -1 }),
        (&catalog.metrics, doc! { "time": -1 }),
        (&catalog.history, doc! { "system": 1, "itype": 1, "tag": 1, "since": -1 }),
    ]
}

pub(super) async fn all_retired(
    catalog: &Mongo,
    system: Option<&str>,
    id: Option<&str>,
) -> Result<Vec<Record>, CatalogError> {
    let mut filter = doc! { "$or": vec![retired()] };
    for (field, value) in [("system", system), ("id", id)] {
        if let Some(value) = value {
            filter.insert(field, value);
        }
    }
    let merged = merge(catalog.find(filter, "reading expired images").await?)?;
    Ok(merged.into_iter().map(|merged| merged.record).collect())
}

/// The document of an expired image, which a new one of the same id is to take.
pub(super) struct Place {
    pub(super) filter: Document,
    pub(super) revision: i64,
}

/// Where an image that nobody finds goes: to what was left of it, if nothing of it is there.
pub(super) async fn place_of_retired(catalog: &Mongo, image: &Image) -> Result<Option<Place>, CatalogError> {
    const DOING: &str = "looking for an expired image";
    let there = doc! { "system": &image.system, "id": &image.id };
    if !catalog.find(there.clone(), DOING).await?.is_empty() {
        return Ok(None);
    }
    let Some(record) = all_retired(catalog, Some(&image.system), Some(&image.id)).await?.pop() else {
        return Ok(None);
    };
    let mut filter = there;
    // Matches nothing while it is expiring.
    filter.extend(doc! { "status": State::Expired.as_str(), "shifter.revision": record.revision });
    Ok(Some(Place { filter, revision: record.revision }))
}

pub(super) async fn turn(catalog: &Mongo, record: &Record, turn: &Turn) -> Result<bool, CatalogError> {
    let mut filter = doc! {
        "system": &record.image.system,
        "id": &record.image.id,
        "status": record.state.as_str(),
        "shifter.revision": record.revision,
    };
    if let Some(at) = turn.if_expired_by {
        // One that has none counts as 0.
        filter.insert("$nor", vec![doc! { "expiration": { "$gt": at } }]);
    }
    let update = doc! {
        "$set": { "status": turn.to.as_str(), "expiration": turn.expiration },
        "$inc": { "shifter.revision": 1_i64 },
    };
    match catalog.images.update_one(filter, update).await {
        Ok(done) => Ok(done.matched_count > 0),
        // Made ready again while an original gateway made it anew.
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error).during("changing an image's state"),
    }
}

pub(super) async fn forget(catalog: &Mongo, record: &Record) -> Result<(), CatalogError> {
    let filter = doc! {
        "system": &record.image.system,
        "id": &record.image.id,
        "status": State::Expired.as_str(),
        "shifter.revision": record.revision,
    };
    catalog.images.delete_one(filter).await.during("forgetting an expired image")?;
    Ok(())
}

fn meanings(key: &TagKey) -> Document {
    doc! { "system": &key.system, "itype": &key.itype, "tag": &key.tag }
}

/// Notes that a tag means an image, if it does, unless that is known. A crash before this loses nothing:
/// the tag's next pull notes it.
pub(super) async fn note_meaning(
    catalog: &Mongo,
    key: &TagKey,
    id: &str,
    since: f64,
) -> Result<(), CatalogError> {
    const DOING: &str = "noting what a tag means";
    let mut filter = meanings(key);
    filter.insert("id", id);
    let means = catalog.find(filter, DOING).await?;
    if means.is_empty() || history(catalog, key).await?.first().is_some_and(|(last, _)| last == id) {
        return Ok(());
    }
    add_meaning(catalog, &Meant { key: key.clone(), id: id.to_owned(), since }, DOING).await?;
    let newest = catalog.history.find(meanings(key)).sort(doc! { "since": -1 });
    let oldest = newest.skip(u64::from(MOST_HISTORY) - 1).limit(1);
    let oldest: Vec<Document> = oldest.await.during(DOING)?.try_collect().await.during(DOING)?;
    if let Some(oldest) = oldest.first() {
        let mut older = meanings(key);
        older.insert("since", doc! { "$lt": Fields(oldest).time("since")? });
        catalog.history.delete_many(older).await.during(DOING)?;
    }
    Ok(())
}

pub(super) async fn history(catalog: &Mongo, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError> {
    const DOING: &str = "reading what a tag meant";
    let newest = catalog.history.find(meanings(key)).sort(doc! { "since": -1, "id": -1 });
    let newest = newest.limit(i64::from(MOST_HISTORY)).await.during(DOING)?;
    let found: Vec<Document> = newest.try_collect().await.during(DOING)?;
    found.iter().map(|entry| Ok((documents::id(entry)?, Fields(entry).time("since")?))).collect()
}

pub(super) async fn all_meanings(catalog: &Mongo) -> Result<Vec<Meant>, CatalogError> {
    const DOING: &str = "reading what tags meant";
    let all = catalog.history.find(doc! {}).await.during(DOING)?;
    let found: Vec<Document> = all.try_collect().await.during(DOING)?;
    let meant = |entry: &Document| {
        let fields = Fields(entry);
        let (system, itype, tag) = (fields.text("system")?, fields.text("itype")?, fields.text("tag")?);
        let key = TagKey { system, itype, tag };
        Ok(Meant { key, id: documents::id(entry)?, since: fields.time("since")? })
    };
    found.iter().map(meant).collect()
}

pub(super) async fn add_meaning(
    catalog: &Mongo,
    meant: &Meant,
    operation: &'static str,
) -> Result<(), CatalogError> {
    let mut entry = meanings(&meant.key);
    entry.extend(doc! { "id": &meant.id, "since": meant.since });
    let insert = UpdateOptions::builder().upsert(true).build();
    let same = doc! { "$set": entry.clone() };
    catalog.history.update_one(entry, same).with_options(insert).await.during(operation)?;
    Ok(())
}

pub(super) async fn add_uses(catalog: &Mongo, uses: &[Use]) -> Result<(), CatalogError> {
    let document = |one: &Use| {
        doc! {
            "user": &one.user, "uid": i64::from(one.uid), "system": &one.system, "type": &one.itype,
            "tag": &one.tag, "id": &one.id, "time": one.time,
        }
    };
    if !uses.is_empty() {
        catalog.metrics.insert_many(uses.iter().map(document)).await.during("noting lookups")?;
    }
    Ok(())
}

pub(super) async fn uses(catalog: &Mongo, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError> {
    const DOING: &str = "reading lookups";
    // The driver takes 0 for no limit.
    if limit == 0 {
        return Ok(Vec::new());
    }
    let newest = catalog.metrics.find(doc! { "system": system }).sort(doc! { "time": -1 });
    let newest = newest.limit(i64::from(limit)).await.during(DOING)?;
    let found: Vec<Document> = newest.try_collect().await.during(DOING)?;
    Ok(found.iter().rev().filter_map(|document| readable(one_use(document))).collect())
}

fn one_use(document: &Document) -> Result<Use, CatalogError> {
    let fields = Fields(document);
    Ok(Use {
        user: fields.text("user")?,
        uid: fields.id("uid")?,
        system: fields.text("system")?,
        itype: fields.text("type")?,
        tag: fields.text("tag")?,
        id: fields.text("id")?,
        time: fields.time("time")?,
    })
}

pub(super) async fn trim_uses(catalog: &Mongo, keep: u32) -> Result<(), CatalogError> {
    const DOING: &str = "forgetting old lookups";
    let newest = catalog.metrics.find(doc! {}).sort(doc! { "time": -1 }).skip(u64::from(keep)).limit(1);
    let found: Vec<Document> = newest.await.during(DOING)?.try_collect().await.during(DOING)?;
    if let Some(time) = found.first().and_then(|document| document.get("time")) {
        let older = doc! { "time": { "$lte": Bson::clone(time) } };
        catalog.metrics.delete_many(older).await.during(DOING)?;
    }
    Ok(())
}
