//! The main job, end to end: a user pulls from a real registry through a real gateway, and runs what was pulled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::site::{Site, local};
use shifter_tests::fixture::{
    Built, Compression, Flavor, Image, Layer, Server, build_named, busybox_image, shell_entries,
};
use shifter_tests::fixture::{Config, dir, file};
use shifter_tests::harness::{Location, RegistryOptions};

/// A site with one docker-registry that holds these images as `NAME:1`.
fn site_with(images: &[(&str, &Built)]) -> Site {
    Site::new(|sandbox| {
        let registry = sandbox.registry(RegistryOptions::default()).unwrap();
        for (name, built) in images {
            sandbox.push(&registry, built, name, "1").unwrap();
        }
        vec![local(&registry.url)]
    })
}

fn small(text: &str, compression: Compression, flavor: Flavor) -> Built {
    let mut entries = vec![dir("."), dir("bin"), dir("etc"), dir("srv"), file("etc/which", text)];
    entries.extend(shell_entries("bin").unwrap());
    let config = Config {
        env: vec!["FROM_IMAGE=yes".to_owned()],
        working_dir: "/srv".to_owned(),
        ..Config::default()
    };
    Image::new(vec![Layer::new(entries).compressed(compression)])
        .flavor(flavor)
        .config(config)
        .build()
        .unwrap()
}

#[test]
fn every_form_of_image_is_pulled_found_and_run_by_an_ordinary_user() {
    let docker = small("docker", Compression::Gzip, Flavor::Docker);
    let zstd = small("zstd", Compression::Zstd, Flavor::Oci);
    let plain = small("plain", Compression::None, Flavor::Oci);
    let many = build_named("multi-arch").unwrap();
    let images = [("docker", &docker), ("zstd", &zstd), ("deep/er/plain", &plain), ("many", &many)];
    let site = site_with(&images);
    for (name, built) in images {
        let image = format!("local/{name}:1");
        site.pull("alice", &image).success().unwrap();
        let found = site.shifterimg("alice", &["lookup", &format!("docker:{image}")]).success().unwrap();
        assert_eq!(found, format!("{}\n", built.id()), "{image}");
        if name == "many" {
            assert_eq!(
                site.script(&image, "cat /etc/architecture"),
                format!("{}\n", shifter_tests::fixture::architecture())
            );
            continue;
        }
        let seen = site.script(&image, "cat /etc/which; echo; id -u; id -g; id -G; echo $FROM_IMAGE");
        let expected = format!("{}\n4201\n4201\n4201 4301 4302\nyes\n", name.trim_start_matches("deep/er/"));
        assert_eq!(seen, expected);
    }
    let listed = site.shifterimg("bob", &["images"]).success().unwrap();
    for (name, _) in images {
        assert!(listed.contains(&format!("local/{name}:1")), "{listed}");
    }
    site.finish();
}

#[test]
fn images_and_records_are_published_as_the_documents_say() {
    let built = small("x", Compression::Gzip, Flavor::Docker);
    let site = site_with(&[("x", &built)]);
    site.pull("alice", "local/x:1").success().unwrap();
    let id = built.id();
    assert_eq!(site.image_files(), [format!("{id}.meta"), format!("{id}.squashfs")]);
    for name in site.image_files() {
        let found = std::fs::metadata(site.gateway.images.join(&name)).unwrap();
        assert_eq!((found.uid(), found.permissions().mode() & 0o7777), (4210, 0o600), "{name}");
    }
    let record = std::fs::read_to_string(site.gateway.images.join(format!("{id}.meta"))).unwrap();
    assert!(record.contains("FORMAT: squashfs\n") && record.contains("WORKDIR: /srv\n"), "{record}");
    assert!(!record.contains("USERACL"), "{record}");
    assert_eq!(site.expansions(), [] as [&str; 0]);
    site.finish();
}

