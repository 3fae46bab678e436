//! Against the real docker-registry: formats, TLS, passwords.

use crate::fixture::{
    DOCKER_LIST, DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST, client, location, noise, settings, sha256,
    user,
};
use crate::registry::{Registry, Setup};
use shifter_registry::{BlobCache, Client, Compression, Location, Platform, RegistryError};

const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const OCI_PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

fn amd64() -> Platform {
    Platform::linux("amd64")
}

#[tokio::test]
async fn images_of_both_formats_and_their_indexes_are_pulled() {
    let registry = Registry::start(Setup::default());
    let docker = Image::new(DOCKER_MANIFEST, "amd64", vec![(GZIP, noise(70_000, 1)), (GZIP, noise(10, 2))]);
    let oci = Image::new(OCI_MANIFEST, "arm64", vec![(OCI_ZSTD, noise(5_000, 3)), (OCI_PLAIN, noise(0, 4))]);
    registry.push(&docker, "docker").await;
    registry.push(&oci, "oci").await;
    let client = client(&registry.url());
    for (list_type, tag) in [(OCI_INDEX, "oci-index"), (DOCKER_LIST, "docker-list")] {
        let entry = |image: &Image, architecture: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                image.media_type,
                image.digest(),
                image.manifest.len()
            )
        };
        let list = format!(
            r#"{{"schemaVersion":2,"mediaType":"{list_type}","manifests":[{},{}]}}"#,
            entry(&oci, "arm64"),
            entry(&docker, "amd64")
        );
        registry.push_manifest(tag, list_type, &list).await;
        let resolved = client.resolve("a/b", tag, &amd64()).await.unwrap();
        assert_eq!(resolved.top_digest.to_string(), sha256(list.as_bytes()));
        assert_eq!(resolved.manifest_digest.to_string(), docker.digest());
        assert_eq!(resolved.config.architecture, "amd64");
        let head = client.head("a/b", tag).await.unwrap();
        assert_eq!((head.digest, head.media_type.as_deref()), (resolved.top_digest, Some(list_type)));
        let missing = client.resolve("a/b", tag, &Platform::linux("s390x")).await.unwrap_err();
        assert_eq!(
            missing.to_string(),
            format!(
                "cannot read image a/b:{tag} on test: the image has no linux/s390x variant; \
                 it offers linux/arm64, linux/amd64"
            )
        );
    }
    for (image, reference, platform, compression) in [
        (&docker, "docker", amd64(), [Compression::Gzip, Compression::Gzip]),
        (&docker, &docker.digest(), amd64(), [Compression::Gzip, Compression::Gzip]),
        (&oci, "oci", Platform::linux("arm64"), [Compression::Zstd, Compression::None]),
    ] {
        let resolved = client.resolve("a/b", reference, &platform).await.unwrap();
        assert_eq!(resolved.top_digest.to_string(), image.digest());
        assert_eq!(resolved.manifest_digest, resolved.top_digest);
        assert_eq!(resolved.config_digest.to_string(), sha256(image.config.as_bytes()));
        assert_eq!(resolved.config.env, ["PATH=/bin"]);
        assert_eq!(resolved.platform, platform);
        assert!(!resolved.private);
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path()).unwrap();
        for ((layer, (_, bytes)), compression) in resolved.layers.iter().zip(&image.layers).zip(compression) {
            assert_eq!(layer.compression, compression);
            let blob = cache.fetch(&client, "a/b", layer, &|_| {}).await.unwrap();
            assert_eq!(blob.path(), dir.path().join("sha256").join(layer.digest.hex()));
            assert_eq!(&std::fs::read(blob.path()).unwrap(), bytes);
        }
    }
    let wrong = client.resolve("a/b", "oci", &amd64()).await.unwrap_err().to_string();
    assert!(wrong.ends_with("the image has no linux/amd64 variant; it offers linux/arm64"), "{wrong}");
}

#[tokio::test]
async fn the_variant_that_a_system_can_run_is_chosen_and_recorded() {
    let registry = Registry::start(Setup::default());
    let images: Vec<_> = (0..4).map(|n| Image::simple(100, 50 + n)).collect();
    let variants = ["v4", "v3", "v2", ""];
    let mut entries = Vec::new();
    for (image, variant) in images.iter().zip(variants) {
        registry.push(image, &image.digest()).await;
        let variant = if variant.is_empty() { String::new() } else { format!(r#","variant":"{variant}""#) };
        entries.push(format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"amd64"{variant}}}}}"#,
            image.digest(),
            image.manifest.len()
        ));
    }
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
    registry.push_manifest("1", OCI_INDEX, &index).await;
    let client = client(&registry.url());
    for (wanted, expected) in [("v3", 1), ("v2", 2), ("", 3), ("v9", 0)] {
        let variant = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let system = Platform { variant: variant(wanted), ..amd64() };
        let resolved = client.resolve("a/b", "1", &system).await.unwrap();
        assert_eq!(resolved.manifest_digest.to_string(), images[expected].digest(), "{wanted}");
        assert_eq!(resolved.platform, Platform { variant: variant(variants[expected]), ..amd64() });
        assert_eq!(resolved.top_digest.to_string(), sha256(index.as_bytes()));
    }
}

