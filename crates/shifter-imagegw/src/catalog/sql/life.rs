//! Images that leave and come back, what tags meant, and lookups, as rows.

use sqlx::any::AnyRow;
use sqlx::{Any, AnyPool, Transaction};

use super::rows::{Operation, get, id, key};
use crate::catalog::life::MOST_HISTORY;
use crate::catalog::{CatalogError, Meant, Record, State, Turn, Use, readable};
use crate::model::TagKey;

/// Later than any time.
const NEVER: f64 = 1e300;

pub(super) async fn turn(pool: &AnyPool, record: &Record, turn: &Turn) -> Result<bool, CatalogError> {
    let done = sqlx::query(
        "UPDATE images SET state = $1, expiration = $2, revision = revision + 1 \
         WHERE system = $3 AND id = $4 AND revision = $5 AND state = $6 AND expiration <= $7",
    )
    .bind(turn.to.as_str())
    .bind(turn.expiration)
    .bind(&record.image.system)
    .bind(&record.image.id)
    .bind(record.revision)
    .bind(record.state.as_str())
    .bind(turn.if_expired_by.unwrap_or(NEVER))
    .execute(pool)
    .await
    .during("changing an image's state")?;
    Ok(done.rows_affected() > 0)
}

/// Whether an expired record stands as it was read; until the transaction ends nobody changes it.
pub(super) async fn is_unchanged(
    tx: &mut Transaction<'_, Any>,
    record: &Record,
) -> Result<bool, CatalogError> {
    // An update that changes nothing takes the row's lock on either database.
    let done = sqlx::query(
        "UPDATE images SET revision = revision WHERE system = $1 AND id = $2 AND revision = $3 AND state = $4",
    )
    .bind(&record.image.system)
    .bind(&record.image.id)
    .bind(record.revision)
    .bind(State::Expired.as_str())
    .execute(&mut **tx)
    .await
    .during("reading an expired image")?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn forget(tx: &mut Transaction<'_, Any>, record: &Record) -> Result<(), CatalogError> {
    for statement in [
        "DELETE FROM grants WHERE system = $1 AND id = $2",
        "DELETE FROM tags WHERE system = $1 AND id = $2",
        "DELETE FROM digests WHERE system = $1 AND id = $2",
        "DELETE FROM images WHERE system = $1 AND id = $2",
    ] {
        sqlx::query(statement)
            .bind(&record.image.system)
            .bind(&record.image.id)
            .execute(&mut **tx)
            .await
            .during("forgetting an expired image")?;
    }
    Ok(())
}

/// Takes an image's tags away.
pub(super) async fn forget_tags(
    tx: &mut Transaction<'_, Any>,
    system: &str,
    id: &str,
) -> Result<(), CatalogError> {
    sqlx::query("DELETE FROM tags WHERE system = $1 AND id = $2")
        .bind(system)
        .bind(id)
        .execute(&mut **tx)
        .await
        .during("forgetting an expired image's tags")?;
    Ok(())
}

/// Notes that a tag means an image from now on, unless it did before.
pub(super) async fn note_meaning(
    tx: &mut Transaction<'_, Any>,
    record: &Record,
    tag: &str,
    itype: &str,
    since: f64,
) -> Result<(), CatalogError> {
    const DOING: &str = "noting what a tag means";
    let done = sqlx::query(
        "INSERT INTO history (system, itype, tag, id, since) SELECT $1, $2, $3, $4, $5 \
         WHERE COALESCE((SELECT id FROM history WHERE system = $1 AND itype = $2 AND tag = $3 \
         ORDER BY since DESC, id DESC LIMIT 1), '') <> $4 ON CONFLICT DO NOTHING",
    )
    .bind(&record.image.system)
    .bind(itype)
    .bind(tag)
    .bind(&record.image.id)
    .bind(since)
    .execute(&mut **tx)
    .await
    .during(DOING)?;
    if done.rows_affected() > 0 {
        sqlx::query(
            "DELETE FROM history WHERE system = $1 AND itype = $2 AND tag = $3 AND since < \
             COALESCE((SELECT since FROM history WHERE system = $1 AND itype = $2 AND tag = $3 \
             ORDER BY since DESC LIMIT 1 OFFSET $4), 0)",
        )
        .bind(&record.image.system)
        .bind(itype)
        .bind(tag)
        .bind(i64::from(MOST_HISTORY) - 1)
        .execute(&mut **tx)
        .await
        .during(DOING)?;
    }
    Ok(())
}

pub(super) async fn history(pool: &AnyPool, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError> {
    const DOING: &str = "reading what a tag meant";
    let rows = sqlx::query(
        "SELECT id, since FROM history WHERE system = $1 AND itype = $2 AND tag = $3 \
         ORDER BY since DESC, id DESC LIMIT $4",
    )
    .bind(&key.system)
    .bind(&key.itype)
    .bind(&key.tag)
    .bind(i64::from(MOST_HISTORY))
    .fetch_all(pool)
    .await
    .during(DOING)?;
    rows.iter().map(|row| Ok((get(row, "id")?, get(row, "since")?))).collect()
}

pub(super) async fn all_meanings(pool: &AnyPool) -> Result<Vec<Meant>, CatalogError> {
    let rows = sqlx::query("SELECT system, itype, tag, id, since FROM history")
        .fetch_all(pool)
        .await
        .during("reading what tags meant")?;
    rows.iter()
        .map(|row| Ok(Meant { key: key(row)?, id: get(row, "id")?, since: get(row, "since")? }))
        .collect()
}

pub(super) async fn add_meaning(tx: &mut Transaction<'_, Any>, meant: &Meant) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO history (system, itype, tag, id, since) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&meant.key.system)
    .bind(&meant.key.itype)
    .bind(&meant.key.tag)
    .bind(&meant.id)
    .bind(meant.since)
    .execute(&mut **tx)
    .await
    .during("adding what tags meant")?;
    Ok(())
}

pub(super) async fn add_use(tx: &mut Transaction<'_, Any>, one: &Use) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO uses (system, itype, tag, id, uid, username, time) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&one.system)
    .bind(&one.itype)
    .bind(&one.tag)
    .bind(&one.id)
    .bind(i64::from(one.uid))
    .bind(&one.user)
    .bind(one.time)
    .execute(&mut **tx)
    .await
    .during("noting lookups")?;
    Ok(())
}

pub(super) async fn uses(pool: &AnyPool, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError> {
    let rows = sqlx::query("SELECT system, itype, tag, id, uid, username, time FROM uses WHERE system = $1 ORDER BY number DESC LIMIT $2")
        .bind(system)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .during("reading lookups")?;
    Ok(rows.iter().rev().filter_map(|row| readable(one_use(row))).collect())
}

fn one_use(row: &AnyRow) -> Result<Use, CatalogError> {
    Ok(Use {
        user: get(row, "username")?,
        uid: id(row, "uid")?,
        system: get(row, "system")?,
        itype: get(row, "itype")?,
        tag: get(row, "tag")?,
        id: get(row, "id")?,
        time: get(row, "time")?,
    })
}

pub(super) async fn trim_uses(pool: &AnyPool, keep: u32) -> Result<(), CatalogError> {
    sqlx::query(
        "DELETE FROM uses WHERE number <= COALESCE((SELECT number FROM uses ORDER BY number DESC \
         LIMIT 1 OFFSET $1), 0)",
    )
    .bind(i64::from(keep))
    .execute(pool)
    .await
    .during("forgetting old lookups")?;
    Ok(())
}
