//! The client against small servers of our own on the loopback, one thread each, answering from a script.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::*;
use crate::wire::PullRequest;

const READY: &str = r#"{"id":"a2fb","status":"READY","tag":["app:v1"],"last_pull":1.5,"ENV":"MISSING"}"#;

/// What the server does with one connection.
enum Act {
    /// Sends these bytes as they are.
    Raw(Vec<u8>),
    /// Sends status 200, a Content-Length and this many bytes.
    Flood(u64),
    /// Keeps the connection open and says nothing.
    Silence,
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Serves the acts in order, then closes the port.
fn serve(acts: Vec<Act>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        for act in acts {
            let (stream, _) = listener.accept().unwrap();
            seen.lock().unwrap().push(read_request(&stream));
            // The client may hang up early: that is what some tests are about.
            let _ = perform(&act, stream);
        }
    });
    Server { url, requests }
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    format!("{head}\r\n{}", String::from_utf8(body).unwrap())
}

fn perform(act: &Act, mut stream: TcpStream) -> std::io::Result<()> {
    match act {
        Act::Raw(bytes) => stream.write_all(bytes),
        Act::Flood(length) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
            std::io::copy(&mut std::io::repeat(b' ').take(*length), &mut stream).map(drop)
        }
        Act::Silence => {
            thread::sleep(Duration::from_secs(5));
            Ok(())
        }
    }
}

fn answer(status: &str, content_type: &str, body: &str) -> Act {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}", body.len());
    Act::Raw(format!("{head}\r\n\r\n{body}").into_bytes())
}

fn ok(body: &str) -> Act {
    answer("200 OK", "application/json", body)
}

/// A port where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn config(gateways: &[&str]) -> ClientConfig {
    ClientConfig {
        gateways: gateways.iter().map(|url| (*url).to_owned()).collect(),
        system: "sysa".to_owned(),
        timeout: Some(Duration::from_secs(3)),
        ca_bundle: None,
    }
}

fn docker(tag: &str) -> Named<'_> {
    Named { itype: "docker", tag }
}

fn client<'a>(gateways: &[&str]) -> Client<'a> {
    Client::new(&config(gateways), Box::new(|_| Ok("MUNGE:test:".to_owned()))).unwrap()
}

