//! A site whose gateway is operated: reloads, administrators' commands, its files and log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use shifter_tests::fixture::{Built, Image, Layer, dir, file, request, shell_entries};
use shifter_tests::harness::{DaemonId, Outcome, RegistryOptions};

use super::site::{Site, local};

pub fn image(content: &str) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), file("etc/word", content)];
    entries.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(entries)]).build().unwrap()
}

/// A site whose registry has these tags of `app`, and `app` of `private` with a password.
pub fn site(tags: &[(&str, &Built)]) -> Site {
    Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (tag, built) in tags {
            sandbox.push(&registry, built, "app", tag).unwrap();
        }
        vec![local(&registry.url)]
    })
}

/// What these tests do with a site's gateway.
pub trait Operated {
    fn get(&self, path: &str) -> (u16, String);
    fn change(&self, change: impl FnOnce(&mut Value));
    fn reload(&self, until: &str) -> String;
    fn reload_of(&self, daemon: DaemonId, until: &str) -> String;
    fn command(&self, words: &[&str]) -> Outcome;
    fn log(&self) -> String;
    fn file(&self, built: &Built, end: &str) -> PathBuf;
}

impl Operated for Site {
    fn get(&self, path: &str) -> (u16, String) {
        let answer = request(&self.gateway.authority, "GET", path, &[], b"").unwrap();
        (answer.status, answer.text())
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut document: Value = serde_json::from_slice(&fs::read(&self.gateway.config).unwrap()).unwrap();
        change(&mut document);
        fs::write(&self.gateway.config, document.to_string()).unwrap();
    }

    /// SIGHUP; returns what the log has more once it says `until`.
    fn reload(&self, until: &str) -> String {
        self.reload_of(self.gateway.daemon, until)
    }

    fn reload_of(&self, daemon: DaemonId, until: &str) -> String {
        let before = self.sandbox.log(daemon).len();
        let pid = self.sandbox.pid(daemon).unwrap().to_string();
        self.sandbox.root().run(&["kill", "-HUP", &pid]).unwrap().success().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let more = self.sandbox.log(daemon)[before..].to_owned();
            if more.contains(until) {
                return more;
            }
            assert!(Instant::now() < deadline, "no \"{until}\" in {more}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `shifter-imagegw WORDS` as root, with the gateway's configuration.
    fn command(&self, words: &[&str]) -> Outcome {
        let program = self.sandbox.program("shifter-imagegw").unwrap().display().to_string();
        let config = self.gateway.config.display().to_string();
        let all = [&[program.as_str(), words[0], "--config", &config], &words[1..]].concat();
        self.sandbox.root().run(&all).unwrap()
    }

    fn log(&self) -> String {
        self.sandbox.log(self.gateway.daemon)
    }

    fn file(&self, built: &Built, end: &str) -> PathBuf {
        self.gateway.images.join(format!("{}.{end}", built.id()))
    }
}

/// Makes a file look as if it had been written long ago.
pub fn age(path: &Path) {
    let then = std::time::SystemTime::now() - Duration::from_secs(100_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}
