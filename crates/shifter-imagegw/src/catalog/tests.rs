//! One suite for every database (`suite`), what only one of them has (`original`, `sqlite`), copying
//! between all of them (`copying`), and the gateway on servers that come and go (`outage`; `asked`
//! for all that may be asked of it then).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod asked;
mod copying;
mod files;
mod life;
mod original;
mod outage;
mod remembered;
pub(crate) mod servers;
mod sqlite;
mod suite;

use super::*;
use crate::model::RunConfig;

pub(super) fn key(tag: &str) -> TagKey {
    TagKey { system: "sysa".into(), itype: "docker".into(), tag: tag.into() }
}

pub(super) fn new_job(tag: &str, uid: u32) -> NewJob {
    let (acl, source) = Default::default();
    NewJob { key: key(tag), uid, gid: uid, acl, with_credentials: false, source }
}

pub(super) fn image(id: &str) -> Image {
    Image {
        system: "sysa".into(),
        id: id.into(),
        format: "squashfs".into(),
        config: RunConfig {
            env: vec!["A=b c".into(), "Ü='\"\\".into()],
            entry: Some(vec!["/bin/sh".into(), String::new()]),
            labels: [("org.x.y".into(), "1".into()), ("$z".into(), String::new())].into(),
            ..RunConfig::default()
        },
        size: 5_000_000_000,
        sha256: "ff".into(),
        last_pull: 1.5,
        expiration: 2.5,
    }
}

pub(super) fn grant(tag: &str, id: &str, puller: u32, public: bool) -> Grant {
    let acl = Acl { uids: if public { vec![] } else { vec![puller] }, gids: vec![] };
    Grant { key: key(tag), id: id.into(), puller, public, acl, checked: 9.0 }
}

/// An image under one tag, which somebody was granted.
pub(super) fn record(id: &str, tag: &str, asked: f64, puller: u32, public: bool) -> Record {
    Record {
        digests: vec![format!("sha256:{id}")],
        tags: vec![Tag { itype: "docker".into(), tag: tag.into(), asked }],
        grants: vec![grant(tag, id, puller, public)],
        ..Record::new(image(id))
    }
}

/// What a catalog returns for a record that was stored once.
pub(super) fn stored(record: Record) -> Record {
    Record { revision: 1, ..record }
}

/// The tags of each image of a system.
pub(super) async fn tags(catalog: &dyn Catalog, system: &str) -> Vec<(String, Vec<String>)> {
    let list = catalog.list(Some(system)).await.unwrap();
    let shown = |r: Record| (r.image.id, r.tags.into_iter().map(|tag| tag.tag).collect());
    list.into_iter().map(shown).collect()
}
