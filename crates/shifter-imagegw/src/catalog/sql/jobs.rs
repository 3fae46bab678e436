//! Jobs as rows: each function is one statement, so each is atomic on either database.

use shifter_api::wire::render_id_list;
use shifter_core::meta::Acl;
use sqlx::AnyPool;

use super::rows::{Operation, job};
use crate::catalog::leases::Lease;
use crate::catalog::{CatalogError, Change, FILE, NewJob, readable};
use crate::model::{Job, JobStatus, TagKey, now};

/// A job's columns, by name: a schema that another version has extended meanwhile changes no answer.
macro_rules! columns {
    () => {
        "job, system, itype, tag, uid, gid, uids, gids, status, message, public, with_credentials, created, \
         updated, fence, holder, lease_until, sealed, source"
    };
}

pub(super) async fn enter(pool: &AnyPool, new: &NewJob) -> Result<Option<Job>, CatalogError> {
    let row = sqlx::query(concat!(
        "INSERT INTO jobs (system, itype, tag, uid, gid, uids, gids, status, message, with_credentials, \
         created, updated, source) VALUES ($1, $2, $3, $4, $5, $6, $7, 'INIT', '', $8, $9, $9, $10) \
         ON CONFLICT (system, itype, tag, uid) DO NOTHING RETURNING ",
        columns!()
    ))
    .bind(&new.key.system)
    .bind(&new.key.itype)
    .bind(&new.key.tag)
    .bind(i64::from(new.uid))
    .bind(i64::from(new.gid))
    .bind(render_id_list(&new.acl.uids))
    .bind(render_id_list(&new.acl.gids))
    .bind(i64::from(new.with_credentials))
    .bind(now())
    .bind(&new.source)
    .fetch_optional(pool)
    .await
    .during("entering a pull")?;
    row.as_ref().map(job).transpose()
}

pub(super) async fn by_number(pool: &AnyPool, number: i64) -> Result<Option<Job>, CatalogError> {
    let row = sqlx::query(concat!("SELECT ", columns!(), " FROM jobs WHERE job = $1")).bind(number);
    let row = row.fetch_optional(pool).await.during("reading a pull")?;
    row.as_ref().map(job).transpose()
}

pub(super) async fn of_caller(pool: &AnyPool, key: &TagKey, uid: u32) -> Result<Option<Job>, CatalogError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM jobs WHERE system = $1 AND itype = $2 AND tag = $3 AND uid = $4"
    ))
    .bind(&key.system)
    .bind(&key.itype)
    .bind(&key.tag)
    .bind(i64::from(uid))
    .fetch_optional(pool)
    .await
    .during("reading a caller's pull")?;
    row.as_ref().map(job).transpose()
}

pub(super) async fn unfinished(pool: &AnyPool, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM jobs WHERE status NOT IN ('READY', 'FAILURE') AND ($1 = '' OR system = $1) ORDER BY job"
    ))
    .bind(system.unwrap_or_default())
    .fetch_all(pool)
    .await
    .during("reading the queue")?;
    Ok(rows.iter().filter_map(|row| readable(job(row))).collect())
}

pub(super) async fn change(
    pool: &AnyPool,
    number: i64,
    change: &Change<'_>,
) -> Result<Option<Job>, CatalogError> {
    let (status, message) = change.status.unzip();
    let nothing = Acl::default();
    let (acl, if_acl) = (change.acl.unwrap_or(&nothing), change.if_acl.unwrap_or(&nothing));
    // What is absent is an empty text, a negative number or a flag that is 0, and never NULL: a server
    // that is asked with a NULL first would take the statement's types from it.
    let row = sqlx::query(concat!(
        "UPDATE jobs SET \
         fence = CASE WHEN $2 = '' THEN fence ELSE fence + 1 END, \
         holder = CASE WHEN $2 = '' THEN holder ELSE $2 END, \
         lease_until = CASE WHEN $3 < 0 THEN lease_until ELSE $3 END, \
         status = CASE WHEN $4 = '' THEN status ELSE $4 END, \
         message = CASE WHEN $4 <> '' THEN $5 WHEN $16 <> '' THEN $16 ELSE message END, \
         updated = CASE WHEN $4 = '' THEN updated ELSE $6 END, \
         uids = CASE WHEN $7 = 1 THEN $8 ELSE uids END, \
         gids = CASE WHEN $7 = 1 THEN $9 ELSE gids END, \
         public = CASE WHEN $10 = 1 THEN 1 ELSE public END, \
         sealed = CASE WHEN $4 IN ('READY', 'FAILURE') THEN '' WHEN $17 = '' THEN sealed ELSE $17 END, \
         source = CASE WHEN $18 = '' THEN source ELSE $18 END, \
         flight = CASE WHEN $4 IN ('READY', 'FAILURE') OR $2 <> '' OR $3 = 0 THEN '' ELSE flight END \
         WHERE job = $1 AND status NOT IN ('READY', 'FAILURE') \
         AND ($11 < 0 OR fence = $11) AND ($12 < 0 OR lease_until <= $12) \
         AND ($13 = 0 OR (uids = $14 AND gids = $15)) \
         RETURNING ",
        columns!()
    ))
    .bind(number)
    .bind(change.holder.unwrap_or_default())
    .bind(change.lease_until.unwrap_or(-1.0))
    .bind(status.map_or("", JobStatus::as_str))
    .bind(message.unwrap_or_default())
    .bind(now())
    .bind(i64::from(change.acl.is_some()))
    .bind(render_id_list(&acl.uids))
    .bind(render_id_list(&acl.gids))
    .bind(i64::from(change.public))
    .bind(change.if_fence.unwrap_or(-1))
    .bind(change.if_free_at.unwrap_or(-1.0))
    .bind(i64::from(change.if_acl.is_some()))
    .bind(render_id_list(&if_acl.uids))
    .bind(render_id_list(&if_acl.gids))
    .bind(change.note.unwrap_or_default())
    .bind(change.sealed.unwrap_or_default())
    .bind(change.source.unwrap_or_default())
    .fetch_optional(pool)
    .await
    .during("changing a pull")?;
    row.as_ref().map(job).transpose()
}

pub(super) async fn fly(pool: &AnyPool, lease: Lease, digest: &str) -> Result<bool, CatalogError> {
    // The unique indexes decide; looking first spares the server's log most of its complaints.
    let done = sqlx::query(
        "UPDATE jobs SET flight = $3 WHERE job = $1 AND fence = $2 AND status NOT IN ('READY', 'FAILURE') \
         AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE (other.system = jobs.system OR $4 = 1) \
         AND other.flight = $3 AND other.job <> $1)",
    )
    .bind(lease.number)
    .bind(lease.fence)
    .bind(digest)
    .bind(i64::from(digest.starts_with(FILE)))
    .execute(pool)
    .await;
    match done {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        done => Ok(done.during("beginning to make an image")?.rows_affected() > 0),
    }
}

pub(super) async fn forget_end(pool: &AnyPool, number: i64) -> Result<bool, CatalogError> {
    let done = sqlx::query("DELETE FROM jobs WHERE job = $1 AND status IN ('READY', 'FAILURE')")
        .bind(number)
        .execute(pool)
        .await
        .during("forgetting a pull")?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn forget_ends_before(pool: &AnyPool, before: f64) -> Result<(), CatalogError> {
    sqlx::query("DELETE FROM jobs WHERE status IN ('READY', 'FAILURE') AND updated < $1")
        .bind(before)
        .execute(pool)
        .await
        .during("forgetting old pulls")?;
    Ok(())
}
