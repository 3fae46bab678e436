//! Other tools that start containers, where they are installed: each as an ordinary user starts it, except podman,
//! whose rootless mode leaves a process behind.

use crate::image::{BY_HAND, tree};
use crate::root_shell::RootShell;
use crate::sandbox::{make_directory, write};
use crate::variants::{PAYLOAD, Row, Variant};
use anyhow::{Context as _, Result};
use bench_layout::{BASE, USER};
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

/// A start of crun takes ten times as long as one of `shifter`, of podman a hundred times.
const CRUN_EVERY: usize = 10;
const PODMAN_EVERY: usize = 60;

/// What the host's daemons would give podman; the namespace's own directories, and nothing asked of systemd.
const PODMAN_SETTINGS: &str = r#"[containers]
cgroups = "disabled"
default_ulimits = []
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
static_dir = "/opt/shifter-bench/podman/libpod"
volume_path = "/opt/shifter-bench/podman/volumes"
tmp_dir = "/run/libpod"
"#;
const PODMAN_STORAGE: &str = r#"[storage]
driver = "vfs"
graphroot = "/opt/shifter-bench/podman"
runroot = "/run/podman"
"#;
/// containers-policy.json(5)
const PODMAN_POLICY: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// Settings and directories that the peers need; this process must be root still.
pub(crate) fn furnish() -> Result<()> {
    let (user, uid, gid) = USER;
    make_directory("/etc/containers")?;
    for (name, content) in [
        ("containers/containers.conf", PODMAN_SETTINGS),
        ("containers/storage.conf", PODMAN_STORAGE),
        ("containers/policy.json", PODMAN_POLICY),
        ("subuid", &format!("{user}:100000:65536\n")),
        ("subgid", &format!("{user}:100000:65536\n")),
    ] {
        write(&format!("/etc/{name}"), content.as_bytes(), 0o644)?;
    }
    let bundle = format!("{BASE}/bundle");
    make_directory(&bundle)?;
    write(&format!("{bundle}/config.json"), bundle_settings().as_bytes(), 0o644)?;
    let state = format!("{BASE}/crun");
    make_directory(&state)?;
    chown(&state, Some(uid), Some(gid)).with_context(|| format!("give {state} to the user"))
}

/// The OCI runtime's configuration: the image mounted by hand, with what the host offers every container bound in.
fn bundle_settings() -> String {
    let (_, uid, gid) = USER;
    let mounts = ["proc", "sys", "dev", "tmp", "home"].map(|name| {
        format!(r#"{{"destination":"/{name}","type":"none","source":"/{name}","options":["rbind"]}}"#)
    });
    format!(
        r#"{{"ociVersion":"1.0.2",
"process":{{"user":{{"uid":{uid},"gid":{gid}}},"args":["{PAYLOAD}"],"env":["PATH=/usr/bin:/bin"],"cwd":"/",
"noNewPrivileges":true}},
"root":{{"path":"{BY_HAND}","readonly":true}},
"mounts":[{}],
"linux":{{"uidMappings":[{{"containerID":{uid},"hostID":{uid},"size":1}}],
"gidMappings":[{{"containerID":{gid},"hostID":{gid},"size":1}}],
"namespaces":[{{"type":"user"}},{{"type":"mount"}}]}}}}
"#,
        mounts.join(",")
    )
}

/// One row for each.
pub(crate) fn rows(root: &RootShell) -> Result<Vec<Row>> {
    let tree = tree();
    let mut bwrap = vec!["bwrap", "--ro-bind", &tree, "/", "--dev-bind", "/dev", "/dev"];
    for path in ["/proc", "/sys", "/tmp", "/home"] {
        bwrap.extend(["--bind", path, path]);
    }
    bwrap.push(PAYLOAD);
    let (state, bundle) = (format!("{BASE}/crun"), format!("{BASE}/bundle"));
    let crun = ["crun", "--cgroup-manager=disabled", "--root", &state, "run", "--bundle", &bundle, "bench"];
    // As many open files as root has here: by default it wants more, and not every root may have them.
    let podman = ["podman", "run", "--rm", "--ulimit=host", "--rootfs", &tree, PAYLOAD];
    let peers = [
        Variant::new("bwrap", "bubblewrap, unpacked directory", &bwrap),
        Variant::new("charliecloud", "Charliecloud, unpacked directory", &["ch-run", &tree, "--", PAYLOAD]),
        Variant::new("crun", "crun, squashfs mounted by hand", &crun).every(CRUN_EVERY),
        Variant::new("podman", "podman by root's shell, directory", &podman).every(PODMAN_EVERY).by(root),
    ];
    peers.into_iter().map(if_it_works).collect()
}

/// The row, if the program is there. It is started by its path: a program that is searched for is started by fork(2),
/// which copies this process's page tables, and no longer by posix_spawn(3) as all others are.
fn if_it_works(peer: Variant) -> Result<Row> {
    let places = ["/usr/local/bin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(peer.program()));
    let Some(path) = places.into_iter().find(|path| path.exists()) else {
        return Ok(Row::Absent(peer.title, "not installed".to_owned()));
    };
    let peer = peer.with_program(path.display().to_string());
    let said = format!("/tmp/said-by-{}", peer.key);
    if peer.try_once(&said)? {
        return Ok(Row::Measured(peer));
    }
    let said = fs::read_to_string(&said).unwrap_or_default();
    Ok(Row::Absent(peer.title, format!("does not start here: {}", said.trim().replace('\n', "; "))))
}
