//! An original gateway's documents: read, taken over, and written so that it can go on with them.

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::Collection;

use super::servers::Server;
use super::*;

/// A READY document as the original writes it (spec: images document).
pub(super) fn written_by_original(id: &str, tags: &[&str], last_pull: f64) -> Document {
    doc! {
        "format": "squashfs", "arch": "amd64", "os": "linux", "location": "", "remotetype": "dockerv2",
        "ostcount": "0", "replication": "1", "userACL": [], "groupACL": [], "private": false,
        "tag": tags, "status": "READY", "system": "sysa", "itype": "docker", "pulltag": tags[0],
        "status_message": "Transferring image", "last_pull": last_pull, "last_heartbeat": last_pull,
        "id": id, "ENTRY": ["/bin/sh", "-c"], "ENV": ["PATH=/bin", "X=1=2"], "WORKDIR": "/work",
    }
}

/// The original's `_checkread` for a caller without supplementary groups.
fn original_lets_in(document: &Document, uid: i64, gid: i64) -> bool {
    let list = |name| document.get_array(name).cloned().unwrap_or_default();
    let (uids, gids) = (list("userACL"), list("groupACL"));
    let is_in = |list: &[bson::Bson], id: i64| list.iter().any(|one| one.as_i64() == Some(id));
    document.get_bool("private").is_ok_and(|private| !private)
        || (uids.is_empty() && gids.is_empty())
        || is_in(&uids, uid)
        || is_in(&gids, gid)
}

async fn images(place: &Place) -> Collection<Document> {
    let Place::Mongo { uri, database } = place else { panic!("{place}") };
    mongodb::Client::with_uri_str(uri).await.unwrap().database(database).collection("images")
}

async fn ready(images: &Collection<Document>, id: &str) -> Document {
    images.find_one(doc! { "id": id, "status": "READY" }).await.unwrap().unwrap()
}

async fn count(images: &Collection<Document>) -> usize {
    images.find(doc! {}).await.unwrap().try_collect::<Vec<_>>().await.unwrap().len()
}

#[tokio::test]
async fn images_of_an_original_gateway_are_served_with_its_access_lists() {
    let server = Server::mongo();
    let place = server.place().await;
    let images = images(&place).await;
    let private = |id: &str, tag: &str, uids: &[i32], gids: &[i32]| {
        let mut document = written_by_original(id, &[tag], 5.0);
        document.extend(doc! { "private": true, "userACL": uids, "groupACL": gids });
        document
    };
    let mut old = written_by_original("ee", &["old:1"], 5.0);
    old.extend(doc! { "tag": "old:1", "ENTRY": "/run", "last_pull": 5_i64, "expiration": 9 });
    let mut imported = written_by_original("ff", &["imp"], 5.0);
    imported.extend(doc! { "itype": "custom", "userACL": null, "groupACL": null, "private": null });
    let pulling =
        doc! { "system": "sysa", "itype": "docker", "pulltag": "p:1", "status": "PULLING", "tag": [] };
    let mut expired = written_by_original("aa", &["gone:1"], 1.0);
    expired.insert("status", "EXPIRED");
    let mut odd = written_by_original("0dd", &["odd:1"], 5.0);
    odd.insert("userACL", ["root"]);
    let all = [
        odd,
        written_by_original("aa", &["a:1", "a:2"], 5.0),
        private("bb", "b:1", &[7, 8], &[]),
        private("cc", "c:1", &[], &[70]),
        private("dd", "d:1", &[], &[]),
        old,
        imported,
        pulling.clone(),
        pulling,
        expired,
    ];
    images.insert_many(all).await.unwrap();

    let catalog = open_for_use(&place).await.unwrap();
    let acl = |uids: &[u32], gids: &[u32]| Acl { uids: uids.to_vec(), gids: gids.to_vec() };
    for (itype, tag, id, public, expected) in [
        ("docker", "a:2", "aa", true, acl(&[], &[])),
        ("docker", "b:1", "bb", false, acl(&[7, 8], &[])),
        ("docker", "c:1", "cc", false, acl(&[], &[70])),
        ("docker", "d:1", "dd", true, acl(&[], &[])),
        ("docker", "old:1", "ee", true, acl(&[], &[])),
        ("custom", "imp", "ff", true, acl(&[], &[])),
    ] {
        let wanted = TagKey { itype: itype.into(), ..key(tag) };
        let (image, grants) = catalog.lookup(&wanted).await.unwrap().unwrap();
        assert_eq!((image.id.as_str(), image.size, grants.len()), (id, 0, 1), "{tag}");
        assert_eq!((grants[0].public, &grants[0].acl), (public, &expected), "{tag}");
    }
    for nothing in ["p:1", "gone:1", "imp", "odd:1"] {
        assert_eq!(catalog.lookup(&key(nothing)).await.unwrap(), None, "{nothing}");
    }
    let (first, _) = catalog.lookup(&key("a:1")).await.unwrap().unwrap();
    assert_eq!(first.config.entry.as_deref(), Some(&["/bin/sh".to_owned(), "-c".to_owned()][..]));
    assert_eq!((first.config.workdir.as_deref(), first.config.env.len()), (Some("/work"), 2));
    assert_eq!((first.last_pull, first.expiration), (5.0, 0.0));
    // Found by the digest of its tag, so that it is not entered a second time.
    assert_eq!(catalog.image_of_digest("sysa", "sha256:aa").await.unwrap(), Some(first));
    assert_eq!(catalog.list(None).await.unwrap().len(), 6);
}

