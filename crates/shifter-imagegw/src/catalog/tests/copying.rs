//! Copies between any two catalogs, any number of times.

use super::original::written_by_original;
use super::servers::Server;
use super::*;

/// Three images of two systems, one of them with two tags.
async fn fill(place: &Place) -> Vec<Record> {
    let catalog = open_for_use(place).await.unwrap();
    let mut first = record("aa", "a:1", 5.0, 7, false);
    first.add_tag(Tag { itype: "docker".into(), tag: "b:1".into(), asked: 6.0 });
    first.grants.push(grant("b:1", "aa", 8, true));
    let mut other = record("aa", "a:1", 5.0, 7, true);
    other.image.system = "sysb".into();
    other.grants[0].key.system = "sysb".into();
    let mut lasting = record("bb", "c:1", 5.0, 7, true);
    lasting.image.expiration = 4.0e9;
    let records = [first, lasting, other];
    for record in &records {
        assert!(catalog.store(record).await.unwrap());
    }
    catalog.enter_job(&new_job("d:1", 7)).await.unwrap().unwrap();
    catalog.close().await;
    records.map(stored).to_vec()
}

async fn read(place: &Place) -> Vec<Record> {
    let catalog = open(place, Purpose::Look).await.unwrap().unwrap();
    let records = catalog.list(None).await.unwrap();
    catalog.close().await;
    records
}

fn outcome(new: usize, changed: usize, unchanged: usize) -> Outcome {
    Outcome { new, changed, unchanged, ..Outcome::default() }
}

#[tokio::test]
async fn a_catalog_is_copied_whole_between_any_two_databases() {
    let servers = Server::all();
    for from in &servers {
        for to in &servers {
            let (source, target) = (from.place().await, to.place().await);
            let filled = fill(&source).await;
            let from = Source::Place(source.clone());
            let copied = Outcome { meanings: 4, ..outcome(3, 0, 0) };
            assert_eq!(migrate(&from, &target, true).await.unwrap(), copied);
            assert!(open(&target, Purpose::Look).await.unwrap().is_none(), "a trial makes nothing: {target}");
            assert_eq!(migrate(&from, &target, false).await.unwrap(), copied);
            // What was over begins anew.
            let mut fresh = filled.clone();
            for record in fresh.iter_mut().filter(|record| record.image.expiration < now()) {
                record.image.expiration = 0.0;
            }
            assert_eq!(read(&target).await, fresh, "{source} to {target}");
            // Again, and back: nothing is left to do.
            assert_eq!(migrate(&from, &target, false).await.unwrap(), outcome(0, 0, 3));
            let back = migrate(&Source::Place(target.clone()), &source, false).await.unwrap();
            assert_eq!(back, outcome(0, 0, 3));
            assert_eq!(read(&source).await, filled);
            let catalog = open_for_use(&target).await.unwrap();
            assert_eq!(catalog.unfinished(None).await.unwrap(), [], "jobs stay behind");
        }
    }
}

