//! A container that stands where the original's stood, in sight of the host, for `setupRoot`. Compiled out of the
//! setuid program.
//!
//! What a user wants mounted is not there but only in the namespaces made from it.

use super::{Build, EOPNOTSUPP, shared_copy};
use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::plan::{MountPlan, Step};
use shifter_sys::lockdown::LockedDown;
use shifter_sys::{mount, namespace, trusted};

/// A container that stands where the configuration says, in the namespace this process is in, but for what its user
/// wants mounted: for programs that root runs.
#[derive(Debug)]
pub struct InPlace<'a> {
    build: Build<'a>,
    rest: &'a [Step],
}

/// Does the site's steps in place. Nobody but `locked`'s caller can get into the result, and later mounts on it are
/// seen in every namespace made from this one; the image is attached at `image_at`, a directory of root's alone, only
/// meanwhile. `None` if the root's file system cannot shut others out. On failure, what was mounted stays, for
/// `unsetupRoot`.
pub fn assemble_in_place<'a>(
    plan: &'a MountPlan,
    config: &'a TrustedConfig,
    image: &'a Image,
    locked: &'a LockedDown,
    image_at: &'a str,
) -> Result<Option<InPlace<'a>>> {
    let shared = plan.steps.iter().filter_map(shared_copy).collect::<Result<_>>()?;
    let mut build =
        Build { image_at: Some(image_at), ..Build::new(config, locked, image, &plan.steps, shared) };
    let of_user = |step: &Step| matches!(step, Step::Volume(..) | Step::SealRoot);
    let (first, rest) = plan.steps.split_at(plan.steps.iter().position(of_user).unwrap_or(plan.steps.len()));
    match build.perform_all(first, &mut |_| {}) {
        Err(Error::System(error)) if build.root.is_none() && error.errno() == Some(EOPNOTSUPP) => {
            namespace::unmount_all(image_at)?;
            return Ok(None);
        }
        other => other?,
    }
    let (none, shared) = (mount::Flags::empty(), mount::Propagation::Shared);
    mount::set_attributes_at(build.root()?, "", mount::Depth::One, none, shared)?;
    namespace::unmount_all(image_at)?; // what is shown of it holds it
    Ok(Some(InPlace { build, rest }))
}

impl InPlace<'_> {
    /// Makes it this process's root, in a namespace of its own in which the user's volumes are: on the host they would
    /// keep other users from renaming and removing what they are mounted on.
    pub fn enter(&self) -> Result<()> {
        let Build { config, locked, image, steps, .. } = self.build;
        mount::enter_new_namespace()?;
        mount::cut_off()?;
        let mut build = Build::new(config, locked, image, steps, Vec::new());
        build.root = Some(trusted::open(&config.udiroot.udi_mount, trusted::Kind::Directory)?);
        build.image_root = self.build.image_root.as_ref().and_then(|root| root.try_clone().ok());
        build.perform_all(self.rest, &mut |_| {})?;
        Ok(mount::pivot_into(build.root()?)?)
    }
}
