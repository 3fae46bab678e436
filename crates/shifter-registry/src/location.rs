//! Where a registry is and who asks: `Locations` of imagemanager.json and a caller's credentials.
//!
//! Turns a location into the base URLs all requests start from: its own, and those of its mirrors. Docker Hub
//! answers to three names and is one registry here, so that `docker.io`, `index.docker.io` and
//! `registry-1.docker.io` share tags and credentials rules. It does not read files and knows nothing of HTTP;
//! which location an image belongs to is the business of `registries`.

use crate::error::{RegistryError, quote};
use crate::transport::host_of;
use reqwest::Url;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The names under which Docker Hub is known.
pub(crate) const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// The one host of them that speaks the registry protocol.
const HUB_URL: &str = "https://registry-1.docker.io";

/// How a registry is expected to authenticate, `authMethod` of a location. Only a preference: what the registry
/// asks for decides where it offers one way only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMethod {
    /// A bearer token from the realm that the registry names.
    #[default]
    Token,
    /// HTTP Basic with the registry itself.
    Basic,
}

/// One registry as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Its name in the configuration; the default host.
    pub name: String,
    /// Base URL; `https://NAME` where absent. `http://` only if written here. A path in it is put before every
    /// repository (`https://host/prefix` + `a/b` is `/v2/prefix/a/b`).
    pub url: Option<String>,
    /// PEM file of CA certificates trusted in addition to the system's.
    pub sslcacert: Option<PathBuf>,
    /// Preferred authentication.
    pub auth_method: AuthMethod,
    /// Where content is fetched first, in this order; the registry itself stands in for what they lack.
    pub mirrors: Vec<Mirror>,
    /// Whether a user named it and no administrator configured it. It must then not be at an address of this
    /// machine.
    pub named_by_user: bool,
    /// Other hosts that belong to this registry, `host` or `host:port`: its token service may get callers'
    /// passwords although it has another domain, and its storage may be at an address of this machine.
    pub trusted_hosts: Vec<String>,
    /// Longest silence of the registry, and of its mirrors, that is waited for; else that of the settings. A mirror
    /// that fetches a whole layer before it answers is silent for long.
    pub timeout: Option<Duration>,
}

/// Another place with the same content, a pull-through cache of the site for example. It is asked for documents
/// and layers by digest only, without anybody's credentials, and need not be trusted: what a tag means and who may
/// have it says the registry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Base URL, as of a location. A path in it is put before every repository.
    pub url: String,
    /// PEM file of CA certificates trusted in addition to the system's.
    pub sslcacert: Option<PathBuf>,
}

/// A caller's user name and password (or access token) for one registry. The password may hold colons.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name; must not hold a colon (RFC 7617 §2). `<token>`, as Docker writes it, or nothing says that the
    /// password is an identity token, which the registry's token service exchanges for access.
    pub username: String,
    /// Password.
    pub password: String,
}

impl Credentials {
    /// Reads `user:password`, as `authorized_locations` holds it: all after the first colon is password.
    pub fn parse(text: &str) -> Option<Self> {
        let (username, password) = text.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.to_owned() })
    }

    /// Whether the password is an identity token (OAuth2 refresh token).
    pub(crate) fn is_identity_token(&self) -> bool {
        matches!(self.username.as_str(), "" | "<token>")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"(hidden)")
            .finish()
    }
}

