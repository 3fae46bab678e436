//! How far a running pull is: a line for impatient people, and stage and bytes for programs. Kept in
//! memory only; whoever waits for the next stage is woken, bytes wake nobody, or each of a thousand
//! waiting clients would be answered for every block that arrives.

use tokio::sync::watch;

/// Where a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// With numbers in it; overwritten as the pull goes on.
    pub(crate) line: String,
    /// Without numbers.
    pub(crate) stage: String,
    /// Bytes of this stage.
    pub(crate) done: u64,
    /// Where it is known.
    pub(crate) total: Option<u64>,
}

/// One pull's standing, with those who wait for its next stage.
#[derive(Debug, Default)]
pub(crate) struct Progress(watch::Sender<Standing>);

impl Progress {
    pub(crate) fn get(&self) -> Standing {
        self.0.borrow().clone()
    }

    /// A stage that has no bytes to count.
    pub(crate) fn set(&self, line: impl Into<String>) {
        let line = line.into();
        self.replace(Standing { stage: line.clone(), line, done: 0, total: None });
    }

    /// A stage so many bytes into it.
    pub(crate) fn set_bytes(&self, stage: &str, line: String, done: u64, total: u64) {
        self.replace(Standing { line, stage: stage.to_owned(), done, total: Some(total) });
    }

    fn replace(&self, new: Standing) {
        self.0.send_if_modified(|old| {
            let is_next = old.stage != new.stage;
            *old = new;
            is_next
        });
    }

    /// To be woken at the next stage, and when the pull ends.
    pub(crate) fn watch(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }

    /// How many wait.
    pub(crate) fn watchers(&self) -> usize {
        self.0.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn waiting_clients_are_woken_by_stages_and_not_by_bytes() {
        let progress = Progress::default();
        progress.set("Getting manifest");
        let mut watched = progress.watch();
        watched.borrow_and_update();
        progress.set_bytes("Pulling layers", "Pulling layers, 0 MB".into(), 0, 9);
        assert!(watched.has_changed().unwrap());
        watched.borrow_and_update();
        progress.set_bytes("Pulling layers", "Pulling layers, 1 MB".into(), 1, 9);
        assert!(!watched.has_changed().unwrap());
        assert_eq!(progress.get().line, "Pulling layers, 1 MB");
        assert_eq!((progress.get().done, progress.get().total, progress.watchers()), (1, Some(9), 1));
        drop(progress);
        assert!(watched.changed().await.is_err(), "the end wakes, too");
    }
}
