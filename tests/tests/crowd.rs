//! Two hundred clients at once, while gateways, workers and the database are killed: in the end every accepted pull has
//! come to READY or to FAILURE with a reason, and image directory, catalog and what each user sees are one.
//!
//! `SHIFTER_TEST_SECONDS` says for how long, `SHIFTER_TEST_SEED` repeats the same choices (not the same
//! timing); `cargo xtask soak gateway` runs ten minutes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::site::{Site, local, names, noise};
use serde_json::{Value, json};
use shifter_tests::fixture::{Compression, Image, Layer, Target, digest_of, dir, file, push, request};
use shifter_tests::harness::{
    DaemonId, Gateway, GatewayOptions, Location, Minter, Postgres, RegistryOptions,
};

const CLIENTS: u32 = 200;

/// Users, each with five clients. The first quarter has the private registry's password.
const USERS: u32 = 40;
const INSIDERS: u32 = 10;
const FIRST_UID: u32 = 20_000;

const WORKERS: usize = 8;

/// How long a pull may take with all that happens to it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than a lease: who sleeps so long is thought dead.
const FROZEN: Duration = Duration::from_secs(18);

/// Choices that a seed repeats (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// An image that may be pulled from some moment on.
struct Known {
    tag: String,
    id: String,
    is_private: bool,
    from: Duration,
}

#[derive(Default)]
struct Counts {
    pulls: AtomicU64,
    polls: AtomicU64,
    lookups: AtomicU64,
    lists: AtomicU64,
    queues: AtomicU64,
    /// Requests that met a killed gateway, or were told to come back.
    turned_away: AtomicU64,
    slowest_pull_ms: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all clients share.
struct Crowd {
    gateways: Vec<String>,
    minter: Minter,
    images: Vec<Known>,
    begun: Instant,
    is_over: AtomicBool,
    counts: Counts,
    /// Pulls that were READY: user and image.
    ready: Mutex<BTreeSet<(u32, usize)>>,
    broken: Mutex<Vec<String>>,
}

fn is_insider(uid: u32) -> bool {
    uid < FIRST_UID + INSIDERS
}

fn path(verb: &str, tag: &str) -> String {
    format!("/api/{verb}/testsystem/docker/{}/", tag.replace('/', "%2F").replace(':', "%3A"))
}

impl Crowd {
    fn complain(&self, what: String) {
        let mut broken = self.broken.lock().unwrap();
        if broken.len() < 20 {
            broken.push(format!("{:?}: {what}", self.begun.elapsed()));
        }
    }