#[test]
fn requests_look_as_the_original_gateway_expects() {
    let list = format!("{{\"list\":[{READY}]}}");
    let server = serve(vec![ok(&list), ok(READY), ok(READY), ok(READY)]);
    let client = client(&[&format!("{}/", server.url)]);
    assert_eq!(client.images(&Filter::default()).unwrap()[0].tag, ["app:v1"]);
    let image = client.lookup(docker("host:5000/a/b@sha256:00+x")).unwrap();
    assert_eq!((image.id.as_deref(), image.last_pull, image.env), (Some("a2fb"), Some(1.5), None));
    client
        .pull(Named { itype: "custom", tag: "imp:1" }, &PullRequest::default(), &BTreeMap::new(), None)
        .unwrap();
    let access = PullRequest { allowed_uids: vec![1, 2], allowed_gids: vec![] };
    client.pull(docker("app:v1"), &access, &BTreeMap::new(), None).unwrap();
    let requests = server.requests.lock().unwrap();
    let expected = [
        ("GET /api/list/sysa/ HTTP/1.1", ""),
        ("GET /api/lookup/sysa/docker/host%3A5000%2Fa%2Fb%40sha256%3A00%2Bx/ HTTP/1.1", ""),
        ("POST /api/pull/sysa/custom/imp%3A1/ HTTP/1.1", ""),
        ("POST /api/pull/sysa/docker/app%3Av1/ HTTP/1.1", r#"{"allowed_uids":"1,2","allowed_gids":""}"#),
    ];
    assert_eq!(requests.len(), expected.len());
    for (request, (line, body)) in requests.iter().zip(expected) {
        assert!(request.starts_with(&format!("{line}\r\n")), "{request}");
        assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
        assert!(request.contains("authentication: MUNGE:test:\r\n"), "{request}");
        let head = request.to_ascii_lowercase();
        assert_eq!(
            head.contains("content-type: application/json\r\n"),
            line.starts_with("POST"),
            "{request}"
        );
        assert!(!head.contains("accept-encoding: gzip") && !head.contains("expect:"), "{request}");
    }
}

#[test]
fn what_the_original_lacks_is_asked_by_method_path_and_query() {
    let answers = [
        r#"{"list":[]}"#,
        r#"{"status":"PULLING","state":"4"}"#,
        r#"{"status":"PENDING"}"#,
        r#"{"status":"PENDING"}"#,
        r#"{"status":true}"#,
        r#"{"status":null}"#,
        r#"{"status":true}"#,
        r#"{"status":null}"#,
        r#"{"status":["a"]}"#,
        r#"{"status":false,"message":"no"}"#,
        r#"[{"type":"docker","time":1.5}]"#,
    ];
    let server = serve(answers.iter().map(|body| ok(body)).collect());
    let minted = RefCell::new(Vec::new());
    let mint: Mint<'_> = Box::new(|payload| {
        minted.borrow_mut().push(Payload::parse(payload).unwrap());
        Ok("MUNGE:test:".to_owned())
    });
    let client = Client::new(&config(&[&server.url]), mint).unwrap();
    let (nobody, none) = (PullRequest::default(), BTreeMap::new());
    let filter = Filter { mine: true, name: Some("a*".to_owned()), labels: vec!["k=v".to_owned()] };
    assert!(client.images(&filter).unwrap().is_empty());
    let pulled = client.pull(docker("x"), &nobody, &none, Some((30, "3 a"))).unwrap();
    assert_eq!(pulled.state.as_deref(), Some("4"));
    client.import(docker("x"), "/f", "squashfs", &nobody, None).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"content").unwrap();
    client.upload(docker("x"), &file, "00", "squashfs", &nobody).unwrap();
    client.remove(docker("x"), true).unwrap();
    assert_eq!(client.change("pin", "a2fb").unwrap().status, None);
    assert_eq!(client.expire(Named { itype: "id", tag: "a2fb" }).unwrap().status, Some(true));
    assert_eq!(client.expire(docker("x")).unwrap().status, None);
    assert_eq!(client.autoexpire(true).unwrap().ids(), Some(vec!["a"]));
    let probe = client.probe("default", &none).unwrap();
    assert_eq!((probe.status, probe.message.as_deref()), (false, Some("no")));
    assert_eq!(client.metrics(3).unwrap()[0].itype, "docker");
    let expected = [
        ("GET", "/api/list/sysa/", "?mine=1&name=a%2A&label=k%3Dv", ""),
        ("POST", "/api/pull/sysa/docker/x/", "?wait=30&seen=3%20a", ""),
        ("POST", "/api/doimport/sysa/docker/x/", "", r#"{"filepath":"/f","format":"squashfs"}"#),
        ("PUT", "/api/upload/sysa/docker/x/", "?format=squashfs&sha256=00", "content"),
        ("DELETE", "/api/image/sysa/docker/x/", "?all=1", ""),
        ("POST", "/api/pin/sysa/", "?id=a2fb", ""),
        ("POST", "/api/expire/sysa/", "?id=a2fb", ""),
        ("GET", "/api/expire/sysa/docker/x/", "", ""),
        ("GET", "/api/autoexpire/sysa/", "?dry_run=1", ""),
        ("POST", "/api/login/sysa/", "", r#"{"location":"default"}"#),
        ("GET", "/api/metrics/sysa/", "?limit=3&strict=1", ""),
    ];
    let requests = server.requests.lock().unwrap();
    for ((request, payload), (method, path, query, body)) in
        requests.iter().zip(minted.borrow().iter()).zip(expected)
    {
        assert!(request.starts_with(&format!("{method} {path}{query} HTTP/1.1\r\n")), "{request}");
        assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
        let covered = if method == "PUT" { "" } else { body };
        assert!(payload.allows(method, &format!("{path}{query}"), covered.as_bytes()), "{request}");
        assert!(!payload.allows(method, &format!("{path}?all=2"), covered.as_bytes()), "{request}");
    }
    assert_eq!(requests.len(), expected.len());
}

#[test]
fn every_attempt_mints_a_credential_bound_to_its_request() {
    let (first, second) = (nobody(), nobody());
    let minted = RefCell::new(Vec::new());
    let mint: Mint<'_> = Box::new(|payload| {
        minted.borrow_mut().push(Payload::parse(payload).unwrap());
        Ok(format!("MUNGE:{}:", minted.borrow().len()))
    });
    let client = Client::new(&config(&[&first, &second]), mint).unwrap();
    let locations = BTreeMap::from([("default".to_owned(), "u:p".to_owned())]);
    client.lookup(docker("a/b:1")).unwrap_err();
    client.pull(docker("a/b:1"), &PullRequest::default(), &locations, None).unwrap_err();
    let minted = minted.borrow();
    assert_eq!(minted.len(), 4, "two requests on two gateways");
    for payload in &minted[..2] {
        assert!(payload.request.is_some() && payload.allows("GET", "/api/lookup/sysa/docker/a/b:1/", b""));
        assert!(payload.authorized_locations.is_empty(), "passwords travel with pulls only");
    }
    for payload in &minted[2..] {
        assert!(payload.request.is_some() && payload.allows("POST", "/api/pull/sysa/docker/a/b:1/", b""));
        assert_eq!(payload.authorized_locations, locations);
    }
}

