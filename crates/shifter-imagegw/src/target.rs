//! From a tag to a registry: which location a reference means, what is asked of it, and which of the
//! caller's passwords belongs to it. The decisions are those of `shifter_registry::Registries`; a reference
//! never falls back silently from a registry it names to another one.

use shifter_api::payload::Payload;
use shifter_core::reference::{ImageRef, ReferenceError};
use shifter_registry::{Credentials, Location, RegistryError};

use crate::config::Config;

/// Where to pull what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The registry.
    pub(crate) location: Location,
    pub(crate) repository: String,
    /// A tag or `sha256:...`.
    pub(crate) reference: String,
    /// The reference as catalogs keep it, `:latest` written out.
    pub(crate) tag: String,
}

/// Why a tag cannot be pulled here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("the image name cannot be read: {0}")]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Refused(#[from] RegistryError),
}

impl Target {
    pub(crate) fn parse(config: &Config, tag: &str) -> Result<Target, TargetError> {
        let image = parse_reference(config, tag)?;
        let location = config.registries.find(&image)?;
        let reference = match (&image.digest, image.effective_tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        Ok(Target { location, reference, tag: image.to_string(), repository: image.repository })
    }

    /// The caller's credentials for this target.
    pub(crate) fn credentials(&self, config: &Config, payload: &Payload) -> Option<Credentials> {
        config.registries.credentials(&self.location, &payload.authorized_locations)
    }
}

/// Reads a reference with the configured locations as possible first components.
pub(crate) fn parse_reference(config: &Config, tag: &str) -> Result<ImageRef, ReferenceError> {
    ImageRef::parse(tag, &|name| config.registries.is_location(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use shifter_registry::AuthMethod;

    fn config() -> Config {
        config_with("")
    }

    fn config_with(keys: &str) -> Config {
        let text = r#"{"DefaultImageLocation": "registry-1.docker.io", "CacheDirectory": "/c", "ExpandDirectory": "/e",
            "Locations": {"registry-1.docker.io": {"remotetype": "dockerv2"}, "mirror": {"remotetype": "dockerv2",
            "url": "http://localhost:5001", "authMethod": "basic", "timeout": 900}, "host:5000": {"remotetype": "dockerv2",
            "mirrors": ["https://m1.example.org", "http://m2.example.org"], "sslcacert": "/ca.pem",
            "trustedHosts": ["auth.example.org"]}},
            "Platforms": {"s": {"accesstype": "local", "mungeSocketPath": "/m", "local": {"imageDir": "/i"}}}"#;
        Config::parse(&format!("{text}{keys}}}")).unwrap().0
    }

    #[test]
    fn references_find_their_registry() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let (by_digest, both) = (format!("app@{digest}"), format!("mirror/app:1@{digest}"));
        let hub = "registry-1.docker.io";
        for (tag, expected) in [
            ("debian", Some((hub, "debian", "latest", "debian:latest"))),
            ("debian:12", Some((hub, "debian", "12", "debian:12"))),
            (
                "docker.io/library/debian",
                Some((hub, "library/debian", "latest", "docker.io/library/debian:latest")),
            ),
            ("mirror/org/app", Some(("mirror", "org/app", "latest", "mirror/org/app:latest"))),
            ("host:5000/app:2", Some(("host:5000", "app", "2", "host:5000/app:2"))),
            (by_digest.as_str(), Some((hub, "app", digest.as_str(), by_digest.as_str()))),
            (both.as_str(), Some(("mirror", "app", digest.as_str(), both.as_str()))),
            ("ghcr.io/x/y:1", None),
            ("localhost/x", None),
            ("other:5000/x", None),
            ("UPPER", None),
            ("a:b:c", None),
        ] {
            let target = Target::parse(&config(), tag).ok();
            let got = target.as_ref().map(|t| {
                (t.location.name.as_str(), t.repository.as_str(), t.reference.as_str(), t.tag.as_str())
            });
            assert_eq!(got, expected, "{tag}");
        }
        let error = Target::parse(&config(), "ghcr.io/x/y:1").unwrap_err().to_string();
        assert!(error.contains("ghcr.io") && error.contains("mirror"), "{error}");
    }

    #[test]
    fn the_sites_policy_and_mirrors_are_those_of_the_configuration() {
        for (keys, tag, allowed) in [
            ("", "mirror/a", true),
            (r#", "DenyImages": ["mirror/a"]"#, "mirror/a", false),
            (r#", "DenyImages": "mirror/a""#, "mirror/b", true),
            (r#", "AllowImages": ["docker.io/library/*"]"#, "debian:12", true),
            (r#", "AllowImages": ["docker.io/library/*"]"#, "mirror/a", false),
            (r#", "AllowImages": ["ghcr.io/org/*"]"#, "ghcr.io/org/a", true),
            (r#", "AllowImages": []"#, "debian", false),
            (r#", "AllowImages": null"#, "debian", true),
        ] {
            assert_eq!(Target::parse(&config_with(keys), tag).is_ok(), allowed, "{keys} {tag}");
        }
        let location = Target::parse(&config(), "host:5000/a").unwrap().location;
        assert_eq!(location.trusted_hosts, ["auth.example.org"]);
        let mirrors = [("https://m1.example.org", "/ca.pem"), ("http://m2.example.org", "/ca.pem")];
        let got: Vec<_> = location.mirrors.iter().map(|m| (&*m.url, m.sslcacert.clone().unwrap())).collect();
        assert_eq!(got, mirrors.map(|(url, ca)| (url, ca.into())));
    }

    #[test]
    fn passwords_go_only_where_they_belong() {
        let payload = |pairs: &[(&str, &str)]| Payload {
            authorized_locations: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            request: None,
        };
        for (tag, tokens, expected) in [
            ("mirror/a", payload(&[("mirror", "u:p:w")]), Some(("u", "p:w"))),
            ("mirror/a", payload(&[("default", "u:p")]), None),
            ("debian", payload(&[("default", "u:p")]), Some(("u", "p"))),
            ("debian", payload(&[("docker.io", "h:p"), ("default", "u:p")]), Some(("h", "p"))),
            ("debian", payload(&[("mirror", "u:p")]), None),
            ("debian", payload(&[("default", "nocolon")]), None),
            ("debian", payload(&[]), None),
        ] {
            let found = Target::parse(&config(), tag).unwrap().credentials(&config(), &tokens);
            let found = found.as_ref().map(|c| (c.username.as_str(), c.password.as_str()));
            assert_eq!(found, expected, "{tag}");
        }
    }

    #[test]
    fn locations_keep_their_settings() {
        let config = config();
        let location = Target::parse(&config, "mirror/a").unwrap().location;
        assert_eq!(location.url.as_deref(), Some("http://localhost:5001"));
        assert_eq!(location.auth_method, AuthMethod::Basic);
        assert_eq!(location.timeout.map(|timeout| timeout.as_secs()), Some(900));
    }
}
