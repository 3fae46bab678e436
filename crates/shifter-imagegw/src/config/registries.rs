//! The part of `imagemanager.json` that says which registries there are and what users may pull from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use shifter_registry::{AuthMethod, Location, Mirror, Policy, Registries};

use super::section::Section;

/// One entry of `Locations`; its name comes later.
pub(super) fn read_location(section: &mut Section<'_>) -> Location {
    match section.text("remotetype") {
        Some("dockerv2") => {}
        Some("dockerhub") => section.problem("remotetype", "\"dockerhub\" is deprecated; write \"dockerv2\""),
        Some(_) => section.problem("remotetype", "only \"dockerv2\" is known"),
        None => section.problem("remotetype", "missing; write \"dockerv2\""),
    }
    let is_url = |url: &str| url.starts_with("http://") || url.starts_with("https://");
    let url = section.text("url").map(str::to_owned);
    if url.as_deref().is_some_and(|url| !is_url(url)) {
        section.problem("url", "must begin with http:// or https://");
    }
    section.text("authentication");
    let sslcacert = section.text("sslcacert").map(PathBuf::from);
    let mirrors = section.names("mirrors");
    if mirrors.iter().any(|url| !is_url(url)) {
        section.problem("mirrors", "each must begin with http:// or https://");
    }
    Location {
        url,
        auth_method: match section.choice("authMethod", &["token", "basic"]) {
            Some("basic") => AuthMethod::Basic,
            _ => AuthMethod::Token,
        },
        mirrors: mirrors.into_iter().map(|url| Mirror { url, sslcacert: sslcacert.clone() }).collect(),
        trusted_hosts: section.names("trustedHosts"),
        timeout: section.integer("timeout", 1, 3600).map(Duration::from_secs),
        sslcacert,
        ..Location::default()
    }
}

/// All of them with the site's policy.
pub(super) fn read(
    top: &mut Section<'_>,
    locations: BTreeMap<String, Location>,
    default: &str,
) -> Registries {
    let allow = top.is_set("AllowImages").then(|| top.names("AllowImages"));
    let policy = match Policy::parse(allow.as_deref(), &top.names("DenyImages")) {
        Ok(policy) => policy,
        Err(error) => {
            top.problem("AllowImages, DenyImages", &error.to_string());
            return Registries::default();
        }
    };
    let locations = locations.into_iter().map(|(name, location)| Location { name, ..location });
    match Registries::new(locations, default, policy) {
        Ok(registries) => registries,
        Err(error) => {
            top.problem("Locations", &error.to_string());
            Registries::default()
        }
    }
}
