//! C on both sides: the names Slurm looks for in a plugin, and the functions of Slurm's that a plugin calls.
//!
//! Declarations are those of `slurm/spank.h`, checked against it by tests/releases.rs. No
//! pointer is kept: what C hands over is copied before a hook returns, and what Slurm keeps is never freed.

use crate::layout::{
    ESPANK_SUCCESS, Handle, S_CTX_ALLOCATOR, S_CTX_JOB_SCRIPT, S_CTX_LOCAL, S_CTX_REMOTE, S_JOB_GID,
    S_JOB_ID, S_JOB_STEPID, S_JOB_UID, SpankOption,
};
use shifter_spank::arguments::Arguments;
use shifter_spank::options::Choice;
use shifter_spank::{Context, Job, Level, Spank};
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

#[cfg(panic = "abort")]
compile_error!(
    "built so, a panic would end Slurm's daemons: build the plugin with --release, not --profile privileged"
);

/// What a hook returns to say no.
const FAILURE: c_int = -1;
/// Longest variable of a step that is read, in bytes.
const LONGEST: usize = 128 << 10;
/// Most arguments of a line of plugstack.conf that are read.
const MOST_ARGUMENTS: usize = 256;

// SAFETY: declared as slurm/spank.h has them. Slurm's programs export them, and load plugins with them resolved.
unsafe extern "C" {
    fn spank_context() -> c_int;
    fn spank_option_register(spank: *mut Handle, option: *mut SpankOption) -> c_int;
    fn spank_option_getopt(spank: *mut Handle, option: *mut SpankOption, value: *mut *mut c_char) -> c_int;
    fn spank_get_item(spank: *mut Handle, item: c_int, ...) -> c_int;
    fn spank_getenv(spank: *mut Handle, name: *const c_char, buffer: *mut c_char, length: c_int) -> c_int;
    fn spank_setenv(spank: *mut Handle, name: *const c_char, value: *const c_char, overwrite: c_int)
    -> c_int;
    fn spank_job_control_setenv(
        spank: *mut Handle,
        name: *const c_char,
        value: *const c_char,
        overwrite: c_int,
    ) -> c_int;
    fn slurm_error(format: *const c_char, ...);
    fn slurm_info(format: *const c_char, ...);
    fn slurm_debug(format: *const c_char, ...);
}

// SAFETY: declared as unshare(2) has it.
unsafe extern "C" {
    fn unshare(flags: c_int) -> c_int;
}

/// `CLONE_NEWNS` of linux/sched.h.
const NEW_MOUNTS: c_int = 0x2_0000;

/// `plugin_name`: a part of the names of the variables that Slurm keeps options in.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub(crate) static plugin_name: [u8; 8] = *b"shifter\0";
/// `plugin_type`
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub(crate) static plugin_type: [u8; 6] = *b"spank\0";
/// `plugin_version`: the release of Slurm this is for; Slurm refuses it elsewhere.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub(crate) static plugin_version: u32 = number(env!("SHIFTER_SLURM_NUMBER"));
/// `spank_plugin_version`: ours.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub(crate) static spank_plugin_version: u32 = 1;

const fn number(digits: &str) -> u32 {
    let (mut value, mut at) = (0, 0);
    while at < digits.len() {
        value = value * 10 + (digits.as_bytes()[at] - b'0') as u32;
        at += 1;
    }
    value
}

type Words = *mut *mut c_char;

/// Runs a hook: its refusal, and any panic, becomes a line and a number.
fn guarded(hook: &str, act: impl FnOnce() -> Result<(), String>) -> c_int {
    let reason = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => return ESPANK_SUCCESS,
        Ok(Err(reason)) => reason,
        Err(_) => format!("{hook} has failed inside; please report it"),
    };
    say(Level::Error, &format!("shifter: {reason}"));
    FAILURE
}

/// The same where Slurm would drain the node for a refusal.
fn guarded_always_well(hook: &str, act: impl FnOnce()) -> c_int {
    guarded(hook, || {
        act();
        Ok(())
    });
    ESPANK_SUCCESS
}

