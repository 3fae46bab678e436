//! `bench/gateway`'s driver: a gateway with munge and 10,000 images in its catalog, on SQLite and on PostgreSQL; eight
//! clients that look up, interleaved with the same clients only encoding and decoding, and while it converts an image;
//! lists; clients that wait for pulls by long poll.
//!
//! Everything lies in the test suite's sandbox and goes with it. It builds nothing (the script does) and judges nothing.

mod converting;
mod munge;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use shifter_tests::harness::{Gateway, GatewayOptions, Location, RegistryOptions, Sandbox};

use crate::munge::Munge;

const IMAGES: usize = 10_000;
/// Those of them that are looked up.
const WANTED: usize = 1000;
const CLIENTS: usize = 8;
const WAITING: usize = 1000;
/// Pulls that they wait for.
const PULLS: usize = 50;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench/gateway: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let full = std::env::args().skip(1).any(|word| word == "--full");
    // 1 GiB, or what can be made in a few seconds.
    let (rounds, layers) = if full { (15, 16) } else { (3, 1) };
    let mut sandbox = Sandbox::new()?;
    let munged = sandbox.munged("site")?;
    let munge = Munge::load()?;
    // A registry that takes connections and never answers: pulls that wait for it go on.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", silent.local_addr()?);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        held.extend(silent.incoming().flatten());
    });
    let registry = sandbox.registry(RegistryOptions::default())?;
    sandbox.push(&registry, &converting::image(layers)?, converting::REPOSITORY, converting::TAG)?;
    let postgres = sandbox.postgres()?;
    let mut figures = Map::new();
    println!(
        "{:<12} {:>10} {:>10} {:>8} {:>8} {:>10} {:>9} {:>9} {:>9}  p99 ms while an image is made",
        "catalog", "lookups/s", "munge/s", "ratio", "p99 ms", "list ms", "idle MiB", "waiting %", "polling %"
    );
    for backend in ["sqlite", "postgres"] {
        let directory = sandbox.new_directory(backend)?;
        let account = fs::metadata("/home/gateway").context("the gateway's home")?;
        let owner = std::os::unix::fs::MetadataExt::uid(&account);
        chown(&directory, Some(owner), Some(owner))?;
        let uri = match backend {
            "sqlite" => format!("sqlite://{}/images.db", directory.display()),
            _ => postgres.uri.clone(),
        };
        fill(&sandbox, &directory.join("export.json"), &uri)?;
        let mut more = Map::new();
        more.insert("DatabaseURI".to_owned(), json!(uri));
        more.insert("LogLevel".to_owned(), json!("warn"));
        let location =
            |name: &str, url: &str| Location { name: name.to_owned(), url: url.to_owned(), ca: None };
        let locations = vec![location("silent", &url), location("local", &registry.url)];
        let options = GatewayOptions { locations, more, ..GatewayOptions::default() };
        let gateway = sandbox.gateway(&munged, &options)?;
        let figure = measure(&sandbox, &gateway, &munge, rounds)?;
        println!("{backend:<12} {}", figure.line());
        figures.insert(backend.to_owned(), figure.json());
        // It would wait for its pulls, which never end.
        sandbox.kill(gateway.daemon)?;
    }
    sandbox.stop_postgres(&postgres)?;
    sandbox.finish()?;
    println!("{}", json!({ "bench": "gateway", "figures": figures }));
    Ok(())
}

/// Puts the images into a catalog, by way of what mongoexport would write.
fn fill(sandbox: &Sandbox, export: &std::path::Path, uri: &str) -> Result<()> {
    let mut text = String::new();
    for number in 0..IMAGES {
        let image = json!({
            "_id": { "$oid": format!("{number:024x}") }, "id": format!("{number:064x}"), "system": "testsystem",
            "itype": "docker", "pulltag": tag(number), "tag": [tag(number)], "status": "READY", "format": "squashfs",
            "userACL": [], "groupACL": [], "private": false, "ENV": ["PATH=/usr/bin:/bin"], "ENTRY": ["/bin/sh"],
            "last_pull": 1.8e9, "expiration": 4.0e9
        });
        text.push_str(&image.to_string());
        text.push('\n');
    }
    fs::write(export, text)?;
    let program = sandbox.program("shifter-imagegw")?.display().to_string();
    let export = export.display().to_string();
    sandbox.user("gateway")?.run(&[&program, "migrate", "--from", &export, "--to", uri])?.success()?;
    Ok(())
}