#[test]
fn everything_an_image_says_of_itself_is_recorded_where_old_runtimes_do_not_look() {
    let config = Config {
        env: vec!["A=1".to_owned()],
        entrypoint: vec!["/bin/sh".to_owned()],
        cmd: vec!["-c".to_owned(), "true".to_owned()],
        working_dir: "/srv".to_owned(),
        labels: vec![("label".to_owned(), "of it".to_owned())],
        user: "somebody".to_owned(),
        volumes: vec!["/scratch".to_owned(), "/data\nUSERACL: 1".to_owned()],
        stop_signal: "SIGINT".to_owned(),
        ..Config::default()
    };
    let entries = vec![dir("."), dir("srv"), file("srv/file", "x")];
    let built = Image::new(vec![Layer::new(entries)]).config(config).build().unwrap();
    let site = site_with(&[("x", &built)]);
    site.pull("alice", "local/x:1").success().unwrap();
    let record = std::fs::read_to_string(site.gateway.images.join(format!("{}.meta", built.id()))).unwrap();
    let (ours, old): (Vec<&str>, Vec<&str>) = record.lines().partition(|line| line.starts_with('#'));
    let expected =
        ["FORMAT: squashfs", "ENTRY: ['/bin/sh']", "CMD: ['-c', 'true']", "WORKDIR: /srv", "ENV: A=1"];
    assert_eq!(old, expected, "{record}");
    assert_eq!(ours.len(), 1, "{record}");
    let ours: serde_json::Value = serde_json::from_str(ours[0].strip_prefix("#shifter1 ").unwrap()).unwrap();
    for (key, value) in [
        ("user", serde_json::json!("somebody")),
        ("volumes", serde_json::json!(["/data\nUSERACL: 1", "/scratch"])),
        ("stopSignal", serde_json::json!("SIGINT")),
        ("architecture", serde_json::json!(shifter_tests::fixture::architecture())),
        ("labels", serde_json::json!({"label": "of it"})),
        ("entry", serde_json::json!(["/bin/sh"])),
    ] {
        assert_eq!(ours[key], value, "{record}");
    }
    // Old clients get the thirteen keys they know.
    let line = ("GET", "/api/lookup/testsystem/docker/local%2Fx%3A1/");
    let answer = site.sandbox.api(&site.gateway, &site.munged, "alice", line, b"").unwrap();
    let answer: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.len(), 13, "{answer:?}");
    site.finish();
}

#[test]
fn layers_are_merged_as_they_were_meant() {
    let built = build_named("layered").unwrap();
    let site = site_with(&[("layered", &built)]);
    site.pull("alice", "local/layered:1").success().unwrap();
    let script = "cd /data && ls && cat kept cleared/* linked survivor becomes-file becomes-dir/inside again link-survives newest";
    let expected = "again\nbecomes-dir\nbecomes-file\ncleared\nkept\nlink-survives\nlink-target\nlinked\nnewest\nsurvivor\n\
        keptnewlinkedoriginalfile nownewsecondreplacednewest";
    assert_eq!(site.script("local/layered:1", script), expected);
    let same = site.script("local/layered:1", "stat -c %i /data/linked /data/link-target | uniq | wc -l");
    assert_eq!(same.trim(), "1");
    site.finish();
}

#[test]
fn names_of_any_bytes_arrive_and_dangerous_entries_do_not() {
    let odd = build_named("odd-names").unwrap();
    let privileged = build_named("privileged-files").unwrap();
    let site = site_with(&[("odd", &odd), ("privileged", &privileged)]);
    site.pull("alice", "local/odd:1").success().unwrap();
    let script = "cd /odd && set -- * && echo $# && cat './with blank' \"quote's \\\"and\\\" more\" \"$(printf 'new\\nline')\" \
        \"$(printf '\\377\\376-bytes')\" grüße nnn* gnn* ./-rf 'back\\slash' two..dots";
    assert_eq!(site.script("local/odd:1", script), "11\n12345678910");
    site.pull("alice", "local/privileged:1").success().unwrap();
    let script = "cd /odd && stat -c '%n %a %u %g %F' * && cat closed/inside";
    let expected = "capable 644 0 0 regular file\nclosed 755 0 0 directory\nlarge-ids 644 0 0 regular file\n\
        owned 644 0 0 regular file\nsetgid 755 0 0 regular file\nsetuid 755 0 0 regular file\n\
        shared 1777 0 0 directory\nx";
    assert_eq!(site.script("local/privileged:1", script), expected);
    site.finish();
}

