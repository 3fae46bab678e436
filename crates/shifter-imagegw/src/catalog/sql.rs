//! The catalog in SQLite and PostgreSQL: one set of statements for both, each step a transaction.
//!
//! They differ in how they are opened, in their schema files (`migrations/`) and in how a transaction
//! begins; that is all in `Flavor` and the two functions that open. Columns are of three types that
//! both have: text, 64-bit integers (0 and 1 for truth) and double precision.

mod file;
mod jobs;
mod life;
mod lookup;
mod memory;
mod rows;
pub(super) mod schema;
mod watch;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Any, AnyPool, ConnectOptions, Connection, Executor, Transaction};
use tokio::task::JoinSet;

use self::memory::Memory;
use self::rows::{Operation, get, grant, image, key};
use self::watch::{Source, VERSION, Watch};
use super::{
    Catalog, CatalogError, Change, Lease, Meaning, Meant, NewJob, Place, Purpose, Record, State, Tag, Turn,
    Use, Version, latest_credible,
};
use crate::model::{Image, Job, TagKey};

/// How long a step waits for a connection, restarts of the server included.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long an idle connection is believed to work.
const LONGEST_TRUST: Duration = Duration::from_secs(1);

/// What differs between the two once they are open.
struct Flavor {
    schema: &'static LazyLock<Migrator>,
    connections: u32,
    /// For each new connection.
    prepare: &'static str,
    /// Begins a transaction that will write.
    begin: &'static str,
    /// Begins one that reads several tables as they were at one moment.
    begin_reading: &'static str,
}

const SQLITE: Flavor = Flavor {
    schema: &schema::SQLITE,
    connections: 4,
    // Full: a power failure must not bring back a grant that was taken away.
    prepare: "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
              PRAGMA busy_timeout = 10000;",
    // Immediate: a transaction that reads first and writes later would otherwise fail with BUSY.
    begin: "BEGIN IMMEDIATE",
    begin_reading: "BEGIN",
};

const POSTGRES: Flavor = Flavor {
    schema: &schema::POSTGRES,
    connections: 10,
    prepare: "SET application_name = 'shifter-imagegw'; SET statement_timeout = '60s';",
    begin: "BEGIN",
    begin_reading: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
};

/// An open catalog.
pub(super) struct Sql {
    pool: AnyPool,
    flavor: &'static Flavor,
    memory: Arc<Memory>,
    source: Source,
    /// What keeps the memory current, once it is wanted.
    watching: Mutex<JoinSet<()>>,
    /// SQLite's, held as long as the catalog is open.
    _lock: Option<File>,
}

/// Opens or creates the file and takes its lock.
pub(super) async fn open_sqlite(path: &Path, purpose: Purpose) -> Result<Option<Sql>, CatalogError> {
    if purpose == Purpose::Look && !path.exists() {
        return Ok(None);
    }
    let lock = file::lock(path)?;
    let place = Place::Sqlite(path.to_owned());
    let uri = format!("sqlite://{}?mode=rwc", file::escape(path));
    let catalog = open(&uri, &place, &SQLITE, Source::Own, Some(lock), purpose).await?;
    if let (Purpose::Use, Some(catalog)) = (purpose, &catalog) {
        // Whoever held the lock before is dead, and its leases with it.
        let all = sqlx::query("UPDATE jobs SET lease_until = 0 WHERE lease_until > 0");
        all.execute(&catalog.pool).await.during("releasing a dead process's pulls")?;
    }
    Ok(catalog)
}

/// Connects to a server. The database exists, its tables are ours to make.
pub(super) async fn open_postgres(
    uri: &str,
    place: &Place,
    purpose: Purpose,
) -> Result<Option<Sql>, CatalogError> {
    let opening =
        |source: sqlx::Error| CatalogError::Open { place: place.to_string(), source: source.into() };
    let options = uri.parse::<PgConnectOptions>().map_err(opening)?.disable_statement_logging();
    let source = Source::Server(Box::new(options.application_name("shifter-imagegw listener")));
    open(uri, place, &POSTGRES, source, None, purpose).await
}

