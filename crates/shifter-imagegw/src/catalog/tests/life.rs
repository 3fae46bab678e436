//! The suite's cases on images that leave and come back, on what tags meant, and on lookups.

use super::suite::{Case, Opened, cases};
use super::*;
use crate::listed::Listed;

pub(super) const CASES: [Case; 10] = cases![
    a_retired_image_is_found_by_nobody_and_comes_back_whole,
    an_image_that_was_used_meanwhile_does_not_expire,
    of_ten_who_retire_an_image_one_does,
    a_tag_that_moved_does_not_come_back_with_a_restored_image,
    an_expired_image_that_is_pulled_again_starts_anew,
    an_expired_record_is_forgotten_only_as_it_was_read,
    what_a_tag_meant_is_remembered,
    lookups_are_kept_in_order_and_the_oldest_go,
    no_change_of_a_record_goes_unnoticed,
    a_kept_list_is_the_catalogs_after_a_thousand_changes_at_once,
];

const RETIRE: Turn = Turn { to: State::Expiring, expiration: 50.0, if_expired_by: None };

impl Opened {
    async fn read(&self, id: &str) -> Record {
        self.catalog.record("sysa", id).await.unwrap().unwrap()
    }

    async fn retired(&self, id: &str) -> Record {
        let mut found = self.catalog.retired(Some("sysa"), Some(id)).await.unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    /// Retires an image and says that its files are gone.
    async fn expire(&self, id: &str) {
        assert!(self.catalog.turn(&self.read(id).await, &RETIRE).await.unwrap());
        let gone = Turn { to: State::Expired, ..RETIRE };
        assert!(self.catalog.turn(&self.retired(id).await, &gone).await.unwrap());
    }
}

async fn a_retired_image_is_found_by_nobody_and_comes_back_whole(opened: Opened) {
    let catalog = &opened.catalog;
    let mut whole = record("aa", "a:1", 1.0, 7, false);
    whole.add_tag(Tag { itype: "docker".into(), tag: "b:1".into(), asked: 2.0 });
    whole.grants.push(grant("b:1", "aa", 8, true));
    assert!(
        catalog.store(&whole).await.unwrap()
            && catalog.store(&record("bb", "c:1", 1.0, 7, true)).await.unwrap()
    );
    assert!(!opened.read("aa").await.pinned);
    let pinned = Record { pinned: true, ..opened.read("aa").await };
    assert!(catalog.store(&pinned).await.unwrap());
    assert!(opened.read("aa").await.pinned);

    assert!(catalog.turn(&opened.read("aa").await, &RETIRE).await.unwrap());
    for to in [State::Expired, State::Ready] {
        assert_eq!((opened.meaning("a:1").await, opened.meaning("b:1").await), (None, None));
        assert_eq!(catalog.record("sysa", "aa").await.unwrap(), None);
        assert_eq!(catalog.image_of_digest("sysa", "sha256:aa").await.unwrap(), None);
        assert_eq!(tags(&**catalog, "sysa").await, [("bb".to_owned(), vec!["c:1".to_owned()])]);
        catalog.set_expiration("sysa", "aa", 99.0).await.unwrap();
        let retired = catalog.retired(Some("sysa"), None).await.unwrap();
        assert_eq!(retired.len(), 1);
        assert_eq!(
            (&retired[0].tags, &retired[0].grants, retired[0].pinned),
            (&whole.tags, &whole.grants, true)
        );
        assert_eq!(retired[0].image.expiration, 50.0, "a late lookup moves nothing");
        let is_expiring = retired[0].state == State::Expiring;
        assert_eq!(is_expiring, to == State::Expired);
        let turn = Turn { to, expiration: if is_expiring { 50.0 } else { 70.0 }, if_expired_by: None };
        assert!(catalog.turn(&retired[0], &turn).await.unwrap());
        assert!(!catalog.turn(&retired[0], &turn).await.unwrap(), "it is no more as it was read");
    }
    assert_eq!(opened.meaning("a:1").await, Some(("aa".to_owned(), 1)));
    let read = opened.read("aa").await;
    assert_eq!(read.image, Image { expiration: 70.0, ..whole.image });
    assert_eq!((read.tags, read.grants, read.digests), (whole.tags, whole.grants, whole.digests));
    assert_eq!(catalog.retired(None, None).await.unwrap(), []);
}

async fn an_image_that_was_used_meanwhile_does_not_expire(opened: Opened) {
    let catalog = &opened.catalog;
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    let seen = opened.read("aa").await;
    let unless_used = Turn { if_expired_by: Some(10.0), ..RETIRE };
    catalog.set_expiration("sysa", "aa", 20.0).await.unwrap();
    assert!(!catalog.turn(&seen, &unless_used).await.unwrap());
    assert_eq!(opened.read("aa").await.image.expiration, 20.0);
    catalog.set_expiration("sysa", "aa", 10.0).await.unwrap();
    assert!(catalog.turn(&seen, &unless_used).await.unwrap());
    // One without any expiration, as an original gateway leaves it.
    let mut unarmed = record("bb", "b:1", 1.0, 7, true);
    unarmed.image.expiration = 0.0;
    assert!(catalog.store(&unarmed).await.unwrap());
    let seen = opened.read("bb").await;
    assert!(catalog.store(&Record { grants: vec![], ..seen.clone() }).await.unwrap());
    assert!(!catalog.turn(&seen, &RETIRE).await.unwrap(), "somebody was granted or lost something meanwhile");
    assert!(catalog.turn(&opened.read("bb").await, &unless_used).await.unwrap());
}

async fn of_ten_who_retire_an_image_one_does(opened: Opened) {
    assert!(opened.catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    let seen = opened.read("aa").await;
    let turns = (0..10).map(|_| {
        let (catalog, seen) = (opened.catalog.clone(), seen.clone());
        tokio::spawn(async move { catalog.turn(&seen, &RETIRE).await.unwrap() })
    });
    let mut won = 0;
    for turn in turns.collect::<Vec<_>>() {
        won += usize::from(turn.await.unwrap());
    }
    assert_eq!(won, 1);
}

async fn a_tag_that_moved_does_not_come_back_with_a_restored_image(opened: Opened) {
    let catalog = &opened.catalog;
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    opened.expire("aa").await;
    assert!(catalog.store(&record("bb", "a:1", 2.0, 7, true)).await.unwrap());
    let back = Turn { to: State::Ready, expiration: 9.0, if_expired_by: None };
    assert!(catalog.turn(&opened.retired("aa").await, &back).await.unwrap());
    assert_eq!(opened.meaning("a:1").await, Some(("bb".to_owned(), 1)));
    assert_eq!(opened.read("aa").await.tags, []);
}

async fn an_expired_image_that_is_pulled_again_starts_anew(opened: Opened) {
    let catalog = &opened.catalog;
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    let old = opened.read("aa").await;
    assert!(catalog.turn(&old, &RETIRE).await.unwrap());
    let new = record("aa", "b:1", 2.0, 8, false);
    assert!(!catalog.store(&new).await.unwrap(), "its files are being removed");
    assert!(!catalog.store(&old).await.unwrap(), "who read it before does not bring it back");
    let gone = Turn { to: State::Expired, ..RETIRE };
    assert!(catalog.turn(&opened.retired("aa").await, &gone).await.unwrap());
    assert!(!catalog.store(&old).await.unwrap());
    assert!(catalog.store(&new).await.unwrap());
    assert!(!catalog.store(&new).await.unwrap(), "entered twice");
    let read = opened.read("aa").await;
    assert_eq!((&read.tags, &read.grants, read.state), (&new.tags, &new.grants, State::Ready));
    assert!(read.revision > 3, "revisions are not used again: {}", read.revision);
    assert_eq!(
        (opened.meaning("a:1").await, opened.meaning("b:1").await),
        (None, Some(("aa".to_owned(), 1)))
    );
    assert_eq!(catalog.retired(None, None).await.unwrap(), []);
}

async fn an_expired_record_is_forgotten_only_as_it_was_read(opened: Opened) {
    let catalog = &opened.catalog;
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    let live = opened.read("aa").await;
    catalog.forget(&live).await.unwrap();
    assert_eq!(opened.read("aa").await, live);
    opened.expire("aa").await;
    let expired = opened.retired("aa").await;
    catalog.forget(&Record { revision: 1, ..expired.clone() }).await.unwrap();
    assert_eq!(opened.retired("aa").await, expired);
    catalog.forget(&expired).await.unwrap();
    assert_eq!(catalog.retired(None, None).await.unwrap(), []);
    // Nothing of it is in the way.
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    assert_eq!(opened.read("aa").await, live);
}

async fn what_a_tag_meant_is_remembered(opened: Opened) {
    let catalog = &opened.catalog;
    for (id, asked) in [("aa", 1.0), ("bb", 3.0), ("cc", 2.0), ("aa", 4.0)] {
        let known = catalog.record("sysa", id).await.unwrap();
        let revision = known.map_or(0, |known| known.revision);
        assert!(catalog.store(&Record { revision, ..record(id, "a:1", asked, 7, true) }).await.unwrap());
    }
    // Asked again with the same answer.
    assert!(
        catalog
            .store(&Record {
                revision: opened.read("aa").await.revision,
                ..record("aa", "a:1", 5.0, 7, true)
            })
            .await
            .unwrap()
    );
    let expected: Vec<_> = [("aa", 4.0), ("bb", 3.0), ("aa", 1.0)].map(|(id, at)| (id.to_owned(), at)).into();
    assert_eq!(catalog.history(&key("a:1")).await.unwrap(), expected);
    assert_eq!(catalog.history(&key("b:1")).await.unwrap(), []);
    let mut there = record("dd", "a:1", 9.0, 7, true);
    there.image.system = "sysb".into();
    there.grants[0].key.system = "sysb".into();
    assert!(catalog.store(&there).await.unwrap());
    assert_eq!(catalog.history(&key("a:1")).await.unwrap(), expected);
    for move_ in 0..110_u32 {
        let id = format!("{move_:04}");
        assert!(catalog.store(&record(&id, "n:1", f64::from(move_), 7, true)).await.unwrap());
    }
    let last = catalog.history(&key("n:1")).await.unwrap();
    assert_eq!((last.len(), last[0].0.as_str(), last[99].0.as_str()), (100, "0109", "0010"));
    assert_eq!(catalog.history(&key("a:1")).await.unwrap(), expected);
}

async fn lookups_are_kept_in_order_and_the_oldest_go(opened: Opened) {
    let catalog = &opened.catalog;
    let one = |number: u32, system: &str| Use {
        user: "ü'$".into(),
        uid: u32::MAX - number,
        system: system.into(),
        itype: "docker".into(),
        tag: "a:1".into(),
        id: "aa".into(),
        time: 1.7e9 + f64::from(number),
    };
    assert_eq!(catalog.uses("sysa", 10).await.unwrap(), []);
    catalog.trim_uses(5).await.unwrap();
    catalog.add_uses(&[]).await.unwrap();
    catalog.add_uses(&(0..200).map(|number| one(number, "sysa")).collect::<Vec<_>>()).await.unwrap();
    catalog.add_uses(&[one(200, "sysb"), one(201, "sysa")]).await.unwrap();
    assert_eq!(
        catalog.uses("sysa", 3).await.unwrap(),
        [one(198, "sysa"), one(199, "sysa"), one(201, "sysa")]
    );
    assert_eq!(catalog.uses("sysb", 3).await.unwrap(), [one(200, "sysb")]);
    assert_eq!(catalog.uses("sysa", 0).await.unwrap(), []);
    assert_eq!(catalog.uses("sysa", 1000).await.unwrap().len(), 201);
    catalog.trim_uses(3).await.unwrap();
    assert_eq!(catalog.uses("sysa", 1000).await.unwrap(), [one(199, "sysa"), one(201, "sysa")]);
    assert_eq!(catalog.uses("sysb", 1000).await.unwrap().len(), 1);
}

async fn no_change_of_a_record_goes_unnoticed(opened: Opened) {
    let catalog = &opened.catalog;
    // Elsewhere every list is read.
    let Some(mut before) = catalog.version().await.unwrap() else { return };
    let mut moved = async |step: &str| {
        let now = catalog.version().await.unwrap().unwrap();
        assert_ne!(now, before, "{step}");
        before = now;
    };
    assert!(catalog.store(&record("aa", "a:1", 1.0, 7, true)).await.unwrap());
    moved("an image is entered").await;
    let mut found = opened.read("aa").await;
    found.grants.push(grant("a:1", "aa", 8, true));
    assert!(catalog.store(&found).await.unwrap());
    moved("a grant is added").await;
    assert!(catalog.store(&record("bb", "a:1", 2.0, 7, true)).await.unwrap());
    moved("a tag moves to another image").await;
    assert!(catalog.turn(&opened.read("aa").await, &RETIRE).await.unwrap());
    moved("an image is retired").await;
    let gone = Turn { to: State::Expired, ..RETIRE };
    assert!(catalog.turn(&opened.retired("aa").await, &gone).await.unwrap());
    moved("its files are gone").await;
    let back = Turn { to: State::Ready, expiration: 99.0, if_expired_by: None };
    assert!(catalog.turn(&opened.retired("aa").await, &back).await.unwrap());
    moved("it comes back").await;
    opened.expire("aa").await;
    moved("it expires again").await;
    catalog.forget(&opened.retired("aa").await).await.unwrap();
    moved("it is forgotten").await;

    catalog.set_expiration("sysa", "bb", 99.0).await.unwrap();
    catalog.enter_job(&new_job("c:1", 7)).await.unwrap().unwrap();
    assert_eq!(
        catalog.version().await.unwrap(),
        Some(before),
        "neither lookups nor pulls change what lists show"
    );
}

async fn a_kept_list_is_the_catalogs_after_a_thousand_changes_at_once(opened: Opened) {
    let listed = Arc::new(Listed::new(opened.catalog.clone()));
    let tasks = (0..10).map(|task| {
        let (catalog, listed) = (opened.catalog.clone(), listed.clone());
        tokio::spawn(async move {
            let id = format!("{task:02}");
            let mut record = record(&id, &format!("a:{task}"), 1.0, 7, true);
            for revision in 0..110 {
                record.revision = revision;
                assert!(catalog.store(&record).await.unwrap());
                let shown = listed.of("sysa").await.unwrap();
                let shown = shown.iter().find(|shown| shown.image.id == id).unwrap();
                assert_eq!(
                    shown.revision,
                    revision + 1,
                    "a list shows what was written before it was asked for"
                );
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(*listed.of("sysa").await.unwrap(), *opened.catalog.list(Some("sysa")).await.unwrap());
}
