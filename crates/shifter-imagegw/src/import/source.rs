//! What a file to be imported is: a squashfs image, alone or as the system partition of a SIF file (Apptainer's and
//! Singularity's; the layout is that of github.com/sylabs/sif, header version 01). The file's own words decide, not
//! its name. Only finds the bytes; what they hold is the reader's business.

use std::fs::File;
use std::io;

use shifter_squashfs::reader::Source;

/// How a squashfs image begins, little-endian.
const SQUASHFS: &[u8] = b"hsqs";

/// How a SIF file's header begins, behind 32 bytes that make the file a program.
const SIF: &[u8] = b"SIF_MAGIC\0";
const SIF_OFFSET: u64 = 32;

/// Where the header says how many descriptors there are, and where they begin: two 64-bit numbers and one, behind magic,
/// version, architecture, uuid and two times.
const COUNTS: u64 = SIF_OFFSET + 10 + 3 + 3 + 16 + 8 + 8;

/// Bytes of a descriptor: type, use, three ids, seven 64-bit numbers, a name of 128 bytes and 384 more.
const DESCRIPTOR: usize = 4 + 1 + 3 * 4 + 7 * 8 + 128 + 384;
/// The 384 bytes, of which a partition's begin with its file system, its purpose and its architecture.
const EXTRA: usize = DESCRIPTOR - 384;

/// Most descriptors that are looked at; Apptainer makes room for 48.
const MOST_DESCRIPTORS: u64 = 4096;

/// `DataPartition`, `FsSquash`, `PartPrimSys` of the format.
const PARTITION: u32 = 0x4004;
const FS_SQUASHFS: u32 = 1;
const PRIMARY_SYSTEM: u32 = 2;

/// What a file may be imported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Form {
    Squashfs,
    Sif,
    /// A root file system as one tar, as `docker export` writes it, packed or not.
    Tar,
    /// An OCI layout or what `docker save` writes, as a tar, or the layout as a directory.
    Archive,
    /// A root file system as a tree of files.
    Directory,
    /// An EROFS image.
    Erofs,
}

impl Form {
    /// The names that requests use.
    pub(crate) const NAMES: &str = "squashfs, sif, tar, oci-archive, docker-archive, directory, erofs";

    /// One for each, for what is kept of an image.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Squashfs => "squashfs",
            Form::Sif => "sif",
            Form::Tar => "tar",
            Form::Archive => "archive",
            Form::Directory => "directory",
            Form::Erofs => "erofs",
        }
    }

    /// By the name that requests use.
    pub(crate) fn parse(name: &str) -> Option<Form> {
        match name {
            "squashfs" => Some(Form::Squashfs),
            "sif" => Some(Form::Sif),
            "tar" => Some(Form::Tar),
            "oci-archive" | "docker-archive" => Some(Form::Archive),
            "directory" => Some(Form::Directory),
            "erofs" => Some(Form::Erofs),
            _ => None,
        }
    }
}

/// Bytes of a file from a place on.
#[derive(Debug)]
pub(super) struct Window {
    file: File,
    start: u64,
    length: u64,
}

impl Source for Window {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.length);
        let start = self.start.checked_add(offset).filter(|_| end.is_some());
        self.file.read_exact_at(buffer, start.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

/// Finds the squashfs image in a regular file.
///
/// # Errors
/// A sentence, if there is none.
pub(super) fn find(file: File, form: Form) -> Result<Window, String> {
    let length = file.length().map_err(|error| format!("the file cannot be read: {error}"))?;
    let (start, length) = match form {
        Form::Sif => partition(&file, length)?,
        _ => (0, length),
    };
    let window = Window { file, start, length };
    let mut magic = [0; 4];
    match window.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *SQUASHFS => Ok(window),
        Ok(()) | Err(_) => Err(match form {
            Form::Sif => {
                "the SIF file's system partition is no squashfs image; encrypted ones cannot be imported"
            }
            _ => "the file is no squashfs image: it does not begin like one",
        }
        .to_owned()),
    }
}