    /// One answer, from whichever gateway is up; none if nobody answered in time.
    fn ask(&self, dice: &mut Dice, uid: u32, method: &str, path: &str) -> Option<(u16, Value)> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let payload = match is_insider(uid) {
                true => r#"{"authorized_locations":{"locked":"alice:secret"}}"#,
                false => "",
            };
            let credential = self.minter.mint(uid, payload).unwrap();
            let gateway = &self.gateways[dice.below(self.gateways.len() as u64) as usize];
            let answer = request(gateway, method, path, &[("authentication", &credential)], b"");
            match answer {
                Ok(answer) if answer.status != 503 => {
                    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
                    return Some((answer.status, body));
                }
                Ok(answer) if answer.header("retry-after").is_none() => {
                    self.complain(format!("{path}: 503 without Retry-After"));
                }
                _ => {}
            }
            count(&self.counts.turned_away);
            sleep(Duration::from_millis(200 + dice.below(300)));
        }
        self.complain(format!("uid {uid}: no answer to {method} {path} in {PATIENCE:?}"));
        None
    }

    fn is_ready_for_all(&self, image: usize) -> bool {
        !self.images[image].is_private && self.ready.lock().unwrap().iter().any(|(_, ready)| *ready == image)
    }

    fn is_ready_for(&self, uid: u32, image: usize) -> bool {
        self.is_ready_for_all(image) || self.ready.lock().unwrap().contains(&(uid, image))
    }

    fn pull(&self, dice: &mut Dice, uid: u32, image: usize) {
        let known = &self.images[image];
        let asked = Instant::now();
        count(&self.counts.pulls);
        let (status, record) = loop {
            count(&self.counts.polls);
            let Some((status, record)) = self.ask(dice, uid, "POST", &path("pull", &known.tag)) else {
                return;
            };
            let state = record["status"].as_str().unwrap_or_default().to_owned();
            if status != 200 || matches!(state.as_str(), "READY" | "FAILURE") {
                break (status, record);
            }
            if asked.elapsed() > PATIENCE {
                self.complain(format!("uid {uid}: the pull of {} is stuck: {record}", known.tag));
                return;
            }
            sleep(Duration::from_millis(400 + dice.below(300)));
        };
        let ms = u64::try_from(asked.elapsed().as_millis()).unwrap();
        self.counts.slowest_pull_ms.fetch_max(ms, Ordering::Relaxed);
        let may = !known.is_private || is_insider(uid);
        let why = record["status_message"].as_str().unwrap_or_default();
        match (status, record["status"].as_str(), may) {
            (200, Some("READY"), true) if record["id"] == known.id.as_str() => {
                self.ready.lock().unwrap().insert((uid, image));
                self.lookup(dice, uid, image);
            }
            (200, Some("FAILURE"), false) if !why.is_empty() => {}
            _ => self.complain(format!("uid {uid}: the pull of {} ended as {status} {record}", known.tag)),
        }
    }

    fn lookup(&self, dice: &mut Dice, uid: u32, image: usize) {
        let known = &self.images[image];
        let must = self.is_ready_for(uid, image);
        count(&self.counts.lookups);
        let Some((status, record)) = self.ask(dice, uid, "GET", &path("lookup", &known.tag)) else { return };
        let may = !known.is_private || is_insider(uid);
        match status {
            200 if may && record["id"] == known.id.as_str() => {}
            404 if !must => {}
            _ => self.complain(format!("uid {uid}: {} is {status} {record} (must: {must})", known.tag)),
        }
    }

    /// The ids that a user sees.
    fn list(&self, dice: &mut Dice, uid: u32) -> BTreeSet<String> {
        count(&self.counts.lists);
        let Some((status, body)) = self.ask(dice, uid, "GET", "/api/list/testsystem/") else {
            return BTreeSet::new();
        };
        let mut seen = BTreeSet::new();
        for entry in body["list"].as_array().into_iter().flatten() {
            let id = entry["id"].as_str().unwrap_or_default();
            let known = self.images.iter().find(|known| known.id == id);
            if !known.is_some_and(|known| !known.is_private || is_insider(uid)) {
                self.complain(format!("uid {uid} sees {entry}"));
            }
            if !seen.insert(id.to_owned()) {
                self.complain(format!("uid {uid} sees {id} twice"));
            }
        }
        if status != 200 {
            self.complain(format!("uid {uid}: the list is {status} {body}"));
        }
        seen
    }

    fn queue(&self, dice: &mut Dice, uid: u32) -> usize {
        count(&self.counts.queues);
        let Some((status, body)) = self.ask(dice, uid, "GET", "/api/queue/testsystem/") else { return 0 };
        match (status, body["list"].as_array()) {
            (200, Some(list)) => list.len(),
            _ => {
                self.complain(format!("uid {uid}: the queue is {status} {body}"));
                0
            }
        }
    }

    /// What one client does until the end, and then to the end of its last pull.
    fn client(&self, number: u32, seed: u64) {
        let mut dice = Dice::new(seed ^ u64::from(number + 1) << 20);
        let uid = FIRST_UID + number % USERS;
        while !self.is_over.load(Ordering::Relaxed) {
            let there = self.images.iter().filter(|image| image.from <= self.begun.elapsed()).count() as u64;
            // Mostly what came last.
            let image = match dice.below(3) {
                0 => dice.below(there) as usize,
                _ => there.saturating_sub(1 + dice.below(4)) as usize,
            };
            match dice.below(10) {
                0..=4 => self.pull(&mut dice, uid, image),
                5..=7 => self.lookup(&mut dice, uid, image),
                8 => drop(self.list(&mut dice, uid)),
                _ => drop(self.queue(&mut dice, uid)),
            }
            sleep(Duration::from_millis(100 + dice.below(900)));
        }
    }
}

