//! The gateway's nouns: tags, images, grants and jobs, as the catalog keeps them and the API shows
//! them. Pure data and small conversions; who may see what is decided in `acl`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shifter_api::wire::{self, status};
use shifter_core::meta::{Acl, Meta, Rich};

/// A tag on a system; `tag` is the text users write, `:latest` written out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TagKey {
    pub(crate) system: String,
    pub(crate) itype: String,
    pub(crate) tag: String,
}

/// Where a job stands; the names are the wire's closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobStatus {
    Init,
    Pending,
    Pulling,
    /// Only where the site has an examiner.
    Examination,
    Conversion,
    Transfer,
    Ready,
    Failure,
}

impl JobStatus {
    const ALL: [(JobStatus, &'static str); 8] = [
        (JobStatus::Init, status::INIT),
        (JobStatus::Pending, status::PENDING),
        (JobStatus::Pulling, status::PULLING),
        (JobStatus::Examination, status::EXAMINATION),
        (JobStatus::Conversion, status::CONVERSION),
        (JobStatus::Transfer, status::TRANSFER),
        (JobStatus::Ready, status::READY),
        (JobStatus::Failure, status::FAILURE),
    ];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(status, _)| *status == self).map_or(status::FAILURE, |(_, name)| name)
    }

    pub(crate) fn parse(text: &str) -> Option<JobStatus> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(status, _)| *status)
    }

    pub(crate) fn is_over(self) -> bool {
        matches!(self, JobStatus::Ready | JobStatus::Failure)
    }
}

/// One caller's pull of one tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) number: i64,
    pub(crate) key: TagKey,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whom the caller wants to share a private image with, themselves included; empty: nobody.
    pub(crate) acl: Acl,
    pub(crate) status: JobStatus,
    /// Progress, or the reason of a failure.
    pub(crate) message: String,
    /// Whether the registry gave the tag to everybody; false until it was asked.
    pub(crate) public: bool,
    /// Whether the request carried registry credentials, which are never stored in the clear.
    pub(crate) with_credentials: bool,
    pub(crate) created: f64,
    pub(crate) updated: f64,
    /// Counts claims; what a worker writes names the fence of its claim.
    pub(crate) fence: i64,
    /// The process that claimed it last, as people name it.
    pub(crate) holder: String,
    /// When the last claim ends, seconds since the epoch; 0 where nobody has it.
    pub(crate) lease_until: f64,
    /// The caller's registry credentials as `seal` makes them; empty where there are none, or none for others.
    pub(crate) sealed: String,
    /// Of an import: of which file it is, as `NewJob` says it; empty where an older version entered it.
    pub(crate) source: String,
}

/// What an image says about running it; a JSON column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workdir: Option<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) user: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<String>,
    #[serde(default)]
    pub(crate) stop_signal: String,
    #[serde(default)]
    pub(crate) architecture: String,
    /// Of an imported image: as what the file was taken, and its sha256 in hex, as `squashfs:HEX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
}

/// A published image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) system: String,
    pub(crate) id: String,
    pub(crate) format: String,
    pub(crate) config: RunConfig,
    /// Bytes of the image file; 0 where an original gateway made it, which does not say. Such an image
    /// is used as it is and made anew at the next pull.
    pub(crate) size: u64,
    /// Of the image file, hex; empty where an original gateway made it.
    pub(crate) sha256: String,
    pub(crate) last_pull: f64,
    /// 0 where none was set: an original gateway sets it at the first lookup.
    pub(crate) expiration: f64,
}

/// Who earned a grant that an original gateway gave: it does not say. (The uid that means nobody,
/// chown(2).)
pub(crate) const UNKNOWN_PULLER: u32 = u32::MAX;

/// The right to an image under a tag, earned from the registry by one caller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grant {
    pub(crate) key: TagKey,
    pub(crate) id: String,
    pub(crate) puller: u32,
    pub(crate) public: bool,
    pub(crate) acl: Acl,
    /// When the registry was asked last, seconds since the epoch.
    pub(crate) checked: f64,
}

impl Job {
    /// The record as its own caller sees it while it is not READY. `first` is the reply that made
    /// it, which old clients know without time and message.
    pub(crate) fn to_wire(&self, first: bool) -> wire::Image {
        wire::Image {
            system: Some(self.key.system.clone()),
            itype: Some(self.key.itype.clone()),
            status: Some(self.status.as_str().to_owned()),
            user_acl: Some(self.acl.uids.clone()),
            group_acl: Some(self.acl.gids.clone()),
            last_pull: (!first).then_some(self.created),
            status_message: (!first && !self.message.is_empty()).then(|| self.message.clone()),
            ..wire::Image::default()
        }
    }
}

impl Image {
    /// The record under the given tags of one type, with the access list of those tags.
    pub(crate) fn to_wire(&self, itype: &str, tags: Vec<String>, acl: Acl) -> wire::Image {
        wire::Image {
            id: Some(self.id.clone()),
            system: Some(self.system.clone()),
            itype: Some(itype.to_owned()),
            tag: tags,
            status: Some(status::READY.to_owned()),
            user_acl: Some(acl.uids),
            group_acl: Some(acl.gids),
            env: Some(self.config.env.clone()).filter(|env| !env.is_empty()),
            entry: self.config.entry.clone(),
            workdir: self.config.workdir.clone(),
            labels: Some(self.config.labels.clone()).filter(|labels| !labels.is_empty()),
            last_pull: Some(self.last_pull),
            status_message: Some("Image is ready".to_owned()),
        }
    }

    /// The `.meta` file's content for the given access list (empty: public).
    pub(crate) fn to_meta(&self, acl: Acl) -> Meta {
        Meta {
            format: self.format.clone(),
            entry: self.config.entry.clone(),
            cmd: self.config.cmd.clone(),
            workdir: self.config.workdir.clone(),
            env: self.config.env.clone(),
            acl,
            // Of an original gateway's image nothing is known that only our own line could say.
            rich: (!self.sha256.is_empty()).then(|| Rich {
                size: self.size,
                sha256: self.sha256.clone(),
                architecture: self.config.architecture.clone(),
                user: self.config.user.clone(),
                stop_signal: self.config.stop_signal.clone(),
                volumes: self.config.volumes.clone(),
                labels: self.config.labels.clone().into_iter().collect(),
                source: self.config.source.clone().unwrap_or_default(),
            }),
            is_acl_left_out: false,
        }
    }
}

/// Now, in seconds since the epoch.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
