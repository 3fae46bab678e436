//! Requests that nobody should send: none of them may stop the gateway, make it fail (5xx but 503), or
//! hold it up. Seeded, so that a failure can be repeated.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::openapi;

const ALICE: &str = "good:alice:users::1:10001";

/// Sends bytes, says nothing more, and returns the status of the answer; 0 where the connection was closed
/// without one.
async fn throw(address: SocketAddr, bytes: &[u8]) -> u16 {
    send(address, bytes, true).await
}

async fn send(address: SocketAddr, bytes: &[u8], and_end: bool) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who is refused in the middle of a long head may find the connection closed.
    let _ = stream.write_all(bytes).await;
    if and_end {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut answer));
    let _ = read.await.expect("the gateway answers or closes");
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

fn is_fine(status: u16) -> bool {
    status < 500 || status == 503
}

/// A good request with some of its bytes changed, doubled, cut or replaced by what parsers dislike.
fn spoiled(random: &mut StdRng) -> Vec<u8> {
    const TARGETS: [&str; 8] = [
        "/api/list/sysa/?mine=1&name=a*&label=x%3Dy",
        "/api/lookup/sysa/docker/open%2Fapp%3A1/",
        "/api/lookup/sysa/docker/..%2F..%2Fetc%2Fpasswd/",
        "/api/lookup/sysa/docker/a%00b/",
        "/api/pull/sysa/docker/h:5000/a@sha256:00/?wait=0&seen=x",
        "/api/queue/sysa/",
        "/api/login/sysa",
        "/api/openapi.json",
    ];
    const NASTY: [&[u8]; 14] = [
        b"\0",
        b"\r\n",
        b"\n\n",
        b"%",
        b"%zz",
        b"%2f..%2f",
        b"\xff\xfe",
        b"//",
        b": ",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Content-Length: 3\r\nContent-Length: 5\r\n",
        b"authentication: good:a:b::99999999999:-1\r\n",
    ];
    let method = ["GET", "POST", "DELETE", "PUT", "CONNECT", "get", "P\u{e9}"].choose(random).unwrap();
    let target = TARGETS.choose(random).unwrap();
    let body = [r#"{"allowed_uids":"1,2"}"#, r#"{"location":"reg"}"#, "{\"allowed_uids\":{}", "[[[[", ""];
    let body = body.choose(random).unwrap();
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: gw\r\nauthentication: {ALICE}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes[at] = random.random(),
            1 => bytes.truncate(at.max(1)),
            2 => drop(bytes.splice(at..at, NASTY.choose(random).unwrap().iter().copied())),
            3 => drop(bytes.splice(at..at, bytes.clone())),
            _ => drop(bytes.splice(at..at, vec![b'a'; random.random_range(0..3000)])),
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_malformed_requests_are_survived() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    registry.push("open/app", "1", "o");
    gateway.pull(&caller(1, &[]), "open/app:1", "").await;
    let address = gateway.listen().await;
    let mut senders = tokio::task::JoinSet::new();
    for seed in 0..8 {
        senders.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut counts = HashMap::<u16, usize>::new();
            for number in 0..2500 {
                let bytes = spoiled(&mut random);
                let status = throw(address, &bytes).await;
                let shown = || String::from_utf8_lossy(&bytes).into_owned();
                assert!(is_fine(status), "seed {seed}, request {number}: {status}\n{}", shown());
                *counts.entry(status).or_default() += 1;
            }
            counts
        });
    }
    let mut all = std::collections::BTreeMap::<u16, usize>::new();
    while let Some(counts) = senders.join_next().await {
        for (status, count) in counts.unwrap() {
            *all.entry(status).or_default() += count;
        }
    }
    eprintln!("answers by status: {all:?}");
    assert!(all.len() > 5, "they were of many kinds: {all:?}");
    assert_eq!(exchange(address, "GET", "/api/lookup/sysa/docker/open/app:1", ALICE, "").await.0, 200);
}

fn odd_text(random: &mut StdRng) -> String {
    const ODD: [&str; 16] = [
        "",
        "0",
        "-1",
        "1",
        "60",
        "61",
        "99999999999999999999",
        "true",
        "null",
        "docker",
        "open/app:1",
        "../..",
        "*?*?*",
        "é\u{202e}\u{0}",
        "a=b=c",
        "sha256:00",
    ];
    match random.random_range(0..4) {
        0 => (0..random.random_range(0..300)).map(|_| random.random::<char>()).collect(),
        _ => (*ODD.choose(random).unwrap()).to_owned(),
    }
}

