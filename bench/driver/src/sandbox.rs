//! The benchmark's machine: a mount namespace with `/etc`, `/run`, `/opt`, `/home`, `/var/lib` and temporary
//! directories of its own, an ordinary user, the programs and a configuration. `/etc` is a plain tmpfs and no overlay,
//! since opening files through an overlay would be counted as the programs' time.

use anyhow::{Context as _, Result};
use bench_layout::{BASE, HOSTS, OTHER_GROUP, RESOLV_CONF, USER};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{Gid, Uid, UnshareFlags};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

/// The programs to measure, read before the namespace hides where they lie.
pub(crate) struct Programs {
    pub(crate) shifter: Vec<u8>,
    pub(crate) shifter_glibc: Option<Vec<u8>>,
    pub(crate) setup_root: Vec<u8>,
    pub(crate) unsetup_root: Vec<u8>,
    pub(crate) floor: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) reader: Vec<u8>,
    pub(crate) services: Option<ServicePrograms>,
}

/// What a gateway that serves images takes.
pub(crate) struct ServicePrograms {
    pub(crate) shifterimg: Vec<u8>,
    pub(crate) imagegw: Vec<u8>,
    pub(crate) registry: Vec<u8>,
}

/// Files of the module, 1 MiB each.
const MODULE_FILES: usize = 50;

/// What the C library needs to find the peers' libraries as fast as it does on the host.
const LINKER_FILES: [&str; 3] = ["/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.preload"];
/// System accounts before the user's, and groups; about as many as a compute node has.
const ACCOUNTS: u32 = 40;

/// Moves this process into a mount namespace from which nothing reaches the host.
pub(crate) fn enter() -> Result<()> {
    // SAFETY: the call is unsafe because CLONE_FILES would leave descriptors behind; only CLONE_NEWNS is passed.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("make a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("make / private")
}

/// Covers the host's directories and fills in what the benchmark needs; `more_settings` go to `udiRoot.conf`.
pub(crate) fn furnish(programs: &Programs, more_settings: &str) -> Result<()> {
    let linker: Vec<_> = LINKER_FILES.iter().filter_map(|path| Some((*path, fs::read(path).ok()?))).collect();
    for covered in ["/etc", "/run", "/opt", "/home", "/var/lib"] {
        tmpfs(covered, "mode=0755")?;
    }
    for temporary in ["/tmp", "/var/tmp"] {
        tmpfs(temporary, "mode=1777")?;
    }
    for directory in ["", "/bin", "/images", "/udi", "/loop", "/tree"] {
        make_directory(&format!("{BASE}{directory}"))?;
    }
    one_kind_of_cgroups()?;
    let (user, uid, gid) = USER;
    let home = format!("/home/{user}");
    make_directory(&home)?;
    chown(&home, Some(uid), Some(gid)).context("give the user a home")?;
    for (path, content) in linker {
        write(path, &content, 0o644)?;
    }
    write_etc(more_settings)?;
    make_directory(&format!("{BASE}/big"))?;
    for number in 0..MODULE_FILES {
        write(&format!("{BASE}/big/lib-{number}.so"), &vec![number as u8; 1 << 20], 0o644)?;
    }
    install("shifter", &programs.shifter, 0o4755)?;
    if let Some(glibc) = &programs.shifter_glibc {
        install("shifter-glibc", glibc, 0o4755)?;
    }
    install("setupRoot", &programs.setup_root, 0o755)?;
    install("unsetupRoot", &programs.unsetup_root, 0o755)?;
    install("floor", &programs.floor, 0o4755)?;
    install("reader", &programs.reader, 0o755)?;
    install("true-static", &programs.payload, 0o755)
}

fn write_etc(more_settings: &str) -> Result<()> {
    let ((user, uid, gid), (group, group_id)) = (USER, OTHER_GROUP);
    let mut passwd = "root:x:0:0:root:/root:/bin/bash\n".to_owned();
    let mut groups = "root:x:0:\n".to_owned();
    for number in 1..=ACCOUNTS {
        passwd += &format!(
            "system{number}:x:{number}:{number}:System account:/var/lib/s{number}:/usr/sbin/nologin\n"
        );
        groups += &format!("system{number}:x:{number}:\n");
    }
    passwd += &format!("{user}:x:{uid}:{gid}:Bench,,,:/home/{user}:/bin/sh\n");
    groups += &format!("{user}:x:{gid}:\n{group}:x:{group_id}:{user}\n");
    let conf = format!(
        "udiMount={BASE}/udi\nloopMount={BASE}/loop\nimagePath={BASE}/images\nudiRootPath={BASE}\n\
         siteFs=/home:/home\nsiteEnv=SHIFTER_RUNTIME=1\nsiteEnvAppend=PATH=/opt/udiImage/bin\n\
         populateEtcDynamically=1\nallowLibcPwdCalls=1\ndefaultImageType=docker\n\
         module_big_copyPath={BASE}/big\n{more_settings}"
    );
    make_directory("/etc/shifter")?;
    for (name, content) in [
        ("passwd", passwd.as_str()),
        ("group", &groups),
        ("hosts", HOSTS),
        ("resolv.conf", RESOLV_CONF),
        ("nsswitch.conf", "passwd: files extrausers\ngroup: files extrausers\nhosts: files\n"),
        ("shifter/udiRoot.conf", &conf),
    ] {
        write(&format!("/etc/{name}"), content.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// A host that has both versions of cgroups is one that crun refuses: here it shows version 2, as most do.
fn one_kind_of_cgroups() -> Result<()> {
    let place = "/sys/fs/cgroup";
    if !Path::new(place).join("unified").is_dir() {
        return Ok(());
    }
    mount("cgroup2", place, "cgroup2", MountFlags::empty(), None).with_context(|| format!("cover {place}"))
}

/// Becomes the ordinary user for good. The process has one thread, so the thread's ids are the process's.
pub(crate) fn become_the_user() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(USER.1), Gid::from_raw(USER.2));
    std::env::set_current_dir("/").context("go to /")?;
    rustix::thread::set_thread_groups(&[gid, Gid::from_raw(OTHER_GROUP.1)])
        .context("set the user's groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).context("become the user's group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context("become the user")
}

/// mkdir(2) with mode 0755 whatever the umask is.
pub(crate) fn make_directory(path: &str) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("create {path}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("set the mode of {path}"))
}

/// Writes a file with this mode whatever the umask is.
pub(crate) fn write(path: &str, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {path}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {path}"))
}

/// Writes a program into the benchmark's own directory of programs.
pub(crate) fn install(name: &str, content: &[u8], mode: u32) -> Result<()> {
    write(&format!("{BASE}/bin/{name}"), content, mode)
}

fn tmpfs(target: &str, options: &str) -> Result<()> {
    if !Path::new(target).is_dir() {
        return Ok(()); // a host without /home keeps having none
    }
    let data = CString::new(options).context("tmpfs options hold no NUL")?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("cover {target} with a tmpfs"))
}
