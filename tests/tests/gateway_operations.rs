//! Running a gateway: reloads, health, metrics, backups, a catalog that was lost, other listeners than plain addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use common::operated::{Operated as _, age, image, site};
use common::site::{Site, local, names};
use serde_json::{Value, json};
use shifter_tests::fixture::request;
use shifter_tests::harness::{GatewayOptions, Location, RegistryOptions};

#[test]
fn a_reload_takes_new_locations_and_limits_and_a_broken_file_changes_nothing() {
    let (first, second) = (image("first"), image("second"));
    let mut other = String::new();
    let mut site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&registry, &first, "app", "1").unwrap();
        let another = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&another, &second, "app", "2").unwrap();
        other = another.url;
        vec![local(&registry.url)]
    });
    site.pull("alice", "app:1").success().unwrap();
    assert!(!site.pull("alice", "other/app:2").status.success());

    site.change(|document| {
        document["Locations"]["other"] = json!({"remotetype": "dockerv2", "url": other});
        document["Platforms"]["testsystem"]["admins"] = json!(["alice"]);
        document["WorkerThreads"] = json!(1);
        document["Listen"] = json!(["127.0.0.1:1"]);
        document["CacheSizeLimit"] = json!(7);
        document["PrivateWithoutACL"] = json!("public");
    });
    let log = site.reload("the configuration was read again");
    assert_eq!(log.matches("PrivateWithoutACL: ").count(), 1, "what it opens is not said: {log}");
    // The listeners of the harness come from the command line, so that Listen means nothing.
    assert!(log.contains("CacheSizeLimit") && !log.contains("Listen"), "{log}");
    site.pull("alice", "other/app:2").success().unwrap();
    assert_eq!(site.run("alice", "other/app:2", &["cat", "/etc/word"]).success().unwrap(), "second");

    site.change(|document| document["Platforms"]["testsystem"]["accesstype"] = json!("nowhere"));
    let log = site.reload("the old one stays in force");
    assert!(log.contains("Platforms.testsystem.accesstype: must be one of local, remote"), "{log}");
    fs::write(&site.gateway.config, "{").unwrap();
    site.reload("it is not JSON");
    site.pull("bob", "other/app:2").success().unwrap();
    let metrics = site.get("/metrics").1;
    assert!(metrics.contains("shifter_reloads_total{result=\"taken\"} 1\n"), "{metrics}");
    assert!(metrics.contains("shifter_reloads_total{result=\"refused\"} 2\n"), "{metrics}");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn a_worker_reads_its_configuration_again_as_serve_does() {
    let mut database = None;
    let mut site = Site::with(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for tag in ["1", "2", "3"] {
            sandbox.push(&registry, &image(tag), "app", tag).unwrap();
        }
        let server = sandbox.postgres().unwrap();
        let keys = [("DatabaseURI", json!(server.uri)), ("WorkerThreads", json!(0))];
        database = Some(server);
        let more = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        GatewayOptions { locations: vec![local(&registry.url)], more, ..GatewayOptions::default() }
    });
    let worker = site.sandbox.worker(&site.gateway, 2).unwrap();
    site.pull("alice", "app:1").success().unwrap();
    // The worker alone is told, so what it then does is its own doing.
    site.change(|document| document["DenyImages"] = json!("local/app"));
    site.reload_of(worker, "the configuration was read again");
    let denied = site.pull("alice", "app:2");
    assert!(denied.err().contains("policy denies it"), "{}", denied.describe());
    site.change(|document| {
        document["DenyImages"] = json!([]);
        document["SealKeyFile"] = json!("/nonexistent");
        document["AuditLog"] = json!("/nonexistent");
    });
    let said = site.reload_of(worker, "the configuration was read again");
    assert!(said.contains("AuditLog, SealKeyFile"), "{said}");
    site.pull("alice", "app:2").success().unwrap();
    site.change(|document| document["PullUpdateTimeout"] = json!("soon"));
    site.reload_of(worker, "the old one stays in force");
    site.pull("alice", "app:3").success().unwrap();
    site.sandbox.stop(worker).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn health_and_metrics_need_no_credential_and_name_no_image_user_or_path() {
    let built = image("x");
    let mut site = site(&[("quitesecret", &built)]);
    site.pull("alice", "app:quitesecret").success().unwrap();
    assert_eq!(site.get("/healthz"), (200, "ok\n".to_owned()));
    let (status, body) = site.get("/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, ready),
        (200, json!({"ready": true, "catalog": true, "images": true, "munge": true}))
    );
    let (status, metrics) = site.get("/metrics");
    assert_eq!(status, 200);
    for secret in ["quitesecret", "alice", "4201", "testsystem", "app", built.id()] {
        assert!(!metrics.contains(secret), "{secret}: {metrics}");
    }
    for line in [
        "shifter_requests_total{route=\"readyz\",status=\"200\"} 1",
        "shifter_pull_seconds_count{result=\"ready\"} 1",
        "shifter_layers_fetched_total 1",
        "shifter_jobs{state=\"PULLING\"} 0",
        "shifter_cache_blobs 1",
        "shifter_munge_failures_total{kind=\"refused\"} 0",
        "shifter_ready 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    let document: Value = serde_json::from_str(&site.get("/api/openapi.json").1).unwrap();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(document["paths"][path]["get"].is_object(), "{path} is not in the document");
        let refused = request(&site.gateway.authority, "POST", path, &[], b"").unwrap();
        let sentence: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((refused.status, &sentence["status"]), (405, &json!(405)), "{path}: {sentence}");
        assert_eq!(request(&site.gateway.authority, "HEAD", path, &[], b"").unwrap().status, 200, "{path}");
    }
    assert_eq!(site.get("/api/list/testsystem").0, 401);
    assert!(site.get("/metrics").1.contains("shifter_munge_failures_total{kind=\"refused\"} 1\n"));

    fs::set_permissions(&site.gateway.images, fs::Permissions::from_mode(0o555)).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let (status, body) = site.get("/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, ready),
        (503, json!({"ready": false, "catalog": true, "images": false, "munge": true}))
    );
    assert_eq!(site.get("/healthz").0, 200);
    // Administrators hear which.
    let out = site.command(&["ready"]);
    let images = site.gateway.images.display().to_string();
    assert!(!out.status.success() && out.err().contains(&images), "{}", out.describe());
    fs::set_permissions(&site.gateway.images, fs::Permissions::from_mode(0o755)).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(site.command(&["ready"]).success().unwrap(), "ready\n");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn a_backup_taken_while_serving_brings_every_tag_back_and_a_second_gateway_is_refused() {
    let (one, two) = (image("one"), image("two"));
    let mut site = site(&[("1", &one), ("2", &two)]);
    site.pull("alice", "app:1").success().unwrap();
    let copies = site.sandbox.new_directory("copies").unwrap();
    chown(&copies, Some(4210), Some(4210)).unwrap();
    let copy = copies.join("copy.db").display().to_string();
    site.command(&["backup", &copy]).success().unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(&copies), ["copy.db"]);
    let again = site.command(&["backup", &copy]);
    assert!(again.err().contains("exists already"), "{}", again.describe());
    // The socket listens to root and the gateway's account alone, whatever its mode.
    let socket = site.gateway.state.join("images.db.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let ask = format!(
        "printf '\"Ready\"\\n' | timeout 10 curl -s --unix-socket {0} telnet://x || true",
        socket.display()
    );
    let heard = site.sandbox.user("alice").unwrap().run(&["bash", "-c", &ask]).unwrap();
    assert_eq!(heard.out(), "", "{}", heard.describe());
    assert!(site.log().contains("somebody else connected to the administrators' socket"), "{}", site.log());

    let second = site.command(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(!second.status.success(), "{}", second.describe());
    let pid = site.sandbox.pid(site.gateway.daemon).unwrap();
    assert!(second.err().contains(&format!("in use by process {pid}")), "{}", second.describe());

    // What comes after the backup is lost with the catalog, nothing else.
    site.pull("alice", "app:2").success().unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let database = site.gateway.state.join("images.db");
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{end}", database.display()));
    }
    fs::copy(&copy, &database).unwrap();
    chown(&database, Some(4210), Some(4210)).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    assert_eq!(site.run("bob", "app:1", &["cat", "/etc/word"]).success().unwrap(), "one");
    assert!(!site.shifterimg("bob", &["lookup", "app:2"]).status.success());
    // Not running: done by the command itself.
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let offline = copies.join("offline.db").display().to_string();
    site.command(&["backup", &offline]).success().unwrap();
    assert!(fs::metadata(&offline).unwrap().len() > 4096);
    site.finish();
}

