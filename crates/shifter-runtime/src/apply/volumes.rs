//! What the user wants mounted. Paths users name are looked up inside the container with the users' own rights, and
//! from then on held by descriptor: a name exchanged in between changes nothing (CVE-2021-30465).
//!
//! Which targets are open to users is `shifter_core::volume`'s rule; here it is applied to what was found.

use super::{Build, ENOENT};
use crate::error::{Error, Result};
use crate::plan::Step;
use shifter_core::volume::{Propagation, VolumeMap, is_below};
use shifter_sys::credentials::{Access, with_access};
use shifter_sys::descriptors::path_of_open;
use shifter_sys::directory::{self as dir, Links};
use shifter_sys::mount;
use std::os::fd::OwnedFd;

/// What is shown of the host in every container.
const SYSTEM: [&str; 5] = ["/proc", "/sys", "/dev", "/tmp", "/var/tmp"];

impl Build<'_> {
    /// Mounts what the user wants. Its source and its target are looked up in the container, with the user's rights;
    /// what was found is checked, and what was checked is mounted.
    pub(super) fn mount_volume(&mut self, map: &VolumeMap, propagation: mount::Propagation) -> Result<()> {
        let refuse = |rule: String| Error::Volume { map: map.signature.clone(), rule };
        let caller = self.locked.caller();
        let root = self.root()?;
        let as_caller = |path| with_access(Access::AsCaller(caller), || dir::find(root, path, Links::InTree));
        let unusable = |error| {
            refuse(format!(
                "FAILED to find real path for volume \"from\": {error}; of the host only siteFs{} and /tmp are \
                 there, and FUSE mounts of your own only with the option allow_other",
                self.shown_of_host()
            ))
        };
        // What stands before the target of a cache is only a placeholder.
        let source = if map.cache.is_none() { Some(as_caller(&map.from).map_err(unusable)?) } else { None };
        let directory = match &source {
            Some(source) => dir::file_type(source, &map.from).map_err(unusable)?.is_dir(),
            None => true,
        };
        let place = match as_caller(&map.to) {
            Err(error) if error.errno() == Some(ENOENT) => self.make_target(&map.to, directory),
            other => other.map_err(Error::System),
        };
        let place = place.map_err(|error| refuse(error.to_string()))?;
        let (path, found) = (self.path_in_root(&place)?, dir::status(&place, &map.to)?);
        if !self.config.shifter.volumes.allow_target(&path) {
            return Err(refuse(format!("Invalid destination: it leads to {path}, which Shifter fills")));
        }
        let conf = &self.config.udiroot;
        let site = conf.site_fs.iter().chain(conf.modules.iter().flat_map(|module| &module.site_fs));
        let shared = |map: &&VolumeMap| map.propagation == Some(Propagation::Shared);
        if site.filter(shared).any(|map| is_below(&path, &map.to)) {
            let rule =
                "the site shares with the host what is mounted there: nothing of a container's own may be";
            return Err(refuse(format!("Invalid destination {path}: {rule}")));
        }
        let ours = |handle: &OwnedFd| dir::status(handle, "/").is_ok_and(|of| of.st_dev == found.st_dev);
        let image = self.image_root.as_ref().is_some_and(ours);
        let in_tmp =
            || ["/tmp", "/var/tmp"].iter().any(|tmp| dir::open_host(tmp).is_ok_and(|tmp| ours(&tmp)));
        if !(ours(root) || image || in_tmp() || found.st_uid == caller.uid()) {
            let rule = "is not on an approved device for volume mounts: only the image, /tmp, /var/tmp and directories of your own are";
            return Err(refuse(format!("Mount request path {path} {rule}")));
        }
        if dir::file_type(&place, &map.to)?.is_dir() != directory {
            return Err(refuse("source and target must both be directories or both be files".to_owned()));
        }
        let copy = match (&source, &map.cache) {
            (Some(source), _) => {
                let of_dev = self.path_in_root(source)?.starts_with("/dev/");
                let mut flags = if of_dev { mount::NO_SETUID } else { mount::SAFE };
                flags.set(mount::Flags::MOUNT_ATTR_RDONLY, map.read_only);
                // With what is mounted below: whoever mounted it may have meant to hide what lies under it.
                mount::copy_of(source, &map.from, mount::Depth::Recursive, flags, propagation)?
            }
            (None, Some(cache)) => self.new_cache(map, cache)?,
            (None, None) => return Ok(()),
        };
        Ok(mount::attach(&copy, &place, &map.to)?)
    }

    /// The path of something found in the root, as the container will see it.
    fn path_in_root(&self, handle: &OwnedFd) -> Result<String> {
        let path = path_of_open(self.locked.proc(), handle)?;
        let root = path_of_open(self.locked.proc(), self.root()?)?;
        let inside = path.strip_prefix(&root).filter(|inside| inside.is_empty() || inside.starts_with('/'));
        match inside {
            Some("") => Ok("/".to_owned()),
            Some(inside) => Ok(inside.to_owned()),
            None => Err(Error::Target { path, rule: "it lies outside the container" }),
        }
    }

    fn shown_of_host(&self) -> String {
        let site_fs = self.steps.iter().filter_map(|step| match step {
            Step::Bind(bind) if !SYSTEM.contains(&bind.to.as_str()) => Some(bind.to.as_str()),
            _ => None,
        });
        let shown: Vec<&str> = site_fs.collect();
        if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
    }
}
