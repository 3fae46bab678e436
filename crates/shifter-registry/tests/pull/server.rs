//! A scripted HTTP/1.1 server on a free port: one closure answers, every request is recorded.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as received; header names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// An answer, honest or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after that many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Leave `Content-Length` out.
    pub(crate) unmeasured: bool,
    /// The length to state instead of the true one.
    pub(crate) claim: Option<usize>,
    /// Hang up without a word.
    pub(crate) mute: bool,
    /// Wait between two halves of the body.
    pub(crate) pause: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

/// A running server; stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// `answer` gets the request and how many requests for the same method and path came before it.
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let (thread_log, thread_stop) = (Arc::clone(&log), Arc::clone(&stop));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if thread_stop.load(Ordering::SeqCst) {
                    return;
                }
                let (log, answer) = (Arc::clone(&thread_log), Arc::clone(&answer));
                // A client that goes away early is part of the play.
                std::thread::spawn(move || connection.and_then(|c| serve(c, &log, &*answer)));
            }
        });
        Self { address, log, stop }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Number of requests whose path contains `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }
}

/// Asks `upstream`, `host:port`, what `request` asks, over a connection of its own. Answers must state their length.
pub(crate) fn forward(upstream: &str, request: &Request) -> Reply {
    let mut stream = TcpStream::connect(upstream).unwrap();
    let mut text =
        format!("{} {} HTTP/1.1\r\nHost: {upstream}\r\nConnection: close\r\n", request.method, request.path);
    for (name, value) in request.headers.iter().filter(|(n, _)| n != "host" && n != "connection") {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap().to_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut reply = Reply::new(status, answer.split_off(end + 4));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name.to_ascii_lowercase().as_str() {
            "connection" => {}
            "content-length" if request.method == "HEAD" => reply.claim = value.parse().ok(),
            "content-length" => assert_eq!(value, reply.body.len().to_string(), "{head}"),
            _ => reply.headers.push((name.to_owned(), value.to_owned())),
        }
    }
    reply
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request, usize) -> Reply,
) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut line = || {
        let mut line = String::new();
        input.read_line(&mut line).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        headers: Vec::new(),
        body: String::new(),
    };
    while let Some((name, value)) = line()?.split_once(':') {
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    let before = {
        let mut log = log.lock().unwrap();
        let same = |r: &&Request| r.method == request.method && r.path == request.path;
        let before = log.iter().filter(same).count();
        log.push(request.clone());
        before
    };
    let reply = answer(&request, before);
    if reply.mute {
        return Ok(());
    }
    let mut out = stream;
    write!(out, "HTTP/1.1 {} Scripted\r\nConnection: close\r\n", reply.status)?;
    if !reply.unmeasured {
        write!(out, "Content-Length: {}\r\n", reply.claim.unwrap_or(reply.body.len()))?;
    }
    for (name, value) in &reply.headers {
        write!(out, "{name}: {value}\r\n")?;
    }
    write!(out, "\r\n")?;
    if request.method != "HEAD" {
        let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
        let (one, two) = body.split_at(body.len() / 2);
        out.write_all(one)?;
        out.flush()?;
        std::thread::sleep(reply.pause);
        out.write_all(two)?;
    }
    out.flush()
}