/// The machines: gateways, workers and the database.
struct Machines {
    site: Site,
    more: Vec<Gateway>,
    workers: Vec<DaemonId>,
    postgres: Option<Postgres>,
    frozen: Option<(usize, Instant)>,
    harm: BTreeMap<&'static str, u32>,
}

impl Machines {
    fn new(postgres: bool) -> (Self, String, String) {
        let mut database = None;
        let mut registries = None;
        let mut site = Site::with(|sandbox| {
            let open = sandbox.registry(RegistryOptions::default()).unwrap();
            let login = Some(("alice", "secret"));
            let locked = sandbox.registry(RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
            let locations = vec![
                local(&open.url),
                Location { name: "locked".to_owned(), url: locked.url.clone(), ca: None },
            ];
            registries = Some((open, locked));
            let mut options = GatewayOptions { locations, ..GatewayOptions::default() };
            options.more.insert("PullUpdateTimeout".into(), json!(0));
            options.more.insert("LogLevel".into(), json!("info"));
            if postgres {
                let server = sandbox.postgres().unwrap();
                options.more.insert("DatabaseURI".into(), json!(server.uri));
                options.more.insert("WorkerThreads".into(), json!(0));
                options.more.insert("SealKeyFile".into(), json!(sandbox.seal_key().unwrap()));
                database = Some(server);
            }
            options
        });
        let (mut more, mut workers) = (Vec::new(), Vec::new());
        if postgres {
            more.push(site.sandbox.another(&site.gateway).unwrap());
            workers = (0..WORKERS).map(|_| site.sandbox.worker(&site.gateway, 1).unwrap()).collect();
        }
        let (open, locked) = registries.unwrap();
        let machines = Self { site, more, workers, postgres: database, frozen: None, harm: BTreeMap::new() };
        (machines, open.authority, locked.authority)
    }

    /// Does some harm, and repairs it.
    fn harm(&mut self, dice: &mut Dice) {
        if let Some((worker, since)) = self.frozen
            && since.elapsed() > FROZEN
        {
            self.site.sandbox.freeze(self.workers[worker], false).unwrap();
            self.frozen = None;
        }
        let kind = match (self.postgres.is_some(), dice.below(10)) {
            (false, _) | (true, 0..=2) => self.kill_gateway(dice),
            (true, 3..=5) => self.end_worker(dice, true),
            (true, 6) => self.end_worker(dice, false),
            (true, 7) if self.frozen.is_none() => self.freeze_worker(dice),
            (true, _) => self.crash_database(),
        };
        *self.harm.entry(kind).or_default() += 1;
    }

    fn kill_gateway(&mut self, dice: &mut Dice) -> &'static str {
        let second = dice.below(1 + self.more.len() as u64) as usize;
        let Self { site, more, .. } = self;
        let gateway = match second {
            0 => &mut site.gateway,
            other => &mut more[other - 1],
        };
        site.sandbox.kill(gateway.daemon).unwrap();
        sleep(Duration::from_millis(dice.below(500)));
        site.sandbox.restart(gateway).unwrap();
        "gateways killed"
    }

