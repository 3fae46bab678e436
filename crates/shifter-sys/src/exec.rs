//! Running the user's program in place of this one: only ever as the user, only ever with an environment that
//! was built for it.

use crate::credentials::Unprivileged;
use crate::error::{During, Error, Result};
use rustix::fd::{IntoRawFd, OwnedFd};
use std::ffi::{CString, c_char};
use std::io;

/// Replaces this process by `argv`, found through `search_path` unless it has a slash in it, as execvp(3)
/// does. Returns only on failure.
pub fn exec(
    _proof: &Unprivileged,
    argv: &[Vec<u8>],
    environment: &[Vec<u8>],
    search_path: &[u8],
) -> io::Error {
    let (Some(argv), Some(environment)) = (c_strings(argv), c_strings(environment)) else {
        return io::Error::new(io::ErrorKind::InvalidInput, "a word or variable has a NUL byte in it");
    };
    let Some(program) = argv.first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "there is no command to run");
    };
    let name = program.as_bytes();
    if name.is_empty() {
        return io::Error::from_raw_os_error(libc::ENOENT);
    }
    if name.contains(&b'/') {
        return try_exec(program, &argv, &environment);
    }
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for directory in search_path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let Ok(candidate) = CString::new([directory, b"/", name].concat()) else { continue };
        let error = try_exec(&candidate, &argv, &environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => worst = error, // perhaps a later directory has one we may run
            _ => return error,
        }
    }
    worst
}

/// What execve(2) was asked to start: this program, or a script that names it as its interpreter.
pub fn started_as() -> &'static [u8] {
    rustix::param::linux_execfn().to_bytes()
}

/// Leaves an open file to the user's program.
pub fn leave_open(_proof: &Unprivileged, file: OwnedFd) -> Result<()> {
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).during("leave open", "the script")?;
    let _not_closed = file.into_raw_fd();
    Ok(())
}

/// Changes to a directory with the user's rights and makes sure that it lies in the container: a directory
/// reached through a leaked handle shows as unreachable (CVE-2024-21626).
pub fn enter_directory(_proof: &Unprivileged, path: &[u8]) -> Result<()> {
    let shown = String::from_utf8_lossy(path);
    rustix::process::chdir(path).during("enter", &*shown)?;
    let reached = rustix::process::getcwd(Vec::new()).during("find", &*shown)?;
    if reached.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    rustix::process::chdir("/").during("enter", "/")?;
    Err(Error::refused("enter", shown, "it lies outside the container"))
}

/// execve(2); a script without `#!` is run by the shell, as POSIX asks of the exec family.
fn try_exec(program: &CString, argv: &[CString], environment: &[CString]) -> io::Error {
    let error = execve(program, argv, environment);
    if error.raw_os_error() != Some(libc::ENOEXEC) {
        return error;
    }
    let shell = c"/bin/sh".to_owned();
    let mut words = vec![shell.clone(), program.clone()];
    words.extend(argv.iter().skip(1).cloned());
    execve(&shell, &words, environment)
}

pub(crate) fn execve(program: &CString, argv: &[CString], environment: &[CString]) -> io::Error {
    let (argv, environment) = (pointers(argv), pointers(environment));
    // SAFETY: `program` is NUL-terminated, both lists end in a null pointer and point into strings that live
    // through the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn c_strings(list: &[Vec<u8>]) -> Option<Vec<CString>> {
    list.iter().map(|item| CString::new(item.as_slice()).ok()).collect()
}

fn pointers(list: &[CString]) -> Vec<*const c_char> {
    list.iter().map(|item| item.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}
