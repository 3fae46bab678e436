//! The life of a published image after it was published, and what is noted beside it: nouns only.
//!
//! An image leaves in two steps, so that a crash in between leaves what the next run finishes: it is
//! `Expiring` as soon as nobody is to find it any more, and `Expired` once its files are gone. Its record,
//! with tags and grants, stays for a restore. The names are the original's, which reads and writes the same
//! ones in MongoDB.

use crate::model::TagKey;

/// Where an image is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It can be used.
    #[default]
    Ready,
    /// Its files are being removed.
    Expiring,
    /// Its files are gone.
    Expired,
}

impl State {
    const ALL: [State; 3] = [State::Ready, State::Expiring, State::Expired];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Ready => "READY",
            State::Expiring => "EXPIRING",
            State::Expired => "EXPIRED",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What is to become of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) to: State,
    /// Its new expiration, seconds since the epoch. Of an image that is not ready: when it was retired.
    pub(crate) expiration: f64,
    /// Only if its expiration is not later than this: lookups move it without a new revision.
    pub(crate) if_expired_by: Option<f64>,
}

/// A lookup that found its image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Use {
    pub(crate) user: String,
    pub(crate) uid: u32,
    pub(crate) system: String,
    pub(crate) itype: String,
    pub(crate) tag: String,
    pub(crate) id: String,
    /// Seconds since the epoch.
    pub(crate) time: f64,
}

/// That a tag meant an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meant {
    pub(crate) key: TagKey,
    pub(crate) id: String,
    /// Seconds since the epoch.
    pub(crate) since: f64,
}

/// Changes of one tag that are remembered.
pub(super) const MOST_HISTORY: u32 = 100;
