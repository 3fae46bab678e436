//! What a client wraps in its MUNGE credential, and how a gateway reads it.
//!
//! The original's payload is empty or `{"authorized_locations":{"LOCATION":"USER:PASSWORD",…}}`; both stay
//! valid. Our clients add the key `request`, a digest of the request the credential was made for, so that a
//! credential caught on the way cannot be spent on another request. An original gateway reads only its own key
//! and ignores ours. This file neither makes nor opens credentials, and decides nothing about the passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most registry locations one payload may carry.
pub const MAX_LOCATIONS: usize = 256;

/// The payload of a credential.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// `user:password` by registry location (`default` for all without their own).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub authorized_locations: BTreeMap<String, String>,
    /// [`request_digest`] of the request this credential belongs to; absent from the original's clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Names the locations, never the passwords.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("authorized_locations", &self.authorized_locations.keys())
            .field("request", &self.request)
            .finish()
    }
}

/// Why a payload was refused. The payload's text is never quoted: it may hold passwords.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not empty, and not a JSON object of the known shape.
    #[error(
        "the credential's payload is neither empty nor a JSON object with authorized_locations \
         (line {line}, column {column})"
    )]
    Json {
        /// 1-based.
        line: usize,
        /// 1-based.
        column: usize,
    },
    /// More than [`MAX_LOCATIONS`].
    #[error("the credential's payload names {count} registry locations; {MAX_LOCATIONS} are allowed")]
    TooManyLocations {
        /// How many it names.
        count: usize,
    },
}

impl Payload {
    /// Reads a payload; an empty one (also of white space or NUL bytes) has neither passwords nor digest.
    ///
    /// # Errors
    /// [`PayloadError`]; the original instead took what it could not read for "no passwords", which a gateway
    /// may still choose to do.
    pub fn parse(bytes: &[u8]) -> Result<Payload, PayloadError> {
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let text = bytes[..end].trim_ascii();
        if text.is_empty() {
            return Ok(Payload::default());
        }
        // serde would also take an array for a struct.
        if text.first() != Some(&b'{') {
            return Err(PayloadError::Json { line: 1, column: 1 });
        }
        let payload: Payload = serde_json::from_slice(text)
            .map_err(|error| PayloadError::Json { line: error.line(), column: error.column() })?;
        match payload.authorized_locations.len() {
            count if count > MAX_LOCATIONS => Err(PayloadError::TooManyLocations { count }),
            _ => Ok(payload),
        }
    }

    /// Writes a payload: one line of JSON, or nothing where there is nothing to say.
    #[must_use]
    pub fn render(&self) -> String {
        if self.authorized_locations.is_empty() && self.request.is_none() {
            return String::new();
        }
        // Maps and strings cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether this payload may be spent on the given request: it names no request, or exactly this one.
    /// Arguments as for [`request_digest`].
    #[must_use]
    pub fn allows(&self, method: &str, path: &str, body: &[u8]) -> bool {
        // A line break in the path could move the border between path and body.
        self.request.as_ref().is_none_or(|claimed| {
            !path.contains('\n') && claimed.eq_ignore_ascii_case(&request_digest(method, path, body))
        })
    }
}

/// SHA-256, in lower-case hex, of `METHOD`, line feed, path, line feed, body.
///
/// `path` is the part below the gateway's base URL, percent-decoded once, with its trailing slash if sent:
/// `/api/lookup/perlmutter/docker/org/app:v1/`. Decoded, because proxies on the way may spell `%2F` as `/`.
/// Where there is a query, it follows as it is sent, from its question mark.
#[must_use]
pub fn request_digest(method: &str, path: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), b"\n", path.as_bytes(), b"\n", body] {
        hash.update(part);
    }
    hex(hash)
}

/// SHA-256 of a whole file, in lower-case hex, as an upload announces it.
///
/// # Errors
/// What reading the file gives.
pub fn file_digest(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let (mut reader, mut buffer) = (file, vec![0; 1 << 18]);
    reader.rewind()?;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hex(hash)),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn old_and_new_payloads_are_read() {
        let with = |pairs: &[(&str, &str)], request: Option<&str>| Payload {
            authorized_locations: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            request: request.map(str::to_owned),
        };
        let table: [(&str, Payload); 6] = [
            ("", with(&[], None)),
            (" \n\0", with(&[], None)),
            ("{}", with(&[], None)),
            (r#"{"authorized_locations":{"default":"u:p:w"}}"#, with(&[("default", "u:p:w")], None)),
            (r#"{"request":"00","other":1}"#, with(&[], Some("00"))),
            (
                "{ \"authorized_locations\" : { \"a:5000\" : \"u:p\" }, \"request\": \"1f\" }\0",
                with(&[("a:5000", "u:p")], Some("1f")),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(Payload::parse(text.as_bytes()), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn odd_payloads_are_refused_without_being_quoted() {
        for text in ["x", "[]", "\"secret\"", r#"{"authorized_locations":["secret"]}"#, "{", "\u{fffd}"] {
            let error = Payload::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, PayloadError::Json { .. }), "{text}: {error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let many: BTreeMap<String, String> = (0..300).map(|n| (n.to_string(), String::new())).collect();
        let text = Payload { authorized_locations: many, request: None }.render();
        assert_eq!(Payload::parse(text.as_bytes()), Err(PayloadError::TooManyLocations { count: 300 }));
    }

    #[test]
    fn rendering_is_the_originals_shape() {
        let mut payload = Payload::default();
        assert_eq!(payload.render(), "");
        payload.request = Some("ab".to_owned());
        assert_eq!(payload.render(), r#"{"request":"ab"}"#);
        payload.authorized_locations.insert("default".to_owned(), "user:pa\"ss".to_owned());
        assert_eq!(payload.render(), r#"{"authorized_locations":{"default":"user:pa\"ss"},"request":"ab"}"#);
        assert!(!format!("{payload:?}").contains("pa"), "{payload:?}");
    }

    #[test]
    fn a_credential_is_bound_to_its_request() {
        // printf 'POST\n/api/pull/s/docker/a:1/\n{}' | sha256sum
        let digest = request_digest("POST", "/api/pull/s/docker/a:1/", b"{}");
        assert_eq!(digest, "c00d83f2860c27fbaf8d0e67d72f816de41b426bc16d655cee368a5d37e04d64");
        let bound = Payload { request: Some(digest), ..Payload::default() };
        let table: [(&str, &str, &[u8], bool); 6] = [
            ("POST", "/api/pull/s/docker/a:1/", b"{}", true),
            ("GET", "/api/pull/s/docker/a:1/", b"{}", false),
            ("POST", "/api/pull/s/docker/a:2/", b"{}", false),
            ("POST", "/api/pull/s/docker/a:1", b"{}", false),
            ("POST", "/api/pull/s/docker/a:1/", b"{\"allowed_uids\":\"1\"}", false),
            ("POST", "/api/pull/s/docker/a:1/\n{}", b"", false),
        ];
        for (method, path, body, expected) in table {
            assert_eq!(bound.allows(method, path, body), expected, "{method} {path} {body:?}");
            assert!(Payload::default().allows(method, path, body), "a payload without a digest fits all");
        }
    }
}
