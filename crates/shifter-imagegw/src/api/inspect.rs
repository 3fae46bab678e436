//! `GET image` and `GET history`: all that is known of an image, and what a tag meant before, to whom may use
//! them. Nothing is changed: looking does not count as a use.

use serde_json::{Value, json};
use shifter_api::wire;
use shifter_core::image_type::ImageType;

use super::manage::whole_id;
use super::{Api, Found, Refusal};
use crate::acl;
use crate::auth::Caller;
use crate::catalog::Record;
use crate::model::{Image, TagKey};

impl Api {
    /// `GET image`: what a lookup answers, and the rest. `tags` are those of the image, of the same type, that
    /// the caller may use; of an image named by its identifier, those of all types.
    pub(super) async fn inspect(
        &self,
        system: &str,
        itype: &str,
        tag: &str,
        caller: &Caller,
    ) -> Result<Value, Refusal> {
        if itype == ImageType::Id.as_str() {
            return self.inspect_id(system, tag, caller).await;
        }
        let mut refusal = Refusal::NoImage;
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            let (image, grants) = match self.find(&key, Some(caller)).await? {
                Found::Usable(image, grants) => (image, grants),
                Found::Denied(id) => {
                    refusal = Refusal::Denied(id);
                    continue;
                }
                Found::Nothing => continue,
            };
            let Some(record) = self.catalog.record(system, &image.id).await? else { continue };
            self.catalog.doubt(Some(&key));
            let tags = self.visible_tags(&record, Some(itype), caller).await;
            let lookup = self.show(&image, itype, vec![key.tag], &grants);
            return whole(lookup, &image, record.pinned, &tags);
        }
        Err(refusal)
    }

    /// The same of an image named by its identifier, to whom one of its tags is granted: as `.meta` lets them run it.
    async fn inspect_id(&self, system: &str, id: &str, caller: &Caller) -> Result<Value, Refusal> {
        let id = whole_id(id).ok_or(Refusal::NoImage)?;
        let record = self.catalog.record(system, &id).await?;
        // What its tags mean is told below.
        self.catalog.doubt(None);
        let grants = record.as_ref().map_or(&[][..], |record| &record.grants);
        let member = self.member_for(Some(caller), grants).await;
        let record = record.ok_or(Refusal::NoImage)?;
        let open: Vec<_> = record.grants.iter().filter(|grant| acl::allows(grant, &member)).collect();
        if open.is_empty() {
            return Err(Refusal::Denied(record.image.id));
        }
        let tags = self.visible_tags(&record, None, caller).await;
        let lookup = self.show(&record.image, ImageType::Id.as_str(), tags.clone(), open);
        whole(lookup, &record.image, record.pinned, &tags)
    }

    /// The tags, of one type or of all, that the caller may use.
    async fn visible_tags(&self, record: &Record, itype: Option<&str>, caller: &Caller) -> Vec<String> {
        let member = self.member(Some(caller), super::name_groups(&record.grants)).await;
        let is_visible = |tag: &&crate::catalog::Tag| {
            itype.is_none_or(|itype| tag.itype == itype)
                && record.grants_of(tag).any(|grant| acl::allows(grant, &member))
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
        let mut refusal = Refusal::NoImage;
        for tag in self.spellings(itype, tag) {
            let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag };
            match self.find(&key, Some(caller)).await? {
                Found::Usable(..) => {}
                Found::Denied(id) => {
                    refusal = Refusal::Denied(id);
                    continue;
                }
                Found::Nothing => continue,
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
        Err(refusal)
    }
}

/// What a lookup answers, and the rest.
fn whole(lookup: wire::Image, image: &Image, pinned: bool, tags: &[String]) -> Result<Value, Refusal> {
    let mut shown =
        serde_json::to_value(lookup).map_err(|error| Refusal::Unprocessable(error.to_string()))?;
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
        ("pinned", json!(pinned)),
        ("tags", json!(tags)),
    ] {
        shown[name] = value;
    }
    Ok(shown)
}
