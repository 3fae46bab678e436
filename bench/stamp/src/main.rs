//! Two ends of a measurement inside one process. With words, it notes the time in its environment and executes them;
//! where that note is found, it prints the nanoseconds since. Where `SHIFTER_BENCH_TURN` names a file, it first waits
//! for its lock, which it has until the end: many of them measure one after the other. Static and without Rust's start-up code, so that what
//! lies between is what was executed.
#![no_main]

use libc::{CLOCK_MONOTONIC, c_char, c_int, timespec};
use std::ffi::CStr;

const NOTE: &CStr = c"SHIFTER_BENCH_STAMP";
/// The file whose lock is the right to measure.
const TURN: &CStr = c"SHIFTER_BENCH_TURN";
/// The descriptor of that file, across exec.
const TURN_AT: c_int = 63;
/// For what printf is given: a 64-bit number.
const DECIMAL: &CStr = c"%lld";

/// Waits for this process's turn, which ends with it; false if that cannot be had.
fn take_turn() -> bool {
    // SAFETY: the name is NUL-terminated, and nothing changes the environment meanwhile.
    let path = unsafe { libc::getenv(TURN.as_ptr()) };
    if path.is_null() {
        return true;
    }
    // SAFETY: not null, and a variable's value is NUL-terminated.
    let file = unsafe { libc::open(path, libc::O_RDWR) };
    // SAFETY: takes numbers only; a bad descriptor is refused.
    if unsafe { libc::dup2(file, TURN_AT) } < 0 {
        return false;
    }
    // SAFETY: as above. The second one is shared with nobody, and closing the first one leaves it open.
    unsafe { libc::close(file) };
    // SAFETY: as above.
    unsafe { libc::flock(TURN_AT, libc::LOCK_EX) == 0 }
}

/// Whether it is still this process's turn, if it had to wait for one.
fn has_turn() -> bool {
    // SAFETY: the name is NUL-terminated, and nothing changes the environment meanwhile.
    let waited = unsafe { !libc::getenv(TURN.as_ptr()).is_null() };
    // SAFETY: takes numbers only; a bad descriptor is refused.
    !waited || unsafe { libc::fcntl(TURN_AT, libc::F_GETFD) >= 0 }
}

/// Nanoseconds since some time that all processes share.
fn time() -> i64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid.
    unsafe { libc::clock_gettime(CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Called by the C library's start-up code.
///
/// # Safety
/// `words` has `count` pointers to NUL-terminated strings, and a null pointer behind them.
// SAFETY: the program's one symbol of that name, with the signature the C library calls it by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let mut now = time();
    // SAFETY: the name is NUL-terminated, and nothing changes the environment meanwhile.
    let note = unsafe { libc::getenv(NOTE.as_ptr()) };
    if !note.is_null() {
        // SAFETY: not null, and a variable's value is NUL-terminated.
        let then = unsafe { libc::atoll(note) };
        if !has_turn() {
            return 1;
        }
        // SAFETY: the format takes one 64-bit number.
        return c_int::from(unsafe { libc::printf(c"%lld\n".as_ptr(), now - then) } < 0);
    }
    if count < 2 {
        return 0;
    }
    if !take_turn() {
        return 1;
    }
    now = time();
    let mut text = [0 as c_char; 32];
    // SAFETY: the buffer has room for its own length; the format takes one 64-bit number.
    unsafe { libc::snprintf(text.as_mut_ptr(), text.len(), DECIMAL.as_ptr(), now) };
    // SAFETY: both are NUL-terminated, and there is one thread.
    unsafe { libc::setenv(NOTE.as_ptr(), text.as_ptr(), 1) };
    // SAFETY: `words` has at least two pointers.
    let rest = unsafe { words.add(1) };
    // SAFETY: as above.
    let program = unsafe { rest.read() };
    // SAFETY: `rest` ends with a null pointer; execv(3) returns only if it failed.
    unsafe { libc::execv(program, rest) };
    127
}
