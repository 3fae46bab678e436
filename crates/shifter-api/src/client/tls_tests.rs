//! `https` gateways against a real TLS server (`openssl s_server`) with certificates made for the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::wire::Image;

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .expect("these tests need the openssl command");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `NAME.pem` and `NAME.key`: an authority, or a certificate for 127.0.0.1 signed by one.
fn certificate(directory: &Path, name: &str, authority: Option<&str>) {
    let common = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
         -keyout {name}.key -out {name}.pem"
    );
    let own = match authority {
        None => String::new(),
        Some(ca) => format!(
            " -CA {ca}.pem -CAkey {ca}.key -addext basicConstraints=critical,CA:FALSE \
             -addext subjectAltName=IP:127.0.0.1"
        ),
    };
    openssl(directory, &format!("{common}{own}"));
}

/// A TLS server that sends `answer` to whoever connects.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(directory: &Path, answer: &str) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("openssl")
            .args(["s_server", "-cert", "gw.pem", "-key", "gw.key", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A trial connection would take the answer meant for the client, so its own word is waited for.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "ACCEPT" {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "openssl s_server did not start");
        }
        // It may write on; nobody is to be blocked by a full pipe.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        // Sent once a client is there; the pipe stays open, because its end would end the server.
        child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        Server { child, url: format!("https://127.0.0.1:{port}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(url: &str, ca_bundle: &Path) -> Result<Vec<Image>, ClientError> {
    let config = ClientConfig {
        gateways: vec![url.to_owned()],
        system: "sysa".to_owned(),
        timeout: Some(Duration::from_secs(10)),
        ca_bundle: Some(ca_bundle.to_owned()),
    };
    Client::new(&config, Box::new(|_| Ok("MUNGE:x:".to_owned())))?.images(&Filter::default())
}

#[test]
fn a_private_authority_is_believed_and_a_strange_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    certificate(at, "ca", None);
    certificate(at, "other", None);
    certificate(at, "gw", Some("ca"));
    let body = r#"{"list":[{"id":"00","tag":["a:1"]}]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());

    let server = Server::start(at, &answer);
    assert_eq!(ask(&server.url, &at.join("ca.pem")).unwrap()[0].tag, ["a:1"]);

    let server = Server::start(at, &answer);
    let error = ask(&server.url, &at.join("other.pem")).unwrap_err().to_string();
    assert!(error.contains("could not be reached") && error.contains("certificate"), "{error}");
}

#[test]
fn an_authority_s_certificate_and_a_missing_https_are_told_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    certificate(at, "gw", None);
    let server = Server::start(at, "");
    let error = ask(&server.url, &at.join("gw.pem")).unwrap_err().to_string();
    assert!(error.contains("CA:FALSE") && !error.contains("OtherError"), "{error}");

    // As servers answer a request without TLS; openssl's hangs up instead.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 50]);
    });
    let error = ask(&plain, &at.join("gw.pem")).unwrap_err().to_string();
    assert!(error.contains("imageGateway must begin with https://"), "{error}");
}

#[test]
fn unusable_authorities_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.pem");
    let error = ask("https://localhost", &missing).unwrap_err().to_string();
    assert!(error.contains("missing.pem") && error.contains("No such file"), "{error}");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here\n").unwrap();
    let error = ask("https://localhost", &empty).unwrap_err().to_string();
    assert!(error.contains("empty.pem: it holds no certificate"), "{error}");
}
