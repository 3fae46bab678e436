//! What `slurm/spank.h` lays down in numbers and fields, as far as it is used; the functions are declared in `ffi.rs`.
//! It calls nothing and is the same in every release: tests/releases.rs compares it with all that were read
//! (`dist/slurm/spank-releases.txt`).

use std::ffi::{c_char, c_int};

/// `spank_t` points to one; only Slurm knows what it is.
#[repr(C)]
pub(crate) struct Handle {
    _private: [u8; 0],
}

/// `spank_opt_cb_f`: the option's `val`, its value, and whether this is a node.
pub(crate) type Callback = extern "C" fn(c_int, *const c_char, c_int) -> c_int;

/// `struct spank_option`
#[repr(C)]
pub(crate) struct SpankOption {
    pub(crate) name: *mut c_char,
    pub(crate) arginfo: *mut c_char,
    pub(crate) usage: *mut c_char,
    pub(crate) has_arg: c_int,
    pub(crate) val: c_int,
    pub(crate) cb: Option<Callback>,
}

/// What a function says that did what it was asked.
pub(crate) const ESPANK_SUCCESS: c_int = 0;
/// `enum spank_item`, the items asked for.
pub(crate) const S_JOB_UID: c_int = 0;
pub(crate) const S_JOB_GID: c_int = 1;
pub(crate) const S_JOB_ID: c_int = 2;
pub(crate) const S_JOB_STEPID: c_int = 3;
/// `enum spank_context`, the contexts told apart.
pub(crate) const S_CTX_LOCAL: c_int = 1;
pub(crate) const S_CTX_REMOTE: c_int = 2;
pub(crate) const S_CTX_ALLOCATOR: c_int = 3;
pub(crate) const S_CTX_JOB_SCRIPT: c_int = 5;
