//! A site's examiner: what it is given, that its word decides, and that nothing it does gets out of hand. And the
//! children that read hostile bytes: what they cannot do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use common::site::{Site, local};
use serde_json::{Value, json};
use shifter_tests::fixture::{
    Built, Image, Layer, Server, build_named, busybox_image, dir, file, shell_entries, symlink,
};
use shifter_tests::harness::{GatewayOptions, Sandbox};

const NOTHING: [&str; 0] = [];

/// Writes the examiner's program and makes a site of it; `more` are further keys.
fn site_with(script: &str, more: &[(&str, Value)], server: &Server) -> Site {
    let url = format!("http://{}", server.authority());
    let mut keys: Vec<(String, Value)> = Vec::new();
    for (key, value) in more {
        keys.push(((*key).to_owned(), value.clone()));
    }
    Site::with(|sandbox| {
        let program = sandbox.new_directory("site").unwrap().join("examine");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        keys.push(("examiner".to_owned(), json!(program)));
        GatewayOptions {
            locations: vec![local(&url)],
            more: keys.into_iter().collect(),
            ..GatewayOptions::default()
        }
    })
}

fn serve(images: &[(&str, &Built)]) -> Server {
    let images: Vec<_> = images.iter().map(|(name, built)| (*name, "1", *built)).collect();
    Server::start("127.0.0.1:0", &images, &[]).unwrap()
}

/// A small image with these further entries.
fn image(entries: Vec<shifter_tests::fixture::Entry>) -> Built {
    let mut all = vec![dir("."), dir("bin"), dir("etc")];
    all.extend(shell_entries("bin").unwrap());
    all.extend(entries);
    Image::new(vec![Layer::new(all)]).build().unwrap()
}

/// The one sentence of a failed pull, which left nothing behind.
fn refused(site: &Site, image: &str) -> String {
    let outcome = site.pull("alice", image);
    let shown = outcome.describe();
    let sentence = outcome.failure(1).unwrap();
    assert_eq!(sentence.trim().lines().count(), 1, "{shown}");
    assert_eq!((site.image_files(), site.expansions()), (vec![], vec![]), "{shown}");
    sentence
}

