//! Everything that may be asked of a gateway while its database is away: each question has an answer in time, which says
//! when to come back. Lookups and lists are asked in `outage`.

use std::time::Instant;

use futures_util::future::join_all;

use super::servers::Server;
use super::*;
use crate::config::{Config, Importers};
use crate::tests::{Gateway, Registry, caller, exchange};

const ADMIN: &str = "good:op:ops::1000:1000";
const ALICE: &str = "good:alice:users::1:10001";

/// Method, path below `/api`, who and body. `ID` stands for an image's id.
const QUESTIONS: [(&str, &str, &str, &str); 17] = [
    ("POST", "pull/sysa/docker/app:1/", ALICE, ""),
    ("POST", "pull/sysa/docker/app:1/?wait=0", ALICE, ""),
    ("DELETE", "pull/sysa/docker/app:1/", ALICE, ""),
    ("GET", "job/sysa/docker/app:1/", ALICE, ""),
    ("GET", "queue/sysa/", ALICE, ""),
    ("POST", "doimport/sysa/custom/own/", ALICE, r#"{"filepath":"/usr/bin/env","format":"tar"}"#),
    ("PUT", "upload/sysa/custom/own/?format=tar", ALICE, "no tar"),
    ("GET", "image/sysa/docker/app:1/", ALICE, ""),
    ("DELETE", "image/sysa/docker/app:1/", ALICE, ""),
    ("DELETE", "image/sysa/docker/app:1/?all=1", ADMIN, ""),
    ("GET", "history/sysa/docker/app:1/", ALICE, ""),
    ("POST", "expire/sysa/docker/app:1/", ADMIN, ""),
    ("POST", "expire/sysa?id=ID", ADMIN, ""),
    ("POST", "autoexpire/sysa/", ADMIN, ""),
    ("POST", "restore/sysa/?id=ID", ADMIN, ""),
    ("POST", "pin/sysa/?id=ID", ADMIN, ""),
    ("GET", "metrics/sysa/", ADMIN, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_while_the_database_is_away_is_a_503_in_time_and_nothing_is_lost() {
    let servers = [
        (Server::postgres(), false),
        (Server::mongo(), false),
        (Server::postgres(), true),
        (Server::mongo(), true),
    ];
    let each = servers.map(|(mut server, is_stopped)| async move {
        let (registry, address) = Registry::start().await;
        let id = registry.push("app", "1", "one");
        let dir = tempfile::tempdir().unwrap();
        let place = server.place().await;
        let change = |config: &mut Config| {
            config.import.users = Importers::Everybody;
            config.metrics = true;
        };
        let gateway = Gateway::start_as(dir.path(), address, 0, &place, change).await;
        let served = gateway.listen().await;
        gateway.pull(&caller(1, &[]), "app:1", "").await;
        // Or it accepts and answers nothing.
        let is_away = if is_stopped { server.stop() } else { server.freeze(true) };
        if !is_away {
            return;
        }
        let mut asked = tokio::task::JoinSet::new();
        for (method, path, who, body) in QUESTIONS {
            let path = format!("/api/{}", path.replace("ID", &id));
            asked.spawn(async move {
                let begun = Instant::now();
                let answer = exchange(served, method, &path, who, body);
                let answer = tokio::time::timeout(Duration::from_secs(40), answer).await;
                (format!("{method} {path}"), answer.ok(), begun.elapsed())
            });
        }
        let answers = asked.join_all().await;
        match is_stopped {
            true => server.start(),
            false => drop(server.freeze(false)),
        }
        for (what, answer, waited) in answers {
            let (status, head, body) = answer.unwrap_or_else(|| panic!("{place}: {what}: no answer"));
            assert_eq!(status, 503, "{place}: {what}: {body}");
            assert!(head.contains("\r\nretry-after: "), "{place}: {what}: {head}");
            assert!(waited < Duration::from_secs(12), "{place}: {what}: {waited:?}");
        }
        let begun = Instant::now();
        let look = "/api/image/sysa/docker/app:1/";
        while exchange(served, "GET", look, ALICE, "").await.0 != 200 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{place} did not recover");
        }
        assert_eq!(gateway.names("images"), [format!("{id}.meta"), format!("{id}.squashfs")], "{place}");
        assert_eq!(gateway.names("expand"), [""; 0], "{place}");
    });
    // All at once, because each waits; in this thread, whose end would be the servers'.
    join_all(each).await;
}
