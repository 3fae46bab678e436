//! What lookups found, kept in this process for as long as nothing can have changed. It knows neither databases nor who
//! may have what: `watch` tells it what it may believe, and the API decides anew for each caller.
//!
//! Two rules make it true. What was read before something was forgotten is not kept after it: each reading begins with
//! the generation of that moment. And what is kept is told only for a second after the database was last asked whether
//! anything changed, so that losing every word of a change costs that second and no more.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::catalog::{Meaning, Version};
use crate::model::TagKey;

/// How long after the database was asked what is kept may be told.
pub(super) const TRUST: Duration = Duration::from_secs(1);

/// How long anything is kept: what is changed behind the triggers' back, in the tables by hand, is seen after that.
const LONGEST_KEPT: Duration = Duration::from_secs(60);

/// Tags kept at most, of a kilobyte or two each; beyond that all are forgotten.
const MOST: usize = 100_000;

#[derive(Default)]
pub(super) struct Memory(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    is_wanted: bool,
    generation: u64,
    kept: HashMap<TagKey, Arc<Meaning>>,
    /// The catalog's, when it was last asked.
    version: Option<Version>,
    /// None until it was asked.
    trusted_until: Option<Instant>,
    /// Since when things are kept.
    since: Option<Instant>,
}

/// When a reading began.
#[derive(Clone, Copy)]
pub(super) struct Reading(u64);

/// Forgets all when it is dropped: however a write ends, what was read before it counts no more.
pub(super) struct Forgetting<'a>(&'a Memory);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

impl Inner {
    fn forget(&mut self) {
        self.generation += 1;
        self.kept.clear();
    }
}

