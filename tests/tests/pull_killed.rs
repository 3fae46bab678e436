//! The gateway, or its converter, killed at every stage of a pull: what is left, and how it goes on.
//!
//! Stages on the network are met by a proxy that stalls there; those on the disk by slowing renames down and
//! looking at the directories. What SQLite does in the middle of a transaction is its own matter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

use common::site::{Site, local, noise};
use shifter_tests::fixture::{
    Built, Compression, FaultProxy, Harm, Image, Layer, Part, Target, dir, file, push, shell_entries,
};
use shifter_tests::harness::RegistryOptions;

/// Layers of one image. Large enough that half of one is worth keeping (a mebibyte) and that conversion takes a while.
const LAYERS: usize = 2;
const SIZE: usize = 3 << 20;

/// A site, the proxy before its registry, and an image for each try.
struct Play {
    site: Site,
    proxy: FaultProxy,
    registry: String,
    tries: u64,
    /// Converters at work when the gateway was killed.
    orphans: Vec<u32>,
}

/// One try: the image `local/NAME:1`.
struct Try {
    name: String,
    built: Built,
}

impl Play {
    fn new() -> Self {
        let mut started = None;
        let site = Site::new(|sandbox| {
            let registry = sandbox.registry(RegistryOptions::default()).unwrap();
            let proxy = FaultProxy::start(&registry.authority).unwrap();
            let locations = vec![local(&proxy.url())];
            started = Some((registry.authority, proxy));
            locations
        });
        let (registry, proxy) = started.unwrap();
        Self { site, proxy, registry, tries: 0, orphans: Vec::new() }
    }

    /// Puts a new image into the registry.
    fn image(&mut self) -> Try {
        self.tries += 1;
        let name = format!("k{}", self.tries);
        let mut entries = vec![dir("."), dir("bin"), file("which", &name)];
        entries.extend(shell_entries("bin").unwrap());
        let mut layers = vec![Layer::new(entries)];
        layers.extend((0..LAYERS as u64).map(|number| {
            let data = noise(SIZE, self.tries * 10 + number);
            Layer::new(vec![file(format!("noise{number}"), data)]).compressed(Compression::None)
        }));
        let built = Image::new(layers).build().unwrap();
        push(&built, &Target::parse(&format!("{}/{name}:1", self.registry)).unwrap()).unwrap();
        Try { name, built }
    }

    fn ask(&self, image: &Try) {
        self.site.ask("alice", &format!("local/{}:1", image.name));
    }

    /// SIGKILL for the gateway.
    fn kill(&mut self) {
        self.orphans = self.converters();
        self.site.sandbox.kill(self.site.gateway.daemon).unwrap();
    }

    /// Starts it again, after a kill of a pull of `image`, and sees that nothing is half done and all goes on.
    fn goes_on(&mut self, image: &Try, stage: &str) {
        let orphans = std::mem::take(&mut self.orphans);
        wait("a converter outlives its gateway", || orphans.iter().all(|pid| !is_converter(*pid)));
        // What has a name is whole, also before anybody has tidied up.
        let names = self.site.image_files();
        let whole = |name: &&String| !name.starts_with('.');
        for name in names.iter().filter(whole) {
            let is_there = |end: &str| names.contains(&name.replace(".meta", end));
            assert!(name.ends_with(".squashfs") || is_there(".squashfs"), "{stage}: {names:?}");
        }
        self.proxy.heal();
        // The job is not to go on before what was left was looked at.
        self.proxy.order(&image.name, Part::Question, Harm::Stall);
        self.site.sandbox.restart(&mut self.site.gateway).unwrap();
        let names = self.site.image_files();
        assert!(names.iter().all(|name| !name.starts_with('.')), "{stage}: {names:?}");
        assert_eq!(self.site.expansions(), [""; 0], "{stage}");
        self.of_the_image(image, &self.site.cached().1, stage);
        self.proxy.heal();
        // Nobody asks; it is taken up again all the same, or was ready already.
        let record = self.site.gateway.images.join(format!("{}.meta", image.built.id()));
        wait(stage, || record.exists() && self.is_ready(image));
        let reference = format!("local/{}:1", image.name);
        assert_eq!(self.site.end_of_pull("alice", &reference).0, "READY", "{stage}");
        assert_eq!(self.site.script(&reference, "cat /which"), image.name, "{stage}");
        let sizes = format!("wc -c /noise* | tail -n 1 | grep -c {}", SIZE * LAYERS);
        assert_eq!(self.site.script(&reference, &sizes).trim(), "1", "{stage}");
        assert_eq!(self.site.cached().1.len(), 0, "{stage}");
        assert_eq!(self.site.expansions(), [""; 0], "{stage}");
        assert!(self.site.image_files().iter().all(|name| !name.starts_with('.')), "{stage}");
    }

