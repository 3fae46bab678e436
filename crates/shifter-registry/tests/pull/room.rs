//! The cache's size: what goes when it becomes too much, and what never does.

use crate::fixture::{Image, client, noise};
use crate::server::{Reply, Server};
use crate::transfer::names;
use shifter_core::digest::Digest;
use shifter_registry::{Blob, BlobCache, Client, LayerDescriptor};
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A registry with blobs of a size, each by its digest.
struct Blobs {
    layers: Vec<LayerDescriptor>,
    _server: Server,
    client: Client,
}

impl Blobs {
    fn new(count: u64, size: usize) -> Self {
        let images: Vec<Image> = (0..count).map(|n| Image::simple(size, 1000 + n)).collect();
        let layers = images.iter().map(Image::layer).collect();
        let server = Server::start(move |request, _| {
            let answers = images.iter().map(|image| image.answer(request));
            answers.into_iter().find(|reply| reply.status != 404).unwrap_or(Reply::new(404, ""))
        });
        let client = client(&server.url());
        Self { layers, _server: server, client }
    }

    async fn fetch(&self, cache: &BlobCache, number: usize) -> Blob {
        cache.fetch(&self.client, "a/b", &self.layers[number], &|_| {}).await.unwrap()
    }

    /// Which of the blobs the cache has.
    fn there(&self, cache: &BlobCache) -> Vec<usize> {
        (0..self.layers.len()).filter(|n| cache.path(&self.layers[*n].digest).exists()).collect()
    }
}

/// Makes a blob look unused for some hours.
fn age(dir: &Path, digest: &Digest, hours: u64) {
    let stamp = dir.join("used").join(digest.to_string().replace(':', "-"));
    let file = std::fs::File::options().write(true).open(stamp).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
}

#[tokio::test]
async fn what_was_unused_for_the_longest_time_goes_first() {
    let blobs = Blobs::new(5, 10_000);
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap().limited_to(40_000);
    for (number, hours) in [(0, 2), (1, 4), (2, 3), (3, 1)] {
        blobs.fetch(&cache, number).await;
        age(dir.path(), &blobs.layers[number].digest, hours);
    }
    assert_eq!(blobs.there(&cache), [0, 1, 2, 3]);
    // Being used again counts as use, also by another process.
    blobs.fetch(&BlobCache::open(dir.path()).unwrap(), 1).await;
    blobs.fetch(&cache, 4).await;
    assert_eq!(blobs.there(&cache), [0, 1, 3, 4]);
    let contents = cache.contents().await.unwrap();
    assert_eq!((contents.blobs.len(), contents.partials.len(), contents.size()), (4, 0, 40_000));
    assert_eq!(contents.blobs[0].digest, blobs.layers[0].digest);
    let collected = cache.collect(15_000).await.unwrap();
    let removed: Vec<_> = [0, 3, 1].iter().map(|n: &usize| blobs.layers[*n].digest.clone()).collect();
    assert_eq!((collected.removed, collected.freed, collected.left), (removed, 30_000, 10_000));
    assert_eq!(blobs.there(&cache), [4]);
    // What was removed comes again when it is wanted.
    blobs.fetch(&cache, 0).await;
    assert_eq!(std::fs::read_dir(dir.path().join("used")).unwrap().count(), 2);
}

#[tokio::test]
async fn what_a_job_holds_is_never_collected_by_anybody() {
    let blobs = Blobs::new(4, 10_000);
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap().limited_to(15_000);
    let other = BlobCache::open(dir.path()).unwrap();
    let held = [blobs.fetch(&cache, 0).await, blobs.fetch(&cache, 1).await];
    for number in [0, 1] {
        age(dir.path(), &blobs.layers[number].digest, 100);
    }
    // A job needs more than the limit: it gets it.
    blobs.fetch(&cache, 2).await;
    assert_eq!(blobs.there(&cache), [0, 1, 2]);
    for cache in [&cache, &other] {
        cache.collect(0).await.unwrap();
        assert_eq!(blobs.there(cache), [0, 1]);
    }
    assert!(held.iter().all(|blob| blob.path().exists()));
    drop(held);
    other.collect(0).await.unwrap();
    assert_eq!(blobs.there(&cache), Vec::<usize>::new());
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pulls_and_collections_at_the_same_time_never_lose_a_held_blob() {
    let blobs = std::sync::Arc::new(Blobs::new(6, 2000));
    let dir = tempfile::tempdir().unwrap();
    let contents: HashSet<Vec<u8>> = (0..6).map(|n| noise(2000, 1000 + n)).collect();
    let contents = std::sync::Arc::new(contents);
    let tasks = (0..8).map(|task| {
        let (blobs, contents) = (std::sync::Arc::clone(&blobs), std::sync::Arc::clone(&contents));
        let cache = BlobCache::open(dir.path()).unwrap().limited_to(4000);
        tokio::spawn(async move {
            for round in 0..25 {
                let blob = blobs.fetch(&cache, (task * 7 + round * 5) % 6).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
                if round % 5 == 0 {
                    cache.collect(0).await.unwrap();
                }
                assert!(contents.contains(&std::fs::read(blob.path()).unwrap()));
            }
        })
    });
    for outcome in futures_util::future::join_all(tasks).await {
        outcome.unwrap();
    }
    BlobCache::open(dir.path()).unwrap().collect(0).await.unwrap();
    assert_eq!(names(dir.path()), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(dir.path().join("used")).unwrap().count(), 0);
}

#[tokio::test]
async fn unfinished_downloads_are_listed_bounded_and_first_to_go() {
    let blobs = Blobs::new(1, 10_000);
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    blobs.fetch(&cache, 0).await;
    let litter = |number: usize, bytes: usize, days: u64| {
        let path = dir.path().join(format!("sha256/.{number:064x}.partial"));
        std::fs::write(&path, vec![0; bytes]).unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 86_400 + number as u64);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    };
    (0..70).for_each(|number| litter(number, 1 << 20, 0));
    litter(100, 1 << 20, 8);
    litter(101, 1000, 0);
    let cache = BlobCache::open(dir.path()).unwrap();
    let partials = cache.contents().await.unwrap().partials;
    assert_eq!(partials.len(), 64);
    // The oldest are gone, and of the others the oldest comes first.
    assert_eq!(partials[0].digest.hex(), format!("{:064x}", 63));
    assert_eq!((partials[0].size, partials[63].digest.hex()), (1 << 20, &*format!("{:064x}", 0)));
    let collected = cache.collect(3 << 20).await.unwrap();
    assert_eq!((collected.removed.len(), cache.contents().await.unwrap().partials.len()), (0, 2));
    assert_eq!(blobs.there(&cache), [0]);
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let others = ["README", ".hidden", "abc.partial", "a.lock", ".a.lock"].map(|n| format!("sha256/{n}"));
    for name in others.iter().map(String::as_str).chain(["note", "used/note"]) {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    BlobCache::open(dir.path()).unwrap();
    let collected = cache.collect(0).await.unwrap();
    assert_eq!((collected.freed, names(dir.path()).len()), (0, 5));
    assert!(dir.path().join("note").exists() && dir.path().join("used/note").exists());
}
