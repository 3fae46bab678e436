//! The catalog: what is published, what tags mean, who earned access, and which pulls are under way.
//!
//! SQLite in one file with a write-ahead log, owned by exactly one `serve` process. Every operation is
//! one short transaction; uniqueness is the database's business, not check-then-insert. Decisions
//! about access are taken elsewhere, from the rows that are read here.

mod jobs;
mod place;
mod rows;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shifter_core::meta::Acl;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

use self::rows::{Operation, grant, image};
use crate::model::{Grant, Image, Job, TagKey};

/// Why the catalog could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// Another process holds it.
    #[error("the catalog {} is in use by process {holder}; only one gateway may serve it", .path.display())]
    InUse { path: PathBuf, holder: String },
    /// SQLite's write-ahead log needs shared memory, which network file systems do not give.
    #[error(
        "the catalog {} lies on a network file system ({kind}), where SQLite would corrupt it; \
         move it to a local disk and set DatabaseURI accordingly",
        .path.display()
    )]
    Network { path: PathBuf, kind: String },
    /// The directory or the lock file.
    #[error("opening the catalog failed: {operation} {}: {source}", .path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// A schema this version does not know, or a damaged file.
    #[error("bringing the catalog {} to this version's schema failed: {source}", .path.display())]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    /// A statement.
    #[error("{operation} in the catalog failed: {source}")]
    Sql { operation: &'static str, source: sqlx::Error },
    /// A row that this program cannot have written.
    #[error("{operation} in the catalog failed: column {column} holds \"{value}\"")]
    Row { operation: &'static str, column: &'static str, value: String },
}

/// A pull as a request asks for it.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) key: TagKey,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) acl: Acl,
    pub(crate) with_credentials: bool,
}

/// What became of a submitted pull.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new job was made.
    Started(Job),
    /// The caller's earlier one is still going; its access list is now the one just given.
    Going(Job),
    /// The caller's earlier one is over; this is told once (or for a moment, where several clients of the
    /// caller wait for it), the next submission starts anew.
    Over(Job),
    /// Nothing to do: the tag was checked recently enough.
    Fresh,
    /// The gateway has as many unfinished pulls as it accepts, in all or of this caller.
    TooMany,
}

/// An image with what leads to it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) image: Image,
    /// Type and tag with the grants that this tag has for this image.
    pub(crate) tags: Vec<(TagKey, Vec<Grant>)>,
}

/// The open catalog; the lock is held as long as it lives.
#[derive(Debug)]
pub(crate) struct Catalog {
    pool: SqlitePool,
    _lock: File,
}

impl Catalog {
    /// Opens or creates the file and takes its lock.
    pub(crate) async fn open(path: &Path) -> Result<Catalog, CatalogError> {
        let lock = place::lock(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With a write-ahead log a killed process loses nothing; a power failure may lose the last
            // seconds, never more than pulls that are simply done again.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|source| CatalogError::Sql { operation: "opening the file", source })?;
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|source| CatalogError::Migrate { path: path.to_owned(), source })?;
        Ok(Catalog { pool, _lock: lock })
    }

    /// Closes the connections, so that the write-ahead log is folded in.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, CatalogError> {
        // Immediate: a transaction that reads first and writes later would otherwise fail with BUSY.
        self.pool.begin_with("BEGIN IMMEDIATE").await.during("beginning a transaction")
    }

    /// The image a tag means.
    pub(crate) async fn image_of_tag(&self, key: &TagKey) -> Result<Option<Image>, CatalogError> {
        let row = sqlx::query(
            "SELECT images.* FROM tags JOIN images USING (system, id) \
             WHERE tags.system = ? AND tags.itype = ? AND tags.tag = ?",
        )
        .bind(&key.system)
        .bind(&key.itype)
        .bind(&key.tag)
        .fetch_optional(&self.pool)
        .await
        .during("looking up a tag")?;
        row.as_ref().map(image).transpose()
    }

    /// The image made from a digest.
    pub(crate) async fn image_of_digest(
        &self,
        system: &str,
        digest: &str,
    ) -> Result<Option<Image>, CatalogError> {
        let row = sqlx::query(
            "SELECT images.* FROM digests JOIN images USING (system, id) \
             WHERE digests.system = ? AND digests.digest = ?",
        )
        .bind(system)
        .bind(digest)
        .fetch_optional(&self.pool)
        .await
        .during("looking up a digest")?;
        row.as_ref().map(image).transpose()
    }

    /// All grants of an image, whatever tag they were earned under.
    pub(crate) async fn grants(&self, system: &str, id: &str) -> Result<Vec<Grant>, CatalogError> {
        let rows =
            sqlx::query("SELECT * FROM grants WHERE system = ? AND id = ? ORDER BY itype, tag, puller")
                .bind(system)
                .bind(id)
                .fetch_all(&self.pool)
                .await
                .during("reading an image's grants")?;
        rows.iter().map(grant).collect()
    }

    /// An image by its id.
    pub(crate) async fn image(&self, system: &str, id: &str) -> Result<Option<Image>, CatalogError> {
        let row = sqlx::query("SELECT * FROM images WHERE system = ? AND id = ?")
            .bind(system)
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .during("reading an image")?;
        row.as_ref().map(image).transpose()
    }

    /// Every tagged image of a system.
    pub(crate) async fn list(&self, system: &str) -> Result<Vec<Listed>, CatalogError> {
        const DOING: &str = "listing a system's images";
        let mut tx = self.pool.begin().await.during(DOING)?;
        let images = sqlx::query("SELECT * FROM images WHERE system = ? ORDER BY id").bind(system);
        let images = images.fetch_all(&mut *tx).await.during(DOING)?;
        let grants = sqlx::query(
            "SELECT grants.* FROM grants JOIN tags USING (system, itype, tag, id) \
             WHERE grants.system = ? ORDER BY grants.id, itype, tag, puller",
        );
        let grants = grants.bind(system).fetch_all(&mut *tx).await.during(DOING)?;
        let mut by_image: std::collections::HashMap<String, Vec<(TagKey, Vec<Grant>)>> = Default::default();
        for row in &grants {
            let grant = grant(row)?;
            let tags = by_image.entry(grant.id.clone()).or_default();
            match tags.last_mut() {
                Some((key, grants)) if *key == grant.key => grants.push(grant),
                _ => tags.push((grant.key.clone(), vec![grant])),
            }
        }
        let mut listed = Vec::new();
        for row in &images {
            let image = image(row)?;
            if let Some(tags) = by_image.remove(&image.id) {
                listed.push(Listed { image, tags });
            }
        }
        Ok(listed)
    }

    /// Moves an image's expiration.
    pub(crate) async fn set_expiration(&self, system: &str, id: &str, at: f64) -> Result<(), CatalogError> {
        sqlx::query("UPDATE images SET expiration = ? WHERE system = ? AND id = ?")
            .bind(at)
            .bind(system)
            .bind(id)
            .execute(&self.pool)
            .await
            .during("moving an image's expiration")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
