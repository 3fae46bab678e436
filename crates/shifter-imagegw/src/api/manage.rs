//! What administrators do with images that are there, and what everybody may do with their own.
//!
//! Who is no administrator is told as the original does where it has the route: `{"status":false}`, or an
//! empty list, with status 200. Where a request is about an image by name, images that the caller may not
//! use are not there.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, Refusal};
use crate::accounts::{Accounts, names_groups};
use crate::auth::Caller;
use crate::catalog::{Catalog, Use};
use crate::config::{Config, Platform};
use crate::jobs::Jobs;
use crate::keeper::{KeepError, Keeper, Outcome};
use crate::model::{TagKey, now};
use crate::pull::PullError;
use crate::route::{self, manage::Manage, manage::Verb};
use crate::uses::Uses;

/// Lookups that are told unless asked for another number, as the original does, and at most.
const METRICS: u32 = 10;
const MOST_METRICS: u32 = 100_000;

/// What the routes here need beside what all need.
pub(crate) struct Managing {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) uses: Arc<Uses>,
}

impl Managing {
    /// Begins to take notes of lookups, where the site wants them.
    pub(crate) fn new(config: &Arc<Config>, catalog: &Arc<dyn Catalog>, jobs: &Arc<Jobs>) -> Managing {
        let accounts = Arc::new(Accounts::default());
        Managing {
            keeper: Arc::new(Keeper::new(config.clone(), catalog.clone(), jobs.clone())),
            uses: Arc::new(Uses::new(config.metrics, catalog.clone(), accounts.clone())),
            accounts,
        }
    }

    pub(super) fn note_use(&self, uid: u32, key: &TagKey, id: &str) {
        self.uses.note(|| Use {
            user: String::new(),
            uid,
            system: key.system.clone(),
            itype: key.itype.clone(),
            tag: key.tag.clone(),
            id: id.to_owned(),
            time: now(),
        });
    }
}

impl From<KeepError> for Refusal {
    fn from(error: KeepError) -> Refusal {
        match error {
            KeepError::Catalog(error) | KeepError::Files(PullError::Catalog(error)) => {
                Refusal::Catalog(error)
            }
            KeepError::Files(error) => Refusal::Files(error),
        }
    }
}

impl Api {
    /// Any of the routes about images that are there.
    pub(crate) async fn manage(
        &self,
        route: &Manage,
        platform: &Platform,
        method: &str,
        query: Option<&str>,
        caller: &Caller,
    ) -> Result<Value, Refusal> {
        let Manage { verb, system, name } = route;
        let (itype, tag) = name.as_ref().map_or(("", ""), |(itype, tag)| (itype.as_str(), tag.as_str()));
        let keeper = &self.managing.keeper;
        match verb {
            Verb::Image if method == "GET" => return self.inspect(system, itype, tag, caller).await,
            Verb::History => return self.history(system, itype, tag, caller).await,
            Verb::Image if value(query, "all")?.as_deref() != Some("1") => {
                return self.give_up(system, itype, tag, caller).await;
            }
            _ => {}
        }
        if !self.is_admin(platform, caller).await {
            return match verb {
                Verb::Metrics => Ok(json!([])),
                Verb::Image => {
                    let why =
                        "only administrators remove an image for all; without all=1 your own is removed";
                    Err(Refusal::Forbidden(why.to_owned()))
                }
                _ => Ok(json!({ "status": false })),
            };
        }
        match verb {
            Verb::Expire => {
                let id = match (id_in(query)?, name) {
                    (Some(id), _) => Some(id),
                    (None, Some(_)) => self.meaning(system, itype, tag).await?,
                    (None, None) => return Err(no_id()),
                };
                let Some(id) = id else { return Ok(json!({ "status": null })) };
                status(keeper.remove(system, &id).await?)
            }
            Verb::Autoexpire => {
                let is_dry_run = value(query, "dry_run")?.is_some_and(|value| value != "0");
                Ok(json!({ "status": keeper.expire(system, is_dry_run).await? }))
            }
            Verb::Metrics => {
                let limit = match value(query, "limit")? {
                    Some(text) => text.parse::<u32>().map_err(|_| {
                        Refusal::Unprocessable("limit must be a number of lookups, as limit=10".to_owned())
                    })?,
                    None => METRICS,
                };
                self.metrics(system, limit.min(MOST_METRICS)).await
            }
            Verb::Image => match self.meaning(system, itype, tag).await? {
                Some(id) => match keeper.remove(system, &id).await? {
                    Outcome::None => Err(Refusal::NoImage),
                    outcome => status(outcome),
                },
                None => Err(Refusal::NoImage),
            },
            Verb::Restore => {
                let id = id_in(query)?.ok_or_else(no_id)?;
                let (outcome, has_file) = keeper.restore(system, &id).await?;
                let mut answer = status(outcome)?;
                if outcome == Outcome::Done {
                    // Without: the next pull of one of its tags makes it again.
                    answer["file"] = json!(has_file);
                }
                Ok(answer)
            }
            Verb::Pin | Verb::Unpin => {
                let id = id_in(query)?.ok_or_else(no_id)?;
                let is_there = keeper.pin(system, &id, *verb == Verb::Pin).await?;
                Ok(json!({ "status": is_there.then_some(true) }))
            }
            Verb::History => Err(Refusal::NoImage),
        }
    }

