//! Loop devices: one image file gets one device for all its containers on a node, so that they share one
//! superblock and one page cache. Devices clear themselves when the last mount and descriptor are gone.
//!
//! A device found is never believed by name: it is opened first, then everything the kernel says about it is
//! compared with the image's open descriptor. On any doubt a fresh device is made.

use crate::directory::{link_target, open_lock, wait_for};
use crate::error::{During, Error, Result};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use std::mem::MaybeUninit;

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Major number of loop devices, devices.txt.
const LOOP_MAJOR: u32 = 7;
/// Times another process may be faster at taking a free device.
const TRIES: usize = 64;

/// `struct loop_info64`; what nobody here asks for is not named.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    unused: u64,
    offset: u64,
    size_limit: u64,
    unused_too: [u32; 3],
    flags: u32,
    file_name: [u8; 64],
    rest: [u8; 112],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The device that carries `image`, or a fresh one. `name` is the image's file name. `state` is a directory of
/// root's alone: a link in it remembers each image's device, and a lock there, held for at most a second look and
/// the attaching, lets containers starting together find one another's device. Without it none is shared.
pub fn device_for(image: &OwnedFd, status: &Stat, name: &str, state: Option<&OwnedFd>) -> Result<OwnedFd> {
    let Some(state) = state else { return Ok(attach(image, status, name, LO_FLAGS_READ_ONLY)?.0) };
    let memory = format!("loop-{:x}-{:x}", status.st_dev, status.st_ino);
    if let Some(device) = remembered(state, &memory, status) {
        return Ok(device);
    }
    let locked = open_lock(state, "loop.lock").ok().filter(wait_for); // unlocked by being closed
    if let Some(device) = locked.as_ref().and_then(|_| remembered(state, &memory, status)) {
        return Ok(device);
    }
    let (device, number) = attach(image, status, name, LO_FLAGS_READ_ONLY)?;
    if locked.is_some() {
        // What cannot be remembered is only not shared.
        let _absent_is_fine = fs::unlinkat(state, &memory, fs::AtFlags::empty());
        let _full_is_fine = fs::symlinkat(number.to_string(), state, &memory);
    }
    Ok(device)
}

/// A device of its own for a file that is to be written.
pub fn writable_device_for(file: &OwnedFd, name: &str) -> Result<OwnedFd> {
    Ok(attach(file, &fs::fstat(file).during("examine", name)?, name, 0)?.0)
}

/// The device a link names, if it still carries the image.
fn remembered(state: &OwnedFd, memory: &str, status: &Stat) -> Option<OwnedFd> {
    let number = link_target(state, memory)?.parse().ok()?;
    let device = open_device(number, LO_FLAGS_READ_ONLY).ok()?;
    carries(&device, status, LO_FLAGS_READ_ONLY).then_some(device)
}

/// The size was taken when the file was attached: a file grown or cut since is another image.
fn carries(fd: &OwnedFd, status: &Stat, read_only: u32) -> bool {
    let mut info = MaybeUninit::<LoopInfo>::zeroed();
    // SAFETY: LOOP_GET_STATUS64 fills in a loop_info64, for which there is room.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_GET_STATUS64 as _, info.as_mut_ptr()) };
    if code != 0 {
        return false;
    }
    // SAFETY: all fields are integers and bytes, for which zeros are valid, and the kernel has filled them in.
    let info = unsafe { info.assume_init() };
    info.device == status.st_dev
        && info.inode == status.st_ino
        && info.offset == 0
        && info.size_limit == 0
        && info.flags & LO_FLAGS_READ_ONLY == read_only
        && fs::seek(fd, fs::SeekFrom::End(0)) == Ok(status.st_size as u64 / 512 * 512)
}

fn open_device(number: u32, read_only: u32) -> Result<OwnedFd> {
    let path = format!("/dev/loop{number}");
    let access = if read_only == 0 { OFlags::RDWR } else { OFlags::RDONLY };
    let fd =
        fs::open(&path, access | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).during("open", &path)?;
    let status = fs::fstat(&fd).during("examine", &path)?;
    let block = FileType::from_raw_mode(status.st_mode) == FileType::BlockDevice;
    if !block || fs::major(status.st_rdev) != LOOP_MAJOR {
        return Err(Error::refused("use", path, "it is not a loop device"));
    }
    Ok(fd)
}

fn attach(image: &OwnedFd, status: &Stat, name: &str, read_only: u32) -> Result<(OwnedFd, u32)> {
    let control = fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during(
        "attach the image to a loop device (is the loop module loaded?): open",
        "/dev/loop-control",
    )?;
    for _ in 0..TRIES {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        let number = u32::try_from(number)
            .map_err(|_| std::io::Error::last_os_error())
            .during("find a free loop device for", name)?;
        let fd = open_device(number, read_only)?;
        match configure(&fd, image, name, read_only) {
            Ok(()) if carries(&fd, status, read_only) => return Ok((fd, number)),
            Ok(()) => return Err(Error::refused("attach", name, "the loop device carries another file")),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {} // another process was faster
            Err(error) => return Err(error).during("attach to a loop device", name),
        }
    }
    Err(Error::refused("attach", name, "free loop devices were taken by others each time; try again"))
}

fn configure(fd: &OwnedFd, image: &OwnedFd, name: &str, read_only: u32) -> std::io::Result<()> {
    // SAFETY: loop_config consists of integers and bytes, for which zeros are valid.
    let mut config: LoopConfig = unsafe { MaybeUninit::zeroed().assume_init() };
    config.fd = image.as_raw_fd() as u32;
    config.info.flags = read_only | LO_FLAGS_AUTOCLEAR;
    for (slot, byte) in config.info.file_name.iter_mut().take(63).zip(name.bytes()) {
        *slot = byte;
    }
    // SAFETY: LOOP_CONFIGURE reads a loop_config, which lives through the call.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE as _, &config as *const LoopConfig) };
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