#[tokio::test]
async fn a_copied_catalog_still_knows_what_tags_meant_and_restores_what_has_expired() {
    let servers = Server::all();
    for from in &servers {
        for to in &servers {
            let (source, target) = (from.place().await, to.place().await);
            let catalog = open_for_use(&source).await.unwrap();
            for (id, tag, asked) in
                [("aa", "a:1", 1.0), ("bb", "a:1", 3.0), ("cc", "c:1", 2.0), ("dd", "d:1", 2.0)]
            {
                assert!(catalog.store(&record(id, tag, asked, 7, true)).await.unwrap());
            }
            // Confirmed, which is not since when the tag means it.
            let confirmed = Record { revision: 1, ..record("bb", "a:1", 5.0, 7, true) };
            assert!(catalog.store(&confirmed).await.unwrap());
            for id in ["cc", "dd"] {
                for (to, revision) in [(State::Expiring, 1), (State::Expired, 2)] {
                    let state = if to == State::Expired { State::Expiring } else { State::Ready };
                    let read = Record { state, revision, ..record(id, "x:1", 0.0, 7, true) };
                    let turn = Turn { to, expiration: 50.0, if_expired_by: None };
                    assert!(catalog.turn(&read, &turn).await.unwrap());
                }
            }
            let retired = catalog.retired(None, None).await.unwrap();
            catalog.close().await;
            drop(catalog);
            // There the tag means something, if it was asked about earlier.
            let catalog = open_for_use(&target).await.unwrap();
            assert!(catalog.store(&record("ee", "d:1", 1.0, 7, true)).await.unwrap());
            catalog.close().await;
            drop(catalog);

            let from = Source::Place(source.clone());
            let copied = Outcome { retired: 2, meanings: 4, ..outcome(2, 0, 0) };
            assert_eq!(migrate(&from, &target, true).await.unwrap(), copied, "{source} to {target}");
            assert_eq!(migrate(&from, &target, false).await.unwrap(), copied, "{source} to {target}");
            assert_eq!(
                migrate(&from, &target, false).await.unwrap(),
                outcome(0, 0, 2),
                "{source} to {target}"
            );
            let catalog = open_for_use(&target).await.unwrap();
            let meant = [("bb", 3.0), ("aa", 1.0)].map(|(id, since)| (id.to_owned(), since));
            assert_eq!(catalog.history(&key("a:1")).await.unwrap(), meant, "{source} to {target}");
            let mut there = catalog.retired(None, None).await.unwrap();
            let whole = |record: &Record| Record { revision: 1, ..record.clone() };
            assert_eq!(there[0], whole(&retired[0]), "{source} to {target}");
            assert_eq!(
                (there[1].image.id.as_str(), &there[1].tags[..]),
                ("dd", &[][..]),
                "its tag is another one's"
            );
            let back = Turn { to: State::Ready, expiration: 4.0e9, if_expired_by: None };
            assert!(catalog.turn(&there.remove(0), &back).await.unwrap());
            for (tag, id) in [("a:1", "bb"), ("c:1", "cc"), ("d:1", "ee")] {
                assert_eq!(
                    catalog.lookup(&key(tag)).await.unwrap().unwrap().0.id,
                    id,
                    "{source} to {target}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_later_of_two_versions_counts_whichever_way_they_are_copied() {
    for server in Server::all() {
        let (source, target) = (server.place().await, server.place().await);
        fill(&source).await;
        let catalog = open_for_use(&target).await.unwrap();
        // The tag a:1 has moved in the target; c:1 is older there, and its grant was narrowed.
        let mut moved = record("cc", "a:1", 50.0, 9, false);
        moved.image.last_pull = 90.0;
        let mut narrowed = record("bb", "c:1", 1.0, 7, false);
        narrowed.grants[0].checked = 99.0;
        assert!(catalog.store(&moved).await.unwrap() && catalog.store(&narrowed).await.unwrap());
        catalog.close().await;
        drop(catalog);

        let from = Source::Place(source);
        let copied = Outcome { meanings: 4, ..outcome(2, 1, 0) };
        assert_eq!(migrate(&from, &target, true).await.unwrap(), copied, "{target}");
        assert_eq!(migrate(&from, &target, false).await.unwrap(), copied, "{target}");
        assert_eq!(migrate(&from, &target, false).await.unwrap(), outcome(0, 0, 3), "{target}");
        let catalog = open_for_use(&target).await.unwrap();
        assert_eq!(catalog.lookup(&key("a:1")).await.unwrap().unwrap().0.id, "cc");
        let (_, grants) = catalog.lookup(&key("c:1")).await.unwrap().unwrap();
        assert!(grants.len() == 1 && !grants[0].public, "{grants:?}");
    }
}

#[tokio::test]
async fn an_export_of_the_originals_collection_is_read_from_a_file() {
    let server = Server::sqlite();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("images.json");
    let mut pulling = written_by_original("cc", &["c:1"], 1.0);
    pulling.insert("status", "PULLING");
    let documents = [
        written_by_original("aa", &["a:1"], 5.0),
        written_by_original("aa", &["a:2"], 6.0),
        written_by_original("bb", &["a:1"], 7.0),
        pulling,
    ];
    let canonical = |document: &bson::Document| {
        let mut document = document.clone();
        document.insert("_id", bson::oid::ObjectId::new());
        bson::Bson::Document(document).into_canonical_extjson().to_string()
    };
    let lines: Vec<String> = documents.iter().map(canonical).collect();
    let relaxed = r#"{"_id":{"$oid":"5f0000000000000000000001"},"system":"sysa","itype":"docker","id":"dd",
        "tag":"d:1","status":"READY","format":"squashfs","last_pull":1795210150.8,"private":true,"userACL":[1001],
        "groupACL":[{"$numberLong":"5"}]}"#;
    for text in [format!("{}\n{relaxed}\n", lines.join("\n")), format!("[{},\n{relaxed}]", lines.join(",\n"))]
    {
        std::fs::write(&file, text).unwrap();
        let target = server.place().await;
        let from = Source::Exported(file.clone());
        let copied = Outcome { merged: 1, ..outcome(3, 0, 0) };
        assert_eq!(migrate(&from, &target, false).await.unwrap(), copied);
        let again = Outcome { merged: 1, ..outcome(0, 0, 3) };
        assert_eq!(migrate(&from, &target, false).await.unwrap(), again);
        let catalog = open_for_use(&target).await.unwrap();
        for (tag, id, public) in [("a:1", "bb", true), ("a:2", "aa", true), ("d:1", "dd", false)] {
            let (image, grants) = catalog.lookup(&key(tag)).await.unwrap().unwrap();
            assert_eq!((image.id.as_str(), grants[0].public), (id, public), "{tag}");
        }
        let (image, grants) = catalog.lookup(&key("d:1")).await.unwrap().unwrap();
        assert_eq!(
            (image.last_pull, &grants[0].acl.uids, &grants[0].acl.gids),
            (1795210150.8, &vec![1001], &vec![5])
        );
    }
    for (text, expected) in [
        ("{", "is not what mongoexport writes"),
        ("[3]", "is not what mongoexport writes"),
        (r#"{"status":"READY"}"#, "is not an export of the collection images"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = migrate(&Source::Exported(file.clone()), &server.place().await, false).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error:#}");
    }
}

#[tokio::test]
async fn copying_from_nothing_or_to_itself_is_refused() {
    let server = Server::sqlite();
    let (source, target) = (server.place().await, server.place().await);
    let from = Source::Place(source.clone());
    let error = migrate(&from, &target, false).await.unwrap_err().to_string();
    assert!(error.contains("there is no catalog at sqlite://"), "{error}");
    let error = migrate(&from, &source, false).await.unwrap_err().to_string();
    assert!(error.contains("both source and target"), "{error}");
}
