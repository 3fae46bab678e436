//! Who may what: anonymous readers, absent and denied images, what is told of others, filters, logins.

use super::*;
use crate::routes::{self, Who};

const ALICE: &str = "good:alice:users::1:10001";
const BOB: &str = "good:bob:users::3:10003";

async fn start_as(dir: &Path, registry: SocketAddr, change: impl Fn(&mut Config)) -> Gateway {
    Gateway::start_as(dir, registry, 300, &Place::Sqlite(dir.join("c.db")), change).await
}

async fn with_images(dir: &Path, change: impl Fn(&mut Config)) -> (Registry, Gateway) {
    let (registry, address) = Registry::start().await;
    let gateway = start_as(dir, address, change).await;
    registry.push("open/app", "1", "labelled");
    registry.push("secret/app", "1", "s");
    gateway.pull(&caller(3, &[]), "open/app:1", "").await;
    gateway.pull(&caller(1, &[("reg", "alice:pa:ss")]), "secret/app:1", "").await;
    (registry, gateway)
}

fn tags(list: &str) -> Vec<String> {
    let list: wire::ImageList = serde_json::from_str(list).unwrap();
    list.list.into_iter().flat_map(|image| image.tag).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_table_answers_and_other_methods_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let address = gateway.listen().await;
    let targets: std::collections::BTreeSet<&str> = routes::all().map(|route| route.path).collect();
    for path in targets {
        let target =
            path.replace("{system}", "sysa").replace("{itype}", "docker").replace("{tag}", "open/app:1");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let route = routes::all().find(|route| route.path == path && route.method == method);
            let (status, head, body) = exchange(address, method, &target, ALICE, "").await;
            let what = format!("{method} {target}: {status} {body}");
            match route {
                None => assert!(status == 405 && head.contains("\r\nallow: "), "{what}"),
                // The one error that says the router does not know it.
                Some(_) => assert!(status != 405 && !body.contains("there is no such route"), "{what}"),
            }
            let (status, _, body) = exchange(address, method, &target, "", "").await;
            let is_closed = route.is_some_and(|route| route.who != Who::Anyone);
            assert_eq!(status == 401, is_closed, "without a credential, {method} {target}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_only_public_images_are_shown_and_only_where_the_site_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |config| config.allow_anonymous_reads = true).await;
    let address = gateway.listen().await;
    let (status, _, list) = exchange(address, "GET", "/api/list/sysa/", "", "").await;
    assert_eq!((status, tags(&list)), (200, vec!["open/app:1".to_owned()]));
    for (method, target, who, expected) in [
        ("GET", "/api/lookup/sysa/docker/open%2Fapp:1/", "", 200),
        ("GET", "/api/lookup/sysa/docker/secret%2Fapp:1/", "", 404),
        ("GET", "/api/lookup/sysa/docker/secret%2Fapp:1/", ALICE, 200),
        ("GET", "/api/lookup/sysa/docker/open%2Fapp:1/", "bad:x:y", 401),
        ("GET", "/api/list/sysa/?mine=1", "", 200),
        ("GET", "/api/queue/sysa/", "", 401),
        ("GET", "/api/job/sysa/docker/open%2Fapp:1/", "", 401),
        ("POST", "/api/pull/sysa/docker/open%2Fapp:1/", "", 401),
        ("DELETE", "/api/pull/sysa/docker/open%2Fapp:1/", "", 401),
        ("POST", "/api/login/sysa/", "", 401),
    ] {
        let (status, _, body) = exchange(address, method, target, who, "").await;
        assert_eq!(status, expected, "{method} {target} {who}: {body}");
        assert!(status != 401 || who.starts_with("bad") || body.contains("AllowAnonymousReads"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_answers_as_one_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let address = gateway.listen().await;
    for (method, route) in [("GET", "lookup"), ("GET", "job"), ("DELETE", "pull")] {
        let mut answers = Vec::new();
        for name in ["secret%2Fapp:1", "absent%2Fapp:1"] {
            let target = format!("/api/{route}/sysa/docker/{name}/");
            let (status, head, body) = exchange(address, method, &target, BOB, "").await;
            let stable = |line: &&str| !line.starts_with("date:") && !line.starts_with("x-request-id:");
            let head: Vec<String> = head.lines().filter(stable).map(str::to_owned).collect();
            answers.push((status, head, body.replace("absent", "secret")));
        }
        assert_eq!(answers[0], answers[1], "{route}");
        assert_eq!(answers[0].0, 404, "{route}");
    }
    // Both a denied and an absent one ask for groups, which is what takes time.
    let known = |gateway: &Gateway, uid| gateway.api().groups.knows(uid);
    let (_, _, body) = exchange(address, "GET", "/api/lookup/sysa/docker/secret%2Fapp:1/", ALICE, "").await;
    let id = serde_json::from_str::<wire::Image>(&body).unwrap().id.unwrap();
    let absent = format!("image/sysa/id/{}", "0".repeat(64));
    let inspect = format!("image/sysa/id/{id}");
    let lookup = "lookup/sysa/docker";
    let asked = [
        (71, format!("{lookup}/secret/app:1")),
        (72, format!("{lookup}/absent/app:1")),
        (73, inspect.clone()),
        (74, absent),
    ];
    for (uid, path) in asked {
        assert!(!known(&gateway, uid));
        let who = format!("good:x:y::{uid}:{uid}");
        assert_eq!(exchange(address, "GET", &format!("/api/{path}"), &who, "").await.0, 404, "{path}");
        assert!(known(&gateway, uid), "{path}");
    }
    for path in [inspect, format!("image/sysa/id/sha256:{}", id.to_uppercase())] {
        assert_eq!(exchange(address, "GET", &format!("/api/{path}"), ALICE, "").await.0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_learns_nothing_of_whom_others_share_an_image_with() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let credentials = [("reg", "alice:pa:ss")];
    let (alice, carol) = (caller(1, &credentials), caller(4, &credentials));
    gateway.pull(&alice, "secret/app:1", r#"{"allowed_uids":"3,8"}"#).await;
    gateway.pull(&carol, "secret/app:1", r#"{"allowed_uids":"9"}"#).await;
    for (uid, expected) in [(1, vec![1, 3, 8]), (3, vec![1, 3, 8]), (4, vec![4, 9]), (9, vec![4, 9])] {
        let reader = caller(uid, &[]);
        let seen = gateway.api().lookup("sysa", "docker", "secret/app:1", &reader).await.unwrap();
        assert_eq!(seen.user_acl, Some(expected.clone()), "{uid}");
        let list = gateway.api().list("sysa", &reader, &Default::default()).await.unwrap().list;
        let listed = list.iter().find(|image| image.tag == ["secret/app:1"]).unwrap();
        assert_eq!(listed.user_acl, Some(expected), "{uid}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pulls_a_private_image_for_nobody_is_told_how_to_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    let message = |image: wire::Image| image.status_message.unwrap();
    let alone = message(gateway.pull(&alice, "secret/app:1", "").await);
    assert!(alone.contains("yours alone") && alone.contains("--user"), "{alone}");
    let shared = gateway.pull(&alice, "secret/app:1", r#"{"allowed_uids":"3"}"#).await;
    assert_eq!(message(shared), "Image is ready");
    assert_eq!(message(gateway.pull(&alice, "open/app:1", "").await), "Image is ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_s_rules_for_private_images_labels_and_meta_return_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let change = |config: &mut Config| {
        config.private_is_public = true;
        config.environment.no_acl_in_meta = true;
    };
    let (_registry, gateway) = with_images(dir.path(), change).await;
    let (alice, bob) = (caller(1, &[("reg", "alice:pa:ss")]), caller(3, &[]));
    let seen = gateway.api().lookup("sysa", "docker", "secret/app:1", &bob).await.unwrap();
    assert_eq!((seen.user_acl.clone(), seen.labels), (Some(vec![]), None));
    // Who names somebody still means it.
    let image = gateway.pull(&alice, "secret/app:1", r#"{"allowed_uids":"8"}"#).await;
    assert_eq!(image.user_acl, Some(vec![1, 8]));
    let refused = gateway.api().lookup("sysa", "docker", "secret/app:1", &bob).await;
    assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
    let meta = gateway.meta(&seen.id.unwrap());
    assert!(!meta.contains("ACL"), "{meta}");
    assert!(meta.contains("\n#shifter1-acl left out\n"), "who rebuilds the catalog is to know: {meta}");
    let open = gateway.api().lookup("sysa", "docker", "open/app:1", &bob).await.unwrap();
    assert_eq!(open.labels, None, "ENABLE_LABELS is not set");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_narrowed_and_never_widened() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let address = gateway.listen().await;
    for (who, query, expected) in [
        (ALICE, "", &["open/app:1", "secret/app:1"][..]),
        (BOB, "", &["open/app:1"]),
        (ALICE, "?mine=1", &["secret/app:1"]),
        (BOB, "?mine=1", &["open/app:1"]),
        (ALICE, "?name=*%2Fapp:*", &["open/app:1", "secret/app:1"]),
        (BOB, "?name=secret*", &[]),
        (ALICE, "?name=secret*&mine=1", &["secret/app:1"]),
        (ALICE, "?label=who", &["open/app:1"]),
        (ALICE, "?label=who%3Dme&name=open*", &["open/app:1"]),
        (ALICE, "?label=who=you", &[]),
        (ALICE, "?nosuch=1", &["open/app:1", "secret/app:1"]),
    ] {
        let (status, _, list) = exchange(address, "GET", &format!("/api/list/sysa{query}"), who, "").await;
        let mut found = tags(&list);
        found.sort();
        assert_eq!(
            (status, found.as_slice()),
            (200, &expected.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()[..]),
            "{who} {query}"
        );
    }
    for (query, expected) in [("mine=2", 422), ("name=%zz", 400), ("label=a&".repeat(40).as_str(), 422)] {
        let (status, _, body) = exchange(address, "GET", &format!("/api/list/sysa?{query}"), ALICE, "").await;
        assert_eq!(status, expected, "{query}: {body}");
    }
    let long = format!("/api/list/sysa?name={}", "a".repeat(9000));
    assert_eq!(exchange(address, "GET", &long, ALICE, "").await.0, 414);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_verified_by_the_registry_and_guessing_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let api = gateway.api();
    let ask = async |password: &str, body: &str| {
        let who = caller(7, &[("reg", password)]);
        api.logins.ask(&api.config, body.as_bytes(), &who).await
    };
    let good = ask("alice:pa:ss", r#"{"location":"reg"}"#).await.unwrap();
    assert!(good.status && good.message.is_none(), "{good:?}");
    let bad = ask("alice:wrong-secret", r#"{"location":"default"}"#).await.unwrap();
    let why = bad.message.unwrap();
    assert!(!bad.status && why.contains("rejects") && !why.contains("wrong-secret"), "{why}");
    let elsewhere = ask("alice:pa:ss", r#"{"location":"evil.example.org"}"#).await.unwrap();
    assert!(!elsewhere.status, "{elsewhere:?}");
    assert!(matches!(ask("a:b", "{").await, Err(Refusal::BadRequest(_))));
    assert!(matches!(ask("a:b", r#"{"location":7}"#).await, Err(Refusal::Unprocessable(_))));
    let mut refused = 0;
    for _ in 0..12 {
        refused += usize::from(matches!(ask("a:b", r#"{"location":"reg"}"#).await, Err(Refusal::TooOften)));
    }
    assert_eq!(refused, 4);
    let (status, head, _) = exchange(gateway.listen().await, "POST", "/api/login/sysa", ALICE, "[]").await;
    assert_eq!(status, 400, "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = with_images(dir.path(), |_| ()).await;
    let address = gateway.listen().await;
    for (given, is_kept) in
        [("job-17.a_B", true), ("", false), ("two words", false), (&"x".repeat(65), false)]
    {
        let target = "/api/nosuch";
        let who = format!("{ALICE}\r\nX-Request-Id: {given}");
        let (_, head, _) = exchange(address, "GET", target, &who, "").await;
        let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned();
        assert_eq!(id == given.to_ascii_lowercase(), is_kept, "{given}: {id}");
        assert!(is_kept || id.len() == 16, "{id}");
    }
}

/// All orders of four things.
fn orders() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for number in 0..256 {
        let order = [number / 64, number / 16 % 4, number / 4 % 4, number % 4];
        if (0..4).all(|which| order.contains(&which)) {
            all.push(order);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_digest_under_several_tags_and_callers_in_all_24_orders_obeys_each_tags_rule() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Arc::new(Gateway::start(dir.path(), address, 300).await);
    let mut checks = tokio::task::JoinSet::new();
    for (number, order) in orders().into_iter().enumerate() {
        let (gateway, registry) = (gateway.clone(), registry.clone());
        checks.spawn(async move { obeys_each_tags_rule(&gateway, &registry, number, order).await });
    }
    while let Some(checked) = checks.join_next().await {
        checked.unwrap();
    }
    assert_eq!(gateway.conversions(), 24, "each digest was made once");
}

async fn obeys_each_tags_rule(gateway: &Gateway, registry: &Registry, number: usize, order: [usize; 4]) {
    let credentials = [("reg", "alice:pa:ss")];
    // Who, from where, and for whom; who may then use the tag for this.
    let pulls: [(u32, &str, &str, &[u32]); 4] = [
        (1, "secret/NAME:1", "", &[1]),
        (2, "secret/NAME:1", r#"{"allowed_uids":"5"}"#, &[2, 5]),
        (2, "secret/NAME:2", r#"{"allowed_gids":"70"}"#, &[2, 6]),
        (2, "open/NAME:1", "", &[1, 2, 5, 6, 9]),
    ];
    // Uid 6 has 70 as its primary group.
    let reader = |uid: u32| Caller { gid: if uid == 6 { 70 } else { uid + 10_000 }, ..caller(uid, &[]) };
    let name = format!("n{number}");
    let id = registry.push(&format!("secret/{name}"), "1", &name);
    registry.push(&format!("secret/{name}"), "2", &name);
    registry.push(&format!("open/{name}"), "1", &name);
    for position in 0..4 {
        let (uid, tag, body, _) = pulls[order[position]];
        let image = gateway.pull(&caller(uid, &credentials), &tag.replace("NAME", &name), body).await;
        assert_eq!((image.status.as_deref(), image.id.as_deref()), (Some("READY"), Some(id.as_str())));
        let done: Vec<_> = order[..=position].iter().map(|which| pulls[*which]).collect();
        let what = format!("{order:?}, {} done", position + 1);
        for uid in [1, 2, 5, 6, 9] {
            let may = |tag: &str| done.iter().any(|(_, of, _, who)| *of == tag && who.contains(&uid));
            let mut expected = Vec::new();
            for tag in ["open/NAME:1", "secret/NAME:1", "secret/NAME:2"] {
                let full = tag.replace("NAME", &name);
                let found = gateway.api().lookup("sysa", "docker", &full, &reader(uid)).await;
                assert_eq!(found.is_ok(), may(tag), "lookup of {full} by {uid}, {what}");
                if may(tag) {
                    expected.push(full);
                }
            }
            let filter = Default::default();
            let list = gateway.api().list("sysa", &reader(uid), &filter).await.unwrap().list;
            let of_name = format!("/{name}:");
            let mut listed: Vec<_> = list.into_iter().flat_map(|image| image.tag).collect();
            listed.retain(|tag| tag.contains(&of_name));
            listed.sort();
            assert_eq!(listed, expected, "list of {uid}, {what}");
        }
        let meta = gateway.meta(&id);
        let is_public = done.iter().any(|(_, tag, ..)| tag.starts_with("open"));
        assert_eq!(meta.contains("ACL"), !is_public, "{what}: {meta}");
        if !is_public {
            let line = meta.lines().find_map(|line| line.strip_prefix("USERACL: ")).unwrap_or_default();
            let named: Vec<u32> = line.split(',').filter_map(|id| id.parse().ok()).collect();
            let with_group = done.iter().any(|(_, tag, ..)| tag.ends_with("NAME:2"));
            let has_group = meta.lines().any(|line| line == "GROUPACL: 70,10002");
            assert_eq!(has_group, with_group, "{what}: {meta}");
            for (uid, ..) in &done {
                let by_group = *uid == 2 && with_group;
                assert!(named.contains(uid) || by_group, "{what}: {meta}");
            }
            assert!(!named.contains(&9), "{what}: {meta}");
        }
    }
}
