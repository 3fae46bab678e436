//! A directory of this machine as a store, and what is found out before anything is sent. Remote stores are tested
//! against a real sshd, in the workspace of end-to-end tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;

use super::*;

const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn config(dir: &Path, more: &str) -> Result<Config, String> {
    let text = format!(
        r#"{{"DefaultImageLocation": "reg", "Authentication": "mock", "CacheDirectory": "{0}/cache",
        "ExpandDirectory": "{0}/expand", "Locations": {{"reg": {{"remotetype": "dockerv2"}}}},
        "Platforms": {{"near": {{"accesstype": "local", "local": {{"imageDir": "{0}"}}}},
        "far": {{"accesstype": "remote", "host": ["h", "h2", "h"], "ssh": {{"username": "u", "imageDir": "{0}" {more}}}}}}}}}"#,
        dir.display()
    );
    Config::parse(&text).map(|(config, _)| config).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_local_directory_is_published_to_listed_and_removed_from() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "").unwrap();
    let store = Store::new(&config, &config.platforms["near"]);
    let image = store.new_image(Path::new("/nowhere"), ID, "squashfs").unwrap();
    std::fs::write(image.path(), "image").unwrap();
    store.publish(image.complete().unwrap(), ID, "squashfs", &|_, _| ()).await.unwrap();
    store.publish_meta(ID, "meta\n").await.unwrap();
    assert!(store.is_published(ID, "squashfs", 5).await.unwrap());
    assert_eq!(store.read_meta(ID).await.unwrap().unwrap(), b"meta\n");
    let listed = store.list().await.unwrap();
    let sizes: Vec<_> = listed.iter().map(|(name, listed)| (name.clone(), listed.size)).collect();
    assert_eq!(sizes, [(format!("{ID}.meta"), 5), (format!("{ID}.squashfs"), 5)]);
    assert!(listed.values().all(|listed| listed.modified > 1_500_000_000));
    for _ in 0..2 {
        store.remove(ID, "squashfs").await.unwrap();
        assert_eq!(store.list().await.unwrap(), BTreeMap::new());
    }
    assert_eq!(store.read_meta(ID).await.unwrap(), None);
}

#[test]
fn a_key_that_ssh_would_not_use_is_found_before_any_pull() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let config = config(dir.path(), &format!(", \"key\": \"{}\"", key.display())).unwrap();
    let why = check(&config).unwrap_err();
    assert!(why.contains("of system far cannot be read: No such file"), "{why}");
    std::fs::write(&key, "").unwrap();
    let mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let why = check(&config).unwrap_err();
    assert!(why.contains("has mode 644"), "{why}");
    mode(0o600);
    check(&config).unwrap();
}

#[test]
fn what_ssh_would_take_for_something_else_is_no_host_account_or_option() {
    let dir = tempfile::tempdir().unwrap();
    let remote = config(dir.path(), "").unwrap().platforms["far"].remote.clone().unwrap();
    assert_eq!(remote.hosts, ["h", "h2"], "named twice, sent once");
    for (more, complaint) in [
        (r#", "username": "-oProxyCommand=x""#, "ssh.username: must be the name of an account"),
        (r#", "sshCmdOptions": ["-N"]"#, "ssh.sshCmdOptions: option -N cannot be used here"),
        (r#", "scpCmdOptions": ["-l", "8"]"#, "ssh.scpCmdOptions: option -l cannot be used here"),
        (r#"}, "host": ["-oProxyCommand=x"], "x": {"#, "is no name of a host"),
    ] {
        let why = config(dir.path(), more).unwrap_err();
        assert!(why.contains(complaint), "{why}");
    }
    let options = r#", "sshCmdOptions": ["-p 22"], "scpCmdOptions": ["-P", "22", "-C"]"#;
    let remote = config(dir.path(), options).unwrap().platforms["far"].remote.clone().unwrap();
    assert_eq!(remote.options, ["-p", "22", "-C"]);
}
