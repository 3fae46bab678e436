//! What lookups found, kept: never told after a change of this process, nor longer than a second after another's, however
//! that stays unheard of. Real servers; what the memory does by itself is tested beside it.

use std::time::{Duration, Instant};

use sqlx::Connection as _;

use super::servers::Server;
use super::suite::{Case, Opened, cases};
use super::*;
use crate::api::Refusal;
use crate::auth::Caller;
use crate::tests::{Gateway, Registry, caller, exchange};

pub(super) const CASES: [Case; 1] =
    cases![what_is_remembered_is_the_catalogs_through_a_thousand_changes_at_once];

const LONGEST: Duration = Duration::from_secs(1);

/// What a lookup of `a:1` would tell: the image's id, and whether that came from memory.
async fn told(catalog: &dyn Catalog) -> (Option<String>, bool) {
    let key = key("a:1");
    match catalog.recall(&key) {
        Some(kept) => (Some(kept.0.id.clone()), true),
        None => (catalog.lookup(&key).await.unwrap().map(|found| found.0.id), false),
    }
}

/// Waits until lookups of `a:1` are told from memory.
async fn until_remembered(catalog: &dyn Catalog) {
    let begun = Instant::now();
    while !told(catalog).await.1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nothing is told from memory");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until lookups of `a:1` tell this image, and returns how long that took; never longer than it may.
async fn until_told(catalog: &dyn Catalog, id: Option<&str>) -> Duration {
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        if told(catalog).await.0.as_deref() == id {
            return begun.elapsed();
        }
        assert!(asked < LONGEST, "an old answer after {asked:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn move_tag(catalog: &dyn Catalog, id: &str, asked: f64) {
    assert!(catalog.store(&record(id, "a:1", asked, 7, true)).await.unwrap());
}

async fn what_is_remembered_is_the_catalogs_through_a_thousand_changes_at_once(opened: Opened) {
    opened.catalog.remember();
    let is_kept = opened.catalog.version().await.unwrap().is_some();
    if is_kept {
        move_tag(&*opened.catalog, "first", 1.0).await;
        until_remembered(&*opened.catalog).await;
    }
    let tasks = (0..10).map(|task| {
        let catalog = opened.catalog.clone();
        tokio::spawn(async move {
            let (id, key) = (format!("{task:02}"), key(&format!("b:{task}")));
            let mut record = record(&id, &key.tag, 1.0, 7, true);
            let mut remembered = 0;
            for revision in 0..110 {
                record.revision = revision;
                record.grants[0].checked = revision as f64;
                assert!(catalog.store(&record).await.unwrap());
                for _ in 0..3 {
                    let found = match catalog.recall(&key) {
                        Some(kept) => {
                            remembered += 1;
                            (*kept).clone()
                        }
                        None => catalog.lookup(&key).await.unwrap().unwrap(),
                    };
                    assert_eq!(
                        found.1[0].checked, revision as f64,
                        "a lookup tells what was written before it"
                    );
                }
            }
            remembered
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    if is_kept {
        until_remembered(&*opened.catalog).await;
    }
    opened.catalog.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_at_one_gateway_moves_at_the_other_within_a_second() {
    let server = Server::postgres();
    let place = server.place().await;
    let (here, there) = (open_for_use(&place).await.unwrap(), open_for_use(&place).await.unwrap());
    here.remember();
    let mut times = Vec::new();
    for number in 1..=20 {
        let id = format!("i{number}");
        move_tag(&*there, &id, f64::from(number)).await;
        times.push(until_told(&*here, Some(&id)).await);
        until_remembered(&*here).await;
    }
    times.sort();
    println!("seen after {:?} (median), {:?} at most", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(100), "notifications are not what tells: {times:?}");

    let record = there.record("sysa", "i20").await.unwrap().unwrap();
    let gone = Turn { to: State::Expiring, expiration: 1.0, if_expired_by: None };
    assert!(there.turn(&record, &gone).await.unwrap());
    until_told(&*here, None).await;
    move_tag(&*there, "i21", 21.0).await;
    assert_eq!(told(&*here).await.0.as_deref(), Some("i21"), "what is not there is asked for each time");
}

/// The server's process behind a gateway's listener.
async fn listeners(place: &Place) -> Vec<i32> {
    let Place::Postgres(uri) = place else { panic!("{place}") };
    let mut connection = sqlx::PgConnection::connect(uri).await.unwrap();
    let pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'shifter-imagegw listener' \
                AND datname = current_database()";
    sqlx::query_scalar(pids).fetch_all(&mut connection).await.unwrap()
}

async fn signal_listener(place: &Place, signal: &str) {
    let pids = listeners(place).await;
    assert_eq!(pids.len(), 1);
    let status = std::process::Command::new("kill").args(["-s", signal, &pids[0].to_string()]).status();
    assert!(status.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_cut_off_or_goes_deaf_costs_no_lookup_more_than_a_second() {
    let server = Server::postgres();
    let place = server.place().await;
    let (here, there) = (open_for_use(&place).await.unwrap(), open_for_use(&place).await.unwrap());
    here.remember();
    move_tag(&*there, "i0", 1.0).await;
    until_remembered(&*here).await;

    // As pg_terminate_backend does.
    signal_listener(&place, "TERM").await;
    move_tag(&*there, "i1", 2.0).await;
    let took = until_told(&*here, Some("i1")).await;
    println!("cut off: seen after {took:?}");
    until_remembered(&*here).await;
    assert_eq!(told(&*here).await, (Some("i1".to_owned()), true), "it listens again");

    // The connection stays, and says nothing any more.
    signal_listener(&place, "STOP").await;
    move_tag(&*there, "i2", 3.0).await;
    let took = until_told(&*here, Some("i2")).await;
    println!("deaf: seen after {took:?}");
    let begun = Instant::now();
    for number in 3..8 {
        let id = format!("i{number}");
        move_tag(&*there, &id, f64::from(number + 1)).await;
        until_told(&*here, Some(&id)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("deaf for {:?}", begun.elapsed());
    let pids = listeners(&place).await;
    for pid in pids {
        // The stopped one may be gone by the time it could be told to go on.
        let _ = std::process::Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap();
    }
    until_remembered(&*here).await;
}

/// A gateway on PostgreSQL that leaves pulls to others, and a catalog that is another process's.
async fn apart(server: &Server, dir: &Path) -> (Registry, Gateway, Arc<dyn Catalog>, Place) {
    let (registry, address) = Registry::start().await;
    let place = server.place().await;
    let gateway = Gateway::start_with(dir, address, 0, &place, 0, None).await;
    let there = open_for_use(&place).await.unwrap();
    (registry, gateway, there, place)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_saw_a_pull_ready_never_gets_the_image_before_it() {
    let server = Server::postgres();
    let dir = tempfile::tempdir().unwrap();
    let (registry, gateway, there, place) = apart(&server, dir.path()).await;
    registry.push("app", "1", "one");
    let (alice, key) = (caller(7, &[]), key("app:1"));
    let lookup = async || gateway.api().lookup("sysa", "docker", "app:1", &alice).await.unwrap().id.unwrap();
    let far = |id: &str, asked| {
        let mut record = record(id, "app:1", asked, 7, true);
        record.image.expiration = 4.0e9;
        record
    };
    let id = |number: u32| format!("{number:064x}");
    assert!(there.store(&far(&id(0), 1.0)).await.unwrap());
    let (mut number, begun) = (0, Instant::now());
    let address = gateway.listen().await;
    for way in ["pull", "queue", "list", "image", "history", "queue", "pull"] {
        // Until a deaf gateway was still trusting its memory when the tag moved.
        loop {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing was told from memory in time");
            let (old, new) = (id(number), id(number + 1));
            number += 1;
            assert_eq!(gateway.request(&alice, "app:1", "").await.unwrap().status.as_deref(), Some("INIT"));
            while gateway.api().catalog.recall(&key).is_none() {
                assert_eq!(lookup().await, old);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            signal_listener(&place, "STOP").await;
            // What a worker apart does at the end of a pull.
            let job = there.job_of(&key, 7).await.unwrap().unwrap();
            let job = there.claim(job.number, "apart").await.unwrap().unwrap();
            assert!(there.store(&far(&new, f64::from(number + 1))).await.unwrap());
            assert!(there.set_status(job.lease(), JobStatus::Ready, "").await.unwrap());
            let was_old = lookup().await == old;
            let (method, path) = match way {
                "pull" => ("POST", "pull/sysa/docker/app:1/"),
                "queue" => ("GET", "queue/sysa/"),
                "list" => ("GET", "list/sysa/"),
                "image" => ("GET", "image/sysa/docker/app:1/"),
                _ => ("GET", "history/sysa/docker/app:1/"),
            };
            let who = "good:x:y::7:10007";
            let (status, _, body) = exchange(address, method, &format!("/api/{path}"), who, "").await;
            let is_seen = if way == "queue" { !body.contains("app") } else { body.contains(&new) };
            assert!(status == 200 && is_seen, "{way}: {body}");
            assert_eq!(lookup().await, new, "after {way} showed the pull's end");
            signal_listener(&place, "CONT").await;
            if way != "pull" {
                gateway.request(&alice, "app:1", "").await.unwrap();
            }
            if was_old {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_ready_by_one_gateway_never_gets_the_image_before_it_from_another() {
    let server = Server::postgres();
    let place = server.place().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (registry, address) = Registry::start().await;
    let here = Gateway::start_on(dirs[0].path(), address, 300, &place).await;
    let there = Gateway::start_with(dirs[1].path(), address, 300, &place, 0, None).await;
    let (alice, bob, key) = (caller(7, &[]), caller(8, &[]), key("app:1"));
    let far = async || there.api().lookup("sysa", "docker", "app:1", &alice).await.unwrap().id.unwrap();
    // Without being counted as asking: the end is told once, to each.
    let ask = async |who: &Caller| here.api().pull("sysa", "docker", "app:1", b"", who).await.unwrap().image;
    // What is published already is granted within milliseconds.
    for seed in ["one", "two"] {
        registry.push("app", "1", seed);
        here.pull(&alice, "app:1", "").await;
    }
    for round in 0..4 {
        let begun = Instant::now();
        while there.api().catalog.recall(&key).is_none() {
            far().await;
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing is told from memory");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for pid in listeners(&place).await {
            let _ = std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap();
        }
        let new = registry.push("app", "1", ["one", "two"][round % 2]);
        let begun = Instant::now();
        let mut told = vec![ask(&alice).await];
        while here.api().catalog.lookup(&key).await.unwrap().unwrap().0.id != new {
            assert!(begun.elapsed() < Duration::from_secs(20), "{told:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Another user, who need not ask the registry so soon after the first one.
        told.push(ask(&bob).await);
        while told.last().unwrap().status.as_deref() != Some("READY") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{told:?}");
            let who = if round < 2 { &alice } else { &bob };
            told.push(ask(who).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(far().await, new, "round {round}, {:?} after it was asked for", begun.elapsed());
        for pid in listeners(&place).await {
            let _ = std::process::Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap();
        }
        here.pull(&alice, "app:1", "").await;
        here.pull(&bob, "app:1", "").await;
    }
    // A tag that stays is told of at once: nothing is waited for.
    let (begun, mut told) = (Instant::now(), vec![ask(&alice).await]);
    while told.last().unwrap().status.as_deref() != Some("READY") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{told:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        told.push(ask(&alice).await);
    }
    assert!(told.iter().all(|image| image.status.as_deref() != Some("TRANSFER")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_another_gateway_takes_back_lets_nobody_in_after_a_second() {
    let server = Server::postgres();
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway, there, _) = apart(&server, dir.path()).await;
    let lookup = async |uid: u32| gateway.api().lookup("sysa", "docker", "a:1", &caller(uid, &[])).await;
    let mut record = record("aa", "a:1", 1.0, 7, false);
    record.image.expiration = 4.0e9;
    record.grants.push(grant("a:1", "aa", 8, false));
    assert!(there.store(&record).await.unwrap());
    let begun = Instant::now();
    while gateway.api().catalog.recall(&key("a:1")).is_none() {
        assert!(lookup(8).await.is_ok() && begun.elapsed() < Duration::from_secs(10));
    }
    for (uid, shown) in [(7, Some(vec![7])), (8, Some(vec![8])), (9, None)] {
        let answer = lookup(uid).await.ok().and_then(|image| image.user_acl);
        assert_eq!(answer, shown, "what one user looked up opens nothing to {uid}");
    }
    record.revision = 1;
    record.grants.pop();
    assert!(there.store(&record).await.unwrap());
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        match lookup(8).await {
            Err(Refusal::Denied(_)) => break,
            answer => assert!(answer.is_ok() && asked < LONGEST, "{answer:?} after {asked:?}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(lookup(7).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_from_memory() {
    let server = Server::postgres();
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway, there, _) = apart(&server, dir.path()).await;
    let lookup =
        async |uid: u32, tag: &str| gateway.api().lookup("sysa", "docker", tag, &caller(uid, &[])).await;
    let mut record = record("aa", "a:1", 1.0, 7, false);
    record.image.expiration = 4.0e9;
    assert!(there.store(&record).await.unwrap());
    let begun = Instant::now();
    while gateway.api().catalog.recall(&key("a:1")).is_none() {
        assert!(lookup(7, "a:1").await.is_ok() && begun.elapsed() < Duration::from_secs(10));
    }
    // From now on only memory answers; for as long as it is trusted.
    gateway.api().catalog.close().await;
    let (given, denied, absent) = (lookup(7, "a:1").await, lookup(8, "a:1").await, lookup(8, "no:1").await);
    assert!(given.is_ok(), "{given:?}");
    for refused in [denied, absent] {
        assert!(matches!(&refused, Err(Refusal::Catalog(_))), "the database was not asked: {refused:?}");
    }
    tokio::time::sleep(LONGEST).await;
    assert!(lookup(7, "a:1").await.is_err(), "told although nobody could say that it is still true");
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_from_memory_keep_their_image_alive() {
    let (registry, address) = Registry::start().await;
    registry.push("app", "1", "one");
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), address, 0).await;
    let (alice, key) = (caller(7, &[]), key("app:1"));
    gateway.pull(&alice, "app:1", "").await;
    let lookup = async || gateway.api().lookup("sysa", "docker", "app:1", &alice).await.unwrap();
    let begun = Instant::now();
    while gateway.api().catalog.recall(&key).is_none() {
        lookup().await;
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    // As if a month had passed.
    let month = 30.0 * 86_400.0;
    let config = gateway.api().config.now();
    let mut changed = config.clone();
    changed.image_expiration += Duration::from_secs_f64(month);
    gateway.api().config.replace(changed);
    let before = gateway.api().catalog.recall(&key).unwrap().0.expiration;
    lookup().await;
    let after = gateway.api().catalog.lookup(&key).await.unwrap().unwrap().0.expiration;
    assert!((after - before - month).abs() < 60.0, "{before} to {after}");
    lookup().await;
    assert_eq!(gateway.api().catalog.recall(&key).unwrap().0.expiration, after, "it is written once");
}
