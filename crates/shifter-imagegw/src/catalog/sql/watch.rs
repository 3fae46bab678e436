//! Keeps what is known of lookups current: asks the database twice a second whether anything changed, and listens to
//! PostgreSQL, whose triggers say so at once. Reads no images, and writes nothing.
//!
//! Listening alone would not do: a connection that a firewall dropped is as silent as one on which nothing happens, and
//! a pooler between us and the server swallows `LISTEN`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::AnyPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::{sleep, timeout, timeout_at};

use super::memory::{Memory, TRUST};
use crate::catalog::Version;

/// Time between two questions.
const PERIOD: Duration = Duration::from_millis(500);

/// Longest wait for a connection of our own.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);

/// Time after something failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What the triggers notify (`migrations/postgres/0013_notify.sql`).
const CHANNEL: &str = "shifter_catalog";

/// Asks for the catalog's version.
pub(super) const VERSION: &str = "SELECT COALESCE(MAX(number), 0) AS last, COUNT(*) AS rows FROM changes";

/// Where changes are heard of.
#[derive(Clone)]
pub(super) enum Source {
    /// This process is the only one that writes: its own connections serve.
    Own,
    /// A server, which is listened to.
    Server(Box<PgConnectOptions>),
}

/// Keeps a catalog's memory current.
pub(super) struct Watch {
    pub(super) source: Source,
    pub(super) pool: AnyPool,
    pub(super) memory: Arc<Memory>,
}

impl Watch {
    /// Runs until it is dropped, or the pool is closed.
    pub(super) async fn run(self) {
        let mut is_told = false;
        while !self.pool.is_closed() {
            let Err(error) = match &self.source {
                Source::Own => self.ask(&mut is_told).await,
                Source::Server(options) => self.listen(options, &mut is_told).await,
            };
            self.memory.distrust();
            if !std::mem::replace(&mut is_told, true) {
                let error = error.to_string();
                tracing::warn!(
                    error,
                    "changes of the catalog cannot be watched; every lookup asks its database"
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// A change is told by whoever makes it, in this process. This finds what else may write: a step that was given up
    /// and is done all the same, or an administrator's own tool.
    async fn ask(&self, is_told: &mut bool) -> Result<Infallible, sqlx::Error> {
        loop {
            let asked = Instant::now();
            let version = in_time(TRUST, sqlx::query_as(VERSION).fetch_one(&self.pool)).await?;
            self.heard(asked, version, is_told);
            sleep(PERIOD).await;
        }
    }

    async fn listen(
        &self,
        options: &PgConnectOptions,
        is_told: &mut bool,
    ) -> Result<Infallible, sqlx::Error> {
        // Of one connection, and with it gone: what comes after a loss is another one, for which nothing is known.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LONGEST_CONNECT);
        let pool = pool.connect_with(options.clone()).await?;
        let mut listener = in_time(LONGEST_CONNECT, PgListener::connect_with(&pool)).await?;
        listener.eager_reconnect(false);
        in_time(LONGEST_CONNECT, listener.listen(CHANNEL)).await?;
        loop {
            // It listens already: what is not in this answer will be notified.
            let asked = Instant::now();
            let version = in_time(TRUST, sqlx::query_as(VERSION).fetch_one(&mut listener)).await?;
            self.heard(asked, version, is_told);
            let next = tokio::time::Instant::from_std(asked + PERIOD);
            match timeout_at(next, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {
                    // Many at once are one.
                    while listener.next_buffered().is_some() {}
                    self.memory.forget();
                }
                Ok(Ok(None)) => {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn heard(&self, asked: Instant, version: Version, is_told: &mut bool) {
        self.memory.confirm(asked, version);
        if std::mem::take(is_told) {
            tracing::info!("changes of the catalog are watched again");
        }
    }
}

async fn in_time<T>(
    longest: Duration,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut).into();
    timeout(longest, step).await.map_err(late).flatten()
}
