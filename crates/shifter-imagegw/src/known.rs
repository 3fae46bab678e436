//! What the catalog said of images, kept in memory for as long as the catalog says that nothing changed. It is asked
//! that after each request came, one question for all requests that came meanwhile, so no answer is older than its
//! request. Expirations do not count as changes; what is kept may have an older one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::catalog::{Catalog, CatalogError, Record, Version};
use crate::model::{Grant, Image, TagKey};

/// How long the catalog may take to say that nothing changed.
const MOMENT: Duration = Duration::from_secs(1);

/// Tags kept at most.
const MOST_TAGS: usize = 20_000;

/// An image with the grants that a tag has for it.
pub(crate) type Meaning = Arc<(Image, Vec<Grant>)>;

/// What is kept.
pub(crate) struct Known {
    catalog: Arc<dyn Catalog>,
    rounds: Arc<Rounds>,
    lists: RwLock<HashMap<String, Kept<Arc<[Record]>>>>,
    /// Held by who reads a list: others that find it out of date wait for it instead of reading it, too.
    reading: tokio::sync::Mutex<()>,
    tags: RwLock<Kept<HashMap<TagKey, Meaning>>>,
}

/// Something that is true of one version of the catalog.
struct Kept<T> {
    version: Version,
    what: T,
}

impl Known {
    pub(crate) fn new(catalog: Arc<dyn Catalog>) -> Known {
        let rounds =
            Arc::new(Rounds { catalog: catalog.clone(), next: Mutex::default(), asking: Default::default() });
        // No catalog is ever at this version.
        let tags = RwLock::new(Kept { version: (-1, -1), what: HashMap::new() });
        Known { catalog, rounds, lists: RwLock::default(), reading: Default::default(), tags }
    }

    /// All records of a system, by id.
    pub(crate) async fn list(&self, system: &str) -> Result<Arc<[Record]>, CatalogError> {
        if let Some(version) = self.rounds.version().await
            && let Some(records) = self.kept_list(system, version)
        {
            return Ok(records);
        }
        let _reading = self.reading.lock().await;
        // Asked before the records are read: what changes meanwhile is read once more next time.
        let version = self.rounds.version().await;
        if let Some(records) = version.and_then(|version| self.kept_list(system, version)) {
            return Ok(records);
        }
        let what: Arc<[Record]> = self.catalog.list(Some(system)).await?.into();
        if let Some(version) = version {
            let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
            lists.insert(system.to_owned(), Kept { version, what: what.clone() });
        }
        Ok(what)
    }

    fn kept_list(&self, system: &str, version: Version) -> Option<Arc<[Record]>> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.get(system).filter(|kept| kept.version == version).map(|kept| kept.what.clone())
    }

    /// What a tag means, if that is kept, and what to keep it under if it is not. That nothing is kept says nothing.
    pub(crate) async fn tag(&self, key: &TagKey) -> (Option<Meaning>, Option<Version>) {
        let Some(version) = self.rounds.version().await else { return (None, None) };
        let tags = self.tags.read().unwrap_or_else(PoisonError::into_inner);
        let found = (tags.version == version).then(|| tags.what.get(key).cloned()).flatten();
        (found, Some(version))
    }

    /// Keeps what a tag means, as it was read after `version` was asked.
    pub(crate) fn keep_tag(&self, version: Version, key: &TagKey, meaning: &Meaning) {
        let mut tags = self.tags.write().unwrap_or_else(PoisonError::into_inner);
        if tags.version != version || tags.what.len() >= MOST_TAGS {
            *tags = Kept { version, what: HashMap::new() };
        }
        tags.what.insert(key.clone(), meaning.clone());
    }

    /// Forgets what a tag means, because its image's expiration moved.
    pub(crate) fn forget_tag(&self, key: &TagKey) {
        self.tags.write().unwrap_or_else(PoisonError::into_inner).what.remove(key);
    }
}

/// Asks the catalog for its version: who comes while a question is on its way waits for the next one, and all of those
/// share it.
struct Rounds {
    catalog: Arc<dyn Catalog>,
    next: Mutex<Option<watch::Receiver<Answer>>>,
    asking: tokio::sync::Mutex<()>,
}

/// None until it is there; then what the catalog said, if it could.
type Answer = Option<Option<Version>>;

impl Rounds {
    /// The version at a moment after this was called; none where the catalog has none, or cannot be asked now.
    async fn version(self: &Arc<Self>) -> Option<Version> {
        let mut answer = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            match &*next {
                Some(answer) => answer.clone(),
                None => {
                    let (sender, answer) = watch::channel(None);
                    *next = Some(answer.clone());
                    // A task, because whoever waits may go away.
                    tokio::spawn(self.clone().ask(sender));
                    answer
                }
            }
        };
        // A catalog that does not say even this at once is asked the thing itself: its time limit is for one question.
        let answer = tokio::time::timeout(MOMENT, answer.wait_for(Option::is_some)).await.ok()?;
        answer.ok()?.flatten()
    }

    async fn ask(self: Arc<Self>, answer: watch::Sender<Answer>) {
        let _asking = self.asking.lock().await;
        // Who comes from now on may have seen something newer than what is asked for here.
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let version = self.catalog.version().await.ok().flatten();
        answer.send_replace(Some(version));
    }
}
