//! Names and ids of users and groups, as the host knows them.
//!
//! The files are read first, then `getent` is asked, which knows directory services too. A name the host does
//! not know is an error: the original dropped it, and a private image whose only allowed user was mistyped
//! became public. Whether an id exists is not checked; sites list ids of users who have yet to get an account.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use shifter_core::passwd::is_name;

/// Most ids one list may name; the gateway takes no more.
const MAX_IDS: usize = shifter_api::wire::MAX_ACL_IDS;

/// Most bytes read of a file of /etc.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Which of the two databases is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    /// passwd(5)
    Users,
    /// group(5)
    Groups,
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Database::Users => "passwd",
            Database::Groups => "group",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Database::Users => "user",
            Database::Groups => "group",
        }
    }
}

/// The ids that `--user` or `--group` lists, each once, in the order given.
///
/// # Errors
/// If a word is empty, unknown, no id, or root's.
pub(crate) fn ids(database: Database, words: &[String]) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for word in words {
        let id = id(database, word.trim())?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ensure!(ids.len() <= MAX_IDS, "--{} lists {} ids; {MAX_IDS} are allowed", database.noun(), ids.len());
    Ok(ids)
}

fn id(database: Database, word: &str) -> anyhow::Result<u32> {
    let noun = database.noun();
    ensure!(!word.is_empty(), "--{noun} has an empty entry; write names or ids separated by commas");
    let id = if word.bytes().all(|b| b.is_ascii_digit()) {
        // The largest number means "no id" to the kernel (setresuid(2)).
        word.parse::<u32>()
            .ok()
            .filter(|id| *id != u32::MAX)
            .with_context(|| format!("{word} is no {noun} id"))?
    } else {
        ensure!(is_name(word), "{word:?} is not the name of a {noun}");
        let line =
            entry(database, word).with_context(|| format!("no {noun} {word:?} is known on this host"))?;
        line.split(':')
            .nth(2)
            .and_then(|field| field.trim().parse().ok())
            .with_context(|| format!("the {} entry of {word:?} has no id", database.name()))?
    };
    if id == 0 {
        bail!("--{noun} cannot list root ({word})");
    }
    Ok(id)
}

/// The home directory the user database names for `uid`; `None` where it names none.
pub(crate) fn home(uid: u32) -> Option<PathBuf> {
    let line = entry(Database::Users, &uid.to_string())?;
    let home = PathBuf::from(line.split(':').nth(5)?);
    home.is_absolute().then_some(home)
}

/// The first line whose name or id is `key`.
fn entry(database: Database, key: &str) -> Option<String> {
    in_file(database, key).or_else(|| by_getent(database, key))
}

fn in_file(database: Database, key: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/etc/{}", database.name())).ok()?;
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    find(&String::from_utf8_lossy(&bytes), key).map(str::to_owned)
}

fn find<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next(), fields.nth(1));
        // Old NIS files begin lines with "+" or "-".
        name.is_some_and(is_name) && (name == Some(key) || id == Some(key))
    })
}

fn by_getent(database: Database, key: &str) -> Option<String> {
    // `key` is a number or passed is_name, so it cannot be taken for an option.
    let output = Command::new("getent")
        .args([database.name(), key])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn check(database: Database, words: &[&str], expected: Result<&[u32], &str>) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match (ids(database, &words), expected) {
            (Ok(ids), Ok(expected)) => assert_eq!(ids, expected, "{words:?}"),
            (Err(error), Err(cause)) => assert!(format!("{error:#}").contains(cause), "{words:?}: {error:#}"),
            (result, _) => panic!("{words:?}: {result:?}"),
        }
    }

    #[test]
    fn lists_become_ids_and_nothing_is_dropped() {
        use Database::{Groups, Users};
        check(Users, &[], Ok(&[]));
        check(Users, &["1000", " 7", "1000", "nobody"], Ok(&[1000, 7, 65534]));
        check(Groups, &["4294967294"], Ok(&[4_294_967_294]));
        check(Users, &["no-such-user-here"], Err("no user \"no-such-user-here\" is known"));
        check(Groups, &["1", "no-such-group-here"], Err("no group \"no-such-group-here\" is known"));
        check(Users, &[""], Err("--user has an empty entry"));
        check(Users, &["1", ""], Err("empty entry"));
        check(Users, &["0"], Err("cannot list root"));
        check(Users, &["root"], Err("cannot list root (root)"));
        check(Users, &["-5"], Err("not the name of a user"));
        check(Users, &["a b"], Err("not the name of a user"));
        check(Users, &["4294967295"], Err("no user id"));
        check(Groups, &["99999999999"], Err("no group id"));
    }

    #[test]
    fn too_many_ids_are_refused() {
        let many: Vec<String> = (1..=1001).map(|n: u32| n.to_string()).collect();
        assert!(ids(Database::Users, &many).unwrap_err().to_string().contains("1001 ids"));
        assert_eq!(ids(Database::Users, &many[1..]).unwrap().len(), 1000);
    }

    #[test]
    fn entries_are_found_by_name_or_id() {
        let text = "+::::::\nroot:x:0:0::/root:/bin/sh\nbroken\nbob:x:1000:100::/home/bob:\n";
        let table =
            [("bob", Some("/home/bob")), ("1000", Some("/home/bob")), ("100", None), ("+", None), ("", None)];
        for (key, expected) in table {
            assert_eq!(find(text, key).and_then(|line| line.split(':').nth(5)), expected, "{key}");
        }
    }

    #[test]
    fn the_home_is_the_user_databases() {
        assert_eq!(home(0), Some(PathBuf::from("/root")));
        assert_eq!(home(4_294_967_000), None);
    }
}
