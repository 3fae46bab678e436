//! Work that is done to its end once it was begun, whoever stops waiting for it: a client that hangs up, a pull that is
//! cancelled. For the few steps between which files and catalog disagree; long work must stay stoppable. A kill ends it all
//! the same, which the catalog's next writer, or `reconcile`, mends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::RwLock;

/// What is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole(Arc<RwLock<()>>);

impl Whole {
    /// Does it in a task of its own. Nothing is begun any more where a stop is waited for.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let under_way = self.0.clone().read_owned().await;
        let task = tokio::spawn(async move {
            let result = work.await;
            drop(under_way);
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Waits until nothing is under way, for so long at most.
    pub(crate) async fn ended(&self, longest: Duration) {
        if tokio::time::timeout(longest, self.0.write()).await.is_err() {
            tracing::warn!("a change of an image's files did not end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_ends_although_nobody_waits_and_a_stop_waits_for_it() {
        let (whole, is_done) = (Whole::default(), Arc::new(AtomicBool::new(false)));
        let done = is_done.clone();
        let work = whole.run(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            done.store(true, Ordering::Relaxed);
        });
        tokio::time::timeout(Duration::from_millis(50), work).await.unwrap_err();
        whole.ended(Duration::from_millis(10)).await;
        assert!(!is_done.load(Ordering::Relaxed));
        let begun = Instant::now();
        whole.ended(Duration::from_secs(5)).await;
        assert!(is_done.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(2));
        let panicking = tokio::spawn(async move { whole.run(async { panic!("as it would here") }).await });
        assert!(panicking.await.unwrap_err().is_panic());
    }
}