async fn open(
    uri: &str,
    place: &Place,
    flavor: &'static Flavor,
    source: Source,
    lock: Option<File>,
    purpose: Purpose,
) -> Result<Option<Sql>, CatalogError> {
    sqlx::any::install_default_drivers();
    let opening =
        |source: sqlx::Error| CatalogError::Open { place: place.to_string(), source: source.into() };
    // Statements hold names of private images.
    let options = uri.parse::<AnyConnectOptions>().map_err(opening)?.disable_statement_logging();
    let pool = AnyPoolOptions::new()
        .max_connections(flavor.connections)
        .acquire_timeout(LONGEST_WAIT)
        // The pool looks at a connection whenever it takes it back; one that has been idle since may have been cut.
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > LONGEST_TRUST {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(flavor.prepare).await.map(drop) })
        })
        .connect_with(options.clone())
        .await;
    let pool = match pool {
        // That the pool gave up is not why: one attempt alone says it.
        Err(sqlx::Error::PoolTimedOut) => {
            return Err(opening(options.connect().await.err().unwrap_or(sqlx::Error::PoolTimedOut)));
        }
        pool => pool.map_err(opening)?,
    };
    let (memory, watching) = Default::default();
    let catalog = Sql { pool, flavor, memory, source, watching, _lock: lock };
    match purpose {
        Purpose::Use => flavor
            .schema
            .run(&catalog.pool)
            .await
            .map_err(|source| CatalogError::Migrate { place: place.to_string(), source: source.into() })?,
        Purpose::Look => match catalog.schema().await? {
            None => return Ok(None),
            Some(version) if version < flavor.schema.iter().map(|step| step.version).max() => {
                return Err(CatalogError::Older { place: place.to_string() });
            }
            Some(_) => {}
        },
    }
    Ok(Some(catalog))
}

impl Sql {
    /// The version of the schema that is there, if any is.
    async fn schema(&self) -> Result<Option<Option<i64>>, CatalogError> {
        let version = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations");
        match version.fetch_one(&self.pool).await {
            // No such table: SQLSTATE undefined_table, SQLITE_ERROR.
            Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42P01" | "1")) => {
                Ok(None)
            }
            version => version.map(Some).during("reading the schema's version"),
        }
    }

    async fn begin(&self, operation: &'static str) -> Result<Transaction<'static, Any>, CatalogError> {
        self.pool.begin_with(self.flavor.begin).await.during(operation)
    }

    /// The records of a system, or of all; of one id, or of all; of images that are ready, or of others.
    async fn records(
        &self,
        system: Option<&str>,
        id: Option<&str>,
        are_ready: bool,
    ) -> Result<Vec<Record>, CatalogError> {
        const DOING: &str = "reading images";
        let mut tx = self.pool.begin_with(self.flavor.begin_reading).await.during(DOING)?;
        let mut records = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for row in &all!(&mut tx, system, id, "images")? {
            let (image, state) = (image(row)?, rows::state(row)?);
            if (state == State::Ready) != are_ready {
                continue;
            }
            places.insert((image.system.clone(), image.id.clone()), records.len());
            let (revision, pinned) = (get(row, "revision")?, rows::truth(row, "pinned")?);
            records.push(Record { revision, pinned, state, ..Record::new(image) });
        }
        let digests = all!(&mut tx, system, id, "digests")?;
        let tags = all!(&mut tx, system, id, "tags")?;
        let grants = all!(&mut tx, system, id, "grants")?;
        tx.commit().await.during(DOING)?;
        // Others belong to images in another state.
        let place = |row: &AnyRow| -> Result<Option<usize>, CatalogError> {
            Ok(places.get(&(get(row, "system")?, get(row, "id")?)).copied())
        };
        for row in &digests {
            if let Some(place) = place(row)? {
                records[place].digests.push(get(row, "digest")?);
            }
        }
        for row in &tags {
            if let Some(place) = place(row)? {
                let TagKey { itype, tag, .. } = key(row)?;
                records[place].tags.push(Tag { itype, tag, asked: get(row, "asked")? });
            }
        }
        for row in &grants {
            if let Some(place) = place(row)? {
                records[place].grants.push(grant(row)?);
            }
        }
        records.iter_mut().for_each(Record::sort);
        records.sort_by(|a, b| (&a.image.system, &a.image.id).cmp(&(&b.image.system, &b.image.id)));
        Ok(records)
    }
}

/// A table's columns, by name and as one literal: a schema that another version has extended meanwhile changes no
/// answer.
macro_rules! columns {
    ("images") => {
        "images.system, images.id, images.format, images.config, images.size, images.sha256, images.last_pull, \
         images.expiration, images.revision, images.state, images.pinned"
    };
    ("digests") => {
        "system, digest, id"
    };
    ("tags") => {
        "system, itype, tag, id, asked"
    };
    ("grants") => {
        "system, itype, tag, id, puller, public, uids, gids, checked"
    };
}
use columns;

