//! The protocol and a shell as on a host, without a network: an ssh that runs OpenSSH's own SFTP server, or the command
//! line, on this machine. What networks do is tested end to end, against a real sshd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use shifter_fasthash::talk::Request;

use super::*;
use crate::transfer::Store;

const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Two hosts on one file system.
fn store(dir: &Path) -> Store {
    let program = dir.join("ssh");
    let servers = ["/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh"];
    let server = servers.iter().map(|place| format!("{place}/sftp-server"));
    let server = server.into_iter().find(|path| Path::new(path).exists()).expect("sftp-server is installed");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> '{}/calls'\nfor word; do last=$word; done\n\
         [ \"$last\" = sftp ] && exec {server}\nexec /bin/sh -c \"$last\"\n",
        dir.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let images = dir.join("it's an \"odd\" $(name) *");
    std::fs::create_dir(&images).unwrap();
    let account = Account {
        hosts: vec!["one".to_owned(), "two".to_owned()],
        username: "u".to_owned(),
        key: None,
        options: Vec::new(),
        fasthash: dir.join("fast'hash").display().to_string(),
    };
    Store::Remote(Box::new(Remote::new(program, account, &images, &dir.join("sockets"))))
}

fn images(dir: &Path) -> PathBuf {
    dir.join("it's an \"odd\" $(name) *")
}

async fn publish(store: &Store, dir: &Path, bytes: &[u8]) -> Published {
    let image = store.new_image(dir, ID, "squashfs").unwrap();
    std::fs::write(image.path(), bytes).unwrap();
    store.publish(image.complete().unwrap(), ID, "squashfs", &|_, _| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_has_is_not_sent_again_and_what_is_not_wanted_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert!(!store.is_published(ID, "squashfs", 3_000_000).await.unwrap());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    let published = publish(&store, dir.path(), &bytes).await;
    assert_eq!(published.size, 3_000_000);
    store.publish_meta(ID, "meta\n").await.unwrap();
    assert!(store.is_published(ID, "squashfs", 3_000_000).await.unwrap());
    assert!(!store.is_published(ID, "squashfs", 3_000_001).await.unwrap());
    assert_eq!(store.read_meta(ID).await.unwrap().unwrap(), b"meta\n");
    let path = images(dir.path()).join(format!("{ID}.squashfs"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let first = std::fs::metadata(&path).unwrap();
    assert_eq!(first.mode() & 0o7777, 0o600);
    assert!(
        !dir.path()
            .read_dir()
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_str().unwrap().contains(".partial.") })
    );

    // A file of this size and digest is the one that is wanted, and another is not.
    publish(&store, dir.path(), &bytes).await;
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), first.ino());
    let mut other = bytes.clone();
    other[2_999_999] ^= 1;
    publish(&store, dir.path(), &other).await;
    assert_eq!(std::fs::read(&path).unwrap(), other);
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls.matches("-s -- one sftp").count(), 1, "one connection serves all: {calls}");

    assert_eq!(store.list().await.unwrap().len(), 2);
    for _ in 0..2 {
        store.remove(ID, "squashfs").await.unwrap();
        assert_eq!(store.list().await.unwrap(), BTreeMap::new());
    }
    assert_eq!(store.read_meta(ID).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_wrong_bytes_is_sent_anew_and_one_with_right_bytes_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let bytes = vec![7; 2_000_000];
    let sum = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let sum = publish::hex(sum.as_ref());
    let part = images(dir.path()).join(publish::part_name_of(ID, &sum[..16]));
    let path = images(dir.path()).join(format!("{ID}.squashfs"));
    for (left, is_kept) in
        [(vec![7; 900_000], true), (vec![8; 900_000], false), (vec![7; 2_000_001], false), (vec![], true)]
    {
        std::fs::write(&part, &left).unwrap();
        std::fs::set_permissions(&part, PermissionsExt::from_mode(0o644)).unwrap();
        let before = std::fs::metadata(&part).unwrap().ino();
        let _ = std::fs::remove_file(&path);
        publish(&store, dir.path(), &bytes).await;
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", left.len());
        assert_eq!(found.mode() & 0o7777, 0o600);
        if is_kept {
            assert_eq!(found.ino(), before, "{}", left.len());
        }
        assert!(!part.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_on_hosts_get_exactly_their_words_and_their_failures_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let Store::Remote(remote) = store(dir.path()) else { panic!() };
    let limit = Duration::from_secs(20);
    let link = remote.link(&remote.hosts[0]).await.unwrap();
    let run = async |words: &[&str], limit| link.connection.run(words, limit).await;
    let output = run(&["printf", "%s|", "a b", "$(id)", "it's", "\\", "!", ""], limit).await.unwrap();
    assert_eq!(output.stdout, b"a b|$(id)|it's|\\|!||".to_vec());
    let output = run(&["sh", "-c", "echo no luck >&2; exit 3"], limit).await.unwrap();
    assert_eq!((output.status, output.said.as_str()), (Some(3), "no luck"));
    let fault = run(&["sleep", "9"], Duration::from_millis(1)).await.unwrap_err();
    assert!(fault.why.contains("sleep did not end within"), "{fault:?}");
    let fault = run(&["echo", "a\nb"], limit).await.unwrap_err();
    assert!(fault.why.contains("control characters"), "{fault:?}");
}

/// What `fasthash` on the host does, as a shell script, and what comes of it here.
async fn fetched(script: &str, limit: u64) -> (Result<Fetched, String>, Vec<u8>, String) {
    let dir = tempfile::tempdir().unwrap();
    let Store::Remote(remote) = store(dir.path()) else { panic!() };
    let program = dir.path().join("fast'hash");
    let asked = dir.path().join("asked");
    let text = format!("#!/bin/sh\ncat > '{}'\n[ \"$*\" = --import ] || exit 9\n{script}\n", asked.display());
    if !script.is_empty() {
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = PathBuf::from("/a\nb 'c' $(touch /d)");
    let asker = shifter_fasthash::open::Asker { uid: 7, gids: vec![8] };
    let request = Request { path, asker, places: shifter_fasthash::open::Places::default(), limit };
    let to = dir.path().join("copy");
    let file = File::options().read(true).write(true).create_new(true).open(&to).unwrap();
    let fetched = remote.fetch(&request, &file).await.map_err(|error| error.to_string());
    let asked = std::fs::read_to_string(asked).unwrap_or_default();
    (fetched, std::fs::read(to).unwrap(), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_on_a_host_is_asked_for_on_standard_input_and_arrives_whole() {
    let sum = "ff68165577eb209adcfa2f793476a25da637142283409d6f4d8d61ee042c5e63";
    let script = format!(
        "echo Welcome; printf 'fasthash 1 file 14\\nblah blah hash'; echo 'fasthash 1 end {sum} {sum}'"
    );
    let (fetched, copy, asked) = fetched(&script, 14).await;
    let Ok(Fetched::Copied(copied)) = fetched else { panic!("{fetched:?}") };
    assert_eq!((copied.size, &*copied.sha256, &*copied.id), (14, sum, sum));
    assert_eq!(copy, b"blah blah hash");
    let asked: Request = serde_json::from_str(&asked).unwrap();
    assert_eq!((asked.path, asked.asker.uid), (PathBuf::from("/a\nb 'c' $(touch /d)"), 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_says_is_bounded_and_never_believed() {
    let zeros = "0".repeat(64);
    let file = |size: u64| format!("printf 'fasthash 1 file {size}\\n'");
    for (script, expected) in [
        (String::new(), "cannot be run there"),
        ("exit 0".to_owned(), "gave no whole answer"),
        ("echo this cluster is closed >&2; exit 1".to_owned(), "no whole answer: this cluster is closed"),
        (format!("{}; head -c 16 /dev/zero", file(15)), "no whole answer"),
        (format!("{}; head -c 14 /dev/zero", file(14)), "no whole answer"),
        (format!("{}; printf short", file(14)), "no whole answer"),
        ("yes | head -c 10000000".to_owned(), "no whole answer"),
    ] {
        let (fetched, copy, _) = fetched(&script, 14).await;
        let why = fetched.unwrap_err();
        assert!(why.starts_with("host one: ") && why.contains(expected), "{script}: {why}");
        assert!(copy.len() <= 14);
    }
    let lie = format!("{}; printf 'blah blah hashfasthash 1 end {zeros} {zeros}\\n'", file(14));
    let (fetched, ..) = fetched(&lie, 14).await;
    assert!(fetched.unwrap_err().contains("is not what"));
}

#[test]
fn what_only_some_hosts_have_is_told_with_the_hosts_that_lack_it() {
    let file = |size| Attributes { size, mode: 0o100_600, modified: 5 };
    let directory = Attributes { size: 1, mode: 0o040_755, modified: 5 };
    let named = |name: &str, found| (name.to_owned(), found);
    let found = merged(vec![
        ("one", vec![named("both", file(1)), named("first", file(2)), named(".", directory)]),
        ("two", vec![named("both", file(1)), named("second", file(3)), named("first", directory)]),
        ("three", vec![named("both", file(9)), named("second", file(3))]),
    ]);
    let missing: Vec<_> =
        found.iter().map(|(name, l)| (name.as_str(), l.size, l.missing_on.clone())).collect();
    let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        missing,
        [
            ("both", 1, hosts(&["three"])),
            ("first", 2, hosts(&["two", "three"])),
            ("second", 3, hosts(&["one"]))
        ]
    );
}