#[test]
fn a_gateway_that_is_down_leads_to_the_next() {
    for _ in 0..8 {
        // The order is random: eight times makes both orders all but certain.
        let server = serve(vec![ok(READY), ok(READY)]);
        let client = client(&[&nobody(), &server.url]);
        assert_eq!(client.lookup(docker("a:1")).unwrap().id.as_deref(), Some("a2fb"));
        assert_eq!(client.lookup(docker("a:1")).unwrap().id.as_deref(), Some("a2fb"));
    }
}

#[test]
fn a_refusal_leads_to_the_next_gateway() {
    let refusing = || {
        let body = r#"{"status":404,"error":"image not found","message":"Not Found: x"}"#;
        serve(vec![answer("404 Not Found", "application/json", body)])
    };
    let (refuses, serves) = (refusing(), serve(vec![ok(READY)]));
    assert!(client(&[&refuses.url, &serves.url]).lookup(docker("a:1")).is_ok());
    let (one, other) = (refusing(), refusing());
    let error = client(&[&one.url, &other.url]).lookup(docker("a:1")).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot look up docker:a:1: the image gateway http://127.0.0.1:"), "{text}");
    assert_eq!(text.matches("answered 404: image not found").count(), 2, "{text}");
    assert!(!error.is_transient(), "{text}");
}

