//! Imports of directories and of EROFS images, end to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use common::site::Site;
use serde_json::{Map, Value, json};
use shifter_tests::harness::GatewayOptions;

const ALICE: u32 = 4201;

fn site(more: &[(&str, Value)]) -> Site {
    let mut keys = Map::from_iter([("ImportUsers".to_owned(), json!("all"))]);
    keys.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    Site::with(|_| GatewayOptions { more: keys, ..GatewayOptions::default() })
}

/// A root file system of alice's with a shell that says `word`.
fn tree(at: &str, word: &str) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    for name in ["bin", "etc", "dev", "tmp"] {
        fs::create_dir_all(format!("{at}/{name}")).unwrap();
    }
    fs::copy(busybox.unwrap(), format!("{at}/bin/busybox")).unwrap();
    for name in ["sh", "cat", "stat", "ls"] {
        symlink("busybox", format!("{at}/bin/{name}")).unwrap();
    }
    fs::write(format!("{at}/etc/word"), word).unwrap();
    fs::hard_link(format!("{at}/etc/word"), format!("{at}/etc/again")).unwrap();
    // Not the name that each container has a file of its own under.
    fs::write(format!("{at}/etc/shadow-"), "root:hash:").unwrap();
    fs::write(format!("{at}/bin/tool"), "#!/bin/sh\necho tool").unwrap();
    fs::set_permissions(format!("{at}/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
}

fn give(path: &str, mode: u32) {
    chown(path, Some(ALICE), Some(ALICE)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(site: &Site, script: &str) {
    site.sandbox.root().run(&["sh", "-ec", script]).unwrap().success().unwrap();
}

/// What a user sees in an image: the word, modes and names.
fn seen(site: &Site, user: &str, image: &str) -> String {
    let script = "cat /etc/word /etc/again; stat -c ' %a %h' /etc/word /bin/tool /etc/shadow-; ls /sub";
    let image = format!("--image={image}");
    let words = ["shifter", &image, "--", "sh", "-c", script];
    site.sandbox.user(user).unwrap().run(&words).unwrap().success().unwrap()
}

#[test]
fn a_directory_becomes_an_image_as_its_files_in_a_layer_would() {
    let site = site(&[]);
    let at = "/home/alice/root";
    tree(at, "directory");
    fs::create_dir(format!("{at}/sub")).unwrap();
    fs::write(format!("{at}/sub/under"), "").unwrap();
    run(
        &site,
        &format!("chown -R alice: {at}; mknod {at}/disk b 7 0; chmod 666 {at}/disk; mkfifo {at}/pipe"),
    );
    let words = ["--user", "bob", "import", "--format", "directory", at, "custom:dir:1"];
    site.shifterimg("alice", &words).success().unwrap();
    for user in ["alice", "bob"] {
        let text = seen(&site, user, "custom:dir:1");
        assert_eq!(text, "directorydirectory 644 2\n 755 1\n 400 1\nunder\n");
    }
    assert!(!site.shifterimg("carol", &["lookup", "custom:dir:1"]).status.success());
    let names = ["shifter", "--image=custom:dir:1", "--", "ls", "/"];
    let names = site.sandbox.user("bob").unwrap().run(&names).unwrap().success().unwrap();
    assert!(!names.contains("disk") && !names.contains("pipe"), "{names}");
    // The same directory has the same identifier, and one in which a byte changed has another.
    let id = |name: &str| site.shifterimg("alice", &["lookup", name]).success().unwrap();
    let import = |name: &str| {
        site.shifterimg("alice", &["import", "--format", "directory", at, name]).success().unwrap();
        id(name)
    };
    assert_eq!(import("custom:dir:2"), id("custom:dir:1"));
    fs::write(format!("{at}/sub/under"), "x").unwrap();
    assert_ne!(import("custom:dir:3"), id("custom:dir:1"));
    assert_eq!(site.expansions(), [""; 0], "nothing is left in scratch space");
    site.finish();
}

#[test]
fn an_oci_layout_as_a_directory_becomes_the_image_that_it_holds() {
    let site = site(&[]);
    tree("/home/alice/root", "layout");
    run(
        &site,
        "cd /home/alice; umoci init --layout oci; umoci new --image oci:x; umoci unpack --image oci:x bundle
         cp -a root/. bundle/rootfs/; umoci repack --image oci:x bundle >/dev/null
         umoci config --image oci:x --config.env FROM=layout
         mkdir almost; cp -a oci/oci-layout oci/index.json root/. almost/
         chmod -R a+rX oci almost; chown -R alice: oci almost",
    );
    let import = |at: &str, name: &str| {
        let words = ["import", "--format", "directory", at, name];
        site.shifterimg("alice", &words)
    };
    let sh = |image: &str, script: &str| {
        let image = format!("--image={image}");
        let words = ["shifter", &image, "--", "sh", "-c", script];
        site.sandbox.user("bob").unwrap().run(&words).unwrap().success().unwrap()
    };
    import("/home/alice/oci", "custom:oci:1").success().unwrap();
    assert_eq!(
        sh("custom:oci:1", "cat /etc/word; echo \" $FROM\"; ls -d /blobs /oci-layout 2>&-; :"),
        "layout layout\n"
    );
    // A root file system that has files of such names is one all the same.
    import("/home/alice/almost", "custom:almost:1").success().unwrap();
    assert_eq!(sh("custom:almost:1", "cat /etc/word; ls -d /oci-layout"), "layout/oci-layout\n");
    run(&site, "cd /home/alice; rm -r oci/blobs/*; ls -d oci/blobs");
    let broken = import("/home/alice/oci", "custom:oci:2");
    assert!(!broken.status.success(), "{}", broken.describe());
    assert_eq!(site.expansions(), [""; 0], "nothing is left in scratch space");
    site.finish();
}

#[test]
fn of_a_directory_nobody_gets_what_they_could_not_read() {
    let site = site(&[("ImportPaths", json!(["/home"]))]);
    for name in ["whole", "partly", "odd"] {
        tree(&format!("/home/alice/{name}"), name);
    }
    run(&site, "chown -R alice: /home/alice/*; cp -a /home/alice/whole /opt/elsewhere");
    for (path, mode) in [("/home/alice/partly/etc/word", 0o640), ("/home/alice/odd/etc", 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("whole", "/home/alice/link").unwrap();
    let images = site.gateway.images.display().to_string();
    for (user, path, expected) in [
        ("bob", "/home/alice/partly", "you cannot read /home/alice/partly/etc/again"),
        ("bob", "/home/alice/odd", "you cannot read /home/alice/odd/etc;"),
        // Hers, but the gateway's account may not.
        ("alice", "/home/alice/odd", "the image gateway cannot read /home/alice/odd/etc:"),
        ("alice", "/home/alice/link", "is not a directory; name the directory itself"),
        ("alice", "/home/alice/whole/etc/word", "is not a directory"),
        ("alice", "/home/missing", "is not there, or you cannot read it"),
        ("alice", "/opt/elsewhere", "from which this site allows imports"),
        ("bob", "/home/alice", "you cannot read /home/alice/odd/etc;"),
        ("alice", &images, "is the image gateway's own"),
    ] {
        let out = site.shifterimg(user, &["import", "--format", "directory", path, "custom:no"]);
        assert!(!out.status.success() && out.err().contains(expected), "{user} {path}: {}", out.describe());
    }
    let out =
        site.shifterimg("alice", &["import", "--upload", "--format", "directory", "/dev/null", "custom:no"]);
    assert!(out.err().contains("upload a tar of it"), "{}", out.describe());
    assert_eq!(site.image_files(), [""; 0]);
    assert_eq!(site.expansions(), [""; 0]);
    site.finish();
}

#[test]
fn an_erofs_image_is_imported_by_path_and_by_upload_and_made_anew() {
    let site = site(&[]);
    let at = "/home/alice/root";
    tree(at, "erofs");
    fs::create_dir(format!("{at}/sub")).unwrap();
    run(
        &site,
        &format!(
            "chown -R alice: {at}; chmod 700 {at}/sub; mknod {at}/disk b 7 0; mkfifo {at}/pipe
             cd /home/alice; mkfs.erofs --quiet -zlz4hc packed.erofs root; mkfs.erofs --quiet plain.erofs root
             mksquashfs root no.squashfs -no-progress >/dev/null; head -c 50000 packed.erofs >short.erofs"
        ),
    );
    for name in ["packed.erofs", "plain.erofs", "no.squashfs", "short.erofs"] {
        give(&format!("/home/alice/{name}"), 0o644);
    }
    let import =
        |words: &[&str]| site.shifterimg("alice", &[&["import", "--format", "erofs"], words].concat());
    import(&["/home/alice/packed.erofs", "custom:packed:1"]).success().unwrap();
    import(&["--upload", "/home/alice/plain.erofs", "custom:plain:1"]).success().unwrap();
    for image in ["custom:packed:1", "custom:plain:1"] {
        let text = seen(&site, "bob", image);
        assert_eq!(text, "erofserofs 644 2\n 755 1\n 400 1\n", "{image}");
    }
    // Written anew as the system's own format.
    let id = site.shifterimg("bob", &["lookup", "custom:packed:1"]).success().unwrap();
    let made = fs::read(site.gateway.images.join(format!("{}.squashfs", id.trim()))).unwrap();
    assert_eq!(&made[..4], b"hsqs");
    for (file, expected) in [("no.squashfs", "is no EROFS image"), ("short.erofs", "it is cut off")] {
        let out = import(&[&format!("/home/alice/{file}"), "custom:no"]);
        assert!(!out.status.success() && out.err().contains(expected), "{file}: {}", out.describe());
    }
    assert_eq!(site.expansions(), [""; 0], "nothing is left in scratch space");
    assert!(fs::metadata("/home/alice/root/sub").unwrap().mode() & 0o777 == 0o700);
    site.finish();
}
