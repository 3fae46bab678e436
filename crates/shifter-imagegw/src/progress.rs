//! How far a running pull is: a line for impatient people, and stage and bytes for programs. Kept in
//! memory only; whoever waits for the next stage is woken, bytes wake nobody, or each of a thousand
//! waiting clients would be answered for every block that arrives.

use std::sync::{Arc, Mutex, PoisonError};

use shifter_api::wire::LayerProgress;
use tokio::sync::{Notify, watch};

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
    /// Of an image that is being made of layers, oldest first.
    pub(crate) layers: Vec<LayerProgress>,
}

/// What a pull is at, as far as it matters to what may begin beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// What the tag means and whether the caller may have it.
    Asking,
    /// For another pull of the same image, or at what is quickly done.
    Following,
    /// Download and conversion, and waiting for a turn at them.
    Making,
}

/// One pull's standing, with those who wait for its next stage.
#[derive(Debug)]
pub(crate) struct Progress {
    standing: watch::Sender<Standing>,
    /// Apart from the standing, which changes as a whole.
    layers: Mutex<Vec<LayerProgress>>,
    phase: Mutex<Phase>,
    /// Told when the phase changes.
    news: Arc<Notify>,
}

impl Progress {
    pub(crate) fn new(news: Arc<Notify>) -> Progress {
        let (standing, layers) = (watch::Sender::default(), Mutex::default());
        Progress { standing, layers, phase: Mutex::new(Phase::Asking), news }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.news.notify_one();
    }

    pub(crate) fn get(&self) -> Standing {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Standing { layers, ..self.standing.borrow().clone() }
    }

    /// Changes what is said of the layers; wakes nobody.
    pub(crate) fn of_layers(&self, change: impl FnOnce(&mut Vec<LayerProgress>)) {
        change(&mut self.layers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A stage that has no bytes to count.
    pub(crate) fn set(&self, line: impl Into<String>) {
        let line = line.into();
        self.replace(Standing { stage: line.clone(), line, ..Standing::default() });
    }

    /// A stage so many bytes into it.
    pub(crate) fn set_bytes(&self, stage: &str, line: String, done: u64, total: u64) {
        let stage = stage.to_owned();
        self.replace(Standing { line, stage, done, total: Some(total), layers: Vec::new() });
    }

    fn replace(&self, new: Standing) {
        self.standing.send_if_modified(|old| {
            let is_next = old.stage != new.stage;
            *old = new;
            is_next
        });
    }

    /// To be woken at the next stage, and when the pull ends.
    pub(crate) fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// How many wait.
    pub(crate) fn watchers(&self) -> usize {
        self.standing.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn waiting_clients_are_woken_by_stages_and_not_by_bytes() {
        let progress = Progress::new(Arc::default());
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
