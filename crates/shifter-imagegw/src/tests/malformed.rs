//! Requests that nobody should send: none of them may stop the gateway, make it fail (5xx but 503), or
//! hold it up. Seeded, so that a failure can be repeated.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::Importers;
use crate::openapi;

const ALICE: &str = "good:alice:users::1:10001";
const ADMIN: &str = "good:op:ops::1000:1000";

/// A gateway where nothing ends at the question who may: everybody imports, and [`ADMIN`] is one.
async fn start(dir: &Path, registry: SocketAddr) -> Gateway {
    let change = |config: &mut Config| {
        config.import.users = Importers::Everybody;
        config.metrics = true;
    };
    Gateway::start_as(dir, registry, 300, &Place::Sqlite(dir.join("c.db")), change).await
}

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
    const TARGETS: [&str; 19] = [
        "/api/list/sysa/?mine=1&name=a*&label=x%3Dy",
        "/api/lookup/sysa/docker/open%2Fapp%3A1/",
        "/api/lookup/sysa/docker/..%2F..%2Fetc%2Fpasswd/",
        "/api/lookup/sysa/docker/a%00b/",
        "/api/pull/sysa/docker/h:5000/a@sha256:00/?wait=0&seen=x",
        "/api/queue/sysa/",
        "/api/login/sysa",
        "/api/openapi.json",
        "/api/expire/sysa/docker/nosuch%3A1/?id=00",
        "/api/expire/sysa?id=0123456789012345678901234567890123456789012345678901234567890123",
        "/api/restore/sysa?id=sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "/api/pin/sysa?id=x",
        "/api/autoexpire/sysa/?dry_run=1",
        "/api/metrics/sysa/?limit=5",
        "/api/image/sysa/docker/nosuch%3A1/?all=1",
        "/api/doimport/sysa/custom/own%3A1/?wait=0",
        "/api/upload/sysa/custom/own%3A1/?format=tar&sha256=00&allowed_uids=1",
        "/readyz",
        "/metrics",
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
    let body = [
        r#"{"allowed_uids":"1,2"}"#,
        r#"{"location":"reg"}"#,
        r#"{"filepath":"/etc/passwd","format":"tar"}"#,
        "{\"allowed_uids\":{}",
        "[[[[",
        "",
    ];
    let who = [ALICE, ADMIN].choose(random).unwrap();
    let body = body.choose(random).unwrap();
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: gw\r\nauthentication: {who}\r\nContent-Length: {}\r\n\
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

/// ST42.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_malformed_requests_are_survived() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path(), registry_address).await;
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

/// Parameters that mostly have a value that means something.
const USUAL: [&str; 7] = ["id", "format", "limit", "dry_run", "verbatim", "allowed_uids", "allowed_gids"];

/// Routes that may take the one image away, at the end only.
const REMOVING: [&str; 4] = ["remove", "expire", "expire-get", "expire-id"];

fn escaped(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

/// ST42.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_document_allows_is_answered_as_the_document_says() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path(), registry_address).await;
    registry.push("open/app", "1", "o");
    let id = gateway.pull(&caller(1, &[]), "open/app:1", "").await.id.unwrap();
    let address = gateway.listen().await;
    let (_, _, served) = exchange(address, "GET", "/api/openapi.json", "", "").await;
    let document: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(&document, openapi::document());
    let mut random = StdRng::seed_from_u64(51);
    let mut answered = std::collections::BTreeMap::<(String, u16), usize>::new();
    // What was done, rather than refused with status 200.
    let mut done_by_admin = std::collections::BTreeSet::<String>::new();
    for round in 0..150 {
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let action = operation["operationId"].as_str().unwrap();
                // The one image must be there for the other routes.
                if REMOVING.contains(&action) && round < 100 {
                    continue;
                }
                let is_import = matches!(action, "import" | "upload");
                let mut target = path.clone();
                let mut query = Vec::new();
                for parameter in operation["parameters"].as_array().unwrap() {
                    let name = parameter["name"].as_str().unwrap();
                    let usual = match name {
                        "system" => "sysa",
                        "itype" if is_import => "custom",
                        "itype" => "docker",
                        "tag" if action == "upload" => "sent:1",
                        "tag" if is_import => "own:1",
                        "id" => &id,
                        "format" => "tar",
                        "verbatim" => "0",
                        "limit" | "dry_run" | "allowed_uids" | "allowed_gids" => "1",
                        _ => "open/app:1",
                    };
                    let odd = odd_text(&mut random);
                    let is_path = parameter["in"] == "path";
                    // Without a form, and with a digest that is not its own, no file is taken.
                    let is_seldom = match name {
                        "format" => random.random_range(0..10) == 0,
                        "sha256" => random.random_range(0..5) > 0,
                        _ => random.random(),
                    };
                    if !is_path && is_seldom {
                        continue;
                    }
                    let is_usual = is_path || USUAL.contains(&name);
                    let value = if is_usual && random.random_range(0..3) > 0 { usual } else { &odd };
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
                    Some(_) if is_import && random.random() => {
                        json!({"filepath": "/etc/passwd", "format": "tar"}).to_string()
                    }
                    Some(_) if random.random() => odd_json(&mut random, 0).to_string(),
                    _ => String::new(),
                };
                let who = match random.random_range(0..10) {
                    0 => "",
                    1..5 => ALICE,
                    _ => ADMIN,
                };
                let method = method.to_ascii_uppercase();
                let exchanged = exchange(address, &method, &target, who, &body);
                let exchanged = tokio::time::timeout(Duration::from_secs(20), exchanged).await;
                let (status, _, answer) = exchanged.expect("no hang");
                let what = format!("round {round}: {method} {target} {body}: {status} {answer}");
                // Beside this, every answer is compared with the document.
                assert!(is_fine(status), "{what}");
                if who == ADMIN && status == 200 && !answer.contains("false") {
                    done_by_admin.insert(action.to_owned());
                }
                *answered.entry((action.to_owned(), status)).or_default() += 1;
            }
        }
    }
    eprintln!("answers by operation and status: {answered:?}");
    for operation in ["list", "lookup", "pull", "queue"] {
        assert!(answered.contains_key(&(operation.to_owned(), 200)), "{operation} was never answered");
    }
    let others = ["metrics", "pin", "unpin", "restore", "inspect", "import", "upload", "autoexpire"];
    for action in others.iter().chain(&REMOVING) {
        assert!(done_by_admin.contains(*action), "{action} was never done: {done_by_admin:?}");
    }
}

/// ST42.
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
