//! Killed by SIGKILL at any moment of a pull: what is left, and how it goes on.

use crate::faults::only_whole_blobs;
use crate::fixture::{Image, OCI_MANIFEST, client, noise};
use crate::registry::{Registry, Setup};
use crate::server::{Reply, Server, forward};
use crate::transfer::names;
use shifter_registry::{BlobCache, Client, Platform};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Pulls `a/b:1` into `dir`, all layers at a time.
async fn pull(client: &Client, dir: &Path) {
    let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap();
    let cache = BlobCache::open(dir).unwrap();
    let fetches = resolved.layers.iter().map(|layer| cache.fetch(client, "a/b", layer, &|_| {}));
    futures_util::future::try_join_all(fetches).await.unwrap();
}

#[tokio::test]
#[ignore = "started, and killed, by killed_at_any_moment_a_pull_leaves_whole_blobs_and_what_can_be_taken_up"]
async fn pull_until_killed() {
    let dir = PathBuf::from(std::env::var_os("CRASH_DIRECTORY").unwrap());
    pull(&client(&std::env::var("CRASH_URL").unwrap()), &dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_a_pull_leaves_whole_blobs_and_what_can_be_taken_up() {
    let registry = Registry::start(Setup::default());
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let sizes = [2_600_000, 2_400_000, 40_000];
    let layers = sizes.iter().zip(300..).map(|(size, seed)| (kind, noise(*size, seed))).collect();
    let image = Image::new(OCI_MANIFEST, "amd64", layers);
    registry.push(&image, "1").await;
    let upstream = format!("localhost:{}", registry.port());
    // Blobs come in two halves, the second ones later.
    let slow = Server::start(move |request, _| {
        let moment = if request.path.contains("/blobs/") { 250 } else { 0 };
        Reply { pause: Duration::from_millis(moment), ..forward(&upstream, request) }
    });
    let child = |dir: &Path| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--ignored", "crash::pull_until_killed"]);
        child.env("CRASH_DIRECTORY", dir).env("CRASH_URL", slow.url()).stdout(Stdio::null());
        child.stderr(Stdio::null()).spawn().unwrap()
    };
    // So many requests after which, and milliseconds later, it is killed: manifest, configuration, three layers, then
    // the first halves, the pause, the second halves, digests, names.
    let early = (0..5).flat_map(|requests| [(requests, 0), (requests, 20)]);
    let late = [0, 50, 100, 150, 200, 240, 255, 270, 285, 300, 350, 400, 3000].map(|moment| (5, moment));
    let survivor = client(&slow.url());
    let (mut with_partials, mut with_blobs, mut resumed) = (0, 0, 0);
    for (requests, moment) in early.chain(late) {
        let dir = tempfile::tempdir().unwrap();
        let before = slow.log().len();
        let mut victim = child(dir.path());
        let deadline = Instant::now() + Duration::from_secs(60);
        while slow.log().len() < before + requests {
            assert!(Instant::now() < deadline && victim.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(moment)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        // The next start: what it tidies up, and what it finds.
        let cache = BlobCache::open(dir.path()).unwrap();
        let blobs = only_whole_blobs(dir.path());
        let contents = cache.contents().await.unwrap();
        assert_eq!((contents.blobs.len(), blobs + contents.partials.len()), (blobs, names(dir.path()).len()));
        for partial in &contents.partials {
            let at = image
                .layers
                .iter()
                .position(|(_, b)| crate::fixture::sha256(b) == partial.digest.to_string());
            let (size, whole) = (partial.size as usize, &image.layers[at.unwrap()].1);
            let path = dir.path().join(format!("sha256/.{}.partial", partial.digest.hex()));
            assert!(size >= 1 << 20 && std::fs::read(path).unwrap() == whole[..size]);
        }
        assert_eq!(std::fs::read_dir(dir.path().join("used")).unwrap().count(), blobs);
        with_partials += usize::from(!contents.partials.is_empty());
        with_blobs += usize::from(blobs > 0);
        let before = slow.log().len();
        pull(&survivor, dir.path()).await;
        assert_eq!((only_whole_blobs(dir.path()), names(dir.path()).len()), (3, 3));
        let asked = slow.log().split_off(before);
        let of_blobs = asked.iter().filter(|r| r.path.contains("/blobs/"));
        let ranges = of_blobs.clone().filter(|r| r.header("range").is_some()).count();
        // The configuration, and what was missing; a whole partial needs no request.
        assert!(of_blobs.count() <= 1 + 3 - blobs && ranges <= contents.partials.len(), "{asked:?}");
        resumed += ranges;
    }
    assert!(with_partials > 0 && with_blobs > 0 && resumed > 0, "{with_partials} {with_blobs} {resumed}");
}

#[tokio::test]
async fn a_damaged_remainder_is_found_out_and_fetched_again() {
    let image = Image::simple(3_000_000, 400);
    let bytes = &image.layers[0].1;
    let mut flipped = bytes[..2_000_000].to_vec();
    flipped[1_500_000] ^= 1;
    let mut whole = bytes.clone();
    whole[7] ^= 1;
    for (left, expected) in [
        (bytes[..2_000_000].to_vec(), vec![Some("bytes=2000000-")]),
        (bytes.clone(), vec![]),
        (flipped, vec![Some("bytes=2000000-"), None]),
        (whole, vec![None]),
        (vec![0; 2_000_000], vec![Some("bytes=2000000-"), None]),
        (vec![0; 3_000_001], vec![None]),
    ] {
        let server = image.serve();
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path()).unwrap();
        let partial = dir.path().join(format!("sha256/.{}.partial", image.layer().digest.hex()));
        std::fs::write(&partial, left).unwrap();
        let blob = cache.fetch(&client(&server.url()), "a/b", &image.layer(), &|_| {}).await.unwrap();
        assert!(&std::fs::read(blob.path()).unwrap() == bytes && !partial.exists());
        let log = server.log();
        let ranges: Vec<_> = log.iter().map(|r| r.header("range")).collect();
        assert_eq!(ranges, expected);
    }
}

#[tokio::test]
async fn a_link_in_place_of_a_remainder_is_not_followed() {
    let image = Image::simple(3000, 401);
    let server = image.serve();
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let partial = dir.path().join(format!("sha256/.{}.partial", image.layer().digest.hex()));
    std::os::unix::fs::symlink(&victim, &partial).unwrap();
    cache.fetch(&client(&server.url()), "a/b", &image.layer(), &|_| {}).await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}