impl Location {
    /// A location known by its host alone.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Base URL of the registry without a trailing slash in its path.
    pub(crate) fn base(&self) -> Result<Base, RegistryError> {
        let fail = |cause: String| RegistryError::Location { location: quote(&self.name), cause };
        let written = self.url.as_deref().unwrap_or(&self.name);
        let text = if written.contains("://") { written.to_owned() } else { format!("https://{written}") };
        let url = Url::parse(&text).map_err(|e| fail(format!("its url {}: {e}", quote(written))))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
            return Err(fail(format!("its url {} must be http:// or https:// and a host", quote(written))));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail("its url must not hold credentials; use shifterimg login".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(fail("its url must not have a query or a fragment".to_owned()));
        }
        let is_hub = is_hub_name(&host);
        let url = if is_hub { Url::parse(HUB_URL).map_err(|e| fail(e.to_string()))? } else { url };
        // Administrators write the API root or the host; both mean the same.
        let path = url.path().trim_matches('/');
        let path = if path == "v1" || path == "v2" { "" } else { path };
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let own = (!self.named_by_user).then(|| host_of(&url));
        let mut trusted: Vec<String> =
            self.trusted_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        trusted.extend(own);
        Ok(Base { url, prefix, is_hub, trusted })
    }

    /// The location's mirrors, each as a location of its own without mirrors.
    pub(crate) fn mirror_locations(&self) -> impl Iterator<Item = Location> {
        self.mirrors.iter().map(|mirror| Location {
            name: format!("{} (mirror {})", self.name, mirror.url),
            url: Some(mirror.url.clone()),
            sslcacert: mirror.sslcacert.clone(),
            ..Location::default()
        })
    }
}

/// Whether `host` is one of the names of Docker Hub.
pub(crate) fn is_hub_name(host: &str) -> bool {
    HUB_NAMES.contains(&host)
}

/// The start of all URLs of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// Scheme, host and port.
    pub(crate) url: Url,
    /// Path of the configured URL, with a slash at its end, or empty.
    prefix: String,
    /// Whether it is Docker Hub itself.
    pub(crate) is_hub: bool,
    /// Hosts that belong to the registry by configuration, `host` or `host:port`, lower case.
    pub(crate) trusted: Vec<String>,
}

impl Base {
    /// The repository as the registry knows it: `library/` implied on Docker Hub only, the location's path put
    /// in front; refused where it breaks the grammar of the distribution specification.
    pub(crate) fn repository(&self, repository: &str) -> Result<String, RegistryError> {
        Ok(self.under_path(&self.full_name(repository)?))
    }

    /// A checked repository below the location's path.
    pub(crate) fn under_path(&self, full_name: &str) -> String {
        format!("{}{full_name}", self.prefix)
    }

