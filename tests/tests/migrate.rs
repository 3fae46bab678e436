//! `shifter-imagegw migrate` as administrators run it: from an export of the original's database to SQLite, and on to
//! PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use common::operated::{Operated as _, image, site};
use common::site::{Site, names};
use serde_json::json;
use shifter_tests::harness::Outcome;

/// `shifter-imagegw migrate` as this account.
fn migrate(site: &Site, user: &str, words: &[&str]) -> Outcome {
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let account = if user == "root" { site.sandbox.root() } else { site.sandbox.user(user).unwrap() };
    account.run(&[&[program.as_str(), "migrate"], words].concat()).unwrap()
}

/// What mongoexport writes of these images, one line each; the last one twice, as the original makes them in races.
fn export(images: &[(&str, &str, Option<u32>)]) -> String {
    let line = |(number, (tag, id, user)): (usize, &(&str, &str, Option<u32>))| {
        let document = json!({
            "_id": {"$oid": format!("5f00000000000000000000{number:02}")}, "system": "testsystem", "itype": "docker",
            "id": id, "tag": [tag], "status": "READY", "format": "squashfs", "arch": "amd64",
            "last_pull": 1795210150.8, "expiration": {"$numberLong": "1700000000"}, "ENV": [], "ENTRY": null,
            "private": user.is_some(), "userACL": user.iter().collect::<Vec<_>>(), "groupACL": [],
        });
        format!("{document}\n")
    };
    images.iter().chain(images.last()).enumerate().map(line).collect()
}

/// A tag of an export has no past; copied into a catalog, it has what it means.
const REST: &str = "with 0 expired ones that may be restored and 0 changes of tags\n\
                    pulls under way and lookups that were counted (metrics) are not copied\n";

#[test]
fn an_export_becomes_a_catalog_that_serves_and_goes_on_to_another_database() {
    let (open, closed) = (image("open"), image("closed"));
    let mut site = site(&[("open", &open), ("closed", &closed)]);
    for tag in ["open", "closed"] {
        site.pull("alice", &format!("app:{tag}")).success().unwrap();
    }
    let postgres = site.sandbox.postgres().unwrap();
    let place = site.sandbox.new_directory("catalogs").unwrap();
    chown(&place, Some(4210), Some(4210)).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let at = |name: &str| place.join(name).display().to_string();
    let exported = at("images.json");
    // One image is everybody's, the other one alice's.
    let text = export(&[("app:closed", closed.id(), Some(4201)), ("app:open", open.id(), None)]);
    fs::write(&exported, text).unwrap();
    fs::write(at("broken.json"), "{\"_id\":").unwrap();
    let (sqlite, roots) = (format!("sqlite://{}", at("new.db")), format!("sqlite://{}", at("roots.db")));
    let (lost, broken) = (format!("sqlite://{}", at("lost.db")), at("broken.json"));
    let merged = "1 documents stood for an image that another stood for, too; they count once\n";
    let two = format!("2 images copied, 0 brought up to date, 0 were the same\n{REST}");
    let same = format!("0 images copied, 0 brought up to date, 2 were the same\n{REST}");
    let trial = format!("2 images would be copied, 0 brought up to date, 0 were the same\n{REST}");
    let with_past = |text: &str| text.replace("0 changes of tags", "2 changes of tags");
    let hint =
        format!("{0} is root's; give it to the gateway's account: chown ACCOUNT: '{0}'*\n", at("roots.db"));
    for (user, from, to, is_trial, expected) in [
        ("gateway", &exported, &sqlite, true, format!("{merged}{trial}")),
        ("gateway", &exported, &sqlite, false, format!("{merged}{two}")),
        ("gateway", &exported, &sqlite, false, format!("{merged}{same}")),
        ("root", &exported, &roots, true, format!("{merged}{trial}")),
        ("root", &exported, &roots, false, format!("{merged}{two}{hint}")),
        ("gateway", &sqlite, &postgres.uri, true, with_past(&trial)),
        ("gateway", &sqlite, &postgres.uri, true, with_past(&trial)),
        ("gateway", &sqlite, &postgres.uri, false, with_past(&two)),
        ("gateway", &sqlite, &postgres.uri, false, same.clone()),
        ("gateway", &postgres.uri, &sqlite, false, same.clone()),
    ] {
        let dry = if is_trial { &["--dry-run"][..] } else { &[] };
        let said = migrate(&site, user, &[&["--from", from, "--to", to], dry].concat());
        assert!(said.err().is_empty(), "{}", said.describe());
        assert_eq!(said.success().unwrap(), expected, "{user}: {from} to {to}, dry run: {is_trial}");
        if is_trial && from == &exported {
            let file = Path::new(to.trim_start_matches("sqlite://"));
            assert!(!file.exists(), "a dry run made {}", file.display());
        }
    }
    assert_eq!(fs::metadata(at("roots.db")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(at("new.db")).unwrap().uid(), 4210);
    let after = names(&place);
    for (from, to, code, said) in [
        (&lost, &sqlite, 1, "there is no catalog at sqlite:"),
        (&sqlite, &sqlite, 1, "is both source and target"),
        (&broken, &sqlite, 1, "is not what mongoexport writes"),
        (&at("none.json"), &sqlite, 1, "none.json failed"),
        (&sqlite, &"nothing://x".to_owned(), 1, "--to cannot be used"),
        (&"nothing://x".to_owned(), &sqlite, 1, "--from cannot be used"),
    ] {
        let refused = migrate(&site, "gateway", &["--from", from, "--to", to]);
        let shown = refused.describe();
        assert!(refused.failure(code).unwrap().contains(said), "{said}: {shown}");
    }
    assert_eq!(names(&place), after);
    assert!(!after.iter().any(|name| name.starts_with("lost") || name.starts_with("none")), "{after:?}");
    // What the hint says is enough.
    let command = hint.trim_end().rsplit_once(": chown ACCOUNT:").unwrap().1;
    let command = format!("chown gateway: {command}");
    site.sandbox.root().run(&["sh", "-c", &command]).unwrap().success().unwrap();

    // What was copied serves, with the access that it had, on each database.
    for uri in [&sqlite, &roots, &postgres.uri] {
        site.change(|document| document["DatabaseURI"] = json!(uri));
        site.sandbox.restart(&mut site.gateway).unwrap();
        for (user, built, tag, may) in [
            ("alice", &closed, "closed", true),
            ("bob", &closed, "closed", false),
            ("bob", &open, "open", true),
        ] {
            let found = site.shifterimg(user, &["lookup", &format!("docker:app:{tag}")]);
            assert_eq!(found.status.success(), may, "{uri}: {}", found.describe());
            assert_eq!(found.out().contains(built.id()), may, "{uri}: {}", found.describe());
        }
        assert_eq!(site.run("bob", "app:open", &["cat", "/etc/word"]).success().unwrap(), "open");
        site.sandbox.stop(site.gateway.daemon).unwrap();
    }
    site.sandbox.stop_postgres(&postgres).unwrap();
    site.finish();
}
