//! `serve`: checks, opens, listens, and stops in good order.
//!
//! Everything that can be wrong with the machine or the configuration is found out here, before the
//! first request, and said in one sentence. On SIGTERM no new requests are taken, the answers under way
//! are finished, and running pulls are given up to be taken up again by the next start.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Desk};
use crate::api::Api;
use crate::auth::Authenticator;
use crate::catalog::{self, Place};
use crate::config::{Access, Authentication, Config, Endpoint};
use crate::convert::{self, Converter};
use crate::front::{self, Probes};
use crate::http::Service;
use crate::jobs::Jobs;
use crate::listen::{self, Limits, Listener, SocketFile};
use crate::live::Live;
use crate::notify::Notifier;
use crate::publish;
use crate::pull::Puller;
use crate::reload::{Prepare, Reloader, SetLevel};
use crate::seal::SealKey;
use crate::tls::Tls;
use crate::transfer;

/// Longest wait for answers under way when stopping.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the gateway until it is told to stop. `listen` stands in place of the configuration's listeners, unless empty.
pub(crate) async fn serve(
    config: Config,
    path: PathBuf,
    listen: &[Endpoint],
    set_level: SetLevel,
) -> anyhow::Result<()> {
    let listen = listen.to_vec();
    let prepare: Prepare = Arc::new(move |mut config| {
        if !listen.is_empty() {
            config.doors.listen.clone_from(&listen);
        }
        check(&config)?;
        Ok(config)
    });
    let config = prepare(config)?;
    let gateway_uid = own_uid()?;
    guard(gateway_uid);
    allow_many_connections();
    let authenticator = Authenticator::new(config.authentication)?;
    let seal = config.seal_key_file.as_deref().map(SealKey::read).transpose()?;
    let mut stop_signal = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let tls = config.doors.tls.as_ref().map(Tls::new).transpose()?;
    let mut listeners = Vec::new();
    for endpoint in &config.doors.listen {
        listeners.push((Listener::bind(endpoint, tls.as_ref()).await?, endpoint.to_string()));
    }

    let catalog = catalog::open_for_use(&config.database).await?;
    let place = config.database.to_string();
    prepare_directories(&config)?;
    // Bound with the catalog's lock held: whoever had the socket before is dead.
    let admin = bind_admin(&config)?;
    let config = Live::new(config);
    let converter = Converter::find().await?.within(config.conversion_time);
    for gap in converter.gaps().await? {
        tracing::warn!("{gap}");
    }
    let puller = Puller::new(config.clone(), catalog.clone(), converter, gateway_uid)?;
    puller.tell_cache().await?;
    let puller = Arc::new(puller);
    tokio::spawn(puller.clone().try_out_stores());
    let jobs = Jobs::new(catalog.clone(), puller, seal);
    jobs.recover().await?;
    let api = Api::new(config.clone(), catalog.clone(), jobs.clone());
    api.managing.keeper.start(&api.managing.uses);
    let uses = api.managing.uses.clone();
    let probes = Probes::new(config.clone(), catalog.clone());
    let service = Arc::new(Service { api, authenticator, probes });
    let router = front::router(service.clone());

    let (stop, _) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for (listener, address) in listeners {
        servers.spawn(listen::serve(listener, router.clone(), stop.subscribe(), Limits::default()));
        tracing::info!(address, database = place, "listening");
    }
    let desk = Arc::new(Desk { service: service.clone(), config: config.clone(), gateway_uid });
    let desk_open =
        admin.map(|(listener, file)| (AbortOnDrop(tokio::spawn(admin::serve(listener, desk))), file));
    let reloader = Reloader { path, prepare, live: config, tls, set_level };
    let notifier = Notifier::from_environment();
    notifier.ready();
    loop {
        tokio::select! {
            _ = stop_signal.recv() => break tracing::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => break tracing::info!("stopping on SIGINT"),
            _ = hangup.recv() => {
                notifier.reloading();
                reloader.reload(service.api.jobs.puller()).await;
                notifier.ready();
            }
            () = notifier.live() => {}
            Some(ended) = servers.join_next() => {
                ended.context("serving HTTP failed")?;
                bail!("a listener ended although nobody asked it to");
            }
        }
    }
    notifier.stopping();
    stop.send_replace(true);
    // First, so that another process goes on with the pulls while clients hear the last answers.
    jobs.stop().await;
    if tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    // What clients hung up on.
    service.api.jobs.puller().whole().ended(DRAIN).await;
    uses.close().await;
    // Before the catalog's lock is free: the next process has a socket of this name.
    drop(desk_open);
    catalog.close().await;
    Ok(())
}

/// Ends a task with its value.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The administrators' socket. One that nobody asked for may be missing: its place beside the database's file can be
/// too long a name for a socket.
fn bind_admin(config: &Config) -> anyhow::Result<Option<(UnixListener, SocketFile)>> {
    let Some((path, is_asked_for)) = &config.doors.admin_socket else { return Ok(None) };
    match listen::bind_unix(path, 0o600) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if *is_asked_for => Err(error.context("AdminSocket cannot be used")),
        Err(error) => {
            let why = convert::chain(&*error);
            tracing::warn!(
                why,
                "backup and reconcile will not reach this gateway; set AdminSocket to another place"
            );
            Ok(None)
        }
    }
}

