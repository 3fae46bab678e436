//! Clients that wait for a pull to move.

use std::time::Instant;

use tokio::sync::watch;

use super::{Jobs, locked};
use crate::progress::Standing;

impl Jobs {
    /// Notes that several clients wait for a job at a time, so that all of them hear of its end.
    pub(crate) fn several(&self, number: i64) {
        locked(&self.polls).several(number, Instant::now());
    }

    /// To be woken at the next stage of a pull of this process, and at its end; none if it does not run here.
    pub(crate) fn watch(&self, number: i64) -> Option<watch::Receiver<Standing>> {
        let running = locked(&self.running);
        let progress = &running.get(&number)?.progress;
        if progress.watchers() > 0 {
            self.several(number);
        }
        Some(progress.watch())
    }
}
