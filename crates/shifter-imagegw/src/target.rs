//! From a tag to a registry: which location a reference means, what is asked of it, and which of the
//! caller's passwords belongs to it. Pure decisions; a reference never falls back silently from a
//! registry it names to another one.

use shifter_api::payload::Payload;
use shifter_core::reference::{ImageRef, ReferenceError};
use shifter_registry::{AuthMethod, Credentials, Location};

use crate::config::Config;

/// The names of Docker's registry; a reference may use any of them for the configured one.
const HUB: [&str; 3] = ["registry-1.docker.io", "docker.io", "index.docker.io"];

/// Where to pull what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Key into `Locations`.
    pub(crate) location: String,
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
    #[error(
        "the registry {registry} is not one this gateway pulls from ({known}); ask the administrator to add it to Locations"
    )]
    UnknownRegistry { registry: String, known: String },
}

impl Target {
    pub(crate) fn parse(config: &Config, tag: &str) -> Result<Target, TargetError> {
        let image = parse_reference(config, tag)?;
        let location = match &image.registry {
            None => config.default_location.clone(),
            Some(registry) => find(config, registry).ok_or_else(|| TargetError::UnknownRegistry {
                registry: registry.clone(),
                known: config.locations.keys().cloned().collect::<Vec<_>>().join(", "),
            })?,
        };
        let reference = match (&image.digest, image.effective_tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        Ok(Target { location, reference, tag: image.to_string(), repository: image.repository })
    }

    /// The caller's credentials for this target: those for its location, else, only where the
    /// location is the default one, those called `default`. The password may hold colons.
    pub(crate) fn credentials(&self, config: &Config, payload: &Payload) -> Option<Credentials> {
        let locations = &payload.authorized_locations;
        let own = locations.get(&self.location).or_else(|| {
            HUB.contains(&self.location.as_str())
                .then(|| HUB.iter().find_map(|name| locations.get(*name)))
                .flatten()
        });
        let default =
            || (self.location == config.default_location).then(|| locations.get("default")).flatten();
        let (username, password) = own.or_else(default)?.split_once(':')?;
        Some(Credentials { username: username.to_owned(), password: password.to_owned() })
    }

    /// The registry as its client wants it described.
    pub(crate) fn registry_location(&self, config: &Config) -> Location {
        let configured = config.locations.get(&self.location);
        Location {
            url: configured.and_then(|location| location.url.clone()),
            sslcacert: configured.and_then(|location| location.ca_certificate.clone()),
            auth_method: match configured.is_some_and(|location| location.basic_auth) {
                true => AuthMethod::Basic,
                false => AuthMethod::Token,
            },
            ..Location::named(&self.location)
        }
    }
}

/// Reads a reference with the configured locations as possible first components.
pub(crate) fn parse_reference(config: &Config, tag: &str) -> Result<ImageRef, ReferenceError> {
    ImageRef::parse(tag, &|name| config.locations.contains_key(name))
}

fn find(config: &Config, registry: &str) -> Option<String> {
    if config.locations.contains_key(registry) {
        return Some(registry.to_owned());
    }
    let is_hub = HUB.contains(&registry);
    is_hub
        .then(|| HUB.iter().find(|name| config.locations.contains_key(**name)))?
        .map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn config() -> Config {
        let text = r#"{"DefaultImageLocation": "registry-1.docker.io", "CacheDirectory": "/c", "ExpandDirectory": "/e",
            "Locations": {"registry-1.docker.io": {"remotetype": "dockerv2"}, "mirror": {"remotetype": "dockerv2",
            "url": "http://localhost:5001", "authMethod": "basic"}, "host:5000": {"remotetype": "dockerv2"}},
            "Platforms": {"s": {"accesstype": "local", "mungeSocketPath": "/m", "local": {"imageDir": "/i"}}}}"#;
        Config::parse(text).unwrap().0
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
            let got = target
                .as_ref()
                .map(|t| (t.location.as_str(), t.repository.as_str(), t.reference.as_str(), t.tag.as_str()));
            assert_eq!(got, expected, "{tag}");
        }
        let error = Target::parse(&config(), "ghcr.io/x/y:1").unwrap_err().to_string();
        assert!(error.contains("ghcr.io") && error.contains("mirror"), "{error}");
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
        let location = Target::parse(&config, "mirror/a").unwrap().registry_location(&config);
        assert_eq!(location.url.as_deref(), Some("http://localhost:5001"));
        assert_eq!(location.auth_method, AuthMethod::Basic);
    }
}
