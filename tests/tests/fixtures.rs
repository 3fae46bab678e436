//! The fixtures are what they claim to be, judged by parts that are not ours: docker-registry, curl, tar, chroot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use anyhow::Result;
use shifter_tests::fixture::{
    Built, Fault, Server, build_named, busybox_image, digest_of, names, request, write_oci_layout,
};
use shifter_tests::harness::{RegistryOptions, Sandbox};

/// What curl prints of a URL, as root of the sandbox.
fn curl(sandbox: &Sandbox, words: &[&str]) -> Result<Vec<u8>> {
    let mut all = vec!["curl", "--silent", "--show-error", "--fail", "--max-time", "30"];
    all.extend(words);
    let outcome = sandbox.root().run(&all)?;
    anyhow::ensure!(outcome.status.success(), "{}", outcome.describe());
    Ok(outcome.stdout)
}

#[test]
fn every_fixture_is_accepted_by_a_registry_and_read_back_unchanged() {
    let mut sandbox = Sandbox::new().unwrap();
    let registry = sandbox.registry(RegistryOptions::default()).unwrap();
    for (name, _) in names() {
        let built = build_named(name).unwrap();
        sandbox.push(&registry, &built, &format!("fixtures/{name}"), "1").unwrap();
        let base = format!("{}/v2/fixtures/{name}", registry.url);
        let accept = format!("Accept: {}", built.manifests[&built.top].media_type);
        let manifest = curl(&sandbox, &["-H", &accept, &format!("{base}/manifests/1")]).unwrap();
        assert_eq!(digest_of(&manifest), built.top, "{name}");
        for digest in built.blobs.keys() {
            let blob = curl(&sandbox, &["--location", &format!("{base}/blobs/{digest}")]).unwrap();
            assert_eq!(digest_of(&blob), *digest, "{name}");
        }
    }
    sandbox.finish().unwrap();
}

#[test]
fn a_registry_with_a_private_authority_is_refused_without_its_certificate() {
    let mut sandbox = Sandbox::new().unwrap();
    let registry = sandbox.registry(RegistryOptions { tls: true, ..RegistryOptions::default() }).unwrap();
    let url = format!("{}/v2/", registry.url);
    let ca = registry.ca.as_ref().unwrap().display().to_string();
    assert_eq!(curl(&sandbox, &["--cacert", &ca, &url]).unwrap(), b"{}");
    let refused = curl(&sandbox, &[&url]).unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
    sandbox.finish().unwrap();
}

#[test]
fn a_registry_behind_htpasswd_lets_only_its_user_in() {
    let mut sandbox = Sandbox::new().unwrap();
    let login = Some(("ada", "pass:word"));
    let registry =
        sandbox.registry(RegistryOptions { tls: true, login, ..RegistryOptions::default() }).unwrap();
    let built = busybox_image().unwrap();
    sandbox.push(&registry, &built, "private", "1").unwrap();
    let url = format!("{}/v2/private/manifests/1", registry.url);
    let ca = registry.ca.as_ref().unwrap().display().to_string();
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let shown = curl(&sandbox, &["--cacert", &ca, "-H", accept, "--user", "ada:pass:word", &url]).unwrap();
    assert_eq!(digest_of(&shown), built.top);
    for arguments in [vec!["--user", "ada:wrong"], vec![]] {
        let words: Vec<&str> = ["--cacert", &ca, "-H", accept, &url].into_iter().chain(arguments).collect();
        let refused = curl(&sandbox, &words).unwrap_err().to_string();
        assert!(refused.contains("401"), "{refused}");
    }
    sandbox.finish().unwrap();
}

#[test]
fn the_busybox_image_runs_as_an_ordinary_user() {
    let mut sandbox = Sandbox::new().unwrap();
    for name in ["busybox", "debian-like"] {
        let built = build_named(name).unwrap();
        let root = sandbox.new_directory("root").unwrap();
        let layer = built.layer_digests().pop().unwrap();
        let unpack = sandbox.root().directory(&root).stdin(&built.blobs[&layer]);
        unpack.run(&["tar", "-xzpf", "-"]).unwrap().success().unwrap();
        let root = root.display().to_string();
        let script = "cat /etc/os-release; id -u; id -g";
        let words = ["chroot", "--userspec=4201:4201", "--groups=", &root, "/bin/sh", "-c", script];
        let shown = sandbox.root().run(&words).unwrap().success().unwrap();
        assert!(shown.contains("Shifter fixture image"), "{shown}");
        assert!(shown.ends_with("4201\n4201\n"), "{shown}");
    }
    sandbox.finish().unwrap();
}

