//! A gateway in process: real catalog, files, jobs and HTTP; a registry of a few lines, and a shell
//! script for the converter child, which has tests of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod administrators;
mod crowded;
mod documented;
mod http;
mod hung_up;
mod import;
mod import_files;
mod malformed;
mod manage;
mod pull;
mod queue;
mod reconcile;
mod slow;
mod waiting;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use sha2::Digest as _;
use shifter_api::payload::Payload;
use shifter_api::wire;

use crate::api::{Api, Refusal};
use crate::auth::{Authenticator, Caller};
use crate::catalog::{Place, open_for_use};
use crate::config::{Authentication, Config};
use crate::convert::Converter;
use crate::front::Probes;
use crate::http::{Service, router};
use crate::jobs::Jobs;
use crate::live::Live;
use crate::pull::Puller;
use crate::seal::SealKey;

pub(crate) use self::http::exchange;

/// Writes the name of each conversion to `DIR/conversions` and a fixed text as image.
const CHILD: &str = r#"read -r job
out=$(printf '%s' "$job" | sed 's/.*"output":"\([^"]*\)".*/\1/')
echo "$out" >> "$0/conversions"
[ -e "$0/slow" ] && for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.1; done
[ -e "$0/endless" ] && exec sleep 1000
[ -e "$0/fail" ] && { echo '{"Failed":"layer sha256:x: entry ../x climbs out"}'; exit 1; }
sleep 0.2; printf 'image bytes' > "$out"; echo '{"Done":{"entries":1,"bytes":1}}'"#;

pub(crate) struct Gateway {
    pub(crate) service: Arc<Service>,
    pub(crate) dir: PathBuf,
}

impl Gateway {
    /// A gateway whose default registry is at the address. The directory may hold an earlier one's state.
    pub(crate) async fn start(dir: &Path, registry: SocketAddr, pull_update: u64) -> Gateway {
        Gateway::start_on(dir, registry, pull_update, &Place::Sqlite(dir.join("c.db"))).await
    }

    /// The same with its catalog somewhere else.
    pub(crate) async fn start_on(
        dir: &Path,
        registry: SocketAddr,
        pull_update: u64,
        place: &Place,
    ) -> Gateway {
        let labels = |config: &mut Config| config.environment.show_labels = true;
        Gateway::start_as(dir, registry, pull_update, place, labels).await
    }

    /// The same with so many threads, and a key for workers apart.
    pub(crate) async fn start_with(
        dir: &Path,
        registry: SocketAddr,
        pull_update: u64,
        place: &Place,
        threads: usize,
        seal: Option<SealKey>,
    ) -> Gateway {
        let change = |config: &mut Config| config.worker_threads = threads;
        Gateway::start_whole(dir, registry, pull_update, place, change, seal).await
    }

    /// The same with its configuration changed.
    pub(crate) async fn start_as(
        dir: &Path,
        registry: SocketAddr,
        pull_update: u64,
        place: &Place,
        change: impl Fn(&mut Config),
    ) -> Gateway {
        Gateway::start_whole(dir, registry, pull_update, place, change, None).await
    }

