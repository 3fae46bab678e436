//! What a tag means, read. Whether it is kept is told next door.

use sqlx::AnyPool;
use sqlx::any::AnyRow;

use super::columns;
use super::rows::{Operation, get, grant, image};
use crate::catalog::{CatalogError, Meaning};
use crate::model::TagKey;

pub(super) async fn lookup(pool: &AnyPool, wanted: &TagKey) -> Result<Option<Meaning>, CatalogError> {
    const DOING: &str = "looking up a tag";
    // One statement, whatever there is: the time it takes must not tell what is private from what is not there.
    let rows = sqlx::query(concat!(
        "SELECT ",
        columns!("images"),
        ", tags.itype, tags.tag, grants.puller, grants.public, grants.uids, grants.gids, grants.checked \
         FROM tags JOIN images ON images.system = tags.system AND images.id = tags.id \
         LEFT JOIN grants ON grants.system = tags.system AND grants.id = tags.id \
         AND grants.itype = tags.itype AND grants.tag = tags.tag \
         WHERE tags.system = $1 AND tags.itype = $2 AND tags.tag = $3 AND images.state = 'READY' \
         ORDER BY grants.puller",
    ))
    .bind(&wanted.system)
    .bind(&wanted.itype)
    .bind(&wanted.tag)
    .fetch_all(pool)
    .await
    .during(DOING)?;
    meaning(&rows)
}

/// What a lookup's rows say, one for each grant.
fn meaning(rows: &[AnyRow]) -> Result<Option<Meaning>, CatalogError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let image = image(first)?;
    let no_grants = get::<Option<i64>>(first, "puller")?.is_none();
    let grants = if no_grants { Ok(Vec::new()) } else { rows.iter().map(grant).collect() };
    grants.map(|grants| Some((image, grants)))
}
