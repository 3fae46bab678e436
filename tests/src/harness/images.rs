//! Images put straight into `imagePath`, for tests of the runtime alone: a table of entries becomes a squashfs by
//! mksquashfs, with a record a test can write as it likes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::namespace::set_mode;
use super::sandbox::Sandbox;
use crate::fixture::{Entry, archive, digest_of};

impl Sandbox {
    /// Makes an image of `entries` whose record has `FORMAT: squashfs` and the given further lines; returns its
    /// identifier. Owner root, mode 0600, as a gateway of root's leaves them. Owners, setuid bits and devices of
    /// the entries are kept.
    pub fn install_image(&self, entries: &[Entry], record: &str) -> Result<String> {
        let archive = archive(entries);
        let id = digest_of(&archive).trim_start_matches("sha256:").to_owned();
        let image = self.image_file(&id, "squashfs");
        let path = image.display().to_string();
        let words =
            ["mksquashfs", "-", &path, "-tar", "-noappend", "-quiet", "-no-progress", "-comp", "zstd"];
        let made = self.root().stdin(&archive).run(&[&words[..], &["-Xcompression-level", "3"]].concat())?;
        ensure!(made.status.success(), "{}", made.describe());
        set_mode(&image, 0o600)?;
        self.write_record(&id, &format!("FORMAT: squashfs\n{record}"))?;
        Ok(id)
    }

    /// Replaces the record of an image.
    pub fn write_record(&self, id: &str, text: &str) -> Result<()> {
        let path = self.image_file(id, "meta");
        fs::write(&path, text)?;
        set_mode(&path, 0o600)
    }

    /// The path of an image's file or record.
    pub fn image_file(&self, id: &str, suffix: &str) -> PathBuf {
        self.images().join(format!("{id}.{suffix}"))
    }
}