fn tag(number: usize) -> String {
    format!("silent/bench/image{number:05}:1")
}

struct Figures {
    lookups: f64,
    munge: f64,
    p99: f64,
    list: f64,
    idle: f64,
    waiting: f64,
    polling: f64,
    converting: converting::Seen,
}

impl Figures {
    fn line(&self) -> String {
        let ratio = self.lookups / self.munge;
        format!(
            "{:>10.0} {:>10.0} {ratio:>8.2} {:>8.2} {:>10.1} {:>9.1} {:>9.1} {:>9.0}  {:.2} ({:.1} s)",
            self.lookups,
            self.munge,
            self.p99,
            self.list,
            self.idle,
            self.waiting,
            self.polling,
            self.converting.p99,
            self.converting.seconds
        )
    }

    fn json(&self) -> Value {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "lookups_per_s": self.lookups.round(), "lookup_over_munged_limit": rounded(self.lookups / self.munge),
            "lookup_p99_ms": rounded(self.p99), "list_10000_ms": rounded(self.list),
            "idle_rss_mib": rounded(self.idle), "waiting_clients_cpu": rounded(self.waiting),
            "polling_clients_cpu": rounded(self.polling),
            "converting_lookup_p99_ms": rounded(self.converting.p99),
            "converting_s": rounded(self.converting.seconds),
        })
    }
}

fn measure(sandbox: &Sandbox, gateway: &Gateway, munge: &Munge, rounds: usize) -> Result<Figures> {
    let pid = sandbox.pid(gateway.daemon)?;
    ask(gateway, munge, "GET", &lookup(0))?;
    let idle = resident(pid)?;
    // The first lookup of an image that came by migration sets its expiration; what counts is the days after.
    let next = AtomicUsize::new(0);
    together(Duration::from_secs(30), |_| match next.fetch_add(1, Ordering::Relaxed) {
        number if number < WANTED => {
            ask(gateway, munge, "GET", &lookup(number * (IMAGES / WANTED))).map(|_| true)
        }
        _ => Ok(false),
    })?;
    let (mut lookups, mut limits, mut times, mut lists) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (rate, took) = together(Duration::from_secs(1), |number| {
            ask(gateway, munge, "GET", &lookup((number * 7919 + round) % WANTED * (IMAGES / WANTED)))
                .map(|_| true)
        })?;
        lookups.push(rate);
        times.extend(took);
        let (rate, _) = together(Duration::from_secs(1), |_| {
            munge.encode().and_then(|one| munge.decode(&one)).map(|_| true)
        })?;
        limits.push(rate);
        let begun = Instant::now();
        let length = ask(gateway, munge, "GET", "/api/list/testsystem/")?;
        ensure!(length > IMAGES * 100, "the list is only {length} bytes");
        lists.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default() * 1000.0;
    let looked_up = |number: usize| number * 7919 % WANTED * (IMAGES / WANTED);
    let converting = converting::measure(gateway, munge, looked_up)?;
    let waiting = waiting(gateway, munge, pid, WAITING, Manner::Ours)?;
    let polling = waiting_some(gateway, munge, pid)?;
    let (lookups, munge, list) = (median(lookups), median(limits), median(lists));
    Ok(Figures { lookups, munge, p99, list, idle, waiting, polling, converting })
}

fn lookup(number: usize) -> String {
    format!("/api/lookup/testsystem/docker/{}/", tag(number).replace('/', "%2F").replace(':', "%3A"))
}

/// Times per second and seconds of each, of all clients together, until there is no more to do or the time is over.
fn together(time: Duration, work: impl Fn(usize) -> Result<bool> + Sync) -> Result<(f64, Vec<f64>)> {
    let end = Instant::now() + time;
    let client = |client: usize| {
        let mut times = Vec::new();
        while Instant::now() < end {
            let begun = Instant::now();
            if !work(client * 1_000_003 + times.len())? {
                break;
            }
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(times)
    };
    let client = &client;
    let done: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let failed = |_| Err(anyhow::anyhow!("a client panicked"));
        clients.into_iter().map(|client| client.join().unwrap_or_else(failed)).collect()
    });
    let mut times = Vec::new();
    for one in done {
        times.extend(one?);
    }
    Ok((times.len() as f64 / time.as_secs_f64(), times))
}

