//! From what the user named to an image identifier: through `shifterimg lookup`, run as the user, so that no
//! HTTP, TLS or JSON is in the setuid program. What it prints is the user's word: it is checked like an
//! identifier given by hand, and the image's access list decides.

use crate::config::TrustedConfig;
use crate::error::{Error, Result};
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::{ImageType, is_image_id};
use shifter_sys::child::output_of;
use shifter_sys::lockdown::LockedDown;
use std::time::Duration;

/// Longest wait, whatever `gatewayTimeout` allows for each of them: gateways may be many.
const PATIENCE: Duration = Duration::from_secs(300);

/// The identifier of the image `wanted` names.
pub fn identifier(config: &TrustedConfig, locked: &LockedDown, wanted: &Descriptor) -> Result<String> {
    match wanted.image_type {
        ImageType::Id | ImageType::Local => return Ok(wanted.tag.clone()),
        ImageType::Docker | ImageType::Custom => {}
    }
    let program = format!("{}/bin/shifterimg", config.udiroot.udi_root_path);
    let image = wanted.to_string();
    let output = output_of(locked, &[&program, "lookup", &image], 1 << 20, PATIENCE)?;
    let id =
        output.text.lines().map(str::trim).find(|line| is_image_id(line)).filter(|_| output.code == Some(0));
    id.map(str::to_owned).ok_or(Error::Lookup { image })
}
