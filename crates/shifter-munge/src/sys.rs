//! The C side: libmunge's seven symbols, and libc's `free` for the buffers libmunge hands out.
//!
//! This is the crate's only unsafe code. The library is opened at run time, so building needs no development
//! package and a program that never mints a credential never loads it. Signatures and numbers are those of
//! `munge.h` (interface version 2, unchanged since MUNGE 0.5.1). What leaves this file is owned Rust data;
//! deciding what a status means is left to the rest of the crate.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use libloading::Library;

/// `MUNGE_OPT_SOCKET`: path of the daemon's socket (string).
const OPT_SOCKET: c_int = 8;
/// `MUNGE_OPT_UID_RESTRICTION`: the only user (besides root) who may open the credential (`uid_t`).
const OPT_UID_RESTRICTION: c_int = 9;
/// `EMUNGE_SUCCESS`.
pub(crate) const SUCCESS: c_int = 0;
/// `EMUNGE_NO_MEMORY`, also used where `munge_ctx_create` returns null.
pub(crate) const NO_MEMORY: c_int = 5;

/// `struct munge_ctx`, opaque.
#[repr(C)]
struct RawContext {
    _opaque: [u8; 0],
}

/// `munge_ctx_set` is variadic in C. It must be called as such: aarch64 (Darwin) and ppc64le pass variadic
/// arguments differently from named ones.
type CtxSet = unsafe extern "C" fn(*mut RawContext, c_int, ...) -> c_int;
type CtxCreate = unsafe extern "C" fn() -> *mut RawContext;
type CtxDestroy = unsafe extern "C" fn(*mut RawContext);
type CtxStrerror = unsafe extern "C" fn(*mut RawContext) -> *const c_char;
type Encode = unsafe extern "C" fn(*mut *mut c_char, *mut RawContext, *const c_void, c_int) -> c_int;
/// `uid_t` and `gid_t` are 32-bit unsigned on every Linux architecture.
type Decode = unsafe extern "C" fn(
    *const c_char,
    *mut RawContext,
    *mut *mut c_void,
    *mut c_int,
    *mut u32,
    *mut u32,
) -> c_int;
type Strerror = unsafe extern "C" fn(c_int) -> *const c_char;

unsafe extern "C" {
    fn free(pointer: *mut c_void);
}

/// The opened library. The function pointers stay valid because `_library` lives as long as they do.
pub(crate) struct Api {
    ctx_create: CtxCreate,
    ctx_destroy: CtxDestroy,
    ctx_set: CtxSet,
    ctx_strerror: CtxStrerror,
    encode: Encode,
    decode: Decode,
    strerror: Strerror,
    _library: Library,
}

/// What one call of `munge_encode` said.
pub(crate) struct Encoded {
    pub(crate) status: c_int,
    /// libmunge's words for a failed status; empty on success.
    pub(crate) message: String,
    /// The credential without its final NUL; `None` unless the status is success.
    pub(crate) credential: Option<Vec<u8>>,
}

/// What one call of `munge_decode` said.
pub(crate) struct Decoded {
    pub(crate) status: c_int,
    /// libmunge's words for a failed status; empty on success.
    pub(crate) message: String,
    /// Meaningful on success and where `munge.h` promises contents: expired, rewound and replayed credentials.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) payload: Vec<u8>,
}

