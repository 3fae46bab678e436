//! Image references as users type them: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar is that of the distribution specification and Docker's reference package. Which registry an
//! absent one means, and the `library/` of Docker Hub, are the registry client's matter.

use crate::digest::{Digest, DigestError};
use std::fmt;
use std::net::Ipv6Addr;

/// A parsed reference. At least one of `tag` and `digest` may be absent; both absent means `latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// `host`, `host:port` (an IPv6 address in brackets) or a configured location's name; absent means the default location.
    pub registry: Option<String>,
    /// Lower-case path components joined by `/`.
    pub repository: String,
    /// At most 128 characters of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
    pub tag: Option<String>,
    /// The exact content wanted.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceError {
    /// No repository in it.
    Empty,
    /// Longer than 512 bytes.
    TooLong,
    /// The registry part is no host name, optionally with a port.
    Registry(String),
    /// A repository component breaks the grammar.
    Repository(String),
    /// The tag breaks the grammar.
    Tag(String),
    /// What follows `@` is no digest.
    Digest(DigestError),
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReferenceError::Empty => f.write_str("the image reference names no repository"),
            ReferenceError::TooLong => f.write_str("the image reference is longer than 512 bytes"),
            ReferenceError::Registry(text) => {
                write!(f, "\"{}\" is not a registry's host name or host:port", text.escape_default())
            }
            ReferenceError::Repository(text) => write!(
                f,
                "\"{}\" cannot be part of a repository name: lower-case letters and digits, joined by . _ or -",
                text.escape_default()
            ),
            ReferenceError::Tag(text) => {
                write!(f, "\"{}\" is not a tag: up to 128 letters, digits and _ . -", text.escape_default())
            }
            ReferenceError::Digest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReferenceError {}

impl ImageRef {
    /// Reads a reference. The first component is a registry if `is_location` knows it, or if it has a dot or
    /// a colon in it, or is `localhost`.
    pub fn parse(text: &str, is_location: &dyn Fn(&str) -> bool) -> Result<Self, ReferenceError> {
        if text.len() > 512 {
            return Err(ReferenceError::TooLong);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(Digest::parse(digest).map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_location(first) || looks_like_host(first) => {
                (Some(checked_registry(first)?), rest)
            }
            _ => (None, name),
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(checked_tag(tag)?)),
            None => (path, None),
        };
        if repository.is_empty() {
            return Err(ReferenceError::Empty);
        }
        for component in repository.split('/') {
            if !is_component(component) {
                return Err(ReferenceError::Repository(component.to_owned()));
            }
        }
        Ok(Self { registry, repository: repository.to_owned(), tag, digest })
    }

    /// The tag, or `latest` where neither tag nor digest was given; `None` if only a digest was.
    pub fn effective_tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }
}

impl fmt::Display for ImageRef {
    /// The canonical text, with `:latest` written out; equal images of one registry have equal texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = self.effective_tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

fn checked_registry(text: &str) -> Result<String, ReferenceError> {
    let (address, rest) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((address, rest)) => (Some(address), rest),
        None => (None, text),
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let host_good = |label: &dyn Fn(&str) -> bool| match address {
        Some(address) => host.is_empty() && address.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_good = port.is_none_or(|port| {
        !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if !host_good(&label) || !port_good {
        return Err(ReferenceError::Registry(text.to_owned()));
    }
    Ok(text.to_owned())
}

fn checked_tag(text: &str) -> Result<String, ReferenceError> {
    let good = !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(text.to_owned()) } else { Err(ReferenceError::Tag(text.to_owned())) }
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let edges =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    edges
        && text
            .split(|c: char| alphanumeric(c as u8) && c.is_ascii())
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_split_as_docker_splits_them() {
        let check = |text: &str, expected: Option<(Option<&str>, &str, Option<&str>, bool)>| {
            let got = ImageRef::parse(text, &|name| name == "mirror").ok();
            let got = got.as_ref().map(|r| {
                (r.registry.as_deref(), r.repository.as_str(), r.tag.as_deref(), r.digest.is_some())
            });
            assert_eq!(got, expected, "{text}");
        };
        check("debian", Some((None, "debian", None, false)));
        check("debian:12", Some((None, "debian", Some("12"), false)));
        check("org/img:v1.0_x-y", Some((None, "org/img", Some("v1.0_x-y"), false)));
        check("quay.io/org/img:1", Some((Some("quay.io"), "org/img", Some("1"), false)));
        check("localhost/img", Some((Some("localhost"), "img", None, false)));
        check("host:5000/a/b:tag", Some((Some("host:5000"), "a/b", Some("tag"), false)));
        check("[::1]:5000/a:tag", Some((Some("[::1]:5000"), "a", Some("tag"), false)));
        check("[fd00::1]/a", Some((Some("[fd00::1]"), "a", None, false)));
        check("mirror/a:1", Some((Some("mirror"), "a", Some("1"), false)));
        check(&format!("a@{D}"), Some((None, "a", None, true)));
        check(&format!("host:5000/a:t@{D}"), Some((Some("host:5000"), "a", Some("t"), true)));
        check("a__b/c.d/e---f", Some((None, "a__b/c.d/e---f", None, false)));
        for bad in [
            "",
            ":tag",
            "a:",
            "A/b",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b:c",
            "host:port/a",
            "host:0/a",
            "a._b",
            ".a",
            "a-",
            "a@sha256:00",
            "a:-x",
            "-h.x/a",
            "[::1/a",
            "[::1]x/a",
            "[::1]:/a",
            "[1.2.3.4]/a",
            "[]:5000/a",
            "::1/a",
            "ä",
            "quay.io/",
            "a@",
        ] {
            check(bad, None);
        }
        check(&"a".repeat(600), None);
    }

    #[test]
    fn the_canonical_text_writes_latest_out_but_not_beside_a_digest() {
        for (text, expected) in [
            ("debian", "debian:latest".to_owned()),
            ("quay.io/a:1", "quay.io/a:1".to_owned()),
            (&format!("a@{D}"), format!("a@{D}")),
            (&format!("a:1@{D}"), format!("a:1@{D}")),
        ] {
            assert_eq!(ImageRef::parse(text, &|_| false).unwrap().to_string(), expected);
        }
    }
}
