//! Trees as users have them, read for one of them by root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

const ALICE: u32 = 4201;
const LAB: u32 = 4300;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::Builder::new().prefix("tree").tempdir().unwrap());
        home.set("", ALICE, ALICE, 0o755);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn set(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        chown(self.path(name), Some(uid), Some(gid)).unwrap();
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn file(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        std::fs::write(self.path(name), name).unwrap();
        self.set(name, uid, gid, mode);
    }

    fn directory(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        std::fs::create_dir(self.path(name)).unwrap();
        self.set(name, uid, gid, mode);
    }

    fn tree(&self) -> Tree {
        let path = self.path("");
        let asker = Asker { uid: ALICE, gids: vec![ALICE, LAB] };
        Tree { directory: File::open(&path).unwrap(), path, asker, forbidden: Vec::new() }
    }

    fn archive(&self, most: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        archive(&self.tree(), most, &mut bytes).map(|()| bytes).map_err(|error| error.to_string())
    }
}

/// Name by name: mode and what there is, as an independent reader finds it.
fn listing(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (mode, kind) = (entry.header().mode().unwrap(), entry.header().entry_type());
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let link = entry.link_name().unwrap().map(|link| format!(" {}", link.display())).unwrap_or_default();
        let mut text = String::new();
        io::Read::read_to_string(&mut entry, &mut text).unwrap();
        lines.push(format!("{name} {mode:o} {kind:?}{link} {text}").trim_end().to_owned());
    }
    lines
}

