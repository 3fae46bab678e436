//! The image: identifier, record and file, each opened once and checked as opened.
//!
//! `imagePath` is opened as a directory; it and the way to it belong to root or to the image owner and can be
//! written by nobody else. Record and file are opened in it with that owner's rights, so that files of mode
//! 0600 work on file systems that squash root, and the kernel is given the very file that was checked.

use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use shifter_core::image_type::is_image_id;
use shifter_core::meta::Meta;
use shifter_sys::credentials::{Access, Caller, with_access};
use shifter_sys::trusted::{self, open_file_in};
use std::os::fd::OwnedFd;

/// Largest record, in bytes.
const LARGEST_META: u64 = 4 << 20;

/// An image that the caller may run.
#[derive(Debug)]
pub struct Image {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its record.
    pub meta: Meta,
    /// What is mounted.
    pub content: Content,
    /// Which record this is, for that of a prepared container.
    pub(crate) identity: String,
}

/// Where an image's tree comes from.
#[derive(Debug)]
pub enum Content {
    /// A file system in a file of `imagePath`, open for reading, and its name there.
    File(OwnedFd, String),
    /// A directory in `imagePath` (`VFS`).
    Directory,
    /// The directory of the host that the caller names as identifier.
    Local,
}

impl Image {
    /// Opens the image `id` for `caller`, or says why not: unknown, damaged, not theirs.
    pub fn open(config: &TrustedConfig, caller: &Caller, id: &str) -> Result<Self> {
        if !is_image_id(id) {
            return Err(Error::NotAnId(id.to_owned()));
        }
        let other_owner = config.shifter.image_owner;
        let missing = |cause| Error::Image { id: id.to_owned(), cause };
        let (directory, of) =
            trusted::open_owned_directory(&config.udiroot.image_path, other_owner).map_err(missing)?;
        if of.st_uid == caller.uid() || other_owner == Some(caller.uid()) {
            return Err(Error::CallerOwnsImages);
        }
        let owners: Vec<u32> = other_owner.into_iter().chain([of.st_uid]).collect();
        let owner = Access::AsImageOwner { uid: of.st_uid, gid: of.st_gid };
        let open_as = |access, name: &str| with_access(access, || open_file_in(&directory, name, &owners));
        // A file of root's in the owner's directory is one the owner cannot read but root can.
        let open =
            |name: &str| open_as(owner, name).or_else(|_| open_as(Access::AsRoot, name)).map_err(missing);

        let meta_name = format!("{id}.meta");
        let (record, status) = open(&meta_name)?;
        let identity = shifter_sys::directory::identity(&status);
        let text = trusted::read_all(record, &meta_name, LARGEST_META).map_err(missing)?;
        let meta = Meta::parse(&text).map_err(|fault| Error::Meta { name: meta_name, fault })?;
        if !meta.acl.allows(caller.uid(), caller.gid(), caller.groups()) {
            return Err(Error::Denied { id: id.to_owned() });
        }
        if meta.format == "VFS" {
            return Ok(Self { id: id.to_owned(), meta, content: Content::Directory, identity });
        }
        let mountable = matches!(meta.format.as_str(), "squashfs" | "erofs")
            || (meta.format == "xfs" && config.shifter.xfs_images);
        if !mountable {
            return Err(Error::Format { id: id.to_owned(), format: meta.format });
        }
        let file_name = format!("{id}.{}", meta.format);
        let (file, status) = open(&file_name)?;
        if meta.rich.as_ref().is_some_and(|rich| i64::try_from(rich.size) != Ok(status.st_size)) {
            return Err(Error::Size { name: file_name });
        }
        Ok(Self { id: id.to_owned(), meta, content: Content::File(file, file_name), identity })
    }

    /// The directory `path` of the host as an image, where the site allows that.
    pub fn local(config: &TrustedConfig, path: &str) -> Result<Self> {
        if !config.udiroot.allow_local_chroot {
            return Err(Error::LocalForbidden);
        }
        let (id, identity) = (path.to_owned(), String::new());
        Ok(Self { id, meta: Meta::default(), content: Content::Local, identity })
    }

    /// The directory of a `VFS` or local image; opened in the namespace in which it is to be mounted. A directory of
    /// `imagePath` must belong to root or the image owner; a local one must be open to the caller.
    pub(crate) fn directory(&self, config: &TrustedConfig, caller: &Caller) -> Result<OwnedFd> {
        if let Content::Local = self.content {
            let open = || shifter_sys::directory::open_to_list(&self.id);
            return with_access(Access::AsCaller(caller), open).map_err(|cause| self.unusable(cause));
        }
        let (path, other_owner) = (&config.udiroot.image_path, config.shifter.image_owner);
        let open = |path: &str| trusted::open_owned_directory(path, other_owner);
        // The original looked for a name with a dot at its end.
        let found = open(&format!("{path}/{}", self.id)).or_else(|_| open(&format!("{path}/{}.", self.id)));
        let (directory, status) = found.map_err(|cause| self.unusable(cause))?;
        let owners = [Some(0), Some(open(path)?.1.st_uid), other_owner];
        if owners.contains(&Some(status.st_uid)) {
            Ok(directory)
        } else {
            Err(Error::ForeignImage(self.id.clone()))
        }
    }

    fn unusable(&self, cause: shifter_sys::Error) -> Error {
        Error::Image { id: self.id.clone(), cause }
    }
}
