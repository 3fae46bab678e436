//! The registries of a site: which of them an image belongs to, whether it may be pulled, and which of a caller's
//! passwords goes there.
//!
//! An image that names a registry is pulled from that registry or not at all. Pure decisions about a
//! configuration that somebody else read; no requests are made here.

use crate::error::{RegistryError, quote};
use crate::location::{Credentials, HUB_NAMES, Location, is_hub_name};
use crate::policy::Policy;
use crate::redirect;
use crate::transport::host_of;
use shifter_core::reference::ImageRef;
use std::collections::BTreeMap;

/// The name under which callers keep the password of the default location.
const DEFAULT_CREDENTIALS: &str = "default";

/// The locations of a site, the one for images that name no registry, and the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    locations: BTreeMap<String, Location>,
    default: String,
    policy: Policy,
}

impl Registries {
    /// A site's registries. `default` is the name of the location for images that name no registry; a name that is
    /// none of the locations makes such images an error, nothing else. Fails where a location's URL is unusable.
    pub fn new(
        locations: impl IntoIterator<Item = Location>,
        default: &str,
        policy: Policy,
    ) -> Result<Self, RegistryError> {
        let locations: BTreeMap<_, _> = locations.into_iter().map(|l| (l.name.clone(), l)).collect();
        for location in locations.values() {
            location.base()?;
            location.mirror_locations().try_for_each(|mirror| mirror.base().map(drop))?;
        }
        Ok(Self { locations, default: default.to_owned(), policy })
    }

    /// Whether `name`, the first part of a reference, is a configured location: what
    /// [`ImageRef::parse`] wants to know.
    pub fn is_location(&self, name: &str) -> bool {
        self.locations.contains_key(name)
    }

    /// The location configured as `name`.
    pub fn location(&self, name: &str) -> Option<&Location> {
        self.locations.get(name)
    }

    /// The location that `image` is pulled from, if the policy allows it.
    pub fn find(&self, image: &ImageRef) -> Result<Location, RegistryError> {
        let wanted = image.registry.as_deref().unwrap_or(&self.default);
        let known = self.known(wanted);
        let location = match (known, &image.registry) {
            (Some(location), _) => location.clone(),
            (None, Some(registry)) => Location { named_by_user: true, ..Location::named(registry) },
            (None, None) => return Err(self.refusal(wanted, "the default location is not configured")),
        };
        let base = location.base()?;
        let repository = base.full_name(&image.repository)?;
        let host = host_of(&base.url);
        // A port that is the scheme's own may be written or not.
        let port = base.url.port_or_known_default().unwrap_or_default();
        let with_port = format!("{}:{port}", base.url.host_str().unwrap_or_default());
        let names = [location.name.as_str(), host.as_str(), with_port.as_str()];
        let verdict = self.policy.check(&names, known.is_some(), &repository);
        let verdict = verdict.and_then(|()| redirect::is_reachable(&base));
        verdict.map_err(|cause| self.refusal(&format!("{wanted}/{repository}"), &cause))?;
        Ok(location)
    }

    /// The location that a caller means who logs in at `name`: a location's name, its host, `default`, or a registry
    /// that the policy opens without its being configured.
    pub fn find_for_login(&self, name: &str) -> Result<Location, RegistryError> {
        let wanted = if name == DEFAULT_CREDENTIALS { self.default.as_str() } else { name };
        let is_at = |l: &&Location| l.base().is_ok_and(|base| host_of(&base.url) == wanted);
        let known = self.known(wanted).or_else(|| self.locations.values().find(is_at));
        let location = match known {
            Some(location) => location.clone(),
            None => Location { named_by_user: true, ..Location::named(wanted) },
        };
        let base = location.base()?;
        let host = host_of(&base.url);
        if !self.policy.opens(&[location.name.as_str(), host.as_str()], known.is_some()) {
            return Err(self.refusal(wanted, "this site pulls nothing from it"));
        }
        redirect::is_reachable(&base).map_err(|cause| self.refusal(wanted, &cause))?;
        Ok(location)
    }

