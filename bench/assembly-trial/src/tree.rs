//! The image: a small Debian's entries, and ten thousand small files below `/usr/lib`.

use anyhow::{Context as _, Result, bail};
use bench_layout::{BASE, Entry, IMAGE, ROOT, TOP, VAR};
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

/// Files below `/usr/lib`.
pub(crate) const FILES: usize = 10_000;

/// Makes the image and the directories that containers are assembled on; returns its path.
pub(crate) fn image() -> Result<CString> {
    for path in [ROOT, IMAGE] {
        fs::create_dir_all(OsStr::from_bytes(path.to_bytes()))?;
    }
    let tree = format!("{BASE}/tree");
    entries(&tree, &TOP)?;
    entries(&format!("{tree}/var"), &VAR)?;
    for number in 0..FILES {
        let directory = format!("{tree}/usr/lib/part-{}", number / 200);
        if number % 200 == 0 {
            fs::create_dir_all(&directory)?;
        }
        fs::write(format!("{directory}/file-{number}"), format!("{number}\n").repeat(200))?;
    }
    let image = format!("{BASE}/image.squashfs");
    let options = "-all-root -no-xattrs -comp zstd -Xcompression-level 3 -quiet -no-progress";
    let made = Command::new("mksquashfs").args([&tree, &image]).args(options.split(' ')).output();
    if !made.context("run mksquashfs (package squashfs-tools)")?.status.success() {
        bail!("mksquashfs failed");
    }
    Ok(CString::new(image)?)
}

fn entries(directory: &str, entries: &[(&CStr, Entry)]) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (name, entry) in entries {
        let path = format!("{directory}/{}", name.to_string_lossy());
        match entry {
            Entry::Shown | Entry::Hidden => fs::create_dir_all(&path)?,
            Entry::Link(target) | Entry::HiddenLink(target) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target.to_bytes()), &path)?;
            }
        }
    }
    Ok(())
}