impl Memory {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to keep. False if it already does.
    pub(super) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.write().is_wanted, true)
    }

    /// What is kept of a tag, if it may be told at this moment.
    pub(super) fn recall(&self, key: &TagKey, at: Instant) -> Option<Arc<Meaning>> {
        let inner = self.read();
        let is_trusted = inner.trusted_until.is_some_and(|until| at < until);
        is_trusted.then(|| inner.kept.get(key).cloned()).flatten()
    }

    /// To be called before the database is asked what is to be kept.
    pub(super) fn reading(&self) -> Reading {
        Reading(self.read().generation)
    }

    /// Keeps what was found, unless something was forgotten since the reading began. That nothing was found is not
    /// kept. Where something else is kept, it cannot be told which came first, and all is forgotten.
    pub(super) fn keep(&self, reading: Reading, key: &TagKey, found: Option<&Meaning>) {
        let mut inner = self.write();
        match (inner.kept.get(key), found) {
            (Some(kept), Some(found)) if **kept == *found => {}
            (Some(_), _) => inner.forget(),
            (None, Some(found)) if inner.is_wanted && reading.0 == inner.generation => {
                if inner.kept.len() >= MOST {
                    inner.forget();
                }
                inner.kept.insert(key.clone(), Arc::new(found.clone()));
            }
            (None, _) => {}
        }
    }

    /// Something changed.
    pub(super) fn forget(&self) {
        self.write().forget();
    }

    /// Forgets when the value is dropped.
    pub(super) fn forgetting(&self) -> Forgetting<'_> {
        Forgetting(self)
    }

    /// Forgets one tag, and keeps nothing that is being read.
    pub(super) fn forget_tag(&self, key: &TagKey) {
        let mut inner = self.write();
        inner.generation += 1;
        inner.kept.remove(key);
    }

    /// The catalog was asked at a moment, and was at this version then or later. Whatever is kept was read at that
    /// version, or is forgotten.
    pub(super) fn confirm(&self, asked: Instant, version: Version) {
        let mut inner = self.write();
        let is_old = inner.since.is_none_or(|since| asked.duration_since(since) >= LONGEST_KEPT);
        if inner.version != Some(version) || is_old {
            inner.forget();
            inner.version = Some(version);
            inner.since = Some(asked);
        }
        inner.trusted_until = Some(asked + TRUST);
    }

    /// Changes may go unnoticed from now on.
    pub(super) fn distrust(&self) {
        let mut inner = self.write();
        inner.forget();
        inner.trusted_until = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::catalog::tests::{grant, image, key};

    fn meaning(id: &str) -> Meaning {
        (image(id), vec![grant("a:1", id, 7, true)])
    }

    fn memory(now: Instant) -> Memory {
        let memory = Memory::default();
        assert!(memory.begin() && !memory.begin());
        memory.confirm(now, (1, 1));
        memory
    }

    fn told(memory: &Memory, tag: &str, at: Instant) -> Option<String> {
        memory.recall(&key(tag), at).map(|kept| kept.0.id.clone())
    }

    type Change = fn(&Memory, Instant);

    #[test]
    fn what_was_read_before_a_change_is_not_told_after_it() {
        let now = Instant::now();
        let changes: [(&str, Change); 6] = [
            ("a notification", |memory, _| memory.forget()),
            ("a write of this process, however it ends", |memory, _| drop(memory.forgetting())),
            ("a pull whose end is told", |memory, _| memory.forget_tag(&key("a:1"))),
            ("another version", |memory, now| memory.confirm(now, (2, 1))),
            ("fewer rows of changes", |memory, now| memory.confirm(now, (1, 0))),
            ("a lost connection that comes back", |memory, now| {
                memory.distrust();
                memory.confirm(now, (1, 1));
            }),
        ];
        for (what, change) in changes {
            let memory = memory(now);
            let early = memory.reading();
            memory.keep(early, &key("a:1"), Some(&meaning("aa")));
            assert_eq!(told(&memory, "a:1", now), Some("aa".to_owned()), "{what}");
            change(&memory, now);
            assert_eq!(told(&memory, "a:1", now), None, "{what}");
            memory.keep(early, &key("a:1"), Some(&meaning("aa")));
            assert_eq!(told(&memory, "a:1", now), None, "a reading that began before {what}");
            memory.keep(memory.reading(), &key("a:1"), Some(&meaning("bb")));
            assert_eq!(told(&memory, "a:1", now), Some("bb".to_owned()), "after {what}");
        }
    }

    #[test]
    fn nothing_is_told_a_second_after_the_database_was_last_asked() {
        let now = Instant::now();
        let memory = Memory::default();
        memory.keep(memory.reading(), &key("a:1"), Some(&meaning("aa")));
        memory.confirm(now, (1, 1));
        assert_eq!(told(&memory, "a:1", now), None, "who answers no lookups keeps nothing");
        memory.begin();
        memory.keep(memory.reading(), &key("a:1"), Some(&meaning("aa")));
        assert!(told(&memory, "a:1", now).is_some());
        assert!(told(&memory, "a:1", now + TRUST - Duration::from_millis(1)).is_some());
        assert_eq!(told(&memory, "a:1", now + TRUST), None);
        let later = now + TRUST * 5;
        memory.confirm(later, (1, 1));
        assert!(told(&memory, "a:1", later).is_some(), "nothing had changed meanwhile");
        memory.distrust();
        memory.keep(memory.reading(), &key("a:1"), Some(&meaning("aa")));
        assert_eq!(told(&memory, "a:1", later), None, "nobody says whether it is still true");
    }

    #[test]
    fn nothing_is_told_for_longer_than_a_minute_without_being_read_again() {
        let now = Instant::now();
        let memory = memory(now);
        memory.keep(memory.reading(), &key("a:1"), Some(&meaning("aa")));
        for second in 1..=60 {
            let later = now + Duration::from_secs(second);
            memory.confirm(later, (1, 1));
            assert_eq!(told(&memory, "a:1", later).is_some(), second < 60, "{second} s");
        }
    }

    #[test]
    fn of_two_readings_that_differ_neither_is_told() {
        let now = Instant::now();
        for late in [Some(meaning("aa")), None] {
            let memory = memory(now);
            let (slow, fast) = (memory.reading(), memory.reading());
            memory.keep(fast, &key("a:1"), Some(&meaning("bb")));
            memory.keep(fast, &key("b:1"), Some(&meaning("cc")));
            memory.keep(slow, &key("a:1"), late.as_ref());
            assert_eq!((told(&memory, "a:1", now), told(&memory, "b:1", now)), (None, None));
        }
    }

    #[test]
    fn a_tag_whose_end_was_told_takes_no_other_tag_along() {
        let now = Instant::now();
        let memory = memory(now);
        memory.keep(memory.reading(), &key("a:1"), Some(&meaning("aa")));
        memory.keep(memory.reading(), &key("b:1"), Some(&meaning("bb")));
        memory.forget_tag(&key("a:1"));
        assert_eq!((told(&memory, "a:1", now), told(&memory, "b:1", now)), (None, Some("bb".to_owned())));
    }

    #[test]
    fn more_tags_than_there_is_room_for_are_forgotten() {
        let now = Instant::now();
        let memory = memory(now);
        for number in 0..=MOST {
            memory.keep(memory.reading(), &key(&format!("a:{number}")), Some(&meaning("aa")));
            assert!(memory.read().kept.len() <= MOST);
        }
        assert_eq!(memory.read().kept.len(), 1);
        assert!(told(&memory, &format!("a:{MOST}"), now).is_some());
    }
}
