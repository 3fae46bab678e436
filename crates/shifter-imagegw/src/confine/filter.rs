//! The system calls that a confined process has: file work, memory, threads and time. All others do not exist for it:
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
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
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
    libc::SYS_openat,
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
    libc::SYS_tgkill,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The same under the names that only older processors have.
#[cfg(target_arch = "x86_64")]
const OLD_NAMES: &[i64] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_NAMES: &[i64] = &[];

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
#[cfg(target_arch = "x86_64")]
const OLD_PROGRAMS: &[i64] =
    &[libc::SYS_arch_prctl, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const OLD_PROGRAMS: &[i64] = &[];

/// Installs the filter, for this thread and what it starts; `programs` says whether some are to be run. A kernel without
/// seccomp goes without.
pub(super) fn install(programs: bool) -> Result<(), String> {
    let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    let said = |error: &dyn std::fmt::Display| format!("confining this process by seccomp failed: {error}");
    let program = program(programs, processor).map_err(|error| said(&error))?;
    match seccompiler::apply_filter(&program) {
        Err(Error::Seccomp(error)) if is_missing(&error) => Ok(()),
        result => result.map_err(|error| said(&error)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    [libc::ENOSYS, libc::EINVAL].map(Some).contains(&error.raw_os_error())
}

fn program(programs: bool, processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut allow = |list: &[i64]| calls.extend(list.iter().map(|call| (*call, Vec::new())));
    allow(FILE_WORK);
    allow(OLD_NAMES);
    if programs {
        allow(PROGRAMS);
        allow(OLD_PROGRAMS);
    }
    let first_is = |operation, value| {
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, operation, value)?;
        SeccompRule::new(vec![condition])
    };
    // Of others' limits, the gateway's own are within reach of its account.
    calls.insert(libc::SYS_prlimit64, vec![first_is(SeccompCmpOp::Eq, 0)?]);
    calls.insert(libc::SYS_prctl, vec![first_is(SeccompCmpOp::Eq, number(libc::PR_SET_NAME))?]);
    if !programs {
        // Threads, not processes. clone3 has its flags in memory, where no filter sees them.
        let thread = number(libc::CLONE_THREAD);
        calls.insert(libc::SYS_clone, vec![first_is(SeccompCmpOp::MaskedEq(thread), thread)?]);
    }
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(calls, no_such_call, SeccompAction::Allow, processor)?.try_into()
}

fn number(flag: libc::c_int) -> u64 {
    u64::from(flag.unsigned_abs())
}
