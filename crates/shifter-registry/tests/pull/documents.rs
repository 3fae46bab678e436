//! What a registry may say about an image, and what we believe.

use crate::fixture::{DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST, client, sha256};
use crate::server::{Reply, Request, Server};
use sha2::{Digest as _, Sha512};
use shifter_registry::{BlobCache, Platform, RegistryError};
use std::process::Command;

fn amd64() -> Platform {
    Platform::linux("amd64")
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_head_request() {
    let image = Image::simple(100, 1);
    let server = image.serve();
    let head = client(&server.url()).head("a/b", "1").await.unwrap();
    assert_eq!(head.digest.to_string(), image.digest());
    assert_eq!(head.media_type.as_deref(), Some(OCI_MANIFEST));
    assert!(!head.private);
    let log = server.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!((log[0].method.as_str(), log[0].path.as_str()), ("HEAD", "/v2/a/b/manifests/1"));
    assert!(log[0].header("accept").unwrap().contains(OCI_INDEX) && log[0].header("authorization").is_none());
}

#[tokio::test]
async fn a_head_that_lacks_the_digest_is_followed_by_one_get() {
    for status in [200, 405] {
        let image = Image::simple(100, 1);
        let script = image.clone();
        let server = Server::start(move |request, _| match request.method.as_str() {
            "HEAD" => Reply::new(status, ""),
            _ => script.answer(request),
        });
        let head = client(&server.url()).head("a/b", "1").await.unwrap();
        assert_eq!(head.digest.to_string(), image.digest());
        assert_eq!((server.count("HEAD", ""), server.count("GET", "")), (1, 1));
    }
}

#[tokio::test]
async fn an_image_may_be_named_and_made_of_sha512_digests() {
    let mut image = Image::simple(4000, 512);
    let sha512 = |bytes: &[u8]| {
        let hex: String = Sha512::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        format!("sha512:{hex}")
    };
    let layer = image.layers[0].1.clone();
    image.config = image.config.replace(&sha256(&layer), &sha512(&layer));
    let named = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":4000}}]}}"#,
        sha512(image.config.as_bytes()),
        image.config.len(),
        sha512(&layer)
    );
    let reference = sha512(named.as_bytes());
    let (body, config, wanted, blob) =
        (named.clone(), image.config.clone(), reference.clone(), layer.clone());
    let server = Server::start(move |request, _| match request.path.rsplit('/').next().unwrap() {
        name if name == wanted => {
            Reply::new(200, body.as_bytes()).with("Docker-Content-Digest", wanted.clone())
        }
        name if name == sha512(config.as_bytes()) => Reply::new(200, config.as_bytes()),
        name if name == sha512(&blob) => Reply::new(200, blob.clone()),
        _ => Reply::new(404, ""),
    });
    let client = client(&server.url());
    let head = client.head("a/b", &reference).await.unwrap();
    assert_eq!(head.digest.to_string(), sha256(named.as_bytes()));
    let resolved = client.resolve("a/b", &reference, &amd64()).await.unwrap();
    assert_eq!(resolved.top_digest, head.digest);
    assert_eq!(resolved.config.diff_ids, [resolved.layers[0].digest.clone()]);
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    let fetched = cache.fetch(&client, "a/b", &resolved.layers[0], &|_| {}).await.unwrap();
    assert!(fetched.path().parent().unwrap().ends_with("sha512"));
    assert_eq!(std::fs::read(fetched.path()).unwrap(), layer);
}

/// Serves `body` with `headers` as `a/b:1` and whatever else is asked for from `image`.
async fn resolve_error(
    image: &Image,
    headers: &[(&str, &str)],
    body: &str,
    reference: &str,
) -> (RegistryError, Server) {
    let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let (script, body) = (image.clone(), body.to_owned());
    let server = Server::start(move |request, _| {
        if request.path.contains("/manifests/") {
            Reply { headers: headers.clone(), ..Reply::new(200, body.as_bytes()) }
        } else {
            script.answer(request)
        }
    });
    let error = client(&server.url()).resolve("a/b", reference, &amd64()).await.unwrap_err();
    (error, server)
}

