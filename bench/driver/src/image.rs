//! The image: a tree like a small Debian's, made into a squashfs by mksquashfs (zstd, level 3: the gateway's
//! default), twice under two identifiers, so that one can stay on its loop device while the other comes and goes.
//! The tree stays for the peers that run directories.

use crate::sandbox::{make_directory, write};
use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, Entry, IMAGES, TOP, VAR};
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// The identifier of the image that stays on a loop device.
pub(crate) const SHARED: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The identifier of the image that is attached anew by every container.
pub(crate) const FRESH: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

const ETC_FILES: usize = 60;
/// Files of 16 KiB below `/usr/lib`.
const LIBRARY_FILES: usize = 2000;

/// Small files below `/usr/share/small`.
pub(crate) const SMALL_FILES: usize = 10_000;

/// Where a copy of the image is mounted by hand.
pub(crate) const BY_HAND: &str = "/opt/shifter-bench/by-hand";

/// Large files below `/usr/share/large`, and the size of each: a whole number of squashfs' blocks.
pub(crate) const LARGE_FILES: usize = 64;
pub(crate) const LARGE_FILE: usize = 1 << 20;

/// Mounts a copy of the image where no container is, as a person would. A copy, so that the loop devices of the
/// image itself are the containers'.
pub(crate) fn mount_by_hand() -> Result<()> {
    make_directory(BY_HAND)?;
    let image = format!("{BY_HAND}.squashfs");
    fs::copy(format!("{IMAGES}/{SHARED}.squashfs"), &image).context("copy the image")?;
    let words = ["-t", "squashfs", "-o", "loop,ro,nosuid,nodev", &image, BY_HAND];
    let status = Command::new("mount").args(words).status().context("run mount")?;
    if !status.success() {
        bail!("mount {} failed", words.join(" "));
    }
    Ok(())
}

/// The image's tree, unpacked.
pub(crate) fn tree() -> String {
    format!("{BASE}/tree")
}

/// Makes tree, images and records.
pub(crate) fn build(payload: &[u8], reader: &[u8]) -> Result<()> {
    let tree = tree();
    make_entries(&tree, &TOP)?;
    make_entries(&format!("{tree}/var"), &VAR)?;
    for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "etc/ssh"] {
        make_directory(&format!("{tree}/{directory}"))?;
    }
    write(&format!("{tree}/usr/bin/true-static"), payload, 0o755)?;
    write(&format!("{tree}/usr/bin/bench-reader"), reader, 0o755)?;
    make_directory(&format!("{tree}/usr/share/small"))?;
    for number in 0..SMALL_FILES {
        let directory = format!("{tree}/usr/share/small/part-{}", number / 200);
        if number % 200 == 0 {
            make_directory(&directory)?;
        }
        write(&format!("{directory}/file-{number}"), format!("{number}\n").repeat(200).as_bytes(), 0o644)?;
    }
    // Charliecloud lays its own over these, and wants them to be there.
    for name in ["passwd", "group", "hosts", "resolv.conf"] {
        write(&format!("{tree}/etc/{name}"), b"", 0o644)?;
    }
    for number in 0..ETC_FILES {
        write(&format!("{tree}/etc/setting-{number}.conf"), b"# of the image\n", 0o644)?;
    }
    let mut noise = 1;
    for number in 0..LIBRARY_FILES {
        if number % 100 == 0 {
            make_directory(&format!("{tree}/usr/lib/part-{}", number / 100))?;
        }
        let path = format!("{tree}/usr/lib/part-{}/file-{number}", number / 100);
        write(&path, &content(&mut noise, 16384), 0o644)?;
    }
    make_directory(&format!("{tree}/usr/share/large"))?;
    for number in 0..LARGE_FILES {
        let path = format!("{tree}/usr/share/large/file-{number}");
        write(&path, &content(&mut noise, LARGE_FILE), 0o644)?;
    }
    let image = format!("{IMAGES}/{SHARED}.squashfs");
    squash(&tree, &image)?;
    fs::copy(&image, format!("{IMAGES}/{FRESH}.squashfs")).context("copy the image")?;
    for id in [SHARED, FRESH] {
        let record = "FORMAT: squashfs\nENV: PATH=/usr/local/bin:/usr/bin:/bin\nENV: LANG=C.UTF-8\n";
        write(&format!("{IMAGES}/{id}.meta"), record.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn make_entries(directory: &str, entries: &[(&CStr, Entry)]) -> Result<()> {
    for (name, entry) in entries {
        let path = format!("{directory}/{}", name.to_string_lossy());
        match entry {
            Entry::Shown | Entry::Hidden => make_directory(&path)?,
            Entry::Link(target) | Entry::HiddenLink(target) => {
                symlink(OsStr::from_bytes(target.to_bytes()), &path)
                    .with_context(|| format!("link {path}"))?;
            }
        }
    }
    Ok(())
}

/// Bytes that compress about as well as programs do: every other eight bytes are noise (xorshift64).
fn content(noise: &mut u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        bytes.extend_from_slice(&noise.to_le_bytes());
        bytes.extend_from_slice(b"the same");
    }
    bytes
}

fn squash(tree: &str, image: &str) -> Result<()> {
    let options = "-all-root -no-xattrs -comp zstd -Xcompression-level 3 -quiet -no-progress";
    let output = Command::new("mksquashfs")
        .args([tree, image])
        .args(options.split(' '))
        .stdin(Stdio::null())
        .output()
        .context("run mksquashfs (package squashfs-tools)")?;
    if !output.status.success() {
        bail!("mksquashfs failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
