//! `reconcile` beside a gateway that works.

use shifter_core::meta::Acl;

use super::*;
use crate::catalog::{Catalog, Record, State, Tag, Turn};
use crate::config::Environment;
use crate::model::{Grant, Image, RunConfig, TagKey, now};
use crate::reconcile::{Orders, Scope, run};

fn image(id: &str) -> Image {
    Image {
        system: "sysa".into(),
        id: id.into(),
        format: "squashfs".into(),
        config: RunConfig::default(),
        size: 5,
        sha256: "00".repeat(32),
        last_pull: now(),
        expiration: now() + 1000.0,
    }
}

/// Publishes an image as pulls do: its files, then its record.
async fn publish(catalog: &dyn Catalog, images: &Path, id: &str) {
    publish_as("docker", catalog, images, id).await;
}

async fn publish_as(itype: &str, catalog: &dyn Catalog, images: &Path, id: &str) {
    let image = image(id);
    let acl = Acl { uids: vec![7], gids: Vec::new() };
    let meta = image.to_meta(acl.clone()).render();
    std::fs::write(images.join(format!("{id}.squashfs")), "image").unwrap();
    std::fs::write(images.join(format!("{id}.meta")), meta).unwrap();
    let key = TagKey { system: "sysa".into(), itype: itype.into(), tag: format!("app:{id}") };
    let (itype, tag) = (key.itype.clone(), key.tag.clone());
    let grants = vec![Grant { key, id: id.into(), puller: 7, public: false, acl, checked: now() }];
    let mut record = Record { grants, ..Record::new(image) };
    record.add_tag(Tag { itype, tag, asked: now() });
    assert!(catalog.store(&record).await.unwrap());
}