#[test]
fn useless_answers_become_one_sentence_each() {
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{READY}\r\n0\r\n\r\n",
        READY.len()
    );
    let closing = format!("HTTP/1.1 200 OK\r\n\r\n{READY}");
    let short = format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{READY}");
    let json = "application/json";
    let table: Vec<(Act, Option<&str>, bool)> = vec![
        (Act::Raw(chunked.into_bytes()), None, false),
        (Act::Raw(closing.into_bytes()), None, false),
        (answer("200 OK", "application/json; charset=utf-8", READY), None, false),
        (Act::Raw(short.into_bytes()), Some("could not be reached"), true),
        (Act::Raw(Vec::new()), Some("could not be reached"), true),
        (Act::Raw(b"not http at all\r\n\r\n".to_vec()), Some("could not be reached"), true),
        (ok("{}garbage"), Some("not understood"), false),
        (ok("[]"), Some("not understood"), false),
        (ok(r#"{"id":7}"#), Some("not understood"), false),
        (
            answer(
                "401 Unauthorized",
                json,
                r#"{"status":401,"error":"your credential was used before","message":""}"#,
            ),
            Some("answered 401: your credential was used before"),
            false,
        ),
        (
            answer("401 Unauthorized", json, r#"{"detail":"Authentication Error"}"#),
            Some("401: Authentication Error"),
            false,
        ),
        (answer("404 Not Found", json, r#"{"status":404,"error":"None"}"#), Some("404: Not Found"), false),
        (answer("404 Not Found", json, "{\"error\":\"a\\u001b[2Jb\"}"), Some("404: a[2Jb"), false),
        (
            answer("500 Internal Server Error", "text/html", "<h1>no</h1>"),
            Some("500: Internal Server Error"),
            true,
        ),
        (answer("503 Service Unavailable", json, r#"{"error":"busy"}"#), Some("503: busy"), true),
        (
            Act::Raw(
                b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ),
            Some("answered 302: Found"),
            false,
        ),
    ];
    for (number, (act, expected, transient)) in table.into_iter().enumerate() {
        let server = serve(vec![act]);
        let result = client(&[&server.url]).lookup(docker("a:1"));
        match (result, expected) {
            (Ok(image), None) => assert_eq!(image.id.as_deref(), Some("a2fb"), "row {number}"),
            (Err(error), Some(expected)) => {
                assert!(error.to_string().contains(expected), "row {number}: {error}");
                assert_eq!(error.is_transient(), transient, "row {number}: {error}");
            }
            (result, _) => panic!("row {number}: {result:?}"),
        }
        assert_eq!(server.requests.lock().unwrap().len(), 1, "row {number}: asked again by itself");
    }
}

#[test]
fn a_silent_gateway_is_given_up_in_time() {
    let server = serve(vec![Act::Silence]);
    let mut config = config(&[&server.url]);
    config.timeout = Some(Duration::from_millis(300));
    let client = Client::new(&config, Box::new(|_| Ok(String::new()))).unwrap();
    let start = Instant::now();
    let error = client.images(&Filter::default()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(error.is_transient());
}

#[test]
fn an_endless_answer_is_cut_off() {
    let server = serve(vec![Act::Flood(MAX_ANSWER + 1024)]);
    let mut config = config(&[&server.url]);
    config.timeout = Some(Duration::from_secs(60));
    let client = Client::new(&config, Box::new(|_| Ok(String::new()))).unwrap();
    let error = client.images(&Filter::default()).unwrap_err();
    assert!(error.to_string().contains("sent more than 67108864 bytes"), "{error}");
}

#[test]
fn a_failing_munge_ends_the_operation_at_once() {
    let server = serve(vec![ok(READY)]);
    let mint: Mint<'_> = Box::new(|_| Err(MungeError::PayloadTooLarge { bytes: 9 }));
    let client = Client::new(&config(&[&server.url]), mint).unwrap();
    let error = client.images(&Filter::default()).unwrap_err();
    assert!(matches!(error, ClientError::Munge(_)) && !error.is_transient(), "{error:?}");
    let away = MungeError::Unavailable { socket: String::new(), cause: String::new() };
    assert!(ClientError::Munge(away).is_transient(), "munged may be restarted while a pull is polled");
    assert!(server.requests.lock().unwrap().is_empty(), "nothing may be sent without a credential");
}

#[test]
fn the_observer_sees_refusals_too() {
    let server = serve(vec![answer("403 Forbidden", "text/plain", "no")]);
    let seen = RefCell::new(Vec::new());
    let observer: Observer<'_> =
        Box::new(|gateway, status, body| seen.borrow_mut().push((gateway.to_owned(), status, body.to_vec())));
    client(&[&server.url]).observed_by(observer).images(&Filter::default()).unwrap_err();
    assert_eq!(*seen.borrow(), [(server.url.clone(), 403, b"no".to_vec())]);
}

#[test]
fn gateway_addresses_are_checked() {
    let table = [
        ("http://gw:5000", Ok("http://gw:5000")),
        ("gw:5000/", Ok("http://gw:5000")),
        ("HTTPS://gw//", Ok("https://gw")),
        ("http://[::1]:5000/base/", Ok("http://[::1]:5000/base")),
        ("", Err("no host")),
        ("http://", Err("names no host")),
        ("ftp://gw", Err("only http and https")),
        ("http:///etc", Err("no host")),
        ("http://gw/?q", Err("characters")),
        ("http://user@gw", Err("characters")),
        ("http://g w", Err("characters")),
    ];
    for (configured, expected) in table {
        match (base_url(configured), expected) {
            (Ok(url), Ok(expected)) => assert_eq!(url, expected),
            (Err(error), Err(cause)) => assert!(error.to_string().contains(cause), "{configured}: {error}"),
            (result, _) => panic!("{configured}: {result:?}"),
        }
    }
    let none = Client::new(&config(&[]), Box::new(|_| Ok(String::new()))).err().unwrap();
    assert!(none.to_string().contains("imageGateway"), "{none}");
}