#[tokio::test]
async fn duplicates_of_an_original_gateway_become_one_document_and_cannot_come_back() {
    let server = Server::mongo();
    let place = server.place().await;
    let images = images(&place).await;
    let mut shared = written_by_original("aa", &["b:1"], 9.0);
    shared.extend(doc! { "private": true, "userACL": [8] });
    let third = written_by_original("aa", &["a:1", "c:1"], 7.0);
    images
        .insert_many([
            written_by_original("aa", &["a:1"], 5.0),
            shared,
            third,
            written_by_original("bb", &["d:1"], 1.0),
        ])
        .await
        .unwrap();
    // A look changes nothing and sees what will be.
    let looked = open(&place, Purpose::Look).await.unwrap().unwrap().list(None).await.unwrap();
    assert_eq!(count(&images).await, 4);
    let catalog = open_for_use(&place).await.unwrap();
    let list = catalog.list(None).await.unwrap();
    let shown = tags(&*catalog, "sysa").await;
    let texts = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    assert_eq!(shown, [("aa".into(), texts(&["a:1", "b:1", "c:1"])), ("bb".into(), texts(&["d:1"]))]);
    assert_eq!(looked[0].tags, list[0].tags);
    let of = |tag: &str| list[0].grants.iter().filter(|g| g.key.tag == tag).collect::<Vec<_>>();
    assert!(of("a:1").len() == 1 && of("a:1")[0].public && of("c:1")[0].public);
    assert_eq!((of("b:1").len(), of("b:1")[0].public, &of("b:1")[0].acl.uids), (1, false, &vec![8]));
    let refused = images.insert_one(written_by_original("aa", &["x:1"], 1.0)).await.unwrap_err();
    assert!(refused.to_string().contains("11000") || refused.to_string().contains("Duplicate"), "{refused}");
    assert_eq!(count(&images).await, 2);
    open_for_use(&place).await.unwrap();
}

#[tokio::test]
async fn an_original_gateway_reads_what_ours_wrote() {
    let server = Server::mongo();
    let place = server.place().await;
    let catalog = open_for_use(&place).await.unwrap();
    let images = images(&place).await;
    for (name, grants, everybody, uid_7, uid_9) in [
        ("public", vec![grant("a:1", "aa", 7, true), grant("a:1", "aa", 8, false)], true, true, true),
        ("private", vec![grant("a:1", "aa", 7, false)], false, true, false),
        ("two", vec![grant("a:1", "aa", 7, false), grant("b:1", "aa", 9, false)], false, true, true),
        ("nobody", vec![], false, false, false),
    ] {
        let revision = catalog.record("sysa", "aa").await.unwrap().map_or(0, |known| known.revision);
        let new = Record { grants, revision, ..record("aa", "a:1", 4.0, 7, true) };
        assert!(catalog.store(&new).await.unwrap(), "{name}");
        let document = ready(&images, "aa").await;
        let lets_in = |uid| original_lets_in(&document, uid, uid + 1000);
        assert_eq!((lets_in(1), lets_in(7), lets_in(9)), (everybody, uid_7, uid_9), "{name}: {document}");
    }
    let document = ready(&images, "aa").await;
    for field in ["system", "itype", "pulltag", "status", "status_message", "id", "format", "os", "arch"] {
        assert!(document.get_str(field).is_ok(), "{field}");
    }
    for field in ["last_pull", "last_heartbeat", "expiration"] {
        assert!(document.get_f64(field).is_ok(), "{field}");
    }
    for field in ["tag", "userACL", "groupACL", "ENV", "ENTRY"] {
        assert!(document.get_array(field).is_ok(), "{field}");
    }
    assert!(document.get("WORKDIR").is_none() && document.get("LABELS").is_none());
}

