//! The image configuration (image-spec config.md; the same in Docker's schema 2): what a container gets from its
//! image besides files.
//!
//! Read leniently, as images are written by many tools: absent and `null` mean empty, unknown keys are skipped.
//! Health checks, ports and history are left unread because nothing in Shifter uses them.

use crate::error::{RegistryError, quote};
use serde::{Deserialize, Deserializer};
use shifter_core::digest::Digest;
use std::collections::BTreeMap;

/// What the configuration blob of an image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` lines in the image's order.
    pub env: Vec<String>,
    /// Entry point, `None` where the image has none.
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments or command.
    pub cmd: Option<Vec<String>>,
    /// Working directory, `None` where empty.
    pub workdir: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `USER` of the image, never obeyed by the runtime; `None` where empty.
    pub user: Option<String>,
    /// Declared volumes, sorted.
    pub volumes: Vec<String>,
    /// Stop signal as written, `SIGTERM` or a number.
    pub stop_signal: Option<String>,
    /// Processor architecture, a Go GOARCH; empty where the image does not say.
    pub architecture: String,
    /// Operating system, a Go GOOS; empty where the image does not say.
    pub os: String,
    /// Variant of the architecture.
    pub variant: Option<String>,
    /// Digests of the uncompressed layers, base first; as many as there are layers.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default, deserialize_with = "null_is_empty")]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    config: Section,
    #[serde(default, deserialize_with = "null_is_empty")]
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Section {
    #[serde(default, deserialize_with = "null_is_empty")]
    env: Vec<String>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    stop_signal: Option<String>,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Reads the configuration blob's bytes; `operation` is for messages.
pub(crate) fn parse(bytes: &[u8], operation: &str) -> Result<ImageConfig, RegistryError> {
    let fail = |cause: String| RegistryError::Malformed { operation: operation.to_owned(), cause };
    // serde reads structures from arrays too; a configuration is an object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(fail("image configuration: not a JSON object".to_owned()));
    }
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|e| fail(format!("image configuration: {}", quote(&e.to_string()))))?;
    let section = document.config;
    let diff_ids = document
        .rootfs
        .diff_ids
        .iter()
        .map(|text| Digest::parse(text).map_err(|e| fail(format!("diff_id {}: {e}", quote(text)))))
        .collect::<Result<_, _>>()?;
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let list = |list: Option<Vec<String>>| list.filter(|l| !l.is_empty());
    Ok(ImageConfig {
        env: section.env,
        entrypoint: list(section.entrypoint),
        cmd: list(section.cmd),
        workdir: given(section.working_dir),
        labels: section.labels,
        user: given(section.user),
        volumes: section.volumes.into_keys().collect(),
        stop_signal: given(section.stop_signal),
        architecture: document.architecture,
        os: document.os,
        variant: given(document.variant),
        diff_ids,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn configurations_of_many_tools_are_read() {
        let diff = format!("sha256:{}", "a".repeat(64));
        let full = format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8","created":"x","history":[{{}}],
            "config":{{"Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","User":"u","StopSignal":"9",
            "Labels":{{"l":"v"}},"Volumes":{{"/z":{{}},"/a":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}}}},
            "rootfs":{{"type":"layers","diff_ids":["{diff}"]}}}}"#
        );
        let config = parse(full.as_bytes(), "x").unwrap();
        assert_eq!(config.volumes, ["/a", "/z"]);
        assert_eq!(config.workdir.as_deref(), Some("/w"));
        assert_eq!(config.labels.get("l").map(String::as_str), Some("v"));
        assert_eq!(config.diff_ids.first().map(Digest::to_string), Some(diff));
        let nulls =
            r#"{"config":{"Env":null,"Cmd":null,"Entrypoint":[],"Labels":null,"Volumes":null,"User":""}}"#;
        assert_eq!(parse(nulls.as_bytes(), "x").unwrap(), ImageConfig::default());
        assert_eq!(parse(b"{}", "x").unwrap(), ImageConfig::default());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "[]",
            "null",
            r#"{"config":{"Env":"A=1"}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#,
            r#"{"config":{"Cmd":"sh"}}"#,
        ] {
            let text = parse(bad.as_bytes(), "read image x").unwrap_err().to_string();
            assert!(text.starts_with("cannot read image x: the answer is malformed: "), "{text}");
        }
    }
}