    /// The repository with the implied `library/` of Docker Hub, without the location's path.
    pub(crate) fn full_name(&self, repository: &str) -> Result<String, RegistryError> {
        let component = |c: &str| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            edge(c.bytes().next())
                && edge(c.bytes().last())
                && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
                && !c.contains("..")
        };
        if repository.len() > 255 || !repository.split('/').all(component) {
            return Err(RegistryError::Name {
                what: "repository",
                name: quote(repository),
                rule: "at most 255 lower-case letters, digits and inner . _ - in parts separated by /"
                    .to_owned(),
            });
        }
        let library = if self.is_hub && !repository.contains('/') { "library/" } else { "" };
        Ok(format!("{library}{repository}"))
    }

    /// Whether an administrator says that the host of `url` belongs to the registry.
    pub(crate) fn trusts(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        self.trusted.iter().any(|t| t == host || *t == host_of(url) || *t == format!("{host}:{port}"))
    }

    /// URL of `/v2/REPOSITORY/KIND/REFERENCE`; all parts are checked already.
    pub(crate) fn endpoint(&self, repository: &str, kind: &str, reference: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("/v2/{repository}/{kind}/{reference}"));
        url
    }

    /// URL of `/v2/`, where a registry says that it is one, and to whom.
    pub(crate) fn root(&self) -> Url {
        let mut url = self.url.clone();
        url.set_path("/v2/");
        url
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn location(name: &str, url: &str) -> Location {
        let url = (!url.is_empty()).then(|| url.to_owned());
        Location { url, ..Location::named(name) }
    }

    #[test]
    fn a_location_becomes_the_url_its_administrator_meant() {
        for (name, url, repository, expected) in [
            ("quay.io", "", "a/b", "https://quay.io/v2/a/b/manifests/1"),
            ("docker.io", "", "debian", "https://registry-1.docker.io/v2/library/debian/manifests/1"),
            ("docker.io", "", "a/debian", "https://registry-1.docker.io/v2/a/debian/manifests/1"),
            ("index.docker.io", "", "debian", "https://registry-1.docker.io/v2/library/debian/manifests/1"),
            (
                "hub",
                "http://registry-1.docker.io/v2/",
                "debian",
                "https://registry-1.docker.io/v2/library/debian/manifests/1",
            ),
            ("quay.io", "", "debian", "https://quay.io/v2/debian/manifests/1"),
            ("local", "http://localhost:5000", "a", "http://localhost:5000/v2/a/manifests/1"),
            ("local", "localhost:5000/", "a", "https://localhost:5000/v2/a/manifests/1"),
            ("af", "https://h.example.org/docker/", "a", "https://h.example.org/v2/docker/a/manifests/1"),
            ("v6", "http://[::1]:5000", "a", "http://[::1]:5000/v2/a/manifests/1"),
        ] {
            let base = location(name, url).base().unwrap();
            let repository = base.repository(repository).unwrap();
            assert_eq!(base.endpoint(&repository, "manifests", "1").as_str(), expected);
        }
    }

    #[test]
    fn a_mirror_has_the_repositories_under_their_full_names_and_its_own_path() {
        let mirrors = vec![Mirror { url: "https://m.example.org/hub".to_owned(), sslcacert: None }];
        for (origin, repository, expected) in [
            ("docker.io", "debian", "https://m.example.org/v2/hub/library/debian/manifests/1"),
            ("docker.io", "a/debian", "https://m.example.org/v2/hub/a/debian/manifests/1"),
            ("quay.io/prefix", "a", "https://m.example.org/v2/hub/a/manifests/1"),
        ] {
            let location = Location { mirrors: mirrors.clone(), ..location("x", origin) };
            let full = location.base().unwrap().full_name(repository).unwrap();
            let mirror = location.mirror_locations().next().unwrap().base().unwrap();
            assert_eq!(mirror.endpoint(&mirror.under_path(&full), "manifests", "1").as_str(), expected);
        }
    }

    #[test]
    fn unusable_urls_are_refused_by_a_sentence_without_the_password() {
        for (url, part) in [
            ("ftp://h", "must be http"),
            ("file:///etc/passwd", "must be http"),
            ("https://u:secret@h", "must not hold credentials"),
            ("https://h?x=1", "query"),
            ("https://", "url"),
        ] {
            let text = location("x", url).base().unwrap_err().to_string();
            assert!(text.contains(part) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn repositories_cannot_climb_out_of_their_url() {
        let base = Location::named("quay.io").base().unwrap();
        for bad in
            ["", "/", "a//b", "../x", "a/..", "a/../b", "A", "a b", "a?x", "a%2fb", "-a", "a..b", "a/", "a\n"]
        {
            assert!(base.repository(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b/c", "a__b", "a-b.c_d", "0"] {
            assert!(base.repository(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn passwords_keep_their_colons_and_identity_tokens_are_known_by_their_user() {
        for (text, expected) in [
            ("u:p:q:", Some(("u", "p:q:", false))),
            ("u:", Some(("u", "", false))),
            (":t", Some(("", "t", true))),
            ("<token>:t:x", Some(("<token>", "t:x", true))),
            ("nocolon", None),
            ("", None),
        ] {
            let got = Credentials::parse(text);
            let got = got.as_ref().map(|c| (c.username.as_str(), c.password.as_str(), c.is_identity_token()));
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let text = format!("{:?}", Credentials { username: "u".into(), password: "pa:ss".into() });
        assert!(text.contains("hidden") && !text.contains("pa:ss"), "{text}");
    }
}
