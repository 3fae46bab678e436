//! What the root shows of the image: entries bound one by one, and `/etc` under the site's.
//!
//! Chooses nothing: which trees come in, and when, says the plan.

use super::{Build, EOPNOTSUPP};
use crate::error::Result;
use crate::image::Content;
use crate::plan::STATE_FILE;
use shifter_sys::credentials::{Access, with_access};
use shifter_sys::directory::{self as dir, FileType, Links};
use shifter_sys::mount;
use std::os::fd::OwnedFd;

/// Most entries of a directory of the image that are mounted one by one; real images have a few dozen.
const MOST_ENTRIES: usize = 4096;
const EEXIST: i32 = 17;

impl Build<'_> {
    /// Whose rights look into the image: a directory that the caller named must not be opened to them by root.
    fn access(&self) -> Access<'_> {
        match self.image.content {
            Content::Local => Access::AsCaller(self.locked.caller()),
            _ => Access::AsRoot,
        }
    }

    /// The image's directory `path`; `None` if it has none or something else has the name.
    fn image_directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let Some(image_root) = &self.image_root else { return Ok(None) };
        match with_access(self.access(), || dir::find_if_present(image_root, path, Links::Refuse)) {
            Ok(Some(found)) if dir::file_type(&found, path)?.is_dir() => {
                if let Content::Local = self.image.content {
                    // What is merged of it no longer shows its own mode.
                    with_access(self.access(), || dir::entries(&found, path, MOST_ENTRIES))?;
                }
                Ok(Some(found))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(dir::IS_A_LINK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Shows what `tree` holds in the root's directory of that name, where the site has nothing.
    pub(super) fn merge(&self, tree: &str) -> Result<()> {
        let Some(from) = self.image_directory(tree)? else { return Ok(()) };
        let to = self.find(tree)?;
        if !self.is_ours(&to)? {
            return Ok(()); // what the site mounted there wins
        }
        let entries = with_access(self.access(), || dir::entries(&from, tree, MOST_ENTRIES))?;
        for entry in entries {
            let name = entry.name.as_c_str();
            if tree == "/var" && name.to_bytes() == STATE_FILE.as_bytes() {
                continue; // its place is ours, and no image may keep its containers from starting
            }
            match entry.file_type {
                FileType::Directory if dir::make_if_absent(&to, name, 0o755)? => {
                    mount::graft(&from, &to, name)?
                }
                FileType::RegularFile if !dir::has(&to, name)? => {
                    dir::make_file(&to, name)?;
                    mount::graft(&from, &to, name)?;
                }
                FileType::Symlink => match dir::copy_link(&from, &to, name) {
                    Err(error) if error.errno() == Some(EEXIST) => {}
                    other => other?,
                },
                _ => {} // what the site has wins; devices, pipes and sockets have no use here
            }
        }
        Ok(())
    }

    /// The site's `/etc` over the image's.
    pub(super) fn overlay_etc(&self) -> Result<()> {
        let Some(of_image) = self.image_directory("/etc")? else { return Ok(()) };
        let ours = self.find("/etc")?;
        let hidden = dir::mark_opaque(&ours, "ssh");
        let overlay = mount::new_overlay(self.locked.proc(), &[&ours, &of_image], None)?;
        mount::attach(&overlay, &ours, "/etc")?;
        match hidden {
            // ramfs has no extended attributes.
            Err(error) if error.errno() == Some(EOPNOTSUPP) => {
                let options = [("source", "shifter"), ("mode", "0755")];
                let empty = mount::new_file_system("tmpfs", &options, mount::SAFE_READ_ONLY)?;
                Ok(mount::attach(&empty, &self.find("/etc/ssh")?, "/etc/ssh")?)
            }
            other => Ok(other?),
        }
    }
}