    /// The caller's credentials for `location`, out of `authorized`, `user:password` by location: those under its
    /// own name, for Docker Hub under any of Docker Hub's names, and for the default location those called
    /// `default`; never anything else.
    pub fn credentials(
        &self,
        location: &Location,
        authorized: &BTreeMap<String, String>,
    ) -> Option<Credentials> {
        let hub = || {
            let is_hub = location.base().is_ok_and(|base| base.is_hub);
            is_hub.then(|| HUB_NAMES.iter().find_map(|name| authorized.get(*name))).flatten()
        };
        let is_default = self.known(&self.default).is_some_and(|known| known.name == location.name);
        let default = || is_default.then(|| authorized.get(DEFAULT_CREDENTIALS)).flatten();
        Credentials::parse(authorized.get(&location.name).or_else(hub).or_else(default)?)
    }

    /// The configured location that `name` means.
    fn known(&self, name: &str) -> Option<&Location> {
        let exact = self.locations.get(name);
        let hub = || {
            let named = HUB_NAMES.iter().find_map(|hub| self.locations.get(*hub));
            let aliased = || self.locations.values().find(|l| l.base().is_ok_and(|base| base.is_hub));
            is_hub_name(name).then(|| named.or_else(aliased)).flatten()
        };
        exact.or_else(hub)
    }

