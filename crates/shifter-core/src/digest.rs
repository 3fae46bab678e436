//! Content digests as OCI writes them (`sha256:<hex>`, image-spec descriptor.md): validated once, here, so
//! that no unchecked text from a registry can become part of a path or a URL (CVE-2024-3727).
//! Computing digests is left to those who read the bytes.

use std::fmt;

/// A hash function allowed for content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// A well-formed digest: algorithm and lower-case hexadecimal value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestError {
    /// No `algorithm:` in front, or one that is not allowed.
    Algorithm(String),
    /// The value has the wrong length or characters other than `0-9a-f`.
    Value {
        /// The algorithm named.
        algorithm: Algorithm,
    },
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DigestError::Algorithm(name) => {
                write!(f, "digest algorithm \"{}\" is not sha256 or sha512", name.escape_default())
            }
            DigestError::Value { algorithm } => write!(
                f,
                "a {} digest is {} lower-case hexadecimal digits",
                algorithm.name(),
                algorithm.hex_length()
            ),
        }
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// Reads `sha256:<64 hex>` or `sha512:<128 hex>`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').unwrap_or(("", text));
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::Algorithm(other.chars().take(32).collect())),
        };
        Self::new(algorithm, hex)
    }

    /// A SHA-256 digest from its bare hexadecimal value.
    pub fn sha256_from_hex(hex: &str) -> Result<Self, DigestError> {
        Self::new(Algorithm::Sha256, hex)
    }

    fn new(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_length() || !hex.bytes().all(legal) {
            return Err(DigestError::Value { algorithm });
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value, lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_whole_lower_case_digests_pass() {
        let a64 = "a".repeat(64);
        let f128 = "f".repeat(128);
        for (text, good) in [
            (format!("sha256:{a64}"), true),
            (format!("sha512:{f128}"), true),
            (format!("sha512:{a64}"), false),
            (format!("sha256:{}", "A".repeat(64)), false),
            (format!("sha256:{}", "a".repeat(63)), false),
            (format!("sha256:{}/", "a".repeat(63)), false),
            (format!("md5:{}", "a".repeat(32)), false),
            (a64.clone(), false),
            ("sha256:../../../etc/passwd".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(Digest::parse(&text).is_ok(), good, "{text}");
        }
        assert_eq!(Digest::parse(&format!("sha256:{a64}")).unwrap().to_string(), format!("sha256:{a64}"));
    }
}
