//! A copy of an SQLite catalog, whole as of one moment, while it is served. Other databases have tools of their own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::catalog::{Catalog, Place};

/// Writes `file`, which must not exist yet, mode 0600; it has its name only once it is whole and on the disk.
pub(crate) async fn backup(catalog: &dyn Catalog, file: &Path) -> anyhow::Result<()> {
    let (Some(directory), Some(name), true) = (file.parent(), file.file_name(), file.is_absolute()) else {
        bail!("{} is no absolute path of a file", file.display());
    };
    if file.symlink_metadata().is_ok() {
        bail!("{} exists already; backups do not replace files", file.display());
    }
    let part = Part(directory.join(format!(".{}.partial.{:016x}", name.display(), rand::random::<u64>())));
    // Made here, so that it is nobody else's to read from the beginning: an empty file is a new database, too.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0);
    let made = made.with_context(|| format!("creating a file in {} failed", directory.display()))?;
    catalog.copy_to(&part.0).await?;
    let io = || format!("writing {} failed", file.display());
    made.sync_all().with_context(io)?;
    // A link, unlike a rename, replaces nothing.
    std::fs::hard_link(&part.0, file).with_context(io)?;
    drop(part);
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(io)
}

/// What must be done with a catalog that is not a file; none if it is one.
pub(crate) fn other_tool(place: &Place) -> Option<String> {
    let (what, tool) = match place {
        Place::Sqlite(_) => return None,
        Place::Postgres(_) => ("PostgreSQL", "pg_dump"),
        Place::Mongo { .. } => ("MongoDB", "mongodump"),
    };
    Some(format!(
        "the catalog is kept by {what}, {place}: back it up with {tool}, which copies it while it is used; \
         shifter-imagegw migrate --from URI --to sqlite:///FILE makes a copy that needs no server"
    ))
}

/// A file that goes with its value.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
