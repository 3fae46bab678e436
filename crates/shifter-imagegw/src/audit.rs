//! The audit log: who did what to which image, and whether they were allowed to. One JSON line per
//! decision, in a file of the site's (`AuditLog`) or, without one, among the other lines of the log
//! under the target `audit`.
//!
//! Decisions are tracing events, so that whoever takes one need not hold a handle. Passwords, credentials
//! and access lists are never in them.

mod file;

use crate::model::{Grant, Job};

pub(crate) use self::file::{AuditLog, Flush};

/// The target of the events.
pub(crate) const TARGET: &str = "audit";

/// A decision about one request.
#[derive(Debug, Default)]
pub(crate) struct Decision<'a> {
    pub(crate) request: &'a str,
    /// Absent where nobody proved who they are.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) action: &'a str,
    pub(crate) system: &'a str,
    pub(crate) itype: &'a str,
    pub(crate) tag: &'a str,
    /// The image that was given, or denied.
    pub(crate) digest: &'a str,
    pub(crate) allowed: bool,
    pub(crate) why: &'a str,
}

impl Decision<'_> {
    pub(crate) fn note(&self) {
        let Decision { request, uid, gid, action, system, itype, tag, digest, allowed, why } = self;
        tracing::info!(target: TARGET, request, uid, gid, action, system, itype, tag, digest, allowed, why);
    }
}

/// A caller earned an image from its registry.
pub(crate) fn granted(grant: &Grant) {
    let why = match (grant.public, grant.acl.uids.as_slice(), grant.acl.gids.as_slice()) {
        (true, _, _) => "for everybody".to_owned(),
        (false, &[uid], []) if uid == grant.puller => "for the puller alone".to_owned(),
        (false, uids, gids) => format!("for {} users and {} groups", uids.len(), gids.len()),
    };
    let (key, uid) = (&grant.key, Some(grant.puller));
    let (system, itype, tag) = (key.system.as_str(), key.itype.as_str(), key.tag.as_str());
    let digest = grant.id.as_str();
    Decision {
        action: "grant",
        uid,
        system,
        itype,
        tag,
        digest,
        allowed: true,
        why: &why,
        ..Decision::default()
    }
    .note();
}

/// The gateway removed an image of its own accord.
pub(crate) fn expired(system: &str, id: &str, why: &str) {
    Decision { action: "expired", system, digest: id, allowed: true, why, ..Decision::default() }.note();
}

/// An administrator's `reconcile` changed what the catalog or the directories of these systems have of an image.
pub(crate) fn reconciled(uid: u32, systems: &str, id: &str, why: &str) {
    let uid = Some(uid);
    Decision {
        action: "reconcile",
        uid,
        system: systems,
        digest: id,
        allowed: true,
        why,
        ..Decision::default()
    }
    .note();
}

/// A pull ended without a grant.
pub(crate) fn not_granted(job: &Job, why: &str) {
    let (key, uid, gid) = (&job.key, Some(job.uid), Some(job.gid));
    let (system, itype, tag) = (key.system.as_str(), key.itype.as_str(), key.tag.as_str());
    Decision { action: "grant", uid, gid, system, itype, tag, why, ..Decision::default() }.note();
}