/// One request with a fresh credential on a connection of its own, as clients make them; the answer's length.
fn ask(gateway: &Gateway, munge: &Munge, method: &str, target: &str) -> Result<usize> {
    answer(gateway, munge, method, target).map(|answer| answer.len())
}

/// The same; the whole answer.
fn answer(gateway: &Gateway, munge: &Munge, method: &str, target: &str) -> Result<String> {
    let credential = munge.encode()?;
    let credential = credential.to_str()?;
    let mut stream = TcpStream::connect(&gateway.authority)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: gateway\r\nauthentication: {credential}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!(
            "{method} {target}: {}",
            String::from_utf8_lossy(&answer).chars().take(300).collect::<String>()
        );
    }
    String::from_utf8(answer).context("the answer is not text")
}

/// How clients wait.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// As `shifterimg` in job scripts: held for half a minute.
    Ours,
    /// As the original's client: asked anew twice a second.
    Polling,
}

/// What as many old clients would need, told by a tenth of them.
fn waiting_some(gateway: &Gateway, munge: &Munge, pid: u32) -> Result<f64> {
    Ok(waiting(gateway, munge, pid, WAITING / 10, Manner::Polling)? * 10.0)
}

/// Percent of a processor that the gateway needs while clients wait for pulls that do not move.
fn waiting(gateway: &Gateway, munge: &Munge, pid: u32, clients: usize, manner: Manner) -> Result<f64> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..clients {
            let over = &over;
            let wait = move || {
                let name = format!("silent%2Fwaiting{}%3A1", number % PULLS);
                let mut seen = String::new();
                while !over.load(Ordering::Relaxed) {
                    if manner == Manner::Polling {
                        // Answers are of no interest: what was asked for is never ready.
                        let _ = ask(gateway, munge, "POST", &format!("/api/pull/testsystem/docker/{name}/"));
                        std::thread::sleep(Duration::from_millis(500));
                        continue;
                    }
                    let target = format!("/api/pull/testsystem/docker/{name}/?wait=30{seen}");
                    match state(gateway, munge, &target, over) {
                        Ok(state) => seen = format!("&seen={state}"),
                        Err(_) => std::thread::sleep(Duration::from_millis(200)),
                    }
                }
            };
            let spawned = std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, wait);
            spawned.context("start a waiting client")?;
        }
        std::thread::sleep(Duration::from_millis(1500));
        let (before, begun) = (processor_time(pid)?, Instant::now());
        std::thread::sleep(Duration::from_secs(3));
        let used = processor_time(pid)? - before;
        let percent = used / begun.elapsed().as_secs_f64() * 100.0;
        over.store(true, Ordering::Relaxed);
        Ok(percent)
    })
}

/// The state that a held request is answered with, unless the measurement is over before.
fn state(gateway: &Gateway, munge: &Munge, target: &str, over: &AtomicBool) -> Result<String> {
    let credential = munge.encode()?;
    let mut stream = TcpStream::connect(&gateway.authority)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(
        stream,
        "POST {target} HTTP/1.1\r\nHost: gateway\r\nauthentication: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        credential.to_str()?
    )?;
    let mut answer = Vec::new();
    while let Err(error) = stream.read_to_end(&mut answer) {
        ensure!(error.kind() == ErrorKind::WouldBlock && !over.load(Ordering::Relaxed), "no answer: {error}");
    }
    let answer = String::from_utf8(answer)?;
    let body = answer.split_once("\r\n\r\n").context("the answer has no body")?.1;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["state"].as_str().context("the answer has no state")?.to_owned())
}

/// Seconds of processor time that a process has used (proc_pid_stat(5), fields 14 and 15).
fn processor_time(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit_once(") ").context("stat has no name")?.1;
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// MiB in memory.
fn resident(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
