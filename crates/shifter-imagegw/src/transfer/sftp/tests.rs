//! Against OpenSSH's own server, over pipes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::Stdio;

use super::*;

const SERVERS: [&str; 3] =
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"];

async fn start() -> (tokio::process::Child, Session) {
    let server = SERVERS.iter().find(|path| Path::new(path).exists()).expect("sftp-server is installed");
    let mut child = tokio::process::Command::new(server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let session = Session::start(child.stdin.take().unwrap(), child.stdout.take().unwrap()).await.unwrap();
    (child, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_renamed_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("{}/{name}", dir.path().display());
    let (_child, session) = start().await;
    let odd = path("it's a \"new\" file $(x) *");
    let file = session.open(&odd, Open::New).await.unwrap();
    assert!(matches!(session.open(&odd, Open::New).await, Err(SftpError::Status { .. })));
    let second = session.begin_write(&file, 4, b"second").await.unwrap();
    let first = session.begin_write(&file, 0, b"one ").await.unwrap();
    first.written().await.unwrap();
    second.written().await.unwrap();
    session.fsync(&file).await.unwrap();
    assert_eq!(session.fstat(&file).await.unwrap().size, 10);
    session.close(file).await.unwrap();
    session.chmod(&odd, 0o640).await.unwrap();
    let found = session.lstat(&odd).await.unwrap().unwrap();
    assert_eq!((found.size, found.mode, found.is_file()), (10, 0o100_640, true));
    assert!(session.stat(&path("")).await.unwrap().unwrap().is_directory());
    std::fs::write(path("target"), "old").unwrap();
    session.rename(&odd, &path("target")).await.unwrap();
    assert_eq!(std::fs::read(path("target")).unwrap(), b"one second");
    let file = session.open(&path("target"), Open::Read).await.unwrap();
    assert_eq!(session.begin_read(&file, 4).await.unwrap().data().await.unwrap(), b"second");
    assert_eq!(session.begin_read(&file, 10).await.unwrap().data().await.unwrap(), b"");
    session.close(file).await.unwrap();
    assert!(session.space(&path("")).await.is_some());
    for number in 0..300 {
        std::fs::write(path(&format!("n{number}")), "").unwrap();
    }
    let listed = session.list(&path("")).await.unwrap();
    assert_eq!(listed.len(), 303, "with . and ..");
    assert_eq!(session.lstat(&odd).await.unwrap(), None);
    assert!(session.remove(&path("target")).await.unwrap());
    assert!(!session.remove(&path("target")).await.unwrap());
    let error = session.open(&path("no/where"), Open::New).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no such file or directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_fails_all_that_was_asked_and_all_that_is_asked_later() {
    let (mut child, session) = start().await;
    let requests: Vec<_> = (0..8).map(|_| session.lstat("/")).collect();
    child.kill().await.unwrap();
    for request in requests {
        // Some may have been answered.
        assert!(matches!(request.await, Ok(_) | Err(SftpError::Lost)));
    }
    assert_eq!(session.lstat("/").await, Err(SftpError::Lost));
    assert!(session.is_over());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_sftp_server_is_said_to_be_none() {
    for answer in [&b"Welcome to mycluster, have a nice day"[..], b"\0\0\0\x05\x02\0\0\0\x02"] {
        let (ours, _theirs) = tokio::io::duplex(64);
        let error = Session::start(ours, answer).await.err().unwrap();
        assert!(error.to_string().contains("is no SFTP server"), "{error}");
    }
    let (ours, _theirs) = tokio::io::duplex(64);
    assert_eq!(Session::start(ours, &b""[..]).await.err(), Some(SftpError::Lost));
    // A greeting without any extension.
    let (ours, _theirs) = tokio::io::duplex(64);
    let error = Session::start(ours, &b"\0\0\0\x05\x02\0\0\0\x03"[..]).await.err().unwrap();
    assert!(error.to_string().contains("cannot replace files"), "{error}");
}