    /// Unfinished downloads are the beginnings of this image's layers, and there are no others.
    fn of_the_image(&self, image: &Try, partials: &BTreeMap<String, Vec<u8>>, stage: &str) {
        for (digest, bytes) in partials {
            let whole = image.built.blobs.get(digest).unwrap_or_else(|| panic!("{stage}: {digest}"));
            assert!(bytes.len() >= 1 << 20 && whole.starts_with(bytes), "{stage}: {} bytes", bytes.len());
            let listed = format!("a download that broke off is kept digest={digest} bytes={}", bytes.len());
            let log = self.site.sandbox.log(self.site.gateway.daemon);
            assert!(log.contains(&listed), "{stage}: {log}");
        }
    }

    /// Processes that convert for this gateway.
    fn converters(&self) -> Vec<u32> {
        let gateway = self.site.sandbox.pid(self.site.gateway.daemon).unwrap();
        let children =
            |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{gateway}/task")).unwrap();
        let children: String = tasks.flatten().map(children).collect();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        pids.filter(|pid| is_converter(*pid)).collect()
    }

    /// A new image whose converter is stopped in the middle of its work; one that was too quick for that is left, and
    /// the next one tried.
    fn stopped_converter(&mut self) -> (Try, u32) {
        let images = self.site.gateway.images.clone();
        for _ in 0..10 {
            let image = self.image();
            self.ask(&image);
            let record = images.join(format!("{}.meta", image.built.id()));
            let mut stopped = None;
            wait("a converter at work", || {
                if partial_bytes(&images) > 0
                    && let Some(pid) = self.converters().pop()
                {
                    stopped = Some(pid).filter(|pid| signal(*pid, "-STOP") && is_converter(*pid));
                }
                stopped.is_some() || record.exists()
            });
            if let Some(pid) = stopped {
                return (image, pid);
            }
        }
        panic!("no converter could be stopped");
    }

