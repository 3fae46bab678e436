//! Reading the configuration again while the gateway serves: checked as at a start, and taken whole or not at all.
//!
//! What a running process cannot change is kept as it was, and the log names the keys: listeners, catalog, directories
//! of the cache, authentication. Running pulls end with what they began with. `serve` and `worker` do the same.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::convert::chain;
use crate::live::Live;
use crate::pull::Puller;
use crate::serve::missing_image_directories;
use crate::{load, prometheus, tls};

/// Sets the log's level; what it says is why it could not.
pub(crate) type SetLevel = Box<dyn Fn(&str) -> anyhow::Result<()> + Send + Sync>;

/// Makes of the file's configuration what this process has at its start, which the command line may have changed, or
/// refuses it as a start would.
pub(crate) type Prepare = Arc<dyn Fn(Config) -> anyhow::Result<Config> + Send + Sync>;

/// What a reload works on.
pub(crate) struct Reloader {
    pub(crate) path: PathBuf,
    pub(crate) prepare: Prepare,
    pub(crate) live: Live,
    pub(crate) tls: Option<tls::Tls>,
    pub(crate) set_level: SetLevel,
}

impl Reloader {
    /// Takes the file as it is now, or says in the log why it does not.
    pub(crate) async fn reload(&self, puller: &Puller) {
        let result = self.take(puller).await;
        prometheus::METRICS.reloaded(result.is_ok());
        match result {
            Ok(()) => tracing::info!(file = %self.path.display(), "the configuration was read again"),
            Err(error) => {
                let why = chain(&*error);
                tracing::error!(why, "the configuration was not taken; the old one stays in force");
            }
        }
    }

    async fn take(&self, puller: &Puller) -> anyhow::Result<()> {
        let (path, prepare) = (self.path.clone(), self.prepare.clone());
        // Checking runs programs and reads files.
        let (mut new, warnings, tls) = tokio::task::spawn_blocking(move || {
            let (new, warnings) = load(&path)?;
            let new = prepare(new)?;
            if let Some(why) = missing_image_directories(&new).next() {
                anyhow::bail!(why);
            }
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
        let open = old.openings();
        for opening in new.openings().iter().filter(|opening| !open.contains(opening)) {
            tracing::warn!("{opening}");
        }
        if let (Some(running), Some(tls)) = (&self.tls, tls) {
            running.replace(tls);
        }
        (self.set_level)(new.log_level.unwrap_or("info"))?;
        self.live.replace(new);
        puller.reconfigured(old);
        Ok(())
    }
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
    keep(old.audit_log != new.audit_log, "AuditLog");
    keep(old.seal_key_file != new.seal_key_file, "SealKeyFile");
    keep(old.doors.logs_json != new.doors.logs_json, "LogFormat");
    new.metrics = old.metrics;
    new.audit_log = old.audit_log.clone();
    new.seal_key_file = old.seal_key_file.clone();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::{Value, json};

    use super::*;

    fn config(key: &str, value: &Value) -> Config {
        let mut document = json!({
            "DefaultImageLocation": "reg", "CacheDirectory": "/c", "ExpandDirectory": "/e", "AdminSocket": "/a.sock",
            "Locations": {"reg": {"remotetype": "dockerv2"}},
            "Platforms": {"a": {"accesstype": "local", "mungeSocketPath": "/m", "local": {"imageDir": "/i"}}},
        });
        document[key] = value.clone();
        if key == "TLSCertificate" {
            document["TLSKey"] = json!("/key");
        }
        Config::parse(&document.to_string()).unwrap().0
    }

    #[test]
    fn what_counts_after_a_restart_only_is_named_and_documented() {
        let document = include_str!("../../../docs/administrator.md");
        let from = document.find("- **Reload**").unwrap();
        let documented = document[from..].split("\n- ").next().unwrap();
        for (key, value) in [
            ("DatabaseURI", json!("postgres://h/db")),
            ("Authentication", json!("mock")),
            ("CacheDirectory", json!("/other")),
            ("CacheSizeLimit", json!(7)),
            ("ExpandDirectory", json!("/other")),
            ("ConversionTimeLimit", json!(77)),
            ("Metrics", json!(true)),
            ("Listen", json!(["127.0.0.1:7"])),
            ("TLSCertificate", json!("/cert")),
            ("AdminSocket", json!("/other.sock")),
            ("AuditLog", json!("/audit")),
            ("SealKeyFile", json!("/seal")),
            ("LogFormat", json!("json")),
        ] {
            let (old, mut new) = (config("LogLevel", &json!("warn")), config(key, &value));
            assert_eq!(keep(&old, &mut new), [key]);
            assert_eq!(keep(&old, &mut new), [""; 0], "{key} is put back");
            let name = if key == "TLSCertificate" { "whether there\n  is TLS" } else { &format!("`{key}`") };
            assert!(documented.contains(name), "{key}: {documented}");
        }
        for (key, value) in
            [("WorkerThreads", json!(9)), ("ImportUsers", json!("all")), ("AutoExpire", json!(true))]
        {
            let old = config("LogLevel", &json!("warn"));
            assert_eq!(keep(&old, &mut config(key, &value)), [""; 0], "{key} changes at once");
        }
    }

    #[test]
    fn a_configuration_that_says_the_same_is_not_kept_beside_the_old_one() {
        let live = Live::new(config("LogLevel", &json!("warn")));
        let old = live.now();
        live.replace(config("LogLevel", &json!("warn")));
        assert!(std::ptr::eq(old, live.now()));
        live.replace(config("LogLevel", &json!("info")));
        assert!(!std::ptr::eq(old, live.now()));
    }
}
