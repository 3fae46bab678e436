//! Between the documents of `images` and records: the only place that knows their fields.
//!
//! What an original gateway reads and writes stands in its own fields; what it has no place for stands
//! under `shifter`. Since an original gateway may have served meanwhile, its fields win: a tag is the
//! image's if `tag` says so, and where the access list is not the one that our grants amount to, it was
//! given by the original and counts for all tags.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use shifter_core::meta::Acl;

use super::fields::Fields;
use crate::acl;
use crate::catalog::{CatalogError, Record, State, Tag};
use crate::model::{Grant, Image, RunConfig, TagKey, UNKNOWN_PULLER};

/// The status of images that are published.
pub(super) const READY: &str = "READY";

/// Who may use a private image that nobody was granted: a uid that nobody has, and that lists take.
const NOBODY: u32 = u32::MAX - 1;

/// Ours in a document; empty in an original gateway's.
fn ours(document: &Document) -> Document {
    document.get_document("shifter").cloned().unwrap_or_default()
}

/// The image's id.
pub(super) fn id(document: &Document) -> Result<String, CatalogError> {
    Fields(document).text("id")
}

/// When a tag of a document was asked about; an original gateway says when the image was pulled.
pub(super) fn asked(document: &Document, key: &TagKey) -> Result<f64, CatalogError> {
    let ours = ours(document);
    for tag in Fields(&ours).documents("tags")? {
        if tag.get_str("tag").is_ok_and(|tag| tag == key.tag) {
            return Fields(tag).time("asked");
        }
    }
    Fields(document).time("last_pull")
}

/// Whether a tag was given by us, and not by an original gateway.
pub(super) fn is_own_tag(document: &Document, tag: &str) -> Result<bool, CatalogError> {
    let ours = ours(document);
    let own = Fields(&ours);
    let tags = own.documents("tags")?;
    Ok(tags.iter().any(|own| own.get_str("tag").is_ok_and(|own| own == tag)))
}

/// Reads a READY document.
pub(super) fn record(document: &Document) -> Result<Record, CatalogError> {
    let fields = Fields(document);
    let ours = ours(document);
    let own = Fields(&ours);
    let is_ours = !ours.is_empty();
    let (system, itype, id) = (fields.text("system")?, fields.text("itype")?, fields.text("id")?);
    let image = Image {
        system: system.clone(),
        id: id.clone(),
        format: if is_ours { own.text("format")? } else { fields.text("format")? },
        config: match is_ours {
            true => serde_json::from_str(&own.text("config")?).map_err(|_| own.odd("config"))?,
            false => original_config(&fields)?,
        },
        size: match is_ours {
            true => u64::try_from(own.number("size")?).map_err(|_| own.odd("size"))?,
            false => 0,
        },
        sha256: if is_ours { own.text("sha256")? } else { String::new() },
        last_pull: fields.time("last_pull")?,
        expiration: fields.time("expiration")?,
    };
    let digests = match is_ours {
        true => own.texts("digests")?,
        false if itype == "docker" => vec![format!("sha256:{id}")],
        false => Vec::new(),
    };
    let mut tags = Vec::new();
    for tag in fields.texts("tag")? {
        let key = TagKey { system: system.clone(), itype: itype.clone(), tag };
        tags.push(Tag { itype: itype.clone(), asked: asked(document, &key)?, tag: key.tag });
    }
    let mut record = Record {
        grants: grants(&fields, &own, &system, &itype, &id, &tags)?,
        image,
        digests,
        tags,
        state: fields.text("status").ok().and_then(|status| State::parse(&status)).unwrap_or_default(),
        pinned: false,
        revision: 0,
    };
    if is_ours {
        record.revision = own.number("revision")?;
        // Absent from what earlier versions wrote.
        record.pinned = own.get("pinned").and_then(Bson::as_bool).unwrap_or_default();
    }
    record.sort();
    record.tags.dedup_by(|a, b| a.tag == b.tag);
    Ok(record)
}

