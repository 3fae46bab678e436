//! The schema files of `migrations/`, compiled in, in the order in which they are applied.
//!
//! Listed here rather than found by `sqlx::migrate!`, whose crate would compile both databases' clients, SQLite itself
//! among them, a second time for the compiler's use.

use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A schema file's number, which is remembered in the database, its description and its statements.
type Step = (i64, &'static str, &'static str);

macro_rules! steps {
    ($folder:literal: $($version:literal $description:literal $file:literal,)+) => {
        [$(($version, $description, include_str!(concat!("../../../migrations/", $folder, "/", $file)))),+]
    };
}

const SQLITE_STEPS: [Step; 7] = steps! { "sqlite":
    1 "init" "0001_init.sql",
    2 "leases" "0002_leases.sql",
    5 "workers" "0005_workers.sql",
    10 "life" "0010_life.sql",
    12 "changes" "0012_changes.sql",
    14 "files" "0014_files.sql",
    15 "sources" "0015_sources.sql",
};
const POSTGRES_STEPS: [Step; 7] = steps! { "postgres":
    1 "init" "0001_init.sql",
    5 "workers" "0005_workers.sql",
    10 "life" "0010_life.sql",
    12 "changes" "0012_changes.sql",
    13 "notify" "0013_notify.sql",
    14 "files" "0014_files.sql",
    15 "sources" "0015_sources.sql",
};

/// How a catalog in SQLite comes to be.
pub(in crate::catalog) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(&SQLITE_STEPS));
/// How a catalog in PostgreSQL comes to be.
pub(super) static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(&POSTGRES_STEPS));

fn migrator(steps: &[Step]) -> Migrator {
    let migration = |&(version, description, statements): &Step| {
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            SqlStr::from_static(statements),
            false,
        )
    };
    Migrator::with_migrations(steps.iter().map(migration).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Older gateways compare what they remember of a file with these sums, too.
    #[tokio::test]
    async fn every_schema_file_is_compiled_in_and_is_what_a_database_remembers_of_it() {
        for (folder, compiled) in [("sqlite", &*SQLITE), ("postgres", &*POSTGRES)] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let found = Migrator::new(folder.as_path()).await.unwrap();
            let told = |migrator: &Migrator| {
                let step = |one: &Migration| {
                    (one.version, one.description.to_string(), one.no_tx, one.checksum.to_vec())
                };
                migrator.iter().map(step).collect::<Vec<_>>()
            };
            assert_eq!(told(compiled), told(&found), "{folder:?}");
        }
    }
}