/// `slurm_spank_init`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_init(spank: *mut Handle, count: c_int, words: Words) -> c_int {
    guarded_always_well("init", || super::init(&mut Slurm(spank), arguments(count, words)))
}

/// `slurm_spank_init_post_opt`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_init_post_opt(spank: *mut Handle, _: c_int, _: Words) -> c_int {
    guarded("init_post_opt", || super::init_post_opt(&mut Slurm(spank)))
}

/// `slurm_spank_job_prolog`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_job_prolog(spank: *mut Handle, count: c_int, words: Words) -> c_int {
    guarded_always_well("job_prolog", || {
        let arguments = arguments(count, words);
        let asked = Slurm(spank).chosen(Choice::Image, &Choice::Image.name(&arguments));
        super::job_prolog(&mut Slurm(spank), &arguments, asked.as_deref());
    })
}

/// `slurm_spank_job_epilog`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_job_epilog(spank: *mut Handle, count: c_int, words: Words) -> c_int {
    guarded_always_well("job_epilog", || {
        super::job_epilog(&mut Slurm(spank), &arguments(count, words));
    })
}

/// `slurm_spank_task_post_fork`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_task_post_fork(spank: *mut Handle, count: c_int, words: Words) -> c_int {
    guarded_always_well("task_post_fork", || {
        super::task_post_fork(&mut Slurm(spank), &arguments(count, words));
    })
}

/// `slurm_spank_task_init_privileged`
#[unsafe(no_mangle)]
pub(crate) extern "C" fn slurm_spank_task_init_privileged(
    spank: *mut Handle,
    count: c_int,
    words: Words,
) -> c_int {
    guarded("task_init_privileged", || {
        super::task_init_privileged(&mut Slurm(spank), &arguments(count, words))
    })
}

/// `spank_opt_cb_f`
extern "C" fn option_used(val: c_int, value: *const c_char, remote: c_int) -> c_int {
    guarded("an option", || {
        let choice = usize::try_from(val).ok().and_then(|at| Choice::ALL.get(at));
        let choice = choice.ok_or_else(|| format!("Slurm speaks of an option number {val}"))?;
        super::option(*choice, &text(value), remote != 0)
    })
}

/// Copies a string of C's; null is empty, and bytes that are no text are refused later as the characters they become.
fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: not null, and Slurm's strings are NUL-terminated and live while the hook runs.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

/// For C; a NUL inside ends it.
fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

fn arguments(count: c_int, words: Words) -> Arguments {
    let count = usize::try_from(count).unwrap_or(0).min(MOST_ARGUMENTS);
    let mut read = Vec::new();
    for at in 0..if words.is_null() { 0 } else { count } {
        // SAFETY: Slurm passes `count` words, so `words + at` is inside the array.
        let place = unsafe { words.add(at) };
        // SAFETY: as above; the array lives while the hook runs.
        read.push(text(unsafe { place.read() }));
    }
    Arguments::parse(read.iter().map(String::as_str))
}

fn say(level: Level, words: &str) {
    let words = c_text(words);
    match level {
        // SAFETY: the format takes one string, which is NUL-terminated and copied.
        Level::Error => unsafe { slurm_error(c"%s".as_ptr(), words.as_ptr()) },
        // SAFETY: as above.
        Level::Info => unsafe { slurm_info(c"%s".as_ptr(), words.as_ptr()) },
        // SAFETY: as above.
        Level::Debug => unsafe { slurm_debug(c"%s".as_ptr(), words.as_ptr()) },
    }
}

/// Slurm, for the length of one hook.
struct Slurm(*mut Handle);

impl Slurm {
    /// An option as C knows it; Slurm may keep it, so its strings are given away.
    fn described(choice: Choice, name: &str) -> SpankOption {
        let leak = |text: &str| c_text(text).into_raw();
        SpankOption {
            name: leak(name),
            arginfo: choice.value().map_or(ptr::null_mut(), leak),
            usage: leak(choice.help()),
            has_arg: c_int::from(choice.value().is_some()),
            val: Choice::ALL.iter().position(|known| *known == choice).map_or(-1, |at| at as c_int),
            cb: Some(option_used),
        }
    }

