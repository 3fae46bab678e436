//! Against real daemons, started here with keys and sockets of their own. A missing `munged` fails the tests:
//! skipping them would prove nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;

/// A running munged in a directory of its own; stopped and removed when dropped.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts one whose key is `key_byte` repeated.
    fn start(key_byte: u8) -> Daemon {
        let directory = tempfile::Builder::new().prefix("munge-test-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("key"), vec![key_byte; 64]).unwrap();
        fs::set_permissions(at("key"), Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let mut command = if own_uid() == 0 {
            // munged refuses a key that its own user does not own, and daemons do not run as root.
            let (uid, gid) = ids_of("munge");
            for path in [directory.path(), &at("key")] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
            let mut command = Command::new("setpriv");
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
            command.args(ids).arg("--clear-groups").arg("munged");
            command
        } else {
            Command::new("munged")
        };
        command.arg("--foreground").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stderr(Stdio::piped());
        for option in ["key", "pid", "log", "seed"] {
            let mut argument = std::ffi::OsString::from(format!("--{option}-file="));
            argument.push(at(option));
            command.arg(argument);
        }
        let mut socket = std::ffi::OsString::from("--socket=");
        socket.push(at("socket"));
        let mut child =
            command.arg(socket).spawn().expect("setpriv or munged cannot be started; is munge installed?");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(at("socket")).is_err() {
            if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let output = child.wait_with_output().unwrap();
                panic!("munged did not start: {}", String::from_utf8_lossy(&output.stderr));
            }
            sleep(Duration::from_millis(10));
        }
        Daemon { child, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_uid() -> u32 {
    fs::metadata("/proc/self").unwrap().uid()
}

fn own_gid() -> u32 {
    fs::metadata("/proc/self").unwrap().gid()
}

fn ids_of(name: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")));
    let fields: Vec<&str> = line.expect("no user munge; is munge installed?").split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

fn munge() -> Munge {
    Munge::load().expect("libmunge is needed by these tests")
}

#[test]
fn payloads_come_back_with_the_caller() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let socket = daemon.socket();
    let payloads: [&[u8]; 5] = [
        b"",
        b"x",
        br#"{"authorized_locations":{"default":"user:pass"}}"#,
        b"\0\xff\n binary \0",
        &vec![b'a'; 300 * 1024],
    ];
    for payload in payloads {
        let credential = munge.encode(Some(&socket), payload).unwrap();
        assert!(credential.starts_with("MUNGE:") && credential.ends_with(':'), "{credential}");
        let decoded = munge.decode(Some(&socket), &credential).unwrap();
        assert_eq!(decoded.payload, payload);
        assert_eq!((decoded.uid, decoded.gid), (own_uid(), own_gid()));
    }
}

#[test]
fn a_credential_of_another_user_names_that_user() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    if own_uid() != 0 {
        return; // Only root can become another user; the round trip above covers the rest.
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65533", "--clear-groups", "munge", "--no-input", "--socket"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    let credential = String::from_utf8(output.stdout).unwrap();
    let decoded = munge.decode(Some(&daemon.socket()), &credential).unwrap();
    assert_eq!((decoded.uid, decoded.gid, decoded.payload.len()), (65534, 65533, 0));
}

#[test]
fn a_credential_opens_once_unless_it_was_stored() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let socket = daemon.socket();
    let credential = munge.encode(Some(&socket), b"secret").unwrap();
    munge.decode(Some(&socket), &credential).unwrap();
    let again = munge.decode(Some(&socket), &credential);
    assert!(matches!(again, Err(DecodeError::Replayed)), "{again:?}");
    assert_eq!(munge.decode_stored(Some(&socket), &credential).unwrap().payload, b"secret");
}

#[test]
fn an_expired_credential_is_told_apart() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let socket = daemon.socket();
    let output = Command::new("munge")
        .args(["--ttl=1", "--string=old", "--socket"])
        .arg(&socket)
        .output()
        .expect("the munge command is needed by this test");
    let credential = String::from_utf8(output.stdout).unwrap();
    sleep(Duration::from_millis(2600)); // munged counts whole seconds.
    let late = munge.decode(Some(&socket), &credential);
    assert!(matches!(late, Err(DecodeError::Expired)), "{late:?}");
    assert_eq!(munge.decode_stored(Some(&socket), &credential).unwrap().payload, b"old");
}

#[test]
fn a_restricted_credential_opens_for_nobody_else() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let stranger = own_uid().wrapping_add(4321).to_string();
    let output = Command::new("munge")
        .args(["--no-input", "--restrict-uid", &stranger, "--socket"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    let credential = String::from_utf8(output.stdout).unwrap();
    let refused = munge.decode(Some(&daemon.socket()), &credential);
    assert!(matches!(refused, Err(DecodeError::Unauthorized)), "{refused:?}");
}

#[test]
fn clusters_with_different_keys_do_not_believe_each_other() {
    let (munge, one, other) = (munge(), Daemon::start(1), Daemon::start(2));
    let credential = munge.encode(Some(&one.socket()), b"for one").unwrap();
    let foreign = munge.decode(Some(&other.socket()), &credential);
    assert!(matches!(foreign, Err(DecodeError::Invalid { .. })), "{foreign:?}");
    assert!(matches!(
        munge.decode_stored(Some(&other.socket()), &credential),
        Err(DecodeError::Invalid { .. })
    ));
    assert_eq!(munge.decode(Some(&one.socket()), &credential).unwrap().payload, b"for one");
}

#[test]
fn bad_credentials_are_invalid_and_never_a_crash() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let socket = daemon.socket();
    let good = munge.encode(Some(&socket), b"payload").unwrap();
    let middle = good.len() / 2;
    let flipped = if good.as_bytes()[middle] == b'A' { 'B' } else { 'A' };
    let tampered = format!("{}{flipped}{}", &good[..middle], &good[middle + 1..]);
    let cut = good[..good.len() - 8].to_owned();
    let table: [(&str, String); 9] = [
        ("tampered", tampered),
        ("cut short", cut),
        ("empty", String::new()),
        ("white space", " \n".to_owned()),
        ("no credential at all", "good:user:user::500:500".to_owned()),
        ("only the frame", "MUNGE::".to_owned()),
        ("NUL inside", "MUNGE:\0:".to_owned()),
        ("not ASCII", "MUNGE:ünï:".to_owned()),
        ("above the limit", "A".repeat(MAX_CREDENTIAL + 1)),
    ];
    for (what, credential) in table {
        let result = munge.decode(Some(&socket), &credential);
        assert!(matches!(result, Err(DecodeError::Invalid { .. })), "{what}: {result:?}");
    }
    assert_eq!(munge.decode(Some(&socket), &good).unwrap().payload, b"payload");
}

#[test]
fn an_absent_daemon_is_unavailable_and_named() {
    let munge = munge();
    let missing = Path::new("/nonexistent/munge.socket");
    let encoded = munge.encode(Some(missing), b"").unwrap_err();
    let decoded = munge.decode(Some(missing), "MUNGE:AwQDAAD:").unwrap_err();
    assert!(matches!(encoded, MungeError::Unavailable { .. }), "{encoded:?}");
    assert!(matches!(decoded, DecodeError::Unavailable { .. }), "{decoded:?}");
    for text in [encoded.to_string(), decoded.to_string()] {
        assert!(text.contains("/nonexistent/munge.socket") && text.contains("is munged running"), "{text}");
    }
}

#[test]
fn a_daemon_that_died_is_unavailable() {
    let (munge, mut daemon) = (munge(), Daemon::start(1));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let result = munge.encode(Some(&daemon.socket()), b"");
    assert!(matches!(result, Err(MungeError::Unavailable { .. })), "{result:?}");
}

#[test]
fn impossible_arguments_get_a_sentence() {
    let munge = munge();
    let long = format!("/{}", "s".repeat(MAX_SOCKET_PATH));
    for (socket, cause) in [("", "empty"), ("/a\0b", "NUL"), (long.as_str(), "107 bytes")] {
        let encoded = munge.encode(Some(Path::new(socket)), b"").unwrap_err();
        assert!(encoded.to_string().contains(cause), "{encoded}");
        let decoded = munge.decode(Some(Path::new(socket)), "MUNGE:x:").unwrap_err();
        assert!(decoded.to_string().contains(cause), "{decoded}");
    }
    let large = munge.encode(None, &vec![0; MAX_PAYLOAD + 1]).unwrap_err();
    assert!(matches!(large, MungeError::PayloadTooLarge { .. }), "{large:?}");
}

#[test]
fn the_largest_payload_is_refused_by_the_daemon_with_the_same_sentence() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let result = munge.encode(Some(&daemon.socket()), &vec![7; MAX_PAYLOAD]);
    assert!(matches!(result, Err(MungeError::PayloadTooLarge { .. })), "{:?}", result.err());
}

