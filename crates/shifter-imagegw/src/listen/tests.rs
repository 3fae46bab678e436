//! Clients that take their time, alone and by the hundred.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n";

async fn ask(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A head that never ends.
const BEGINNING: &[u8] = b"GET / HTTP/1.1\r\nHost: g";

/// More than any of these takes.
const LONG: Duration = Duration::from_secs(60);

/// Serves until the sender is dropped or told.
async fn start(router: Router, limits: Limits) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, router, stopped, limits));
    (address, stop)
}

fn hello() -> Router {
    Router::new().fallback(|| async { "hello" })
}

/// A connection from one of the addresses that are all this machine.
async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// ST42.
#[tokio::test]
async fn silent_connections_are_closed_and_the_listener_ends_when_it_is_told() {
    let limits = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
    let (address, stop) = start(hello(), limits).await;
    for said in [&b""[..], BEGINNING] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(said).await.unwrap();
        let begun = Instant::now();
        let mut rest = Vec::new();
        timeout(LONG, silent.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    }
    assert!(ask(address).await.ends_with("hello"));
    stop.send_replace(true);
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < LONG, "somebody still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// ST42.
#[tokio::test]
async fn a_head_that_comes_byte_by_byte_does_not_keep_its_connection() {
    let limits = Limits { head_timeout: Duration::from_millis(500), ..Limits::default() };
    let (address, _stop) = start(hello(), limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(BEGINNING).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let drip = async {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    let closed = async { drop(reader.read_to_end(&mut answer).await) };
    let both = async {
        tokio::select! { () = drip => {}, () = closed => {} }
    };
    timeout(LONG, both).await.expect("it is closed although it is never silent");
}

/// ST42.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_connections_one_host_leaves_unfinished_others_are_answered() {
    let release = Arc::new(Notify::new());
    let waiting = Arc::new(Notify::new());
    let (held, begun) = (release.clone(), waiting.clone());
    let router = Router::new()
        .route(
            "/wait",
            axum::routing::any(async move |request: Request| {
                request.extensions().get::<Arrival>().unwrap().is_whole();
                begun.notify_one();
                held.notified().await;
                "hello"
            }),
        )
        .fallback(|| async { "hello" });
    // Without giving way, the first honest client would be answered after this time.
    let limits = Limits { connections: 40, head_timeout: Duration::from_secs(600), ..Limits::default() };
    let (address, _stop) = start(router, limits).await;

    // A client on the very host of those who flood, whose pull takes its time.
    let mut patient = connect_from("127.0.0.2", address).await;
    patient.write_all(b"GET /wait HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n").await.unwrap();
    timeout(LONG, waiting.notified()).await.unwrap();

    let mut flood = JoinSet::new();
    for number in 0..200 {
        flood.spawn(async move {
            loop {
                let mut stream = connect_from("127.0.0.2", address).await;
                let bytes = if number % 2 == 0 { BEGINNING } else { b"" };
                let mut answer = Vec::new();
                let _ = stream.write_all(bytes).await;
                let _ = stream.read_to_end(&mut answer).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    let mut honest = JoinSet::new();
    for _ in 0..8 {
        honest.spawn(async move {
            for _ in 0..25 {
                assert!(ask(address).await.ends_with("hello"));
            }
        });
    }
    let all = async { while honest.join_next().await.map(Result::unwrap).is_some() {} };
    timeout(LONG, all).await.expect("others are answered");
    release.notify_one();
    let mut answer = String::new();
    timeout(LONG, patient.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with("hello"), "whose request is whole loses nothing: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_slow_clients_of_one_host_as_there_are_places_are_all_answered() {
    let (address, _stop) = start(hello(), Limits { connections: 100, ..Limits::default() }).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(BEGINNING).await.unwrap();
        streams.push(stream);
    }
    for mut stream in streams {
        stream.write_all(b"w\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
}

#[tokio::test]
async fn who_stops_sending_after_the_request_still_hears_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "hello"
    };
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, Router::new().fallback(slow), stopped, Limits::default()));
    // Also where the connection could be kept: nobody can ask again.
    for request in [REQUEST, b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
}