#[test]
fn reconcile_finds_and_settles_each_kind_of_disagreement() {
    let built = ["missing", "cut", "bare", "open", "unknown", "fine"].map(image);
    let [missing, cut, bare, open, unknown, fine] = &built;
    let tags = ["missing", "cut", "bare", "open", "unknown", "fine"];
    let mut site = site(&tags.into_iter().zip(&built).collect::<Vec<_>>());
    assert!(site.command(&["reconcile"]).success().unwrap().contains("agree"));
    for tag in tags.iter().filter(|tag| **tag != "unknown") {
        site.pull("alice", &format!("app:{tag}")).success().unwrap();
    }
    fs::remove_file(site.file(missing, "squashfs")).unwrap();
    let bytes = fs::read(site.file(cut, "squashfs")).unwrap();
    fs::write(site.file(cut, "squashfs"), &bytes[..bytes.len() - 1]).unwrap();
    fs::remove_file(site.file(bare, "meta")).unwrap();
    let meta = fs::read_to_string(site.file(open, "meta")).unwrap();
    fs::write(site.file(open, "meta"), format!("USERACL: 4202\n{meta}")).unwrap();
    for end in ["squashfs", "meta"] {
        fs::copy(site.file(fine, end), site.file(unknown, end)).unwrap();
    }
    let part = site.gateway.images.join(format!(".{}.partial.0011223344556677", fine.id()));
    fs::write(&part, "x").unwrap();
    // No part of this host's: only its age tells.
    age(&part);
    let foreign = site.gateway.images.join("README.site");
    fs::write(&foreign, "the site's").unwrap();

    let before = names(&site.gateway.images);
    let out = site.command(&["reconcile"]);
    let text = out.out();
    for (built, words) in [
        (missing, "is in the catalog and not in the directory"),
        (cut, "when it was published"),
        (bare, "has no .meta"),
        (open, "names other users than the catalog"),
        (unknown, "the catalog does not know it"),
    ] {
        assert!(
            text.lines().any(|line| line.contains(built.id()) && line.contains(words)),
            "{words}: {text}"
        );
    }
    assert!(text.contains("left by a writer that is dead"), "{text}");
    assert!(!out.status.success() && out.err().contains("6 found, 6 left"), "{}", out.describe());
    assert_eq!(names(&site.gateway.images), before, "looking changes nothing");

    // Young files may be of a pull under way.
    let out = site.command(&["reconcile", "--fix", "--system", "testsystem"]);
    assert!(out.out().contains("younger than an hour; left alone"), "{}", out.describe());
    for end in ["squashfs", "meta"] {
        age(&site.file(unknown, end));
    }
    assert!(site.command(&["reconcile", "--fix"]).success().unwrap().contains("1 found, all settled"));
    assert!(site.command(&["reconcile"]).success().unwrap().contains("agree"));
    assert!(!site.file(unknown, "squashfs").exists() && !part.exists() && foreign.exists());
    assert_eq!(fs::read_to_string(site.file(open, "meta")).unwrap(), meta);
    for tag in ["bare", "open", "fine"] {
        assert_eq!(site.run("bob", &format!("app:{tag}"), &["cat", "/etc/word"]).success().unwrap(), tag);
    }
    for tag in ["missing", "cut"] {
        assert!(!site.shifterimg("bob", &["lookup", &format!("app:{tag}")]).status.success(), "{tag}");
        site.pull("bob", &format!("app:{tag}")).success().unwrap();
        assert_eq!(site.run("bob", &format!("app:{tag}"), &["cat", "/etc/word"]).success().unwrap(), tag);
    }
    let out = site.command(&["reconcile", "--system", "elsewhere"]);
    assert!(out.err().contains("system elsewhere is not configured"), "{}", out.describe());
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn reconcile_takes_nothing_away_where_the_image_directory_is_not_mounted() {
    let (one, two) = (image("one"), image("two"));
    let site = site(&[("one", &one), ("two", &two)]);
    for tag in ["one", "two"] {
        site.pull("alice", &format!("app:{tag}")).success().unwrap();
    }
    let (images, aside) = (&site.gateway.images, site.gateway.images.with_extension("aside"));
    fs::create_dir(&aside).unwrap();
    let movement = |from: &std::path::Path, to: &std::path::Path| {
        for name in names(from) {
            fs::rename(from.join(&name), to.join(&name)).unwrap();
        }
    };
    movement(images, &aside);
    let out = site.command(&["reconcile", "--fix"]);
    assert!(out.out().contains("is its file system mounted? nothing is taken away"), "{}", out.describe());
    assert!(out.err().contains("2 found, 2 left as they are"), "{}", out.describe());
    movement(&aside, images);
    assert!(site.command(&["reconcile"]).success().unwrap().contains("agree"));
    assert_eq!(site.run("bob", "app:two", &["cat", "/etc/word"]).success().unwrap(), "two");
    site.finish();
}

#[test]
fn a_lost_catalog_is_rebuilt_and_opens_no_private_image() {
    let (open, closed, old) = (image("open"), image("closed"), image("old"));
    let mut site = site(&[("open", &open), ("closed", &closed), ("old", &old)]);
    for tag in ["open", "closed", "old"] {
        site.pull("alice", &format!("app:{tag}")).success().unwrap();
    }
    // One image is alice's alone, one has a record as an original gateway writes it, one has none.
    let private = fs::read_to_string(site.file(&closed, "meta")).unwrap();
    fs::write(site.file(&closed, "meta"), format!("USERACL: 4201\n{private}")).unwrap();
    let legacy = fs::read_to_string(site.file(&old, "meta")).unwrap();
    let legacy: String =
        legacy.lines().filter(|line| !line.starts_with('#')).map(|l| format!("{l}\n")).collect();
    fs::write(site.file(&old, "meta"), legacy).unwrap();
    let stray = site.gateway.images.join(format!("{}.squashfs", "0".repeat(64)));
    fs::copy(site.file(&open, "squashfs"), &stray).unwrap();
    for name in names(&site.gateway.images) {
        age(&site.gateway.images.join(name));
    }
    site.sandbox.stop(site.gateway.daemon).unwrap();
    for name in names(&site.gateway.state).iter().filter(|name| name.starts_with("images.db")) {
        fs::remove_file(site.gateway.state.join(name)).unwrap();
    }
    site.sandbox.restart(&mut site.gateway).unwrap();
    assert_eq!(site.listed("alice")["list"], json!([]));
    // An empty catalog is not believed that all images are superfluous.
    let out = site.command(&["reconcile", "--fix"]);
    assert!(!out.status.success() && out.out().contains("nothing is removed"), "{}", out.describe());
    assert!(site.file(&open, "squashfs").exists());

    let out = site.command(&["reconcile", "--rebuild"]);
    assert!(out.err().contains("4 found, 1 left"), "{}", out.describe());
    assert!(out.out().contains("without its .meta nobody knows who may use it"), "{}", out.describe());
    let images = |user: &str| site.shifterimg(user, &["images"]).success().unwrap();
    let (hers, his) = (images("alice"), images("bob"));
    for built in [&open, &closed, &old] {
        assert!(hers.contains(built.id()), "{hers}");
    }
    assert!(his.contains(open.id()) && !his.contains(closed.id()), "{his}");
    for (user, built, is_allowed) in [
        ("alice", &open, true),
        ("alice", &closed, true),
        ("bob", &open, true),
        ("bob", &closed, false),
        ("bob", &old, true),
    ] {
        let image = format!("--image=id:{}", built.id());
        let out = site.sandbox.user(user).unwrap().run(&["shifter", &image, "cat", "/etc/word"]).unwrap();
        assert_eq!(out.status.success(), is_allowed, "{user}: {}", out.describe());
    }
    // A tag comes back by asking the registry; the image is not made again.
    let made = fs::metadata(site.file(&open, "squashfs")).unwrap().modified().unwrap();
    site.pull("bob", "app:open").success().unwrap();
    assert_eq!(site.run("alice", "app:open", &["cat", "/etc/word"]).success().unwrap(), "open");
    assert_eq!(fs::metadata(site.file(&open, "squashfs")).unwrap().modified().unwrap(), made);
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}

#[test]
fn tls_with_a_private_authority_and_a_unix_socket_serve_the_same_gateway() {
    let built = image("tls");
    let mut site = Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        sandbox.push(&registry, &built, "app", "1").unwrap();
        vec![Location { name: "local".to_owned(), url: registry.url, ca: None }]
    });
    site.sandbox.stop(site.gateway.daemon).unwrap();
    let keys = site.sandbox.new_directory("tls").unwrap();
    chown(&keys, Some(4210), Some(4210)).unwrap();
    let make = |name: &str| {
        format!(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr && \
             openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out {name}.pem \
             -extfile <(printf 'subjectAltName=IP:127.0.0.1')"
        )
    };
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem && {} && {} && cp one.pem gw.pem && cp one.key gw.key && chmod 644 *.key",
        make("one"),
        make("two")
    );
    let root = site.sandbox.root().directory(&keys);
    root.run(&["bash", "-ec", &script]).unwrap().success().unwrap();
    let socket = keys.join("http.sock").display().to_string();
    let port = site.gateway.authority.rsplit_once(':').unwrap().1.to_owned();
    site.change(|document| {
        document["TLSCertificate"] = json!(keys.join("gw.pem"));
        document["TLSKey"] = json!(keys.join("gw.key"));
        document["Listen"] = json!([format!("127.0.0.1:{port}"), format!("unix:{socket}")]);
        document["LogFormat"] = json!("json");
    });
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let config = site.gateway.config.display().to_string();
    let log = keys.join("log").display().to_string();
    let serve = format!("exec {program} serve --config {config} 2> {log}");
    let mut child = site.sandbox.user("gateway").unwrap().spawn(&["bash", "-c", &serve]).unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let ca = keys.join("ca.pem").display().to_string();
    let curl = |words: &[&str]| root.run(&[&["curl", "-sS", "--max-time", "5"], words].concat()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !curl(&["--cacert", &ca, &format!("{url}/healthz")]).status.success() {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(curl(&["--unix-socket", &socket, "http://x/healthz"]).success().unwrap(), "ok\n");
    assert!(!curl(&[&format!("{url}/healthz")]).status.success(), "an unknown authority");
    site.sandbox.write_udiroot(&[("imageGateway", &url), ("system", "testsystem")]).unwrap();
    // Without the authority nothing is told to whoever answers.
    let distrust = site.pull("alice", "app:1");
    assert!(!distrust.status.success(), "{}", distrust.describe());
    // The sandbox's own /etc.
    fs::copy(&ca, "/etc/ssl/certs/ca-certificates.crt").unwrap();
    site.pull("alice", "app:1").success().unwrap();
    assert_eq!(site.shifterimg("alice", &["lookup", "app:1"]).success().unwrap().trim(), built.id());

    // A renewed certificate counts after a reload, a broken one does not.
    let subject = || {
        let ask = format!(
            "openssl s_client -connect 127.0.0.1:{port} </dev/null 2>/dev/null | openssl x509 -noout -subject"
        );
        root.run(&["bash", "-c", &ask]).unwrap().success().unwrap()
    };
    let hangup = |until: &str, count: usize| {
        root.run(&["kill", "-HUP", &child.id().to_string()]).unwrap().success().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::read_to_string(&log).unwrap().matches(until).count() < count {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    assert!(subject().contains("one"), "{}", subject());
    root.run(&["bash", "-ec", "cp two.pem gw.pem; cp two.key gw.key"]).unwrap().success().unwrap();
    hangup("the configuration was read again", 1);
    assert!(subject().contains("two"), "{}", subject());
    root.run(&["bash", "-ec", "cp one.key gw.key"]).unwrap().success().unwrap();
    hangup("cannot be used together", 1);
    assert!(subject().contains("two"), "{}", subject());
    for line in fs::read_to_string(&log).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string()), "{line}");
    }
    root.run(&["kill", &child.id().to_string()]).unwrap().success().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!Path::new(&socket).exists());
    site.finish();
}

