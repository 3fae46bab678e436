//! `./quickstart` refuses a place where it cannot work before it builds or installs anything.
//!
//! Its whole way, build included, is walked by hand and in continuous integration's fresh machines; here are the
//! refusals, which cost nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use shifter_tests::harness::Sandbox;

const SCRIPTS: [&str; 4] =
    ["quickstart", "tools/common.sh", "tools/quickstart-services.sh", "rust-toolchain.toml"];

/// What to do first, the words after `quickstart`, and what it must say. `QS` is the script.
const CASES: [(&str, &str, &str); 11] = [
    ("mkdir /opt/a && mount -t tmpfs -o nosuid,mode=755 t /opt/a", "QS --prefix /opt/a/qs", "mounted nosuid"),
    ("mkdir /opt/b && mount -t tmpfs -o noexec,mode=755 t /opt/b", "QS --prefix /opt/b/qs", "mounted noexec"),
    ("mkdir /opt/c && touch /opt/c/file", "QS --prefix /opt/c", "was not made by this script"),
    ("mkdir -m 0777 /opt/d", "QS --prefix /opt/d/qs", "written by others than root"),
    ("mkdir /opt/e && chown 4201 /opt/e", "QS --prefix /opt/e/qs", "written by others than root"),
    ("true", "QS --prefix relative", "absolute path"),
    ("true", "QS --prefix /", "absolute path"),
    ("true", "QS --prefix '/opt/a b'", "must consist of"),
    ("true", "QS --bogus", "unknown word --bogus"),
    (
        "true",
        "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin QS --prefix /opt/f/qs",
        "may not mount here",
    ),
    ("true", "unshare -m sh -c 'mount -t tmpfs t /dev; QS --prefix /opt/g/qs'", "/dev/loop-control"),
];

/// A sandbox, and the command that runs a copy of the script in it; the sandbox may hide where the original lies.
fn sandbox_with_quickstart() -> (Sandbox, String) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scripts = SCRIPTS.map(|name| (name, fs::read(repository.join(name)).unwrap()));
    let mut sandbox = Sandbox::new().unwrap();
    let copy = sandbox.new_directory("repository").unwrap();
    fs::create_dir(copy.join("tools")).unwrap();
    for (name, content) in scripts {
        fs::write(copy.join(name), content).unwrap();
    }
    let script = format!("bash {}", copy.join("quickstart").display());
    (sandbox, script)
}

#[test]
fn unfit_places_are_refused_by_one_sentence_and_left_as_they_were() {
    let (sandbox, script) = sandbox_with_quickstart();
    for (first, words, expected) in CASES {
        let unmount = "umount /opt/a /opt/b 2>/dev/null; rm -rf /opt/?";
        let line = format!(
            "{first} && {{ {}; status=$?; ls -A /opt/? 2>/dev/null; {unmount}; exit $status; }}",
            words.replace("QS", &script)
        );
        let outcome = sandbox.root().run(&["sh", "-c", &line]).unwrap();
        let listing = outcome.out();
        let sentence = outcome.failure(1).unwrap();
        assert!(sentence.contains(expected), "{words}: {sentence}");
        assert_eq!(sentence.trim().lines().count(), 1, "{words}: {sentence}");
        assert!(!listing.contains("qs"), "{words}: {listing}");
    }
    sandbox.finish().unwrap();
}

#[test]
fn clean_removes_nothing_that_quickstart_did_not_make() {
    let (sandbox, script) = sandbox_with_quickstart();
    let run = |words: &str| {
        let line = format!("{script} {words}");
        sandbox.root().run(&["sh", "-c", &line]).unwrap()
    };
    fs::create_dir_all("/opt/theirs/data").unwrap();
    let refused = run("--clean --prefix /opt/theirs").failure(1).unwrap();
    assert!(refused.contains("left alone"), "{refused}");
    assert!(Path::new("/opt/theirs/data").exists());

    fs::create_dir_all("/opt/ours/images").unwrap();
    fs::write("/opt/ours/.made-by-shifter-quickstart", "").unwrap();
    run("--clean --prefix /opt/ours").success().unwrap();
    assert!(!Path::new("/opt/ours").exists());
    run("--clean --prefix /opt/ours").success().unwrap();
    sandbox.finish().unwrap();
}