/// Our own process directory belongs to our effective uid.
pub(crate) fn own_uid() -> anyhow::Result<u32> {
    Ok(std::fs::metadata("/proc/self").context("reading /proc/self failed")?.uid())
}

/// What can be told from the configuration and the programs it names.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    check_policy(config)?;
    check_making(config)
}

/// Whether images can be made and brought to where they belong: found out now rather than by the first user's pull.
pub(crate) fn check_making(config: &Config) -> anyhow::Result<()> {
    for (name, platform) in &config.platforms {
        convert::check(&platform.converters)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("images for system {name} cannot be made as asked for"))?;
    }
    if let Some(examiner) = &config.examiner {
        examiner.check().map_err(anyhow::Error::msg)?;
    }
    transfer::check(config).map_err(anyhow::Error::msg)
}

/// Sees to it that passwords of callers, which are in memory, come nowhere else, and warns where we are root.
pub(crate) fn guard(gateway_uid: u32) {
    if gateway_uid == 0 {
        tracing::warn!(
            "the gateway runs as root, whose rights it does not need; give it an account of its own"
        );
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "forbidding core dumps failed");
    }
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

/// What can be told from the configuration alone.
pub(crate) fn check_policy(config: &Config) -> anyhow::Result<()> {
    if config.worker_threads == 0 && matches!(config.database, Place::Sqlite(_)) {
        bail!(
            "WorkerThreads is 0, but workers apart cannot use the catalog in SQLite: set it to 1 or more, or \
             DatabaseURI to PostgreSQL or MongoDB"
        );
    }
    config.check_servable().context("this configuration cannot be served")?;
    for (key, directory) in
        [("CacheDirectory", &config.cache_directory), ("ExpandDirectory", &config.expand_directory)]
    {
        // Below it they may be, and were in the original's examples.
        let mut local = config.platforms.iter().filter(|(_, platform)| platform.access == Access::Local);
        if let Some((system, _)) = local.find(|(_, platform)| platform.image_dir == *directory) {
            bail!(
                "{key} is imageDir of system {system}, {}; images are alone in their directory: choose another",
                directory.display()
            );
        }
    }
    if config.authentication == Authentication::Mock && !config.doors.listen.iter().all(Endpoint::is_loopback)
    {
        bail!(
            "Authentication is \"mock\", which believes whatever a request says; it is only allowed where all of \
             Listen (or every --listen) is a loopback address, as 127.0.0.1:5000"
        );
    }
    Ok(())
}

/// Creates what is ours, insists on what is the site's, and clears what dead processes left.
pub(crate) fn prepare_directories(config: &Config) -> anyhow::Result<()> {
    for directory in [&config.cache_directory, &config.expand_directory] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("creating {} failed", directory.display()))?;
    }
    clear(&config.expand_directory)?;
    // Not created: on a host where the shared file system is not mounted, nobody would ever see it.
    if let Some(why) = missing_image_directories(config).next() {
        bail!(why);
    }
    for platform in config.platforms.values().filter(|platform| platform.access == Access::Local) {
        clear(&platform.image_dir)?;
    }
    Ok(())
}

/// A sentence for each directory of images that is not there.
pub(crate) fn missing_image_directories(config: &Config) -> impl Iterator<Item = String> {
    let local = config.platforms.iter().filter(|(_, platform)| platform.access == Access::Local);
    local.filter_map(|(system, platform)| {
        let why = match platform.image_dir.metadata() {
            Ok(found) if found.is_dir() => return None,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                "cannot be looked at by this account: permission denied"
            }
            _ => "is not a directory; create it, or mount the file system it is on",
        };
        Some(format!("Platforms.{system}.local.imageDir: {} {why}", platform.image_dir.display()))
    })
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
        let mut config = config(Path::new("/x"));
        for (addresses, allowed) in [
            (&["127.0.0.1:5000"][..], true),
            (&["127.0.0.1:5000", "[::1]:5000"], true),
            (&["0.0.0.0:5000"], false),
            (&["127.0.0.1:5000", "192.0.2.1:5000"], false),
            (&["unix:/run/gw.sock"], false),
        ] {
            config.doors.listen = addresses.iter().map(|text| Endpoint::parse(text).unwrap()).collect();
            assert_eq!(check_policy(&config).is_ok(), allowed, "{addresses:?}");
        }
    }

    #[test]
    fn a_missing_image_directory_is_said_and_our_own_directories_are_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let error = prepare_directories(&config).unwrap_err().to_string();
        assert!(
            error.starts_with("Platforms.sysa.local.imageDir: ")
                && error.contains(" is not a directory; create it"),
            "{error}"
        );
        assert!(!dir.path().join("images").exists());
        for name in ["cache", "expand"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{name}");
        }
        std::fs::create_dir(dir.path().join("images")).unwrap();
        prepare_directories(&config).unwrap();
    }
}
