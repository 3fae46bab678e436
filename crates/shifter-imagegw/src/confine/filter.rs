//! The system calls that a confined process has: file work, memory, threads and time. None of them
//! changes mode or owner of a file by its name, which Landlock does not keep back. All others do not exist for it:
//! ENOSYS, so that a C library that tries a newer call first falls back to the one it had before.
//!
//! Knows nothing of which files; that is Landlock's part. Numbers come from the libc crate, so the list is checked by the
//! compiler on each processor; on those the compiler of filters does not know, there is none.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Files by descriptor or path, memory, threads, signals to oneself, time.
const FILE_WORK: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    // Not named for this processor, for which there is no filter anyway.
    #[cfg(not(target_arch = "powerpc64"))]
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Commands of fcntl(2) by which a descriptor sends signals; fcntl.h of Linux, not in the libc crate for every C library.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;

/// The same calls, and those of programs, under the names that only older processors have.
struct Old {
    names: &'static [i64],
    /// Flags are its second argument.
    open: &'static [i64],
    programs: &'static [i64],
}

#[cfg(target_arch = "x86_64")]
const OLD: Old = Old {
    names: &[
        libc::SYS_access,
        libc::SYS_dup2,
        libc::SYS_lstat,
        libc::SYS_mkdir,
        libc::SYS_readlink,
        libc::SYS_stat,
        libc::SYS_symlink,
        libc::SYS_time,
        libc::SYS_unlink,
    ],
    open: &[libc::SYS_open],
    programs: &[libc::SYS_arch_prctl, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_vfork],
};
#[cfg(not(target_arch = "x86_64"))]
const OLD: Old = Old { names: &[], open: &[], programs: &[] };

/// What starting, feeding and ending a program takes, and what the programs themselves need besides.
const PROGRAMS: &[i64] = &[
    libc::SYS_chdir,
    libc::SYS_clone,
    libc::SYS_execve,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_kill,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_set_tid_address,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// What some children may do beyond file work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beyond {
    /// Run programs.
    pub(super) programs: bool,
    /// Set mode and times of files that are open.
    pub(super) attributes: bool,
    /// Set times by name, of what is no symlink's target.
    pub(super) times: bool,
    /// Receive open files over a socket that it has; it cannot make one.
    pub(super) files: bool,
}

/// Installs the filter, for this thread and what it starts. A kernel without seccomp goes without.
pub(super) fn install(beyond: Beyond) -> Result<(), String> {
    let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    let said = |error: &dyn std::fmt::Display| format!("confining this process by seccomp failed: {error}");
    let program = program(beyond, processor).map_err(|error| said(&error))?;
    apply(&program)
}

/// Installs a filter, where the kernel has seccomp.
pub(super) fn apply(program: &BpfProgram) -> Result<(), String> {
    match seccompiler::apply_filter(program) {
        Err(Error::Seccomp(error)) if is_missing(&error) => Ok(()),
        result => result.map_err(|error| format!("confining this process by seccomp failed: {error}")),
    }
}

fn is_missing(error: &io::Error) -> bool {
    [libc::ENOSYS, libc::EINVAL].map(Some).contains(&error.raw_os_error())
}

fn program(beyond: Beyond, processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut allow = |list: &[i64]| calls.extend(list.iter().map(|call| (*call, Vec::new())));
    allow(FILE_WORK);
    allow(OLD.names);
    if beyond.programs {
        allow(PROGRAMS);
        allow(OLD.programs);
    }
    if beyond.files {
        allow(&[libc::SYS_recvmsg]);
    }
    if beyond.attributes {
        allow(&[libc::SYS_fchmod]);
        // Without a name, it is the open file's times.
        let no_name = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        let mut allowed = vec![SeccompRule::new(vec![no_name])?];
        if beyond.times {
            let itself = argument(3, SeccompCmpOp::Eq, number(libc::AT_SYMLINK_NOFOLLOW))?;
            allowed.push(SeccompRule::new(vec![itself])?);
        }
        calls.insert(libc::SYS_utimensat, allowed);
    }
    let first_is = |operation, value| SeccompRule::new(vec![argument(0, operation, value)?]);
    // Landlock before Linux 6.12 keeps no signals back. Programs have process ids that are not known here.
    let ourselves = u64::from(std::process::id());
    let signals = if beyond.programs { Vec::new() } else { vec![first_is(SeccompCmpOp::Eq, ourselves)?] };
    calls.insert(libc::SYS_tgkill, signals);
    let has_signals_sent = [libc::F_SETOWN, F_SETSIG, F_SETOWN_EX];
    let others = has_signals_sent.map(|command| argument(1, SeccompCmpOp::Ne, number(command)));
    let others = others.into_iter().collect::<Result<Vec<_>, _>>()?;
    calls.insert(libc::SYS_fcntl, vec![SeccompRule::new(others)?]);
    calls.insert(libc::SYS_openat, opening(2)?);
    for call in OLD.open {
        calls.insert(*call, opening(1)?);
    }
    // Of others' limits, the gateway's own are within reach of its account.
    calls.insert(libc::SYS_prlimit64, vec![first_is(SeccompCmpOp::Eq, 0)?]);
    calls.insert(libc::SYS_prctl, vec![first_is(SeccompCmpOp::Eq, number(libc::PR_SET_NAME))?]);
    if !beyond.programs {
        // Threads, not processes. clone3 has its flags in memory, where no filter sees them.
        let thread = number(libc::CLONE_THREAD);
        calls.insert(libc::SYS_clone, vec![first_is(SeccompCmpOp::MaskedEq(thread), thread)?]);
    }
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(calls, no_such_call, SeccompAction::Allow, processor)?.try_into()
}

/// Files are cut off only as they are opened for writing: Landlock before Linux 6.2 lets who may read do it.
fn opening(flags: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let has = |mask, value| {
        let operation = SeccompCmpOp::MaskedEq(number(mask));
        SeccompRule::new(vec![argument(flags, operation, number(value))?])
    };
    let access = libc::O_ACCMODE;
    Ok(vec![has(libc::O_TRUNC, 0)?, has(access, libc::O_WRONLY)?, has(access, libc::O_RDWR)?])
}

fn argument(
    index: u8,
    operation: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operation, value)
}

fn number(flag: libc::c_int) -> u64 {
    u64::from(flag.unsigned_abs())
}
