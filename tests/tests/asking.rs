//! `shifterimg` towards gateways, working and not: exit statuses, what is said, and how long it waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::site::{Site, local};
use shifter_tests::fixture::{Server, busybox_image};
use shifter_tests::harness::{Outcome, Sandbox};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn shifterimg(sandbox: &Sandbox, words: &[&str]) -> Outcome {
    sandbox.user("alice").unwrap().run(&[&["shifterimg"], words].concat()).unwrap()
}

/// A machine whose only gateway is this address.
fn machine_of(listener: &TcpListener) -> Sandbox {
    let mut sandbox = Sandbox::new().unwrap();
    sandbox.munged("site").unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    let keys = [("imageGateway", gateway.as_str()), ("system", "testsystem"), ("gatewayTimeout", "0")];
    sandbox.write_udiroot(&keys).unwrap();
    sandbox
}

#[test]
fn an_image_that_is_there_is_a_success_whoever_asks_again_and_however() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("x", "1", &built)], &[]).unwrap();
    let url = format!("http://{}", server.authority());
    let site = Site::new(|_| vec![local(&url)]);
    site.pull("alice", "local/x:1").success().unwrap();
    site.shifterimg("alice", &["pullnb", "docker:local/x:1"]).success().unwrap();
    let ignored = "--user and --group belong to pull and import and are ignored here";
    for words in [
        &["--user=bob", "images"][..],
        &["images", "--group", "physics"],
        &["lookup", "--user", "nosuchuser", "docker:local/x:1"],
    ] {
        let out = site.shifterimg("alice", words);
        assert!(out.status.success() && out.err().contains(ignored), "{}", out.describe());
        assert!(out.out().contains(built.id().get(..10).unwrap()), "{}", out.describe());
    }
    site.finish();
}

#[test]
fn proxies_of_the_environment_are_not_used_for_the_gateway() {
    let site = Site::new(|_| Vec::new());
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let mut alice = site.sandbox.user("alice").unwrap();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        alice = alice.env(name, &address);
    }
    alice.run(&["shifterimg", "images"]).unwrap().success().unwrap();
    assert!(proxy.accept().is_err(), "nobody asked the proxy");
    site.finish();
}

#[test]
fn images_without_tags_are_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = machine_of(&listener);
    let image = format!(
        r#"{{"id":"{}","system":"testsystem","itype":"docker","tag":[],"status":"READY"}}"#,
        "a".repeat(64)
    );
    let gateway = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let body = format!(r#"{{"list":[{image}]}}"#);
        let length = body.len();
        write!(client, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
    });
    let out = shifterimg(&sandbox, &["images"]);
    gateway.join().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", out.describe());
    assert!(out.out().is_empty() && out.err().is_empty(), "{}", out.describe());
    sandbox.finish().unwrap();
}

#[test]
fn a_gateway_that_does_not_take_the_connection_is_given_up_after_ten_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = machine_of(&listener);
    // A full queue: the kernel then drops what else wants to connect (listen(2)).
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the queue does not fill");
    }
    let begin = Instant::now();
    let said = shifterimg(&sandbox, &["images"]).failure(1).unwrap();
    let took = begin.elapsed().as_secs_f64();
    assert!((9.5..15.0).contains(&took), "{took} s: {said}");
    assert!(said.contains(&address.to_string()) && said.trim().lines().count() == 1, "{said}");
    sandbox.finish().unwrap();
}
