//! Readiness: whether the catalog answers, image directories can be written, and munge's sockets are there.
//!
//! The answer is kept for two seconds, so that nobody can make the gateway look more often. What exactly is missing
//! stands in the log and is told to administrators; the network hears the kind of thing alone.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::catalog::Catalog;
use crate::config::{Access, Authentication, Config};
use crate::convert::sentence;
use crate::live::Live;

/// How long an answer counts.
const KEPT: Duration = Duration::from_secs(2);
/// How long looking may take; a file system that hangs is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was found at one moment; each is a sentence, empty: in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) catalog: Vec<String>,
    pub(crate) images: Vec<String>,
    pub(crate) munge: Vec<String>,
}

impl Found {
    pub(crate) fn is_ready(&self) -> bool {
        self.sentences().next().is_none()
    }

    /// What is missing, with paths: for the log and administrators.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = &String> {
        self.catalog.iter().chain(&self.images).chain(&self.munge)
    }

    /// The body of `/readyz`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (catalog, images, munge) =
            (self.catalog.is_empty(), self.images.is_empty(), self.munge.is_empty());
        serde_json::json!({"ready": self.is_ready(), "catalog": catalog, "images": images, "munge": munge})
    }
}

/// Looks, at most every two seconds.
pub(crate) struct Readiness {
    config: Live,
    catalog: Arc<dyn Catalog>,
    last: Mutex<Option<(Instant, Found)>>,
}

impl Readiness {
    pub(crate) fn new(config: Live, catalog: Arc<dyn Catalog>) -> Readiness {
        Readiness { config, catalog, last: Mutex::default() }
    }

    /// How it stands. Who asks while somebody looks gets the same answer.
    pub(crate) async fn get(&self) -> Found {
        let mut last = self.last.lock().await;
        if let Some((when, found)) = &*last
            && when.elapsed() < KEPT
        {
            return found.clone();
        }
        let found = self.look().await;
        if last.as_ref().is_none_or(|(_, before)| *before != found) {
            for missing in found.sentences() {
                tracing::warn!(missing, "not ready");
            }
            if found.is_ready() {
                tracing::info!("ready");
            }
        }
        *last = Some((Instant::now(), found.clone()));
        found
    }

    async fn look(&self) -> Found {
        // No job has this number; that the database says so is what counts.
        let catalog = match tokio::time::timeout(PATIENCE, self.catalog.job(-1)).await {
            Ok(Ok(_)) => Vec::new(),
            Ok(Err(error)) => vec![sentence(&error)],
            Err(_) => vec![format!("the catalog did not answer within {} s", PATIENCE.as_secs())],
        };
        let config = self.config.now();
        let looking = tokio::task::spawn_blocking(|| (image_directories(config), munge_sockets(config)));
        let (images, munge) = match tokio::time::timeout(PATIENCE, looking).await {
            Ok(Ok(found)) => found,
            _ => (vec!["an image directory did not answer in time".to_owned()], Vec::new()),
        };
        Found { catalog, images, munge }
    }
}

fn image_directories(config: &Config) -> Vec<String> {
    use rustix::fs::{Access as Right, AtFlags, CWD, accessat};
    let mut missing = Vec::new();
    for (system, platform) in config.platforms.iter().filter(|(_, p)| p.access == Access::Local) {
        let directory = &platform.image_dir;
        let right = Right::WRITE_OK.union(Right::EXEC_OK);
        if let Err(error) = accessat(CWD, directory, right, AtFlags::EACCESS) {
            missing.push(format!(
                "imageDir {} of system {system} cannot be written: {error}",
                directory.display()
            ));
        }
    }
    missing
}

fn munge_sockets(config: &Config) -> Vec<String> {
    if config.authentication == Authentication::Mock {
        return Vec::new();
    }
    let sockets = config.platforms.iter().filter_map(|(name, p)| Some((name, p.munge_socket.clone()?)));
    let is_there = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let missing = sockets.filter(|(_, path)| !is_there(path));
    missing
        .map(|(name, path)| format!("munge's socket {} of system {name} is not there", path.display()))
        .collect()
}
