//! Which of an index's images suits a system: os, architecture and variant as Go and OCI name them
//! (image-spec image-index.md, "Platform Variants").

use std::fmt;

/// A platform in OCI terms, `linux/amd64` or `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system, a Go GOOS.
    pub os: String,
    /// Processor architecture, a Go GOARCH.
    pub architecture: String,
    /// Variant of the architecture, `v8`; the most the system can run.
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on `architecture`, with the most that it can run behind a slash (`amd64/v3`) or no variant wanted.
    pub fn linux(architecture: &str) -> Self {
        let (architecture, variant) = match architecture.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant.to_owned())),
            None => (architecture, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Architecture and variant, as [`Platform::linux`] reads them.
    pub fn processor(&self) -> String {
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => format!("{}/{variant}", self.architecture),
            _ => self.architecture.clone(),
        }
    }

    /// How well `offered` suits: `None` not at all, lower numbers better. A variant that the system is not known
    /// to have (higher than wanted) does not suit; with none wanted, an image without one is best and the lowest
    /// next, since it runs everywhere.
    pub(crate) fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        // arm64 has one variant in practice, which images may leave out (v8 is its default).
        let default = if self.architecture == "arm64" { Some(8) } else { None };
        let wanted = self.variant.as_deref().map_or(Some(default), |v| level(v).map(Some));
        let have = offered.variant.as_deref().filter(|v| !v.is_empty());
        let have = have.map_or(Some(default), |v| level(v).map(Some));
        match (wanted, have) {
            (Some(None), Some(None)) => Some(0),
            (Some(None), Some(Some(have))) => Some(1 + have),
            (Some(Some(_)), Some(None)) => Some(1000),
            (Some(Some(wanted)), Some(Some(have))) => wanted.checked_sub(have),
            // Variants that are no `vN`: only the same text will do.
            _ => (self.variant == offered.variant).then_some(0),
        }
    }
}

fn level(variant: &str) -> Option<u32> {
    let number: u32 = variant.strip_prefix('v')?.parse().ok()?;
    (number < 100).then_some(number)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.processor())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (os, architecture, variant) = (next(), next(), next());
        Platform { os, architecture, variant: (!variant.is_empty()).then_some(variant) }
    }

    #[test]
    fn the_best_image_a_system_can_run_is_chosen() {
        for (wanted, offered, expected) in [
            ("linux/amd64", "windows/amd64 linux/arm64 linux/amd64", Some("linux/amd64")),
            ("linux/amd64", "linux/amd64/v3 linux/amd64/v2 linux/amd64", Some("linux/amd64")),
            ("linux/amd64", "linux/amd64/v3 linux/amd64/v2", Some("linux/amd64/v2")),
            ("linux/amd64/v3", "linux/amd64/v4 linux/amd64 linux/amd64/v2", Some("linux/amd64/v2")),
            ("linux/amd64/v3", "linux/amd64/v4", None),
            ("linux/arm64", "linux/arm64/v8", Some("linux/arm64/v8")),
            ("linux/arm64/v8", "linux/arm64", Some("linux/arm64")),
            ("linux/arm64", "linux/arm64/v9 linux/arm64/v8", Some("linux/arm64/v8")),
            ("linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm64/v8", Some("linux/arm/v6")),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/ppc64le", "unknown/unknown linux/ppc64le", Some("linux/ppc64le")),
            ("linux/riscv64/rva23", "linux/riscv64/rva22 linux/riscv64/rva23", Some("linux/riscv64/rva23")),
        ] {
            let wanted = platform(wanted);
            let best = offered
                .split(' ')
                .map(platform)
                .filter_map(|offer| wanted.rank(&offer).map(|rank| (rank, offer)))
                .min_by_key(|(rank, _)| *rank)
                .map(|(_, offer)| offer.to_string());
            assert_eq!(best.as_deref(), expected, "{wanted} of {offered}");
        }
    }
}
