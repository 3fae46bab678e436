//! A test machine with one image in place, and short ways to run things in its containers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub, missing_docs)]

pub mod asked;
pub mod cluster;
pub mod documented;
pub mod documented_jobs;
pub mod groups;
pub mod jobs;
pub mod mpi;
pub mod operated;
pub mod site;
pub mod slurm;
pub mod terminal;

use std::io::Read as _;
use std::process::Child;

use shifter_tests::fixture::{Entry, dir, program_entries, shell_entries};
use shifter_tests::harness::{Outcome, Sandbox, UserCommand};

pub struct Machine {
    pub sandbox: Sandbox,
    pub id: String,
    program: String,
    image: String,
}

/// The entries of a small image with a shell.
pub fn shell_image() -> Vec<Entry> {
    let mut entries: Vec<Entry> = [".", "bin", "etc", "usr", "opt", "var"].map(dir).into();
    entries.extend(shell_entries("bin").unwrap());
    entries
}

/// The same with `id` and `cat` in `probes`, which show what they have been given: busybox gives privileges back.
pub fn image_with_probes() -> Vec<Entry> {
    let mut entries = shell_image();
    entries.push(dir("probes"));
    for entry in program_entries("probes", &["id", "cat"]).unwrap() {
        if !entries.iter().any(|known| known.name == entry.name) {
            entries.push(entry);
        }
    }
    entries
}

impl Machine {
    /// A machine whose image has these entries and, beside its format, these lines in its record.
    pub fn new(entries: &[Entry], record: &str) -> Self {
        let sandbox = Sandbox::new().unwrap();
        let id = sandbox.install_image(entries, record).unwrap();
        let program = sandbox.program("shifter").unwrap().display().to_string();
        let image = format!("--image=id:{id}");
        Self { sandbox, id, program, image }
    }

    /// `shifter --image=id:…` and these words.
    pub fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&[self.program.as_str(), &self.image], words].concat()
    }

    /// `shifter` and these words alone.
    pub fn program<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&[self.program.as_str()], words].concat()
    }

    /// The beginning of a shell command that runs something in a container.
    pub fn command_line(&self) -> String {
        format!("{} {}", self.program, self.image)
    }

    pub fn as_user(&self, name: &str) -> UserCommand {
        self.sandbox.user(name).unwrap()
    }

    /// Starts a shell script in a container as this user, and returns once it runs there.
    pub fn start(&self, user: &str, script: &str) -> Child {
        let script = format!("echo ready; {script}");
        let mut child = self.as_user(user).spawn(&self.words(&["sh", "-c", &script])).unwrap();
        let mut line = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        child
    }

    /// Runs words in a container as this user.
    pub fn run(&self, user: &str, words: &[&str]) -> Outcome {
        self.as_user(user).run(&self.words(words)).unwrap()
    }

    /// Runs a script on the host as this user.
    pub fn shell(&self, user: &str, script: &str) -> Outcome {
        self.as_user(user).run(&["bash", "-c", script]).unwrap()
    }

    /// Runs a script on the host as root, which must succeed.
    pub fn host(&self, script: &str) -> String {
        self.sandbox.root().run(&["bash", "-ec", script]).unwrap().success().unwrap()
    }

    /// A script of root's below the prefix.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.sandbox.prefix().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The leak check.
    pub fn finish(self) {
        self.sandbox.finish().unwrap();
    }
}