#[test]
fn a_missing_library_says_what_to_install() {
    let Err(error) = load_from("libmunge-absent.so.2") else { panic!("loaded a library that is not there") };
    let text = error.to_string();
    assert!(text.contains("cannot load libmunge-absent.so.2") && text.contains("libmunge2"), "{text}");
    assert!(text.contains("No such file"), "{text}");
    let Err(error) = load_from("libc.so.6") else { panic!("took libc for libmunge") };
    assert!(error.to_string().contains("munge_ctx_create"), "{error}");
}

#[test]
fn debug_text_never_shows_the_payload() {
    let credential = Credential { uid: 1, gid: 2, payload: b"user:password".to_vec() };
    assert_eq!(format!("{credential:?}"), "Credential { uid: 1, gid: 2, payload_bytes: 13 }");
}

#[test]
fn threads_share_one_library() {
    let (munge, daemon) = (munge(), Daemon::start(1));
    let socket = daemon.socket();
    std::thread::scope(|scope| {
        for thread in 0_u8..8 {
            let (munge, socket) = (&munge, &socket);
            scope.spawn(move || {
                for round in 0_u8..20 {
                    let payload = [thread, round];
                    let credential = munge.encode(Some(socket), &payload).unwrap();
                    assert_eq!(munge.decode(Some(socket), &credential).unwrap().payload, payload);
                }
            });
        }
    });
}
