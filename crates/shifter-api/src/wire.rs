//! The JSON documents of REST API version 1, byte for byte as the original's C client parses them.
//!
//! That client decides the odd parts: a field the gateway has no value for is the *string*
//! `"MISSING"`, `last_pull` must carry a decimal point (an integer shows as 1970), and all 13 keys
//! of an image are always there, in one order. Writing is therefore done by hand; reading is
//! tolerant (a tag may be a string or an array, keys in any case, unknown keys ignored), because
//! our client must also read what an original gateway sends. Nothing here touches the network.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value;

/// Stands for a value the gateway does not have; part of the wire format.
pub const MISSING: &str = "MISSING";

/// Most ids in one access list: the image metadata reader on the nodes takes no more.
pub const MAX_ACL_IDS: usize = 1000;

/// Longest text of one comma-separated id list, in bytes: 1000 ids of ten digits and a comma.
const MAX_ID_LIST_BYTES: usize = MAX_ACL_IDS * 11;

/// One image as `lookup`, `list` and `pull` answer it. `None` travels as `"MISSING"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Identifier, 64 lower-case hex digits: the stem of the image's file name.
    pub id: Option<String>,
    /// The system (platform) the image is published on.
    pub system: Option<String>,
    /// Image type as the URL named it: `docker`, `custom`, ...
    pub itype: Option<String>,
    /// Tags that point at the image now; empty while it is being pulled.
    pub tag: Vec<String>,
    /// One of [`status`]'s names.
    pub status: Option<String>,
    /// Uids that may use the image; empty together with `group_acl` means no restriction.
    pub user_acl: Option<Vec<u32>>,
    /// Gids that may use the image.
    pub group_acl: Option<Vec<u32>>,
    /// Environment of the image, `NAME=value` each, in image order.
    pub env: Option<Vec<String>>,
    /// Entry point argv.
    pub entry: Option<Vec<String>>,
    /// Working directory.
    pub workdir: Option<String>,
    /// Labels of the image configuration.
    pub labels: Option<BTreeMap<String, String>>,
    /// Last pull, seconds since the epoch.
    pub last_pull: Option<f64>,
    /// Progress while pulling, the reason after a failure.
    pub status_message: Option<String>,
}

/// The closed set of status names: old clients take any other name for the end of the pull.
pub mod status {
    /// The record was made just now.
    pub const INIT: &str = "INIT";
    /// Waiting for a worker.
    pub const PENDING: &str = "PENDING";
    /// Asking the registry, downloading.
    pub const PULLING: &str = "PULLING";
    /// The site's examination of the image.
    pub const EXAMINATION: &str = "EXAMINATION";
    /// Being made into a file system image.
    pub const CONVERSION: &str = "CONVERSION";
    /// Being published on the system.
    pub const TRANSFER: &str = "TRANSFER";
    /// Usable.
    pub const READY: &str = "READY";
    /// Given up; the reason is in the status message.
    pub const FAILURE: &str = "FAILURE";

    /// Whether a poll should go on. `MISSING` and the two legacy names only come from originals.
    pub fn is_in_progress(status: &str) -> bool {
        const GOING: [&str; 9] = [
            super::MISSING,
            INIT,
            PENDING,
            PULLING,
            EXAMINATION,
            CONVERSION,
            TRANSFER,
            "HASHING",
            "ENQUEUED",
        ];
        GOING.contains(&status)
    }
}

/// Answer of `GET /api/list/SYSTEM/`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ImageList {
    /// The images the caller may see.
    pub list: Vec<Image>,
}

/// Answer of `GET /api/queue/SYSTEM/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Queue {
    /// Pulls that are not finished.
    pub list: Vec<QueueEntry>,
}

/// One unfinished pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QueueEntry {
    /// One of [`status`]'s names.
    pub status: String,
    /// The tag that was asked for.
    pub image: String,
}

/// Answer of `GET /api/status`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceStatus {
    /// `up` whenever the gateway answers at all.
    pub status: String,
}

/// Body of every answer that is not 200.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorBody {
    /// The HTTP status code again.
    pub status: u16,
    /// What was wrong, a sentence for the user.
    pub error: String,
    /// The HTTP reason phrase and the request's target.
    pub message: String,
}

/// Body of `POST /api/pull/...`: two comma-separated strings of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Uids to share a private image with.
    pub allowed_uids: Vec<u32>,
    /// Gids to share a private image with.
    pub allowed_gids: Vec<u32>,
}

/// Why a pull request's body was refused.
#[derive(Debug, thiserror::Error)]
pub enum PullRequestError {
    /// Not a JSON object of the two keys.
    #[error("the body of the pull request is not a JSON object with allowed_uids and allowed_gids: {0}")]
    Json(#[from] serde_json::Error),
    /// A list with something else than ids in it.
    #[error("reading {key} of the pull request failed: {source}")]
    Ids {
        /// The key the list stood under.
        key: &'static str,
        /// What was wrong with it.
        source: IdListError,
    },
}

/// Why a comma-separated id list was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdListError {
    /// An element is no id.
    #[error("\"{0}\" is not a user or group id; ids are decimal numbers from 0 to 4294967294")]
    NotAnId(String),
    /// Too many.
    #[error("the list names more than {MAX_ACL_IDS} ids")]
    TooMany,
}

