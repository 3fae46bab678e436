//! perNodeCache: a file system of the job's own in a file on the node's disk (or in memory), the user's to write. The
//! file never has a name that could be left behind, and the loop device clears itself with the last mount.

use super::Build;
use crate::error::{Error, Result};
use crate::kernel;
use shifter_core::volume::{PerNodeCache, VolumeMap};
use shifter_sys::descriptors::path_of;
use shifter_sys::{child, directory as dir, loopdev, mount, trusted};
use std::os::fd::OwnedFd;

/// Where mke2fs may be; the site names mkfs.xfs itself.
const MKFS_EXT4: [&str; 2] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];

impl Build<'_> {
    /// A new cache, not attached anywhere yet.
    pub(super) fn new_cache(&mut self, map: &VolumeMap, cache: &PerNodeCache) -> Result<OwnedFd> {
        let refuse = |rule: String| Error::Volume { map: map.signature.clone(), rule };
        let conf = &self.config.udiroot;
        self.cached = self.cached.saturating_add(cache.size);
        if let Some(limit) = conf.per_node_cache_size_limit.filter(|limit| self.cached > *limit) {
            return Err(refuse(format!(
                "the perNodeCaches of a container may have {limit} bytes here (perNodeCacheSizeLimit)"
            )));
        }
        let allowed = &conf.per_node_cache_allowed_fs;
        if !allowed.is_empty() && !allowed.contains(&cache.fs) {
            return Err(refuse(format!(
                "a perNodeCache may be {} here (perNodeCacheAllowedFsType)",
                allowed.join(" or ")
            )));
        }
        let (uid, gid) = (self.locked.caller().uid(), self.locked.caller().gid());
        let made = match cache.fs.as_str() {
            "tmpfs" if conf.per_node_cache_path.is_empty() && allowed.is_empty() => {
                let rule = "udiRoot.conf has neither perNodeCachePath nor perNodeCacheAllowedFsType";
                return Err(refuse(format!("there is no perNodeCache here: {rule}")));
            }
            "tmpfs" => {
                let size = cache.size.to_string();
                let options = [("source", "shifter"), ("size", &size), ("mode", "0755")];
                mount::new_file_system("tmpfs", &options, mount::SAFE)?
            }
            kind => self.new_disk(kind, cache.size, &map.signature)?,
        };
        dir::give(&made, uid, gid, &map.to)?;
        if map.read_only {
            let (flags, private) = (mount::SAFE_READ_ONLY, mount::Propagation::Private);
            mount::set_attributes_at(&made, "", mount::Depth::One, flags, private)?;
        }
        Ok(made)
    }

    fn new_disk(&self, kind: &str, size: u64, map: &str) -> Result<OwnedFd> {
        let conf = &self.config.udiroot;
        let refuse = |rule: &str| Error::Volume { map: map.to_owned(), rule: rule.to_owned() };
        if conf.per_node_cache_path.is_empty() {
            let rule = "there is no place for a perNodeCache here: udiRoot.conf lacks perNodeCachePath";
            return Err(refuse(rule));
        }
        let mut tools = match kind {
            "xfs" => vec![conf.mkfs_xfs_path.as_str()],
            _ => MKFS_EXT4.to_vec(),
        };
        tools.retain(|tool| !tool.is_empty() && trusted::open(tool, trusted::Kind::File).is_ok());
        let Some(tool) = tools.first() else {
            let rule = "the program that makes its file system is not here (mkfsXfsPath, mkfs.ext4)";
            return Err(refuse(rule));
        };
        let place = trusted::open(&conf.per_node_cache_path, trusted::Kind::Directory)?;
        let file = dir::make_nameless(&place, size, &conf.per_node_cache_path)?;
        let force = if kind == "xfs" { "-f" } else { "-F" };
        let output = child::run_on(&[tool, "-q", force, "/proc/self/fd/3"], &file)?;
        if output.code != Some(0) {
            let said = output.text.lines().next().unwrap_or_default();
            return Err(refuse(&format!(
                "{tool} cannot make a file system of {size} bytes (xfs wants at least 300 MiB): {said}"
            )));
        }
        let device = loopdev::writable_device_for(&file, "perNodeCache")?;
        let source = path_of(self.locked.proc(), &device);
        mount::new_file_system(kind, &[("source", &source)], mount::SAFE)
            .map_err(|error| kernel::explained(error, kind, None))
    }
}
