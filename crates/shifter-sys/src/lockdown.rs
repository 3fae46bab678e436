//! The first thing a setuid program does: turn an inherited process, which its caller shaped, into one that
//! only root can touch, and remember what must be given back.

use crate::credentials::{Caller, Unprivileged, become_root_wholly, irrevocably_drop_privileges};
use crate::descriptors::{Proc, close_those_leading_out, ensure_standard_streams};
use crate::error::{During, Error, Result};
use crate::signals;
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask,
};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// The least root works with: no limit that could stop it half-way, room for descriptors, and a stack for site
/// hooks (a limit of a few pages would let the caller choose at which command root's hook dies).
const RAISED: [(Resource, u64); 8] = {
    use Resource::{As, Cpu, Data, Fsize, Nofile, Nproc, Rttime, Stack};
    const ALL: u64 = u64::MAX; // RLIM_INFINITY
    [
        (Cpu, ALL),
        (Fsize, ALL),
        (Data, ALL),
        (As, ALL),
        (Nproc, ALL),
        (Rttime, ALL),
        (Nofile, 1024),
        (Stack, 8 << 20),
    ]
};

/// A process that its caller can no longer disturb. There is no other way to get one than [`lock_down`].
#[derive(Debug)]
pub struct LockedDown {
    caller: Caller,
    proc: Proc,
    environment: Vec<Vec<u8>>,
    working_directory: Option<Vec<u8>>,
    closed: Vec<i32>,
    signals: signals::Saved,
    limits: Vec<(Resource, Rlimit)>,
    umask: Mode,
    #[cfg(feature = "setup")]
    roots: bool,
}

/// Checks that the program is setuid root, records who called it and how, then shuts the caller out: streams,
/// descriptors, ids, signals, limits, core dumps, umask, environment.
pub fn lock_down() -> Result<LockedDown> {
    if !rustix::process::geteuid().is_root() {
        let rule = "the program is not setuid root, or lies on a file system mounted nosuid";
        return Err(Error::refused("work without", "root privileges", rule));
    }
    let caller = Caller::of_this_process()?;
    shut_out(caller.clone()).inspect_err(|_| {
        // What is said of it is said with the caller's rights.
        if irrevocably_drop_privileges(&caller).is_err() {
            std::process::abort();
        }
    })
}

/// The same for a program that root runs on behalf of `user`: only what could steer it is taken away.
#[cfg(feature = "setup")]
pub fn lock_down_for(user: Caller) -> Result<LockedDown> {
    if !rustix::process::getuid().is_root() || !rustix::process::geteuid().is_root() {
        return Err(Error::refused(
            "work without",
            "root privileges",
            "run it as root, as the batch system does",
        ));
    }
    Ok(LockedDown { roots: true, ..shut_out(user)? })
}

fn shut_out(caller: Caller) -> Result<LockedDown> {
    become_root_wholly()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("forbid", "core dumps")?;
    let signals = signals::quiet()?;
    let limits = raise_limits()?;
    ensure_standard_streams()?; // needs room for a descriptor, so only now
    let umask = umask(Mode::from_raw_mode(0o022));
    let working_directory = rustix::process::getcwd(Vec::new()).ok().map(|path| path.into_bytes());
    let proc = Proc::open()?;
    let closed = close_those_leading_out(&proc)?;
    let environment = take_environment();
    Ok(LockedDown {
        caller,
        proc,
        environment,
        working_directory,
        closed,
        signals,
        limits,
        umask,
        #[cfg(feature = "setup")]
        roots: false,
    })
}

impl LockedDown {
    /// Who called.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether root, and not the user, runs this program.
    #[cfg(feature = "setup")]
    pub(crate) fn is_roots(&self) -> bool {
        self.roots
    }

    /// Does something whose helpers run as the user, as they do in the setuid program: what they say is the user's word.
    #[cfg(feature = "setup")]
    pub fn with_helpers_of_the_user<T>(&mut self, action: impl FnOnce(&Self) -> T) -> T {
        self.roots = false;
        let result = action(self);
        self.roots = true;
        result
    }

    /// Goes on for this user, of whom more is known now; for programs that root runs.
    #[cfg(feature = "setup")]
    pub fn act_for(&mut self, user: Caller) {
        self.caller = user;
    }

    /// The verified `/proc`.
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// `NAME=VALUE` as the caller passed them.
    pub fn environment(&self) -> &[Vec<u8>] {
        &self.environment
    }

    /// Where the caller stood; `None` if that directory is gone or out of sight.
    pub fn working_directory(&self) -> Option<&[u8]> {
        self.working_directory.as_deref().filter(|path| path.starts_with(b"/"))
    }

    /// Numbers of inherited descriptors that were closed.
    pub fn closed_descriptors(&self) -> &[i32] {
        &self.closed
    }

    /// Gives signals, limits and umask back, last before the user's program.
    pub fn give_back(&self, _proof: &Unprivileged) -> Result<()> {
        for (resource, limit) in &self.limits {
            // Each was raised or kept, so this only lowers, which needs no privilege.
            setrlimit(*resource, *limit).during("give back", "resource limits")?;
        }
        umask(self.umask);
        signals::restore(&self.signals)
    }
}

fn raise_limits() -> Result<Vec<(Resource, Rlimit)>> {
    let mut saved = Vec::with_capacity(RAISED.len() + 1);
    for (resource, least) in RAISED {
        let before = getrlimit(resource);
        let at_least = |limit: Option<u64>| limit.map(|limit| limit.max(least));
        let enough = Rlimit { current: at_least(before.current), maximum: at_least(before.maximum) };
        if enough != before {
            saved.push((resource, before));
            raise(resource, enough, before)?;
        }
    }
    let core = getrlimit(Resource::Core);
    saved.push((Resource::Core, core));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: core.maximum })
        .during("forbid", "core dumps")?;
    Ok(saved)
}

/// Raises a limit, or, where root itself lacks CAP_SYS_RESOURCE (some sandboxes), as far as it goes.
fn raise(resource: Resource, wanted: Rlimit, before: Rlimit) -> Result<()> {
    setrlimit(resource, wanted)
        .or_else(|_| setrlimit(resource, Rlimit { current: before.maximum, maximum: before.maximum }))
        .during("raise", "resource limits")
}

/// Takes the environment and leaves an empty one, so that no library call can be steered by it.
fn take_environment() -> Vec<Vec<u8>> {
    let joined = |(name, value): (OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let taken = std::env::vars_os().map(joined).collect();
    // SAFETY: there is one thread, and no pointer into the environment is held.
    unsafe { libc::clearenv() };
    taken
}
