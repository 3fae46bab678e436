//! Workers apart, as a site runs them: `serve` takes requests and pulls nothing itself, and a `worker` that only shares
//! the database ends every pull, with passwords that were sealed on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::operated::image;
use common::site::{Site, local};
use serde_json::json;
use shifter_tests::harness::{GatewayOptions, Location, Mongo, RegistryOptions, Sandbox};

const PASSWORD: &str = "pass:w%rd";

/// A site on this database whose `serve` has no threads; `app:open` is everybody's, `own:1` Ada's.
fn site(database: impl FnOnce(&mut Sandbox) -> String) -> Site {
    Site::with(|sandbox| {
        let open = sandbox.registry(RegistryOptions::default()).unwrap();
        let login = Some(("ada", PASSWORD));
        let locked = sandbox.registry(RegistryOptions { login, ..RegistryOptions::default() }).unwrap();
        sandbox.push(&open, &image("open"), "app", "open").unwrap();
        sandbox.push(&locked, &image("own"), "own", "1").unwrap();
        let locked = Location { name: "locked".to_owned(), ..local(&locked.url) };
        let key = sandbox.seal_key().unwrap();
        let keys = [
            ("DatabaseURI", json!(database(sandbox))),
            ("WorkerThreads", json!(0)),
            ("SealKeyFile", json!(key)),
        ];
        let more = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        GatewayOptions { locations: vec![local(&open.url), locked], more, ..GatewayOptions::default() }
    })
}

/// The worker does what `serve` cannot.
fn check(site: &mut Site) {
    site.store_password("alice", "locked", &format!("ada:{PASSWORD}"));
    // Accepted, and nobody does it.
    for image in ["local/app:open", "locked/own:1"] {
        let said = site.shifterimg("alice", &["pull", "--no-wait", &format!("docker:{image}")]);
        assert_eq!(said.status.code(), Some(3), "{image}: {}", said.describe());
    }
    assert_eq!(site.image_files(), [""; 0], "serve pulls nothing itself");
    let worker = site.sandbox.worker(&site.gateway, 2).unwrap();
    assert_eq!(site.end_of_pull("alice", "local/app:open").0, "READY");
    site.pull("alice", "locked/own:1").success().unwrap();
    assert_eq!(site.script("local/app:open", "cat /etc/word"), "open");
    assert_eq!(site.script("locked/own:1", "cat /etc/word"), "own");
    site.shifterimg("bob", &["lookup", "docker:locked/own:1"]).failure(1).unwrap();
    site.store_password("bob", "locked", "ada:wrong");
    site.pull("bob", "locked/own:1").failure(4).unwrap();
    // Who worked says so; the password is in nobody's log.
    let (serving, working) = (site.sandbox.log(site.gateway.daemon), site.sandbox.log(worker));
    assert!(working.contains("pull is ready") && !serving.contains("pull is ready"), "{working}");
    assert!(!format!("{serving}{working}").contains(PASSWORD));
    site.sandbox.stop(worker).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
}

#[test]
fn a_worker_ends_the_pulls_of_a_gateway_without_threads_on_mongodb() {
    let mongo = Mongo::start(0).unwrap();
    let uri = format!("mongodb://127.0.0.1:{}/Shifter", mongo.port);
    let mut site = site(|_| uri);
    check(&mut site);
    drop(mongo);
    site.finish();
}

#[test]
fn a_worker_ends_the_pulls_of_a_gateway_without_threads_on_postgresql_by_tcp_with_a_password() {
    let mut database = None;
    let mut site = site(|sandbox| {
        let server = sandbox.postgres_by_password("s%crét:/@").unwrap();
        let uri = server.uri.clone();
        assert!(uri.contains("@127.0.0.1:"), "{uri}");
        database = Some(server);
        uri
    });
    check(&mut site);
    let log = site.sandbox.log(site.gateway.daemon);
    assert!(!log.contains("s%25cr"), "the database's password is in no log: {log}");
    site.sandbox.stop_postgres(&database.unwrap()).unwrap();
    site.finish();
}