/// All rows of a table, which is a literal, for a system and an id.
macro_rules! all {
    ($tx:expr, $system:expr, $id:expr, $table:tt) => {
        sqlx::query(concat!(
            "SELECT ",
            columns!($table),
            " FROM ",
            $table,
            " WHERE ($1 = '' OR system = $1) AND ($2 = '' OR id = $2)"
        ))
        .bind($system.unwrap_or_default())
        .bind($id.unwrap_or_default())
        .fetch_all(&mut **$tx)
        .await
        .during(concat!("reading ", $table))
    };
}
use all;

#[async_trait]
impl Catalog for Sql {
    async fn lookup(&self, wanted: &TagKey) -> Result<Option<Meaning>, CatalogError> {
        let reading = self.memory.reading();
        let found = lookup::lookup(&self.pool, wanted).await?;
        self.memory.keep(reading, wanted, found.as_ref());
        Ok(found)
    }

    fn remember(&self) {
        if self.memory.begin() {
            let (source, pool, memory) = (self.source.clone(), self.pool.clone(), self.memory.clone());
            let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
            watching.spawn(Watch { source, pool, memory }.run());
        }
    }

    fn recall(&self, key: &TagKey) -> Option<Arc<Meaning>> {
        self.memory.recall(key, Instant::now())
    }

    fn doubt(&self, key: Option<&TagKey>) {
        match key {
            Some(key) => self.memory.forget_tag(key),
            None => self.memory.forget(),
        }
    }

    fn lateness(&self) -> Option<Duration> {
        matches!(self.source, Source::Server(_)).then_some(memory::TRUST)
    }

    async fn list(&self, system: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        let records = self.records(system, None, true).await;
        // Who is told of a change by a list is not told the contrary by a lookup.
        self.memory.forget();
        records
    }

    async fn version(&self) -> Result<Option<Version>, CatalogError> {
        let version = sqlx::query_as(VERSION).fetch_one(&self.pool).await;
        version.map(Some).during("asking whether images changed")
    }

    async fn record(&self, system: &str, id: &str) -> Result<Option<Record>, CatalogError> {
        Ok(self.records(Some(system), Some(id), true).await?.pop())
    }