    fn refusal(&self, image: &str, cause: &str) -> RegistryError {
        let known: Vec<&str> = self.locations.keys().map(String::as_str).collect();
        RegistryError::Policy { image: quote(image), cause: cause.to_owned(), known: known.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::location::tests::location;

    fn site(locations: &[(&str, &str)], default: &str, allow: Option<&[&str]>, deny: &[&str]) -> Registries {
        let list = |l: &[&str]| l.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let policy = Policy::parse(allow.map(list).as_deref(), &list(deny)).unwrap();
        let locations = locations.iter().map(|(name, url)| location(name, url));
        Registries::new(locations, default, policy).unwrap()
    }

    fn find(site: &Registries, text: &str) -> Option<String> {
        let image = ImageRef::parse(text, &|name| site.is_location(name)).unwrap();
        site.find(&image).ok().map(|location| location.name)
    }

    const PLACES: &[(&str, &str)] =
        &[("registry-1.docker.io", ""), ("mirror", "http://localhost:5001"), ("host:5000", "")];

    #[test]
    fn images_find_their_registry_and_no_other() {
        let hub = Some("registry-1.docker.io");
        let usual = site(PLACES, "registry-1.docker.io", None, &[]);
        for (text, expected) in [
            ("debian", hub),
            ("docker.io/debian", hub),
            ("index.docker.io/library/debian:12", hub),
            ("mirror/a", Some("mirror")),
            ("host:5000/a", Some("host:5000")),
            ("host:5001/a", None),
            ("ghcr.io/a/b", None),
            ("localhost/a", None),
        ] {
            assert_eq!(find(&usual, text).as_deref(), expected, "{text}");
        }
        // The default may be given by another of Docker Hub's names, and Docker Hub a name of the site's own.
        assert_eq!(find(&site(PLACES, "docker.io", None, &[]), "debian").as_deref(), hub);
        let own = site(&[("hub", "https://index.docker.io/v2/")], "hub", None, &[]);
        assert_eq!(find(&own, "docker.io/a").as_deref(), Some("hub"));
        assert_eq!(find(&site(PLACES, "nosuch", None, &[]), "debian"), None);
    }

    #[test]
    fn the_policy_knows_a_registry_by_name_and_host_and_a_repository_in_full() {
        for (allow, deny, text, allowed) in [
            (None, &["docker.io/library/*"][..], "debian", false),
            (None, &["docker.io/library/*"], "org/debian", true),
            (None, &["localhost:5001"], "mirror/a", false),
            (None, &["host:5000"], "host:5000/a", false),
            (Some(&["docker.io/library/debian"][..]), &[], "debian", true),
            (Some(&["docker.io/library/debian"]), &[], "alpine", false),
            (Some(&["ghcr.io/org/*"]), &[], "ghcr.io/org/x:1", true),
            (Some(&["ghcr.io:443/org/*"]), &[], "ghcr.io/org/x:1", true),
            (Some(&["*"]), &["ghcr.io"], "ghcr.io:443/org/x", false),
            (Some(&["*"]), &["ghcr.io"], "GHCR.io/org/x", false),
            (Some(&["*"]), &[], "mirror/a", true),
            (Some(&["*"]), &[], "localhost:5001/a", false),
            (Some(&["*"]), &[], "127.0.0.1:5001/a", false),
            (Some(&["*"]), &[], "169.254.169.254/a", false),
        ] {
            let site = site(PLACES, "docker.io", allow, deny);
            assert_eq!(find(&site, text).is_some(), allowed, "{allow:?} {deny:?} {text}");
        }
        let usual = site(PLACES, "docker.io", None, &[]);
        let image = ImageRef::parse("ghcr.io/a", &|_| false).unwrap();
        assert_eq!(
            usual.find(&image).unwrap_err().to_string(),
            "ghcr.io/a may not be pulled: it is not one of the registries that this site pulls from \
             (host:5000, mirror, registry-1.docker.io); the administrator of the image gateway decides"
        );
    }

    #[test]
    fn passwords_go_only_to_the_registry_they_are_for() {
        let hub_alias =
            &[("hub", "https://registry-1.docker.io"), ("docker.io", "http://mirror.example.org")];
        for (places, default, at, tokens, expected) in [
            (PLACES, "docker.io", "mirror", &[("mirror", "u:p:w")][..], Some(("u", "p:w"))),
            (PLACES, "docker.io", "mirror", &[("default", "u:p")], None),
            (PLACES, "docker.io", "mirror", &[("localhost:5001", "u:p")], None),
            (PLACES, "docker.io", "registry-1.docker.io", &[("default", "u:p")], Some(("u", "p"))),
            (
                PLACES,
                "docker.io",
                "registry-1.docker.io",
                &[("default", "u:p"), ("index.docker.io", "h:p")],
                Some(("h", "p")),
            ),
            (PLACES, "mirror", "registry-1.docker.io", &[("default", "u:p")], None),
            (PLACES, "docker.io", "registry-1.docker.io", &[("mirror", "u:p")], None),
            (PLACES, "docker.io", "registry-1.docker.io", &[("docker.io", "nocolon")], None),
            (hub_alias, "hub", "hub", &[("docker.io", "u:p")], Some(("u", "p"))),
            // What is only called docker.io does not get what was meant for Docker Hub.
            (hub_alias, "hub", "docker.io", &[("index.docker.io", "u:p")], None),
        ] {
            let site = site(places, default, None, &[]);
            let authorized = tokens.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let location = site.locations.get(at).unwrap();
            let found = site.credentials(location, &authorized);
            let found = found.as_ref().map(|c| (c.username.as_str(), c.password.as_str()));
            assert_eq!(found, expected, "{at} {tokens:?}");
        }
    }

    /// ST44.
    #[test]
    fn a_login_is_for_a_registry_that_the_site_pulls_from() {
        for (allow, deny, name, expected) in [
            (None, &[][..], "default", Some("registry-1.docker.io")),
            (None, &[], "docker.io", Some("registry-1.docker.io")),
            (None, &[], "mirror", Some("mirror")),
            (None, &[], "localhost:5001", Some("mirror")),
            (None, &[], "ghcr.io", None),
            (None, &["mirror"], "mirror", None),
            (None, &["mirror/a/*"], "mirror", Some("mirror")),
            (Some(&["ghcr.io/org/*"][..]), &[], "ghcr.io", Some("ghcr.io")),
            (Some(&["ghcr.io/org/*"]), &[], "mirror", None),
            (Some(&["*"]), &[], "169.254.169.254", None),
            (Some(&["*"]), &[], "localhost:5002", None),
            (Some(&["*"]), &[], "", None),
            (Some(&["*"]), &[], "a b/../c", None),
        ] {
            let site = site(PLACES, "docker.io", allow, deny);
            let found = site.find_for_login(name).ok().map(|location| location.name);
            assert_eq!(found.as_deref(), expected, "{allow:?} {deny:?} {name}");
        }
    }

    #[test]
    fn unusable_urls_are_found_when_the_configuration_is_read() {
        let mirrors = vec![crate::Mirror { url: "ftp://x".to_owned(), sslcacert: None }];
        for bad in [location("x", "ftp://h"), Location { mirrors, ..Location::named("quay.io") }] {
            let error = Registries::new([bad], "x", Policy::default()).unwrap_err().to_string();
            assert!(error.contains("must be http:// or https://"), "{error}");
        }
    }
}
