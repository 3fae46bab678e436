//! As many credentials as a client can get: libmunge itself, without a process for each.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context as _, Result, bail};
use libloading::Library;

type Encode = unsafe extern "C" fn(*mut *mut c_char, *mut c_void, *const c_void, c_int) -> c_int;
type Decode = unsafe extern "C" fn(
    *const c_char,
    *mut c_void,
    *mut *mut c_void,
    *mut c_int,
    *mut u32,
    *mut u32,
) -> c_int;

unsafe extern "C" {
    fn free(pointer: *mut c_void);
}

/// libmunge, with the munged of its default socket.
pub(crate) struct Munge {
    encode: Encode,
    decode: Decode,
    _library: Library,
}

impl Munge {
    pub(crate) fn load() -> Result<Munge> {
        // SAFETY: libmunge's initializers have no preconditions.
        let library = unsafe { Library::new("libmunge.so.2") }.context("load libmunge.so.2")?;
        // SAFETY: the types are munge.h's prototypes.
        let encode = *unsafe { library.get::<Encode>(c"munge_encode") }.context("munge_encode")?;
        // SAFETY: as above.
        let decode = *unsafe { library.get::<Decode>(c"munge_decode") }.context("munge_decode")?;
        Ok(Munge { encode, decode, _library: library })
    }

    pub(crate) fn encode(&self) -> Result<CString> {
        let mut credential = ptr::null_mut();
        // SAFETY: a valid out pointer, the default context, no payload.
        let status = unsafe { (self.encode)(&mut credential, ptr::null_mut(), ptr::null(), 0) };
        if status != 0 || credential.is_null() {
            bail!("munge_encode failed with status {status}");
        }
        // SAFETY: on success it is a NUL-terminated string of malloc's.
        let text = unsafe { std::ffi::CStr::from_ptr(credential) }.to_owned();
        // SAFETY: from malloc, freed once.
        unsafe { free(credential.cast()) };
        Ok(text)
    }

    pub(crate) fn decode(&self, credential: &CString) -> Result<()> {
        let (mut payload, mut length, mut uid, mut gid) = (ptr::null_mut(), 0, 0, 0);
        let null = ptr::null_mut();
        let credential = credential.as_ptr();
        // SAFETY: all out pointers are valid, the credential ends with NUL.
        let status =
            unsafe { (self.decode)(credential, null, &mut payload, &mut length, &mut uid, &mut gid) };
        // SAFETY: null or from malloc, freed once.
        unsafe { free(payload) };
        if status != 0 {
            bail!("munge_decode failed with status {status}");
        }
        Ok(())
    }
}
