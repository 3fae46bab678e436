//! The catalog in MongoDB, in the original gateway's database and documents.
//!
//! `images` holds one READY document per image, with the original's fields and everything richer under
//! `shifter`; jobs have a collection of their own, so that an original gateway does not stumble over
//! them. Each step is an operation on one document, so a server on its own suffices. A tag is given to
//! its new image first and taken from the old one after, so it always means something; in between the
//! one that was asked about last counts. An original gateway may serve before or after ours, not at the
//! same time.

mod documents;
mod fields;
mod jobs;
mod life;

use std::time::Duration;

use async_trait::async_trait;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{
    Acknowledgment, ClientOptions, IndexOptions, ReadPreference, SelectionCriteria, UpdateOptions,
    WriteConcern,
};
use mongodb::{Client, Collection, IndexModel};

use self::documents::READY;
pub(super) use self::documents::{Merged, exported, merge};
use super::{
    Catalog, CatalogError, Change, FILE, Lease, Meant, NewJob, Place, Purpose, Record, Turn, Use, order,
};
use crate::model::{Grant, Image, Job, TagKey};

/// The original's collection of images; its unique index has this name.
const IMAGES: &str = "images";
const IMAGE_INDEX: &str = "shifter_image";

/// How long a step waits for a server, restarts included.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Names the operation that a driver's error belongs to.
trait Operation<T> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError>;
}

impl<T> Operation<T> for Result<T, Error> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError> {
        let counted = self.inspect_err(|_| crate::prometheus::METRICS.catalog_failed());
        counted.map_err(|error| match is_passing(&error) {
            true => CatalogError::Unavailable { operation, source: error.into() },
            false => CatalogError::Failed { operation, source: error.into() },
        })
    }
}

/// Whether the server or the way to it failed, and not the operation.
fn is_passing(error: &Error) -> bool {
    // Stepped down, recovering, shutting down, interrupted: the driver specification's codes.
    const CODES: [i32; 9] = [91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];
    match &*error.kind {
        ErrorKind::Io(_) | ErrorKind::ServerSelection { .. } | ErrorKind::ConnectionPoolCleared { .. } => {
            true
        }
        ErrorKind::Command(command) => CODES.contains(&command.code),
        _ => false,
    }
}

/// Whether a unique index refused a document.
fn is_duplicate(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == 11000,
        ErrorKind::Command(command) => command.code == 11000,
        _ => false,
    }
}

/// An open catalog.
pub(super) struct Mongo {
    client: Client,
    images: Collection<Document>,
    jobs: Collection<Document>,
    counters: Collection<Document>,
    /// The original's, too.
    metrics: Collection<Document>,
    history: Collection<Document>,
}

impl Mongo {
    /// Connects, and makes sure that the indexes exist; duplicates of images, which the original makes
    /// in races, are merged before.
    pub(super) async fn open(
        uri: &str,
        database: &str,
        place: &Place,
        purpose: Purpose,
    ) -> Result<Option<Mongo>, CatalogError> {
        let opening = |source: Error| CatalogError::Open { place: place.to_string(), source: source.into() };
        let mut options = ClientOptions::parse(uri).await.map_err(opening)?;
        options.app_name.get_or_insert_with(|| "shifter-imagegw".to_owned());
        options.server_selection_timeout.get_or_insert(LONGEST_WAIT);
        options.connect_timeout.get_or_insert(LONGEST_WAIT);
        // What was answered survives the loss of a server, and what is read is what was written last.
        let durable = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
        options.write_concern = Some(durable);
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let client = Client::with_options(options).map_err(opening)?;
        let database = client.database(database);
        let catalog = Mongo {
            images: database.collection(IMAGES),
            jobs: database.collection("shifter_jobs"),
            counters: database.collection("shifter_counters"),
            metrics: database.collection("metrics"),
            history: database.collection("shifter_history"),
            client,
        };
        let collections = database.list_collection_names().await.map_err(opening)?;
        match purpose {
            Purpose::Look if !collections.iter().any(|name| name == IMAGES) => return Ok(None),
            Purpose::Look => {}
            Purpose::Use => catalog.prepare(place, &collections).await?,
        }
        Ok(Some(catalog))
    }