/// What an original gateway keeps of an image's configuration; it does not keep the command.
fn original_config(fields: &Fields<'_>) -> Result<RunConfig, CatalogError> {
    let mut config = RunConfig { env: fields.texts("ENV")?, ..RunConfig::default() };
    config.entry = Some(fields.texts("ENTRY")?).filter(|entry| !entry.is_empty());
    config.workdir = fields.texts("WORKDIR")?.pop();
    if let Some(Bson::Document(labels)) = fields.get("LABELS") {
        for (name, value) in labels {
            config.labels.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(config)
}

/// Our own grants, unless an original gateway changed the access list since; and for each tag that came
/// by an original gateway one grant that says what it said.
fn grants(
    fields: &Fields<'_>,
    own: &Fields<'_>,
    system: &str,
    itype: &str,
    id: &str,
    tags: &[Tag],
) -> Result<Vec<Grant>, CatalogError> {
    let mut grants = Vec::new();
    for grant in own.documents("grants")? {
        let grant = Fields(grant);
        let tag = grant.text("tag")?;
        grants.push(Grant {
            key: TagKey { system: system.to_owned(), itype: itype.to_owned(), tag },
            id: id.to_owned(),
            puller: grant.id("puller")?,
            public: grant.truth("public")?,
            acl: Acl { uids: grant.ids("uids")?, gids: grant.ids("gids")? },
            checked: grant.time("checked")?,
        });
    }
    let stated = Acl { uids: fields.ids("userACL")?, gids: fields.ids("groupACL")? };
    // Of a private image without lists the original says that everybody may use it.
    let is_public = fields.0.get_bool("private").is_ok_and(|private| !private) || stated.is_public();
    let stated = if is_public { Acl::default() } else { stated };
    let written = access(&grants);
    let is_kept = written == (is_public, stated.clone());
    if !is_kept {
        grants.clear();
    }
    let own_tags = own.documents("tags")?;
    let is_own = |tag: &Tag| own_tags.iter().any(|own| own.get_str("tag").is_ok_and(|own| own == tag.tag));
    for tag in tags.iter().filter(|tag| !is_kept || !is_own(tag)) {
        let key = TagKey { system: system.to_owned(), itype: itype.to_owned(), tag: tag.tag.clone() };
        let (id, acl) = (id.to_owned(), stated.clone());
        grants.push(Grant { key, id, puller: UNKNOWN_PULLER, public: is_public, acl, checked: tag.asked });
    }
    Ok(grants)
}

/// Grants as the original knows them: public or not, and one list. A private image's list is never
/// empty, which the original would take as public.
fn access(grants: &[Grant]) -> (bool, Acl) {
    if grants.iter().any(|grant| grant.public) {
        return (true, Acl::default());
    }
    let union = acl::union(grants).unwrap_or_default();
    let nobody = Acl { uids: vec![NOBODY], gids: Vec::new() };
    (false, if union.is_public() { nobody } else { union })
}

/// The update that makes a document, old or new, hold a record, with its next revision.
pub(super) fn update(record: &Record) -> Result<Document, CatalogError> {
    const DOING: &str = "writing a document";
    let Image { config, id, .. } = &record.image;
    let failed = |source: serde_json::Error| CatalogError::Failed { operation: DOING, source: source.into() };
    let types = record.tags.iter().map(|t| &t.itype).chain(record.grants.iter().map(|g| &g.key.itype));
    let mut types: Vec<&String> = types.collect();
    types.sort();
    types.dedup();
    let itype = match types[..] {
        [itype] => itype.as_str(),
        [] => "docker",
        [found, wanted, ..] => {
            let (id, found, wanted) = (id.clone(), found.clone(), wanted.clone());
            return Err(CatalogError::Type { id, found, wanted });
        }
    };
    let size = i64::try_from(record.image.size).map_err(|_| CatalogError::Row {
        operation: DOING,
        column: "size",
        value: record.image.size.to_string(),
    })?;
    let tags: Vec<Document> =
        record.tags.iter().map(|tag| doc! { "tag": &tag.tag, "asked": tag.asked }).collect();
    let grant = |grant: &Grant| {
        doc! {
            "tag": &grant.key.tag,
            "puller": i64::from(grant.puller),
            "public": grant.public,
            "uids": ids(&grant.acl.uids),
            "gids": ids(&grant.acl.gids),
            "checked": grant.checked,
        }
    };
    let (is_public, acl) = access(&record.grants);
    let mut set = doc! {
        // The original's.
        "status": record.state.as_str(),
        "itype": itype,
        "format": &record.image.format,
        "tag": record.tags.iter().map(|tag| tag.tag.as_str()).collect::<Vec<_>>(),
        "last_pull": record.image.last_pull,
        "userACL": ids(&acl.uids),
        "groupACL": ids(&acl.gids),
        "private": !is_public,
        "ENV": &config.env,
        // Ours.
        "shifter": {
            "revision": record.revision + 1,
            "pinned": record.pinned,
            "format": &record.image.format,
            "config": serde_json::to_string(config).map_err(failed)?,
            "size": size,
            "sha256": &record.image.sha256,
            "digests": &record.digests,
            "tags": tags,
            "grants": record.grants.iter().map(grant).collect::<Vec<_>>(),
        },
    };
    // The original tells that these are not there by their absence.
    let mut unset = Document::new();
    // Servers of the original's age refuse such names of fields.
    let plain = |name: &&String| !name.is_empty() && !name.starts_with('$') && !name.contains('.');
    let labels: Document = config
        .labels
        .iter()
        .filter(|(name, _)| plain(name))
        .map(|(name, value)| (name.clone(), Bson::from(value.as_str())))
        .collect();
    for (field, value) in [
        ("ENTRY", config.entry.as_ref().map(Bson::from)),
        ("WORKDIR", config.workdir.as_ref().map(Bson::from)),
        ("LABELS", Some(labels).filter(|labels| !labels.is_empty()).map(Bson::from)),
        ("expiration", Some(record.image.expiration).filter(|at| *at > 0.0).map(Bson::from)),
    ] {
        match value {
            Some(value) => set.insert(field, value),
            None => unset.insert(field, ""),
        };
    }
    let mut update = doc! {
        "$set": set,
        // Constants that the original writes and never reads, and the two that only a pull of its own has.
        "$setOnInsert": {
            "pulltag": record.tags.first().map_or("", |tag| tag.tag.as_str()),
            "status_message": "READY",
            "last_heartbeat": record.image.last_pull,
            "arch": "amd64", "os": "linux", "location": "", "remotetype": "dockerv2",
            "ostcount": "0", "replication": "1",
        },
    };
    if !unset.is_empty() {
        update.insert("$unset", unset);
    }
    Ok(update)
}

fn ids(ids: &[u32]) -> Vec<i64> {
    ids.iter().map(|id| i64::from(*id)).collect()
}

/// Documents of one image, made one.
pub(in crate::catalog) struct Merged {
    pub(in crate::catalog) record: Record,
    /// `_id` of the document that stays, the one pulled last.
    pub(super) kept: Bson,
    /// `_id`s of the others.
    pub(super) duplicates: Vec<Bson>,
}

/// Reads documents and makes those of one image one: the newest, with the tags of all, each with the
/// grants that it has in its own document. Sorted by system and id.
pub(in crate::catalog) fn merge(documents: Vec<Document>) -> Result<Vec<Merged>, CatalogError> {
    let mut merged: BTreeMap<(String, String), Merged> = BTreeMap::new();
    for document in documents {
        let record = record(&document)?;
        let kept = document.get("_id").cloned().unwrap_or(Bson::Null);
        let owner = (record.image.system.clone(), record.image.id.clone());
        let new = Merged { record, kept, duplicates: Vec::new() };
        let one = match merged.remove(&owner) {
            None => new,
            Some(old) => {
                let age = |of: &Merged| (of.record.revision > 0, of.record.image.last_pull);
                let is_newer = age(&new) > age(&old);
                let (mut one, other) = if is_newer { (new, old) } else { (old, new) };
                one.duplicates.push(other.kept);
                one.duplicates.extend(other.duplicates);
                for tag in other.record.tags {
                    if !one.record.tags.iter().any(|known| known.tag == tag.tag) {
                        let grants = other.record.grants.iter().filter(|g| g.key.tag == tag.tag);
                        one.record.grants.extend(grants.cloned());
                        one.record.tags.push(tag);
                    }
                }
                one.record.digests.extend(other.record.digests);
                one.record.sort();
                one.record.digests.dedup();
                one
            }
        };
        merged.insert(owner, one);
    }
    Ok(merged.into_values().collect())
}

/// Reads what `mongoexport` writes, a document per line or one array of them; the READY ones.
pub(in crate::catalog) fn exported(text: &str) -> Result<Vec<Document>, serde_json::Error> {
    let values: Vec<serde_json::Value> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text)?,
        false => serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>()?,
    };
    let documents = values.into_iter().map(|value| {
        // "$oid", "$numberLong" and the like are MongoDB's extended JSON.
        let value = Bson::try_from(value).map_err(serde::de::Error::custom)?;
        match value {
            Bson::Document(document) => Ok(document),
            _ => Err(serde::de::Error::custom("an entry is not an object")),
        }
    });
    let documents: Vec<Document> = documents.collect::<Result<_, serde_json::Error>>()?;
    Ok(documents
        .into_iter()
        .filter(|document| document.get_str("status").is_ok_and(|status| status == READY))
        .collect())
}