/// Removes one as the keeper does: its record, then its files.
async fn remove(catalog: &dyn Catalog, images: &Path, id: &str) {
    let record = catalog.record("sysa", id).await.unwrap().unwrap();
    let turn = Turn { to: State::Expiring, expiration: now(), if_expired_by: None };
    assert!(catalog.turn(&record, &turn).await.unwrap());
    for end in ["meta", "squashfs"] {
        std::fs::remove_file(images.join(format!("{id}.{end}"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_or_removed_while_reconcile_looks_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), SocketAddr::from(([127, 0, 0, 1], 1)), 0).await;
    let (catalog, images) = (gateway.api().catalog.clone(), dir.path().join("images"));
    let id = |number: usize| sha256(number.to_string().as_bytes());
    const KEPT: usize = 300;
    for number in 0..KEPT {
        publish(&*catalog, &images, &id(number)).await;
    }
    let working = tokio::spawn({
        let catalog = catalog.clone();
        async move {
            for number in KEPT..KEPT * 3 {
                publish(&*catalog, &images, &id(number)).await;
                remove(&*catalog, &images, &id(number - KEPT)).await;
            }
        }
    });
    let config = gateway.api().config.now();
    let scope = Scope { config, catalog: &*catalog, gateway_uid: 999, asker: 0, puller: None };
    let orders = Orders { system: Some("sysa".into()), ..Orders::default() };
    let mut rounds = 0;
    while !working.is_finished() {
        let before = catalog.list(Some("sysa")).await.unwrap();
        let answer = run(&scope, &orders).await.unwrap();
        for line in &answer.lines {
            // Of one whose files are there already, and its record not yet, that is right to say.
            let is_new = !before.iter().any(|record| line.contains(&record.image.id));
            let is_right = line.contains("the catalog does not know it") && is_new;
            assert!(is_right || line.contains("agree") || line.contains(" found, "), "{line}");
        }
        rounds += 1;
    }
    working.await.unwrap();
    assert!(rounds > 3, "{rounds}");
    let answer = run(&scope, &orders).await.unwrap();
    assert!(answer.is_well, "{:?}", answer.lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_that_is_taken_away_is_not_said_to_come_back_by_a_pull() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), SocketAddr::from(([127, 0, 0, 1], 1)), 0).await;
    let (catalog, images) = (gateway.api().catalog.clone(), dir.path().join("images"));
    let [kept, pulled, imported] = ["a", "b", "c"].map(|seed| sha256(seed.as_bytes()));
    publish(&*catalog, &images, &kept).await;
    publish(&*catalog, &images, &pulled).await;
    publish_as("custom", &*catalog, &images, &imported).await;
    for id in [&pulled, &imported] {
        std::fs::remove_file(images.join(format!("{id}.squashfs"))).unwrap();
    }
    let config = gateway.api().config.now();
    let scope = Scope { config, catalog: &*catalog, gateway_uid: 999, asker: 0, puller: None };
    let orders = Orders { fix: true, system: Some("sysa".into()), ..Orders::default() };
    let answer = run(&scope, &orders).await.unwrap();
    for (id, expected) in [(pulled, "the next pull makes it anew"), (imported, "import its file again")] {
        let is_told =
            |line: &&String| line.contains(&id) && line.ends_with(&format!("; taken away, {expected}"));
        assert!(answer.lines.iter().any(|line| is_told(&line)), "{:?}", answer.lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_without_its_list_in_meta_is_rebuilt_for_nobody_whoever_rebuilds() {
    const NOBODY: u32 = 999;
    let private = || Acl { uids: vec![7], gids: vec![8] };
    // Of what list; whether that was left out, whether that was noted, whether the variable is set at the rebuilding; who
    // may use it then, everybody where nobody is named.
    for (acl, is_left_out, is_noted, is_set, expected) in [
        (private(), true, true, false, vec![NOBODY]),
        (private(), true, true, true, vec![NOBODY]),
        (private(), true, false, true, vec![NOBODY]),
        (private(), false, true, false, vec![7]),
        (private(), false, true, true, vec![7]),
        (Acl::default(), true, true, false, vec![]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let gateway = Gateway::start(dir.path(), SocketAddr::from(([127, 0, 0, 1], 1)), 0).await;
        let (catalog, images) = (gateway.api().catalog.clone(), dir.path().join("images"));
        let id = sha256(b"a");
        let written = Environment { no_acl_in_meta: is_left_out, ..Environment::default() };
        let meta = written.as_written(image(&id).to_meta(acl)).render();
        let is_mark = |line: &&str| line.starts_with("#shifter1-acl") && !is_noted;
        let meta: Vec<&str> = meta.lines().filter(|line| !is_mark(line)).collect();
        std::fs::write(images.join(format!("{id}.meta")), meta.join("\n") + "\n").unwrap();
        std::fs::write(images.join(format!("{id}.squashfs")), "image").unwrap();
        let mut config = gateway.api().config.now().clone();
        config.environment.no_acl_in_meta = is_set;
        let scope =
            Scope { config: &config, catalog: &*catalog, gateway_uid: NOBODY, asker: 0, puller: None };
        let orders = Orders { rebuild: true, system: Some("sysa".into()), ..Orders::default() };
        let answer = run(&scope, &orders).await.unwrap();
        assert!(answer.is_well, "{:?}", answer.lines);
        let record = catalog.record("sysa", &id).await.unwrap().unwrap();
        let grant = &record.grants[0];
        let what = format!("{is_left_out} {is_noted} {is_set}");
        assert_eq!((&grant.acl.uids, grant.public), (&expected, expected.is_empty()), "{what}");
        // What an earlier version left out without a word is put right as long as that is known.
        let orders = Orders { fix: true, ..orders };
        let answer = run(&scope, &Orders { rebuild: false, ..orders }).await.unwrap();
        assert!(answer.is_well, "{:?}", answer.lines);
        let meta = std::fs::read_to_string(images.join(format!("{id}.meta"))).unwrap();
        assert_eq!(meta.contains("ACL: ") || meta.contains("#shifter1-acl"), !expected.is_empty(), "{meta}");
    }
}
