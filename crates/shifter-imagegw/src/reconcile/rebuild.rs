//! Entering an image that only the directory knows, where the catalog was lost.
//!
//! `.meta` tells what the image is and who may run it, not under which tag which caller earned that. So it is entered
//! under one made-up tag, its identifier, with one grant for exactly those whom `.meta` names, and no real tag: these
//! come back as users pull them, with one question to the registry and without a conversion, or import the same file.
//! The made-up grant stays until the image expires, so that nobody loses an image that jobs name by `id:`. Whether an
//! image was imported, and what from, `.meta` says where this version wrote it.

use super::{Files, Place, Scope};
use crate::catalog::{Record, Tag};
use crate::model::{Grant, Image, RunConfig, TagKey, now};
use shifter_core::image_type::ImageType;
use shifter_core::meta::{Acl, Meta};

/// Enters an image for the systems of its directory; the inner error says why it cannot be.
pub(super) async fn enter(
    scope: &Scope<'_>,
    place: &Place<'_>,
    id: &str,
    files: &Files,
) -> anyhow::Result<Result<(), String>> {
    let meta = match read(files) {
        Ok(meta) => meta,
        Err(why) => return Ok(Err(why)),
    };
    for system in &place.systems {
        if !scope.catalog.store(&record(scope, system, id, &meta)).await? {
            return Ok(Err(format!("system {system} got it meanwhile")));
        }
    }
    Ok(Ok(()))
}

fn read(files: &Files) -> Result<Meta, String> {
    if let Some(why) = &files.unread {
        return Err(format!("its .meta cannot be read: {why}"));
    }
    let text = files.meta.as_ref().ok_or("without its .meta nobody knows who may use it")?;
    let meta = Meta::parse(text).map_err(|error| format!("its .meta cannot be read: {error}"))?;
    let size = files.image(&meta.format).ok_or_else(|| format!("there is no .{} file", meta.format))?;
    match &meta.rich {
        Some(rich) if rich.size != size => {
            Err(format!("the image has {size} bytes, and its .meta says {}", rich.size))
        }
        _ => Ok(meta),
    }
}

fn record(scope: &Scope<'_>, system: &str, id: &str, meta: &Meta) -> Record {
    let now = now();
    // The original wrote no more than what a new pull replaces: size 0 stands for that.
    let rich = meta.rich.clone().unwrap_or_default();
    let source = Some(rich.source).filter(|source| !source.is_empty());
    let image = Image {
        system: system.to_owned(),
        id: id.to_owned(),
        format: meta.format.clone(),
        config: RunConfig {
            entry: meta.entry.clone(),
            cmd: meta.cmd.clone(),
            workdir: meta.workdir.clone(),
            env: meta.env.clone(),
            labels: rich.labels.into_iter().collect(),
            user: rich.user,
            volumes: rich.volumes,
            stop_signal: rich.stop_signal,
            architecture: rich.architecture,
            source: source.clone(),
        },
        size: rich.size,
        sha256: rich.sha256,
        last_pull: now,
        expiration: now + scope.config.image_expiration.as_secs_f64(),
    };
    let itype = if source.is_some() { ImageType::Custom } else { ImageType::Docker };
    let key = TagKey { system: system.to_owned(), itype: itype.as_str().to_owned(), tag: id.to_owned() };
    // Where .meta was told to leave access lists out, its silence means nothing. It says so itself, unless an original
    // gateway or an earlier version wrote it: of such a file only our own setting is known.
    let is_told = meta.is_acl_left_out || scope.config.environment.no_acl_in_meta;
    let is_silent = meta.acl.is_public() && is_told;
    let nobody = Acl { uids: vec![scope.gateway_uid], gids: Vec::new() };
    let grant = Grant {
        id: id.to_owned(),
        puller: scope.gateway_uid,
        public: meta.acl.is_public() && !is_silent,
        acl: if is_silent { nobody } else { meta.acl.clone() },
        // The registry was not asked.
        checked: 0.0,
        key: key.clone(),
    };
    let mut record = Record::new(image);
    // Of what a user sent it must not be said that a registry calls it so.
    record.add_digest(source.unwrap_or_else(|| format!("sha256:{id}")));
    record.add_tag(Tag { itype: key.itype, tag: key.tag, asked: 0.0 });
    record.grants.push(grant);
    record
}
