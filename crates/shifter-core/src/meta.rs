//! `<id>.meta`, the image's record beside its file in `imagePath`: the reader; `render` writes it.
//!
//! The lines are the original's, in its order, so that old runtimes read what we write and we read what old
//! gateways wrote. What those lines cannot carry (an apostrophe in an argument, a line break in a variable)
//! is left out of them and stands, exactly, in one comment line `#shifter1 {json}` that old readers skip.
//! Access lists are read from the legacy lines alone, so old and new runtimes never disagree on access.

use crate::json::{self, Value};
use crate::lexer::records;
use std::fmt;

#[cfg(feature = "gateway")]
mod render;

/// Start of the comment line that carries the exact record.
const RICH_PREFIX: &str = "#shifter1 ";
/// The comment line that stands where the gateway was told to leave the access list out, with `DISABLE_ACL_METADATA`.
/// Nodes, old and new, read past it, as the site wants; who rebuilds a catalog must not take the silence for "everybody".
#[cfg(feature = "gateway")]
const ACL_LEFT_OUT: &str = "#shifter1-acl left out";
/// Most ids in one access list, as in the original.
const MOST_IDS: usize = 1000;

/// Who may run an image: nobody listed means everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids, primary or supplementary.
    pub gids: Vec<u32>,
}

impl Acl {
    /// Whether everybody may run the image.
    pub fn is_public(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether a process with these ids may run the image.
    pub fn allows(&self, uid: u32, gid: u32, groups: &[u32]) -> bool {
        self.is_public()
            || self.uids.contains(&uid)
            || self.gids.contains(&gid)
            || groups.iter().any(|group| self.gids.contains(group))
    }
}

/// What only the `#shifter1` line carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rich {
    /// Size of the image file in bytes; a runtime requires it to equal the file's.
    pub size: u64,
    /// SHA-256 of the image file, hexadecimal.
    pub sha256: String,
    /// OCI architecture (`amd64`, `arm64` …), empty if unknown.
    pub architecture: String,
    /// OCI `User`.
    pub user: String,
    /// OCI `StopSignal`.
    pub stop_signal: String,
    /// OCI `Volumes`.
    pub volumes: Vec<String>,
    /// OCI `Labels`.
    pub labels: Vec<(String, String)>,
    /// Of an imported image, what it was made of, as the gateway names that; empty otherwise.
    #[cfg(feature = "gateway")]
    pub source: String,
}

/// An image's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `squashfs`, `xfs`, `VFS` …; also the suffix of the image file.
    pub format: String,
    /// OCI `Entrypoint`; `None` if the image has none.
    pub entry: Option<Vec<String>>,
    /// OCI `Cmd`.
    pub cmd: Option<Vec<String>>,
    /// OCI `WorkingDir`; `None` if empty.
    pub workdir: Option<String>,
    /// `NAME=VALUE`, in image order.
    pub env: Vec<String>,
    /// Who may run it.
    pub acl: Acl,
    /// The exact record, where the gateway that wrote it was ours.
    pub rich: Option<Rich>,
    /// Whether there was an access list, which was left out.
    #[cfg(feature = "gateway")]
    pub is_acl_left_out: bool,
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaError {
    /// ENTRY or CMD starts like a list and is none.
    List {
        /// Line, from 1.
        line: usize,
    },
    /// USERACL or GROUPACL has a value without a single id in it, or too many.
    Acl {
        /// Line, from 1.
        line: usize,
    },
    /// The `#shifter1` line is damaged.
    Rich {
        /// Line, from 1.
        line: usize,
        /// Byte offset in its JSON.
        offset: usize,
        /// What was expected there.
        expected: &'static str,
    },
}

impl fmt::Display for MetaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetaError::List { line } => {
                write!(f, "line {line}: ENTRY or CMD is a list without its closing quote and bracket")
            }
            MetaError::Acl { line } => {
                write!(f, "line {line}: the access list names no numeric id, or more than {MOST_IDS}")
            }
            MetaError::Rich { line, offset, expected } => {
                write!(f, "line {line}: the #shifter1 record lacks {expected} at byte {offset}")
            }
        }
    }
}

