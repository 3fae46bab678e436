//! `serve`: checks, opens, listens, and stops in good order.
//!
//! Everything that can be wrong with the machine or the configuration is found out here, before the
//! first request, and said in one sentence. On SIGTERM no new requests are taken, the answers under way
//! are finished, and running pulls are given up to be taken up again by the next start.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::Api;
use crate::auth::Authenticator;
use crate::catalog;
use crate::config::{Access, Authentication, Config};
use crate::convert::{self, Converter};
use crate::http::{self, Service};
use crate::jobs::Jobs;
use crate::listen::{self, Limits};
use crate::publish;
use crate::pull::Puller;

/// Longest wait for answers under way when stopping.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the gateway until it is told to stop.
pub(crate) async fn serve(config: Config, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    check(&config, addresses)?;
    // Found out now rather than by the first user's pull.
    for (name, platform) in &config.platforms {
        convert::check(&platform.converters)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("images for system {name} cannot be made as asked for"))?;
    }
    if let Some(examiner) = &config.examiner {
        examiner.check().map_err(anyhow::Error::msg)?;
    }
    allow_many_connections();
    let authenticator = Authenticator::new(config.authentication)?;
    let mut stop_signal = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("listening on {address} failed"))?;
        listeners.push(listener);
    }

    let catalog = catalog::open_for_use(&config.database).await?;
    let place = config.database.to_string();
    prepare_directories(&config)?;
    let config = Arc::new(config);
    // Our own process directory belongs to our effective uid.
    let gateway_uid = std::fs::metadata("/proc/self").context("reading /proc/self failed")?.uid();
    let converter = Converter::find().await?.within(config.conversion_time);
    for gap in converter.gaps().await? {
        tracing::warn!("{gap}");
    }
    let puller = Puller::new(config.clone(), catalog.clone(), converter, gateway_uid)?;
    puller.tell_cache().await?;
    let jobs = Jobs::new(catalog.clone(), Arc::new(puller));
    jobs.recover().await?;
    let api = Api::new(config, catalog.clone(), jobs.clone());
    let router = http::router(Arc::new(Service { api, authenticator }));

    let (stop, _) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let address = listener.local_addr()?;
        servers.spawn(listen::serve(listener, router.clone(), stop.subscribe(), Limits::default()));
        tracing::info!(%address, database = place, "listening");
    }
    tokio::select! {
        _ = stop_signal.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
        Some(ended) = servers.join_next() => {
            ended.context("serving HTTP failed")?;
            bail!("a listener ended although nobody asked it to");
        }
    }
    stop.send_replace(true);
    if tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    jobs.stop().await;
    catalog.close().await;
    Ok(())
}

/// As many descriptors as we may have: a client that waits for a pull has one.
fn allow_many_connections() {
    const WANTED: u64 = 1 << 16;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(WANTED, |most| most.min(WANTED));
    if limit.current.is_some_and(|current| current < most) {
        let wanted = Rlimit { current: Some(most), ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, "raising the number of open files failed");
        }
    }
}

/// What can be told from the configuration and the command line alone.
fn check(config: &Config, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    config.check_servable().context("this configuration cannot be served")?;
    if config.authentication == Authentication::Mock
        && !addresses.iter().all(|address| address.ip().is_loopback())
    {
        bail!(
            "Authentication is \"mock\", which believes whatever a request says; it is only allowed where every \
             --listen address is a loopback address, as 127.0.0.1:5000"
        );
    }
    Ok(())
}

/// Creates what is ours, insists on what is the site's, and clears what dead processes left.
fn prepare_directories(config: &Config) -> anyhow::Result<()> {
    for directory in [&config.cache_directory, &config.expand_directory] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("creating {} failed", directory.display()))?;
    }
    clear(&config.expand_directory)?;
    for (system, platform) in config.platforms.iter().filter(|(_, p)| p.access == Access::Local) {
        let directory = &platform.image_dir;
        // Not created: on a host where the shared file system is not mounted, nobody would ever see it.
        if !directory.is_dir() {
            bail!(
                "imageDir {} of system {system} is not a directory; create it, or mount the file system it is on",
                directory.display()
            );
        }
        clear(directory)?;
    }
    for (system, _) in config.platforms.iter().filter(|(_, p)| p.access == Access::Remote) {
        tracing::warn!(system, "remote transfer is not supported yet; pulls for this system are refused");
    }
    Ok(())
}

fn clear(directory: &Path) -> anyhow::Result<()> {
    let removed = publish::remove_leftovers(directory)
        .with_context(|| format!("looking for leftovers in {} failed", directory.display()))?;
    if removed > 0 {
        tracing::info!(directory = %directory.display(), removed, "removed what dead processes left");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(dir: &Path) -> Config {
        let dir = dir.display();
        let text = format!(
            r#"{{"DefaultImageLocation": "reg", "Authentication": "mock", "CacheDirectory": "{dir}/cache",
            "ExpandDirectory": "{dir}/expand", "Locations": {{"reg": {{"remotetype": "dockerv2"}}}},
            "Platforms": {{"sysa": {{"accesstype": "local", "local": {{"imageDir": "{dir}/images"}}}}}}}}"#
        );
        Config::parse(&text).unwrap().0
    }

    #[test]
    fn mock_authentication_listens_on_loopback_only() {
        let config = config(Path::new("/x"));
        for (addresses, allowed) in [
            (&["127.0.0.1:5000"][..], true),
            (&["127.0.0.1:5000", "[::1]:5000"], true),
            (&["0.0.0.0:5000"], false),
            (&["127.0.0.1:5000", "192.0.2.1:5000"], false),
        ] {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(check(&config, &addresses).is_ok(), allowed, "{addresses:?}");
        }
    }

    #[test]
    fn a_missing_image_directory_is_said_and_our_own_directories_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let error = prepare_directories(&config).unwrap_err().to_string();
        assert!(error.contains("imageDir") && error.contains("system sysa is not a directory"), "{error}");
        assert!(!dir.path().join("images").exists());
        for name in ["cache", "expand"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{name}");
        }
        std::fs::create_dir(dir.path().join("images")).unwrap();
        prepare_directories(&config).unwrap();
    }
}
