//! What the API does to running pulls: it waits for them and ends them.

use tokio::sync::watch;

use super::Jobs;
use crate::progress::Standing;

impl Jobs {
    /// To be woken at the next stage of a pull of this process, and at its end; none if it does not run here.
    pub(crate) fn watch(&self, number: i64) -> Option<watch::Receiver<Standing>> {
        let mut running = self.running();
        let running = running.get_mut(&number)?;
        running.several |= running.progress.watchers() > 0;
        Some(running.progress.watch())
    }

    /// Stops the work on a job that is over for the catalog already. In another process it ends with that
    /// process's next heartbeat.
    pub(crate) fn end(&self, number: i64) {
        if let Some(running) = self.running().remove(&number) {
            running.task.abort();
        }
    }
}
