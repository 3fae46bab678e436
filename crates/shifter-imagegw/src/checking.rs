//! `check-config`: all that is wrong with a configuration at once, and what its permissive switches open.
//!
//! Exit status: 0 it can be served (there may be warnings), 1 it cannot, 2 wrong words.

mod places;

use std::path::Path;

use serde_json::Value;

use crate::catalog::{self, CatalogError, Place, Purpose};
use crate::config::{Config, Endpoint};
use crate::convert::sentence;
use crate::seal::SealKey;
use crate::{convert, serve, tls, transfer};

/// A switch: key, the value that opens something (`*`: any, `!`: any but nothing), and what it opens.
const SWITCHES: &[(&str, &str, &str)] = &[
    ("ImportUsers", "all", "every user can bring images of any origin"),
    (
        "allowVerbatimImport",
        "true",
        "administrators' imported squashfs files reach the nodes' kernels unread",
    ),
    ("AllowImages", "*", "users pull from registries that are no Locations"),
];

/// What the switches of a file open, one sentence each; also those of the environment.
pub(crate) fn opened(text: &str, config: &Config) -> Vec<String> {
    let Ok(Value::Object(top)) = serde_json::from_str(text) else { return Vec::new() };
    let mut sentences: Vec<String> = config.openings().into_iter().map(str::to_owned).collect();
    for (key, value, what) in SWITCHES {
        let found = top.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        if found.is_some_and(|(_, found)| has(found, value)) {
            sentences.push(format!("{key}: {what}"));
        }
    }
    for (name, location) in top.get("Locations").and_then(Value::as_object).into_iter().flatten() {
        if location.get("url").and_then(Value::as_str).is_some_and(|url| url.starts_with("http://")) {
            sentences.push(format!("Locations.{name}.url: passwords and images travel in the clear"));
        }
        if location.get("trustedHosts").and_then(Value::as_array).is_some_and(|hosts| !hosts.is_empty()) {
            sentences.push(format!(
                "Locations.{name}.trustedHosts: these hosts get users' passwords, and may be this machine's own"
            ));
        }
    }
    let doors = &config.doors;
    let is_clear = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Tcp(_)) && !endpoint.is_loopback();
    if doors.tls.is_none()
        && let Some(endpoint) = doors.listen.iter().find(is_clear)
    {
        sentences.push(format!(
            "Listen: {endpoint} speaks plain HTTP; credentials are sealed by munge, names of images and answers are not"
        ));
    }
    sentences
}

fn has(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text.eq_ignore_ascii_case(wanted),
        Value::Bool(is_set) => *is_set && wanted == "true",
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
        _ => false,
    }
}

/// Everything that keeps the configuration from being served on this machine, by this account.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            problems.extend(convert::chain(&*error).lines().map(str::to_owned));
        }
    };
    note(serve::check_policy(config));
    for (name, platform) in &config.platforms {
        note(
            convert::check(&platform.converters)
                .map_err(|why| anyhow::anyhow!("Platforms.{name}.ConverterOptions: {why}")),
        );
    }
    for why in serve::missing_image_directories(config).chain(places::problems(config)) {
        note(Err(anyhow::Error::msg(why)));
    }
    if let Some(examiner) = &config.examiner {
        note(examiner.check().map_err(anyhow::Error::msg));
    }
    note(transfer::check(config).map_err(anyhow::Error::msg));
    if let Some(path) = &config.seal_key_file {
        note(SealKey::read(path).map(drop).map_err(anyhow::Error::new));
    }
    if let Some(files) = &config.doors.tls {
        note(tls::load(files).map(drop));
    }
    problems
}

/// What should be looked at, and keeps nothing from being served.
pub(crate) fn doubts(config: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    for (name, platform) in &config.platforms {
        if let Some(socket) = platform.munge_socket.as_deref().filter(|socket| !Path::exists(socket)) {
            let socket = socket.display();
            doubts.push(format!(
                "Platforms.{name}.mungeSocketPath: {socket} is not there; is its munged running?"
            ));
        }
    }
    doubts
}

/// Asks a database server whether it is there; a start waits for it in vain.
pub(crate) async fn doubt_of_database(place: &Place) -> Option<String> {
    if matches!(place, Place::Sqlite(_)) {
        return None;
    }
    let error = catalog::open(place, Purpose::Look).await.err()?;
    // The next start brings it up to date.
    if matches!(error, CatalogError::Older { .. }) {
        return None;
    }
    Some(format!("the catalog cannot be opened at the moment: {}", sentence(&error)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_switch_says_what_it_opens_and_a_closed_site_hears_nothing() {
        let read = |keys: &str, location: &str| {
            let text = format!(
                r#"{{"DefaultImageLocation": "reg", "CacheDirectory": "/c", "ExpandDirectory": "/e", {keys}
                "Locations": {{"reg": {{"remotetype": "dockerv2" {location}}}}}, "Platforms": {{"sysa":
                {{"accesstype": "local", "mungeSocketPath": "/m", "local": {{"imageDir": "/i"}}}}}}}}"#
            );
            opened(&text, &Config::parse(&text).unwrap().0)
        };
        let closed = r#""Listen": ["127.0.0.1:5000", "unix:/run/x.sock"],"#;
        assert_eq!(read(closed, ""), Vec::<String>::new());
        for (keys, location, word) in [
            (r#""Authentication": "mock","#, "", "Authentication"),
            (r#""AllowAnonymousReads": true,"#, "", "AllowAnonymousReads"),
            (r#""PrivateWithoutACL": "public","#, "", "PrivateWithoutACL"),
            (r#""ImportUsers": "all","#, "", "ImportUsers"),
            (r#""allowVerbatimImport": true,"#, "", "allowVerbatimImport"),
            (r#""AllowImages": ["*"],"#, "", "AllowImages"),
            ("", r#", "url": "http://reg""#, "Locations.reg.url"),
            ("", r#", "trustedHosts": ["t.example.org"]"#, "Locations.reg.trustedHosts"),
        ] {
            let said = read(&format!("{closed}{keys}"), location);
            assert!(said.len() == 1 && said[0].starts_with(word), "{word} {said:?}");
        }
        assert!(read("", "").concat().starts_with("Listen: 0.0.0.0:5000 speaks plain HTTP"));
    }
}
