//! A `--ccm` job's task enters the job's container, still as root.
//!
//! The container was prepared with what the prolog saw. Where Slurm has given the job a `/tmp` or a `/dev/shm` of its own
//! since (`job_container/tmpfs`), the task gets a namespace of its own, a copy of the container's, with these on top.

use crate::node::{Node, Prepared};
use crate::{Job, Spank};
use rustix::fs::{CWD, Gid, StatVfsMountFlags, Uid, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

/// Places of the host that every container shows, and that a job may have for itself.
const PLACES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Enters, keeping the directory where the user may: looked for with the user's own rights.
pub(crate) fn enter(
    spank: &mut dyn Spank,
    node: &Node,
    job: &Job,
    prepared: &Prepared,
) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("cannot enter the container of this job: {error}");
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let pin = node.pin(job.id).ok_or_else(|| said(&"it is not to be seen from here"))?;
    let pin = File::open(pin).map_err(|error| said(&error))?;
    let places = PLACES.into_iter().filter_map(|path| Some((path, identity(path)?)));
    let places: Result<Vec<Place>, String> =
        places.map(|(path, identity)| Ok(Place { path, identity, copy: copy_of(path)? })).collect();
    let mut places = places.map_err(|error| said(&error))?;
    move_into_link_name_space(pin.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(|error| said(&error))?;
    places.retain(|place| identity(place.path).is_some_and(|inside| inside != place.identity));
    if !places.is_empty() {
        spank.unshare_mounts().map_err(|error| said(&error))?;
        attach(&places).map_err(|error| said(&error))?;
    }
    let entered = as_user(job, &prepared.groups, || {
        [directory.as_path(), "/tmp".as_ref()].iter().any(|place| std::env::set_current_dir(place).is_ok())
    });
    let entered = entered.map_err(|error| said(&error))?;
    // As for everything else that runs in containers: nothing in it gives more rights than the user has.
    rustix::thread::set_no_new_privs(true).map_err(|error| said(&error))?;
    if entered { Ok(()) } else { Err(said(&"neither the working directory nor /tmp can be entered")) }
}

/// What the task sees at a place before it enters.
struct Place {
    path: &'static str,
    identity: (u64, u64),
    copy: OwnedFd,
}

/// Device and inode of a directory; none where there is none.
fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|found| (found.dev(), found.ino()))
}

fn copy_of(path: &str) -> Result<OwnedFd, String> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| format!("copy the mount of {path}: {error}"))
}

/// Mounts the copies where the container has such places; nothing of it reaches any other namespace.
fn attach(places: &[Place]) -> Result<(), String> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| format!("cut it off from others: {error}"))?;
    for (path, copy) in places.iter().map(|place| (place.path, &place.copy)) {
        let said = |what: &str, error: Errno| format!("{what} {path}: {error}");
        let of_source = fstatvfs(copy).map_err(|error| said("examine", error))?.f_flag;
        let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(copy, "", CWD, path, how).map_err(|error| said("mount on", error))?;
        mount_change(path, MountPropagationFlags::DOWNSTREAM).map_err(|error| said("cut off", error))?;
        // As in every container; what the place lacks besides it goes on lacking.
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, of_source.contains(StatVfsMountFlags::RDONLY));
        flags.set(MountFlags::NOEXEC, of_source.contains(StatVfsMountFlags::NOEXEC));
        mount_remount(path, flags, "").map_err(|error| said("set the flags of", error))?;
    }
    Ok(())
}

/// Does something with the file rights of the job's user and groups; root then has again what it had.
fn as_user<T>(job: &Job, groups: &[u32], act: impl FnOnce() -> T) -> Result<T, Errno> {
    let (root, user) = (Uid::ROOT, Uid::from_raw(job.uid));
    let (roots_group, group) = (Gid::ROOT, Gid::from_raw(job.gid));
    let of_root = rustix::process::getgroups()?;
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let become_user = rustix::thread::set_thread_groups(&groups)
        .and_then(|()| rustix::thread::set_thread_res_gid(roots_group, group, roots_group))
        .and_then(|()| rustix::thread::set_thread_res_uid(root, user, root));
    let done = become_user.map(|()| act());
    rustix::thread::set_thread_res_uid(root, root, root)
        .and_then(|()| rustix::thread::set_thread_res_gid(roots_group, roots_group, roots_group))
        .and_then(|()| rustix::thread::set_thread_groups(&of_root))?;
    done
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    #[test]
    fn a_directory_of_one_of_the_jobs_further_groups_opens_and_root_has_its_groups_again() {
        assert!(rustix::process::geteuid().is_root(), "this test takes a user's rights: run it as root");
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = directory.path().join("of-group");
        fs::create_dir(&place).unwrap();
        chown(&place, Some(0), Some(4302)).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
        let job = Job { id: 7, uid: 4201, gid: 4201, step: 0 };
        let before = rustix::process::getgroups().unwrap();
        for (groups, expected) in [(&[4301, 4302][..], true), (&[4301], false), (&[], false)] {
            let opens = as_user(&job, groups, || fs::read_dir(&place).is_ok());
            assert_eq!(opens, Ok(expected), "{groups:?}");
            assert_eq!(rustix::process::getgroups().unwrap(), before);
            assert!(fs::read_dir(&place).is_ok() && rustix::process::getegid().is_root());
        }
    }

    #[test]
    fn only_directories_are_taken_along() {
        assert!(identity("/tmp").is_some() && identity("/etc/passwd").is_none());
        assert!(identity("/nowhere").is_none());
    }
}