/// A `munge_ctx_t`, destroyed when dropped.
struct Context<'api> {
    api: &'api Api,
    raw: *mut RawContext,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` came from munge_ctx_create, is not null, and is destroyed only here.
        unsafe { (self.api.ctx_destroy)(self.raw) }
    }
}

/// A buffer that libmunge allocated with malloc, freed when dropped; may be null.
struct Buffer(*mut c_void);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: null, or allocated by malloc inside libmunge and handed over to us (munge(3)); freed once.
        unsafe { free(self.0) }
    }
}

impl Api {
    /// Opens the library and resolves every symbol; the error names what is missing.
    pub(crate) fn open(library: &str) -> Result<Api, libloading::Error> {
        // SAFETY: running libmunge's initializers is what using libmunge means; it has none with preconditions.
        let opened = unsafe { Library::new(library) }?;
        Ok(Api {
            // SAFETY: the type is munge.h's prototype of this symbol.
            ctx_create: *unsafe { opened.get::<CtxCreate>(c"munge_ctx_create") }?,
            // SAFETY: as above.
            ctx_destroy: *unsafe { opened.get::<CtxDestroy>(c"munge_ctx_destroy") }?,
            // SAFETY: as above, variadic in both.
            ctx_set: *unsafe { opened.get::<CtxSet>(c"munge_ctx_set") }?,
            // SAFETY: as above.
            ctx_strerror: *unsafe { opened.get::<CtxStrerror>(c"munge_ctx_strerror") }?,
            // SAFETY: as above.
            encode: *unsafe { opened.get::<Encode>(c"munge_encode") }?,
            // SAFETY: as above; uid_t and gid_t are u32 on Linux.
            decode: *unsafe { opened.get::<Decode>(c"munge_decode") }?,
            // SAFETY: as above.
            strerror: *unsafe { opened.get::<Strerror>(c"munge_strerror") }?,
            _library: opened,
        })
    }

    /// Asks the daemon behind `socket` (the library's default where `None`) to wrap `payload`, for everybody or
    /// for one user to open.
    pub(crate) fn encode(&self, socket: Option<&CStr>, reader: Option<u32>, payload: &[u8]) -> Encoded {
        let failed = |status, message| Encoded { status, message, credential: None };
        let context = match self.context(socket) {
            Ok(context) => context,
            Err((status, message)) => return failed(status, message),
        };
        if let Some(uid) = reader {
            // SAFETY: the context is live; MUNGE_OPT_UID_RESTRICTION takes one `uid_t`, 32 bits, unpromoted.
            let status = unsafe { (self.ctx_set)(context.raw, OPT_UID_RESTRICTION, uid) };
            if status != SUCCESS {
                return failed(status, self.explain(Some(&context), status));
            }
        }
        // The public functions cap the length at 1 MiB, so this never saturates.
        let length = c_int::try_from(payload.len()).unwrap_or(c_int::MAX);
        let mut credential: *mut c_char = ptr::null_mut();
        // SAFETY: `credential` is a valid out pointer, the context is live, and `payload` holds `length` bytes.
        let status = unsafe { (self.encode)(&mut credential, context.raw, payload.as_ptr().cast(), length) };
        let credential = Buffer(credential.cast());
        if status != SUCCESS || credential.0.is_null() {
            return failed(status, self.explain(Some(&context), status));
        }
        // SAFETY: on success munge_encode stores a NUL-terminated string, alive until `credential` is dropped.
        let text = unsafe { CStr::from_ptr(credential.0.cast()) };
        Encoded { status, message: String::new(), credential: Some(text.to_bytes().to_vec()) }
    }

    /// Asks the daemon behind `socket` (the library's default where `None`) to open `credential`.
    pub(crate) fn decode(&self, socket: Option<&CStr>, credential: &CStr) -> Decoded {
        let failed = |status, message| Decoded { status, message, uid: 0, gid: 0, payload: Vec::new() };
        let context = match self.context(socket) {
            Ok(context) => context,
            Err((status, message)) => return failed(status, message),
        };
        let mut payload: *mut c_void = ptr::null_mut();
        let mut length: c_int = 0;
        // The values munge.h itself uses for "nobody", so that an untouched id is never root's.
        let (mut uid, mut gid) = (u32::MAX, u32::MAX);
        // SAFETY: the credential is NUL-terminated, the context is live, all out pointers are valid.
        let status = unsafe {
            (self.decode)(credential.as_ptr(), context.raw, &mut payload, &mut length, &mut uid, &mut gid)
        };
        let buffer = Buffer(payload);
        let payload = match usize::try_from(length) {
            Ok(length) if length > 0 && !buffer.0.is_null() => {
                // SAFETY: munge_decode stored a buffer of `length` bytes; it lives until `buffer` is dropped.
                unsafe { std::slice::from_raw_parts(buffer.0.cast::<u8>(), length) }.to_vec()
            }
            _ => Vec::new(),
        };
        let message = if status == SUCCESS { String::new() } else { self.explain(Some(&context), status) };
        Decoded { status, message, uid, gid, payload }
    }

    /// A context for one call; its own per call, because libmunge's contexts are not to be shared by threads.
    fn context(&self, socket: Option<&CStr>) -> Result<Context<'_>, (c_int, String)> {
        // SAFETY: takes no arguments and has no preconditions.
        let raw = unsafe { (self.ctx_create)() };
        if raw.is_null() {
            return Err((NO_MEMORY, self.explain(None, NO_MEMORY)));
        }
        let context = Context { api: self, raw };
        if let Some(socket) = socket {
            // SAFETY: MUNGE_OPT_SOCKET takes one `const char *`, which libmunge copies.
            let status = unsafe { (self.ctx_set)(context.raw, OPT_SOCKET, socket.as_ptr()) };
            if status != SUCCESS {
                return Err((status, self.explain(Some(&context), status)));
            }
        }
        Ok(context)
    }

    /// libmunge's words for `status`: the context's detailed ones where it has them.
    fn explain(&self, context: Option<&Context<'_>>, status: c_int) -> String {
        let mut text = ptr::null();
        if let Some(context) = context {
            // SAFETY: the context is live; the result is null or a string that the context owns.
            text = unsafe { (self.ctx_strerror)(context.raw) };
        }
        if text.is_null() {
            // SAFETY: any number is accepted; the result is null or a static string.
            text = unsafe { (self.strerror)(status) };
        }
        if text.is_null() {
            return format!("libmunge status {status}");
        }
        // SAFETY: not null, NUL-terminated, and owned by the context (still live) or static.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().chars().filter(|c| !c.is_control()).take(512).collect()
    }
}
