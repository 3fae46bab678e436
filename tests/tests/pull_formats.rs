//! EROFS as the second format, what of layers a site keeps, and that no tool changes an image behind our back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::site::{Site, local};
use serde_json::{Value, json};
use shifter_tests::fixture::{
    Built, Entry, Image, Layer, Server, blk, chr, dir, fifo, file, hardlink, shell_entries, symlink,
};
use shifter_tests::harness::GatewayOptions;

/// A site with these keys at the top of its configuration, whose tags are asked for anew each time.
fn site_with(server: &Server, keys: Value) -> Site {
    let url = format!("http://{}", server.authority());
    let mut more = keys.as_object().unwrap().clone();
    more.insert("PullUpdateTimeout".to_owned(), json!(2));
    Site::with(|_| GatewayOptions { locations: vec![local(&url)], more, ..GatewayOptions::default() })
}

fn serve(built: &Built) -> Server {
    Server::start("127.0.0.1:0", &[("x", "1", built)], &[]).unwrap()
}

/// An image with a shell and these entries above it.
fn image(entries: Vec<Entry>) -> Built {
    let mut all = vec![dir("."), dir("bin"), dir("etc")];
    all.extend(shell_entries("bin").unwrap());
    Image::new(vec![Layer::new(all), Layer::new(entries)]).build().unwrap()
}

/// Starts the gateway again with these keys set.
fn reconfigure(site: &mut Site, keys: Value) {
    site.sandbox.stop(site.gateway.daemon).unwrap();
    write_keys(site, keys);
    // What was pulled a moment ago is not asked for again.
    std::thread::sleep(Duration::from_millis(2100));
    site.sandbox.restart(&mut site.gateway).unwrap();
}

fn write_keys(site: &Site, keys: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(&site.gateway.config).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    fs::write(&site.gateway.config, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
}

fn forget_images(site: &Site) {
    for name in site.image_files() {
        fs::remove_file(site.gateway.images.join(name)).unwrap();
    }
}

/// Everything in the image of this format as the kernel shows it: names, types, modes, owners, devices, times, links,
/// attributes, and the contents of files.
fn through_the_kernel(site: &Site, format: &str) -> String {
    let names = site.image_files();
    let name = names.iter().find(|name| name.ends_with(&format!(".{format}"))).unwrap();
    let script = r#"set -e
mkdir -p /tmp/seen; mount -t "$2" -o loop,ro "$1" /tmp/seen; trap 'cd /; umount /tmp/seen; rmdir /tmp/seen' EXIT; cd /tmp/seen
python3 - <<'END'
import hashlib, os, stat
for here, directories, files in os.walk(b".", followlinks=False):
    directories.sort()
    for name in [b"."] * (here == b".") + sorted(directories + files):
        path = os.path.join(here, name); s = os.lstat(path)
        more = ""
        if stat.S_ISREG(s.st_mode): more = f"{s.st_size} {s.st_nlink} " + hashlib.sha256(open(path, "rb").read()).hexdigest()[:16]
        if stat.S_ISLNK(s.st_mode): more = repr(os.readlink(path))
        if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode): more = f"{os.major(s.st_rdev)}:{os.minor(s.st_rdev)}"
        if not stat.S_ISLNK(s.st_mode):
            try: more += "".join(f" {k}={os.getxattr(path, k)}" for k in sorted(os.listxattr(path)))
            except OSError: pass
        print(ascii(path), oct(s.st_mode), s.st_uid, s.st_gid, int(s.st_mtime), more)
END"#;
    let path = site.gateway.images.join(name).display().to_string();
    let words = ["unshare", "-m", "bash", "-c", script, "bash", &path, format];
    site.sandbox.root().run(&words).unwrap().success().unwrap()
}