    fn end_worker(&mut self, dice: &mut Dice, is_kill: bool) -> &'static str {
        let mut number = dice.below(self.workers.len() as u64) as usize;
        if self.frozen.is_some_and(|(frozen, _)| frozen == number) {
            number = (number + 1) % self.workers.len();
        }
        let sandbox = &mut self.site.sandbox;
        match is_kill {
            true => sandbox.kill(self.workers[number]).unwrap(),
            false => sandbox.stop(self.workers[number]).unwrap(),
        }
        sleep(Duration::from_millis(dice.below(2000)));
        self.workers[number] = sandbox.worker(&self.site.gateway, 1).unwrap();
        if is_kill { "workers killed" } else { "workers stopped" }
    }

    fn freeze_worker(&mut self, dice: &mut Dice) -> &'static str {
        let number = dice.below(self.workers.len() as u64) as usize;
        self.site.sandbox.freeze(self.workers[number], true).unwrap();
        self.frozen = Some((number, Instant::now()));
        "workers asleep for longer than a lease"
    }

    fn crash_database(&mut self) -> &'static str {
        let postgres = self.postgres.as_mut().unwrap();
        self.site.sandbox.crash_postgres(postgres).unwrap();
        sleep(Duration::from_secs(1));
        self.site.sandbox.restart_postgres(postgres).unwrap();
        "databases crashed"
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Builds images and puts them into the registries; every fifth is private.
fn images(open: &str, locked: &str, duration: Duration) -> Vec<Known> {
    let count = 20 + duration.as_secs() / 10 - 3;
    let image = |number: u64| {
        let is_private = number % 5 == 4;
        // All share a layer, as images do.
        let base = Layer::new(vec![dir("."), file("base", noise(300_000, 1))]).compressed(Compression::Gzip);
        let own = Layer::new(vec![file("own", noise(100_000, number + 2))]);
        let built = Image::new(vec![base, own]).build().unwrap();
        let (name, authority) = if is_private { ("locked", locked) } else { ("local", open) };
        let mut target = Target::parse(&format!("{authority}/i{number}:1")).unwrap();
        target.login = is_private.then(|| ("alice".to_owned(), "secret".to_owned()));
        push(&built, &target).unwrap();
        let from = duration.mul_f64(number as f64 / count as f64 * 0.9);
        Known { tag: format!("{name}/i{number}:1"), id: built.id().to_owned(), is_private, from }
    };
    (0..count).map(image).collect()
}

