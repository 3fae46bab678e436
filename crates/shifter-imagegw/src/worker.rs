//! `worker`: pulls for gateways that run elsewhere, on one catalog in PostgreSQL or MongoDB. It listens to nobody: jobs
//! come by the catalog, and so does their end.
//!
//! Any number of these may run, on any hosts that have the image directories mounted. On SIGTERM what is unfinished is
//! given back, so that another one goes on with it at once. SIGHUP reads the configuration again, and systemd is told of it
//! all, as for `serve`. There is no health or metrics of its own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::catalog::{self, Place};
use crate::config::Config;
use crate::convert::Converter;
use crate::jobs::Jobs;
use crate::live::Live;
use crate::notify::Notifier;
use crate::pull::Puller;
use crate::reload::{Prepare, Reloader, SetLevel};
use crate::seal::SealKey;
use crate::serve::{check_making, guard, own_uid, prepare_directories};

/// Threads where neither the command line nor the configuration says a number above 0.
const THREADS: usize = 4;

/// Works for these systems, or for all that are configured, until it is told to stop.
pub(crate) async fn work(
    config: Config,
    path: PathBuf,
    systems: &[String],
    threads: Option<u16>,
    set_level: SetLevel,
) -> anyhow::Result<()> {
    let systems = systems.to_vec();
    let prepare: Prepare = Arc::new(move |config| {
        let config = narrowed(config, &systems, threads)?;
        config.check_servable().context("pulls cannot be worked on with this configuration")?;
        check_making(&config)?;
        Ok(config)
    });
    let config = prepare(config)?;
    let gateway_uid = own_uid()?;
    guard(gateway_uid);
    let seal = config.seal_key_file.as_deref().map(SealKey::read).transpose()?;
    if seal.is_none() {
        tracing::warn!(
            "SealKeyFile is not configured: pulls that need registry credentials are left to others"
        );
    }
    let mut stop_signal = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let catalog = catalog::open_for_use(&config.database).await?;
    prepare_directories(&config)?;
    let (place, config) = (config.database.to_string(), Live::new(config));
    let converter = Converter::find().await?.within(config.conversion_time);
    for gap in converter.gaps().await? {
        tracing::warn!("{gap}");
    }
    let puller = Puller::new(config.clone(), catalog.clone(), converter, gateway_uid)?;
    puller.tell_cache().await?;
    let jobs = Jobs::new(catalog.clone(), Arc::new(puller), seal);
    jobs.recover().await?;
    let systems = config.platforms.keys().cloned().collect::<Vec<_>>().join(", ");
    tracing::info!(database = place, systems, threads = config.worker_threads, "working");
    let reloader = Reloader { path, prepare, live: config, tls: None, set_level };
    let notifier = Notifier::from_environment();
    notifier.ready();
    loop {
        tokio::select! {
            _ = stop_signal.recv() => break tracing::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => break tracing::info!("stopping on SIGINT"),
            _ = hangup.recv() => {
                notifier.reloading();
                reloader.reload(jobs.puller()).await;
                notifier.ready();
            }
            () = notifier.live() => {}
        }
    }
    notifier.stopping();
    jobs.stop().await;
    catalog.close().await;
    Ok(())
}

/// The configuration as far as it is this worker's.
fn narrowed(mut config: Config, systems: &[String], threads: Option<u16>) -> anyhow::Result<Config> {
    if matches!(config.database, Place::Sqlite(_)) {
        bail!(
            "workers apart need a catalog that several processes can use, and {} belongs to one serve process alone; \
             set DatabaseURI to PostgreSQL or MongoDB, for the gateways and their workers alike",
            config.database
        );
    }
    if let Some(unknown) = systems.iter().find(|name| !config.platforms.contains_key(*name)) {
        let known = config.platforms.keys().cloned().collect::<Vec<_>>().join(", ");
        bail!("--system {unknown:?} is not one of the Platforms, which are {known}");
    }
    if !systems.is_empty() {
        config.platforms.retain(|name, _| systems.contains(name));
    }
    config.worker_threads = match (threads, config.worker_threads) {
        (Some(threads), _) => threads.into(),
        (None, 0) => THREADS,
        (None, threads) => threads,
    };
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn config(database: &str, threads: usize) -> Config {
        let text = format!(
            r#"{{"DefaultImageLocation": "reg", "Authentication": "mock", "CacheDirectory": "/c", "ExpandDirectory": "/e",
            "DatabaseURI": "{database}", "WorkerThreads": {threads}, "Locations": {{"reg": {{"remotetype": "dockerv2"}}}},
            "Platforms": {{"a": {{"accesstype": "local", "local": {{"imageDir": "/a"}}}},
                "b": {{"accesstype": "local", "local": {{"imageDir": "/b"}}}}}}}}"#
        );
        Config::parse(&text).unwrap().0
    }

    #[test]
    fn a_worker_works_for_the_systems_it_was_told_with_so_many_threads() {
        let names = |systems: &[&str], threads, of_config| {
            let systems: Vec<String> = systems.iter().map(|name| (*name).to_owned()).collect();
            let config = narrowed(config("postgres://h/db", of_config), &systems, threads);
            config.map(|config| (config.platforms.keys().cloned().collect::<String>(), config.worker_threads))
        };
        assert_eq!(names(&["b"], None, 0).unwrap(), ("b".to_owned(), 4));
        assert_eq!(names(&[], None, 7).unwrap(), ("ab".to_owned(), 7));
        assert_eq!(names(&["a", "b"], Some(2), 7).unwrap(), ("ab".to_owned(), 2));
        let error = names(&["a", "c"], None, 1).unwrap_err().to_string();
        assert_eq!(error, "--system \"c\" is not one of the Platforms, which are a, b");
    }

    #[test]
    fn a_worker_on_sqlite_is_refused_with_what_to_do() {
        let error = narrowed(config("sqlite:///x.db", 1), &[], None).unwrap_err().to_string();
        assert!(
            error.contains("sqlite:///x.db belongs to one serve process alone; set DatabaseURI"),
            "{error}"
        );
    }
}