impl PullRequest {
    /// Reads a request body; an empty one asks for no access lists.
    pub fn parse(body: &[u8]) -> Result<PullRequest, PullRequestError> {
        #[derive(serde::Deserialize)]
        struct Raw {
            #[serde(default)]
            allowed_uids: Option<String>,
            #[serde(default)]
            allowed_gids: Option<String>,
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(PullRequest::default());
        }
        // By way of a map: a struct of defaults would also be read from an array.
        let map: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
        let raw = Raw::deserialize(Value::Object(map))?;
        let ids = |key, text: Option<String>| {
            parse_id_list(text.as_deref().unwrap_or_default())
                .map_err(|source| PullRequestError::Ids { key, source })
        };
        Ok(PullRequest {
            allowed_uids: ids("allowed_uids", raw.allowed_uids)?,
            allowed_gids: ids("allowed_gids", raw.allowed_gids)?,
        })
    }
}

impl Serialize for PullRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("PullRequest", 2)?;
        object.serialize_field("allowed_uids", &render_id_list(&self.allowed_uids))?;
        object.serialize_field("allowed_gids", &render_id_list(&self.allowed_gids))?;
        object.end()
    }
}

/// Reads `1,2,3`; the empty text is the empty list. Unlike the original, nothing is dropped
/// silently: a typing error must not widen access.
pub fn parse_id_list(text: &str) -> Result<Vec<u32>, IdListError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > MAX_ID_LIST_BYTES {
        return Err(IdListError::TooMany);
    }
    let mut ids = Vec::new();
    for word in text.split(',').map(str::trim) {
        let id = word.parse::<u32>().ok().filter(|id| *id != u32::MAX);
        let digits_only = word.bytes().all(|b| b.is_ascii_digit());
        match id {
            Some(id) if digits_only => ids.push(id),
            _ => {
                let shown = word.chars().take(32).flat_map(char::escape_default).collect();
                return Err(IdListError::NotAnId(shown));
            }
        }
        if ids.len() > MAX_ACL_IDS {
            return Err(IdListError::TooMany);
        }
    }
    Ok(ids)
}

/// Writes `1,2,3`.
pub fn render_id_list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.error, self.status)
    }
}

impl Serialize for Image {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct OrMissing<'a, T>(&'a Option<T>);
        impl<T: Serialize> Serialize for OrMissing<'_, T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    Some(value) => value.serialize(serializer),
                    None => serializer.serialize_str(MISSING),
                }
            }
        }
        // Not-a-number would become null, which the C client cannot read.
        let last_pull = self.last_pull.filter(|seconds| seconds.is_finite());
        let mut object = serializer.serialize_struct("Image", 13)?;
        object.serialize_field("id", &OrMissing(&self.id))?;
        object.serialize_field("system", &OrMissing(&self.system))?;
        object.serialize_field("itype", &OrMissing(&self.itype))?;
        object.serialize_field("tag", &self.tag)?;
        object.serialize_field("status", &OrMissing(&self.status))?;
        object.serialize_field("userACL", &OrMissing(&self.user_acl))?;
        object.serialize_field("groupACL", &OrMissing(&self.group_acl))?;
        object.serialize_field("ENV", &OrMissing(&self.env))?;
        object.serialize_field("ENTRY", &OrMissing(&self.entry))?;
        object.serialize_field("WORKDIR", &OrMissing(&self.workdir))?;
        object.serialize_field("LABELS", &OrMissing(&self.labels))?;
        object.serialize_field("last_pull", &OrMissing(&last_pull))?;
        object.serialize_field("status_message", &OrMissing(&self.status_message))?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Image, D::Error> {
        let raw = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut image = Image::default();
        for (key, value) in raw {
            let wrong = |expected| D::Error::custom(format!("the image's {key} is not {expected}"));
            let is_absent = value.is_null() || value.as_str() == Some(MISSING);
            if is_absent {
                continue;
            }
            match key.to_ascii_lowercase().as_str() {
                "id" => image.id = Some(text(value).ok_or_else(|| wrong("a string"))?),
                "system" => image.system = Some(text(value).ok_or_else(|| wrong("a string"))?),
                "itype" => image.itype = Some(text(value).ok_or_else(|| wrong("a string"))?),
                "tag" => image.tag = texts(value).ok_or_else(|| wrong("a list of strings"))?,
                "status" => image.status = Some(text(value).ok_or_else(|| wrong("a string"))?),
                "useracl" => image.user_acl = Some(ids(value).ok_or_else(|| wrong("a list of ids"))?),
                "groupacl" => image.group_acl = Some(ids(value).ok_or_else(|| wrong("a list of ids"))?),
                "env" => image.env = Some(texts(value).ok_or_else(|| wrong("a list of strings"))?),
                "entry" => image.entry = Some(texts(value).ok_or_else(|| wrong("a list of strings"))?),
                "workdir" => image.workdir = Some(text(value).ok_or_else(|| wrong("a string"))?),
                "labels" => image.labels = Some(labels(value).ok_or_else(|| wrong("an object of strings"))?),
                "last_pull" => image.last_pull = Some(value.as_f64().ok_or_else(|| wrong("a number"))?),
                "status_message" => {
                    image.status_message = Some(text(value).ok_or_else(|| wrong("a string"))?)
                }
                _ => {}
            }
        }
        Ok(image)
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(values) => values.into_iter().map(text).collect(),
        _ => None,
    }
}

fn ids(value: Value) -> Option<Vec<u32>> {
    let Value::Array(values) = value else { return None };
    values.into_iter().map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

fn labels(value: Value) -> Option<BTreeMap<String, String>> {
    let Value::Object(map) = value else { return None };
    map.into_iter().map(|(name, value)| Some((name, text(value)?))).collect()
}

mod more;

pub use more::{
    DENIED, Done, Expired, History, HistoryEntry, ImportRequest, LayerProgress, Lookup, Probe, Progress,
    Pulled,
};

#[cfg(test)]
mod tests;
