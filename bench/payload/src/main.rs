//! The program that every row of the start benchmark runs: it ends at once. Static and without Rust's start-up
//! code, so that it costs as little as a program can.
//!
//! With an argument it is the benchmark's own instrument: a path is copied to standard output, `-` waits for the
//! end of standard input, to keep a container alive.
#![no_main]

use libc::{O_RDONLY, c_char, c_int, c_void};

/// Called by the C library's start-up code.
///
/// # Safety
/// `words` has `count` pointers to NUL-terminated strings.
// SAFETY: the program's one symbol of that name, with the signature the C library calls it by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    if count < 2 {
        return 0;
    }
    // SAFETY: `words` has `count` pointers to NUL-terminated strings.
    let path = unsafe { *words.add(1) };
    // SAFETY: as above; a string has at least its NUL.
    let from = match unsafe { *path } as u8 {
        b'-' => 0,
        // SAFETY: `path` is NUL-terminated.
        _ => unsafe { libc::open(path, O_RDONLY) },
    };
    let mut buffer = [0u8; 16384];
    loop {
        // SAFETY: the buffer has room for its own length.
        let length = unsafe { libc::read(from, buffer.as_mut_ptr().cast::<c_void>(), buffer.len()) };
        if length <= 0 {
            return c_int::from(length < 0);
        }
        // SAFETY: the first `length` bytes were just read.
        if unsafe { libc::write(1, buffer.as_ptr().cast::<c_void>(), length as usize) } != length {
            return 1;
        }
    }
}
