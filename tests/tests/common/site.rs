//! A site in one sandbox: munged, a gateway, a `udiRoot.conf` that names it, and users who pull and run.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use serde_json::{Map, Value};
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
        Self::with(|sandbox| (make(sandbox), more))
    }

    /// The same with any further keys, which `make` can give the names of files to.
    pub fn with(make: impl FnOnce(&mut Sandbox) -> (Vec<Location>, Map<String, Value>)) -> Self {
        let mut sandbox = Sandbox::new().unwrap();
        let (locations, more) = make(&mut sandbox);
        let munged = sandbox.munged("site").unwrap();
        let options = GatewayOptions { locations, more };
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