#[test]
fn a_debian_like_image_has_debians_top_level() {
    let mut sandbox = Sandbox::new().unwrap();
    let built = build_named("debian-like").unwrap();
    let layer = built.layer_digests().pop().unwrap();
    let root = sandbox.new_directory("root").unwrap();
    let unpack = sandbox.root().directory(&root).stdin(&built.blobs[&layer]);
    unpack.run(&["tar", "-xzpf", "-"]).unwrap().success().unwrap();
    let mut seen: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    seen.sort();
    let expected = [
        "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "proc", "root", "run",
        "sbin", "srv", "sys", "tmp", "usr", "var",
    ];
    assert_eq!(seen, expected);
    let files = std::fs::read_dir(root.join("etc")).unwrap();
    let files = files.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file()).count();
    assert!((55..=65).contains(&files), "{files} files in etc");
    sandbox.finish().unwrap();
}

#[test]
fn an_oci_layout_names_its_blobs_by_their_content() {
    let mut sandbox = Sandbox::new().unwrap();
    let built = build_named("multi-arch").unwrap();
    let directory = sandbox.new_directory("layout").unwrap();
    write_oci_layout(&built, &directory, "1").unwrap();
    let mut blobs = 0;
    for entry in std::fs::read_dir(directory.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(digest_of(&std::fs::read(entry.path()).unwrap()), format!("sha256:{name}"));
        blobs += 1;
    }
    assert_eq!(blobs, built.blobs.len() + built.manifests.len());
    sandbox.finish().unwrap();
}

/// Status, digest header and body of a GET.
fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String, Vec<u8>)> {
    let response = request(&server.authority(), "GET", path, headers, b"")?;
    let digest = response.header("docker-content-digest").unwrap_or_default().to_owned();
    Ok((response.status, digest, response.body))
}

#[test]
fn the_fixture_registry_serves_what_it_was_given_and_keeps_a_log() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("a/b", "1", &built)], &[]).unwrap();
    let (status, digest, body) = get(&server, "/v2/a/b/manifests/1", &[]).unwrap();
    assert_eq!(
        (status, digest.as_str(), digest_of(&body).as_str()),
        (200, built.top.as_str(), built.top.as_str())
    );
    let layer = built.layer_digests().pop().unwrap();
    let path = format!("/v2/a/b/blobs/{layer}");
    let (status, _, body) = get(&server, &path, &[("Range", "bytes=10-19")]).unwrap();
    assert_eq!((status, body.as_slice()), (206, &built.blobs[&layer][10..20]));
    let head = request(&server.authority(), "HEAD", "/v2/a/b/manifests/1", &[], b"").unwrap();
    assert_eq!(
        (head.status, head.header("docker-content-digest"), head.body.len()),
        (200, Some(built.top.as_str()), 0)
    );
    for (method, path, status) in [
        ("GET", "/v2/", 200),
        ("GET", "/v2/a/b/manifests/2", 404),
        ("GET", "/", 404),
        ("PUT", "/v2/a/b/manifests/1", 405),
    ] {
        assert_eq!(
            request(&server.authority(), method, path, &[], b"").unwrap().status,
            status,
            "{method} {path}"
        );
    }
    assert_eq!(server.requests()[..2], ["GET /v2/a/b/manifests/1".to_owned(), format!("GET {path}")]);
}

#[test]
fn the_fixture_registry_lies_as_told() {
    let built: Built = busybox_image().unwrap();
    let layer = built.layer_digests().pop().unwrap();
    let path = format!("/v2/x/blobs/{layer}");
    let lying = |fault: Fault| Server::start("127.0.0.1:0", &[("x", "1", &built)], &[fault]).unwrap();

    let (status, _, body) = get(&lying(Fault::WrongBlob(layer.clone())), &path, &[]).unwrap();
    assert_eq!((status, body.len()), (200, built.blobs[&layer].len()));
    assert_ne!(digest_of(&body), layer);

    let cut = get(&lying(Fault::TruncatedBlob(layer.clone(), 100)), &path, &[]).unwrap_err();
    assert!(format!("{cut:#}").contains("the body has 100 bytes"), "{cut:#}");

    let (_, digest, body) = get(&lying(Fault::WrongManifest), "/v2/x/manifests/1", &[]).unwrap();
    assert_eq!(digest, built.top);
    assert_ne!(digest, digest_of(&body));

    let (status, ..) = get(&lying(Fault::Status(503)), "/v2/x/manifests/1", &[]).unwrap();
    assert_eq!(status, 503);
}