fn odd_json(random: &mut StdRng, depth: usize) -> Value {
    match random.random_range(0..if depth > 3 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => json!(random.random::<i64>()),
        2 => json!(random.random::<bool>()),
        3 | 4 => json!(odd_text(random)),
        5 => (0..3).map(|_| odd_json(random, depth + 1)).collect(),
        _ => {
            let names = ["allowed_uids", "allowed_gids", "location", "filepath", "format"];
            let pairs =
                (0..3).map(|_| ((*names.choose(random).unwrap()).to_owned(), odd_json(random, depth + 1)));
            Value::Object(pairs.collect())
        }
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_document_allows_is_answered_as_the_document_says() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    registry.push("open/app", "1", "o");
    gateway.pull(&caller(1, &[]), "open/app:1", "").await;
    let address = gateway.listen().await;
    let (_, _, served) = exchange(address, "GET", "/api/openapi.json", "", "").await;
    let document: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(&document, openapi::document());
    let mut random = StdRng::seed_from_u64(51);
    let mut answered = std::collections::BTreeMap::<(String, u16), usize>::new();
    for round in 0..150 {
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                // The one image must be there for the other routes.
                if operation["operationId"] == "remove" && round < 100 {
                    continue;
                }
                let mut target = path.clone();
                let mut query = Vec::new();
                for parameter in operation["parameters"].as_array().unwrap() {
                    let name = parameter["name"].as_str().unwrap();
                    let usual = match name {
                        "system" => "sysa",
                        "itype" => "docker",
                        _ => "open/app:1",
                    };
                    let odd = odd_text(&mut random);
                    let is_path = parameter["in"] == "path";
                    if !is_path && random.random() {
                        continue;
                    }
                    let value = if is_path && random.random_range(0..3) > 0 { usual } else { &odd };
                    match is_path {
                        true => target = target.replace(&format!("{{{name}}}"), &escaped(value)),
                        // Not to wait for long.
                        false if name == "wait" && value.parse::<u64>().is_ok_and(|s| s <= 60) => {
                            query.push("wait=0".to_owned())
                        }
                        false => query.push(format!("{name}={}", escaped(value))),
                    }
                }
                if !query.is_empty() {
                    target = format!("{target}?{}", query.join("&"));
                }
                let body = match operation.get("requestBody") {
                    Some(_) if random.random() => odd_json(&mut random, 0).to_string(),
                    _ => String::new(),
                };
                let who = if random.random_range(0..10) == 0 { "" } else { ALICE };
                let method = method.to_ascii_uppercase();
                let exchanged = exchange(address, &method, &target, who, &body);
                let exchanged = tokio::time::timeout(Duration::from_secs(20), exchanged).await;
                let (status, head, answer) = exchanged.expect("no hang");
                let what = format!("round {round}: {method} {target} {body}: {status} {answer}");
                assert!(is_fine(status), "{what}");
                let documented = &operation["responses"][status.to_string()];
                // A path that an odd value turned into another one is that other one's business.
                assert!(documented.is_object() || status == 404, "not documented: {what}");
                if !head.contains("content-type: text/plain") {
                    assert!(serde_json::from_str::<Value>(&answer).is_ok(), "{what}");
                }
                *answered.entry((operation["operationId"].to_string(), status)).or_default() += 1;
            }
        }
    }
    eprintln!("answers by operation and status: {answered:?}");
    for operation in ["list", "lookup", "pull", "queue"] {
        assert!(answered.contains_key(&(format!("\"{operation}\""), 200)), "{operation} was never answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_a_megabyte_and_a_thousand_lines_are_refused() {
    let (_registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    let address = gateway.listen().await;
    let request =
        |middle: &str| format!("GET /api/status HTTP/1.1\r\nHost: g\r\n{middle}Connection: close\r\n\r\n");
    let megabyte = format!("authentication: {}\r\n", "a".repeat(1 << 20));
    let thousand = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let line = format!("GET /{} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n", "a".repeat(100_000));
    for (bytes, expected) in [
        (request(""), &[200][..]),
        (request(&megabyte), &[431, 0]),
        (request(&thousand), &[431]),
        (line, &[414]),
    ] {
        let status = send(address, bytes.as_bytes(), false).await;
        assert!(expected.contains(&status), "{} bytes: {status}", bytes.len());
    }
}
