//! Documents of the routes that the original does not have, or that its client never reads: plain types, since no
//! old client's habits bind them. The OpenAPI document of the gateway describes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Image;

/// How the reason of a pull begins that the registry refused to its caller: our client tells such an end apart by
/// its exit status.
pub const DENIED: &str = "access denied: ";

/// A pull or import as it stands: the image's record, and from a gateway of ours what a waiting client needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulled {
    /// The record that old clients read.
    pub image: Image,
    /// To be sent back as `seen`, so that the next answer comes when something changed; `None` from an original.
    pub state: Option<String>,
    /// How far it is.
    pub progress: Option<Progress>,
}

/// How far a step of a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in words.
    pub stage: String,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes there are; `None` where nobody knows yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The image's layers, oldest first, while it is made of layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerProgress>,
}

/// How far one layer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// Of the layer as the registry has it.
    pub digest: String,
    /// `waiting`, `fetching`, `fetched`, `converting`, `converted`; `remembered` if an earlier image has what it holds.
    pub stage: String,
    /// Bytes that were received, or read by the conversion.
    pub done: u64,
    /// Bytes there are; 0 if nothing is to be read.
    pub total: u64,
}

/// The keys beside the record's.
#[derive(Default, Serialize, Deserialize)]
struct Beside {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
}

impl Pulled {
    /// Reads an answer.
    ///
    /// # Errors
    /// If it is no JSON object, or one of its keys has another type than it should.
    pub fn read(bytes: &[u8]) -> Result<Pulled, serde_json::Error> {
        let image = serde_json::from_slice(bytes)?;
        let Beside { state, progress } = serde_json::from_slice(bytes)?;
        Ok(Pulled { image, state, progress })
    }
}

impl Serialize for Pulled {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            image: &'a Image,
            #[serde(flatten)]
            beside: Beside,
        }
        let beside = Beside { state: self.state.clone(), progress: self.progress.clone() };
        Whole { image: &self.image, beside }.serialize(serializer)
    }
}

/// Body of `POST /api/doimport/...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Where the file is, absolute.
    pub filepath: String,
    /// What it is: `squashfs`, ...
    pub format: String,
    /// Uids to share it with, comma-separated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub allowed_uids: String,
    /// Gids to share it with, comma-separated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub allowed_gids: String,
}

/// Answer of `POST /api/login/SYSTEM/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether the registry accepts the password.
    pub status: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answer of `expire`, `restore`, `pin` and `unpin`: true, null where there is no such image, false for callers who
/// are no administrators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// As above.
    pub status: Option<bool>,
    /// Of `restore`: whether the image's file is there; `None` from an original, and of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<bool>,
}

/// Answer of `autoexpire`: the identifiers, or false for callers who are no administrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// As above.
    pub status: Value,
}

impl Expired {
    /// The identifiers; `None` where the caller is no administrator.
    #[must_use]
    pub fn ids(&self) -> Option<Vec<&str>> {
        Some(self.status.as_array()?.iter().filter_map(Value::as_str).collect())
    }
}

/// Answer of `GET /api/history/...`, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// One entry per image that the tag stood for.
    pub list: Vec<HistoryEntry>,
}

/// What a tag stood for from a moment on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The image's identifier.
    pub id: String,
    /// Seconds since the epoch.
    pub since: f64,
}

/// One successful lookup, in `GET /api/metrics/SYSTEM/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The caller's name, or the uid in digits where the gateway knows none.
    #[serde(default)]
    pub user: String,
    /// The caller's uid.
    #[serde(default)]
    pub uid: u32,
    /// The system.
    #[serde(default)]
    pub system: String,
    /// Image type.
    #[serde(rename = "type", default)]
    pub itype: String,
    /// The tag that was looked up.
    #[serde(default)]
    pub tag: String,
    /// The image's identifier.
    #[serde(default)]
    pub id: String,
    /// Seconds since the epoch.
    #[serde(default)]
    pub time: f64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_record_with_and_without_what_waiting_clients_need_is_read_and_written() {
        let old = Pulled::read(br#"{"status":"INIT","tag":[],"last_pull":"MISSING"}"#).unwrap();
        assert_eq!((old.image.status.as_deref(), old.state.as_deref()), (Some("INIT"), None));
        let text = br#"{"status":"PULLING","state":"7","progress":{"stage":"layers","done":3,"total":9}}"#;
        let new = Pulled::read(text).unwrap();
        let progress =
            Progress { stage: "layers".to_owned(), done: 3, total: Some(9), ..Progress::default() };
        assert_eq!((new.state.as_deref(), new.progress.as_ref()), (Some("7"), Some(&progress)));
        assert_eq!(serde_json::to_string(&progress).unwrap(), r#"{"stage":"layers","done":3,"total":9}"#);
        let layers = br#"{"progress":{"stage":"layers","done":3,"layers":[
            {"digest":"sha256:a","stage":"fetching","done":3,"total":9}]}}"#;
        let layer =
            LayerProgress { digest: "sha256:a".to_owned(), stage: "fetching".to_owned(), done: 3, total: 9 };
        assert_eq!(Pulled::read(layers).unwrap().progress.unwrap().layers, [layer]);
        let written = serde_json::to_vec(&new).unwrap();
        assert_eq!(Pulled::read(&written).unwrap(), new);
        let plain = String::from_utf8(serde_json::to_vec(&old).unwrap()).unwrap();
        assert_eq!(plain, serde_json::to_string(&old.image).unwrap(), "an old client sees its 13 keys alone");
        Pulled::read(b"[]").unwrap_err();
    }

    #[test]
    fn an_administrators_answers_are_told_from_others() {
        let ids = |text: &str| serde_json::from_str::<Expired>(text).unwrap();
        assert_eq!(ids(r#"{"status":["a","b"]}"#).ids(), Some(vec!["a", "b"]));
        assert_eq!(ids(r#"{"status":false}"#).ids(), None);
        for (text, status) in [("true", Some(true)), ("false", Some(false)), ("null", None)] {
            let done: Done = serde_json::from_str(&format!("{{\"status\":{text}}}")).unwrap();
            assert_eq!((done.status, done.file), (status, None));
        }
        let restored = r#"{"status":true,"file":false}"#;
        let done: Done = serde_json::from_str(restored).unwrap();
        assert_eq!(serde_json::to_string(&done).unwrap(), restored, "a script may want to know of the file");
    }
}