    async fn is_admin(&self, platform: &Platform, caller: &Caller) -> bool {
        let member = self.member(caller, names_groups(&platform.admins)).await;
        self.managing.accounts.is_named(&platform.admins, &member).await
    }

    /// The id of the image a tag means, whoever may use it.
    async fn meaning(&self, system: &str, itype: &str, tag: &str) -> Result<Option<String>, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if let Some((image, _)) = self.catalog.lookup(&key).await? {
                return Ok(Some(image.id));
            }
        }
        Ok(None)
    }

    /// `DELETE image`: the caller's own.
    async fn give_up(&self, system: &str, itype: &str, tag: &str, caller: &Caller) -> Result<Value, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            let Some((image, grants)) = self.catalog.lookup(&key).await? else { continue };
            // Whether others' images are busy is nobody's business.
            if !grants.iter().any(|grant| grant.puller == caller.uid) {
                continue;
            }
            match self.managing.keeper.give_up(&key, &image.id, caller.uid).await? {
                Outcome::None => {}
                outcome => return status(outcome),
            }
        }
        Err(Refusal::NoImage)
    }

    async fn metrics(&self, system: &str, limit: u32) -> Result<Value, Refusal> {
        if !self.managing.uses.are_wanted() {
            return Ok(json!([]));
        }
        self.managing.uses.flush().await;
        let shown = |one: Use| {
            json!({
                "user": one.user, "uid": one.uid, "system": one.system, "type": one.itype,
                "tag": one.tag, "id": one.id, "time": one.time,
            })
        };
        Ok(self.catalog.uses(system, limit).await?.into_iter().map(shown).collect())
    }
}

/// As the original answers: true, or null where there is none.
fn status(outcome: Outcome) -> Result<Value, Refusal> {
    let conflict = |why: &str| Err(Refusal::Conflict(why.to_owned()));
    match outcome {
        Outcome::Done => Ok(json!({ "status": true })),
        Outcome::None => Ok(json!({ "status": null })),
        Outcome::Pinned => conflict("the image is pinned; unpin it first"),
        Outcome::Busy => conflict("the image is being pulled at the moment; try again when that is done"),
    }
}

fn no_id() -> Refusal {
    Refusal::Unprocessable("the request names no image; add ?id=DIGEST, 64 hexadecimal digits".to_owned())
}

/// The image that `?id=` names.
fn id_in(query: Option<&str>) -> Result<Option<String>, Refusal> {
    let Some(text) = value(query, "id")? else { return Ok(None) };
    let id = text.strip_prefix("sha256:").unwrap_or(&text).to_ascii_lowercase();
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::Unprocessable("id must be an image's id, 64 hexadecimal digits".to_owned()));
    }
    Ok(Some(id))
}

/// The value of a parameter; one without any is the empty text.
fn value(query: Option<&str>, name: &str) -> Result<Option<String>, Refusal> {
    for pair in query.unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name {
            let decoded = route::decode(value);
            return decoded.map(Some).map_err(|error| Refusal::BadRequest(error.to_string()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        for (query, name, expected) in [
            (Some("dry_run=1"), "dry_run", Some("1")),
            (Some("dry_run"), "dry_run", Some("")),
            (Some("xdry_run=1&dry=2"), "dry_run", None),
            (Some("a=b&id=sha256%3Aff&id=2"), "id", Some("sha256:ff")),
            (Some(""), "id", None),
            (None, "id", None),
        ] {
            assert_eq!(value(query, name).unwrap().as_deref(), expected, "{query:?}");
        }
        assert!(matches!(value(Some("id=%zz"), "id"), Err(Refusal::BadRequest(_))));
        let hex = "AB".repeat(32);
        for (query, expected) in [
            (format!("id={hex}"), Some("ab".repeat(32))),
            (format!("id=sha256:{hex}"), Some("ab".repeat(32))),
            ("limit=1".to_owned(), None),
        ] {
            assert_eq!(id_in(Some(&query)).unwrap(), expected, "{query}");
        }
        for query in ["id=", "id=abc", &format!("id={hex}0"), &format!("id=../{}", &hex[3..])] {
            assert!(matches!(id_in(Some(query)), Err(Refusal::Unprocessable(_))), "{query}");
        }
    }
}
