//! Jobs as documents of `shifter_jobs`: each function changes one document, or removes some.

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReturnDocument;
use shifter_core::meta::Acl;

use super::fields::Fields;
use super::{Mongo, Operation, is_duplicate};
use crate::catalog::{CatalogError, Change, Lease, NewJob, readable};
use crate::model::{Job, JobStatus, TagKey, now};

const OVER: [&str; 2] = ["READY", "FAILURE"];

pub(super) async fn enter(catalog: &Mongo, new: &NewJob) -> Result<Option<Job>, CatalogError> {
    const DOING: &str = "entering a pull";
    let counted = catalog
        .counters
        .find_one_and_update(doc! { "_id": "jobs" }, doc! { "$inc": { "last": 1_i64 } })
        .upsert(true)
        .return_document(ReturnDocument::After)
        .await
        .during(DOING)?
        .unwrap_or_default();
    let number = Fields(&counted).number("last")?;
    let now = now();
    let job = Job {
        number,
        key: new.key.clone(),
        uid: new.uid,
        gid: new.gid,
        acl: new.acl.clone(),
        status: JobStatus::Init,
        message: String::new(),
        public: false,
        with_credentials: new.with_credentials,
        created: now,
        updated: now,
        fence: 0,
        holder: String::new(),
        lease_until: 0.0,
        sealed: String::new(),
        source: new.source.clone(),
    };
    match catalog.jobs.insert_one(document(&job)).await {
        Ok(_) => Ok(Some(job)),
        Err(error) if is_duplicate(&error) => Ok(None),
        Err(error) => Err(error).during(DOING),
    }
}

pub(super) async fn one(catalog: &Mongo, filter: Document) -> Result<Option<Job>, CatalogError> {
    let found = catalog.jobs.find_one(filter).await.during("reading a pull")?;
    found.as_ref().map(job).transpose()
}

pub(super) async fn unfinished(catalog: &Mongo, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
    const DOING: &str = "reading the queue";
    let mut filter = doc! { "status": { "$nin": OVER } };
    if let Some(system) = system {
        filter.insert("system", system);
    }
    let cursor = catalog.jobs.find(filter).sort(doc! { "_id": 1 }).await.during(DOING)?;
    let found: Vec<Document> = cursor.try_collect().await.during(DOING)?;
    Ok(found.iter().filter_map(|document| readable(job(document))).collect())
}

pub(super) async fn change(
    catalog: &Mongo,
    number: i64,
    change: &Change<'_>,
) -> Result<Option<Job>, CatalogError> {
    let mut filter = doc! { "_id": number, "status": { "$nin": OVER } };
    if let Some(fence) = change.if_fence {
        filter.insert("fence", fence);
    }
    if let Some(at) = change.if_free_at {
        filter.insert("lease_until", doc! { "$lte": at });
    }
    if let Some(acl) = change.if_acl {
        filter.extend(lists(acl));
    }
    let mut set = Document::new();
    if let Some(holder) = change.holder {
        set.insert("holder", holder);
    }
    if let Some(until) = change.lease_until {
        set.insert("lease_until", until);
    }
    if let Some((status, message)) = change.status {
        set.extend(doc! { "status": status.as_str(), "message": message, "updated": now() });
    } else if let Some(note) = change.note {
        set.insert("message", note);
    }
    if let Some(sealed) = change.sealed {
        set.insert("sealed", sealed);
    }
    if let Some(source) = change.source {
        set.insert("source", source);
    }
    if let Some(acl) = change.acl {
        set.extend(lists(acl));
    }
    if change.public {
        set.insert("public", true);
    }
    let is_over = change.status.is_some_and(|(status, _)| status.is_over());
    if is_over {
        set.insert("sealed", "");
    }
    if is_over || change.holder.is_some() || change.lease_until == Some(0.0) {
        set.insert("flight", "");
    }
    let claims = i64::from(change.holder.is_some());
    let update = doc! { "$set": set, "$inc": { "fence": claims } };
    let changed = catalog.jobs.find_one_and_update(filter, update).return_document(ReturnDocument::After);
    changed.await.during("changing a pull")?.as_ref().map(job).transpose()
}

pub(super) async fn fly(catalog: &Mongo, lease: Lease, digest: &str) -> Result<bool, CatalogError> {
    let filter = doc! { "_id": lease.number, "fence": lease.fence, "status": { "$nin": OVER } };
    // The unique indexes decide.
    match catalog.jobs.update_one(filter, doc! { "$set": { "flight": digest } }).await {
        Ok(done) => Ok(done.matched_count > 0),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error).during("beginning to make an image"),
    }
}

pub(super) async fn forget_end(catalog: &Mongo, number: i64) -> Result<bool, CatalogError> {
    let filter = doc! { "_id": number, "status": { "$in": OVER } };
    Ok(catalog.jobs.delete_one(filter).await.during("forgetting a pull")?.deleted_count > 0)
}

pub(super) async fn forget_ends_before(catalog: &Mongo, before: f64) -> Result<(), CatalogError> {
    let filter = doc! { "status": { "$in": OVER }, "updated": { "$lt": before } };
    catalog.jobs.delete_many(filter).await.during("forgetting old pulls")?;
    Ok(())
}

fn lists(acl: &Acl) -> Document {
    let list = |ids: &[u32]| ids.iter().map(|id| Bson::Int64(i64::from(*id))).collect::<Vec<_>>();
    doc! { "uids": list(&acl.uids), "gids": list(&acl.gids) }
}

fn document(job: &Job) -> Document {
    let mut document = doc! {
        "_id": job.number,
        "system": &job.key.system,
        "itype": &job.key.itype,
        "tag": &job.key.tag,
        "uid": i64::from(job.uid),
        "gid": i64::from(job.gid),
        "status": job.status.as_str(),
        "message": &job.message,
        "public": job.public,
        "with_credentials": job.with_credentials,
        "created": job.created,
        "updated": job.updated,
        "fence": job.fence,
        "holder": &job.holder,
        "lease_until": job.lease_until,
        "sealed": &job.sealed,
        "source": &job.source,
        "flight": "",
    };
    document.extend(lists(&job.acl));
    document
}

fn job(document: &Document) -> Result<Job, CatalogError> {
    let fields = Fields(document);
    let status = fields.text("status")?;
    Ok(Job {
        number: fields.number("_id")?,
        key: TagKey {
            system: fields.text("system")?,
            itype: fields.text("itype")?,
            tag: fields.text("tag")?,
        },
        uid: fields.id("uid")?,
        gid: fields.id("gid")?,
        acl: Acl { uids: fields.ids("uids")?, gids: fields.ids("gids")? },
        status: JobStatus::parse(&status).ok_or_else(|| fields.odd("status"))?,
        message: fields.text("message")?,
        public: fields.truth("public")?,
        with_credentials: fields.truth("with_credentials")?,
        created: fields.time("created")?,
        updated: fields.time("updated")?,
        fence: fields.number("fence")?,
        holder: fields.text("holder")?,
        lease_until: fields.time("lease_until")?,
        // Absent in what an older version entered.
        sealed: fields.get("sealed").and_then(Bson::as_str).unwrap_or_default().to_owned(),
        source: fields.get("source").and_then(Bson::as_str).unwrap_or_default().to_owned(),
    })
}