#[test]
fn a_tree_is_archived_in_the_order_of_names_without_devices_and_what_is_mounted() {
    let home = Home::new();
    home.directory("b", ALICE, 1, 0o500);
    home.file("b/own", ALICE, 1, 0o400);
    home.file("a.group", 1, LAB, 0o640);
    home.file("z.other", 1, 1, 0o4604);
    std::fs::hard_link(home.path("b/own"), home.path("second")).unwrap();
    symlink("/etc/shadow", home.path("link")).unwrap();
    let long = "x".repeat(150);
    home.file(&long, ALICE, ALICE, 0o644);
    fs::mknodat(fs::CWD, home.path("disk"), FileType::BlockDevice, Mode::from(0o666), 0x700).unwrap();
    fs::mknodat(fs::CWD, home.path("pipe"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(home.path("socket")).unwrap();
    let lines = listing(&home.archive(1 << 20).unwrap());
    let expected = [
        "./ 755 Directory",
        "a.group 640 Regular a.group",
        "b/ 500 Directory",
        "b/own 400 Regular b/own",
        "link 777 Symlink /etc/shadow",
        "pipe 644 Fifo",
        "second 400 Link b/own",
        &format!("{long} 644 Regular {long}"),
        "z.other 4604 Regular z.other",
    ];
    assert_eq!(lines, expected, "{lines:#?}");
    assert_eq!(home.archive(1 << 20).unwrap(), home.archive(1 << 20).unwrap());
    drop(socket);
}

#[test]
fn what_the_user_could_not_read_or_an_image_cannot_hold_is_named() {
    let make: BTreeMap<&str, fn(&Home)> = BTreeMap::from([
        ("you cannot read /D/secret", (|h| h.file("secret", 1, 1, 0o600)) as fn(&Home)),
        ("you cannot read /D/own", |h| h.file("own", ALICE, ALICE, 0o044)),
        ("you cannot read /D/lab", |h| h.file("lab", 1, LAB, 0o604)),
        ("you cannot read /D/closed;", |h| h.directory("closed", 1, 1, 0o754)),
        ("you cannot read /D/deep/in", |h| {
            h.directory("deep", 1, 1, 0o755);
            h.file("deep/in", 0, 0, 0o600);
        }),
        ("/D/.wh.gone means in a layer", |h| h.file(".wh.gone", ALICE, ALICE, 0o644)),
        ("more than 1000 bytes of files", |h| {
            h.file("large", ALICE, ALICE, 0o644);
            std::fs::write(h.path("large"), [0; 1001]).unwrap();
        }),
        ("more than 256 directories in each other", |h| {
            std::fs::create_dir_all(h.path(&"d/".repeat(257))).unwrap();
        }),
    ]);
    for (expected, make) in make {
        let home = Home::new();
        make(&home);
        let why = home.archive(1000).unwrap_err();
        let why = why.replace(home.path("").display().to_string().trim_end_matches('/'), "/D");
        assert!(why.contains(expected), "{expected}: {why}");
    }
}

#[test]
fn the_gateway_s_own_directories_are_not_read_below_a_user_s() {
    let home = Home::new();
    home.directory("images", ALICE, ALICE, 0o755);
    home.file("key", ALICE, ALICE, 0o644);
    for own in ["images", "key"] {
        let tree = Tree { forbidden: vec![home.path(own), "/nonexistent".into()], ..home.tree() };
        let error = archive(&tree, 1 << 20, &mut io::sink()).unwrap_err();
        assert!(matches!(error, TreeError::Forbidden(_)), "{error}");
    }
}

/// Writes nothing, and does something when it is first written to.
struct Meanwhile<F: FnMut()>(F);

impl<F: FnMut()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_tree_that_changes_while_it_is_read_is_no_image() {
    type Act = fn(&Path);
    let act: [(&str, Act); 4] = [
        ("is cut off", |at| File::options().write(true).open(at.join("b")).unwrap().set_len(9).unwrap()),
        ("is written to", |at| std::fs::write(at.join("b"), vec![1; 3 << 20]).unwrap()),
        ("is removed", |at| std::fs::remove_file(at.join("c")).unwrap_or_default()),
        ("is new", |at| std::fs::write(at.join("new"), "").unwrap()),
    ];
    for (what, act) in act {
        let home = Home::new();
        for name in ["a", "b", "c"] {
            std::fs::write(home.path(name), vec![0; 3 << 20]).unwrap();
        }
        let (path, mut written) = (home.path(""), 0);
        let mut out = Meanwhile(|| {
            written += 1;
            // While `b` is read: writes are of 256 KiB, or the buffer's.
            if written == 18 {
                act(&path);
            }
        });
        let error = archive(&home.tree(), 1 << 30, &mut out).unwrap_err();
        assert!(matches!(error, TreeError::Changed(_)), "{what}: {error}");
        assert!(written >= 18);
    }
}

#[test]
fn names_that_change_their_meaning_meanwhile_lead_nowhere_else() {
    let home = Home::new();
    home.directory("d", ALICE, ALICE, 0o755);
    home.directory("secret", 0, 0, 0o700);
    home.file("secret/file", 0, 0, 0o600);
    std::fs::write(home.path("secret/file"), "the secret").unwrap();
    home.directory("other", ALICE, ALICE, 0o755);
    home.file("other/file", ALICE, ALICE, 0o644);
    let at = |name: &str| home.path(name);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // Each name is now a file or directory of hers, now a link to what she may not read.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::write(at("d.new"), "hers").unwrap();
                std::fs::rename(at("d.new"), at("d/file")).unwrap();
                let _ = std::fs::rename(at("other"), at("d/sub"));
                symlink(at("secret/file"), at("d.new")).unwrap();
                std::fs::rename(at("d.new"), at("d/file")).unwrap();
                let _ = std::fs::rename(at("d/sub"), at("other"));
                symlink(at("secret"), at("d/sub")).unwrap();
                std::fs::remove_file(at("d/sub")).unwrap();
            }
        });
        for _ in 0..3000 {
            let path = at("d");
            let tree = Tree { directory: File::open(&path).unwrap(), path, ..home.tree() };
            let mut bytes = Vec::new();
            match archive(&tree, 1 << 20, &mut bytes) {
                Ok(()) => whole += 1,
                Err(TreeError::Changed(_) | TreeError::Read(..) | TreeError::Gateway(..)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(!bytes.windows(10).any(|window| window == b"the secret"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(refused > 0, "{whole} {refused}");
}

#[test]
fn what_is_mounted_below_a_directory_is_not_entered() {
    let home = Home::new();
    for name in ["bound", "mounted", "file"] {
        home.directory(name, ALICE, ALICE, 0o755);
        home.file(&format!("{name}/under"), ALICE, ALICE, 0o644);
    }
    let at = home.path("").display().to_string();
    // In a namespace of its own, the tree is walked by a child: a test thread's mounts would be everybody's.
    let script = format!(
        "mount --bind {at}file {at}bound && mount -t tmpfs none {at}mounted && touch {at}mounted/on && exec sleep 60"
    );
    let mut holder = Command::new("unshare").args(["-m", "sh", "-c", &script]).spawn().unwrap();
    let seen = PathBuf::from(format!("/proc/{}/root{at}", holder.id()));
    let begun = std::time::Instant::now();
    while !seen.join("mounted/on").exists() && begun.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let tree = Tree { directory: File::open(&seen).unwrap(), ..home.tree() };
    let mut bytes = Vec::new();
    let walked = archive(&tree, 1 << 20, &mut bytes);
    holder.kill().unwrap();
    holder.wait().unwrap();
    walked.unwrap();
    let names: Vec<_> = listing(&bytes).iter().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["./", "bound/", "file/", "file/under", "mounted/"]);
}