#[test]
fn an_unchanged_tag_costs_one_head_and_a_second_reference_no_conversion() {
    let built = busybox_image().unwrap();
    let server = Server::start("127.0.0.1:0", &[("one", "1", &built), ("two", "2", &built)], &[]).unwrap();
    let url = format!("http://{}", server.authority());
    let site = Site::configured(&[("PullUpdateTimeout", 2)], |_| vec![local(&url)]);
    site.pull("alice", "local/one:1").success().unwrap();
    let image = site.gateway.images.join(format!("{}.squashfs", built.id()));
    let inode = std::fs::metadata(&image).unwrap().ino();
    let blobs = |requests: &[String]| requests.iter().filter(|line| line.contains("/blobs/")).count();
    let first = server.requests();
    assert_eq!(blobs(&first), 2, "{first:?}");

    // Within the timeout a pull is answered from what is known.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    site.pull("alice", "local/one:1").success().unwrap();
    let again = server.requests()[first.len()..].to_vec();
    assert_eq!(again, ["HEAD /v2/one/manifests/1"]);

    let before = server.requests().len();
    site.pull("bob", "local/two:2").success().unwrap();
    let other = server.requests()[before..].to_vec();
    assert_eq!(blobs(&other), 0, "{other:?}");
    assert_eq!(std::fs::metadata(&image).unwrap().ino(), inode, "the image was converted again");
    for image in ["docker:local/one:1", "docker:local/two:2"] {
        let found = site.shifterimg("bob", &["lookup", image]).success().unwrap();
        assert_eq!(found.trim(), built.id());
    }
    site.finish();
}

#[test]
fn a_private_image_behind_tls_and_a_password_is_its_pullers_alone() {
    let built = small("secret", Compression::Gzip, Flavor::Oci);
    let site = Site::new(|sandbox| {
        let login = Some(("ada", "pass:word"));
        let registry =
            sandbox.registry(RegistryOptions { tls: true, login, ..RegistryOptions::default() }).unwrap();
        sandbox.push(&registry, &built, "secret", "1").unwrap();
        vec![Location { name: "vault".to_owned(), url: registry.url.clone(), ca: registry.ca.clone() }]
    });
    let refused = site.pull("alice", "vault/secret:1").failure(4).unwrap();
    assert_eq!(refused.trim().lines().count(), 1, "{refused}");
    assert!(!refused.contains("pass:word"), "{refused}");

    site.store_password("alice", "vault", "ada:pass:word");
    site.pull("alice", "vault/secret:1").success().unwrap();
    assert_eq!(site.script("vault/secret:1", "cat /etc/which"), "secret");

    // Bob has no password: the image does not exist for him, by name or by identifier.
    site.shifterimg("bob", &["lookup", "docker:vault/secret:1"]).failure(1).unwrap();
    site.pull("bob", "vault/secret:1").failure(4).unwrap();
    assert!(!site.shifterimg("bob", &["images"]).success().unwrap().contains("secret"));
    let by_id = format!("--image=id:{}", built.id());
    let refused =
        site.sandbox.user("bob").unwrap().run(&["shifter", &by_id, "true"]).unwrap().failure(1).unwrap();
    assert!(refused.contains("denied") || refused.contains("permission"), "{refused}");
    assert!(site.run("alice", "vault/secret:1", &["true"]).status.success());
    site.finish();
}

#[test]
fn a_gateway_killed_in_the_middle_publishes_nothing_half_done_and_goes_on() {
    let built = build_named("debian-like").unwrap();
    let mut site = site_with(&[("d", &built)]);
    let asked = site.sandbox.api(
        &site.gateway,
        &site.munged,
        "alice",
        ("POST", "/api/pull/testsystem/docker/local%2Fd%3A1/"),
        b"",
    );
    assert_eq!(asked.unwrap().status, 200);
    site.sandbox.kill(site.gateway.daemon).unwrap();
    for name in site.image_files() {
        assert!(name.starts_with('.') || name.starts_with(built.id()), "{name}");
    }
    site.sandbox.restart(&mut site.gateway).unwrap();
    site.pull("alice", "local/d:1").success().unwrap();
    assert_eq!(site.image_files(), [format!("{}.meta", built.id()), format!("{}.squashfs", built.id())]);
    assert!(site.run("alice", "local/d:1", &["true"]).status.success());
    site.finish();
}