    /// The value of an option as the job was submitted with it.
    fn chosen(&self, choice: Choice, name: &str) -> Option<String> {
        let mut option = Self::described(choice, name);
        let mut value = ptr::null_mut();
        // SAFETY: Slurm's own handle; the option is whole, and the place for the value is valid.
        let found = unsafe { spank_option_getopt(self.0, &mut option, &mut value) };
        (found == ESPANK_SUCCESS).then(|| text(value))
    }

    fn item(&self, item: c_int) -> Option<u32> {
        let mut value: u32 = 0;
        // SAFETY: the items asked for are uid_t, gid_t and uint32_t, which have 32 bits; the place is valid.
        let found = unsafe { spank_get_item(self.0, item, &mut value as *mut u32) };
        (found == ESPANK_SUCCESS).then_some(value)
    }

    fn is_client(&self) -> bool {
        matches!(self.context(), Context::Local | Context::Allocator)
    }
}

impl Spank for Slurm {
    fn context(&self) -> Context {
        // SAFETY: takes nothing and has no preconditions.
        match unsafe { spank_context() } {
            S_CTX_LOCAL => Context::Local,
            S_CTX_REMOTE => Context::Remote,
            S_CTX_ALLOCATOR => Context::Allocator,
            S_CTX_JOB_SCRIPT => Context::JobScript,
            _ => Context::Daemon,
        }
    }

    fn job(&self) -> Option<Job> {
        let (id, uid, gid) = (self.item(S_JOB_ID)?, self.item(S_JOB_UID)?, self.item(S_JOB_GID)?);
        Some(Job { id, uid, gid, step: self.item(S_JOB_STEPID).unwrap_or(u32::MAX) })
    }

    fn register(&mut self, choice: Choice, name: &str) -> Result<(), String> {
        let option = Box::leak(Box::new(Self::described(choice, name)));
        // SAFETY: Slurm's own handle; the option is whole and stays for ever.
        match unsafe { spank_option_register(self.0, option) } {
            ESPANK_SUCCESS => Ok(()),
            code => Err(format!("Slurm says {code}")),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        if self.context() != Context::Remote {
            return std::env::var(name).ok();
        }
        let name = c_text(name);
        let mut buffer = vec![0u8; LONGEST];
        // SAFETY: Slurm's own handle; the buffer has room for as much as is said.
        let code =
            unsafe { spank_getenv(self.0, name.as_ptr(), buffer.as_mut_ptr().cast(), LONGEST as c_int) };
        let value = CStr::from_bytes_until_nul(&buffer).ok()?;
        (code == ESPANK_SUCCESS).then(|| value.to_string_lossy().into_owned())
    }

    fn set_variable(&mut self, name: &str, value: &str) {
        let (name, value) = (c_text(name), c_text(value));
        if self.is_client() {
            // SAFETY: Slurm's clients run these hooks before they start their threads, and ours read no environment.
            unsafe { std::env::set_var(as_os(&name), as_os(&value)) };
        } else {
            // SAFETY: Slurm's own handle; both strings are NUL-terminated and copied.
            unsafe { spank_setenv(self.0, name.as_ptr(), value.as_ptr(), 1) };
        }
    }

    fn set_for_prolog(&mut self, name: &str, value: &str) {
        let (name, value) = (c_text(name), c_text(value));
        // SAFETY: Slurm's own handle; both strings are NUL-terminated and copied.
        unsafe { spank_job_control_setenv(self.0, name.as_ptr(), value.as_ptr(), 1) };
    }

    fn unshare_mounts(&mut self) -> std::io::Result<()> {
        // SAFETY: takes a number; mount namespaces hold no memory and no descriptors.
        match unsafe { unshare(NEW_MOUNTS) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn say(&mut self, level: Level, text: &str) {
        say(level, text);
    }
}

fn as_os(text: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(text.to_bytes())
}