    async fn start_whole(
        dir: &Path,
        registry: SocketAddr,
        pull_update: u64,
        place: &Place,
        change: impl Fn(&mut Config),
        seal: Option<SealKey>,
    ) -> Gateway {
        let at = |name: &str| dir.join(name).display().to_string();
        let text = format!(
            r#"{{"DefaultImageLocation": "reg", "Authentication": "mock", "PullUpdateTimeout": {pull_update},
            "CacheDirectory": "{}", "ExpandDirectory": "{}", "WorkerThreads": 2,
            "Locations": {{"reg": {{"remotetype": "dockerv2", "url": "http://{registry}"}}}},
            "Platforms": {{
                "sysa": {{"accesstype": "local", "architecture": "amd64", "admins": ["uid:1000"], "local": {{"imageDir": "{}"}}}},
                "arm": {{"accesstype": "local", "architecture": "arm64", "local": {{"imageDir": "{}"}}}},
                "far": {{"accesstype": "remote", "host": "h", "ssh": {{"username": "u", "imageDir": "/i"}}}}}}}}"#,
            at("cache"),
            at("expand"),
            at("images"),
            at("arm")
        );
        for name in ["cache", "expand", "images", "arm"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}")).0;
        change(&mut config);
        let config = Live::new(config);
        let catalog = open_for_use(place).await.unwrap();
        let converter = Converter::from_command(&["sh", "-c", CHILD, dir.to_str().unwrap()]);
        let puller = Puller::new(config.clone(), catalog.clone(), converter, 999).unwrap();
        let jobs = Jobs::new(catalog.clone(), Arc::new(puller), seal);
        jobs.recover().await.unwrap();
        let probes = Probes::new(config.clone(), catalog.clone());
        let api = Api::new(config, catalog, jobs);
        let authenticator = Authenticator::new(Authentication::Mock).unwrap();
        Gateway { service: Arc::new(Service { api, authenticator, probes }), dir: dir.to_owned() }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.service.api
    }

    pub(crate) async fn request(
        &self,
        caller: &Caller,
        tag: &str,
        body: &str,
    ) -> Result<wire::Image, Refusal> {
        self.request_on("sysa", caller, tag, body).await
    }

    async fn request_on(
        &self,
        system: &str,
        caller: &Caller,
        tag: &str,
        body: &str,
    ) -> Result<wire::Image, Refusal> {
        let pulled = self.api().pull(system, "docker", tag, body.as_bytes(), caller).await?;
        if let Some(job) = &pulled.job {
            self.api().jobs.asked(job.number);
        }
        Ok(pulled.image)
    }

    /// Pulls as a client does: asks until the end. Panics after 20 s.
    pub(crate) async fn pull(&self, caller: &Caller, tag: &str, body: &str) -> wire::Image {
        self.pull_on("sysa", caller, tag, body).await
    }

    pub(crate) async fn pull_on(&self, system: &str, caller: &Caller, tag: &str, body: &str) -> wire::Image {
        let begun = Instant::now();
        loop {
            let image =
                self.request_on(system, caller, tag, body).await.unwrap_or_else(|error| panic!("{error}"));
            if !wire::status::is_in_progress(image.status.as_deref().unwrap()) {
                return image;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{image:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Conversions that were begun so far.
    pub(crate) fn conversions(&self) -> usize {
        std::fs::read_to_string(self.dir.join("conversions")).map_or(0, |text| text.lines().count())
    }

    /// Names in one of its directories, sorted.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn meta(&self, id: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("images/{id}.meta"))).unwrap()
    }

    /// Listens on a port of its own.
    pub(crate) async fn listen(&self) -> SocketAddr {
        listen(router(self.service.clone())).await
    }

    /// Ends it as a kill would: nothing is told to the catalog.
    pub(crate) async fn stop(self) {
        self.api().jobs.abort();
        let catalog = self.api().catalog.clone();
        drop(self);
        catalog.close().await;
        // The aborted tasks let go of the catalog, and so of its lock, when they are dropped.
        for _ in 0..200 {
            if Arc::strong_count(&catalog) == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("somebody still holds the catalog");
    }
}

pub(crate) fn caller(uid: u32, credentials: &[(&str, &str)]) -> Caller {
    let authorized_locations = credentials.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Caller { uid, gid: uid + 10_000, payload: Payload { authorized_locations, request: None } }
}

async fn listen(router: Router) -> SocketAddr {
    listen_with(router, Default::default()).await
}

async fn listen_with(router: Router, limits: crate::listen::Limits) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The sender is kept alive by the task: nobody stops the server before the test ends.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        crate::listen::serve(listener, router, stopped, limits).await;
        drop(stop);
    });
    address
}

