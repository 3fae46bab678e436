//! The cache directory: shared, damaged, interrupted, full.

use crate::fixture::{Image, client};
use crate::server::{Reply, Server};
use crate::transfer::names;
use shifter_core::digest::Digest;
use shifter_registry::{BlobCache, LayerDescriptor};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Serves `image`, each answer taking a moment, so that others come in between.
fn slow(image: &Image, moment: Duration) -> Server {
    let image = image.clone();
    Server::start(move |request, _| Reply { pause: moment, ..image.answer(request) })
}

#[tokio::test]
async fn many_pulls_of_one_blob_are_one_download() {
    let image = Image::simple(500_000, 1);
    let server = slow(&image, Duration::from_millis(300));
    let dir = tempfile::tempdir().unwrap();
    // Two caches on one directory stand for two processes: only the file lock is between them.
    let caches = [BlobCache::open(dir.path()).unwrap(), BlobCache::open(dir.path()).unwrap()];
    let client = client(&server.url());
    let layer = image.layer();
    let pulls = (0..8).map(|n| caches[n % 2].fetch(&client, "a/b", &layer, &|_| {}));
    for outcome in futures_util::future::join_all(pulls).await {
        assert!(std::fs::read(outcome.unwrap().path()).unwrap() == image.layers[0].1);
    }
    assert_eq!(server.log().len(), 1);
    assert_eq!(names(dir.path()), [layer.digest.hex()]);
}

#[tokio::test]
async fn a_second_pull_asks_nobody() {
    let image = Image::simple(1000, 2);
    let server = image.serve();
    let dir = tempfile::tempdir().unwrap();
    let client = client(&server.url());
    for cached in [false, true] {
        let seen = AtomicBool::new(false);
        let cache = BlobCache::open(dir.path()).unwrap();
        let note = |p: shifter_registry::Progress| seen.store(p.cached, Ordering::SeqCst);
        let blob = cache.fetch(&client, "a/b", &image.layer(), &note).await.unwrap();
        assert_eq!(std::fs::metadata(blob.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(seen.load(Ordering::SeqCst), cached);
        cache.fetch(&client, "a/b", &image.layer(), &note).await.unwrap();
    }
    assert_eq!(server.log().len(), 1);
}

#[tokio::test]
async fn damaged_blobs_are_replaced() {
    let image = Image::simple(1000, 3);
    let server = image.serve();
    let client = client(&server.url());
    let mut flipped = image.layers[0].1.clone();
    flipped[500] ^= 1;
    for content in [flipped, image.layers[0].1[..999].to_vec(), Vec::new()] {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path()).unwrap();
        let path = cache.path(&image.layer().digest);
        std::fs::write(&path, &content).unwrap();
        cache.fetch(&client, "a/b", &image.layer(), &|_| {}).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == image.layers[0].1);
        // Also behind the back of the process that verified it.
        std::fs::write(&path, &content).unwrap();
        cache.fetch(&client, "a/b", &image.layer(), &|_| {}).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == image.layers[0].1);
    }
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_size_does_not_evict_a_good_blob() {
    let image = Image::simple(1000, 4);
    let server = image.serve();
    let client = client(&server.url());
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let blob = cache.fetch(&client, "a/b", &image.layer(), &|_| {}).await.unwrap();
    let liar = LayerDescriptor { size: 7, ..image.layer() };
    let error = cache.fetch(&client, "a/b", &liar, &|_| {}).await.unwrap_err().to_string();
    assert!(error.ends_with("expected 7 bytes, got 1000"), "{error}");
    assert!(blob.path().exists());
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_and_does_not_block() {
    let image = Image::simple(1000, 5);
    let server = image.serve();
    let client = client(&server.url());
    let hex = image.layer().digest.hex().to_owned();
    let dir = tempfile::tempdir().unwrap();
    BlobCache::open(dir.path()).unwrap();
    let litter = || {
        for suffix in ["partial", "lock"] {
            std::fs::write(dir.path().join(format!("sha256/.{hex}.{suffix}")), "half").unwrap();
        }
    };
    litter();
    let cache = BlobCache::open(dir.path()).unwrap();
    assert_eq!(names(dir.path()), Vec::<String>::new());
    litter();
    cache.fetch(&client, "a/b", &image.layer(), &|_| {}).await.unwrap();
    assert_eq!(names(dir.path()), [hex]);
}

#[tokio::test]
async fn a_pull_given_up_leaves_nothing() {
    let image = Image::simple(2_000_000, 6);
    let server = slow(&image, Duration::from_secs(2));
    let client = client(&server.url());
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let layer = image.layer();
    let started = tokio::sync::Notify::new();
    let note = |p: shifter_registry::Progress| {
        if p.received > 0 {
            assert!(!names(dir.path()).is_empty());
            started.notify_one();
        }
    };
    tokio::select! {
        outcome = cache.fetch(&client, "a/b", &layer, &note) => panic!("{outcome:?}"),
        () = started.notified() => {}
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while !names(dir.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", names(dir.path()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn the_directory_is_closed_to_other_writers() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("new/sha256");
    BlobCache::open(&dir.path().join("new")).unwrap();
    let mode = || std::fs::metadata(&blobs).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o700);
    std::fs::set_permissions(&blobs, std::fs::Permissions::from_mode(0o777)).unwrap();
    BlobCache::open(&dir.path().join("new")).unwrap();
    assert_eq!(mode(), 0o755);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = BlobCache::open(&file).unwrap_err().to_string();
    assert!(error.starts_with("cannot open blob cache "), "{error}");
}

/// Runs the next test in a mount namespace with a file system of one mebibyte.
/// ST47.
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=1m none \"$0\" && exec \"$1\" --exact --ignored cache::on_a_small_disk";
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut unshare = Command::new("unshare");
    unshare.arg(if is_root { "-m" } else { "-rm" }).args(["sh", "-ec", script]);
    unshare.arg(dir.path()).arg(std::env::current_exe().unwrap()).env("SMALL_DISK", dir.path());
    let output = unshare.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "started by a_full_disk_is_told_and_leaves_nothing"]
async fn on_a_small_disk() {
    let dir = std::path::PathBuf::from(std::env::var_os("SMALL_DISK").unwrap());
    let image = Image::simple(2 << 20, 7);
    let server = image.serve();
    let cache = BlobCache::open(&dir).unwrap();
    let error = cache.fetch(&client(&server.url()), "a/b", &image.layer(), &|_| {}).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot write blob ") && text.contains("free space there"), "{text}");
    assert!(!error.is_transient());
    assert_eq!(names(&dir), Vec::<String>::new());
    let small = Image::simple(1000, 8);
    let server = small.serve();
    cache.fetch(&client(&server.url()), "a/b", &small.layer(), &|_| {}).await.unwrap();
}

#[tokio::test]
async fn sha512_blobs_have_their_own_directory() {
    // SHA-512 of "abc" (FIPS 180-4).
    let hex = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
               2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let server = Server::start(|_, _| Reply::new(200, "abc"));
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let digest = Digest::parse(&format!("sha512:{hex}")).unwrap();
    let layer = LayerDescriptor { digest, size: 3, compression: shifter_registry::Compression::None };
    let blob = cache.fetch(&client(&server.url()), "a/b", &layer, &|_| {}).await.unwrap();
    assert_eq!(blob.path(), dir.path().join("sha512").join(hex));
}