/// Start and length of the one primary system partition.
fn partition(file: &File, length: u64) -> Result<(u64, u64), String> {
    let broken = |what: &str| format!("the SIF file is broken: {what}");
    let read = |buffer: &mut [u8], at| {
        file.read_exact_at(buffer, at).map_err(|_| broken("it ends before its descriptors"))
    };
    let mut magic = [0; 10];
    if file.read_exact_at(&mut magic, SIF_OFFSET).is_err() || magic != *SIF {
        return Err("the file is no SIF file: it does not begin like one".to_owned());
    }
    // Free descriptors, all descriptors, where they are.
    let mut counts = [0; 24];
    read(&mut counts, COUNTS)?;
    let (total, start) = (number(&counts, 8), number(&counts, 16));
    if total > MOST_DESCRIPTORS {
        return Err(broken("it claims more descriptors than any SIF file has"));
    }
    let mut found = None;
    for index in 0..total {
        let mut descriptor = [0; DESCRIPTOR];
        let at =
            start.checked_add(index * DESCRIPTOR as u64).ok_or_else(|| broken("a place is too large"))?;
        read(&mut descriptor, at)?;
        let is_used = descriptor[4] != 0;
        let words = [0, EXTRA, EXTRA + 4].map(|at| word(&descriptor, at));
        if !is_used || words[0] != PARTITION || words[2] != PRIMARY_SYSTEM {
            continue;
        }
        if words[1] != FS_SQUASHFS {
            return Err(
                "the SIF file's system partition is not squashfs; only such can be imported".to_owned()
            );
        }
        let (at, bytes) = (number(&descriptor, 17), number(&descriptor, 25));
        if at.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(broken("its system partition reaches beyond the file"));
        }
        if found.replace((at, bytes)).is_some() {
            return Err(broken("it has two system partitions"));
        }
    }
    found.ok_or_else(|| "the SIF file has no system partition".to_owned())
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Write as _;

    use super::*;

    /// A descriptor: type, use, place, file system, purpose.
    fn descriptor(kind: u32, is_used: bool, (at, bytes): (u64, u64), system: u32, purpose: u32) -> Vec<u8> {
        let mut descriptor = vec![0; DESCRIPTOR];
        descriptor[..4].copy_from_slice(&kind.to_le_bytes());
        descriptor[4] = u8::from(is_used);
        descriptor[17..25].copy_from_slice(&at.to_le_bytes());
        descriptor[25..33].copy_from_slice(&bytes.to_le_bytes());
        descriptor[EXTRA..EXTRA + 4].copy_from_slice(&system.to_le_bytes());
        descriptor[EXTRA + 4..EXTRA + 8].copy_from_slice(&purpose.to_le_bytes());
        descriptor
    }

    fn sif(descriptors: &[Vec<u8>], claimed: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..22].copy_from_slice(b"#!/usr/bin/env run-it\n");
        bytes[32..42].copy_from_slice(SIF);
        bytes[88..96].copy_from_slice(&claimed.to_le_bytes());
        bytes[96..104].copy_from_slice(&4096_u64.to_le_bytes());
        bytes.extend(descriptors.concat());
        bytes.resize(16384, 0);
        bytes.extend(b"hsqs and so on");
        bytes
    }

    fn find_in(bytes: &[u8], form: Form) -> Result<(u64, u64), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        find(file, form).map(|window| (window.start, window.length))
    }

    #[test]
    fn a_squashfs_image_is_found_in_its_own_file_and_in_a_sif_file() {
        assert_eq!(find_in(b"hsqs...", Form::Squashfs), Ok((0, 7)));
        let whole = (16384, 14);
        let system = descriptor(PARTITION, true, whole, FS_SQUASHFS, PRIMARY_SYSTEM);
        let unused = descriptor(PARTITION, false, (0, 9), FS_SQUASHFS, PRIMARY_SYSTEM);
        let other = descriptor(0x4001, true, (0, 9), 0, 0);
        assert_eq!(find_in(&sif(&[other, unused, system], 3), Form::Sif), Ok(whole));
    }

    #[test]
    fn what_is_none_or_lies_is_refused() {
        let whole = (16384, 14);
        let system = |place, fs| descriptor(PARTITION, true, place, fs, PRIMARY_SYSTEM);
        let good = system(whole, FS_SQUASHFS);
        for (bytes, form, expected) in [
            (vec![], Form::Squashfs, "no squashfs image"),
            (b"sqsh big-endian".to_vec(), Form::Squashfs, "no squashfs image"),
            (b"hsqs".to_vec(), Form::Sif, "no SIF file"),
            (sif(&[], 0), Form::Sif, "has no system partition"),
            (sif(&[good.clone(), good.clone()], 2), Form::Sif, "two system partitions"),
            (sif(std::slice::from_ref(&good), 1 << 40), Form::Sif, "more descriptors"),
            (sif(std::slice::from_ref(&good), 4000), Form::Sif, "ends before its descriptors"),
            (sif(&[system((16384, 15), FS_SQUASHFS)], 1), Form::Sif, "reaches beyond the file"),
            (sif(&[system((u64::MAX, 2), FS_SQUASHFS)], 1), Form::Sif, "reaches beyond the file"),
            (sif(&[system(whole, 2)], 1), Form::Sif, "is not squashfs"),
            (sif(&[system((0, 14), FS_SQUASHFS)], 1), Form::Sif, "no squashfs image"),
            (sif(&[good], 1)[..60].to_vec(), Form::Sif, "ends before its descriptors"),
        ] {
            let error = find_in(&bytes, form).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_window_ends_where_it_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let window = Window { file, start: 2, length: 5 };
        let mut buffer = [0; 3];
        window.read_exact_at(&mut buffer, 2).unwrap();
        assert_eq!(&buffer, b"456");
        window.read_exact_at(&mut buffer, 3).unwrap_err();
        window.read_exact_at(&mut buffer, u64::MAX).unwrap_err();
    }
}
