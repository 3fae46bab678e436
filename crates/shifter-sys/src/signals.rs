//! Signals: held back while root works, so that none ends or stops set-up half-way, and let through again before the
//! user's program runs. That meets what came meanwhile, as it would have met it after a plain exec, and the caller's
//! dispositions, mask and timers.

use crate::error::{During, Result};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the caller had set for SIGPIPE. Rust's start-up ignores it before `main`, so it is read earlier.
static OF_PIPE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// The caller's mask, read with it: musl unblocks 33 and 34, which it keeps for itself, when Rust's start-up sets its
/// first handler.
static MASK: AtomicU64 = AtomicU64::new(0);

extern "C" fn record_before_main() {
    if let (Ok(of_pipe), Ok(blocked)) = (disposition(libc::SIGPIPE, None), mask(None)) {
        OF_PIPE.store(of_pipe, Ordering::Relaxed);
        MASK.store(blocked, Ordering::Relaxed);
    }
}

// SAFETY: the loader calls functions of this section once, before Rust's start-up code, with no arguments
// that the function reads; it only makes two system calls and stores to atomics.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_BEFORE_MAIN: extern "C" fn() = record_before_main;

/// What the caller had set.
#[derive(Debug)]
pub struct Saved {
    of_child: libc::sighandler_t,
}

/// Holds every signal back that can be, and lets children be waited for, which an ignored SIGCHLD would prevent.
pub fn quiet() -> Result<Saved> {
    mask(Some(&!0))?;
    Ok(Saved { of_child: disposition(libc::SIGCHLD, Some(libc::SIG_DFL))? })
}

/// Sets what a program expects at its start; for hooks, which get nothing of the caller's.
pub(crate) fn reset() -> Result<()> {
    for signal in 1..=64 {
        let _some_belong_to_the_kernel_or_the_c_library = disposition(signal, Some(libc::SIG_DFL));
    }
    mask(Some(&0)).map(drop)
}

/// Gives the caller's settings back.
pub fn restore(saved: &Saved) -> Result<()> {
    disposition(libc::SIGCHLD, Some(saved.of_child))?;
    disposition(libc::SIGPIPE, Some(OF_PIPE.load(Ordering::Relaxed)))?;
    mask(Some(&MASK.load(Ordering::Relaxed))).map(drop)
}

/// Sets `SIG_IGN` or `SIG_DFL`, if asked to, and returns what was set, which after an exec is one of the two.
fn disposition(signal: libc::c_int, new: Option<libc::sighandler_t>) -> Result<libc::sighandler_t> {
    // SAFETY: sigaction is plain old data; all zeros is an empty mask, no flags and SIG_DFL.
    let mut old: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let new = new.map(|handler| libc::sigaction { sa_sigaction: handler, ..old });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null, which only reads, or a whole sigaction whose handler is no address of code but
    // SIG_IGN or SIG_DFL; `old` is a writable sigaction.
    let code = unsafe { libc::sigaction(signal, new, &mut old) };
    checked(code.into(), "exchange the disposition of", signal)?;
    Ok(old.sa_sigaction)
}

/// Sets the signal mask, a bit for each signal, if asked to, and returns what it was. Directly, because the C libraries
/// keep some signals to themselves.
fn mask(new: Option<&u64>) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: what is set is null, which only reads, or like `old` points to a live set of the size that is passed, the
    // kernel's (rt_sigprocmask(2)).
    let code = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            new.map_or(std::ptr::null(), std::ptr::from_ref),
            &mut old as *mut u64,
            size_of::<u64>(),
        )
    };
    checked(code, "set the signal mask of", 0)?;
    Ok(old)
}

fn checked(code: libc::c_long, operation: &'static str, number: libc::c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).during(operation, number.to_string())
    }
}