    async fn image_of_digest(&self, system: &str, digest: &str) -> Result<Option<Image>, CatalogError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!("images"),
            " FROM digests JOIN images \
             ON images.system = digests.system AND images.id = digests.id \
             WHERE digests.system = $1 AND digests.digest = $2 AND images.state = 'READY'",
        ))
        .bind(system)
        .bind(digest)
        .fetch_optional(&self.pool)
        .await
        .during("looking up a digest")?;
        row.as_ref().map(image).transpose()
    }

    async fn store(&self, record: &Record) -> Result<bool, CatalogError> {
        const DOING: &str = "storing an image";
        let _forgetting = self.memory.forgetting();
        let Image { system, id, .. } = &record.image;
        let mut tx = self.begin(DOING).await?;
        let Some(revision) = rows::put_image(&mut tx, record).await? else { return Ok(false) };
        if record.revision == 0 && revision > 1 {
            life::forget_tags(&mut tx, system, id).await?;
        }
        for digest in &record.digests {
            sqlx::query(
                "INSERT INTO digests (system, digest, id) VALUES ($1, $2, $3) \
                 ON CONFLICT (system, digest) DO UPDATE SET id = excluded.id",
            )
            .bind(system)
            .bind(digest)
            .bind(id)
            .execute(&mut *tx)
            .await
            .during(DOING)?;
        }
        for Tag { itype, tag, asked } in &record.tags {
            let moved = sqlx::query(
                "INSERT INTO tags (system, itype, tag, id, asked) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (system, itype, tag) DO UPDATE SET id = excluded.id, asked = excluded.asked \
                 WHERE excluded.asked > tags.asked OR (excluded.asked = tags.asked AND excluded.id >= tags.id) \
                 OR (tags.asked > $6 AND excluded.asked <= $6)",
            )
            .bind(system)
            .bind(itype)
            .bind(tag)
            .bind(id)
            .bind(*asked)
            .bind(latest_credible())
            .execute(&mut *tx)
            .await
            .during(DOING)?;
            if moved.rows_affected() > 0 {
                life::note_meaning(&mut tx, record, tag, itype, *asked).await?;
            }
        }
        sqlx::query("DELETE FROM grants WHERE system = $1 AND id = $2")
            .bind(system)
            .bind(id)
            .execute(&mut *tx)
            .await
            .during(DOING)?;
        for grant in &record.grants {
            rows::put_grant(&mut tx, grant).await?;
        }
        tx.commit().await.during(DOING)?;
        Ok(true)
    }

    async fn set_expiration(&self, system: &str, id: &str, at: f64) -> Result<(), CatalogError> {
        sqlx::query("UPDATE images SET expiration = $1 WHERE system = $2 AND id = $3 AND state = 'READY'")
            .bind(at)
            .bind(system)
            .bind(id)
            .execute(&self.pool)
            .await
            .during("moving an image's expiration")?;
        Ok(())
    }

    async fn retired(&self, system: Option<&str>, id: Option<&str>) -> Result<Vec<Record>, CatalogError> {
        self.records(system, id, false).await
    }

    async fn turn(&self, record: &Record, turn: &Turn) -> Result<bool, CatalogError> {
        let _forgetting = self.memory.forgetting();
        life::turn(&self.pool, record, turn).await
    }

    async fn forget(&self, record: &Record) -> Result<(), CatalogError> {
        const DOING: &str = "forgetting an expired image";
        let _forgetting = self.memory.forgetting();
        let mut tx = self.begin(DOING).await?;
        if life::is_unchanged(&mut tx, record).await? {
            life::forget(&mut tx, record).await?;
            tx.commit().await.during(DOING)?;
        }
        Ok(())
    }

    async fn history(&self, key: &TagKey) -> Result<Vec<(String, f64)>, CatalogError> {
        life::history(&self.pool, key).await
    }

    async fn all_meanings(&self) -> Result<Vec<Meant>, CatalogError> {
        life::all_meanings(&self.pool).await
    }

    async fn add_meanings(&self, meanings: &[Meant]) -> Result<(), CatalogError> {
        const DOING: &str = "adding what tags meant";
        let mut tx = self.begin(DOING).await?;
        for meant in meanings {
            life::add_meaning(&mut tx, meant).await?;
        }
        tx.commit().await.during(DOING)
    }

    async fn add_uses(&self, uses: &[Use]) -> Result<(), CatalogError> {
        const DOING: &str = "noting lookups";
        let mut tx = self.begin(DOING).await?;
        for one in uses {
            life::add_use(&mut tx, one).await?;
        }
        tx.commit().await.during(DOING)
    }

    async fn uses(&self, system: &str, limit: u32) -> Result<Vec<Use>, CatalogError> {
        life::uses(&self.pool, system, limit).await
    }

    async fn trim_uses(&self, keep: u32) -> Result<(), CatalogError> {
        life::trim_uses(&self.pool, keep).await
    }

    async fn enter_job(&self, new: &NewJob) -> Result<Option<Job>, CatalogError> {
        jobs::enter(&self.pool, new).await
    }

    async fn job(&self, number: i64) -> Result<Option<Job>, CatalogError> {
        jobs::by_number(&self.pool, number).await
    }

    async fn job_of(&self, key: &TagKey, uid: u32) -> Result<Option<Job>, CatalogError> {
        jobs::of_caller(&self.pool, key, uid).await
    }

    async fn unfinished(&self, system: Option<&str>) -> Result<Vec<Job>, CatalogError> {
        jobs::unfinished(&self.pool, system).await
    }

    async fn change_job(&self, number: i64, change: &Change<'_>) -> Result<Option<Job>, CatalogError> {
        jobs::change(&self.pool, number, change).await
    }

    async fn fly(&self, lease: Lease, digest: &str) -> Result<bool, CatalogError> {
        jobs::fly(&self.pool, lease, digest).await
    }

    async fn forget_end(&self, number: i64) -> Result<bool, CatalogError> {
        jobs::forget_end(&self.pool, number).await
    }

    async fn forget_ends_before(&self, before: f64) -> Result<(), CatalogError> {
        jobs::forget_ends_before(&self.pool, before).await
    }

    async fn copy_to(&self, file: &Path) -> Result<(), CatalogError> {
        if self._lock.is_none() {
            return Err(CatalogError::NoFile);
        }
        let name = file.to_str().ok_or_else(|| rows::odd("the copy's name", &file.to_string_lossy()))?;
        let copied = sqlx::query("VACUUM INTO $1").bind(name).execute(&self.pool).await;
        copied.during("copying the catalog").map(drop)
    }

    async fn close(&self) {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        // Folds SQLite's write-ahead log in.
        self.pool.close().await;
    }
}
