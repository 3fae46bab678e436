//! Imports in a gateway in process: what is stopped, counted, refused and told apart. What files become is tested end to
//! end.

use std::fs::File;

use shifter_core::meta::Acl;

use super::*;
use crate::catalog::tests::servers::Server;
use crate::catalog::{Change, NewJob, Record, SENT};
use crate::config::Importers;
use crate::model::{Grant, TagKey};
use crate::reconcile::{Orders, Scope, run};
use crate::route::Query;

async fn start(dir: &Path) -> Gateway {
    start_on(dir, &Place::Sqlite(dir.join("c.db"))).await
}

/// A gateway where everybody may import, and no registry is. Systems `sysa` and `twin` share a directory.
async fn start_on(dir: &Path, place: &Place) -> Gateway {
    start_changed(dir, place, |_| ()).await
}

/// The same with its configuration changed.
pub(super) async fn start_as(dir: &Path, change: impl Fn(&mut Config)) -> Gateway {
    start_changed(dir, &Place::Sqlite(dir.join("c.db")), change).await
}

async fn start_changed(dir: &Path, place: &Place, more: impl Fn(&mut Config)) -> Gateway {
    let change = |config: &mut Config| {
        config.import.users = Importers::Everybody;
        config.platforms.insert("twin".to_owned(), config.platforms["sysa"].clone());
        more(config);
    };
    Gateway::start_as(dir, SocketAddr::from(([127, 0, 0, 1], 1)), 300, place, change).await
}

/// `POST doimport`, as root, who can read everything.
pub(super) async fn import(gateway: &Gateway, tag: &str, path: &Path, format: &str) -> wire::Image {
    try_import(gateway, tag, path, format, "").await.unwrap()
}

pub(super) async fn try_import(
    gateway: &Gateway,
    tag: &str,
    path: &Path,
    format: &str,
    uids: &str,
) -> Result<wire::Image, Refusal> {
    let (api, who) = (gateway.api(), caller(0, &[]));
    let body = serde_json::json!({"filepath": path, "format": format, "allowed_uids": uids}).to_string();
    let names = ("sysa", "custom", tag);
    Ok(api.import(names, &api.config.platforms["sysa"], body.as_bytes(), &who).await?.image)
}

fn custom(tag: &str) -> TagKey {
    TagKey { system: "sysa".into(), itype: "custom".into(), tag: tag.into() }
}

/// `PUT upload`.
async fn upload(
    gateway: &Gateway,
    uid: u32,
    tag: &str,
    format: &str,
    bytes: &[u8],
) -> Result<wire::Image, Refusal> {
    upload_to(gateway, "sysa", uid, tag, format, bytes).await
}

async fn upload_to(
    gateway: &Gateway,
    system: &str,
    uid: u32,
    tag: &str,
    format: &str,
    bytes: &[u8],
) -> Result<wire::Image, Refusal> {
    let (api, who) = (gateway.api(), caller(uid, &[]));
    let query = Query::parse(Some(&format!("format={format}"))).unwrap();
    let platform = &api.config.platforms[system];
    let body = Body::from(bytes.to_vec());
    Ok(api.upload((system, "custom", tag), platform, &query, body, &who).await?.image)
}

/// How an import ends: its identifier, or why it failed.
pub(super) async fn end(gateway: &Gateway, uid: u32, tag: &str) -> Result<String, String> {
    end_on(gateway, "sysa", uid, tag).await
}

