//! Long polls and cancellation: who waits costs nothing, hears of every stage and of the end.

use super::*;
use crate::catalog::NewJob;
use crate::model::{JobStatus, TagKey};
use crate::waiting::{Pulled, Wait};

async fn wait(gateway: &Gateway, uid: u32, tag: &str, seconds: f64, seen: &str) -> Pulled {
    let (api, who) = (gateway.api(), caller(uid, &[]));
    let wait = Wait { longest: Duration::from_secs_f64(seconds), seen: seen.to_owned() };
    api.wait(&wait, || api.pull("sysa", "docker", tag, b"", &who)).await.unwrap()
}

fn status(pulled: &Pulled) -> &str {
    pulled.image.status.as_deref().unwrap()
}

async fn slow_gateway(dir: &Path) -> (Registry, Arc<Gateway>) {
    let (registry, address) = Registry::start().await;
    registry.push("app", "1", "one");
    std::fs::write(dir.join("slow"), "").unwrap();
    (registry, Arc::new(Gateway::start(dir, address, 300).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_client_hears_of_every_stage_and_of_the_end_with_few_requests() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    let (mut seen, mut requests, begun) = (String::new(), 0, Instant::now());
    loop {
        let pulled = wait(&gateway, 1, "app:1", 30.0, &seen).await;
        requests += 1;
        let state = pulled.state.clone().unwrap();
        assert_ne!(state, seen, "answered although nothing changed");
        seen = state;
        if status(&pulled) == "READY" {
            break;
        }
        assert!(pulled.standing.is_some(), "{pulled:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(requests <= 10, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_is_said_when_the_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    let (mut seen, mut timed_out) = (String::new(), false);
    for _ in 0..20 {
        let begun = Instant::now();
        let pulled = wait(&gateway, 1, "app:1", 0.3, &seen).await;
        let state = pulled.state.clone().unwrap();
        // An end is told at once, however often.
        if state == seen && pulled.standing.is_some() {
            assert!(begun.elapsed() >= Duration::from_millis(300));
            timed_out = true;
        }
        seen = state;
    }
    assert!(timed_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_waiting_clients_of_one_caller_hear_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    std::fs::write(dir.path().join("fail"), "").unwrap();
    let pulls: Vec<_> = (0..10)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                let mut seen = String::new();
                loop {
                    let pulled = wait(&gateway, 1, "app:1", 30.0, &seen).await;
                    if status(&pulled) == wire::status::FAILURE {
                        return;
                    }
                    seen = pulled.state.unwrap();
                }
            })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap();
    }
    assert_eq!(gateway.conversions(), 1, "no waiting client began the failing pull again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_pull_ends_at_once_and_its_waiting_client_is_told_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    let first = wait(&gateway, 1, "app:1", 0.0, "").await;
    assert_eq!(status(&first), "INIT");
    while gateway.conversions() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = wait(&gateway, 1, "app:1", 0.0, "").await.state.unwrap();
    let waiting = gateway.clone();
    let waiting = tokio::spawn(async move { wait(&waiting, 1, "app:1", 30.0, &seen).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let api = gateway.api();
    let other = api.cancel("sysa", "docker", "app:1", &caller(2, &[])).await;
    assert!(matches!(other, Err(Refusal::NoJob)), "{other:?}");
    let begun = Instant::now();
    api.cancel("sysa", "docker", "app:1", &caller(1, &[])).await.unwrap();
    let end = waiting.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(
        (status(&end), end.image.status_message.as_deref()),
        ("FAILURE", Some("canceled by its user"))
    );
    let again = api.cancel("sysa", "docker", "app:1", &caller(1, &[])).await;
    assert!(matches!(again, Err(Refusal::NoJob)), "{again:?}");
    // Its work is gone, and so is what it began to write.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((gateway.names("images"), gateway.names("expand")), (Vec::<String>::new(), Vec::new()));
    std::fs::remove_file(dir.path().join("slow")).unwrap();
    assert_eq!(gateway.pull(&caller(1, &[]), "app:1", "").await.status.as_deref(), Some("READY"));
}

/// A job that another process has in hand.
async fn elsewhere(gateway: &Gateway, uid: u32) -> crate::catalog::Lease {
    let key = TagKey { system: "sysa".into(), itype: "docker".into(), tag: "app:1".into() };
    let new = NewJob {
        key,
        uid,
        gid: uid + 10_000,
        acl: Default::default(),
        with_credentials: false,
        source: String::new(),
    };
    let catalog = &gateway.api().catalog;
    let job = catalog.enter_job(&new).await.unwrap().unwrap();
    catalog.claim(job.number, "another host").await.unwrap().unwrap().lease()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_another_process_is_heard_of_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    let lease = elsewhere(&gateway, 1).await;
    let seen = wait(&gateway, 1, "app:1", 0.0, "").await.state.unwrap();
    let waiting = {
        let gateway = gateway.clone();
        tokio::spawn(async move { wait(&gateway, 1, "app:1", 30.0, &seen).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let catalog = &gateway.api().catalog;
    catalog.set_status(lease, JobStatus::Conversion, "Converting image").await.unwrap();
    let begun = Instant::now();
    let pulled = waiting.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(status(&pulled), "CONVERSION");
    let seen = pulled.state.unwrap();
    catalog.set_status(lease, JobStatus::Failure, "because").await.unwrap();
    let pulled = wait(&gateway, 1, "app:1", 30.0, &seen).await;
    assert_eq!(pulled.image.status_message.as_deref(), Some("because"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_for_a_worker_apart_all_hear_its_end() {
    let server = crate::catalog::tests::servers::Server::postgres();
    let place = server.place().await;
    let (registry, address) = Registry::start().await;
    registry.push("app", "1", "one");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    std::fs::write(dirs[1].path().join("slow"), "").unwrap();
    // Without a time for which an answer stays good: nobody may have to ask the registry again all the same.
    let gateway = Arc::new(Gateway::start_with(dirs[0].path(), address, 0, &place, 0, None).await);
    let _worker = Gateway::start_with(dirs[1].path(), address, 0, &place, 2, None).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let gateway = gateway.clone();
        clients.spawn(async move {
            let mut seen = String::new();
            loop {
                let pulled = wait(&gateway, 1, "app:1", 30.0, &seen).await;
                if status(&pulled) == "READY" {
                    return;
                }
                seen = pulled.state.unwrap();
            }
        });
    }
    clients.join_all().await;
    let asked = registry.take_served().iter().filter(|request| request.starts_with("HEAD")).count();
    assert_eq!(asked, 1, "each client that was not told began the pull anew");
}

/// Seconds of processor time that this process used so far.
fn used() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiting_clients_cost_little() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, gateway) = slow_gateway(dir.path()).await;
    for uid in 0..500 {
        elsewhere(&gateway, uid).await;
    }
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let gateway = gateway.clone();
        clients.spawn(async move {
            let seen = wait(&gateway, number % 500, "app:1", 0.0, "").await.state.unwrap();
            wait(&gateway, number % 500, "app:1", 20.0, &seen).await;
        });
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = used();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = (used() - before) / 10.0;
    assert_eq!(clients.len(), 1000, "all still wait");
    eprintln!("1000 waiting clients of 500 pulls of another process: {:.1} % of a core", share * 100.0);
    // Unoptimized and on a busy machine; asking twice a second, they would cost several cores. bench/gateway measures it.
    assert!(share < 0.25, "{share}");
}
