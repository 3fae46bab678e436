//! Between table rows and the program's types: the only place that knows column names for reading.

use shifter_api::wire::{parse_id_list, render_id_list};
use shifter_core::meta::Acl;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use super::CatalogError;
use crate::model::{Grant, Image, Job, JobStatus, TagKey};

const DOING: &str = "reading a row";

/// Names the operation that a database error belongs to.
pub(crate) trait Operation<T> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError>;
}

impl<T> Operation<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError> {
        self.map_err(|source| CatalogError::Sql { operation, source })
    }
}

fn odd(column: &'static str, value: &str) -> CatalogError {
    CatalogError::Row { operation: DOING, column, value: value.chars().take(64).collect() }
}

fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, CatalogError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(column).during(DOING)
}

fn acl(row: &SqliteRow) -> Result<Acl, CatalogError> {
    let list = |column| {
        let text: String = get(row, column)?;
        parse_id_list(&text).map_err(|_| odd(column, &text))
    };
    Ok(Acl { uids: list("uids")?, gids: list("gids")? })
}

fn key(row: &SqliteRow) -> Result<TagKey, CatalogError> {
    Ok(TagKey { system: get(row, "system")?, itype: get(row, "itype")?, tag: get(row, "tag")? })
}

pub(crate) fn image(row: &SqliteRow) -> Result<Image, CatalogError> {
    let config: String = get(row, "config")?;
    let size: i64 = get(row, "size")?;
    Ok(Image {
        system: get(row, "system")?,
        id: get(row, "id")?,
        format: get(row, "format")?,
        config: serde_json::from_str(&config).map_err(|_| odd("config", &config))?,
        size: u64::try_from(size).map_err(|_| odd("size", &size.to_string()))?,
        sha256: get(row, "sha256")?,
        last_pull: get(row, "last_pull")?,
        expiration: get(row, "expiration")?,
    })
}

pub(crate) fn grant(row: &SqliteRow) -> Result<Grant, CatalogError> {
    Ok(Grant {
        key: key(row)?,
        id: get(row, "id")?,
        puller: get(row, "puller")?,
        public: get(row, "public")?,
        acl: acl(row)?,
        checked: get(row, "checked")?,
    })
}

pub(crate) fn job(row: &SqliteRow) -> Result<Job, CatalogError> {
    let status: String = get(row, "status")?;
    Ok(Job {
        number: get(row, "job")?,
        key: key(row)?,
        uid: get(row, "uid")?,
        gid: get(row, "gid")?,
        acl: acl(row)?,
        status: JobStatus::parse(&status).ok_or_else(|| odd("status", &status))?,
        message: get(row, "message")?,
        public: get(row, "public")?,
        with_credentials: get(row, "with_credentials")?,
        created: get(row, "created")?,
        updated: get(row, "updated")?,
    })
}

pub(crate) async fn put_image(tx: &mut Transaction<'_, Sqlite>, image: &Image) -> Result<(), sqlx::Error> {
    let encode = |error: serde_json::Error| sqlx::Error::Encode(error.into());
    let size = i64::try_from(image.size).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "INSERT INTO images (system, id, format, config, size, sha256, last_pull, expiration) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (system, id) DO UPDATE SET \
         format = excluded.format, config = excluded.config, \
         size = excluded.size, sha256 = excluded.sha256, last_pull = excluded.last_pull, \
         expiration = excluded.expiration",
    )
    .bind(&image.system)
    .bind(&image.id)
    .bind(&image.format)
    .bind(serde_json::to_string(&image.config).map_err(encode)?)
    .bind(size)
    .bind(&image.sha256)
    .bind(image.last_pull)
    .bind(image.expiration)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(crate) async fn put_grant(tx: &mut Transaction<'_, Sqlite>, grant: &Grant) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO grants (system, itype, tag, id, puller, public, uids, gids, checked) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&grant.key.system)
    .bind(&grant.key.itype)
    .bind(&grant.key.tag)
    .bind(&grant.id)
    .bind(grant.puller)
    .bind(grant.public)
    .bind(render_id_list(&grant.acl.uids))
    .bind(render_id_list(&grant.acl.gids))
    .bind(grant.checked)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
