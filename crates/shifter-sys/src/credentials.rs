//! Who acts: the caller as a checked value, file access under someone else's ids, and giving root up.
//!
//! Nothing here looks names up; ids come from the kernel.

use crate::error::{During, Error, Result};
use rustix::process::{getgroups, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// The user on whose behalf the program runs: real ids of the process and its supplementary groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Caller {
    /// The process's caller. Root, and members of gid 0 as primary group, are refused; a supplementary gid 0
    /// is dropped, because it would give the container's user what images are not made for.
    pub fn of_this_process() -> Result<Self> {
        let uid = getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        if uid == 0 || gid == 0 {
            let rule = "run it as an ordinary user whose primary group is not 0";
            return Err(Error::refused("run a container for", format!("uid {uid}, gid {gid}"), rule));
        }
        let mut groups: Vec<u32> = getgroups()
            .during("read", "the supplementary groups")?
            .iter()
            .map(|group| group.as_raw())
            .collect();
        groups.retain(|group| *group != 0);
        Ok(Self { uid, gid, groups })
    }

    /// The user a program of root's prepares a container for; the same are refused.
    #[cfg(feature = "setup")]
    pub fn of_job(uid: u32, gid: u32, groups: &[u32]) -> Result<Self> {
        if uid == 0 || gid == 0 || uid == u32::MAX || gid == u32::MAX {
            let rule = "containers are for ordinary users whose primary group is not 0";
            return Err(Error::refused("prepare a container for", format!("uid {uid}, gid {gid}"), rule));
        }
        Ok(Self { uid, gid, groups: groups.iter().copied().filter(|group| *group != 0).collect() })
    }

    /// Real user id, never 0.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Real group id, never 0.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Supplementary groups without gid 0.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }
}

/// Whose rights a file access uses.
#[derive(Clone, Copy, Debug)]
pub enum Access<'a> {
    /// Root's.
    AsRoot,
    /// The caller's, groups included: for every path a user names.
    AsCaller(&'a Caller),
    /// The owner of the image directory: works for files of mode 0600 on file systems that squash root.
    AsImageOwner {
        /// Their user id.
        uid: u32,
        /// Their group id.
        gid: u32,
    },
}

/// Does `action` with the file-system ids of `access` (credentials(7)) and, unless it is root's, without any
/// capability: with CAP_SYS_PTRACE /proc would show what `hidepid=` hides. A failure to come back ends the process:
/// half-changed ids must not go on.
pub fn with_access<T>(access: Access<'_>, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let (uid, gid, groups) = match access {
        Access::AsRoot => return action(),
        Access::AsCaller(caller) => (caller.uid, caller.gid, caller.groups.as_slice()),
        Access::AsImageOwner { uid: 0, .. } => return action(),
        Access::AsImageOwner { uid, gid } => (uid, gid, &[][..]),
    };
    let before = getgroups().during("read", "the supplementary groups")?;
    set_thread_groups(&as_gids(groups)).during("take on", "the groups")?;
    let sets = capabilities(None).during("read", "the capability sets")?;
    set_fs_ids(uid, gid);
    let result = if fs_ids() == (uid, gid) {
        let none = CapabilitySets { effective: CapabilitySet::empty(), ..sets };
        set_capabilities(None, none).during("take off", "the capabilities").and_then(|()| action())
    } else {
        Err(Error::refused("take on", format!("uid {uid}"), "the kernel kept the old file-system ids"))
    };
    set_fs_ids(0, 0);
    let back = set_capabilities(None, sets).is_ok() && set_thread_groups(&before).is_ok();
    if !back || fs_ids() != (0, 0) {
        std::process::abort();
    }
    result
}

fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: setfsgid takes an id by value and touches no memory; success is checked by fs_ids().
    unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    unsafe { libc::setfsuid(uid) };
}

/// The ids in force; asking for an id that cannot be (-1) reports without changing, setfsuid(2).
fn fs_ids() -> (u32, u32) {
    // SAFETY: -1 is no valid id, so nothing changes.
    let uid = unsafe { libc::setfsuid(u32::MAX) };
    // SAFETY: as above.
    let gid = unsafe { libc::setfsgid(u32::MAX) };
    (uid as u32, gid as u32)
}

fn as_gids(groups: &[u32]) -> Vec<Gid> {
    groups.iter().map(|group| Gid::from_raw(*group)).collect()
}

/// Takes real, effective and saved ids to root's, so that the user can neither signal nor trace this process
/// (kill(2) looks at the *target's* real and saved uid).
pub fn become_root_wholly() -> Result<()> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during("become", "group 0")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during("become", "root")
}

/// Takes effective and saved ids back to the real ones, before anything is said to a caller who was not even listened
/// to: a stream of theirs may be a file that only root's writing changes (CVE-2012-0056, CVE-2014-0181).
pub fn step_down() {
    let (uid, gid) = (getuid(), rustix::process::getgid());
    let down = set_thread_res_gid(gid, gid, gid).and_then(|()| set_thread_res_uid(uid, uid, uid));
    if down.is_err() {
        std::process::abort();
    }
}

/// Proof that this process is the user and can never again be anybody else. Programs the user chooses are
/// only run against this value.
#[derive(Debug)]
pub struct Unprivileged(());

/// Gives every privilege up for good and checks that it cannot be had back.
///
/// Order: bounding and ambient sets while we still may, groups, gid, uid, remaining sets, no_new_privs.
pub fn irrevocably_drop_privileges(caller: &Caller) -> Result<Unprivileged> {
    if getuid().as_raw() == caller.uid
        && verify_dropped(caller).is_ok()
        && no_new_privs().is_ok_and(|set| set)
    {
        return Ok(Unprivileged(())); // done before
    }
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) if bit > 0 => break, // past the last one this kernel has
            Err(error) => return Err(error).during("drop from the bounding set capability", bit.to_string()),
        }
    }
    clear_ambient_capability_set().during("clear", "the ambient capabilities")?;
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    set_thread_groups(&as_gids(&caller.groups)).during("set", "the user's groups")?;
    set_thread_res_gid(gid, gid, gid).during("become", format!("gid {}", caller.gid))?;
    set_thread_res_uid(uid, uid, uid).during("become", format!("uid {}", caller.uid))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .during("clear", "the capability sets")?;
    set_no_new_privs(true).during("set", "no_new_privs")?;
    verify_dropped(caller)?;
    Ok(Unprivileged(()))
}

fn verify_dropped(caller: &Caller) -> Result<()> {
    let refuse = |rule| Err(Error::refused("drop", "privileges", rule));
    if set_thread_res_uid(None, Uid::ROOT, None).is_ok() || set_thread_res_gid(None, Gid::ROOT, None).is_ok()
    {
        return refuse("root could be had back");
    }
    let sets = capabilities(None).during("read", "the capability sets")?;
    if !(sets.effective | sets.permitted | sets.inheritable).is_empty() {
        return refuse("capabilities remained");
    }
    let groups = getgroups().during("read", "the supplementary groups")?;
    let same = |a: &[Gid], b: &[u32]| a.len() == b.len() && a.iter().all(|group| b.contains(&group.as_raw()));
    let ids = (getuid().as_raw(), rustix::process::getgid().as_raw());
    if ids != (caller.uid, caller.gid) || !same(&groups, &caller.groups) || fs_ids() != ids {
        return refuse("ids or groups are not the user's");
    }
    Ok(())
}
