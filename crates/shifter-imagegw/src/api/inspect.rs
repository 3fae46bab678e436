//! `GET image` and `GET history`: all that is known of an image, and what a tag meant before, to whom may use
//! them. Nothing is changed: looking does not count as a use.

use serde_json::{Value, json};

use super::{Api, Refusal};
use crate::acl;
use crate::auth::Caller;
use crate::catalog::Record;
use crate::model::TagKey;

impl Api {
    /// `GET image`: what a lookup answers, and the rest. `tags` are those of the image, of the same type, that
    /// the caller may use.
    pub(super) async fn inspect(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<Value, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            let Some((image, grants)) = self.usable(&key, caller).await? else { continue };
            let Some(record) = self.catalog.record(system, &image.id).await? else { continue };
            self.catalog.doubt(Some(&key));
            let tags = self.visible_tags(&record, itype, caller).await;
            let lookup = serde_json::to_value(self.show(&image, itype, vec![key.tag], &grants));
            let mut shown = lookup.map_err(|error| Refusal::Unprocessable(error.to_string()))?;
            for (name, value) in [
                ("format", json!(image.format)),
                ("size", json!(image.size)),
                ("sha256", json!(image.sha256)),
                ("architecture", json!(image.config.architecture)),
                ("cmd", json!(image.config.cmd)),
                ("user", json!(image.config.user)),
                ("volumes", json!(image.config.volumes)),
                ("stop_signal", json!(image.config.stop_signal)),
                ("expiration", json!(image.expiration)),
                ("pinned", json!(record.pinned)),
                ("tags", json!(tags)),
            ] {
                shown[name] = value;
            }
            return Ok(shown);
        }
        Err(Refusal::NoImage)
    }

    async fn visible_tags(&self, record: &Record, itype: &str, caller: &Caller) -> Vec<String> {
        let member = self.member(Some(caller), super::name_groups(&record.grants)).await;
        let is_visible = |tag: &&crate::catalog::Tag| {
            tag.itype == itype && record.grants_of(tag).any(|grant| acl::allows(grant, &member))
        };
        record.tags.iter().filter(is_visible).map(|tag| tag.tag.clone()).collect()
    }

    /// `GET history`: the images that a tag meant, newest first, of which only those are told that the caller
    /// was granted under this tag and that are still there.
    pub(super) async fn history(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<Value, Refusal> {
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            if self.usable(&key, caller).await?.is_none() {
                continue;
            }
            let mut list = Vec::new();
            for (id, since) in self.catalog.history(&key).await? {
                let Some(record) = self.catalog.record(system, &id).await? else { continue };
                let member = self.member(Some(caller), super::name_groups(&record.grants)).await;
                if record.grants.iter().any(|grant| grant.key == key && acl::allows(grant, &member)) {
                    list.push(json!({ "id": id, "since": since }));
                }
            }
            self.catalog.doubt(Some(&key));
            return Ok(json!({ "list": list }));
        }
        Err(Refusal::NoImage)
    }
}
