//! The API as bytes on a connection: exact headers, codes, and who sees what.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const ALICE: &str = "good:alice:users::1:10001";
const BOB: &str = "good:bob:users::2:10002";

/// Sends one request; returns the status, the head and the body of the answer, which is as the OpenAPI document says.
pub(crate) async fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    who: &str,
    body: &str,
) -> (u16, String, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let auth = if who.is_empty() { String::new() } else { format!("authentication: {who}\r\n") };
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: gw\r\n{auth}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    documented::check_answer(method, target, status, &head, body)
        .unwrap_or_else(|wrong| panic!("{wrong}: {method} {target}: {status} {body}"));
    (status, head, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_get_the_exact_answers_they_parse() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    let address = gateway.listen().await;
    let id = registry.push("test/app", "v1", "x");

    let (status, head, body) =
        exchange(address, "POST", "/api/pull/sysa/docker/test%2Fapp%3Av1/", ALICE, "").await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        r#"{"id":"MISSING","system":"sysa","itype":"docker","tag":[],"status":"INIT","userACL":[],"groupACL":[],"ENV":"MISSING","ENTRY":"MISSING","WORKDIR":"MISSING","LABELS":"MISSING","last_pull":"MISSING","status_message":"MISSING"}"#
    );
    assert!(head.lines().any(|line| line == "content-type: application/json"), "{head}");
    assert!(head.lines().any(|line| line == format!("content-length: {}", body.len())), "{head}");
    assert!(!head.contains("transfer-encoding") && !head.contains("content-encoding"), "{head}");
    gateway.pull(&caller(1, &[]), "test/app:v1", "").await;

    // Both slash forms and both spellings are one image.
    let mut answers = Vec::new();
    for target in [
        "/api/lookup/sysa/docker/test%2Fapp%3Av1/",
        "/api/lookup/sysa/docker/test%2Fapp%3Av1",
        "/api/lookup/sysa/docker/test/app:v1/",
        "/api/lookup/sysa/docker/test/app:v1?x=1",
    ] {
        let (status, _, body) = exchange(address, "GET", target, BOB, "").await;
        assert_eq!(status, 200, "{target}");
        answers.push(body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    let lookup = &answers[0];
    let start = format!(
        r#"{{"id":"{id}","system":"sysa","itype":"docker","tag":["test/app:v1"],"status":"READY","userACL":[],"groupACL":[],"ENV":["SEED=x"],"ENTRY":"MISSING","WORKDIR":"MISSING","LABELS":"MISSING","last_pull":"#
    );
    let rest = lookup.strip_prefix(&start).unwrap_or_else(|| panic!("{lookup}"));
    let (last_pull, end) = rest.split_once(',').unwrap();
    assert!(last_pull.contains('.') && last_pull.parse::<f64>().is_ok_and(|t| t > 1.0e9), "{last_pull}");
    assert_eq!(end, r#""status_message":"Image is ready"}"#);

    let (_, _, list) = exchange(address, "GET", "/api/list/sysa/", BOB, "").await;
    assert_eq!(list, format!(r#"{{"list":[{lookup}]}}"#));
    let (_, _, queue) = exchange(address, "GET", "/api/queue/sysa/", BOB, "").await;
    assert_eq!(queue, r#"{"list":[]}"#);
    assert_eq!(exchange(address, "GET", "/api/status/", "", "").await.2, r#"{"status":"up"}"#);
    assert_eq!(exchange(address, "GET", "/", "", "").await.2, "{lookup,pull,expire,list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_has_a_code_and_a_sentence_in_json() {
    let (_registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    let address = gateway.listen().await;
    let long = "x".repeat(70_000);
    let bad_ids = r#"{"allowed_uids":"root"}"#;
    for (method, target, who, body, expected, sentence) in [
        ("GET", "/nothing", ALICE, "", 404, "there is no such route"),
        ("GET", "/api/nosuch/sysa/docker/x/", ALICE, "", 404, "there is no such route"),
        ("GET", "/api/list/nosuch/", ALICE, "", 404, "system \\\"nosuch\\\" is not configured"),
        ("GET", "/api/list/sysa/", "", "", 401, "carries no credential"),
        ("GET", "/api/list/sysa/", "bad:alice:users", "", 401, "was refused"),
        ("GET", "/api/queue/sysa/", "", "", 401, "carries no credential"),
        ("POST", "/api/pull/sysa/docker/x/", "", "", 401, "carries no credential"),
        ("GET", "/api/lookup/sysa/docker/x/", ALICE, "", 404, "image not found"),
        ("GET", "/api/lookup/sysa/bogus/x/", ALICE, "", 404, "image not found"),
        ("GET", "/api/lookup/sysa/bogus/", ALICE, "", 404, "there is no such route"),
        ("POST", "/api/list/sysa/", ALICE, "", 405, "answers to GET only"),
        ("GET", "/api/pull/sysa/docker/x/", ALICE, "", 405, "answers to POST and DELETE only"),
        ("OPTIONS", "/api/list/sysa/", ALICE, "", 405, "answers to GET only"),
        ("GET", "/api/list/%zz", ALICE, "", 400, "percent-encoded"),
        ("GET", "/api/lookup/sysa/docker/a%00b/", ALICE, "", 400, "percent-encoded"),
        ("POST", "/api/pull/sysa/docker/x/", ALICE, "{", 400, "not a JSON object"),
        ("POST", "/api/pull/sysa/docker/x/", ALICE, bad_ids, 422, "\\\"root\\\" is not a user or group id"),
        ("POST", "/api/pull/sysa/docker/x/", ALICE, &long, 413, "longer than 65536 bytes"),
        ("POST", "/api/pull/sysa/custom/x/", ALICE, "", 422, "only docker images"),
        (
            "POST",
            "/api/pull/sysa/docker/ghcr.io%2Fx/",
            ALICE,
            "",
            403,
            "ghcr.io/x may not be pulled: it is not one",
        ),
        ("POST", "/api/pull/sysa/docker/..%2F..%2Fetc/", ALICE, "", 422, "image name"),
    ] {
        let (status, head, answer) = exchange(address, method, target, who, body).await;
        assert_eq!(status, expected, "{method} {target}: {answer}");
        assert!(head.lines().any(|line| line == "content-type: application/json"), "{target}: {head}");
        assert!(answer.starts_with(&format!(r#"{{"status":{expected},"error":""#)), "{target}: {answer}");
        assert!(answer.contains(sentence), "{target}: {answer}");
        assert_eq!(head.contains("\r\nallow: "), expected == 405, "{target}: {head}");
    }
    let (status, _, body) = exchange(address, "HEAD", "/api/list/sysa/", ALICE, "").await;
    assert_eq!((status, body.as_str()), (405, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_names_only_what_its_reader_may_know() {
    let (registry, registry_address) = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(dir.path(), registry_address, 300).await;
    registry.push("open", "1", "o");
    registry.push("secret/app", "1", "s");
    let alice = caller(1, &[("reg", "alice:pa:ss")]);
    gateway.request(&alice, "open:1", "").await.unwrap();
    gateway.request(&alice, "secret/app:1", "").await.unwrap();
    let images = |queue: wire::Queue| queue.list.into_iter().map(|entry| entry.image).collect::<Vec<_>>();
    assert_eq!(images(gateway.api().queue("sysa", &alice).await.unwrap()), ["open:1", "secret/app:1"]);
    let mut seen = Vec::new();
    while !gateway.api().queue("sysa", &alice).await.unwrap().list.is_empty() {
        seen.extend(images(gateway.api().queue("sysa", &caller(2, &[])).await.unwrap()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen.dedup();
    assert_eq!(seen, ["open:1"]);
}
