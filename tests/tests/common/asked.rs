//! Ordinary users with `shifterimg`, at a site whose registry wants a password for all that is not below `open`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use serde_json::{Map, Value};
use shifter_tests::fixture::{Built, FaultProxy, Image, Layer, dir, file, shell_entries};
use shifter_tests::harness::{GatewayOptions, Outcome, RegistryOptions, UserCommand};

use super::site::{Site, local};

/// The registry's one account. Nothing of its password may be lost on the way.
pub const LOGIN: (&str, &str) = (" ada", " pa:ss w\u{f6}rd ");

/// An image that runs, with a word in a layer of its own, and a label.
pub fn image(word: &str) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc")];
    entries.extend(shell_entries("bin").unwrap());
    let mut image =
        Image::new(vec![Layer::new(entries), Layer::new(vec![dir("etc"), file("etc/word", word)])]);
    image.config.labels = vec![("word".to_owned(), word.to_owned()), ("kind".to_owned(), "test".to_owned())];
    image.build().unwrap()
}

/// The site, and what stands before its registry.
pub fn site(images: &[(&str, &Built)], keys: Value) -> (Site, FaultProxy) {
    let mut proxy = None;
    let site = Site::with(|sandbox| {
        let tokens = sandbox.token_service(&[LOGIN]).unwrap();
        let registry = RegistryOptions { tokens: Some(&tokens), ..RegistryOptions::default() };
        let registry = sandbox.registry(registry).unwrap();
        for (name, built) in images {
            let (repository, tag) = name.split_once(':').unwrap();
            sandbox.push(&registry, built, repository, tag).unwrap();
        }
        let proxy = proxy.insert(FaultProxy::start(&registry.authority).unwrap());
        let more: Map<String, Value> = keys.as_object().unwrap().clone();
        GatewayOptions { locations: vec![local(&proxy.url())], more, ..GatewayOptions::default() }
    });
    (site, proxy.unwrap())
}

/// One command and what must come of it: who, the words, the exit status, and parts of standard output and error.
pub type Row<'a> = (&'a str, &'a str, i32, &'a str, &'a str);

/// What these tests do at a site.
pub trait Asked {
    fn account(&self, user: &str) -> UserCommand;
    fn asks(&self, user: &str, words: &str) -> Outcome;
    fn check(&self, rows: &[Row<'_>]);
    fn logs_in(&self, user: &str);
    fn hide_the_administrators_files(&self);
}

impl Asked for Site {
    fn account(&self, user: &str) -> UserCommand {
        if user == "root" { self.sandbox.root() } else { self.sandbox.user(user).unwrap() }
    }

    fn asks(&self, user: &str, words: &str) -> Outcome {
        let words: Vec<&str> = ["shifterimg"].into_iter().chain(words.split_whitespace()).collect();
        self.account(user).run(&words).unwrap()
    }

    fn check(&self, rows: &[Row<'_>]) {
        for (user, words, code, out, err) in rows {
            let said = self.asks(user, words);
            let fits =
                said.status.code() == Some(*code) && said.out().contains(out) && said.err().contains(err);
            assert!(fits, "{user}: wanted {code}, {out:?} and {err:?}: {}", said.describe());
            // Whatever succeeds says nothing of errors.
            assert!(*code != 0 || !err.is_empty() || said.err().is_empty(), "{user}: {}", said.describe());
        }
    }

    /// `shifterimg login local` with the registry's account.
    fn logs_in(&self, user: &str) {
        let account = self.account(user).stdin(format!("{}\n", LOGIN.1));
        let words = ["shifterimg", "login", "--username", LOGIN.0, "--password-stdin", "local"];
        account.run(&words).unwrap().success().unwrap();
    }

    /// From here on only root reads what users have no need of: the gateway and munged have read theirs.
    fn hide_the_administrators_files(&self) {
        let key = self.munged.socket.with_file_name("munge.key");
        let conf = std::path::PathBuf::from("/etc/shifter/shifter.conf");
        fs::write(&conf, "# nothing\n").unwrap();
        for path in [&self.gateway.config, &key, &conf] {
            chown(path, Some(0), Some(0)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            let read = self.account("alice").run(&["cat", &path.display().to_string()]).unwrap();
            read.failure(1).unwrap();
        }
    }
}
