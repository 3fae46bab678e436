//! The real docker-registry behind a proxy that drops, truncates, stalls, corrupts, lies and refuses.

use crate::fixture::{Image, OCI_MANIFEST, location, noise, settings, sha256};
use crate::registry::{Registry, Setup};
use crate::server::{Reply, Request, Server, forward};
use shifter_registry::{BlobCache, Client, Platform, RegistryError, Settings};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    HangUp,
    Truncate,
    Stall,
    Corrupt,
    ClaimMore,
    ClaimLess,
    Elsewhere,
    Status(u16),
}

const FAULTS: [Fault; 14] = [
    Fault::HangUp,
    Fault::Truncate,
    Fault::Stall,
    Fault::Corrupt,
    Fault::ClaimMore,
    Fault::ClaimLess,
    Fault::Elsewhere,
    Fault::Status(401),
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Manifest,
    Config,
    Layer,
}

impl Fault {
    fn of(self, honest: Reply, elsewhere: &str) -> Reply {
        let mut reply = honest;
        let length = reply.body.len();
        match self {
            Fault::HangUp => reply.mute = true,
            Fault::Truncate => reply.cut = Some(length / 2),
            Fault::Stall => reply.pause = Duration::from_millis(1500),
            Fault::Corrupt => reply.body[length / 2] ^= 0x20,
            Fault::ClaimMore => reply.claim = Some(length + 1),
            Fault::ClaimLess => reply.claim = Some(length - 1),
            Fault::Elsewhere => reply = Reply::new(307, "").with("Location", elsewhere),
            Fault::Status(status) => reply = Reply::new(status, r#"{"errors":[{"code":"DENIED"}]}"#),
        }
        reply
    }

    /// Whether a pull gets over it if it happens once.
    fn passes(self, part: Part) -> bool {
        match self {
            Fault::HangUp | Fault::Truncate | Fault::Stall => true,
            // A layer's length is known beforehand; that of a manifest is what is claimed, and then too little comes.
            Fault::ClaimMore => part != Part::Layer,
            Fault::Status(status) => matches!(status, 429 | 500 | 502 | 503),
            Fault::Corrupt | Fault::ClaimLess | Fault::Elsewhere => false,
        }
    }
}

/// A client that does not wait long for silent servers.
fn impatient(url: &str) -> Client {
    let settings = Settings { read_timeout: Duration::from_millis(400), ..settings() };
    Client::new(location(url), None, settings).unwrap()
}

/// Pulls all of `a/b:1`; the layers' bytes.
async fn pull(client: &Client, cache: &BlobCache) -> Result<Vec<Vec<u8>>, RegistryError> {
    let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await?;
    let mut layers = Vec::new();
    for layer in &resolved.layers {
        let blob = cache.fetch(client, "a/b", layer, &|_| {}).await?;
        layers.push(std::fs::read(blob.path()).unwrap());
    }
    Ok(layers)
}

/// Every file of the cache that has a blob's name is that blob; gives their number.
pub(crate) fn only_whole_blobs(dir: &Path) -> usize {
    let names = crate::transfer::names(dir);
    let blobs = names.iter().filter(|name| !name.starts_with('.'));
    let check = |name: &String| {
        let bytes = std::fs::read(dir.join("sha256").join(name)).unwrap();
        assert_eq!(sha256(&bytes), format!("sha256:{name}"));
    };
    blobs.inspect(|name| check(name)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_on_the_way_nothing_wrong_is_kept_and_the_next_pull_succeeds() {
    let registry = Registry::start(Setup::default());
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let image =
        Image::new(OCI_MANIFEST, "amd64", vec![(kind, noise(1_300_000, 1)), (kind, noise(60_000, 2))]);
    registry.push(&image, "1").await;
    let upstream = format!("localhost:{}", registry.port());
    let config = sha256(image.config.as_bytes());
    let elsewhere = Server::start(|_, _| Reply::new(200, noise(1_300_000, 9)));
    // What the proxy does to which part, and how often still.
    let orders = Arc::new(Mutex::new((Part::Manifest, Fault::HangUp, 0)));
    let (script, away) = (Arc::clone(&orders), format!("{}/somewhere", elsewhere.url()));
    let proxy = Server::start(move |request: &Request, _| {
        let honest = forward(&upstream, request);
        let is_config = request.path.ends_with(&config);
        let mut order = script.lock().unwrap();
        let meant = match order.0 {
            Part::Manifest => request.path.contains("/manifests/"),
            Part::Config => is_config,
            Part::Layer => request.path.contains("/blobs/") && !is_config,
        };
        if !meant || order.2 == 0 {
            return honest;
        }
        order.2 -= 1;
        order.1.of(honest, &away)
    });
    let client = impatient(&proxy.url());
    for part in [Part::Manifest, Part::Config, Part::Layer] {
        for (fault, times) in FAULTS.iter().flat_map(|f| [(*f, 1), (*f, usize::MAX)]) {
            *orders.lock().unwrap() = (part, fault, times);
            let dir = tempfile::tempdir().unwrap();
            let cache = BlobCache::open(dir.path()).unwrap();
            let outcome = pull(&client.for_caller(None), &cache).await;
            assert!(orders.lock().unwrap().2 < times, "{fault:?} never happened to the {part:?}");
            only_whole_blobs(dir.path());
            match &outcome {
                Ok(layers) => {
                    let right: Vec<_> = image.layers.iter().map(|(_, bytes)| bytes).collect();
                    assert!(layers.iter().collect::<Vec<_>>() == right, "{part:?} {fault:?} {times}");
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.starts_with("cannot ") && text.contains(" on test"), "{text}");
                }
            }
            let passes = fault.passes(part) && times == 1;
            assert_eq!(outcome.is_ok(), passes, "{part:?} {fault:?} {times}: {outcome:?}");
            orders.lock().unwrap().2 = 0;
            pull(&client.for_caller(None), &cache).await.unwrap();
            assert_eq!(only_whole_blobs(dir.path()), 2);
        }
    }
}

#[tokio::test]
async fn one_connection_serves_a_whole_pull() {
    let registry = Registry::start(Setup::default());
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers = (0..10).map(|n| (kind, noise(5000, 200 + n))).collect();
    registry.push(&Image::new(OCI_MANIFEST, "amd64", layers), "1").await;
    let (relay, opened) = counting_relay(registry.port());
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let client = impatient(&format!("http://127.0.0.1:{relay}"));
    assert_eq!(pull(&client, &cache).await.unwrap().len(), 10);
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

/// A port that leads to `port`, and the number of connections made to it. Ends with the test process.
fn counting_relay(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (own, opened) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&opened);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let near = near.unwrap();
            let far = std::net::TcpStream::connect(("localhost", port)).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (own, opened)
}
