//! Tables of documents a registry may serve, good and hostile.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn hex(c: &str) -> String {
    format!("sha256:{}", c.repeat(64))
}

fn manifest_text(media_type: &str, layer_type: &str) -> String {
    format!(
        r#"{{"schemaVersion":2{media_type},
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},
        "layers":[{{"mediaType":"{layer_type}","digest":"{}","size":7,"urls":["http://10.0.0.1/x"]}}]}}"#,
        hex("a"),
        hex("b")
    )
}

fn layer_of(text: &str) -> Result<LayerDescriptor, RegistryError> {
    match parse(text.as_bytes(), Some(OCI_MANIFEST), &Settings::default(), "read x")? {
        Document::Image(manifest) => Ok(manifest.layers.into_iter().next().unwrap()),
        Document::Index(_) => panic!("an image was read as an index"),
    }
}

#[test]
fn layers_of_every_packing_are_understood_and_others_refused() {
    use Compression::{Gzip, None as Plain, Zstd};
    for (layer_type, expected) in [
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Gzip)),
        ("application/vnd.docker.image.rootfs.diff.tar", Some(Plain)),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Zstd)),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Gzip)),
        ("application/vnd.oci.image.layer.v1.tar", Some(Plain)),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Gzip)),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Zstd)),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Gzip)),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
        ("application/vnd.in-toto+json", None),
        ("", None),
    ] {
        let layer = layer_of(&manifest_text("", layer_type));
        assert_eq!(layer.map(|l| (l.compression, l.size)).ok(), expected.map(|c| (c, 7)), "{layer_type}");
    }
}

#[test]
fn documents_that_contradict_themselves_or_are_too_old_are_refused() {
    let oci_layer = "application/vnd.oci.image.layer.v1.tar";
    let typed = |t: &str| manifest_text(&format!(r#","mediaType":"{t}""#), oci_layer);
    let both = typed(OCI_MANIFEST).replacen("\"layers\"", "\"manifests\":[],\"layers\"", 1);
    let bad_digest = manifest_text("", oci_layer).replace(&hex("b"), "sha256:../../../../etc/passwd");
    let short_digest = manifest_text("", oci_layer).replace(&hex("b"), "sha384:00");
    let artifact = manifest_text("", oci_layer).replace("image.config.v1+json", "empty.v1+json");
    let many = format!("[{}]", vec![r#"{"mediaType":"x","digest":"sha512:0","size":1}"#; 600].join(","));
    let schema1 = r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[],"signatures":[]}"#;
    let huge = manifest_text("", oci_layer).replace("\"size\":7", "\"size\":9223372036854775807");
    let negative = manifest_text("", oci_layer).replace("\"size\":7", "\"size\":-1");
    for (text, header, part) in [
        (typed(OCI_MANIFEST), Some(OCI_INDEX), "the registry calls it"),
        (typed(DOCKER_MANIFEST), Some(OCI_MANIFEST), "the registry calls it"),
        (typed(OCI_INDEX), None, "does not fit its content"),
        (manifest_text("", oci_layer), Some(DOCKER_LIST), "does not fit its content"),
        (both, Some(OCI_MANIFEST), "both an index and an image"),
        (r#"{"schemaVersion":2}"#.to_owned(), None, "neither"),
        (r#"{"schemaVersion":3,"layers":[]}"#.to_owned(), None, "schemaVersion"),
        (schema1.to_owned(), None, "schema 1"),
        (
            r#"{"schemaVersion":2}"#.to_owned(),
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "schema 1",
        ),
        (bad_digest, None, "Invalid encoded value"),
        (short_digest, None, "digest"),
        (artifact, None, "artifact"),
        (many.replacen('[', r#"{"schemaVersion":2,"layers":["#, 1) + "}", None, "malformed"),
        (huge, None, "exceeds the limit"),
        (negative, None, "malformed"),
        ("<html>".to_owned(), Some("text/html"), "not JSON"),
        (manifest_text("", oci_layer), Some("text/html; charset=utf-8"), "not that of a container image"),
        (format!("{}1{}", "[".repeat(9000), "]".repeat(9000)), None, "not JSON"),
    ] {
        let error = parse(text.as_bytes(), header, &Settings::default(), "read x").err();
        let message = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(message.starts_with("cannot read x: ") && message.contains(part), "{part}: {message}");
    }
}

#[test]
fn more_and_larger_layers_than_allowed_are_refused() {
    let usual = Settings::default();
    for (settings, expected) in [
        (
            Settings { max_layers: 0, ..usual.clone() },
            "the number of layers (1) exceeds the limit of 0 layers",
        ),
        (Settings { max_layer: 6, ..usual.clone() }, "a layer exceeds the limit of 6 bytes"),
        (Settings { max_image: 6, ..usual }, "the image exceeds the limit of 6 bytes"),
    ] {
        let text = manifest_text("", "application/vnd.oci.image.layer.v1.tar");
        let error = parse(text.as_bytes(), None, &settings, "read x").err().unwrap();
        assert_eq!(error.to_string(), format!("cannot read x: {expected}"));
    }
}

#[test]
fn an_index_without_our_platform_lists_what_it_offers() {
    let entry = |c: &str, platform: &str| {
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":3{platform}}}"#, hex(c))
    };
    let platform = |os: &str, arch: &str| {
        format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"v8"}}"#)
    };
    let index = |entries: &[String]| {
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
        match parse(text.as_bytes(), Some("application/json"), &Settings::default(), "read x").unwrap() {
            Document::Index(index) => *index,
            Document::Image(_) => panic!("an index was read as an image"),
        }
    };
    let two = index(&[entry("a", &platform("linux", "arm64")), entry("b", &platform("unknown", "unknown"))]);
    assert_eq!(choose(&two, &Platform::linux("arm64"), "read x").unwrap().digest.to_string(), hex("a"));
    assert_eq!(
        choose(&two, &Platform::linux("amd64"), "read x").unwrap_err().to_string(),
        "cannot read x: the image has no linux/amd64 variant; it offers linux/arm64/v8, unknown/unknown/v8"
    );
    let untold = index(&[entry("c", "")]);
    assert_eq!(choose(&untold, &Platform::linux("amd64"), "x").unwrap().digest.to_string(), hex("c"));
    let none = choose(&index(&[]), &Platform::linux("amd64"), "x").unwrap_err().to_string();
    assert!(none.ends_with("it offers no platform"), "{none}");
}