    fn is_ready(&self, image: &Try) -> bool {
        let lookup = format!("docker:local/{}:1", image.name);
        self.site.shifterimg("alice", &["lookup", &lookup]).status.success()
    }
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !until() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_converter(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.ends_with(b"shifter-imagegw\0convert\0")
}

/// Whether there was such a process.
fn signal(pid: u32, name: &str) -> bool {
    std::process::Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success()
}

/// Size of the largest file without a name of its own there.
fn partial_bytes(directory: &Path) -> usize {
    let hidden = common::site::names(directory).into_iter().filter(|name| name.starts_with('.'));
    let sizes = hidden.filter_map(|name| Some(fs::metadata(directory.join(name)).ok()?.len() as usize));
    sizes.max().unwrap_or(0)
}

#[test]
fn killed_while_it_downloads_the_gateway_keeps_what_is_whole_and_goes_on() {
    let mut play = Play::new();
    type Where<'a> = &'a dyn Fn(&Built) -> Part;
    let stages: [(&str, Where<'_>); 5] = [
        ("asking", &|_| Part::Question),
        ("manifest", &|_| Part::Manifest),
        ("configuration", &|built| {
            let layers = built.layer_digests();
            Part::Blob(built.blobs.keys().find(|digest| !layers.contains(digest)).unwrap().clone())
        }),
        ("first layer", &|built| Part::Blob(built.layer_digests().remove(0))),
        ("last layer", &|built| Part::Blob(built.layer_digests().remove(LAYERS))),
    ];
    for (stage, part) in stages {
        let image = play.image();
        play.proxy.order(&image.name, part(&image.built), Harm::Stall);
        play.ask(&image);
        play.proxy.wait_for_harm(&image.name).unwrap();
        if stage == "last layer" {
            // The others are there, and half of this one.
            wait(stage, || play.site.cached().0.len() >= LAYERS && !play.site.cached().1.is_empty());
        }
        play.kill();
        play.goes_on(&image, stage);
    }
    play.site.finish();
}

#[test]
fn a_converter_dies_with_its_gateway_and_alone_it_fails_one_pull() {
    let mut play = Play::new();
    let (image, converter) = play.stopped_converter();
    play.kill();
    assert!(signal(converter, "-CONT"));
    // It does not go on to the end, to find that nobody listens.
    let pid = Pid::from_raw(converter.try_into().unwrap());
    let (_, ended) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
    assert!(ended.exit_status() == Some(3) || ended.signaled(), "{ended:?}");
    play.goes_on(&image, "converting");

    let (image, converter) = play.stopped_converter();
    assert!(signal(converter, "-KILL"));
    let (status, why) = play.site.end_of_pull("alice", &format!("local/{}:1", image.name));
    assert_eq!(status, "FAILURE");
    assert!(why.contains("the converter process ended without an answer (signal: 9"), "{why}");
    assert!(!play.is_ready(&image));
    assert!(play.site.image_files().iter().all(|name| !name.contains(image.built.id())));
    assert_eq!(play.site.expansions(), [""; 0]);
    play.kill();
    play.site.sandbox.restart(&mut play.site.gateway).unwrap();
    play.site.pull("alice", &format!("local/{}:1", image.name)).success().unwrap();
    play.site.finish();
}

/// ST46.
#[test]
fn killed_between_image_record_and_catalog_the_gateway_goes_on() {
    let mut play = Play::new();
    let images = play.site.gateway.images.clone();
    let cache = play.site.gateway.state.join("cache/sha256");
    // What the directories look like when it is killed.
    type Reached<'a> = &'a dyn Fn(&Play, &Try) -> bool;
    let named = |image: &Try, end: &str| images.join(format!("{}.{end}", image.built.id())).exists();
    let stages: [(&str, Reached<'_>, (bool, bool)); 5] = [
        (
            "all layers, no conversion",
            &|_, image| {
                let digests = image.built.layer_digests();
                digests.iter().all(|digest| cache.join(digest.trim_start_matches("sha256:")).exists())
            },
            (false, false),
        ),
        (
            "image without a name",
            &|play, _| partial_bytes(&images) > SIZE * LAYERS && play.converters().is_empty(),
            (false, false),
        ),
        ("image, no record", &|_, image| named(image, "squashfs"), (true, false)),
        (
            "image, record without a name",
            &|_, image| named(image, "squashfs") && partial_bytes(&images) > 0,
            (true, false),
        ),
        ("image and record, not in the catalog", &|_, image| named(image, "meta"), (true, true)),
    ];
    for (stage, is_reached, expected) in stages {
        let image = play.image();
        play.site.sandbox.slow_renames(play.site.gateway.daemon, Duration::from_millis(100)).unwrap();
        play.ask(&image);
        wait(stage, || is_reached(&play, &image));
        play.kill();
        assert_eq!((named(&image, "squashfs"), named(&image, "meta")), expected, "{stage}");
        play.goes_on(&image, stage);
    }
    play.site.finish();
}

/// ST46.
#[test]
fn killed_at_any_moment_the_gateway_goes_on() {
    let mut play = Play::new();
    // How long a whole pull takes here.
    let image = play.image();
    let begun = Instant::now();
    play.ask(&image);
    play.site.end_of_pull("alice", &format!("local/{}:1", image.name));
    let whole = begun.elapsed();
    for part in 1..7_u32 {
        let image = play.image();
        play.ask(&image);
        std::thread::sleep(whole * part / 6);
        play.kill();
        play.goes_on(&image, &format!("after {part}/6 of {whole:?}"));
    }
    play.site.finish();
}
