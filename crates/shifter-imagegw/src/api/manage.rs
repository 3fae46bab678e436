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
use crate::config::Platform;
use crate::jobs::Jobs;
use crate::keeper::{KeepError, Keeper, Outcome};
use crate::live::Live;
use crate::model::{TagKey, now};
use crate::pull::PullError;
use crate::route::{Query, QueryError};
use crate::uses::Uses;

/// Lookups that are told unless asked for another number, as the original does, and at most.
const METRICS: u32 = 10;
pub(crate) const MOST_METRICS: u64 = 100_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Expire,
    Autoexpire,
    Metrics,
    Inspect,
    Remove,
    Restore,
    Pin,
    Unpin,
    History,
}

/// A request about images that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manage<'a> {
    pub(crate) verb: Verb,
    pub(crate) system: &'a str,
    /// Type and tag.
    pub(crate) name: Option<(&'a str, &'a str)>,
}

/// What the routes here need beside what all need.
pub(crate) struct Managing {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) uses: Arc<Uses>,
}

impl Managing {
    /// Begins to take notes of lookups, where the site wants them.
    pub(crate) fn new(config: &Live, catalog: &Arc<dyn Catalog>, jobs: &Arc<Jobs>) -> Managing {
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
    /// Any of the routes about images that are there; with the answer, why it is a refusal although its status is 200.
    /// Whatever comes of it, `about` becomes the image that the request is about, as far as that is known.
    pub(crate) async fn manage(
        &self,
        wanted: &Manage<'_>,
        platform: &Platform,
        query: &Query,
        caller: &Caller,
        about: &mut Option<String>,
    ) -> Result<(Value, Option<&'static str>), Refusal> {
        let Manage { verb, system, name } = *wanted;
        let (itype, tag) = name.unwrap_or_default();
        let done = |value| Ok((value, None));
        match verb {
            Verb::Inspect => {
                let value = self.inspect(system, itype, tag, caller).await?;
                *about = value["id"].as_str().map(str::to_owned);
                return done(value);
            }
            Verb::History => return done(self.history(system, itype, tag, caller).await?),
            Verb::Remove if !flag(query, "all")? => {
                return done(self.give_up((system, itype, tag), caller, about).await?);
            }
            _ => {}
        }
        let named = match verb {
            Verb::Expire | Verb::Restore | Verb::Pin | Verb::Unpin => id_in(query),
            _ => Ok(None),
        };
        *about = named.as_ref().ok().cloned().flatten();
        if !self.is_admin(platform, caller).await {
            const NO: Option<&str> = Some("not an administrator");
            return match verb {
                Verb::Metrics if flag(query, "strict")? => {
                    let why = "only administrators of the image gateway may see who looked images up";
                    Err(Refusal::Forbidden(why.to_owned()))
                }
                Verb::Metrics => Ok((json!([]), NO)),
                Verb::Remove => {
                    let why =
                        "only administrators remove an image for all; without all=1 your own is removed";
                    Err(Refusal::Forbidden(why.to_owned()))
                }
                _ => Ok((json!({ "status": false }), NO)),
            };
        }
        named?;
        done(self.administer(wanted, query, about).await?)
    }

    /// What administrators alone may do.
    async fn administer(
        &self,
        wanted: &Manage<'_>,
        query: &Query,
        about: &mut Option<String>,
    ) -> Result<Value, Refusal> {
        let Manage { verb, system, name } = *wanted;
        let (itype, tag) = name.unwrap_or_default();
        let keeper = &self.managing.keeper;
        match verb {
            Verb::Expire => {
                if about.is_none() {
                    name.ok_or_else(no_id)?;
                    *about = self.meaning(system, itype, tag).await?;
                }
                let Some(id) = about else { return Ok(json!({ "status": null })) };
                status(keeper.remove(system, id).await?)
            }
            Verb::Autoexpire => {
                let is_dry_run = flag(query, "dry_run")?;
                Ok(json!({ "status": keeper.expire(system, is_dry_run).await? }))
            }
            Verb::Metrics => {
                let limit = query.number("limit", 0, MOST_METRICS).map_err(unprocessable)?;
                self.metrics(system, limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(METRICS))
                    .await
            }
            Verb::Remove => {
                let id = self.meaning(system, itype, tag).await?.ok_or(Refusal::NoImage)?;
                match keeper.remove(system, about.insert(id)).await? {
                    Outcome::None => Err(Refusal::NoImage),
                    outcome => status(outcome),
                }
            }
            Verb::Restore => {
                let id = about.as_deref().ok_or_else(no_id)?;
                let (outcome, has_file) = keeper.restore(system, id).await?;
                let mut answer = status(outcome)?;
                if outcome == Outcome::Done {
                    // Without: the next pull of one of its tags makes it again.
                    answer["file"] = json!(has_file);
                }
                Ok(answer)
            }
            Verb::Pin | Verb::Unpin => {
                let id = about.as_deref().ok_or_else(no_id)?;
                let is_there = keeper.pin(system, id, verb == Verb::Pin).await?;
                Ok(json!({ "status": is_there.then_some(true) }))
            }
            Verb::Inspect | Verb::History => Err(Refusal::NoImage),
        }
    }

    pub(super) async fn is_admin(&self, platform: &Platform, caller: &Caller) -> bool {
        match self.member(Some(caller), names_groups(&platform.admins)).await {
            Some(member) => self.managing.accounts.is_named(&platform.admins, &member).await,
            None => false,
        }
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
    async fn give_up(
        &self,
        (system, itype, tag): (&str, &str, &str),
        caller: &Caller,
        about: &mut Option<String>,
    ) -> Result<Value, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            let Some((image, grants)) = self.catalog.lookup(&key).await? else { continue };
            // Whether others' images are busy is nobody's business.
            if !grants.iter().any(|grant| grant.puller == caller.uid) {
                continue;
            }
            match self.managing.keeper.give_up(&key, about.insert(image.id), caller.uid).await? {
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
fn id_in(query: &Query) -> Result<Option<String>, Refusal> {
    let Some(text) = query.get("id") else { return Ok(None) };
    let refusal = || Refusal::Unprocessable("id must be an image's id, 64 hexadecimal digits".to_owned());
    whole_id(text).map(Some).ok_or_else(refusal)
}

/// An image's identifier in the one spelling that the catalog has; None if it is none.
pub(super) fn whole_id(text: &str) -> Option<String> {
    let id = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn flag(query: &Query, name: &'static str) -> Result<bool, Refusal> {
    query.flag(name).map_err(unprocessable)
}

fn unprocessable(error: QueryError) -> Refusal {
    Refusal::Unprocessable(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn an_id_is_64_digits_or_refused() {
        let hex = "AB".repeat(32);
        let read = |query: &str| id_in(&Query::parse(Some(query)).unwrap());
        for (query, expected) in [
            (format!("id={hex}"), Some("ab".repeat(32))),
            (format!("id=sha256%3A{hex}"), Some("ab".repeat(32))),
            ("limit=1".to_owned(), None),
        ] {
            assert_eq!(read(&query).unwrap(), expected, "{query}");
        }
        for query in ["id=", "id=abc", &format!("id={hex}0"), &format!("id=../{}", &hex[3..])] {
            assert!(matches!(read(query), Err(Refusal::Unprocessable(_))), "{query}");
        }
    }
}
