//! Reading the configuration again while the gateway serves: checked as at a start, and taken whole or not at all.
//!
//! What a running process cannot change is kept as it was, and the log names the keys: listeners, catalog, directories
//! of the cache, authentication. Running pulls end with what they began with.

use std::path::PathBuf;

use crate::config::{Access, Config, Endpoint};
use crate::front::Front;
use crate::live::Live;
use crate::{load, prometheus, serve, tls};

/// Sets the log's level; what it says is why it could not.
pub(crate) type SetLevel = Box<dyn Fn(&str) -> anyhow::Result<()> + Send + Sync>;

/// What a reload works on.
pub(crate) struct Reloader {
    pub(crate) path: PathBuf,
    /// The command line's listeners, which stand in place of the file's; empty where it has none.
    pub(crate) listen: Vec<Endpoint>,
    pub(crate) live: Live,
    pub(crate) tls: Option<tls::Tls>,
    pub(crate) set_level: SetLevel,
}

impl Reloader {
    /// Takes the file as it is now, or says in the log why it does not.
    pub(crate) async fn reload(&self, front: &Front) {
        let result = self.take(front).await;
        prometheus::METRICS.reloaded(result.is_ok());
        match result {
            Ok(()) => tracing::info!(file = %self.path.display(), "the configuration was read again"),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!(why, "the configuration was not taken; the old one stays in force");
            }
        }
    }

    async fn take(&self, front: &Front) -> anyhow::Result<()> {
        let (path, listen) = (self.path.clone(), self.listen.clone());
        // Checking runs programs and reads files.
        let (mut new, warnings, tls) = tokio::task::spawn_blocking(move || {
            let (mut new, warnings) = load(&path)?;
            if !listen.is_empty() {
                new.doors.listen = listen;
            }
            check(&new)?;
            let tls = new.doors.tls.as_ref().map(tls::load).transpose()?;
            anyhow::Ok((new, warnings, tls))
        })
        .await??;
        for warning in warnings {
            tracing::warn!(file = %self.path.display(), "{warning}");
        }
        let old = self.live.now();
        let kept = keep(old, &mut new);
        if !kept.is_empty() {
            let keys = kept.join(", ");
            tracing::warn!(keys, "these keys changed and count after a restart only");
        }
        if let (Some(running), Some(tls)) = (&self.tls, tls) {
            running.replace(tls);
        }
        (self.set_level)(new.log_level.unwrap_or("info"))?;
        self.live.replace(new);
        front.service.api.jobs.puller().reconfigured(old);
        Ok(())
    }
}

/// What a start would refuse.
fn check(new: &Config) -> anyhow::Result<()> {
    serve::check(new)?;
    for (system, platform) in new.platforms.iter().filter(|(_, p)| p.access == Access::Local) {
        let directory = platform.image_dir.display();
        if !platform.image_dir.is_dir() {
            anyhow::bail!("imageDir {directory} of system {system} is not a directory");
        }
    }
    Ok(())
}

/// Puts back what cannot change in a running process; the keys it is set by.
fn keep(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut kept = Vec::new();
    let mut keep = |is_changed: bool, key| {
        if is_changed {
            kept.push(key);
        }
    };
    keep(old.database != new.database, "DatabaseURI");
    keep(old.authentication != new.authentication, "Authentication");
    keep(old.cache_directory != new.cache_directory, "CacheDirectory");
    keep(old.cache_limit != new.cache_limit, "CacheSizeLimit");
    keep(old.expand_directory != new.expand_directory, "ExpandDirectory");
    keep(old.conversion_time != new.conversion_time, "ConversionTimeLimit");
    keep(old.metrics != new.metrics, "Metrics");
    keep(old.doors.listen != new.doors.listen, "Listen");
    keep(old.doors.tls.is_some() != new.doors.tls.is_some(), "TLSCertificate");
    keep(old.doors.admin_socket != new.doors.admin_socket, "AdminSocket");
    keep(old.doors.logs_json != new.doors.logs_json, "LogFormat");
    new.metrics = old.metrics;
    new.database = old.database.clone();
    new.authentication = old.authentication;
    new.cache_directory = old.cache_directory.clone();
    new.cache_limit = old.cache_limit;
    new.expand_directory = old.expand_directory.clone();
    new.conversion_time = old.conversion_time;
    let tls = new.doors.tls.take().filter(|_| old.doors.tls.is_some()).or(old.doors.tls.clone());
    new.doors = old.doors.clone();
    new.doors.tls = tls;
    kept
}