#[test]
fn an_examiner_sees_every_file_and_its_refusal_reaches_the_user() {
    let good = image(vec![file("etc/fine", "fine")]);
    let bad = image(vec![file("etc/virus", "EICAR")]);
    let server = serve(&[("good", &good), ("bad", &bad)]);
    let script = r#"fail() { printf 'noise\n\033[2J%s\n' "$*" >&2; exit 3; }
[ $# = 2 ] || fail "$# arguments"
case "$2" in *[!0-9a-f]*) fail "id $2" ;; esac
[ ${#2} = 64 ] || fail "id $2"
[ "$(stat -c %a "$1")" = 700 ] || fail "mode"
[ -z "$(env | grep -vE '^(PATH|LC_ALL|HOME|TMPDIR|PWD|OLDPWD|SHLVL|_)=')" ] || fail "environment"
[ "$(readlink /proc/self/fd/0)" = /dev/null ] || fail "standard input"
touch "$TMPDIR/temporary" || fail "no place for temporary files"
[ -x "$1/bin/sh" ] || fail "no shell in it"
[ ! -e "$1/etc/virus" ] || fail "a virus: $(cat "$1/etc/virus")"
sleep 1.2"#;
    let site = site_with(script, &[], &server);
    let sentence = refused(&site, "local/bad:1");
    let expected = "this site's examiner refused the image (exit status: 3): noise; [2Ja virus: EICAR";
    assert!(sentence.contains(expected), "{sentence}");

    let outcome = site.shifterimg("alice", &["-v", "pull", "docker:local/good:1"]);
    let said = format!("{}{}", outcome.out(), outcome.err());
    outcome.success().unwrap();
    for stage in ["status: EXAMINATION (Examining image)", "status: READY"] {
        assert!(said.contains(stage), "{said}");
    }
    assert_eq!(site.script("local/good:1", "cat /etc/fine"), "fine");
    assert_eq!(site.expansions(), NOTHING);
    let again = site.pull("bob", "local/bad:1").failure(1).unwrap();
    assert!(again.contains("a virus"), "{again}");
    assert_eq!(site.image_files().len(), 2);
    site.finish();
}

#[test]
fn an_examiner_that_hangs_is_ended_with_all_that_it_started() {
    let built = busybox_image().unwrap();
    let server = serve(&[("x", &built)]);
    let script =
        "setsid sh -c 'sleep 4321 & sleep 4321' & (trap '' TERM HUP; sleep 4321 & sleep 4321) & sleep 4321";
    let site = site_with(script, &[("ExaminerTimeLimit", json!(2))], &server);
    let begun = Instant::now();
    let sentence = refused(&site, "local/x:1");
    assert!(sentence.contains("took longer than 2 s and was ended"), "{sentence}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(running("sleep 4321"), NOTHING);
    site.finish();
}

#[test]
fn a_gateway_killed_during_an_examination_leaves_no_examiner_and_pulls_anew() {
    let built = busybox_image().unwrap();
    let server = serve(&[("x", &built)]);
    let script = "[ -e \"$0.may-pass\" ] && exit 0; setsid sleep 4322 & sleep 4322";
    let mut site = site_with(script, &[("ExaminerTimeLimit", json!(60))], &server);
    let pull = site.sandbox.user("alice").unwrap();
    let mut pull = pull.spawn(&["shifterimg", "pull", "docker:local/x:1"]).unwrap();
    let begun = Instant::now();
    while running("sleep 4322").len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", site.sandbox.log(site.gateway.daemon));
        std::thread::sleep(Duration::from_millis(20));
    }
    site.sandbox.kill(site.gateway.daemon).unwrap();
    let begun = Instant::now();
    while !running("sleep 4322").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", running("sleep 4322"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let config: Value = serde_json::from_slice(&std::fs::read(&site.gateway.config).unwrap()).unwrap();
    std::fs::write(format!("{}.may-pass", config["examiner"].as_str().unwrap()), "").unwrap();
    site.sandbox.restart(&mut site.gateway).unwrap();
    assert!(pull.wait().unwrap().success());
    assert_eq!(site.image_files().len(), 2);
    assert_eq!(site.expansions(), NOTHING);
    site.finish();
}

#[test]
fn what_an_examiner_writes_is_thrown_away() {
    let built = image(vec![file("etc/which", "original")]);
    let server = serve(&[("x", &built)]);
    let script = r#"cd "$1" && mkdir -p deep/er && ln -s /etc deep/er/way && touch deep/er/file && echo changed > etc/which || exit 1
chmod 0 deep/er deep etc/which "$1"
setsid sh -c 'while :; do touch "$1/late"; done' "$1" &"#;
    let site = site_with(script, &[], &server);
    site.pull("alice", "local/x:1").success().unwrap();
    assert_eq!(site.script("local/x:1", "cat /etc/which; ls -d /deep /late 2>/dev/null; true"), "original");
    assert_eq!(site.expansions(), NOTHING);
    site.finish();
}

#[test]
fn an_examiner_reaches_its_image_and_the_system_but_nothing_of_the_gateways() {
    // Links that images can hold, to what the gateway's account can read.
    let secrets = ["/proc/1/environ", "/etc/shadow"];
    let built =
        image(secrets.iter().enumerate().map(|(n, to)| symlink(format!("etc/way{n}"), *to)).collect());
    let server = serve(&[("x", &built)]);
    let script = r#"for path in GATEWAY/images.db GATEWAY/imagemanager.json GATEWAY/expand GATEWAY/cache/* IMAGES; do
    [ ! -d "$path" ] || ls "$path" >/dev/null 2>&1 && [ -d "$path" ] && echo "could list $path" >&2
    [ ! -f "$path" ] || head -c 1 "$path" >/dev/null 2>&1 && [ -f "$path" ] && echo "could read $path" >&2
done
touch GATEWAY/expand/x 2>/dev/null && echo "could write" >&2 && rm GATEWAY/expand/x
gateway=$(pgrep -o -f 'serve --config GATEWAY/imagemanager.json')
cat /proc/$gateway/environ >/dev/null 2>&1 && echo "could read the gateway's environment" >&2
kill -0 "$gateway" 2>/dev/null && echo "could signal the gateway" >&2
kill -0 "$PPID" 2>/dev/null && echo "could signal its supervisor" >&2
unshare --user true 2>/dev/null && echo "could make a namespace" >&2
[ -n "$gateway" ] || echo "no gateway found" >&2
grep -q root /etc/passwd || echo "could not read what programs need" >&2
[ -x /bin/sh ] || echo "could not see programs" >&2
exit 7"#;
    // It names what it could do, and always refuses, so that its words come back.
    let mut kept = None;
    let url = format!("http://{}", server.authority());
    let site = Site::with(|sandbox: &mut Sandbox| {
        let program = sandbox.new_directory("site").unwrap().join("examine");
        std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        kept = Some(program.clone());
        GatewayOptions {
            locations: vec![local(&url)],
            more: [("examiner".to_owned(), json!(program))].into_iter().collect(),
            ..GatewayOptions::default()
        }
    });
    let program = kept.unwrap();
    let places = |text: &str| {
        text.replace("GATEWAY", &site.gateway.state.display().to_string())
            .replace("IMAGES", &site.gateway.images.display().to_string())
    };
    let script = places(script);
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    // The account itself could do all of it: the test would see what it looks for.
    let open = site.sandbox.user("gateway").unwrap().run(&["sh", "-c", &script]).unwrap();
    for what in ["could list", "could read", "could write", "environment", "could signal", "could make"] {
        assert!(open.err().contains(what), "{}", open.describe());
    }
    let sentence = refused(&site, "local/x:1");
    assert!(sentence.contains("(exit status: 7): it gave no reason"), "{sentence}");
    site.finish();
}

#[test]
fn odd_names_are_unpacked_and_special_files_are_not() {
    let odd = build_named("odd-names").unwrap();
    let privileged = build_named("privileged-files").unwrap();
    let server = serve(&[("odd", &odd), ("privileged", &privileged)]);
    let script = r#"cd "$1" || exit 9
special=$(find . -type b -o -type c -o -type p -o -type s -o -perm /6000 | head -n 3)
[ -z "$special" ] || { echo "special: $special" >&2; exit 4; }
[ -e odd/setuid ] || [ "$(find odd -mindepth 1 -print0 | tr -cd '\0' | wc -c)" = 11 ] || { ls odd >&2; exit 5; }"#;
    let site = site_with(script, &[], &server);
    for name in ["odd", "privileged"] {
        site.pull("alice", &format!("local/{name}:1")).success().unwrap();
    }
    assert_eq!(site.expansions(), NOTHING);
    site.finish();
}

#[test]
fn an_examiner_that_cannot_be_run_stops_the_gateway_or_the_pull() {
    let built = busybox_image().unwrap();
    let server = serve(&[("x", &built)]);
    let mut site = site_with("exit 0", &[], &server);
    let config: Value = serde_json::from_slice(&std::fs::read(&site.gateway.config).unwrap()).unwrap();
    let program = config["examiner"].as_str().unwrap().to_owned();
    std::fs::write(&program, "#!/nonexistent/interpreter\n").unwrap();
    let sentence = refused(&site, "local/x:1");
    assert!(
        sentence.contains("this site's examiner could not be run") && sentence.contains(&program),
        "{sentence}"
    );
    std::fs::remove_file(&program).unwrap();
    let shown = site.gateway.config.display().to_string();
    let gateway = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let words = [gateway.as_str(), "check-config", "--config", &shown];
    let said = site.sandbox.user("gateway").unwrap().run(&words).unwrap().failure(1).unwrap();
    assert!(said.contains(&format!("examiner: {program}")), "{said}");
    site.sandbox.stop(site.gateway.daemon).unwrap();
    assert!(site.sandbox.restart(&mut site.gateway).is_err());
    site.finish();
}

#[test]
fn without_an_examiner_nothing_is_unpacked() {
    let built = busybox_image().unwrap();
    let server = serve(&[("x", &built)]);
    let url = format!("http://{}", server.authority());
    let site = Site::new(|_| vec![local(&url)]);
    let outcome = site.shifterimg("alice", &["-v", "pull", "docker:local/x:1"]);
    let said = format!("{}{}", outcome.out(), outcome.err());
    outcome.success().unwrap();
    assert!(said.contains("READY") && !said.contains("EXAMINATION"), "{said}");
    site.finish();
}

#[test]
fn the_children_that_read_hostile_bytes_have_no_files_network_or_programs_of_the_gateways() {
    let built = busybox_image().unwrap();
    let server = serve(&[("x", &built)]);
    let url = format!("http://{}", server.authority());
    let site = Site::new(|_| vec![local(&url)]);
    let program = site.sandbox.program("shifter-imagegw").unwrap().display().to_string();
    let gateway = site.sandbox.user("gateway").unwrap();
    let found = gateway.run(&[&program, "probe"]).unwrap().success().unwrap();
    assert_eq!(
        found,
        "{\"files\":true,\"modes\":true,\"network\":true,\"programs\":true,\"memory\":true,\"signals\":true}\n"
    );
    let shown = site.gateway.config.display().to_string();
    let checked = gateway.run(&[&program, "check-config", "--config", &shown]).unwrap();
    let is_gap = |line: &&str| !line.contains("warning: Locations.") && !line.contains("warning: Listen: ");
    assert_eq!(checked.err().lines().find(is_gap), None, "{}", checked.describe());

    // The children themselves: files that the account could read are refused unless the job names them.
    let version = gateway.run(&[&program, "--version"]).unwrap().success().unwrap();
    let version = version.trim().rsplit(' ').next().unwrap().to_owned();
    let place = site.gateway.state.join("expand");
    let (layer, image) = (place.join("layer"), place.join("image"));
    for path in [&layer, &image] {
        std::fs::write(path, "x").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    let none = json!({"read": [], "write": [], "make": [], "run": [], "links": false});
    let all = json!({"read": [layer], "write": [image], "make": [place], "run": [], "links": false});
    let run = |verb: &str, mut job: Value, reach: &Value| {
        job["version"] = json!(version);
        job["reach"] = reach.clone();
        let mut child = site.sandbox.user("gateway").unwrap().spawn(&[&program, verb]).unwrap();
        // Held open: its end is the gateway's, and ends the child.
        let mut lifeline = child.stdin.take().unwrap();
        lifeline.write_all(format!("{job}\n").as_bytes()).unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        said
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let convert = json!({
        "layers": [{"path": layer, "kept": null, "digest": digest, "diff_id": null, "compression": "gzip"}],
        "output": image, "scratch": place, "converter": {"program": null, "options": []},
        "records": null, "image": place.join("made"),
    });
    let unpack = json!({"image": image, "tree": place, "bytes": 1000});
    for (verb, job) in [("convert", convert), ("unpack", unpack)] {
        let shut = run(verb, job.clone(), &none);
        assert!(shut.contains("Failed") && shut.contains("Permission denied"), "{verb}: {shut}");
        let open = run(verb, job, &all);
        assert!(open.contains("Failed") && !open.contains("Permission denied"), "{verb}: {open}");
    }
    for path in [layer, image] {
        std::fs::remove_file(path).unwrap();
    }
    site.finish();
}

#[test]
fn the_other_converters_work_as_confined() {
    let built = build_named("layered").unwrap();
    let server = serve(&[("x", &built)]);
    for converter in ["mksquashfs", "tar2sqfs"] {
        let url = format!("http://{}", server.authority());
        let case = std::thread::spawn(move || {
            let keys = [("Converter".to_owned(), json!(converter))];
            let site = Site::with(|_| GatewayOptions {
                locations: vec![local(&url)],
                more: keys.into_iter().collect(),
                ..GatewayOptions::default()
            });
            site.pull("alice", "local/x:1").success().unwrap();
            assert_eq!(site.script("local/x:1", "cat /data/newest"), "newest");
            site.finish();
        });
        case.join().unwrap_or_else(|_| panic!("{converter}"));
    }
}

/// Command lines of this machine's processes that are exactly this.
fn running(words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.trim() == words {
            found.push(line.trim().to_owned());
        }
    }
    found
}