/// A registry with one-layer images. Repositories whose name begins with `secret` demand `alice:pa:ss`.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    /// By path below `/v2/`.
    documents: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    /// `METHOD path` of every request with an answer of 200.
    served: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    pub(crate) async fn start() -> (Registry, SocketAddr) {
        let registry = Registry::default();
        let answering = registry.clone();
        let handler = move |request: Request| {
            let answering = answering.clone();
            async move { answering.answer(&request) }
        };
        let address = listen(Router::new().fallback(handler)).await;
        (registry, address)
    }

    /// Stores an image for amd64 whose environment is `SEED=seed`; returns its id.
    pub(crate) fn push(&self, repository: &str, tag: &str, seed: &str) -> String {
        self.push_for("amd64", repository, tag, seed)
    }

    /// Stores an index that names one manifest for arm64; returns the index's digest in hex.
    pub(crate) fn push_index(&self, repository: &str, tag: &str, manifest: &str, comment: &str) -> String {
        let mut documents = self.documents.lock().unwrap();
        let size = documents[&format!("{repository}/manifests/sha256:{manifest}")].len();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","annotations":{{"c":"{comment}"}},
            "manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{size},
            "digest":"sha256:{manifest}","platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#
        )
        .into_bytes();
        let id = sha256(&index);
        for reference in [tag.to_owned(), format!("sha256:{id}")] {
            documents.insert(format!("{repository}/manifests/{reference}"), index.clone());
        }
        id
    }

    pub(crate) fn push_for(&self, architecture: &str, repository: &str, tag: &str, seed: &str) -> String {
        let labels = if seed == "labelled" { r#","Labels":{"who":"me"}"# } else { "" };
        let layer = format!("layer of {seed}").into_bytes();
        let diff_id = sha256(&layer);
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Env":["SEED={seed}"],"Cmd":["sh"]{labels}}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":{},"digest":"sha256:{}"}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":{},"digest":"sha256:{}"}}]}}"#,
            config.len(),
            sha256(&config),
            layer.len(),
            sha256(&layer)
        )
        .into_bytes();
        let id = sha256(&manifest);
        let mut documents = self.documents.lock().unwrap();
        for blob in [layer, config] {
            documents.insert(format!("{repository}/blobs/sha256:{}", sha256(&blob)), blob);
        }
        for reference in [tag.to_owned(), format!("sha256:{id}")] {
            documents.insert(format!("{repository}/manifests/{reference}"), manifest.clone());
        }
        id
    }

    /// Stores another manifest for what `from` has under tag 1, without any layer; returns its id.
    pub(crate) fn push_without_layers(&self, from: &str, to: &str) -> String {
        let mut documents = self.documents.lock().unwrap();
        let manifest = [documents[&format!("{from}/manifests/1")].as_slice(), b"\n"].concat();
        let text: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let config = text["config"]["digest"].as_str().unwrap().to_owned();
        let blob = documents[&format!("{from}/blobs/{config}")].clone();
        documents.insert(format!("{to}/blobs/{config}"), blob);
        let id = sha256(&manifest);
        for reference in ["1".to_owned(), format!("sha256:{id}")] {
            documents.insert(format!("{to}/manifests/{reference}"), manifest.clone());
        }
        id
    }

    /// Takes away the requests answered so far.
    pub(crate) fn take_served(&self) -> Vec<String> {
        std::mem::take(&mut *self.served.lock().unwrap())
    }

    fn answer(&self, request: &Request) -> Response<Body> {
        let path = request.uri().path().trim_start_matches("/v2/").to_owned();
        let response = Response::builder();
        // "alice:pa:ss"
        let is_allowed =
            request.headers().get("authorization").is_some_and(|v| v == "Basic YWxpY2U6cGE6c3M=");
        // Its root, where logins are tried.
        let is_root = path.is_empty();
        if (path.starts_with("secret") || is_root) && !is_allowed {
            let response =
                response.status(StatusCode::UNAUTHORIZED).header("www-authenticate", "Basic realm=\"r\"");
            return response.body(Body::empty()).unwrap();
        }
        if is_root {
            return response.body(Body::from("{}")).unwrap();
        }
        let Some(document) = self.documents.lock().unwrap().get(&path).cloned() else {
            return response.status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
        };
        self.served.lock().unwrap().push(format!("{} {path}", request.method()));
        let kind = if document.windows(14).any(|text| text == b"image.index.v1") {
            "application/vnd.oci.image.index.v1+json"
        } else if path.contains("/manifests/") {
            "application/vnd.oci.image.manifest.v1+json"
        } else {
            "application/octet-stream"
        };
        response
            .header("content-type", kind)
            .header("docker-content-digest", format!("sha256:{}", sha256(&document)))
            .body(Body::from(document))
            .unwrap()
    }
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
