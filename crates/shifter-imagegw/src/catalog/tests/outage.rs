//! Gateways on servers that come and go, and two gateways on one: nothing a client does fails but for
//! a 503 that says when to come back, and nothing is lost.

use std::time::Instant;

use futures_util::future::join_all;

use super::servers::Server;
use super::*;
use crate::seal::SealKey;
use crate::tests::{Gateway, Registry, caller, exchange};

const BOB: &str = "good:bob:users::2:10002";

/// On both kinds of server at once, because it waits most of the time. In this thread, whose end would be theirs.
async fn on_both(test: impl AsyncFn(Server)) {
    join_all([Server::postgres(), Server::mongo()].map(|server| test(server))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgresql_costs_clients_no_more_than_a_503() {
    restart(Server::postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_mongodb_costs_clients_no_more_than_a_503() {
    restart(Server::mongo()).await;
}

async fn restart(mut server: Server) {
    let (registry, address) = Registry::start().await;
    for tag in ["1", "2"] {
        registry.push("app", tag, tag);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("slow"), "").unwrap();
    let gateway = Gateway::start_on(dir.path(), address, 0, &server.place().await).await;
    let served = gateway.listen().await;
    gateway.pull(&caller(1, &[]), "app:1", "").await;

    // Begun before, converting meanwhile, looked up all the time.
    gateway.request(&caller(1, &[]), "app:2", "").await.unwrap();
    for _ in 0..200 {
        if gateway.conversions() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if !server.stop() {
        return;
    }
    let begun = Instant::now();
    let (up, is_up) = tokio::sync::watch::channel(false);
    let (refused, mut is_refused) = tokio::sync::watch::channel(false);
    let clients = tokio::spawn(async move {
        let mut answered = 0;
        while !*is_up.borrow() || answered < 10 {
            for path in ["lookup/sysa/docker/app:1", "list/sysa"] {
                let (status, head, body) = exchange(served, "GET", &format!("/api/{path}/"), BOB, "").await;
                match status {
                    200 if *is_up.borrow() => answered += 1,
                    200 => {}
                    503 => {
                        assert!(head.contains("\r\nretry-after: "), "{head}");
                        refused.send_replace(true);
                    }
                    other => panic!("{other}: {body}"),
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{refused:?}, {answered} answered");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    is_refused.wait_for(|is_refused| *is_refused).await.expect("nobody noticed");
    // In this thread, whose end would be the server's.
    server.start();
    up.send_replace(true);
    clients.await.unwrap();
    // The pull that was under way came to its end, by itself.
    let key = key("app:2");
    while gateway.api().catalog.lookup(&key).await.unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.conversions(), 2);
    // So did its job: the next pull asks the registry, makes nothing, and is done.
    let image = gateway.pull(&caller(1, &[]), "app:2", "").await;
    assert_eq!(image.status.as_deref(), Some("READY"));
    assert_eq!(gateway.conversions(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_accepts_and_never_answers_costs_a_503_and_no_hang() {
    on_both(async |server| {
        let (_, address) = Registry::start().await;
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let gateway = Gateway::start_on(dir.path(), address, 0, &place).await;
        let served = gateway.listen().await;
        let ask = || async { exchange(served, "GET", "/api/lookup/sysa/docker/app:1/", BOB, "").await };
        assert_eq!(ask().await.0, 404, "{place}");
        if !server.freeze(true) {
            return;
        }
        let begun = Instant::now();
        let (status, head, body) = ask().await;
        let waited = begun.elapsed();
        server.freeze(false);
        assert_eq!(status, 503, "{place}: {body}");
        assert!(head.contains("\r\nretry-after: ") && waited < Duration::from_secs(12), "{waited:?}: {head}");
        let begun = Instant::now();
        while ask().await.0 != 404 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{place} did not recover");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_gateway_was_pulling_goes_on_elsewhere_within_two_seconds() {
    for server in [Server::postgres(), Server::mongo()] {
        let (registry, address) = Registry::start().await;
        let id = registry.push("app", "1", "one");
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let first = Gateway::start_on(dir.path(), address, 0, &place).await;
        std::fs::write(dir.path().join("slow"), "").unwrap();
        let alice = caller(1, &[]);
        first.request(&alice, "app:1", "").await.unwrap();
        while first.conversions() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let second = Gateway::start_on(dir.path(), address, 0, &place).await;
        let begun = Instant::now();
        first.api().jobs.stop().await;
        while second.conversions() == 1 {
            assert!(begun.elapsed() < Duration::from_secs(2), "{place}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{place}: handed over in {:?}", begun.elapsed());
        assert_eq!(second.pull(&alice, "app:1", "").await.id, Some(id));
        assert_eq!((first.conversions(), second.names("expand")), (2, Vec::<String>::new()), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_pull_reaches_workers_apart_by_the_key_alone() {
    let server = Server::postgres();
    let (registry, address) = Registry::start().await;
    let id = registry.push("secret/app", "1", "one");
    let dir = tempfile::tempdir().unwrap();
    let place = server.place().await;
    let key = || {
        let path = dir.path().join("key");
        std::fs::write(&path, [7; 32]).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Some(SealKey::read(&path).unwrap())
    };
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    // Nobody who answers requests works, and the others would not get the password.
    let keyless = Gateway::start_with(dir.path(), address, 0, &place, 0, None).await;
    let image = keyless.pull(&alice, "secret/app:1", "").await;
    let why = image.status_message.unwrap();
    assert!(why.contains("workers run apart and SealKeyFile is not configured"), "{why}");

    let front = Gateway::start_with(dir.path(), address, 0, &place, 0, key()).await;
    front.request(&alice, "secret/app:1", "").await.unwrap();
    let catalog = front.api().catalog.clone();
    let begun = Instant::now();
    let job = loop {
        let [job] = &catalog.unfinished(None).await.unwrap()[..] else { panic!("no job") };
        if !job.sealed.is_empty() {
            break job.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{job:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(!format!("{job:?}").contains("pa:ss"));
    // A worker without the key leaves it alone.
    let other = Gateway::start_with(dir.path(), address, 0, &place, 1, None).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(catalog.job(job.number).await.unwrap().unwrap().fence, 0);
    let worker = Gateway::start_with(dir.path(), address, 0, &place, 1, key()).await;
    let image = front.pull(&alice, "secret/app:1", "").await;
    assert_eq!((image.id, worker.conversions()), (Some(id), 1), "{:?}", image.status_message);
    assert!(catalog.job(job.number).await.unwrap().is_none_or(|job| job.sealed.is_empty()));
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_stops_in_whichever_process_it_runs() {
    let server = Server::postgres();
    let (registry, address) = Registry::start().await;
    registry.push("app", "1", "one");
    let dir = tempfile::tempdir().unwrap();
    let place = server.place().await;
    std::fs::write(dir.path().join("endless"), "").unwrap();
    let first = Gateway::start_on(dir.path(), address, 0, &place).await;
    let alice = caller(1, &[]);
    for round in 1..=2 {
        first.request(&alice, "app:1", "").await.unwrap();
        while first.conversions() < round {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let [job] = &first.api().catalog.unfinished(None).await.unwrap()[..] else { panic!("{round}") };
        let begun = Instant::now();
        if round == 1 {
            assert!(first.api().jobs.cancel(job.number, "no longer wanted").await.unwrap());
        } else {
            // By another process, which only has the catalog.
            let other = open_for_use(&place).await.unwrap();
            assert!(other.cancel(job.number, "no longer wanted").await.unwrap());
        }
        while !first.names("expand").is_empty() || !first.names("images").is_empty() {
            assert!(begun.elapsed() < HEARTBEAT + Duration::from_secs(2), "{round}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let image = first.request(&alice, "app:1", "").await.unwrap();
        assert_eq!(image.status_message.as_deref(), Some("no longer wanted"), "{image:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_was_pulling_is_finished_by_another() {
    on_both(async |server| {
        let (registry, address) = Registry::start().await;
        let id = registry.push("app", "1", "one");
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let first = Gateway::start_on(dir.path(), address, 0, &place).await;
        let second = Gateway::start_on(dir.path(), address, 0, &place).await;
        std::fs::write(dir.path().join("slow"), "").unwrap();
        let alice = caller(1, &[]);
        first.request(&alice, "app:1", "").await.unwrap();
        while first.conversions() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Polls of the other gateway find the job in its hands and leave it there.
        let image = second.request(&alice, "app:1", "").await.unwrap();
        assert_eq!(image.status.as_deref(), Some("CONVERSION"));
        assert_eq!(second.conversions(), 1);
        first.api().jobs.abort();
        std::fs::remove_file(dir.path().join("slow")).unwrap();

        // Its lease runs out.
        let catalog = second.api().catalog.clone();
        let [job] = &catalog.unfinished(None).await.unwrap()[..] else { panic!("{place}") };
        assert!(job.is_held(), "{job:?}");
        let begun = Instant::now();
        while second.conversions() == 1 {
            let job = catalog.job(job.number).await.unwrap();
            assert!(begun.elapsed() < LEASE + Duration::from_secs(4), "{place}: {job:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{place}: taken over after {:?}", begun.elapsed());
        assert_eq!(second.pull(&alice, "app:1", "").await.id, Some(id));
        assert_eq!(second.names("expand"), [""; 0], "{place}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_on_one_catalog_keep_every_grant() {
    for server in [Server::postgres(), Server::mongo()] {
        let (registry, address) = Registry::start().await;
        let id = registry.push("secret/app", "1", "one");
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let gateways = [
            Arc::new(Gateway::start_on(dir.path(), address, 0, &place).await),
            Arc::new(Gateway::start_on(dir.path(), address, 0, &place).await),
        ];
        let pulls = (1..=20_u32).map(|uid| {
            let gateway = gateways[uid as usize % 2].clone();
            let caller = caller(uid, &[("reg", "alice:pa:ss")]);
            tokio::spawn(async move { gateway.pull(&caller, "secret/app:1", "").await })
        });
        for pull in pulls.collect::<Vec<_>>() {
            let image = pull.await.unwrap();
            assert_eq!(image.status.as_deref(), Some("READY"), "{image:?}");
        }
        let (_, grants) = gateways[0].api().catalog.lookup(&key("secret/app:1")).await.unwrap().unwrap();
        assert_eq!(grants.len(), 20, "{place}");
        let all = (1..=20).map(|uid| uid.to_string()).collect::<Vec<_>>().join(",");
        assert!(gateways[0].meta(&id).contains(&format!("\nUSERACL: {all}\n")), "{}", gateways[0].meta(&id));
        assert_eq!(gateways[0].conversions(), 1, "{place}: one gateway makes it for both");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    for uri in ["postgres://u:geheim@127.0.0.1:1/db", "mongodb://u:geheim@127.0.0.1:1/db"] {
        let place = Place::parse(uri, None).unwrap();
        let Err(error) = open_for_use(&place).await else { panic!("{uri}") };
        let told = error.to_string();
        let begins =
            format!("opening the catalog {}127.0.0.1:1/db failed: ", &uri[..uri.find("u:").unwrap()]);
        assert!(told.starts_with(&begins) && !told.contains("geheim"), "{told}");
    }
}
