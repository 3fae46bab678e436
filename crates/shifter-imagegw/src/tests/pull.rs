//! Pulls from question to published image: what is shared, what is private, what survives.

use super::*;

fn has(image: &wire::Image, status: &str) -> bool {
    image.status.as_deref() == Some(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_publishes_and_an_unchanged_tag_costs_one_head() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 0).await;
    let id = registry.push("org/app", "1", "one");
    let alice = caller(1, &[]);

    let image = gateway.pull(&alice, "org/app:1", "").await;
    assert!(has(&image, "READY"), "{image:?}");
    assert_eq!(
        (image.id.as_deref(), image.tag.as_slice()),
        (Some(id.as_str()), &["org/app:1".to_owned()][..])
    );
    assert_eq!(gateway.names("images"), [format!("{id}.meta"), format!("{id}.squashfs")]);
    assert_eq!(gateway.names("expand"), [""; 0]);
    let sha = sha256(b"image bytes");
    assert_eq!(
        gateway.meta(&id),
        format!(
            "FORMAT: squashfs\nCMD: ['sh']\nENV: SEED=one\n#shifter1 {{\"size\":11,\"sha256\":\"{sha}\",\
             \"architecture\":\"amd64\",\"cmd\":[\"sh\"],\"env\":[\"SEED=one\"]}}\n"
        )
    );

    registry.take_served();
    assert!(has(&gateway.pull(&alice, "org/app:1", "").await, "READY"));
    assert_eq!(registry.take_served(), ["HEAD org/app/manifests/1"]);

    // Another name of the same content, asked for by another caller: no download, no conversion.
    registry.push("org/app", "stable", "one");
    let image = gateway.pull(&caller(2, &[]), "reg/org/app:stable", "").await;
    assert!(has(&image, "READY"), "{image:?}");
    assert_eq!(registry.take_served(), ["HEAD org/app/manifests/stable"]);
    assert_eq!(gateway.conversions(), 1);

    // The tag moves: a new image, and the old one stays for those who run it.
    let moved = registry.push("org/app", "1", "two");
    assert_eq!(gateway.pull(&alice, "org/app:1", "").await.id, Some(moved));
    assert_eq!(gateway.conversions(), 2);
    assert_eq!(gateway.names("images").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pull_answers_others_within_pull_update_timeout() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    registry.push("app", "latest", "one");
    gateway.pull(&caller(1, &[]), "app", "").await;
    registry.take_served();
    assert!(has(&gateway.request(&caller(2, &[]), "app", "").await.unwrap(), "READY"));
    assert_eq!(registry.take_served(), [""; 0]);
    // Who pulls again wants to know.
    let moved = registry.push("app", "latest", "two");
    assert_eq!(gateway.pull(&caller(1, &[]), "app", "").await.id, Some(moved.clone()));
    // A lost file is made again, whatever the clock says; so are lost directories of the cache.
    std::fs::remove_file(dir.path().join(format!("images/{moved}.squashfs"))).unwrap();
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    assert!(has(&gateway.pull(&caller(2, &[]), "app", "").await, "READY"));
    assert!(gateway.names("images").contains(&format!("{moved}.squashfs")));
}

/// ST48.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_at_once_convert_once() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Arc::new(Gateway::start(dir.path(), address, 300).await);
    for tag in ["1", "2"] {
        registry.push("app", tag, "same");
    }
    let pulls: Vec<_> = (1..=100)
        .map(|uid| {
            let gateway = gateway.clone();
            let tag = format!("app:{}", uid % 2 + 1);
            tokio::spawn(async move { gateway.pull(&caller(uid, &[]), &tag, "").await })
        })
        .collect();
    for pull in pulls {
        let image = pull.await.unwrap();
        assert!(has(&image, "READY"), "{image:?}");
    }
    assert_eq!(gateway.conversions(), 1);
    let listed = gateway.api().list("sysa", &caller(99, &[]), &Default::default()).await.unwrap();
    assert_eq!(listed.list.len(), 1);
    assert_eq!(listed.list[0].tag, ["app:1", "app:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_images_belong_to_those_the_registry_accepted() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    let id = registry.push("secret/app", "1", "s");
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    let mallory = caller(2, &[("reg", "alice:wrong")]);
    let bob = caller(3, &[]);
    let tag = "secret/app:1";

    let image = gateway.pull(&alice, tag, "").await;
    assert!(has(&image, "READY"), "{image:?}");
    assert_eq!(image.user_acl, Some(vec![1]));
    assert!(gateway.meta(&id).contains("\nUSERACL: 1\n"), "{}", gateway.meta(&id));

    for other in [&mallory, &bob] {
        let image = gateway.pull(other, tag, "").await;
        assert!(has(&image, "FAILURE") && image.id.is_none() && image.env.is_none(), "{image:?}");
        assert!(image.status_message.as_deref().is_some_and(|why| why.contains("secret/app:1")), "{image:?}");
        assert!(matches!(gateway.api().lookup("sysa", "docker", tag, other).await, Err(Refusal::Denied(_))));
        assert_eq!(gateway.api().list("sysa", other, &Default::default()).await.unwrap().list, []);
    }
    // Others' failures are nobody else's business.
    assert!(has(&gateway.pull(&alice, tag, "").await, "READY"));
    assert!(gateway.api().lookup("sysa", "docker", tag, &alice).await.is_ok());

    // Shared with bob and a group; the gids are the author's to give.
    let image = gateway.pull(&alice, tag, r#"{"allowed_uids":"3","allowed_gids":"70"}"#).await;
    assert_eq!((image.user_acl, image.group_acl), (Some(vec![1, 3]), Some(vec![70, 10_001])));
    assert!(gateway.meta(&id).contains("\nUSERACL: 1,3\nGROUPACL: 70,10001\n"), "{}", gateway.meta(&id));
    assert!(gateway.api().lookup("sysa", "docker", tag, &bob).await.is_ok());
    assert!(matches!(gateway.api().lookup("sysa", "docker", tag, &mallory).await, Err(Refusal::Denied(_))));
    assert_eq!(gateway.conversions(), 1);

    // A second proven puller of the same digest adds to the union in the file, not to the tag's list of others.
    registry.push("secret/other", "1", "s");
    let carol = caller(4, &[("reg", "alice:pa:ss")]);
    assert_eq!(gateway.pull(&carol, "secret/other:1", "").await.user_acl, Some(vec![4]));
    assert!(gateway.meta(&id).contains("\nUSERACL: 1,3,4\n"), "{}", gateway.meta(&id));
    assert!(matches!(
        gateway.api().lookup("sysa", "docker", "secret/other:1", &alice).await,
        Err(Refusal::Denied(_))
    ));

    // The same content without credentials elsewhere: public, so the nodes need no list.
    registry.push("open", "1", "s");
    assert_eq!(gateway.pull(&bob, "open:1", "").await.user_acl, Some(vec![]));
    assert!(!gateway.meta(&id).contains("ACL"), "{}", gateway.meta(&id));
    assert_eq!(gateway.conversions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_why_leave_nothing_and_may_be_retried_at_once() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    registry.push("app", "latest", "one");
    std::fs::write(dir.path().join("fail"), "").unwrap();
    let alice = caller(1, &[]);
    let image = gateway.pull(&alice, "app", "").await;
    assert!(has(&image, "FAILURE"), "{image:?}");
    assert_eq!(image.status_message.as_deref(), Some("layer sha256:x: entry ../x climbs out"));
    assert_eq!(gateway.names("images"), [""; 0]);
    assert_eq!(gateway.names("expand"), [""; 0]);
    assert!(matches!(gateway.api().lookup("sysa", "docker", "app", &alice).await, Err(Refusal::NoImage)));

    std::fs::remove_file(dir.path().join("fail")).unwrap();
    assert!(has(&gateway.pull(&alice, "app", "").await, "READY"));

    let image = gateway.pull(&alice, "nosuch", "").await;
    assert!(has(&image, "FAILURE") && image.status_message.is_some(), "{image:?}");
    for (tag, body, expected) in [
        ("app:a:b", "", "image name"),
        ("quay.io/app", "", "quay.io"),
        ("app", r#"{"allowed_uids":"alice"}"#, "allowed_uids"),
        ("app", "{", "JSON"),
    ] {
        let refusal = gateway.request(&alice, tag, body).await.unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_goes_on_where_it_can() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (open, secret) = (registry.push("open", "1", "o"), registry.push("secret/app", "1", "s"));
    let (bob, alice) = (caller(3, &[]), caller(1, &[("reg", "alice:pa:ss")]));
    let gateway = Gateway::start(dir.path(), address, 300).await;
    gateway.request(&bob, "open:1", "").await.unwrap();
    gateway.request(&alice, "secret/app:1", "").await.unwrap();
    gateway.stop().await;

    let gateway = Gateway::start(dir.path(), address, 300).await;
    // Nobody polls for the public one; it is finished all the same.
    for _ in 0..500 {
        if gateway.names("images").contains(&format!("{open}.meta")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gateway.names("images").contains(&format!("{open}.squashfs")));
    assert!(
        !gateway.names("images").contains(&format!("{secret}.squashfs")),
        "credentials were never stored"
    );
    // The next poll brings the credentials along.
    assert!(has(&gateway.pull(&alice, "secret/app:1", "").await, "READY"));
    assert!(gateway.names("images").contains(&format!("{secret}.squashfs")));
    assert!(has(&gateway.pull(&bob, "open:1", "").await, "READY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_for_other_architectures_are_named_by_the_platforms_manifest() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    let manifest = registry.push_for("arm64", "app", "plain", "one");
    let first = registry.push_index("app", "1", &manifest, "first");
    let second = registry.push_index("app", "2", &manifest, "second");
    assert_ne!(first, second);
    let alice = caller(1, &[]);
    for tag in ["app:1", "app:2", "app:1"] {
        let image = gateway.pull_on("arm", &alice, tag, "").await;
        assert_eq!(image.id.as_deref(), Some(manifest.as_str()), "{image:?}");
    }
    assert_eq!(gateway.names("arm"), [format!("{manifest}.meta"), format!("{manifest}.squashfs")]);
    assert_eq!(gateway.conversions(), 1, "two indexes of one manifest are one image");
    let record = std::fs::read_to_string(dir.path().join(format!("arm/{manifest}.meta"))).unwrap();
    assert!(record.contains(r#""architecture":"arm64/v8""#), "{record}");
    // The other system is told that there is nothing for it.
    let image = gateway.pull(&alice, "app:1", "").await;
    assert!(has(&image, "FAILURE"), "{image:?}");
    assert!(image.status_message.as_deref().is_some_and(|why| why.contains("arm64")), "{image:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_shown_and_expiration_begins_at_the_pull() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    registry.push("app", "latest", "labelled");
    let image = gateway.pull(&caller(1, &[]), "app", "").await;
    assert_eq!(image.labels, Some([("who".to_owned(), "me".to_owned())].into()));
    let key =
        crate::model::TagKey { system: "sysa".into(), itype: "docker".into(), tag: "app:latest".into() };
    let (stored, _) = gateway.api().catalog.lookup(&key).await.unwrap().unwrap();
    assert_eq!(stored.expiration, stored.last_pull + 90.0 * 86_400.0);
    // A lookup moves it, when there is something to move.
    let mut record = gateway.api().catalog.record("sysa", &stored.id).await.unwrap().unwrap();
    record.image.expiration = 5.0;
    assert!(gateway.api().catalog.store(&record).await.unwrap());
    gateway.api().lookup("sysa", "docker", "app", &caller(2, &[])).await.unwrap();
    let (stored, _) = gateway.api().catalog.lookup(&key).await.unwrap().unwrap();
    assert!(stored.expiration > stored.last_pull + 89.0 * 86_400.0, "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_comes_after_the_image_and_the_catalog_last() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 300).await;
    let id = registry.push("app", "latest", "one");
    // Something that no rename replaces stands where the record should go.
    let record = dir.path().join(format!("images/{id}.meta"));
    std::fs::create_dir(&record).unwrap();
    let alice = caller(1, &[]);
    let image = gateway.pull(&alice, "app", "").await;
    assert!(has(&image, "FAILURE"), "{image:?}");
    assert_eq!(gateway.names("images"), [format!("{id}.meta"), format!("{id}.squashfs")]);
    assert!(matches!(gateway.api().lookup("sysa", "docker", "app", &alice).await, Err(Refusal::NoImage)));
    std::fs::remove_dir(&record).unwrap();
    assert!(has(&gateway.pull(&alice, "app", "").await, "READY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_one_caller_hear_the_end_of_their_pull() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Arc::new(Gateway::start(dir.path(), address, 300).await);
    registry.push("app", "latest", "one");
    // Slow enough for all clients to poll before the end.
    std::fs::write(dir.path().join("slow"), "").unwrap();
    std::fs::write(dir.path().join("fail"), "").unwrap();
    let pulls: Vec<_> = (0..10)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.pull(&caller(1, &[]), "app", "").await })
        })
        .collect();
    for pull in pulls {
        let image = pull.await.unwrap();
        assert!(has(&image, "FAILURE"), "{image:?}");
    }
    assert_eq!(gateway.conversions(), 1, "nobody's poll began the failing pull again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_names_another_users_private_layer_does_not_yield_it() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 0).await;
    let id = registry.push("secret/app", "1", "one");
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    assert!(has(&gateway.pull(&alice, "secret/app:1", "").await, "READY"));
    // What a real conversion remembers of it; the blob itself is gone from the cache.
    let layer = sha256(b"layer of one");
    let digest = format!("sha256:{layer}");
    let key = crate::convert::key(&Default::default()).unwrap();
    let index = dir.path().join("cache/index");
    std::fs::create_dir_all(&index).unwrap();
    let image = dir.path().join(format!("images/{id}.squashfs"));
    crate::convert::About::new(&key, &digest, "none", Some(&digest), &image)
        .write(&index.join(format!("sha256-{layer}.{key}")), 0);
    std::fs::remove_file(dir.path().join(format!("cache/sha256/{layer}"))).unwrap();

    registry.push_without_layers("secret/app", "open/app");
    let image = gateway.pull(&caller(2, &[]), "open/app:1", "").await;
    assert!(has(&image, "FAILURE"), "{image:?}");
    assert_eq!(gateway.conversions(), 1);
    // Who may read the private image may have its layers from there.
    let image = gateway.pull(&alice, "open/app:1", "").await;
    assert!(has(&image, "READY"), "{image:?}");
    assert_eq!(gateway.conversions(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_full_with_its_author_is_refused_and_harms_nobody() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 0).await;
    registry.push("app", "1", "one");
    let alice = caller(1, &[]);
    let body = |count: u32| {
        let ids: Vec<String> = (100..100 + count).map(|id| id.to_string()).collect();
        format!(r#"{{"allowed_uids":"{}"}}"#, ids.join(","))
    };
    let refused = gateway.request(&alice, "app:1", &body(1000)).await;
    assert!(matches!(refused, Err(Refusal::Unprocessable(_))), "{refused:?}");
    assert!(has(&gateway.pull(&alice, "app:1", &body(999)).await, "READY"));
}