fn run(is_postgres: bool) {
    let duration = Duration::from_secs(number("SHIFTER_TEST_SECONDS").unwrap_or(30));
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("SHIFTER_TEST_SEED").unwrap_or_else(by_clock);
    println!("SHIFTER_TEST_SEED={seed}, {} s", duration.as_secs());
    let (mut machines, open, locked) = Machines::new(is_postgres);
    let images = images(&open, &locked, duration);
    let gateways = std::iter::once(&machines.site.gateway).chain(&machines.more);
    let crowd = Arc::new(Crowd {
        gateways: gateways.map(|gateway| gateway.authority.clone()).collect(),
        minter: machines.site.sandbox.minter(&machines.site.munged).unwrap(),
        images,
        begun: Instant::now(),
        is_over: AtomicBool::new(false),
        counts: Counts::default(),
        ready: Mutex::default(),
        broken: Mutex::default(),
    });
    let client = |number| {
        let crowd = crowd.clone();
        std::thread::Builder::new().stack_size(256 << 10).spawn(move || crowd.client(number, seed)).unwrap()
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let mut dice = Dice::new(seed);
    while crowd.begun.elapsed() < duration {
        sleep(Duration::from_millis(1000 + dice.below(2000)));
        machines.harm(&mut dice);
    }
    crowd.is_over.store(true, Ordering::Relaxed);
    if let Some((worker, _)) = machines.frozen.take() {
        machines.site.sandbox.freeze(machines.workers[worker], false).unwrap();
    }
    for client in clients {
        client.join().unwrap();
    }
    machines.settle(&crowd, &mut dice);
    let Counts { pulls, polls, lookups, lists, queues, turned_away, slowest_pull_ms } = &crowd.counts;
    println!(
        "{pulls:?} pulls in {polls:?} requests, {lookups:?} lookups, {lists:?} lists, {queues:?} queues; {turned_away:?} \
         turned away; the slowest pull took {slowest_pull_ms:?} ms; {} grants; {:?}",
        crowd.ready.lock().unwrap().len(),
        machines.harm
    );
    let broken = std::mem::take(&mut *crowd.broken.lock().unwrap());
    if !broken.is_empty() {
        machines.show_logs();
        panic!("SHIFTER_TEST_SEED={seed}:\n{}", broken.join("\n"));
    }
    drop(crowd);
    if let Some(postgres) = machines.postgres.take() {
        machines.site.sandbox.stop_postgres(&postgres).unwrap();
    }
    machines.site.finish();
}

impl Machines {
    /// What must be true when all clients are done.
    fn settle(&mut self, crowd: &Crowd, dice: &mut Dice) {
        let uids = FIRST_UID..FIRST_UID + USERS;
        let begun = Instant::now();
        for uid in uids.clone() {
            while crowd.queue(dice, uid) > 0 && begun.elapsed() < PATIENCE {
                sleep(Duration::from_millis(500));
            }
        }
        if begun.elapsed() > PATIENCE {
            crowd.complain("pulls are left in the queue".to_owned());
        }
        let ready = crowd.ready.lock().unwrap().clone();
        let mut in_catalog = BTreeSet::new();
        for uid in uids.clone() {
            let seen = crowd.list(dice, uid);
            let must = crowd.images.iter().enumerate().filter(|(number, _)| crowd.is_ready_for(uid, *number));
            let must: BTreeSet<String> = must.map(|(_, known)| known.id.clone()).collect();
            if seen != must {
                crowd.complain(format!("uid {uid} sees {seen:?} instead of {must:?}"));
            }
            for image in 0..crowd.images.len() {
                crowd.lookup(dice, uid, image);
            }
            in_catalog.extend(seen);
        }
        let files = names(&self.site.gateway.images);
        let expected: Vec<String> =
            in_catalog.iter().flat_map(|id| [format!("{id}.meta"), format!("{id}.squashfs")]).collect();
        if files != expected {
            crowd.complain(format!("the directory has {files:?}, the catalog {expected:?}"));
        }
        if !self.site.expansions().is_empty() {
            crowd.complain(format!("{:?} is left of conversions", self.site.expansions()));
        }
        for (number, known) in crowd.images.iter().enumerate() {
            let owners: Vec<u32> = ready.iter().filter(|of| of.1 == number).map(|of| of.0).collect();
            if !owners.is_empty() {
                self.check_files(crowd, known, &owners);
            }
        }
    }

    /// An image's file is the one its record speaks of, and the record opens it to whom it should.
    fn check_files(&self, crowd: &Crowd, known: &Known, owners: &[u32]) {
        let at = |end: &str| self.site.gateway.images.join(format!("{}.{end}", known.id));
        let (Ok(image), Ok(meta)) = (fs::read(at("squashfs")), fs::read_to_string(at("meta"))) else {
            return crowd.complain(format!("{} has no files", known.tag));
        };
        let rich = meta.lines().find_map(|line| line.strip_prefix("#shifter1 ")).unwrap_or_default();
        let rich: Value = serde_json::from_str(rich).unwrap_or(Value::Null);
        let digest = digest_of(&image);
        if rich["size"] != image.len() || rich["sha256"] != digest.trim_start_matches("sha256:") {
            crowd.complain(format!("{}: the file is {digest}, the record {rich}", known.tag));
        }
        let listed: Vec<String> = owners.iter().map(u32::to_string).collect();
        let expected = known.is_private.then(|| format!("USERACL: {}", listed.join(",")));
        let found = meta.lines().find(|line| line.starts_with("USERACL"));
        if found != expected.as_deref() {
            crowd.complain(format!("{}: {found:?} instead of {expected:?}", known.tag));
        }
    }

    fn show_logs(&self) {
        let gateways = std::iter::once(&self.site.gateway).chain(&self.more).map(|gateway| gateway.daemon);
        for daemon in gateways.chain(self.workers.iter().copied()) {
            let log = self.site.sandbox.log(daemon);
            let lines: Vec<&str> = log.lines().collect();
            println!("--- {daemon:?}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

#[test]
fn two_hundred_clients_and_a_killed_gateway_on_sqlite_lose_nothing() {
    run(false);
}

#[test]
fn two_hundred_clients_and_killed_gateways_workers_and_database_on_postgresql_lose_nothing() {
    run(true);
}