    async fn prepare(&self, place: &Place, collections: &[String]) -> Result<(), CatalogError> {
        let migrating =
            |source: Error| CatalogError::Migrate { place: place.to_string(), source: source.into() };
        let has_images = collections.iter().any(|name| name == IMAGES);
        let indexes = match has_images {
            true => self.images.list_index_names().await.map_err(migrating)?,
            false => Vec::new(),
        };
        if !indexes.iter().any(|name| name == IMAGE_INDEX) {
            self.merge_duplicates(place).await?;
            // Tombstones of expired images keep their ids, pulls under way have none.
            let unique = IndexOptions::builder()
                .name(IMAGE_INDEX.to_owned())
                .unique(true)
                .partial_filter_expression(doc! { "status": READY })
                .build();
            let index = IndexModel::builder().keys(doc! { "system": 1, "id": 1 }).options(unique).build();
            self.images.create_index(index).await.map_err(migrating)?;
        }
        let plain = IndexModel::builder().keys(doc! { "system": 1, "itype": 1, "tag": 1 }).build();
        self.images.create_index(plain).await.map_err(migrating)?;
        let unique = IndexOptions::builder().unique(true).build();
        let one_per_caller = doc! { "system": 1, "itype": 1, "tag": 1, "uid": 1 };
        let index = IndexModel::builder().keys(one_per_caller).options(unique).build();
        self.jobs.create_index(index).await.map_err(migrating)?;
        let unique = IndexOptions::builder()
            .unique(true)
            .partial_filter_expression(doc! { "flight": { "$gt": "" } })
            .build();
        let index = IndexModel::builder().keys(doc! { "system": 1, "flight": 1 }).options(unique).build();
        self.jobs.create_index(index).await.map_err(migrating)?;
        // Those of files; "!" is what follows a space.
        let unique = IndexOptions::builder()
            .unique(true)
            .partial_filter_expression(doc! { "flight": { "$gte": FILE, "$lt": "file!" } })
            .build();
        let index = IndexModel::builder().keys(doc! { "flight": 1 }).options(unique).build();
        self.jobs.create_index(index).await.map_err(migrating)?;
        for (collection, keys) in life::indexes(self) {
            collection.create_index(IndexModel::builder().keys(keys).build()).await.map_err(migrating)?;
        }
        Ok(())
    }

    /// One READY document per image: the merged one is written before the others are deleted, so a kill
    /// in between leaves what the next start merges again.
    async fn merge_duplicates(&self, place: &Place) -> Result<(), CatalogError> {
        const DOING: &str = "merging an original gateway's duplicates";
        for merged in merge(self.find(doc! {}, DOING).await?)? {
            if merged.duplicates.is_empty() {
                continue;
            }
            let Merged { record, kept, duplicates } = merged;
            let (system, id) = (&record.image.system, &record.image.id);
            tracing::warn!(%place, system, id, documents = duplicates.len() + 1, "merging documents of one image");
            let mut filter = doc! { "_id": kept };
            match record.revision {
                0 => filter.insert("shifter", doc! { "$exists": false }),
                revision => filter.insert("shifter.revision", revision),
            };
            let update = documents::update(&record)?;
            if self.images.update_one(filter, update).await.during(DOING)?.matched_count == 0 {
                // Another process replaces it at this moment: what it has now is merged by the next start.
                tracing::warn!(%place, system, id, "the documents of one image change; not merged yet");
                continue;
            }
            self.images.delete_many(doc! { "_id": { "$in": duplicates } }).await.during(DOING)?;
        }
        Ok(())
    }

    /// READY documents that match, unless the filter says otherwise by `$or`. One of an original gateway that cannot be understood is left out, for
    /// the sake of the others.
    async fn find(
        &self,
        mut filter: Document,
        operation: &'static str,
    ) -> Result<Vec<Document>, CatalogError> {
        if !filter.contains_key("$or") {
            filter.insert("status", READY);
        }
        let cursor = self.images.find(filter).await.during(operation)?;
        let mut found: Vec<Document> = cursor.try_collect().await.during(operation)?;
        found.retain(|document| match documents::record(document) {
            Err(error) if !document.contains_key("shifter") => {
                tracing::warn!(%error, document = ?document.get("_id"), "an image's document makes no sense");
                false
            }
            _ => true,
        });
        Ok(found)
    }