impl std::error::Error for MetaError {}

impl Meta {
    /// Reads a record. Unknown keys (the original's `USER`, `VOLUME`) are skipped.
    pub fn parse(text: &str) -> Result<Self, MetaError> {
        let mut meta = Meta { format: "VFS".to_owned(), ..Meta::default() };
        for record in records(text, ':') {
            let value = record.value;
            match record.key {
                "FORMAT" => meta.format = value,
                "ENTRY" => {
                    meta.entry = Some(parse_list(&value).ok_or(MetaError::List { line: record.line })?)
                }
                "CMD" => meta.cmd = Some(parse_list(&value).ok_or(MetaError::List { line: record.line })?),
                "WORKDIR" => meta.workdir = Some(value).filter(|path| !path.is_empty()),
                "ENV" => meta.env.push(value),
                "USERACL" => meta.acl.uids = parse_ids(&value).ok_or(MetaError::Acl { line: record.line })?,
                "GROUPACL" => {
                    meta.acl.gids = parse_ids(&value).ok_or(MetaError::Acl { line: record.line })?
                }
                _ => {}
            }
        }
        for (index, line) in text.lines().enumerate() {
            #[cfg(feature = "gateway")]
            if line == ACL_LEFT_OUT {
                meta.is_acl_left_out = true;
            }
            if let Some(json) = line.strip_prefix(RICH_PREFIX) {
                meta.apply_rich(json, index + 1)?;
            }
        }
        Ok(meta)
    }

    fn apply_rich(&mut self, text: &str, line: usize) -> Result<(), MetaError> {
        let members = json::parse_object(text).map_err(|e| MetaError::Rich {
            line,
            offset: e.offset,
            expected: e.expected,
        })?;
        let (mut entry, mut cmd, mut workdir, mut env) = (None, None, None, Vec::new());
        let mut rich = Rich::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                ("size", Value::Number(size)) => rich.size = size,
                ("sha256", Value::Text(text)) => rich.sha256 = text,
                ("architecture", Value::Text(text)) => rich.architecture = text,
                ("user", Value::Text(text)) => rich.user = text,
                ("stopSignal", Value::Text(text)) => rich.stop_signal = text,
                ("volumes", Value::List(list)) => rich.volumes = list,
                ("labels", Value::Map(labels)) => rich.labels = labels,
                #[cfg(feature = "gateway")]
                ("source", Value::Text(text)) => rich.source = text,
                ("entry", Value::List(list)) => entry = Some(list),
                ("cmd", Value::List(list)) => cmd = Some(list),
                ("workdir", Value::Text(text)) => workdir = Some(text),
                ("env", Value::List(list)) => env = list,
                _ => {} // a later version's
            }
        }
        (self.entry, self.cmd, self.workdir, self.env, self.rich) = (entry, cmd, workdir, env, Some(rich));
        Ok(())
    }
}

/// `['a', u'b']` by the original's rule (what stands between successive quotes), or one bare argument.
fn parse_list(value: &str) -> Option<Vec<String>> {
    if !value.starts_with("['") && !value.starts_with("[u'") {
        return Some(vec![value.to_owned()]);
    }
    let inner = value.strip_suffix(']')?;
    let parts: Vec<&str> = inner.split('\'').collect();
    // Quotes pair up exactly when the pieces are odd in number; every second piece is an element.
    (parts.len() % 2 == 1).then(|| parts.iter().skip(1).step_by(2).map(|part| (*part).to_owned()).collect())
}

/// Comma-separated ids: items that are no number are skipped (that only narrows access), but a list in
/// which nothing is left must not read as "everybody".
fn parse_ids(value: &str) -> Option<Vec<u32>> {
    let ids: Vec<u32> = value.split(',').filter_map(|item| item.trim().parse().ok()).collect();
    ((value.is_empty() || !ids.is_empty()) && ids.len() <= MOST_IDS).then_some(ids)
}

#[cfg(test)]
mod tests;
