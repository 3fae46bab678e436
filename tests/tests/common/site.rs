//! A site in one sandbox: munged, a gateway, a `udiRoot.conf` that names it, and users who pull and run.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use shifter_tests::fixture::digest_of;
use shifter_tests::harness::{Gateway, GatewayOptions, Location, Munged, Outcome, Sandbox};

pub struct Site {
    pub sandbox: Sandbox,
    pub munged: Munged,
    pub gateway: Gateway,
}

impl Site {
    /// A site whose gateway knows these registries; `make` starts them in the sandbox.
    pub fn new(make: impl FnOnce(&mut Sandbox) -> Vec<Location>) -> Self {
        Self::configured(&[], make)
    }

    /// The same with further numeric keys in `imagemanager.json`.
    pub fn configured(keys: &[(&str, u64)], make: impl FnOnce(&mut Sandbox) -> Vec<Location>) -> Self {
        let more = keys.iter().map(|(key, number)| ((*key).to_owned(), (*number).into())).collect();
        Self::with(|sandbox| GatewayOptions { locations: make(sandbox), more, ..GatewayOptions::default() })
    }

    /// The same with all that a gateway may be told.
    pub fn with(make: impl FnOnce(&mut Sandbox) -> GatewayOptions) -> Self {
        let mut sandbox = Sandbox::new().unwrap();
        let options = make(&mut sandbox);
        let munged = sandbox.munged("site").unwrap();
        let gateway = sandbox.gateway(&munged, &options).unwrap();
        Self { sandbox, munged, gateway }
    }

    /// `shifterimg pull docker:IMAGE` as this user.
    pub fn pull(&self, user: &str, image: &str) -> Outcome {
        self.shifterimg(user, &["pull", &format!("docker:{image}")])
    }

    pub fn shifterimg(&self, user: &str, words: &[&str]) -> Outcome {
        self.sandbox.user(user).unwrap().run(&[&["shifterimg"], words].concat()).unwrap()
    }

    /// `shifter --image=docker:IMAGE WORDS` as this user.
    pub fn run(&self, user: &str, image: &str, words: &[&str]) -> Outcome {
        let image = format!("--image=docker:{image}");
        self.sandbox.user(user).unwrap().run(&[&["shifter", &image, "--"], words].concat()).unwrap()
    }

    /// A shell script in a container of `alice`'s; it must succeed.
    pub fn script(&self, image: &str, script: &str) -> String {
        self.run("alice", image, &["sh", "-c", script]).success().unwrap()
    }

    /// Stores a registry password as `shifterimg login` of the original does.
    pub fn store_password(&self, user: &str, location: &str, password: &str) {
        let account = self.sandbox.user(user).unwrap();
        let credential = account.run(&["munge", "-s", password]).unwrap().success().unwrap();
        let directory = format!("/home/{user}/.udiRoot");
        let path = format!("{directory}/.cred");
        fs::create_dir(&directory).unwrap();
        fs::write(&path, format!("testsystem:{location}={}\n", credential.trim_end())).unwrap();
        let ids = account.run(&["sh", "-c", "id -u; id -g"]).unwrap().success().unwrap();
        let ids: Vec<u32> = ids.lines().map(|line| line.parse().unwrap()).collect();
        for (path, mode) in [(&directory, 0o700), (&path, 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            chown(path, Some(ids[0]), Some(ids[1])).unwrap();
        }
    }

    /// The names in `imageDir`, sorted.
    pub fn image_files(&self) -> Vec<String> {
        names(&self.gateway.images)
    }

    /// What conversions have left in the expansion directory.
    pub fn expansions(&self) -> Vec<String> {
        names(&self.gateway.state.join("expand"))
    }

    /// The gateway's answer to one request for a pull of this user's: the image's record.
    pub fn ask(&self, user: &str, image: &str) -> Value {
        let path = format!("/api/pull/testsystem/docker/{}/", image.replace('/', "%2F").replace(':', "%3A"));
        let answer = self.sandbox.api(&self.gateway, &self.munged, user, ("POST", &path), b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Asks until the pull has ended: `READY` or `FAILURE`, and what is said of it.
    pub fn end_of_pull(&self, user: &str, image: &str) -> (String, String) {
        self.ends_of_pulls(user, &[image.to_owned()]).remove(0)
    }

    /// The same for several pulls that were asked for.
    pub fn ends_of_pulls(&self, user: &str, images: &[String]) -> Vec<(String, String)> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut ends: Vec<Option<(String, String)>> = vec![None; images.len()];
        while ends.contains(&None) {
            assert!(Instant::now() < deadline, "{ends:?}");
            // Who asks more often than clients do is taken for several of them, who all want to hear of the end.
            std::thread::sleep(Duration::from_millis(400));
            for (image, end) in images.iter().zip(&mut ends).filter(|(_, end)| end.is_none()) {
                let record = self.ask(user, image);
                let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
                if matches!(record["status"].as_str(), Some("READY" | "FAILURE")) {
                    *end = Some((text("status"), text("status_message")));
                }
            }
        }
        ends.into_iter().flatten().collect()
    }

    /// What the gateway tells this user of images that are there.
    pub fn listed(&self, user: &str) -> Value {
        let list = ("GET", "/api/list/testsystem/");
        let answer = self.sandbox.api(&self.gateway, &self.munged, user, list, b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The blob cache's content: whole blobs, each of which is what its name says, and how much there is of others.
    pub fn cached(&self) -> (Vec<String>, BTreeMap<String, Vec<u8>>) {
        let directory = self.gateway.state.join("cache/sha256");
        let (mut blobs, mut partials) = (Vec::new(), BTreeMap::new());
        for name in names(&directory) {
            let bytes = fs::read(directory.join(&name)).unwrap();
            if bytes.is_empty() && name.ends_with(".lock") {
                // Somebody fetches it just now.
                continue;
            }
            match name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial")) {
                Some(hex) => drop(partials.insert(format!("sha256:{hex}"), bytes)),
                None => {
                    assert_eq!(digest_of(&bytes), format!("sha256:{name}"));
                    blobs.push(format!("sha256:{name}"));
                }
            }
        }
        (blobs, partials)
    }

    /// Stops everything and checks for leaks.
    pub fn finish(self) {
        self.sandbox.finish().unwrap();
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A location named `local` at this URL.
pub fn local(url: &str) -> Location {
    Location { name: "local".to_owned(), url: url.to_owned(), ca: None }
}

/// Bytes that do not compress, others for each seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..=length / 8).flat_map(step).collect();
    bytes.truncate(length);
    bytes
}
