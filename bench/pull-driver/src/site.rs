//! The machine all sides share: registries with the images, munged, and the gateway under measurement, run as a
//! site runs it.
//!
//! A pull is one request of the version 1 API, as `shifterimg` sends it, until the gateway says READY. Between the
//! two it is not asked more often than an ordinary client would, since every answer costs it time: the record in
//! the image directory says when it is worth asking again.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use shifter_tests::fixture::{Built, request};
use shifter_tests::harness::{Gateway, GatewayOptions, Location, Munged, Registry, RegistryOptions, Sandbox};

use crate::process::{self, Peak, Watch};

/// The one name under which the images are in the registry; tags tell them apart.
pub(crate) const REPOSITORY: &str = "bench/image";

const SYSTEM: &str = "testsystem";
/// Longer than the longest pull of `--memory` on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often the image directory is looked at, and the gateway asked near the end.
const NEAR: Duration = Duration::from_millis(1);
/// How often it is asked otherwise: an ordinary client's period.
const FAR: Duration = Duration::from_millis(500);

/// What a pull has cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) peak: Peak,
}

/// Sandbox and daemons.
pub(crate) struct Site {
    pub(crate) sandbox: Sandbox,
    pub(crate) registry: Registry,
    munged: Munged,
    gateway: Gateway,
    credentials: Vec<String>,
    credentials_made: Instant,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        let registry = sandbox.registry(RegistryOptions::default())?;
        let munged = sandbox.munged("site")?;
        let gateway = sandbox.gateway(&munged, &options(&registry))?;
        Ok(Self {
            sandbox,
            registry,
            munged,
            gateway,
            credentials: Vec::new(),
            credentials_made: Instant::now(),
        })
    }

    /// Puts an image into the registry under this tag.
    pub(crate) fn push(&mut self, built: &Built, tag: &str) -> Result<()> {
        let registry = self.registry.clone();
        self.sandbox.push(&registry, built, REPOSITORY, tag)
    }

    /// A new gateway with nothing in its cache, image directory or catalog.
    pub(crate) fn start_afresh(&mut self) -> Result<()> {
        self.sandbox.stop(self.gateway.daemon)?;
        let state = &self.gateway.state;
        fs::remove_dir_all(state).with_context(|| format!("remove {}", state.display()))?;
        for entry in fs::read_dir(&self.gateway.images).context("list the image directory")? {
            let path = entry?.path();
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        self.gateway = self.sandbox.gateway(&self.munged, &options(&self.registry))?;
        Ok(())
    }

    /// Where the gateway publishes an image.
    pub(crate) fn image(&self, built: &Built) -> PathBuf {
        self.gateway.images.join(format!("{}.squashfs", built.id()))
    }

    /// Takes a published image away, so that the next pull makes it again from cached layers.
    pub(crate) fn remove_image(&self, built: &Built) -> Result<()> {
        fs::remove_file(self.record(built)).context("remove an image's record")?;
        fs::remove_file(self.image(built)).context("remove an image")
    }

    fn record(&self, built: &Built) -> PathBuf {
        self.gateway.images.join(format!("{}.meta", built.id()))
    }

    /// Pulls the tag, which means this image, and measures from the request to READY.
    pub(crate) fn pull(&mut self, built: &Built, tag: &str) -> Result<Cost> {
        self.stock_credentials(32)?;
        let process = self.sandbox.pid(self.gateway.daemon)?;
        let pull = format!("/api/pull/{SYSTEM}/docker/local%2F{}%3A{tag}/", REPOSITORY.replace('/', "%2F"));
        let queue = format!("/api/queue/{SYSTEM}/");
        let record = self.record(built);
        let before = process::time_of_tree(process)?;
        let watch = Watch::start(process);
        let begun = Instant::now();
        self.ask("POST", &pull)?;
        let mut asked = begun;
        let wall = loop {
            // Watching the file costs the gateway nothing.
            if asked.elapsed() >= FAR || record.exists() {
                let unfinished = self.ask("GET", &queue)?;
                asked = Instant::now();
                if unfinished["list"].as_array().is_some_and(Vec::is_empty) {
                    break begun.elapsed();
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("the pull of {tag} did not end within {PATIENCE:?}");
            }
            std::thread::sleep(NEAR);
        };
        let end = self.ask("POST", &pull)?;
        let cpu = process::time_of_tree(process)?.saturating_sub(before);
        let peak = watch.stop()?;
        let is_ready = end["status"] == "READY" && end["id"] == built.id();
        if !is_ready || !self.image(built).exists() {
            bail!(
                "the pull of {tag} ended with {end}; the gateway's log:\n{}",
                self.sandbox.log(self.gateway.daemon)
            );
        }
        Ok(Cost { wall, cpu, peak })
    }

    /// An answer of the gateway to an ordinary user.
    fn ask(&mut self, method: &str, target: &str) -> Result<Value> {
        self.stock_credentials(1)?;
        let credential = self.credentials.pop().context("munge made no credential")?;
        let headers = [("authentication", credential.as_str())];
        let answer = request(&self.gateway.authority, method, target, &headers, b"")?;
        if answer.status != 200 {
            bail!("{method} {target}: the gateway answered {}: {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {target}: {}", answer.text()))
    }

    /// Credentials are made beforehand, since starting munge takes longer than the gateway's answer. One serves
    /// one request, for five minutes (munge(1), TTL).
    fn stock_credentials(&mut self, least: usize) -> Result<()> {
        if self.credentials.len() >= least && self.credentials_made.elapsed() < Duration::from_secs(240) {
            return Ok(());
        }
        self.credentials_made = Instant::now();
        let script = "i=0; while [ $i -lt 64 ]; do munge -n -S \"$1\" || exit 1; i=$((i + 1)); done";
        let socket = self.munged.socket.display().to_string();
        let made = self.sandbox.user("alice")?.run(&["sh", "-c", script, "sh", &socket])?.success()?;
        self.credentials = made.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(())
    }

    /// Stops everything and looks whether anything was left behind.
    pub(crate) fn finish(self) -> Result<()> {
        self.sandbox.finish()
    }
}

fn options(registry: &Registry) -> GatewayOptions {
    let location = Location { name: "local".to_owned(), url: registry.url.clone(), ca: None };
    let more =
        Map::from_iter([("LogLevel".to_owned(), json!("info")), ("PullUpdateTimeout".to_owned(), json!(0))]);
    GatewayOptions { locations: vec![location], more, ..GatewayOptions::default() }
}