    /// Leaves a tag with the image that was asked about last.
    async fn settle(&self, key: &TagKey) -> Result<(), CatalogError> {
        const DOING: &str = "moving a tag";
        let mut filter = doc! { "system": &key.system, "itype": &key.itype, "tag": &key.tag };
        // A tag also leaves what we retired, or a restore would bring it back.
        filter.insert("$or", vec![doc! { "status": READY }, life::retired()]);
        let found = self.find(filter, DOING).await?;
        let asked = found.iter().map(|found| Ok((documents::asked(found, key)?, documents::id(found)?)));
        let asked = asked.collect::<Result<Vec<(f64, String)>, CatalogError>>()?;
        let Some(last) = asked.iter().max_by(|a, b| order(a, b)) else { return Ok(()) };
        for (document, (at, id)) in found.iter().zip(&asked).filter(|(_, of)| *of != last) {
            let status = document.get_str("status").unwrap_or(READY);
            let mut filter = doc! { "system": &key.system, "id": id, "status": status };
            let is_ours = document.contains_key("shifter");
            filter.insert("shifter", doc! { "$exists": is_ours });
            // Only if the tag has not been given to it anew meanwhile.
            match documents::is_own_tag(document, &key.tag)? {
                true => {
                    filter.insert("shifter.tags", doc! { "$elemMatch": { "tag": &key.tag, "asked": *at } })
                }
                false => filter.insert("shifter.tags.tag", doc! { "$ne": &key.tag }),
            };
            let taken = match is_ours {
                true => doc! {
                    "$pull": { "tag": &key.tag, "shifter.tags": { "tag": &key.tag } },
                    "$inc": { "shifter.revision": 1_i64 },
                },
                false => doc! { "$pull": { "tag": &key.tag } },
            };
            self.images.update_one(filter, taken).await.during(DOING)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Catalog for Mongo {
    async fn lookup(&self, key: &TagKey) -> Result<Option<(Image, Vec<Grant>)>, CatalogError> {
        let filter = doc! { "system": &key.system, "itype": &key.itype, "tag": &key.tag };
        let found = self.find(filter, "looking up a tag").await?;
        let mut best: Option<((f64, String), &Document)> = None;
        for document in &found {
            let asked = (documents::asked(document, key)?, documents::id(document)?);
            if best.as_ref().is_none_or(|(other, _)| order(other, &asked).is_lt()) {
                best = Some((asked, document));
            }
        }
        let Some((_, document)) = best else { return Ok(None) };
        let mut record = documents::record(document)?;
        record.grants.retain(|grant| grant.key == *key);
        Ok(Some((record.image, record.grants)))
    }

    async fn list(&self, system: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        let filter = system.map(|system| doc! { "system": system }).unwrap_or_default();
        // Merged here, too: a catalog that is only looked at may still have duplicates.
        let merged = merge(self.find(filter, "reading images").await?)?;
        Ok(merged.into_iter().map(|merged| merged.record).collect())
    }

    async fn record(&self, system: &str, id: &str) -> Result<Option<Record>, CatalogError> {
        let found = self.find(doc! { "system": system, "id": id }, "reading an image").await?;
        Ok(merge(found)?.pop().map(|merged| merged.record))
    }

    async fn image_of_digest(&self, system: &str, digest: &str) -> Result<Option<Image>, CatalogError> {
        const DOING: &str = "looking up a digest";
        let found = self.find(doc! { "system": system, "shifter.digests": digest }, DOING).await?;
        let found = match (found.is_empty(), digest.strip_prefix("sha256:")) {
            // The original names an image by the digest of its tag, and knows no other.
            (true, Some(hex)) => {
                let filter = doc! { "system": system, "id": hex, "shifter": { "$exists": false } };
                self.find(filter, DOING).await?
            }
            _ => found,
        };
        found.first().map(|document| documents::record(document).map(|record| record.image)).transpose()
    }

    async fn store(&self, record: &Record) -> Result<bool, CatalogError> {
        const DOING: &str = "storing an image";
        let Image { system, id, .. } = &record.image;
        let mut filter = doc! { "system": system, "id": id, "status": READY };
        match record.revision {
            0 => filter.insert("shifter", doc! { "$exists": false }),
            revision => filter.insert("shifter.revision", revision),
        };
        let mut record = record.clone();
        if record.revision == 0
            && let Some(place) = life::place_of_retired(self, &record.image).await?
        {
            record.revision = place.revision;
            filter = place.filter;
        }
        let insert = UpdateOptions::builder().upsert(record.revision == 0).build();
        let update = documents::update(&record)?;
        match self.images.update_one(filter, update).with_options(insert).await {
            Ok(done) if done.matched_count == 0 && done.upserted_id.is_none() => return Ok(false),
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(false),
            Err(error) => return Err(error).during(DOING),
        }
        for tag in &record.tags {
            let (system, itype, name) = (system.clone(), tag.itype.clone(), tag.tag.clone());
            let key = TagKey { system, itype, tag: name };
            self.settle(&key).await?;
            life::note_meaning(self, &key, id, tag.asked).await?;
        }
        Ok(true)
    }

    async fn set_expiration(&self, system: &str, id: &str, at: f64) -> Result<(), CatalogError> {
        let filter = doc! { "system": system, "id": id, "status": READY };
        let update = doc! { "$set": { "expiration": at } };
        self.images.update_one(filter, update).await.during("moving an image's expiration")?;
        Ok(())
    }

    async fn retired(&self, system: Option<&str>, id: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        life::all_retired(self, system, id).await
    }

    async fn turn(&self, record: &Record, turn: &Turn) -> Result<bool, CatalogError> {
        life::turn(self, record, turn).await
    }

    async fn forget(&self, record: &Record) -> Result<(), CatalogError> {
        life::forget(self, record).await
    }

    async fn history(&self, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError> {
        life::history(self, key).await
    }

    async fn all_meanings(&self) -> Result<Vec<Meant>, CatalogError> {
        life::all_meanings(self).await
    }

    async fn add_meanings(&self, meanings: &[Meant]) -> Result<(), CatalogError> {
        for meant in meanings {
            life::add_meaning(self, meant, "adding what tags meant").await?;
        }
        Ok(())
    }

    async fn add_uses(&self, uses: &[Use]) -> Result<(), CatalogError> {
        life::add_uses(self, uses).await
    }

    async fn uses(&self, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError> {
        life::uses(self, system, limit).await
    }

    async fn trim_uses(&self, keep: u32) -> Result<(), CatalogError> {
        life::trim_uses(self, keep).await
    }

    async fn enter_job(&self, new: &NewJob) -> Result<Option<Job>, CatalogError> {
        jobs::enter(self, new).await
    }

    async fn job(&self, number: i64) -> Result<Option<Job>, CatalogError> {
        jobs::one(self, doc! { "_id": number }).await
    }

    async fn job_of(&self, key: &TagKey, uid: u32) -> Result<Option<Job>, CatalogError> {
        let filter = doc! {
            "system": &key.system, "itype": &key.itype, "tag": &key.tag, "uid": i64::from(uid),
        };
        jobs::one(self, filter).await
    }

    async fn unfinished(&self, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
        jobs::unfinished(self, system).await
    }

    async fn change_job(&self, number: i64, change: &Change<'_>) -> Result<Option<Job>, CatalogError> {
        jobs::change(self, number, change).await
    }

    async fn fly(&self, lease: Lease, digest: &str) -> Result<bool, CatalogError> {
        jobs::fly(self, lease, digest).await
    }

    async fn forget_end(&self, number: i64) -> Result<bool, CatalogError> {
        jobs::forget_end(self, number).await
    }

    async fn forget_ends_before(&self, before: f64) -> Result<(), CatalogError> {
        jobs::forget_ends_before(self, before).await
    }

    async fn close(&self) {
        self.client.clone().shutdown().await;
    }
}
