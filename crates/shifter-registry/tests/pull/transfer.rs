//! Layers over bad lines and from bad registries.

use crate::fixture::{Image, OCI_MANIFEST, client, location, noise, settings, sha256};
use crate::server::{Reply, Server};
use shifter_registry::{BlobCache, Client, Platform, Progress, RegistryError, Settings};
use std::path::Path;
use std::sync::Mutex;

/// All names below the cache directory's `sha256`.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("sha256")).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Fetches the image's layer with all progress; asserts that nothing but a whole blob is left, or what may be taken
/// up again.
async fn fetch(image: &Image, server: &Server) -> (Result<Vec<u8>, RegistryError>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let seen = Mutex::new(Vec::new());
    let client = client(&server.url());
    let note = |p: Progress| {
        assert_eq!((p.total, p.cached), (image.layer().size, false));
        seen.lock().unwrap().push(p.received);
    };
    let outcome = cache.fetch(&client, "a/b", &image.layer(), &note).await;
    let outcome = outcome.map(|blob| std::fs::read(blob.path()).unwrap());
    let hex = image.layer().digest.hex().to_owned();
    let expected = match &outcome {
        Ok(_) => vec![hex],
        Err(e) if e.is_transient() && seen.lock().unwrap().last() > Some(&(1 << 20)) => {
            vec![format!(".{hex}.partial")]
        }
        Err(_) => vec![],
    };
    assert_eq!(names(dir.path()), expected);
    (outcome, seen.into_inner().unwrap())
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let image = Image::simple(3_000_000, 1);
    let script = image.clone();
    let server = Server::start(move |request, before| {
        let reply = script.answer(request);
        if before < 2 { reply.cut_after(1_000_000) } else { reply }
    });
    let (outcome, progress) = fetch(&image, &server).await;
    assert!(outcome.unwrap() == image.layers[0].1);
    let starts: Vec<_> = server.log().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[0].is_none(), "{starts:?}");
    for (start, at_least) in [(&starts[1], 500_000), (&starts[2], 1_000_000)] {
        let start = start.as_deref().unwrap().strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        assert!(start.parse::<u64>().unwrap() > at_least, "{starts:?}");
    }
    assert!(progress.is_sorted() && progress.last() == Some(&3_000_000), "{progress:?}");
}

#[tokio::test]
async fn a_registry_that_cannot_resume_is_read_from_the_start_again() {
    for status in [200, 416] {
        let image = Image::simple(900_000, 2);
        let script = image.clone();
        let server = Server::start(move |request, before| match (before, request.header("range")) {
            (0, _) => Reply::new(200, script.layers[0].1.clone()).cut_after(600_000),
            (_, Some(_)) if status == 416 => Reply::new(416, ""),
            _ => Reply::new(200, script.layers[0].1.clone()),
        });
        let (outcome, progress) = fetch(&image, &server).await;
        assert!(outcome.unwrap() == image.layers[0].1);
        assert!(progress.contains(&0) && progress.last() == Some(&900_000), "{progress:?}");
    }
}

#[tokio::test]
async fn what_does_not_match_the_manifest_never_enters_the_cache() {
    let image = Image::simple(50_000, 3);
    let bytes = image.layers[0].1.clone();
    let mut flipped = bytes.clone();
    flipped[25_000] ^= 1;
    let short = bytes[..49_999].to_vec();
    let long = [bytes.clone(), vec![0]].concat();
    let endless = [bytes.clone(), vec![0; 4 << 20]].concat();
    let measured = |body: Vec<u8>| Reply::new(200, body);
    let unmeasured = |body: Vec<u8>| Reply { unmeasured: true, ..Reply::new(200, body) };
    for (reply, part, transient) in [
        (measured(flipped), "does not match its digest", false),
        (measured(short.clone()), "expected 50000 bytes, got 49999", false),
        (measured(long), "expected 50000 bytes, got 50001", false),
        (unmeasured(endless), "expected 50000 bytes, got", false),
        (unmeasured(short), "the transfer ended after", true),
        (measured(bytes.clone()).cut_after(0), "cannot fetch layer a/b@sha256:", true),
        (Reply::new(206, bytes.clone()), "got a different range", false),
        (Reply::new(404, ""), "no such image", false),
        (Reply::new(403, ""), "names no way to authenticate", false),
        (Reply::new(204, ""), "expected 50000 bytes", false),
    ] {
        let server = Server::start(move |_, _| reply.clone());
        let (outcome, _) = fetch(&image, &server).await;
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert_eq!(error.is_transient(), transient, "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_always_breaks_at_the_same_byte_is_given_up() {
    let image = Image::simple(3_000_000, 4);
    let bytes = image.layers[0].1.clone();
    let server = Server::start(move |_, _| Reply::new(200, bytes.clone()).cut_after(2_000_000));
    let (outcome, _) = fetch(&image, &server).await;
    assert!(outcome.unwrap_err().is_transient());
    // The first break had new bytes and renews the allowance of two; the others had none.
    assert!((3..=5).contains(&server.log().len()), "{}", server.log().len());
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for_forever() {
    let image = Image::simple(50_000, 5);
    let script = image.clone();
    let server = Server::start(move |request, _| Reply {
        pause: std::time::Duration::from_secs(3),
        ..script.answer(request)
    });
    let impatient =
        Settings { read_timeout: std::time::Duration::from_millis(200), retries: 0, ..settings() };
    let client = Client::new(location(&server.url()), None, impatient).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let error = cache.fetch(&client, "a/b", &image.layer(), &|_| {}).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().ends_with(": timed out"), "{error}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn foreign_layers_come_from_the_registry_or_not_at_all() {
    let elsewhere = Server::start(|_, _| Reply::new(200, noise(64, 6)));
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let mut image = Image::new(OCI_MANIFEST, "amd64", vec![(kind, noise(64, 6))]);
    let urls = format!(r#""urls":["{}/layer"],"size":64"#, elsewhere.url());
    image.manifest = image.manifest.replace("\"size\":64", &urls);
    assert!(image.manifest.contains("urls"));
    let missing = sha256(&image.layers[0].1);
    let script = image.clone();
    let server = Server::start(move |request, _| {
        if request.path.ends_with(&missing) { Reply::new(404, "") } else { script.answer(request) }
    });
    let client = client(&server.url());
    let resolved = client.resolve("a/b", "1", &Platform::linux("amd64")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let error = cache.fetch(&client, "a/b", &resolved.layers[0], &|_| {}).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert_eq!(elsewhere.log().len(), 0);
}