async fn end_on(gateway: &Gateway, system: &str, uid: u32, tag: &str) -> Result<String, String> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "{tag}");
        let image = gateway.api().job(system, "custom", tag, &caller(uid, &[])).await.unwrap().image;
        match image.status.as_deref().unwrap() {
            "READY" => return Ok(image.id.unwrap()),
            "FAILURE" => return Err(image.status_message.unwrap()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn imported(gateway: &Gateway, uid: u32, tag: &str, format: &str, bytes: &[u8]) -> String {
    upload(gateway, uid, tag, format, bytes).await.unwrap();
    end(gateway, uid, tag).await.unwrap()
}

/// Two files whose identifiers, made of samples, are the same.
fn alike() -> [Vec<u8>; 2] {
    let mut other = vec![0; 3 << 20];
    let last = other.len() - 1;
    other[last] = 1;
    [vec![0; 3 << 20], other]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_file_under_a_name_is_not_dropped_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    std::fs::write(dir.path().join("slow"), "").unwrap();
    upload(&gateway, 1, "tool:1", "tar", b"first").await.unwrap();
    let refused = upload(&gateway, 1, "tool:1", "tar", b"second").await;
    let Err(Refusal::Conflict(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("was not taken; send it again"), "{why}");
    // Where nothing runs yet and the file waits in memory, it is not replaced either.
    for number in 0..4 {
        upload(&gateway, 1, &format!("busy:{number}"), "tar", &[number]).await.unwrap();
    }
    upload(&gateway, 2, "waits:1", "tar", b"first").await.unwrap();
    assert!(matches!(upload(&gateway, 2, "waits:1", "tar", b"second").await, Err(Refusal::Conflict(_))));
    assert_eq!(end(&gateway, 1, "tool:1").await.unwrap(), sha256(b"first"));
    assert_eq!(imported(&gateway, 1, "tool:1", "tar", b"second").await, sha256(b"second"));
    assert_eq!(end(&gateway, 2, "waits:1").await.unwrap(), sha256(b"first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_file_came_to_is_never_told_of_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let (first, second) = (file("first"), file("second"));
    let ready = async |tag: &str, path: &Path| {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "{tag}");
            let image = import(&gateway, tag, path, "tar").await;
            match image.status.as_deref().unwrap() {
                "READY" => return image.id.unwrap(),
                "FAILURE" => panic!("{image:?}"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    // An upload's end is asked for by another route, which never forgets it.
    imported(&gateway, 0, "sent:1", "tar", b"upload").await;
    assert_eq!(ready("sent:1", &first).await, sha256(b"first"));
    // Nobody heard of the first one's end.
    import(&gateway, "named:1", &first, "tar").await;
    end(&gateway, 0, "named:1").await.unwrap();
    assert_eq!(ready("named:1", &second).await, sha256(b"second"));
    // Nor of the same file's, taken as something else.
    import(&gateway, "format:1", &first, "squashfs").await;
    let id = end(&gateway, 0, "format:1").await.unwrap();
    assert_ne!(ready("format:1", &first).await, id);
    // Nor of a failure.
    std::fs::write(dir.path().join("fail"), "").unwrap();
    let (bad, good) = (file("bad"), file("good"));
    import(&gateway, "failed:1", &bad, "tar").await;
    end(&gateway, 0, "failed:1").await.unwrap_err();
    std::fs::remove_file(dir.path().join("fail")).unwrap();
    assert_eq!(ready("failed:1", &good).await, sha256(b"good"));
    // While one runs, another one is refused, and changes nothing of it; the same one asks how it stands.
    std::fs::write(dir.path().join("slow"), "").unwrap();
    let third = file("third");
    import(&gateway, "busy:1", &third, "tar").await;
    let before = gateway.api().catalog.job_of(&custom("busy:1"), 0).await.unwrap().unwrap();
    let refused = try_import(&gateway, "busy:1", &first, "tar", "5").await;
    let Err(Refusal::Conflict(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("was not taken; send it again"), "{why}");
    let job = gateway.api().catalog.job_of(&custom("busy:1"), 0).await.unwrap().unwrap();
    assert_eq!((job.number, job.acl, job.source), (before.number, before.acl, before.source));
    assert_eq!(ready("busy:1", &third).await, sha256(b"third"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_restart_lost_makes_way_for_another_one_only_where_nobody_sent_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let path = dir.path().join("file");
    std::fs::write(&path, "file").unwrap();
    let catalog = gateway.api().catalog.clone();
    let rows = [
        ("named:1", "another", false, true),
        ("sent:1", SENT, false, false),
        ("named:2", "another", true, true),
        ("sent:2", SENT, true, false),
    ];
    for (tag, source, is_stranded, is_taken) in rows {
        let (key, source, with_credentials) = (custom(tag), source.to_owned(), true);
        let new = NewJob { key, uid: 0, gid: 10_000, acl: Acl::default(), with_credentials, source };
        let job = catalog.enter_job(&new).await.unwrap().unwrap();
        // As a process that has died leaves it, or that never came to take it; this one waits before it believes that.
        let begun = Instant::now();
        match is_stranded {
            true => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("c.db"));
                let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
                let older = sqlx::query("UPDATE jobs SET updated = updated - 60 WHERE job = $1");
                older.bind(job.number).execute(&pool).await.unwrap();
                pool.close().await;
            }
            false => {
                let change = Change { holder: Some("dead"), lease_until: Some(1.0), ..Change::default() };
                catalog.change_job(job.number, &change).await.unwrap().unwrap();
            }
        }
        let mut answer = try_import(&gateway, tag, &path, "tar", "5").await;
        while is_taken && matches!(answer, Err(Refusal::Conflict(_))) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer = try_import(&gateway, tag, &path, "tar", "5").await;
        }
        assert_eq!(answer.is_ok(), is_taken, "{answer:?}");
        match is_taken {
            true => {
                assert_eq!(end(&gateway, 0, tag).await.unwrap(), sha256(b"file"));
                let (_, grants) = catalog.lookup(&custom(tag)).await.unwrap().unwrap();
                let is_shared = |grant: &Grant| !grant.public && grant.acl.uids.contains(&5);
                assert!(grants.len() == 1 && is_shared(&grants[0]), "{grants:?}");
            }
            false => assert!(end(&gateway, 0, tag).await.unwrap_err().contains("send it again")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_taken_as_something_else_is_another_image() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let [large, _] = alike();
    for (what, bytes) in [("small", b"a file".as_slice()), ("large", &large)] {
        let mut ids = Vec::new();
        for format in ["tar", "squashfs", "sif"] {
            ids.push(imported(&gateway, 1, &format!("{what}-{format}"), format, bytes).await);
            // The same image under another name.
            let before = gateway.conversions();
            assert_eq!(
                imported(&gateway, 2, &format!("{what}-{format}-2"), format, bytes).await,
                ids[ids.len() - 1]
            );
            assert_eq!(gateway.conversions(), before, "{what} {format}");
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "{what}");
        assert!(ids.contains(&sha256(bytes)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_identifier_neither_replaces_an_image_nor_tells_that_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let [first, forged] = alike();
    let id = imported(&gateway, 1, "first", "squashfs", &first).await;
    assert_ne!(id, sha256(&first));
    assert_eq!(imported(&gateway, 2, "forged", "squashfs", &forged).await, sha256(&forged));
    // Also once the first one is gone: jobs may still name it, and it can come back.
    gateway.api().managing.keeper.remove("sysa", &id).await.unwrap();
    let mut third = forged.clone();
    third[(3 << 20) - 2] = 1;
    assert_eq!(imported(&gateway, 2, "third", "squashfs", &third).await, sha256(&third));
    let (outcome, _) = gateway.api().managing.keeper.restore("sysa", &id).await.unwrap();
    assert_eq!(outcome, crate::keeper::Outcome::Done);
    assert_eq!(imported(&gateway, 1, "first", "squashfs", &first).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_imported_once_by_all_processes() {
    let server = Server::postgres();
    let place = server.place().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Of one image directory.
    let gateways = two_slow_gateways(&dirs, &place).await;
    let [first, other] = alike();
    for (number, bytes) in [(0, &first), (1, &first), (0, &other), (1, &other)] {
        let tag = format!("g{number}-{}", bytes[bytes.len() - 1]);
        upload(&gateways[number], 1, &tag, "squashfs", bytes).await.unwrap();
    }
    let mut ids = Vec::new();
    for tag in ["g0-0", "g1-0", "g0-1", "g1-1"] {
        ids.push(end(&gateways[0], 1, tag).await.unwrap());
    }
    assert_eq!((&ids[0], &ids[2]), (&ids[1], &ids[3]));
    assert_ne!(ids[0], ids[2], "they are not equal");
    assert_eq!(gateways[0].conversions() + gateways[1].conversions(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_identifier_do_not_replace_each_other_for_systems_that_share_a_directory() {
    let server = Server::postgres();
    let place = server.place().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let gateways = two_slow_gateways(&dirs, &place).await;
    let [first, other] = alike();
    upload_to(&gateways[0], "sysa", 1, "first", "squashfs", &first).await.unwrap();
    upload_to(&gateways[1], "twin", 2, "other", "squashfs", &other).await.unwrap();
    let first = end_on(&gateways[0], "sysa", 1, "first").await.unwrap();
    let other = end_on(&gateways[0], "twin", 2, "other").await.unwrap();
    assert_ne!(first, other, "one user's image is the other one's file");
}

/// Two gateways of one catalog, each with directories of its own, but for the images.
async fn two_gateways(dirs: &[tempfile::TempDir; 2], place: &Place) -> [Gateway; 2] {
    std::os::unix::fs::symlink(dirs[0].path().join("images"), dirs[1].path().join("images")).unwrap();
    [start_on(dirs[0].path(), place).await, start_on(dirs[1].path(), place).await]
}

/// The same, and both take their time.
async fn two_slow_gateways(dirs: &[tempfile::TempDir; 2], place: &Place) -> [Gateway; 2] {
    let gateways = two_gateways(dirs, place).await;
    for dir in dirs {
        std::fs::write(dir.path().join("slow"), "").unwrap();
    }
    gateways
}

/// Two gateways of one catalog, of which the first has all hands full.
async fn a_busy_and_an_idle_gateway(dirs: &[tempfile::TempDir; 2], place: &Place) -> [Gateway; 2] {
    let gateways = two_gateways(dirs, place).await;
    std::fs::write(dirs[0].path().join("endless"), "").unwrap();
    for number in 0..3 {
        upload(&gateways[0], 1, &format!("busy:{number}"), "tar", &[number]).await.unwrap();
    }
    let begun = Instant::now();
    while gateways[0].conversions() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the first gateway is not at work");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateways
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_waits_at_one_gateway_is_neither_lost_nor_replaced_by_another_gateway() {
    let server = Server::postgres();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let gateways = a_busy_and_an_idle_gateway(&dirs, &server.place().await).await;
    upload(&gateways[0], 2, "tool:1", "tar", b"first").await.unwrap();
    // The other one has nothing to do, and looks at the queue once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = upload(&gateways[1], 2, "tool:1", "tar", b"second").await;
    let Err(Refusal::Conflict(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("was not taken; send it again"), "{why}");
    std::fs::remove_file(dirs[0].path().join("endless")).unwrap();
    for number in 0..3 {
        gateways[1].api().cancel("sysa", "custom", &format!("busy:{number}"), &caller(1, &[])).await.unwrap();
    }
    assert_eq!(end(&gateways[1], 2, "tool:1").await.unwrap(), sha256(b"first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_gateway_is_gone_is_asked_for_anew_and_not_waited_for() {
    let server = Server::postgres();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let gateways = a_busy_and_an_idle_gateway(&dirs, &server.place().await).await;
    upload(&gateways[0], 2, "tool:1", "tar", b"first").await.unwrap();
    gateways[0].api().jobs.stop().await;
    for (uid, tag) in [(1, "busy:0"), (2, "tool:1")] {
        let why = end(&gateways[1], uid, tag).await.unwrap_err();
        assert!(why.contains("was ended before the file was imported; send it again"), "{why}");
    }
    assert_eq!(imported(&gateways[1], 2, "tool:1", "tar", b"second").await, sha256(b"second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_granted_another_file_than_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let [first, other] = alike();
    let id = imported(&gateway, 1, "first", "squashfs", &first).await;
    let catalog = gateway.api().catalog.clone();
    let published = catalog.record("sysa", &id).await.unwrap().unwrap();
    gateway.api().managing.keeper.remove("sysa", &id).await.unwrap();
    let retired = catalog.retired(Some("sysa"), Some(&id)).await.unwrap().pop().unwrap();
    catalog.forget(&retired).await.unwrap();
    // While one file is made an image of, somebody else, who knows nothing of it, enters another one's.
    std::fs::write(dir.path().join("slow"), "").unwrap();
    upload(&gateway, 2, "other", "squashfs", &other).await.unwrap();
    let conversions = gateway.conversions();
    while gateway.conversions() == conversions {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let entered = Record { revision: 0, ..published };
    assert!(catalog.store(&entered).await.unwrap());
    let why = end(&gateway, 2, "other").await.unwrap_err();
    assert!(why.contains("another image has the identifier"), "{why}");
    let known = catalog.record("sysa", &id).await.unwrap().unwrap();
    assert_eq!((known.image.config, known.grants), (entered.image.config, entered.grants));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_file_is_not_taken_for_the_image_of_a_registry() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Sqlite(dir.path().join("c.db"));
    let change = |config: &mut Config| {
        config.import.users = Importers::Everybody;
        config.platforms.insert("twin".to_owned(), config.platforms["sysa"].clone());
    };
    let gateway = Gateway::start_as(dir.path(), address, 300, &place, change).await;
    let id = registry.push("app", "1", "one");
    let manifest = registry.documents.lock().unwrap()["app/manifests/1"].clone();
    assert_eq!(imported(&gateway, 2, "manifest", "tar", &manifest).await, id, "small files are their digest");
    for system in ["sysa", "twin"] {
        let image = gateway.pull_on(system, &caller(1, &[]), "app:1", "").await;
        let why = image.status_message.unwrap();
        assert!(why.contains("another image has the identifier"), "{system}: {why}");
    }
    assert_eq!(gateway.conversions(), 1, "what somebody's import is was made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_file_is_not_taken_for_the_image_of_a_registry_when_the_catalog_was_lost_either() {
    let (registry, address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Sqlite(dir.path().join("c.db"));
    let change = |config: &mut Config| config.import.users = Importers::Everybody;
    let gateway = Gateway::start_as(dir.path(), address, 300, &place, change).await;
    let id = registry.push("app", "1", "one");
    let manifest = registry.documents.lock().unwrap()["app/manifests/1"].clone();
    assert_eq!(imported(&gateway, 2, "manifest", "tar", &manifest).await, id);
    let before = gateway.api().catalog.record("sysa", &id).await.unwrap().unwrap();
    gateway.stop().await;
    std::fs::remove_file(dir.path().join("c.db")).unwrap();
    let gateway = Gateway::start_as(dir.path(), address, 300, &place, change).await;
    let catalog = gateway.api().catalog.clone();
    let scope = Scope {
        config: gateway.api().config.now(),
        catalog: &*catalog,
        gateway_uid: 999,
        asker: 0,
        puller: None,
    };
    let orders = |rebuild| Orders { rebuild, fix: !rebuild, system: Some("sysa".into()) };
    let answer = run(&scope, &orders(true)).await.unwrap();
    assert!(answer.is_well, "{:?}", answer.lines);
    let after = catalog.record("sysa", &id).await.unwrap().unwrap();
    assert_eq!((&after.image.config, &after.digests), (&before.image.config, &before.digests));
    let image = gateway.pull(&caller(1, &[]), "app:1", "").await;
    let why = image.status_message.unwrap();
    assert!(why.contains("another image has the identifier"), "{why}");
    // And who has the file has the image, not another one.
    assert_eq!(imported(&gateway, 2, "manifest", "tar", &manifest).await, id);
    assert_eq!(gateway.conversions(), 1);
    // As an earlier version wrote it.
    let path = dir.path().join(format!("images/{id}.meta"));
    let text = std::fs::read_to_string(&path).unwrap();
    let source = before.image.config.source.unwrap();
    let old = text.replace(&format!(r#","source":"{source}""#), "");
    assert_ne!(old, text);
    std::fs::write(&path, old).unwrap();
    let answer = run(&scope, &orders(false)).await.unwrap();
    assert!(answer.is_well && answer.lines[0].contains("what file it was made of"), "{:?}", answer.lines);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_stops_copying() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    // Nothing on disk, and seconds of copying.
    let path = dir.path().join("large");
    File::create(&path).unwrap().set_len(4 << 30).unwrap();
    import(&gateway, "large:1", &path, "squashfs").await;
    let has_begun = || !gateway.names("expand").is_empty();
    let begun = Instant::now();
    while !has_begun() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gateway.api().cancel("sysa", "custom", "large:1", &caller(0, &[])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(gateway.names("expand"), [""; 0], "the copy goes on although nobody waits for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_by_path_takes_no_more_than_half_of_what_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let free = rustix::fs::statvfs(dir.path()).unwrap();
    // All of it, were it not a hole.
    let path = dir.path().join("large");
    File::create(&path).unwrap().set_len((free.f_bavail * free.f_frsize).min(200 << 30)).unwrap();
    import(&gateway, "large:1", &path, "squashfs").await;
    let why = end(&gateway, 0, "large:1").await.unwrap_err();
    assert!(why.contains("half of what is free"), "{why}");
    assert_eq!(gateway.names("expand"), [""; 0]);
}
