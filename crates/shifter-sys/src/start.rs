//! The program's start without Rust's start-up code, whose work (a stack guard, dispositions, looking after closed
//! streams) is undone or done again by [`lock_down`](crate::lockdown::lock_down) and takes a fiftieth of a
//! container's start. It deliberately does nothing but hand over the words of the command line.

use std::ffi::{CStr, c_char, c_int};

/// Makes `run`, which takes the words of the command line and returns the exit code, the program's main function.
#[macro_export]
macro_rules! program {
    ($run:path) => {
        // SAFETY: the program's one symbol of that name, with the signature by which the C library calls it.
        #[unsafe(no_mangle)]
        extern "C" fn main(count: std::ffi::c_int, words: *const *const std::ffi::c_char) -> std::ffi::c_int {
            // SAFETY: both are what the C library's start-up code passed.
            $crate::start::call($run, unsafe { $crate::start::words(count, words) })
        }
    };
}

/// The words of the command line.
///
/// # Safety
/// `words` has `count` pointers to NUL-terminated strings.
pub unsafe fn words(count: c_int, words: *const *const c_char) -> Vec<Vec<u8>> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: `index` is below `count`.
    (0..count).map(|index| unsafe { CStr::from_ptr(*words.add(index)) }.to_bytes().to_vec()).collect()
}

/// For [`program!`] alone.
pub fn call(run: fn(Vec<Vec<u8>>) -> u8, words: Vec<Vec<u8>>) -> c_int {
    run(words).into()
}