#[test]
fn an_erofs_image_is_what_the_squashfs_image_is_and_runs() {
    let mut entries = vec![
        dir(".").mtime(1_000_000_000),
        dir("tmp").mode(0o1777).mtime(1_100_000_000),
        symlink("etc/link", "../bin/sh").mtime(1_200_000_000),
        symlink("etc/dangling", "/no/where").mtime(3),
        file("etc/first", "linked").mtime(1_300_000_000),
        hardlink("etc/second", "etc/first"),
        hardlink("tmp/third", "etc/first"),
        file("etc/empty", ""),
        file("etc/program", "#!/bin/sh\n").mode(0o700),
        file("etc/large", vec![7; 5 << 20]).mtime(4_294_967_295),
        file("etc/noise", common::site::noise(300_000, 5)),
        file("etc/shadow", "root:secret"),
        file(b"etc/caf\xe9 \n'x", "odd"),
        // erofs-utils 1.5 refuses one byte more.
        file(format!("etc/{}", "n".repeat(254)), "long"),
        dir("many"),
    ];
    entries.extend((0..3000).map(|n| file(format!("many/{n}"), format!("{n}"))));
    let built = image(entries);
    let server = serve(&built);
    let mut site = site_with(&server, json!({}));
    site.pull("alice", "local/x:1").success().unwrap();
    let expected = through_the_kernel(&site, "squashfs");
    assert!(expected.lines().count() > 3015, "{expected}");

    // What is published stays as it is.
    reconfigure(&mut site, json!({"DefaultImageFormat": "erofs"}));
    site.pull("bob", "local/x:1").success().unwrap();
    let old = [format!("{}.meta", built.id()), format!("{}.squashfs", built.id())];
    assert_eq!(site.image_files(), old);
    assert_eq!(site.script("local/x:1", "cat /etc/first"), "linked");

    forget_images(&site);
    let outcome = site.shifterimg("alice", &["-v", "pull", "docker:local/x:1"]);
    let said = format!("{}{}", outcome.out(), outcome.err());
    outcome.success().unwrap();
    assert!(said.contains("Making EROFS image"), "{said}");
    let new = [format!("{}.erofs", built.id()), format!("{}.meta", built.id())];
    assert_eq!(site.image_files(), new);
    let meta = fs::read_to_string(site.gateway.images.join(&new[1])).unwrap();
    assert!(meta.starts_with("FORMAT: erofs\n"), "{meta}");
    for name in new {
        let mode = site.gateway.images.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    assert_eq!(through_the_kernel(&site, "erofs"), expected);
    assert_eq!(site.script("local/x:1", "cat /etc/second /many/2999; ls /many | wc -l"), "linked29993000\n");
    assert_eq!(site.expansions(), [""; 0]);

    // And the other way round.
    reconfigure(&mut site, json!({"DefaultImageFormat": "squashfs"}));
    site.pull("bob", "local/x:1").success().unwrap();
    assert_eq!(site.script("local/x:1", "cat /etc/first"), "linked");
    assert!(site.image_files()[0].ends_with(".erofs"));
    forget_images(&site);
    site.pull("bob", "local/x:1").success().unwrap();
    assert_eq!(through_the_kernel(&site, "squashfs"), expected);
    site.finish();
}

#[test]
fn an_examiner_sees_the_files_of_an_erofs_image_and_refuses_it() {
    let built = image(vec![file("etc/virus", "EICAR")]);
    let server = serve(&built);
    let mut site = site_with(&server, json!({"DefaultImageFormat": "erofs"}));
    let program = site.gateway.state.join("examine");
    let script = "#!/bin/sh\n[ ! -e \"$1/etc/virus\" ] || { echo \"a virus\" >&2; exit 3; }\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    reconfigure(&mut site, json!({"examiner": program}));
    let said = site.pull("alice", "local/x:1").failure(1).unwrap();
    assert!(said.contains("refused the image (exit status: 3): a virus"), "{said}");
    assert_eq!((site.image_files(), site.expansions()), (vec![], vec![]));
    site.finish();
}

#[test]
fn a_site_can_have_images_that_are_not_compressed_by_our_own_writer() {
    let built = image(vec![file("etc/first", "stored"), file("etc/large", vec![7; 300_000])]);
    let server = serve(&built);
    let mut site = site_with(&server, json!({}));
    site.pull("alice", "local/x:1").success().unwrap();
    let expected = through_the_kernel(&site, "squashfs");
    let path = site.gateway.images.join(format!("{}.squashfs", built.id()));
    let compressed = path.metadata().unwrap().len();
    let root = |site: &Site, words: &[&str]| drop(site.sandbox.root().run(words).unwrap().success().unwrap());
    root(&site, &["mount", "--bind", "/dev/null", "/usr/bin/mksquashfs"]);
    for words in ["-no-compression", "-noI -noD -noF -noX"] {
        reconfigure(&mut site, json!({"ConverterOptions": {"squashfs": words}}));
        // The second time of what is remembered of the first.
        for _ in 0..2 {
            forget_images(&site);
            site.pull("bob", "local/x:1").success().unwrap();
            let bytes = fs::read(&path).unwrap();
            // The superblock's compressor and flags: inodes, data and fragments as they are.
            assert_eq!((bytes[20], bytes[24] & 0b1011), (1, 0b1011), "{words}");
            assert!(bytes.len() as u64 > compressed + 300_000, "{words}: {} {compressed}", bytes.len());
            assert_eq!(through_the_kernel(&site, "squashfs"), expected, "{words}");
        }
    }
    assert_eq!(site.script("local/x:1", "cat /etc/first"), "stored");
    root(&site, &["umount", "/usr/bin/mksquashfs"]);
    site.finish();
}

/// What `LayerPolicy` can keep.
fn privileged() -> Built {
    image(vec![
        file("owned", "").owner(12, 34),
        file("setuid", "").mode(0o4755),
        file("setgid", "").mode(0o2755),
        chr("null", 1, 3),
        blk("disk", 7, 1),
        fifo("pipe"),
        file("attributes", "").xattr("user.word", b"value").xattr("trusted.other", b"x"),
        chr("dev/zero", 1, 5),
    ])
}

#[test]
fn each_key_of_the_layer_policy_keeps_one_thing_of_the_layers() {
    let built = privileged();
    let server = serve(&built);
    let mut site = site_with(&server, json!({}));
    // What each key adds to lines of the listing, or changes in them.
    let kept: [(&str, &[&str]); 5] = [
        ("owners", &["b'./owned' 0o100644 12 34 "]),
        ("setuid", &["b'./setgid' 0o102755 0 0 ", "b'./setuid' 0o104755 0 0 "]),
        ("devices", &["b'./disk' 0o60664 0 0 1704067200 7:1", "b'./null' 0o20666 0 0 1704067200 1:3"]),
        ("fifos", &["b'./pipe' 0o10644 0 0 "]),
        ("xattrs", &["trusted.other=b'x' user.word=b'value'"]),
    ];
    site.pull("alice", "local/x:1").success().unwrap();
    let none = through_the_kernel(&site, "squashfs");
    for (_, parts) in kept {
        assert!(!parts.iter().any(|part| none.contains(part)), "{none}");
    }
    for (key, parts) in kept {
        reconfigure(&mut site, json!({"LayerPolicy": [key]}));
        forget_images(&site);
        site.pull("alice", "local/x:1").success().unwrap();
        let seen = through_the_kernel(&site, "squashfs");
        assert!(parts.iter().all(|part| seen.contains(part)), "{key}: {seen}");
        for (_, others) in kept.iter().filter(|(other, _)| *other != key) {
            assert!(!others.iter().any(|part| seen.contains(part)), "{key}: {seen}");
        }
        let changed = seen.lines().filter(|line| !none.lines().any(|known| known == *line)).count();
        assert_eq!(changed, parts.len(), "{key}: {seen}");
    }
    // All at once, for this system alone; made with what is remembered of the layers under no policy but this.
    let mut config: Value = serde_json::from_slice(&fs::read(&site.gateway.config).unwrap()).unwrap();
    let all = json!(kept.map(|(key, _)| key));
    config["Platforms"]["testsystem"]["LayerPolicy"] = all;
    reconfigure(&mut site, json!({"Platforms": config["Platforms"], "LayerPolicy": []}));
    forget_images(&site);
    site.pull("alice", "local/x:1").success().unwrap();
    let seen = through_the_kernel(&site, "squashfs");
    assert!(kept.iter().all(|(_, parts)| parts.iter().all(|part| seen.contains(part))), "{seen}");
    assert!(!seen.contains("zero"), "{seen}");
    // And inert where users are: no set-uid program, no device.
    let script = "id -u; ls -ln /setuid | cut -c1-10; cat /null || echo refused";
    let inert = site.run("alice", "local/x:1", &["sh", "-c", script]);
    assert_eq!(inert.out(), "4201\n-rwsr-xr-x\nrefused\n", "{}", inert.describe());
    site.finish();
}

#[test]
fn what_images_cannot_be_made_with_stops_the_gateway_and_is_named() {
    let server = serve(&image(vec![]));
    let site = site_with(&server, json!({}));
    let gateway = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let shown = site.gateway.config.display().to_string();
    let nothing = json!({
        "DefaultImageFormat": "squashfs", "LayerPolicy": [], "Converter": "shifter", "ConverterOptions": {}
    });
    let check = |keys: Value, expected: &str| {
        write_keys(&site, nothing.clone());
        write_keys(&site, keys);
        for verb in [&["check-config"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let words = [&[gateway.as_str()], verb, &["--config", &shown]].concat();
            let said = site.sandbox.user("gateway").unwrap().run(&words).unwrap().failure(1).unwrap();
            assert!(said.contains(expected), "{verb:?}: {said}");
        }
    };
    check(
        json!({"DefaultImageFormat": "ext4"}),
        "\"ext4\" cannot be made; set it to \"squashfs\" or \"erofs\"",
    );
    check(
        json!({"LayerPolicy": ["capabilities"]}),
        "LayerPolicy: \"capabilities\" cannot be kept; write some of",
    );
    check(
        json!({"LayerPolicy": ["owners"], "Converter": "tar2sqfs"}),
        "these options have tar2sqfs write images",
    );
    for (words, said) in [
        ("-compp gzip", "no image came of them: mksquashfs failed"),
        ("-processors none", "mksquashfs: -processors missing or invalid processor number"),
        // It prints help, is content with that, and makes nothing; a busy machine may tell of its closed input first.
        ("-help", "no image came of them: mksquashfs"),
    ] {
        check(json!({"ConverterOptions": {"squashfs": words}}), said);
    }
    check(json!({"LayerPolicy": "fifos", "DefaultImageFormat": "erofs"}), "gets lost on the way to EROFS");
    let options = json!({"erofs": ["-znonsense"]});
    check(json!({"DefaultImageFormat": "erofs", "ConverterOptions": options}), "nonsense");
    let root = |words: &[&str]| drop(site.sandbox.root().run(words).unwrap().success().unwrap());
    root(&["mount", "--bind", "/dev/null", "/usr/bin/mkfs.erofs"]);
    let options = json!({});
    check(
        json!({"DefaultImageFormat": "erofs", "ConverterOptions": options}),
        "mkfs.erofs is in none of /usr/local/sbin",
    );
    root(&["umount", "/usr/bin/mkfs.erofs"]);
    site.finish();
}

#[test]
fn whoever_a_tool_leaves_behind_cannot_write_into_the_image() {
    let built = image(vec![file("etc/which", "whole")]);
    let server = serve(&built);
    let squashfs = json!({"Converter": "mksquashfs"});
    let erofs = json!({"DefaultImageFormat": "erofs"});
    for (tool, format, keys) in [("mksquashfs", "squashfs", squashfs), ("mkfs.erofs", "erofs", erofs)] {
        let (server, id) = (&server, built.id());
        let case = || {
            let site = site_with(server, keys);
            let root = |words: &[&str]| drop(site.sandbox.root().run(words).unwrap().success().unwrap());
            // A tool that does its work and leaves somebody with the image open.
            let script = format!(
                "#!/bin/sh\n/usr/bin/{tool} \"$@\"; status=$?\n\
                 for word; do case \"$word\" in */.*.partial.*) [ ! -f \"$word\" ] || output=$word ;; esac; done\n\
                 [ -n \"$output\" ] || exit $status\n\
                 ( ( exec 9>>\"$output\"; trap '' TERM HUP; setsid sleep 0; sleep 3; \
                     while :; do echo late >&9; sleep 0.1; done ) & )\n\
                 sleep 0.3; exit $status\n"
            );
            let place = site.gateway.state.join("tools");
            fs::create_dir(&place).unwrap();
            fs::write(place.join(tool), script).unwrap();
            fs::set_permissions(place.join(tool), fs::Permissions::from_mode(0o755)).unwrap();
            root(&["mount", "--bind", &place.display().to_string(), "/usr/local/bin"]);
            site.pull("alice", "local/x:1").success().unwrap();
            let path = site.gateway.images.join(format!("{id}.{format}"));
            let published = fs::read(&path).unwrap();
            std::thread::sleep(Duration::from_secs(4));
            assert!(fs::read(&path).unwrap() == published, "{tool}: the image changed");
            assert_eq!((site.image_files().len(), site.expansions().len()), (2, 0));
            assert_eq!(site.script("local/x:1", "cat /etc/which"), "whole");
            root(&["umount", "/usr/local/bin"]);
            site.finish();
        };
        std::thread::scope(|scope| scope.spawn(case).join()).unwrap_or_else(|_| panic!("{tool}"));
    }
}
