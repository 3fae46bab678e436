//! `shifterimg login` and `logout` of ordinary users: what is stored, when, and what it is good for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use common::asked::{Asked as _, LOGIN, image, site};
use common::site::Site;
use common::terminal::Terminal;
use serde_json::json;
use shifter_tests::harness::Outcome;

fn stored(user: &str) -> Option<String> {
    fs::read_to_string(format!("/home/{user}/.udiRoot/.cred")).ok()
}

/// `shifterimg login` with the password on standard input.
fn login(site: &Site, user: &str, words: &[&str], given: &str) -> Outcome {
    let words = [&["shifterimg", "login"], words].concat();
    site.account(user).stdin(given).run(&words).unwrap()
}

#[test]
fn a_password_is_stored_once_the_registry_took_it_and_serves_pulls_until_the_logout() {
    let (one, two) = (image("one"), image("two"));
    let (site, _proxy) = site(&[("closed/app:1", &one), ("closed/app:2", &two)], json!({}));
    site.hide_the_administrators_files();
    let (name, password) = LOGIN;
    let by_stdin = ["--password-stdin", "--username", name, "local"];
    for (words, given, code, said) in [
        (&by_stdin[..], "wrong\n", 4, "the login at local was not stored"),
        (&by_stdin, &format!("{}\n", password.trim()), 4, "was not stored"),
        (&by_stdin, &format!("{password}\r\n"), 1, "control character"),
        (&by_stdin, "\n", 1, "the password is empty; nothing was stored"),
        (&by_stdin, "", 1, "the password is empty; nothing was stored"),
        (&["--password-stdin", "--username", name.trim(), "local"], password, 4, "was not stored"),
        (&["--password-stdin", "--username", name, "elsewhere"], password, 4, "was not stored"),
        (&["--password-stdin", "--username", "a:b", "local"], password, 1, "colon"),
        (&["--password-stdin", "local"], password, 1, "--password-stdin needs --username"),
    ] {
        let said_now = login(&site, "alice", words, given).failure(code).unwrap();
        assert!(said_now.contains(said) && said_now.lines().count() == 1, "{words:?} {given:?}: {said_now}");
        assert_eq!(stored("alice"), None, "{words:?} {given:?}");
    }
    site.check(&[("alice", "pull docker:closed/app:1", 4, "", "cannot be had")]);
    // With and without the end of a line, which is none of the password's.
    for given in [password.to_owned(), format!("{password}\n")] {
        let said = login(&site, "alice", &by_stdin, &given);
        assert!(
            said.status.success() && said.out().is_empty() && said.err().is_empty(),
            "{}",
            said.describe()
        );
    }
    let text = stored("alice").unwrap();
    assert!(text.starts_with("testsystem:local=MUNGE:") && text.lines().count() == 1, "{text}");
    for (path, mode) in [("/home/alice/.udiRoot", 0o40700), ("/home/alice/.udiRoot/.cred", 0o100_600)] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.mode(), found.uid(), found.gid()), (mode, 4201, 4201), "{path}");
    }
    site.check(&[
        ("alice", "pull docker:closed/app:1", 0, "status: READY", "yours alone"),
        ("bob", "pull docker:closed/app:1", 4, "", "cannot be had"),
        ("bob", "lookup docker:closed/app:1", 1, "", "image not found"),
    ]);
    assert_eq!(site.script("closed/app:1", "cat /etc/word"), "one");
    site.check(&[
        ("alice", "logout", 1, "", "no password is stored for default on testsystem"),
        ("bob", "logout local", 1, "", "no password is stored for local on testsystem"),
        ("alice", "logout local", 0, "", ""),
        ("alice", "logout local", 1, "", "no password is stored for local on testsystem"),
        ("alice", "pull docker:closed/app:2", 4, "", "cannot be had"),
    ]);
    assert_eq!(stored("alice").unwrap(), "");
    site.finish();
}

#[test]
fn a_password_typed_at_the_prompt_is_not_shown_and_counts_as_it_was_typed() {
    let built = image("typed");
    let (site, _proxy) = site(&[("closed/app:1", &built)], json!({}));
    site.hide_the_administrators_files();
    let bob = site.account("bob").env("TERM", "xterm");
    let login = |password: &str| {
        let mut terminal = Terminal::start(&bob, &["shifterimg", "login", "local"]);
        terminal.wait_for("local username: ");
        terminal.enter(LOGIN.0);
        terminal.wait_for("local password: ");
        terminal.wait_for_silence();
        terminal.enter(password);
        let (code, shown) = terminal.end();
        assert!(!shown.contains(password) && shown.contains(LOGIN.0), "{shown}");
        (code, shown)
    };
    let (code, shown) = login("wrong");
    assert!(code == Some(4) && shown.contains("the login at local was not stored"), "{code:?}: {shown}");
    assert_eq!(stored("bob"), None);
    let (code, shown) = login(LOGIN.1);
    assert_eq!((code, shown.lines().count()), (Some(0), 2), "{shown}");
    assert!(stored("bob").unwrap().starts_with("testsystem:local=MUNGE:"));

    // A terminal sees one line, rewritten until it is done; a pipe sees a line for each status.
    let terminal = Terminal::start(&bob, &["shifterimg", "pull", "docker:closed/app:1"]);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    let states: Vec<&str> = shown.split("\r\u{1b}[2K").collect();
    assert!(states.len() > 1 && states[0].is_empty(), "{shown:?}");
    let last = states[states.len() - 1];
    assert!(last.contains("Pulling Image: docker:closed/app:1, status: READY\r\n"), "{shown:?}");
    assert_eq!(shown.matches("status: READY").count(), 1, "{shown:?}");
    assert!(states[..states.len() - 1].iter().all(|state| !state.contains('\n')), "{shown:?}");
    let piped = site.asks("bob", "pull docker:closed/app:1").success().unwrap();
    assert!(!piped.contains(['\r', '\u{1b}']), "{piped:?}");
    for line in piped.lines() {
        assert!(line.contains(" Pulling Image: docker:closed/app:1, status: "), "{piped}");
    }
    assert!(piped.ends_with("status: READY\n"), "{piped}");
    site.finish();
}
