//! Clients that never finish the body of a request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::*;

const ALICE: &str = "good:alice:users::1:10001";

/// ST42.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_answered_408_and_holds_up_nobody() {
    const TARGET: &str = "/api/pull/sysa/docker/open%2Fapp%3A1";
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    registry.push("open/app", "1", "o");
    gateway.pull(&caller(1, &[]), "open/app:1", "").await;
    let address = gateway.listen().await;
    let mut slow = JoinSet::new();
    for (length, begun, drips) in [
        ("Content-Length: 1000", "{", false),
        ("Content-Length: 1000", "{", true),
        ("Content-Length: 2", "", false),
    ]
    .into_iter()
    .chain([("Transfer-Encoding: chunked", "1\r\n{\r\n", false)])
    .cycle()
    .take(40)
    {
        slow.spawn(async move {
            let began = Instant::now();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let head =
                format!("POST {TARGET} HTTP/1.1\r\nHost: gw\r\nauthentication: {ALICE}\r\n{length}\r\n\r\n");
            writer.write_all(format!("{head}{begun}").as_bytes()).await.unwrap();
            let drip = async {
                while drips && writer.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            let read = async { drop(reader.read_to_end(&mut answer).await) };
            let both = async {
                tokio::select! { () = drip => {}, () = read => {} }
            };
            tokio::time::timeout(Duration::from_secs(120), both).await.expect("it is answered and closed");
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
            documented::check_answer("POST", TARGET, 408, &head.to_ascii_lowercase(), body).unwrap();
            assert!(body.contains("did not arrive in time"), "{body}");
            assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
        });
    }
    let mut asked = 0;
    loop {
        let begun = Instant::now();
        assert_eq!(exchange(address, "GET", "/api/lookup/sysa/docker/open/app:1", ALICE, "").await.0, 200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        asked += 1;
        let Ok(ended) = tokio::time::timeout(Duration::from_millis(100), slow.join_next()).await else {
            continue;
        };
        match ended {
            Some(ended) => ended.unwrap(),
            None => break,
        }
    }
    assert!(asked > 50, "{asked}");
}

/// ST42.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_its_pull_keeps_its_connection_however_many_others_come() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("endless"), "").unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    registry.push("open/app", "1", "o");
    let limits = crate::listen::Limits { connections: 5, ..Default::default() };
    let address = listen_with(router(gateway.service.clone()), limits).await;
    let target = |seen: &str| format!("/api/pull/sysa/docker/open%2Fapp%3A1?wait=2&seen={seen}");
    let state = |answer: &str| -> String {
        let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        answer["state"].as_str().unwrap().to_owned()
    };
    // Until nothing changes any more.
    let mut seen = String::new();
    loop {
        let (status, _, answer) = exchange(address, "POST", &target(&seen), ALICE, "").await;
        assert_eq!(status, 200, "{answer}");
        let now = state(&answer);
        if std::mem::replace(&mut seen, now.clone()) == now {
            break;
        }
    }
    let waiting = tokio::spawn({
        let target = target(&seen);
        async move { exchange(address, "POST", &target, ALICE, "").await }
    });
    let mut others = Vec::new();
    let mut closed = 0;
    while !waiting.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut other = tokio::net::TcpStream::connect(address).await.unwrap();
        other.write_all(b"GET /api/list/sysa HTTP/1.1\r\nHost: g").await.unwrap();
        others.push(other);
    }
    let (status, _, answer) = waiting.await.unwrap();
    assert_eq!((status, state(&answer)), (200, seen));
    // These gave way to each other.
    for mut other in others {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(50), other.read_to_end(&mut rest)).await;
        closed += usize::from(read.is_ok());
    }
    assert!(closed >= 5, "{closed}");
}
