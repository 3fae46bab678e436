//! Locks by name, for work that must happen once at a time per digest or per image.
//!
//! They live in this process only, and spare its pulls to ask the catalog, where `Catalog::fly` tells processes apart.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// One lock per name, there as long as somebody uses it; it can hold what the last one learned.
pub(crate) struct Locks<T>(Mutex<Known<T>>);

type Known<T> = HashMap<String, Weak<tokio::sync::Mutex<T>>>;

impl<T> Default for Locks<T> {
    fn default() -> Self {
        Locks(Mutex::new(HashMap::new()))
    }
}

impl<T: Default> Locks<T> {
    /// Waits for the lock of a name.
    pub(crate) async fn lock(&self, name: String) -> OwnedMutexGuard<T> {
        self.of(name).lock_owned().await
    }

    /// Waits for the locks of several names, which all take in the same order.
    pub(crate) async fn lock_all(&self, names: BTreeSet<String>) -> Vec<OwnedMutexGuard<T>> {
        let mut held = Vec::with_capacity(names.len());
        for lock in self.all(names) {
            held.push(lock.lock_owned().await);
        }
        held
    }

    /// The locks of several names, unless somebody has one.
    pub(crate) fn try_lock_all(&self, names: BTreeSet<String>) -> Option<Vec<OwnedMutexGuard<T>>> {
        self.all(names).into_iter().map(|lock| lock.try_lock_owned().ok()).collect()
    }

    fn of(&self, name: String) -> Arc<tokio::sync::Mutex<T>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        there_or_new(&mut locks, name)
    }

    fn all(&self, names: BTreeSet<String>) -> Vec<Arc<tokio::sync::Mutex<T>>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        names.into_iter().map(|name| there_or_new(&mut locks, name)).collect()
    }
}

fn there_or_new<T: Default>(locks: &mut Known<T>, name: String) -> Arc<tokio::sync::Mutex<T>> {
    let held = locks.get(&name).and_then(Weak::upgrade);
    held.unwrap_or_else(|| {
        let lock = Arc::new(tokio::sync::Mutex::new(T::default()));
        locks.insert(name, Arc::downgrade(&lock));
        lock
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn a_name_is_locked_once_and_forgotten_when_nobody_waits() {
        let locks = Arc::new(Locks::<u32>::default());
        let mut first = locks.lock("a".to_owned()).await;
        *first = 7;
        let other = locks.lock("b".to_owned()).await;
        let waiting = {
            let locks = locks.clone();
            tokio::spawn(async move { *locks.lock("a".to_owned()).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert!(
            locks.try_lock_all(all(&["c", "a"])).is_none() && locks.try_lock_all(all(&["c", "d"])).is_some()
        );
        drop(first);
        assert_eq!(waiting.await.unwrap(), 7, "who waited learns what was left");
        drop(other);
        assert_eq!(*locks.lock("a".to_owned()).await, 0);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
