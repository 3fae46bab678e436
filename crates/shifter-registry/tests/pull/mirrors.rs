//! Mirrors: content comes from them, decisions and passwords do not.

use crate::fixture::{Image, OCI_MANIFEST, location, noise, settings, sha256, user};
use crate::registry::{Registry, Setup};
use crate::server::{Reply, Server, forward};
use shifter_registry::{BlobCache, Client, Location, Mirror, Platform};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

fn amd64() -> Platform {
    Platform::linux("amd64")
}

fn mirrored(origin: &str, mirrors: &[String]) -> Location {
    let mirrors = mirrors.iter().map(|url| Mirror { url: url.clone(), sslcacert: None }).collect();
    Location { mirrors, ..location(origin) }
}

/// Pulls `a/b:1` whole and compares it with `image`.
async fn pull(client: &Client, image: &Image) {
    let resolved = client.resolve("a/b", "1", &amd64()).await.unwrap();
    assert_eq!(resolved.top_digest.to_string(), image.digest());
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    for (layer, (_, bytes)) in resolved.layers.iter().zip(&image.layers) {
        let blob = cache.fetch(client, "a/b", layer, &|_| {}).await.unwrap();
        assert!(&std::fs::read(blob.path()).unwrap() == bytes);
    }
    assert_eq!(crate::faults::only_whole_blobs(dir.path()), image.layers.len());
}

#[tokio::test]
async fn a_pull_through_mirror_spares_the_registry_everything_but_the_question() {
    let registry = Registry::start(Setup::default());
    let image = Image::new(OCI_MANIFEST, "amd64", vec![(TAR, noise(50_000, 1)), (TAR, noise(50_000, 2))]);
    registry.push(&image, "1").await;
    let origin_url = registry.url();
    let mirror = Registry::start(Setup { mirror_of: Some(&origin_url), ..Setup::default() });
    let upstream = format!("localhost:{}", registry.port());
    let origin = Server::start(move |request, _| forward(&upstream, request));
    let client = Client::new(mirrored(&origin.url(), &[mirror.url()]), None, settings()).unwrap();
    pull(&client, &image).await;
    let asked: Vec<_> = origin.log().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(asked, ["HEAD /v2/a/b/manifests/1"]);
    // What the registry named to a caller by that question is not asked for again; to another caller it is.
    let (before, digest) = (origin.log().len(), image.digest());
    let named = client.for_caller(None);
    named.head("a/b", "1").await.unwrap();
    named.resolve("a/b", &digest, &amd64()).await.unwrap();
    assert_eq!(origin.log().len(), before + 1);
    client.for_caller(None).resolve("a/b", &digest, &amd64()).await.unwrap();
    assert_eq!(origin.log().len(), before + 2);
}

#[tokio::test]
async fn mirrors_that_fail_are_replaced_by_the_registry_and_see_no_password() {
    let registry = Registry::start(Setup { htpasswd: Some(("alice", "s3cret")), ..Setup::default() });
    let image = Image::new(OCI_MANIFEST, "amd64", vec![(TAR, noise(3_000_000, 3)), (TAR, noise(500, 4))]);
    registry.push(&image, "1").await;
    let layer = sha256(&image.layers[0].1);
    // What a mirror makes of the honest answer.
    let behavior = |name: &'static str, reply: Reply| match name {
        "empty" => Reply::new(404, ""),
        "closed" => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"m\""),
        "broken" => Reply::new(500, ""),
        "mute" => Reply { mute: true, ..reply },
        "short" => Reply { cut: (reply.body.len() > 1_000_000).then_some(2_000_000), ..reply },
        "odd" => Reply { headers: vec![("Content-Type".into(), "text/html".into())], ..reply },
        "corrupt" => {
            let mut body = reply.body;
            let half = body.len() / 2;
            body.iter_mut().skip(half).take(1).for_each(|byte| *byte ^= 1);
            Reply { body, ..reply }
        }
        _ => reply,
    };
    for name in ["honest", "empty", "closed", "broken", "mute", "short", "odd", "corrupt"] {
        let stored = image.clone();
        let mirror = Server::start(move |request, _| behavior(name, stored.answer(request)));
        let upstream = format!("localhost:{}", registry.port());
        let origin = Server::start(move |request, _| forward(&upstream, request));
        let nowhere = "http://127.0.0.1:1".to_owned();
        let place = mirrored(&origin.url(), &[nowhere, mirror.url()]);
        let client = Client::new(place, user("s3cret"), settings()).unwrap();
        pull(&client, &image).await;
        assert!(!mirror.log().is_empty(), "{name}");
        assert!(
            mirror.log().iter().all(|r| r.header("authorization").is_none()),
            "{name}: {:?}",
            mirror.log()
        );
        let from_origin = origin.log().into_iter().filter(|r| r.path.ends_with(&layer)).collect::<Vec<_>>();
        let spared = matches!(name, "honest" | "odd");
        assert_eq!(from_origin.is_empty(), spared, "{name}: {from_origin:?}");
        if name == "short" {
            // What the mirror sent is not fetched again.
            assert!(from_origin.iter().all(|r| r.header("range").is_some()), "{from_origin:?}");
        }
        // One that did not answer is not asked for each thing anew.
        let expected = match name {
            "broken" | "mute" => 1,
            "short" => 3,
            _ => 4,
        };
        assert_eq!(mirror.log().len(), expected, "{name}: {:?}", mirror.log());
    }
}

#[tokio::test]
async fn a_mirror_does_not_open_what_the_registry_keeps_private() {
    let registry = Registry::start(Setup { htpasswd: Some(("alice", "s3cret")), ..Setup::default() });
    let image = Image::simple(1000, 5);
    registry.push(&image, "1").await;
    let mirror = image.serve();
    let place = mirrored(&registry.url(), &[mirror.url()]);
    let digest = image.digest();
    for credentials in [None, user("wrong")] {
        let client = Client::new(place.clone(), credentials, settings()).unwrap();
        for reference in ["1", &digest] {
            assert!(client.head("a/b", reference).await.unwrap_err().is_auth());
            assert!(client.resolve("a/b", reference, &amd64()).await.unwrap_err().is_auth());
        }
    }
    assert_eq!(mirror.log().len(), 0);
    let alice = Client::new(place, user("s3cret"), settings()).unwrap();
    assert!(alice.resolve("a/b", &digest, &amd64()).await.unwrap().private);
    // Nor does a client made from one that was let in.
    let other = alice.for_caller(None);
    assert!(other.resolve("a/b", &digest, &amd64()).await.unwrap_err().is_auth());
}

#[tokio::test]
async fn a_mirror_that_is_late_does_not_decide_what_a_tag_means() {
    let (old, new) = (Image::simple(1000, 6), Image::simple(1000, 7));
    let (mirror, origin) = (old.serve(), new.serve());
    let client = Client::new(mirrored(&origin.url(), &[mirror.url()]), None, settings()).unwrap();
    pull(&client, &new).await;
    assert_eq!(mirror.count("GET", "/manifests/1"), 0);
}
