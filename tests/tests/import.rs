//! Images from files, end to end: by `shifterimg`, by path and by upload, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use common::site::Site;
use serde_json::{Map, json};
use shifter_tests::fixture::digest_of;
use shifter_tests::harness::GatewayOptions;

/// As the test machine's accounts are numbered.
const ALICE: u32 = 4201;

/// A site where everybody may import, with these keys besides.
fn site(more: &[(&str, serde_json::Value)]) -> Site {
    let mut keys = Map::from_iter([("ImportUsers".to_owned(), json!("all"))]);
    keys.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    Site::with(|_| GatewayOptions { more: keys, ..GatewayOptions::default() })
}

impl SiteFiles for Site {}

/// Files that users have.
trait SiteFiles {
    /// A root file system with a shell that says `word`, as a tree of files.
    fn tree(&self, at: &str, word: &str) {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        for name in ["bin", "etc", "dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(format!("{at}/{name}")).unwrap();
        }
        fs::copy(busybox.unwrap(), format!("{at}/bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", format!("{at}/bin/sh")).unwrap();
        std::os::unix::fs::symlink("busybox", format!("{at}/bin/cat")).unwrap();
        fs::write(format!("{at}/etc/word"), word).unwrap();
    }
}

fn run(site: &Site, script: &str) {
    site.sandbox.root().run(&["sh", "-ec", script]).unwrap().success().unwrap();
}

fn give(path: &str, mode: u32) {
    chown(path, Some(ALICE), Some(ALICE)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A squashfs image of alice's at /home/alice/NAME.squashfs.
fn squashfs(site: &Site, name: &str) -> String {
    let path = format!("/home/alice/{name}.squashfs");
    site.tree(&format!("/home/{name}.tree"), name);
    run(site, &format!("mksquashfs /home/{name}.tree {path} -no-progress >/dev/null"));
    give(&path, 0o644);
    path
}

fn word(site: &Site, user: &str, image: &str) -> String {
    let image = format!("--image={image}");
    let out = site.sandbox.user(user).unwrap().run(&["shifter", &image, "--", "cat", "/etc/word"]).unwrap();
    out.success().unwrap()
}

#[test]
fn every_kind_of_file_is_imported_by_path_and_by_upload() {
    let site = site(&[]);
    let path = squashfs(&site, "plain");
    site.shifterimg("alice", &["import", &path, "custom:plain"]).success().unwrap();
    // A SIF file: header, one descriptor of a partition, and the image, as Apptainer lays it out.
    let image = fs::read(&path).unwrap();
    let mut sif = vec![0_u8; 32768];
    sif[32..42].copy_from_slice(b"SIF_MAGIC\0");
    sif[88..96].copy_from_slice(&1_u64.to_le_bytes());
    sif[96..104].copy_from_slice(&4096_u64.to_le_bytes());
    sif[4096..4100].copy_from_slice(&0x4004_u32.to_le_bytes());
    sif[4100] = 1;
    sif[4113..4121].copy_from_slice(&32768_u64.to_le_bytes());
    sif[4121..4129].copy_from_slice(&(image.len() as u64).to_le_bytes());
    sif[4297..4301].copy_from_slice(&1_u32.to_le_bytes());
    sif[4301..4305].copy_from_slice(&2_u32.to_le_bytes());
    sif.extend(image);
    for (way, mark) in [("sent", 1), ("read", 2)] {
        // Somewhere in its times: two files, one image.
        sif[80] = mark;
        fs::write(format!("/home/alice/{way}.sif"), &sif).unwrap();
    }
    run(
        &site,
        "cd /home; for way in sent read; do
         for kind in tar oci docker; do
         rm -rf $kind.tree; cp -a plain.tree $kind.tree; printf $kind-$way >$kind.tree/etc/word; done
         tar -C tar.tree -czf alice/$way.tgz .
         rm -rf oci.layout oci.bundle
         umoci init --layout oci.layout; umoci new --image oci.layout:x; umoci unpack --image oci.layout:x oci.bundle
         cp -a oci.tree/. oci.bundle/rootfs/; umoci repack --image oci.layout:x oci.bundle >/dev/null
         umoci config --image oci.layout:x --config.env FROM=oci; tar -C oci.layout -cf alice/$way.oci .
         cp -a docker.tree/etc/word oci.bundle/rootfs/etc/word; umoci repack --image oci.layout:y oci.bundle >/dev/null
         skopeo --insecure-policy copy -q oci:oci.layout:y docker-archive:alice/$way.docker:y:1
         done",
    );
    for (end, format, expected) in [
        ("sif", "sif", "plain"),
        ("tgz", "tar", "tar-"),
        ("oci", "oci-archive", "oci-"),
        ("docker", "docker-archive", "docker-"),
    ] {
        for (way, mode, how) in [("sent", 0o600, &["--upload"][..]), ("read", 0o644, &[])] {
            let path = format!("/home/alice/{way}.{end}");
            give(&path, 0o600);
            // Which the gateway's own account cannot read.
            let refused =
                site.shifterimg("alice", &["import", "--format", format, &path, "custom:no"]).failure(1);
            assert!(refused.unwrap().contains("the image gateway cannot read"), "{path}");
            give(&path, mode);
            let name = format!("custom:{format}:{way}");
            let words = [&["import", "--format", format], how, &[path.as_str(), &name]].concat();
            site.shifterimg("alice", &words).success().unwrap();
            let expected = if end == "sif" { expected.to_owned() } else { format!("{expected}{way}") };
            assert_eq!(word(&site, "bob", &name), expected, "{path}");
        }
    }
    assert_eq!(site.expansions(), [""; 0], "nothing is left in scratch space");
    site.finish();
}

#[test]
fn nobody_imports_what_they_could_not_read_or_what_is_no_image() {
    let site = site(&[("ImportPaths", json!(["/home"]))]);
    let path = squashfs(&site, "secret");
    fs::write("/home/alice/note.txt", "hsqs, but no image").unwrap();
    give("/home/alice/note.txt", 0o644);
    run(
        &site,
        "cp -a /home/alice/secret.squashfs /opt/elsewhere.squashfs; chmod 644 /opt/elsewhere.squashfs
         head -c 5000 /home/alice/secret.squashfs >/home/alice/short.squashfs; ln -s secret.squashfs /home/alice/link",
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let images = site.gateway.images.display().to_string();
    for (user, file, expected) in [
        ("bob", path.as_str(), "is not there, or you cannot read it"),
        ("bob", "/home/alice/missing", "is not there, or you cannot read it"),
        ("alice", "/home/alice/link", "is not a regular file"),
        ("alice", "/dev/zero", "is not a regular file"),
        ("alice", "/opt/elsewhere.squashfs", "not in a directory from which this site allows imports"),
        ("alice", "/home/alice/note.txt", "cut off"),
        ("alice", "/home/alice/short.squashfs", "squashfs"),
        ("alice", &format!("{images}/x.squashfs"), "is not there"),
        ("alice", "/home/../etc/shadow", "absolute path without"),
    ] {
        let body = json!({"filepath": file, "format": "squashfs"}).to_string();
        let path = "/api/doimport/testsystem/custom/x:1/";
        let mut said = String::new();
        for _ in 0..50 {
            let answer =
                site.sandbox.api(&site.gateway, &site.munged, user, ("POST", path), body.as_bytes()).unwrap();
            assert!(answer.status < 500, "{file}: {}", answer.text());
            said = answer.text();
            if answer.status != 200 || said.contains("FAILURE") {
                break;
            }
            assert!(!said.contains("READY"), "{file}: {said}");
            std::thread::sleep(std::time::Duration::from_millis(400));
        }
        assert!(said.contains(expected), "{user} {file}: {said}");
    }
    assert_eq!(site.image_files(), [""; 0]);
    assert_eq!(site.expansions(), [""; 0]);
    site.finish();
}

#[test]
fn an_imported_image_belongs_to_whom_it_is_shared_with_and_a_forged_identifier_tells_nothing_of_it() {
    let site = site(&[]);
    let path = squashfs(&site, "shared");
    // Equal in the one sample that the identifier is made of.
    let mut image = fs::read(&path).unwrap();
    image.resize(3 << 20, 0);
    fs::write(&path, &image).unwrap();
    site.shifterimg("alice", &["--user", "carol", "import", &path, "custom:shared:1"]).success().unwrap();
    for (user, may) in [("alice", true), ("carol", true), ("bob", false)] {
        assert_eq!(site.shifterimg(user, &["lookup", "custom:shared:1"]).status.success(), may, "{user}");
    }
    let last = image.len() - 1;
    image[last] = 1;
    let forged = "/home/alice/forged.squashfs";
    fs::write(forged, &image).unwrap();
    give(forged, 0o644);
    // Not refused, which would tell him that there is an image he may not use.
    let said = site.shifterimg("bob", &["import", forged, "custom:forged"]);
    said.success().unwrap();
    let id = site.shifterimg("bob", &["lookup", "custom:forged"]).success().unwrap();
    assert_eq!(format!("sha256:{}", id.trim()), digest_of(&image), "the whole file names it");
    assert_ne!(site.shifterimg("carol", &["lookup", "custom:shared:1"]).success().unwrap(), id);
    let bob = site.sandbox.user("bob").unwrap();
    let refused = bob.run(&["shifter", "--image=custom:shared:1", "--", "true"]).unwrap();
    assert!(!refused.status.success(), "{}", refused.describe());
    assert_eq!(word(&site, "carol", "custom:shared:1"), "shared");
    assert_eq!(word(&site, "bob", "custom:forged"), "shared");
    site.finish();
}

#[test]
fn an_administrator_alone_has_an_image_published_as_it_is_and_only_where_the_site_says_so() {
    for (is_allowed, user, expected) in [(false, "carol", 403), (true, "alice", 403), (true, "carol", 200)] {
        // Each machine is a thread's.
        let case = std::thread::spawn(move || verbatim(is_allowed, user, expected));
        case.join().unwrap_or_else(|_| panic!("{user} {is_allowed}"));
    }
}

/// Asks for a verbatim import, and for another one.
fn verbatim(is_allowed: bool, user: &str, expected: u16) {
    let mut site = site(&[("allowVerbatimImport", json!(is_allowed))]);
    let config = fs::read_to_string(&site.gateway.config).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["Platforms"]["testsystem"]["admins"] = json!(["carol"]);
    fs::write(&site.gateway.config, config.to_string()).unwrap();
    site.sandbox.stop(site.gateway.daemon).unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    let path = squashfs(&site, "verbatim");
    let (given, target) = (fs::read(&path).unwrap(), "/api/doimport/testsystem/custom/v:1/");
    for verbatim in [true, false] {
        let body = json!({"filepath": path, "format": "squashfs", "verbatim": verbatim}).to_string();
        let ask = || {
            let what = ("POST", target);
            site.sandbox.api(&site.gateway, &site.munged, user, what, body.as_bytes()).unwrap()
        };
        let mut answer = ask();
        if verbatim {
            assert_eq!(answer.status, expected, "{user} {is_allowed}: {}", answer.text());
        }
        for _ in 0..100 {
            if answer.status != 200 || answer.text().contains("\"READY\"") {
                break;
            }
            assert!(!answer.text().contains("FAILURE"), "{}", answer.text());
            std::thread::sleep(std::time::Duration::from_millis(400));
            answer = ask();
        }
        if verbatim && expected != 200 {
            continue;
        }
        let id = site.shifterimg("bob", &["lookup", "custom:v:1"]).success().unwrap();
        let published = site.gateway.images.join(format!("{}.squashfs", id.trim()));
        assert_eq!(fs::read(published).unwrap() == given, verbatim, "written anew unless it is asked for");
        assert_eq!(word(&site, "bob", "custom:v:1"), "verbatim");
    }
    site.finish();
}

#[test]
fn nobody_replaces_another_users_image_by_importing_under_its_name() {
    let site = site(&[]);
    let (hers, his) = (squashfs(&site, "hers"), "/home/bob/his.squashfs");
    site.shifterimg("alice", &["import", &hers, "custom:tool"]).success().unwrap();
    fs::create_dir_all("/home/bob").unwrap();
    let mut other = fs::read(&hers).unwrap();
    other.resize(other.len() + (1 << 20), 0);
    fs::write(his, &other).unwrap();
    give(his, 0o644);
    for name in ["custom:tool", "custom:tool:latest"] {
        let said = site.shifterimg("bob", &["import", his, name]);
        assert!(said.err().contains("another user's image"), "{name}: {}", said.describe());
        assert_eq!(word(&site, "carol", "custom:tool"), "hers", "{name}");
    }
    site.shifterimg("bob", &["import", his, "custom:tool2"]).success().unwrap();
    // Her own she may.
    fs::copy(his, "/home/alice/newer.squashfs").unwrap();
    give("/home/alice/newer.squashfs", 0o644);
    site.shifterimg("alice", &["import", "/home/alice/newer.squashfs", "custom:tool"]).success().unwrap();
    site.finish();
}

#[test]
fn only_the_users_that_the_site_names_may_import() {
    let site = site(&[("ImportUsers", json!("alice"))]);
    let path = squashfs(&site, "limited");
    for (user, expected) in [("alice", 0), ("bob", 4)] {
        let out = site.shifterimg(user, &["import", &path, &format!("custom:{user}")]);
        assert_eq!(out.status.code(), Some(expected), "{user}: {}", out.describe());
    }
    site.finish();
}
