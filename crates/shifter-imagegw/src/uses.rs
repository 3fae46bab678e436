//! Lookups, noted for administrators where the site wants it (`Metrics`): who looked what up, and when.
//!
//! A lookup only hands its note over; a task writes notes together, once a second. Where notes come faster
//! than the database takes them, some are lost rather than lookups held up. The newest million are kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::accounts::Accounts;
use crate::catalog::{Catalog, Use};
use crate::convert::sentence;

/// Lookups that are remembered.
pub(crate) const KEPT: u32 = 1_000_000;

/// Notes that wait at most, and that are written at once.
const WAITING: usize = 20_000;
const BATCH: usize = 1_000;

/// Time for notes to gather.
const PAUSE: Duration = Duration::from_secs(1);

enum Message {
    Note(Use),
    /// Asks to be told when all notes before it are written.
    Flush(oneshot::Sender<()>),
}

/// Takes notes.
pub(crate) struct Uses {
    /// None where the site wants none, and after the end.
    sender: Mutex<Option<mpsc::Sender<Message>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Uses {
    /// Begins to take notes, if they are wanted.
    pub(crate) fn new(is_wanted: bool, catalog: Arc<dyn Catalog>, accounts: Arc<Accounts>) -> Uses {
        if !is_wanted {
            return Uses { sender: Mutex::default(), task: Mutex::default() };
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let task = tokio::spawn(write(receiver, catalog, accounts));
        Uses { sender: Mutex::new(Some(sender)), task: Mutex::new(Some(task)) }
    }

    fn sender(&self) -> Option<mpsc::Sender<Message>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether notes are taken.
    pub(crate) fn are_wanted(&self) -> bool {
        self.sender().is_some()
    }

    /// Notes a lookup, without the user's name; never waits.
    pub(crate) fn note(&self, one: impl FnOnce() -> Use) {
        if let Some(sender) = self.sender()
            && sender.try_send(Message::Note(one())).is_err()
        {
            tracing::debug!("a lookup is not noted, since too many are waiting to be");
        }
    }

    /// Waits until the notes taken so far are written.
    pub(crate) async fn flush(&self) {
        let Some(sender) = self.sender() else { return };
        let (done, written) = oneshot::channel();
        if sender.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }

    /// Writes what is left, and ends.
    pub(crate) async fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

async fn write(mut receiver: mpsc::Receiver<Message>, catalog: Arc<dyn Catalog>, accounts: Arc<Accounts>) {
    let mut messages = Vec::new();
    while receiver.recv_many(&mut messages, BATCH).await > 0 {
        let end = tokio::time::Instant::now() + PAUSE;
        let is_asked = |message: &Message| matches!(message, Message::Flush(_));
        while messages.len() < BATCH && !messages.iter().any(is_asked) {
            match tokio::time::timeout_at(end, receiver.recv()).await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) | Err(_) => break,
            }
        }
        let (mut notes, mut waiting) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            match message {
                Message::Note(one) => notes.push(one),
                Message::Flush(done) => waiting.push(done),
            }
        }
        for one in &mut notes {
            one.user = accounts.name(one.uid).await.unwrap_or_else(|| one.uid.to_string());
        }
        if !notes.is_empty()
            && let Err(error) = catalog.add_uses(&notes).await
        {
            tracing::warn!(lost = notes.len(), error = sentence(&error), "noting lookups failed");
        }
        for done in waiting {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }
}
