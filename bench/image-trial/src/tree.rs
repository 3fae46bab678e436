//! What the images hold: a real package tree, ten thousands of names, small files and a large one; as a directory, and
//! as the layer that a builder would make of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Files below `small`, of 100 to 8,000 bytes.
pub(crate) const SMALL_FILES: usize = 3000;
/// Files in the one directory `many`.
pub(crate) const MANY_FILES: usize = 20_000;
/// Bytes of the file `large`, taken from a real program.
const LARGE_FILE: usize = 48 << 20;

/// Fills `root`. `program` is a large program; the package tree is the standard library of this machine's Python, if it
/// has one.
pub(crate) fn grow(root: &Path, program: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    let mut noise = 1;
    for number in 0..SMALL_FILES {
        let folder = root.join(format!("small/part-{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&folder)?;
        }
        let size = 100 + next(&mut noise) as usize % 7900;
        fs::write(folder.join(format!("file-{number}")), text(&mut noise, size))?;
    }
    fs::create_dir(root.join("many"))?;
    for number in 0..MANY_FILES {
        fs::write(root.join(format!("many/name-{number:05}")), format!("{number}\n"))?;
    }
    let mut bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let original = bytes.len();
    while bytes.len() < LARGE_FILE {
        // Not the same blocks again: the writers would store them once.
        let more: Vec<u8> = bytes[bytes.len() - original..].iter().rev().copied().collect();
        bytes.extend(more);
        bytes.push(0);
    }
    bytes.truncate(LARGE_FILE);
    fs::write(root.join("large"), bytes)?;
    match python_library() {
        Some(library) => {
            run(Command::new("cp").args(["-a", &library]).arg(root.join("python")))?;
            // What is installed beside the library differs from machine to machine.
            for extra in ["test", "site-packages", "dist-packages"] {
                run(Command::new("rm").arg("-rf").arg(root.join("python").join(extra)))?;
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// Where Python's standard library is.
fn python_library() -> Option<String> {
    let words = ["-I", "-c", "import os; print(os.path.dirname(os.__file__))"];
    let output = Command::new("python3").args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The tree as a layer, plain, in the order of names, as builders walk it.
pub(crate) fn archive(root: &Path, layer: &Path) -> Result<()> {
    run(Command::new("tar")
        .args(["--sort=name", "--format=posix", "--numeric-owner", "-cf"])
        .arg(layer)
        .arg("-C")
        .arg(root)
        .arg("."))
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// xorshift64.
pub(crate) fn next(noise: &mut u64) -> u64 {
    *noise ^= *noise << 13;
    *noise ^= *noise >> 7;
    *noise ^= *noise << 17;
    *noise
}

/// Bytes that compress about as program text does.
fn text(noise: &mut u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 20);
    while bytes.len() < size {
        let word = next(noise) % 700;
        bytes.extend_from_slice(
            format!("{:x}{}", word * word * 7919, [" ", "\n", " = "][word as usize % 3]).as_bytes(),
        );
    }
    bytes.truncate(size);
    bytes
}
