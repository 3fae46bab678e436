//! Files that are imported by path: which ones never, and whose bytes.

use super::import::{end, import, start_as, try_import};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_gateway_s_own_is_imported_not_even_for_root() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["conf/deep", "log", "import"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let gateway = start_as(dir.path(), |config| {
        config.file = Some(at("conf/imagemanager.json"));
        config.audit_log = Some(at("log/audit.log"));
        config.seal_key_file = Some(at("log/seal.key"));
        config.database = Place::Sqlite(at("log/c.db"));
        let (certificate, key) = (at("log/tls.pem"), at("log/tls.key"));
        config.doors.tls = Some(crate::config::TlsFiles { certificate, key });
        config.platforms.get_mut("far").unwrap().remote.as_mut().unwrap().key = Some(at("log/ssh.key"));
    })
    .await;
    for (name, is_own) in [
        ("cache/file", true),
        ("expand/file", true),
        ("images/file", true),
        ("arm/file", true),
        ("conf/imagemanager.json", true),
        ("conf/deep/file", true),
        ("log/audit.log", true),
        ("log/seal.key", true),
        ("log/c.db", true),
        ("log/c.db-wal", true),
        ("log/tls.key", true),
        ("log/ssh.key", true),
        // Everybody may have these; and who logs into a directory of others closes only the file.
        ("log/tls.pem", false),
        ("log/other.log", false),
        ("import/file", false),
    ] {
        std::fs::write(at(name), "some bytes").unwrap();
        for format in ["tar", "squashfs"] {
            let tag = format!("{}-{format}", name.replace('/', "-").to_lowercase());
            let answer = try_import(&gateway, &tag, &at(name), format, "").await;
            match (is_own, answer) {
                (true, Err(Refusal::Unprocessable(why))) => {
                    assert!(why.contains("is the image gateway's own"), "{name}: {why}");
                }
                (false, Ok(_)) => {}
                (_, answer) => panic!("{name}: {answer:?}"),
            }
        }
    }
    // Nor in a tree that has one of them somewhere.
    import(&gateway, "tree:1", &at("log"), "directory").await;
    let why = end(&gateway, 0, "tree:1").await.unwrap_err();
    assert!(why.contains("is the image gateway's own"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_name_of_a_file_after_it_was_accepted_is_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let gateway = start_as(dir.path(), |_| ()).await;
    // Whoever came before has all threads, until the test says so.
    std::fs::write(at("endless"), "").unwrap();
    for name in ["a", "b"] {
        std::fs::write(at(name), name).unwrap();
        import(&gateway, &format!("{name}:1"), &at(name), "tar").await;
    }
    let said = async |tag: &str, what: &str| {
        let begun = Instant::now();
        loop {
            let image = gateway.api().job("sysa", "custom", tag, &caller(0, &[])).await.unwrap().image;
            if image.status_message.is_some_and(|message| message.contains(what)) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{tag}: no {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let begun = Instant::now();
    while gateway.conversions() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    type Act = fn(&Path, &Path);
    let acts: [(&str, Act); 3] = [
        ("renamed", |own, other| std::fs::rename(other, own).unwrap()),
        ("exchanged", |own, other| {
            let (here, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            rustix::fs::renameat_with(here, other, here, own, flags).unwrap();
        }),
        ("linked", |own, other| {
            std::fs::remove_file(own).unwrap();
            std::os::unix::fs::symlink(other, own).unwrap();
        }),
    ];
    for (what, act) in acts {
        let (own, other) = (at(what), at(&format!("{what}.secret")));
        std::fs::write(&own, format!("{what} own")).unwrap();
        std::fs::write(&other, "a secret").unwrap();
        import(&gateway, &format!("{what}:1"), &own, "tar").await;
        said(&format!("{what}:1"), "Waiting for a free worker").await;
        act(&own, &other);
        assert_eq!(std::fs::read(&own).unwrap(), b"a secret", "{what}");
    }
    std::fs::remove_file(at("endless")).unwrap();
    for name in ["a", "b"] {
        gateway.api().cancel("sysa", "custom", &format!("{name}:1"), &caller(0, &[])).await.unwrap();
    }
    for (what, _) in acts {
        let id = end(&gateway, 0, &format!("{what}:1")).await.unwrap();
        assert_eq!(id, sha256(format!("{what} own").as_bytes()), "{what}");
    }
}
