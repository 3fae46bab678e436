//! System calls that programs of a site, whatever they are, do not need for looking at files: of other processes' memory,
//! of namespaces and mounts, of the kernel itself, and ways around Landlock. Everything else is theirs, as we do not
//! know them; the opposite of `filter`, which knows its processes.
//!
//! What is refused does not exist (ENOSYS). Not refused are signals and chmod(2), which ordinary scripts use.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Refused whatever their arguments are.
const DANGERS: &[i64] = &[
    // Other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Namespaces and mounts. The flags of clone3 are in memory, where no filter sees them; C libraries go back to clone.
    libc::SYS_chroot,
    libc::SYS_clone3,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Files by handle, and any call by another way.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_open_by_handle_at,
    // The kernel and the machine.
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// New namespaces, by clone(2).
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Input put into somebody's terminal, by ioctl(2): TIOCSTI and TIOCLINUX, asm-generic/ioctls.h of Linux.
const TERMINALS: &[u64] = &[0x5412, 0x541C];

/// Installs the filter, for this thread and what it starts. A kernel without seccomp goes without.
pub(super) fn refuse() -> Result<(), String> {
    let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
    let program =
        program(processor).map_err(|error| format!("confining this process by seccomp failed: {error}"))?;
    super::filter::apply(&program)
}

fn program(processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = DANGERS.iter().map(|call| (*call, Vec::new())).collect();
    let has = |index, flag: u64| {
        let operation = SeccompCmpOp::MaskedEq(flag);
        SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operation, flag)?])
    };
    let flags = NAMESPACES.iter().map(|flag| has(0, u64::from(flag.unsigned_abs())));
    calls.insert(libc::SYS_clone, flags.collect::<Result<_, _>>()?);
    let is = |command: &u64| {
        let same = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *command)?;
        SeccompRule::new(vec![same])
    };
    calls.insert(libc::SYS_ioctl, TERMINALS.iter().map(is).collect::<Result<_, _>>()?);
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(calls, SeccompAction::Allow, no_such_call, processor)?.try_into()
}