#[tokio::test]
async fn a_private_ca_is_trusted_only_where_it_is_named() {
    let registry = Registry::start(Setup { tls: true, ..Setup::default() });
    let image = Image::simple(1000, 5);
    registry.push(&image, "1").await;
    let trusting = Location { sslcacert: Some(registry.ca()), ..location(&registry.url()) };
    let client = Client::new(trusting, None, settings()).unwrap();
    assert_eq!(client.head("a/b", "1").await.unwrap().digest.to_string(), image.digest());
    client.resolve("a/b", "1", &amd64()).await.unwrap();

    let stranger = Client::new(location(&registry.url()), None, settings()).unwrap();
    let error = stranger.head("a/b", "1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }) && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("sslcacert"), "{error}");
}

#[test]
fn a_bad_ca_file_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    for (name, content, part) in [
        ("missing.pem", None, "No such file"),
        ("empty.pem", Some(""), "no certificate in it"),
        ("text.pem", Some("hello"), "no certificate in it"),
        ("wrong.pem", Some(not_der), "certificate 1"),
        ("cut.pem", Some("-----BEGIN CERTIFICATE-----\naGVs"), "cut.pem"),
    ] {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let location = Location { sslcacert: Some(path), ..Location::named("quay.io") };
        let error = Client::new(location, None, settings()).err();
        let text = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(text.starts_with("cannot use CA certificates ") && text.contains(part), "{name}: {text}");
    }
}

#[tokio::test]
async fn passwords_are_asked_for_checked_and_kept_per_client() {
    let registry = Registry::start(Setup { htpasswd: Some(("alice", "pa:ss word")), ..Setup::default() });
    let image = Image::simple(3000, 6);
    registry.push(&image, "1").await;
    let make = |credentials| Client::new(location(&registry.url()), credentials, settings()).unwrap();

    let alice = make(user("pa:ss word"));
    let head = alice.head("a/b", "1").await.unwrap();
    assert!(head.private && head.digest.to_string() == image.digest());
    let resolved = alice.resolve("a/b", "1", &amd64()).await.unwrap();
    assert!(resolved.private);
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let layer = &resolved.layers[0];
    cache.fetch(&alice, "a/b", layer, &|_| {}).await.unwrap();

    // After one good login, nobody else is let in.
    for (credentials, part) in
        [(None, "shifterimg login"), (user("pa"), "rejects the user name and password")]
    {
        let (other, sibling) = (make(credentials.clone()), alice.for_caller(credentials));
        for error in [
            other.head("a/b", "1").await.unwrap_err(),
            other.resolve("a/b", "1", &amd64()).await.unwrap_err(),
            sibling.head("a/b", "1").await.unwrap_err(),
            sibling.resolve("a/b", "1", &amd64()).await.unwrap_err(),
        ] {
            assert!(error.is_auth() && !error.is_transient(), "{error:?}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    assert!(alice.for_caller(user("pa:ss word")).head("a/b", "1").await.unwrap().private);
    let unknown = alice.resolve("a/b", "nosuch", &amd64()).await.unwrap_err();
    assert!(unknown.is_not_found(), "{unknown:?}");
}

#[tokio::test]
async fn absent_images_and_absent_registries_are_told_apart() {
    let registry = Registry::start(Setup::default());
    let url = registry.url();
    let client = client(&url);
    let error = client.resolve("a/nosuch", "1", &amd64()).await.unwrap_err();
    assert!(error.is_not_found() && !error.is_transient(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "cannot read image a/nosuch:1 on test: the registry has no such image (MANIFEST_UNKNOWN)"
    );
    assert!(client.head("a/nosuch", "1").await.unwrap_err().is_not_found());
    drop(registry);
    let error = client.head("a/b", "1").await.unwrap_err();
    assert!(error.is_transient() && !error.is_not_found(), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layers_of_a_pull_are_fetched_by_parallel_tasks() {
    use std::sync::Arc;
    let registry = Registry::start(Setup { htpasswd: Some(("alice", "s3cret")), ..Setup::default() });
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers: Vec<_> = (0..12).map(|n| (kind, noise(40_000, 100 + n))).collect();
    let image = Image::new(OCI_MANIFEST, "amd64", layers);
    registry.push(&image, "1").await;
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(BlobCache::open(dir.path()).unwrap());
    let client = Arc::new(Client::new(location(&registry.url()), user("s3cret"), settings()).unwrap());
    let resolver = Arc::clone(&client);
    let resolving = tokio::spawn(async move {
        resolver.head("a/b", "1").await.unwrap();
        resolver.resolve("a/b", "1", &amd64()).await
    });
    let resolved = resolving.await.unwrap().unwrap();
    let fetches = resolved.layers.into_iter().map(|layer| {
        let (cache, client) = (Arc::clone(&cache), Arc::clone(&client));
        tokio::spawn(async move { cache.fetch(&client, "a/b", &layer, &|_| {}).await })
    });
    let blobs = futures_util::future::join_all(fetches).await;
    for (blob, (_, bytes)) in blobs.into_iter().zip(&image.layers) {
        assert!(&std::fs::read(blob.unwrap().unwrap().path()).unwrap() == bytes);
    }
}
