//! Signal dispositions, mask and timers: what the caller set is recorded, quieted while root works, and
//! given back before the user's program runs, which must see what a plain exec would have shown it.

use crate::error::{During, Result};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

/// Terminal and supervisor signals that must not end or stop set-up half-way.
const QUIETED: [libc::c_int; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Whether the caller ignored SIGPIPE. Rust's start-up ignores it before `main`, so it is read earlier.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn record_sigpipe() {
    if let Ok(old) = disposition(libc::SIGPIPE) {
        SIGPIPE_WAS_IGNORED.store(old == libc::SIG_IGN, Ordering::Relaxed);
    }
}

// SAFETY: the loader calls functions of this section once, before Rust's start-up code, with no arguments
// that the function reads; it only makes one system call and stores to an atomic.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD_BEFORE_MAIN: extern "C" fn() = record_sigpipe;

/// What the caller had set.
#[derive(Debug)]
pub struct Saved {
    dispositions: Vec<(libc::c_int, libc::sighandler_t)>,
    mask: libc::sigset_t,
    timers: [libc::itimerval; 3],
}

/// Ignores [`QUIETED`], empties the mask, resets SIGCHLD and stops interval timers.
pub fn quiet() -> Result<Saved> {
    let mut dispositions = Vec::with_capacity(QUIETED.len() + 2);
    for signal in QUIETED {
        dispositions.push((signal, set_disposition(signal, libc::SIG_IGN)?));
    }
    dispositions.push((libc::SIGCHLD, set_disposition(libc::SIGCHLD, libc::SIG_DFL)?));
    let pipe = if SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) { libc::SIG_IGN } else { libc::SIG_DFL };
    dispositions.push((libc::SIGPIPE, pipe));
    let mask = swap_mask(&empty_set())?;
    // SAFETY: itimerval is plain old data, for which all zeros is the value that disarms a timer.
    let stopped: libc::itimerval = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut timers = [stopped; 3];
    for (which, slot) in (0..).zip(timers.iter_mut()) {
        *slot = swap_timer(which, &stopped)?;
    }
    Ok(Saved { dispositions, mask, timers })
}

/// Sets what a program expects at its start; for hooks, which get nothing of the caller's.
pub(crate) fn reset() {
    for signal in 1..=64 {
        let _some_belong_to_the_kernel_or_the_c_library = set_disposition(signal, libc::SIG_DFL);
    }
}

/// Gives the caller's settings back.
pub fn restore(saved: &Saved) -> Result<()> {
    for (signal, handler) in &saved.dispositions {
        set_disposition(*signal, *handler)?;
    }
    for (which, timer) in (0..).zip(saved.timers.iter()) {
        swap_timer(which, timer)?;
    }
    swap_mask(&saved.mask).map(drop)
}

fn disposition(signal: libc::c_int) -> Result<libc::sighandler_t> {
    exchange(signal, None)
}

/// Sets `SIG_IGN` or `SIG_DFL` and returns what was set, which after an exec is one of the two.
fn set_disposition(signal: libc::c_int, handler: libc::sighandler_t) -> Result<libc::sighandler_t> {
    // SAFETY: sigaction is plain old data; all zeros is an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    exchange(signal, Some(&action))
}

fn exchange(signal: libc::c_int, new: Option<&libc::sigaction>) -> Result<libc::sighandler_t> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null, which only reads, or a whole sigaction whose handler is no address of code but
    // SIG_IGN or SIG_DFL; `old` is a writable sigaction.
    let code = unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) };
    checked(code, "exchange the disposition of", signal)?;
    // SAFETY: zeroed memory is a valid sigaction, and the kernel has filled it in.
    Ok(unsafe { old.assume_init() }.sa_sigaction)
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain old data, and all zeros is the empty set on every Linux C library.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn swap_mask(new: &libc::sigset_t) -> Result<libc::sigset_t> {
    let mut old = empty_set();
    // SAFETY: both pointers are to whole, live sigset_t values.
    let code = unsafe { libc::sigprocmask(libc::SIG_SETMASK, new, &mut old) };
    checked(code, "set the signal mask of", 0)?;
    Ok(old)
}

fn swap_timer(which: libc::c_int, new: &libc::itimerval) -> Result<libc::itimerval> {
    let mut old = *new;
    // SAFETY: `which` is 0, 1 or 2 (ITIMER_REAL, VIRTUAL, PROF); both pointers are to whole itimervals. The
    // call is made directly because the C libraries disagree on the type of `which`.
    let code = unsafe { libc::syscall(libc::SYS_setitimer, which, new as *const _, &mut old as *mut _) };
    checked(code as libc::c_int, "set interval timer", which)?;
    Ok(old)
}

fn checked(code: libc::c_int, operation: &'static str, number: libc::c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).during(operation, number.to_string())
    }
}
