//! What the catalog says of all of a system's images, kept for lists: read again only when the catalog tells that it has
//! changed since. It is asked that for each list, so no list is older than its request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

use crate::catalog::{Catalog, CatalogError, Record, Version};

/// The records of every system that was asked for.
pub(crate) struct Listed {
    catalog: Arc<dyn Catalog>,
    kept: RwLock<HashMap<String, Kept>>,
    /// Held by who reads: others that find a list out of date wait for it instead of reading it, too.
    reading: Mutex<()>,
}

struct Kept {
    version: Version,
    records: Arc<[Record]>,
}

impl Listed {
    pub(crate) fn new(catalog: Arc<dyn Catalog>) -> Listed {
        Listed { catalog, kept: RwLock::default(), reading: Mutex::default() }
    }

    fn kept(&self, system: &str, version: Version) -> Option<Arc<[Record]>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.get(system).filter(|kept| kept.version == version).map(|kept| kept.records.clone())
    }

    /// All records of a system, by id.
    pub(crate) async fn of(&self, system: &str) -> Result<Arc<[Record]>, CatalogError> {
        let Some(version) = self.catalog.version().await? else {
            return Ok(self.catalog.list(Some(system)).await?.into());
        };
        if let Some(records) = self.kept(system, version) {
            return Ok(records);
        }
        let _reading = self.reading.lock().await;
        // Asked before the records are read: what changes meanwhile is read once more next time.
        let Some(version) = self.catalog.version().await? else {
            return Ok(self.catalog.list(Some(system)).await?.into());
        };
        if let Some(records) = self.kept(system, version) {
            return Ok(records);
        }
        let records: Arc<[Record]> = self.catalog.list(Some(system)).await?.into();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.insert(system.to_owned(), Kept { version, records: records.clone() });
        Ok(records)
    }
}
