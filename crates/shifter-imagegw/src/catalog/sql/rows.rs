//! Between table rows and the program's types: the only place that knows columns of images and grants,
//! and how columns are read. A new field is a line in the migration, one in reading, one in writing.

use shifter_api::wire::render_id_list;
use shifter_core::meta::Acl;
use sqlx::any::AnyRow;
use sqlx::error::DatabaseError;
use sqlx::{Any, Row, Transaction};

use crate::catalog::{CatalogError, Record, State};
use crate::model::{Grant, Image, Job, JobStatus, TagKey};

const DOING: &str = "reading a row";

/// Names the operation that a database error belongs to.
pub(super) trait Operation<T> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError>;
}

impl<T> Operation<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, CatalogError> {
        let counted = self.inspect_err(|_| crate::prometheus::METRICS.catalog_failed());
        counted.map_err(|error| match is_passing(&error) {
            true => CatalogError::Unavailable { operation, source: error.into() },
            false => CatalogError::Failed { operation, source: error.into() },
        })
    }
}

/// Whether the server, the way to it or its patience failed, and not the statement.
fn is_passing(error: &sqlx::Error) -> bool {
    // SQLSTATE classes of connections, resources, shutdown and serialization; SQLite's BUSY, LOCKED and FULL, and
    // IOERR_SHMSIZE, which a full disk gives instead for the log's index.
    let is_passing_code = |error: &dyn DatabaseError| {
        error.code().is_some_and(|code| match code.len() {
            // 25006: a standby that is not promoted yet; 57014: a statement that took too long.
            5 => ["08", "53", "57P", "40", "25006", "57014"].iter().any(|class| code.starts_with(class)),
            _ => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 13) || code == 4874),
        })
    };
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => is_passing_code(error.as_ref()),
        _ => false,
    }
}

pub(super) fn odd(column: &'static str, value: &str) -> CatalogError {
    CatalogError::Row { operation: DOING, column, value: value.chars().take(64).collect() }
}

pub(super) fn get<'r, T>(row: &'r AnyRow, column: &'static str) -> Result<T, CatalogError>
where
    T: sqlx::Decode<'r, Any> + sqlx::Type<Any>,
{
    row.try_get(column).during(DOING)
}

pub(super) fn id(row: &AnyRow, column: &'static str) -> Result<u32, CatalogError> {
    let number: i64 = get(row, column)?;
    u32::try_from(number).map_err(|_| odd(column, &number.to_string()))
}

pub(super) fn truth(row: &AnyRow, column: &'static str) -> Result<bool, CatalogError> {
    let number: i64 = get(row, column)?;
    Ok(number != 0)
}

fn acl(row: &AnyRow) -> Result<Acl, CatalogError> {
    let list = |column| {
        let text: String = get(row, column)?;
        // Without the limits of requests: an original gateway knew none.
        let ids = text.split(',').filter(|word| !word.is_empty()).map(str::parse);
        ids.collect::<Result<_, _>>().map_err(|_| odd(column, &text))
    };
    Ok(Acl { uids: list("uids")?, gids: list("gids")? })
}

pub(super) fn key(row: &AnyRow) -> Result<TagKey, CatalogError> {
    Ok(TagKey { system: get(row, "system")?, itype: get(row, "itype")?, tag: get(row, "tag")? })
}

pub(super) fn image(row: &AnyRow) -> Result<Image, CatalogError> {
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

pub(super) fn grant(row: &AnyRow) -> Result<Grant, CatalogError> {
    Ok(Grant {
        key: key(row)?,
        id: get(row, "id")?,
        puller: id(row, "puller")?,
        public: truth(row, "public")?,
        acl: acl(row)?,
        checked: get(row, "checked")?,
    })
}

pub(super) fn job(row: &AnyRow) -> Result<Job, CatalogError> {
    let status: String = get(row, "status")?;
    Ok(Job {
        number: get(row, "job")?,
        key: key(row)?,
        uid: id(row, "uid")?,
        gid: id(row, "gid")?,
        acl: acl(row)?,
        status: JobStatus::parse(&status).ok_or_else(|| odd("status", &status))?,
        message: get(row, "message")?,
        public: truth(row, "public")?,
        with_credentials: truth(row, "with_credentials")?,
        created: get(row, "created")?,
        updated: get(row, "updated")?,
        fence: get(row, "fence")?,
        holder: get(row, "holder")?,
        lease_until: get(row, "lease_until")?,
        sealed: get(row, "sealed")?,
        source: get(row, "source")?,
    })
}

pub(super) fn state(row: &AnyRow) -> Result<State, CatalogError> {
    let text: String = get(row, "state")?;
    State::parse(&text).ok_or_else(|| odd("state", &text))
}

/// Writes an image's row if the record's revision is the stored one, 0 meaning that there is none, or an
/// expired one's; its revision then, none where it was not written.
pub(super) async fn put_image(
    tx: &mut Transaction<'_, Any>,
    record: &Record,
) -> Result<Option<i64>, CatalogError> {
    const DOING: &str = "writing an image";
    let Record { image, revision, .. } = record;
    let size = i64::try_from(image.size).map_err(|_| odd("size", &image.size.to_string()))?;
    let config = serde_json::to_string(&image.config)
        .map_err(|source| CatalogError::Failed { operation: DOING, source: source.into() })?;
    let statement = match revision {
        0 => {
            "INSERT INTO images (system, id, format, config, size, sha256, last_pull, expiration, revision, \
             state, pinned) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9 + 1, $10, $11) \
             ON CONFLICT (system, id) DO UPDATE SET format = $3, config = $4, size = $5, sha256 = $6, \
             last_pull = $7, expiration = $8, revision = images.revision + 1, state = $10, pinned = $11 \
             WHERE images.state = 'EXPIRED' RETURNING revision"
        }
        _ => {
            "UPDATE images SET format = $3, config = $4, size = $5, sha256 = $6, last_pull = $7, \
             expiration = $8, revision = revision + 1, state = $10, pinned = $11 \
             WHERE system = $1 AND id = $2 AND revision = $9 RETURNING revision"
        }
    };
    let written = sqlx::query(statement)
        .bind(&image.system)
        .bind(&image.id)
        .bind(&image.format)
        .bind(config)
        .bind(size)
        .bind(&image.sha256)
        .bind(image.last_pull)
        .bind(image.expiration)
        .bind(*revision)
        .bind(record.state.as_str())
        .bind(i64::from(record.pinned))
        .fetch_optional(&mut **tx)
        .await
        .during(DOING)?;
    written.as_ref().map(|row| get(row, "revision")).transpose()
}

pub(super) async fn put_grant(tx: &mut Transaction<'_, Any>, grant: &Grant) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO grants (system, itype, tag, id, puller, public, uids, gids, checked) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&grant.key.system)
    .bind(&grant.key.itype)
    .bind(&grant.key.tag)
    .bind(&grant.id)
    .bind(i64::from(grant.puller))
    .bind(i64::from(grant.public))
    .bind(render_id_list(&grant.acl.uids))
    .bind(render_id_list(&grant.acl.gids))
    .bind(grant.checked)
    .execute(&mut **tx)
    .await
    .during("writing a grant")?;
    Ok(())
}