#[test]
fn check_config_says_all_that_is_wrong_and_what_is_open() {
    let mut site = site(&[]);
    let out = site.command(&["check-config"]);
    assert!(
        out.status.success() && out.err().contains("Locations.local.url: passwords"),
        "{}",
        out.describe()
    );
    site.change(|document| {
        document["TLSCertificate"] = json!("/nowhere/gw.pem");
        document["TLSKey"] = json!("/nowhere/gw.key");
        document["Platforms"]["testsystem"]["local"]["imageDir"] = json!("/nowhere/images");
        document["ImportUsers"] = json!("all");
        document["CacheDirectory"] = json!("/etc/cache/below");
        document["ExpandDirectory"] = json!("/nowhere/images");
        document["AuditLog"] = json!("/etc/passwd");
        document["DatabaseURI"] = json!("sqlite:///etc/catalog.db");
        document.as_object_mut().unwrap().remove("AdminSocket");
    });
    // Root may write anywhere.
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let config = site.gateway.config.display().to_string();
    let account = site.sandbox.user("gateway").unwrap();
    let out = account.run(&[&program, "check-config", "--config", &config]).unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", out.describe());
    for words in [
        "CacheDirectory: this account cannot make /etc/cache/below in /etc: Permission denied",
        "ExpandDirectory is imageDir of system testsystem, /nowhere/images",
        "ExpandDirectory: this account cannot make /nowhere/images in /: Permission denied",
        "AuditLog: this account cannot read and write /etc/passwd: Permission denied",
        "DatabaseURI: this account cannot make /etc/catalog.db: Permission denied",
        "Platforms.testsystem.local.imageDir: /nowhere/images is not a directory",
        "TLSCertificate: reading the certificates of /nowhere/gw.pem failed",
        "ImportUsers: every user",
    ] {
        assert!(out.err().contains(words), "{words}: {}", out.describe());
    }
    site.change(|document| document["DatabaseURI"] = json!("postgres:///none?host=/nowhere"));
    let out = site.command(&["check-config"]);
    let ready = site.command(&["ready"]);
    assert!(ready.err().contains("AdminSocket is not set"), "{}", ready.describe());
    let words = "warning: the catalog cannot be opened at the moment: ";
    assert!(out.err().contains(words), "{}", out.describe());
    assert_eq!(site.command(&["check-config", "--nothing"]).status.code(), Some(2));
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.finish();
}