#[tokio::test]
async fn documents_that_are_not_what_they_claim_are_refused() {
    let image = Image::simple(100, 1);
    let good = image.manifest.as_str();
    let digest = image.digest();
    let other = sha256(b"other");
    let docker = ("Content-Type", DOCKER_MANIFEST);
    let oci = ("Content-Type", OCI_MANIFEST);
    let schema1 = ("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws");
    let both = good.replace("\"layers\"", "\"manifests\":[],\"layers\"");
    let config = sha256(image.config.as_bytes());
    let swapped_config = good.replace(&config, &sha256(&image.layers[0].1));
    let no_config = good.replace(&config, &other);
    let longer = good.replace(&format!("\"size\":{}", image.config.len()), "\"size\":5");
    let nested = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{other}","size":3}}]}}"#
    );
    for (headers, body, reference, part) in [
        (vec![oci, ("Docker-Content-Digest", &other)], good, "1", "does not match its digest"),
        (vec![oci, ("Docker-Content-Digest", "sha256:../../../x")], good, "1", "Docker-Content-Digest"),
        (vec![oci, ("Docker-Content-Digest", "")], good, "1", "Docker-Content-Digest"),
        (vec![oci, ("Docker-Content-Digest", "md5:abc")], good, "1", "Docker-Content-Digest"),
        (vec![oci], good, &other, "does not match its digest"),
        (vec![docker], good, "1", "the registry calls it"),
        (vec![oci], &both, "1", "both an index and an image"),
        (vec![schema1], r#"{"schemaVersion":1,"fsLayers":[]}"#, "1", "schema 1"),
        (vec![oci], r#"{"schemaVersion":1,"fsLayers":[]}"#, "1", "schema 1"),
        (vec![oci], &swapped_config, "1", "bytes, got"),
        (vec![oci], &no_config, "1", "no such image"),
        (vec![oci], &longer, "1", "expected 5 bytes, got"),
        (vec![], &nested, "1", "does not match its digest"),
        (vec![("Content-Type", "text/html")], "<html>login</html>", "1", "not JSON"),
        (vec![oci], good, "not/a/tag", "not a valid tag"),
    ] {
        let (error, _) = resolve_error(&image, &headers, body, reference).await;
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(!error.is_transient() && !error.is_auth(), "{error:?}");
    }
    // The same document, told straight, passes.
    let server = image.serve();
    client(&server.url()).resolve("a/b", &digest, &amd64()).await.unwrap();
}

#[tokio::test]
async fn a_configuration_with_other_layers_than_the_manifest_is_refused() {
    let image = Image::simple(100, 1);
    let mut short = Image::simple(100, 1);
    short.config = image.config.replace(&format!("\"{}\"", sha256(&image.layers[0].1)), "");
    short.manifest = image
        .manifest
        .replace(&sha256(image.config.as_bytes()), &sha256(short.config.as_bytes()))
        .replace(&format!("\"size\":{}", image.config.len()), &format!("\"size\":{}", short.config.len()));
    let server = short.serve();
    let error = client(&server.url()).resolve("a/b", "1", &amd64()).await.unwrap_err();
    assert!(error.to_string().contains("1 layers, but 0 diff_ids"), "{error}");
}

#[tokio::test]
async fn manifests_larger_than_the_limit_are_not_read() {
    for unmeasured in [false, true] {
        let server = Server::start(move |_, _| Reply { unmeasured, ..Reply::new(200, vec![b' '; 5 << 20]) });
        let error = client(&server.url()).resolve("a/b", "1", &amd64()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read image a/b:1 on test: the manifest exceeds the limit of 4194304 bytes"
        );
    }
}

/// ST45.
#[tokio::test]
async fn busy_registries_are_asked_again_as_often_as_is_polite() {
    let image = Image::simple(100, 1);
    for (status, header, failures, expected) in [
        (503, None, 2, Ok(())),
        (500, None, 1, Ok(())),
        (429, Some("1"), 1, Ok(())),
        (429, Some("9999"), 1, Err("wants us back in 9999 s")),
        (503, Some("9999"), 1, Err("answered 503")),
        (429, None, 9, Err("limits the rate of requests")),
        (502, None, 9, Err("answered 502")),
    ] {
        let script = image.clone();
        let server = Server::start(move |request, before| {
            if before < failures {
                let reply = Reply::new(status, "");
                return header.map_or(reply.clone(), |h| reply.with("Retry-After", h));
            }
            script.answer(request)
        });
        let started = std::time::Instant::now();
        let outcome = client(&server.url()).head("a/b", "1").await;
        let requests = server.log().len();
        match (outcome, expected) {
            (Ok(_), Ok(())) => {
                assert_eq!(requests, failures + 1);
                assert!(header.is_none() || started.elapsed().as_millis() >= 1000);
            }
            (Err(error), Err(part)) => {
                assert!(error.is_transient() && error.to_string().contains(part), "{error}");
                assert_eq!(requests, if header.is_some() { 1 } else { 3 });
            }
            (outcome, _) => panic!("{status} {header:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_broken_off_is_asked_for_again() {
    let image = Image::simple(100, 1);
    let script = image.clone();
    let server = Server::start(move |request, before| {
        let reply = script.answer(request);
        if before == 0 { reply.cut_after(10) } else { reply }
    });
    let resolved = client(&server.url()).resolve("a/b", "1", &amd64()).await.unwrap();
    assert_eq!(resolved.top_digest.to_string(), image.digest());
    assert_eq!(server.count("GET", "/manifests/1"), 2);
}

/// Runs the next test with a proxy in its environment.
#[test]
fn proxies_of_the_environment_are_used() {
    let image = Image::simple(100, 1);
    let proxy = Server::start(move |request, _| {
        let path = request.path.strip_prefix("http://registry.example.org").unwrap_or("/direct").to_owned();
        image.answer(&Request { path, ..request.clone() })
    });
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--ignored", "documents::behind_a_proxy"]);
    for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "HTTP_PROXY"]
    {
        child.env_remove(name);
    }
    let output = child.env("http_proxy", proxy.url()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(proxy.log().len(), 1);
}

#[tokio::test]
#[ignore = "started by proxies_of_the_environment_are_used"]
async fn behind_a_proxy() {
    let head = client("http://registry.example.org").head("a/b", "1").await.unwrap();
    assert_eq!(head.digest.to_string(), Image::simple(100, 1).digest());
}