#[tokio::test]
async fn what_an_original_gateway_did_in_between_counts() {
    let server = Server::mongo();
    let place = server.place().await;
    let catalog = open_for_use(&place).await.unwrap();
    let images = images(&place).await;
    for (id, tag) in [("aa", "a:1"), ("bb", "b:1")] {
        assert!(catalog.store(&record(id, tag, 4.0, 7, true)).await.unwrap());
    }
    // It gives aa's tag to bb, as its add_tag does, looks bb up, and makes aa private.
    images
        .update_many(doc! { "system": "sysa", "tag": "a:1" }, doc! { "$pull": { "tag": "a:1" } })
        .await
        .unwrap();
    let moved = doc! { "$addToSet": { "tag": "a:1" }, "$set": { "last_pull": 50.0, "expiration": 60.0 } };
    images.update_one(doc! { "id": "bb" }, moved).await.unwrap();
    let narrowed = doc! { "$set": { "private": true, "userACL": [3], "tag": ["z:1"] } };
    images.update_one(doc! { "id": "aa" }, narrowed).await.unwrap();

    let (moved, grants) = catalog.lookup(&key("a:1")).await.unwrap().unwrap();
    assert_eq!((moved.id.as_str(), moved.expiration, moved.size), ("bb", 60.0, 5_000_000_000));
    assert!(grants.len() == 1 && grants[0].public);
    let (_, grants) = catalog.lookup(&key("z:1")).await.unwrap().unwrap();
    assert_eq!((grants.len(), grants[0].public, &grants[0].acl.uids), (1, false, &vec![3]));
    // And the tag comes back with a later question.
    let mut back = catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert!(!back.grants.iter().any(|grant| grant.public), "{back:?}");
    back.add_tag(Tag { itype: "docker".into(), tag: "a:1".into(), asked: 70.0 });
    assert!(catalog.store(&back).await.unwrap());
    assert_eq!(catalog.lookup(&key("a:1")).await.unwrap().unwrap().0.id, "aa");
    assert_eq!(ready(&images, "bb").await.get_array("tag").unwrap().len(), 1);
}

#[tokio::test]
async fn an_image_of_two_types_is_refused_where_documents_have_one() {
    let server = Server::mongo();
    let catalog = open_for_use(&server.place().await).await.unwrap();
    let mut two = record("aa", "a:1", 1.0, 7, true);
    two.add_tag(Tag { itype: "custom".into(), tag: "a".into(), asked: 1.0 });
    let error = catalog.store(&two).await.unwrap_err();
    assert!(matches!(&error, CatalogError::Type { id, .. } if id == "aa"), "{error}");
}

#[tokio::test]
async fn an_original_gateway_reads_the_states_of_what_leaves() {
    let server = Server::mongo();
    let place = server.place().await;
    let catalog = open_for_use(&place).await.unwrap();
    let images = images(&place).await;
    let mut tombstone = written_by_original("bb", &["b:1"], 1.0);
    tombstone.insert("status", "EXPIRED");
    images.insert_one(tombstone).await.unwrap();
    assert!(catalog.store(&record("aa", "a:1", 4.0, 7, true)).await.unwrap());
    let mut seen = catalog.record("sysa", "aa").await.unwrap().unwrap();
    for to in [State::Expiring, State::Expired] {
        assert!(catalog.turn(&seen, &Turn { to, expiration: 5.0, if_expired_by: None }).await.unwrap());
        let document = images.find_one(doc! { "id": "aa" }).await.unwrap().unwrap();
        assert_eq!(document.get_str("status").unwrap(), to.as_str());
        assert_eq!(document.get_array("tag").unwrap().len(), 1, "the original keeps the tags, too");
        // Its own tombstones have nothing to come back with.
        seen = catalog.retired(None, None).await.unwrap().remove(0);
        assert_eq!(
            (seen.image.id.as_str(), catalog.retired(None, Some("bb")).await.unwrap().len()),
            ("aa", 0)
        );
    }
    assert!(catalog.store(&record("bb", "b:1", 4.0, 7, true)).await.unwrap());
    assert_eq!(count(&images).await, 3);
    // The original pulls it anew meanwhile: then there is nothing to restore.
    images.insert_one(written_by_original("aa", &["a:1"], 9.0)).await.unwrap();
    let back = Turn { to: State::Ready, expiration: 9.0, if_expired_by: None };
    assert!(!catalog.turn(&seen, &back).await.unwrap());
    let theirs = catalog.record("sysa", "aa").await.unwrap().unwrap();
    assert_eq!(theirs.revision, 0);
    assert!(catalog.store(&theirs).await.unwrap(), "and it becomes ours beside the tombstone");
}
