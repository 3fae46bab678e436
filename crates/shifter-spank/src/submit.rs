//! What happens at submission, as the user: the image is looked up once, and everything the job needs to know is put
//! into its environment, under the original's names.
//!
//! Steps of a job come by here, too (srun inside it). They are told by Slurm what was chosen for the job, find it
//! resolved, and change only what they chose otherwise.

use crate::arguments::Arguments;
use crate::key;
use crate::options::{Choice, Chosen};
use crate::program::{self, last_words};
use crate::request::{is_whole_system, resolved};
use crate::site::Site;
use crate::{Context, Level, Spank};
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::{ImageType, is_image_id};
use std::time::Duration;

/// Longest wait for a lookup where `gatewayTimeout` sets no limit: gateways may be many.
const PATIENCE: Duration = Duration::from_secs(300);

/// Checks what was chosen, looks the image up, and publishes both. A sentence says why the job cannot be.
pub fn submit(
    spank: &mut dyn Spank,
    arguments: &Arguments,
    chosen: &Chosen,
    site: &Result<Site, String>,
) -> Result<(), String> {
    let mut chosen = chosen.clone();
    if chosen == Chosen::default() {
        return Ok(());
    }
    let site = site.as_ref().map_err(Clone::clone)?;
    if chosen.ccm {
        let whole = Descriptor { image_type: ImageType::Local, tag: "/".to_owned() };
        if chosen.image.as_ref().is_some_and(|image| !is_whole_system(image)) {
            return Err(
                "--ccm runs in the node's own system: it cannot be used with another --image".to_owned()
            );
        }
        chosen.image = Some(whole);
    }
    if chosen.image.is_none() && !chosen.volumes.is_empty() {
        return Err("Cannot specify shifter volumes without specifying the image first!".to_owned());
    }
    let mut published = Published { spank, arguments };
    if let Some(wanted) = &chosen.image {
        let image = resolve(published.spank, site, wanted)?;
        published.image(&image, wanted);
    }
    if !chosen.volumes.is_empty() {
        published.both("SHIFTER_VOLUME", &chosen.volume_text(), Some(Choice::Volume));
    }
    if let Some(modules) = &chosen.modules {
        published.both("SHIFTER_MODULE", modules, Some(Choice::Module));
    }
    if chosen.ccm {
        published.both("SHIFTER_CCM", "1", None);
        published.remember(Choice::Ccm, "");
    }
    // A step has its job's key.
    let is_step = published.spank.context() == Context::Local && in_job(published.spank).is_some();
    if arguments.enable_sshd && chosen.image.is_some() && !is_step {
        let home =
            published.spank.variable("HOME").ok_or("cannot make the job's ssh key: HOME is not set")?;
        let line = key::make(&home)?;
        published.spank.set_for_prolog("SHIFTER_SSH_PUBKEY", &line);
    }
    Ok(())
}

/// The identifier of what is wanted, or the directory itself.
fn resolve(spank: &mut dyn Spank, site: &Site, wanted: &Descriptor) -> Result<Descriptor, String> {
    if matches!(wanted.image_type, ImageType::Id | ImageType::Local) {
        resolved(wanted, site)?;
        return Ok(wanted.clone());
    }
    if let Some(pinned) = pinned(spank, wanted) {
        return Ok(pinned);
    }
    let program = format!("{}/bin/shifterimg", site.conf.udi_root_path);
    let image = wanted.to_string();
    let home = spank.variable("HOME").unwrap_or_else(|| "/".to_owned());
    let ended = program::run(&[&program, "lookup", &image], &[("HOME", &home)], PATIENCE)
        .map_err(|reason| format!("Failed to lookup image.  Aborting. {image}: {reason}"))?;
    let id = ended.out.lines().map(str::trim).find(|line| ended.well() && is_image_id(line));
    let id =
        id.ok_or_else(|| format!("Failed to lookup image.  Aborting. {image}: {}", last_words(&ended.err)))?;
    spank.say(Level::Debug, &format!("{image} is {id}"));
    Ok(Descriptor { image_type: ImageType::Id, tag: id.to_owned() })
}

/// What the job's own name for its image stands for, for all of the job.
fn pinned(spank: &dyn Spank, wanted: &Descriptor) -> Option<Descriptor> {
    if spank.context() != Context::Local {
        return None;
    }
    in_job(spank)?;
    let find = |name: &str| spank.variable(&format!("SLURM_SPANK_{name}"));
    let named = find("SHIFTER_IMAGEREQUEST")? == wanted.tag
        && find("SHIFTER_IMAGEREQUESTTYPE")? == wanted.image_type.as_str();
    let resolved = find("SHIFTER_IMAGETYPE")? == ImageType::Id.as_str();
    let tag = find("SHIFTER_IMAGE").filter(|id| named && resolved && is_image_id(id))?;
    Some(Descriptor { image_type: ImageType::Id, tag })
}

/// The job this is a step of.
fn in_job(spank: &dyn Spank) -> Option<String> {
    spank.variable("SLURM_JOB_ID").filter(|id| !id.is_empty())
}

struct Published<'a> {
    spank: &'a mut dyn Spank,
    arguments: &'a Arguments,
}

impl Published<'_> {
    fn image(&mut self, image: &Descriptor, wanted: &Descriptor) {
        let kind = image.image_type.as_str();
        let same = |(name, value): &(&str, &str)| {
            self.spank.variable(&format!("SLURM_SPANK_{name}")).as_deref() == Some(*value)
        };
        let own = [("SHIFTER_IMAGE", image.tag.as_str()), ("SHIFTER_IMAGETYPE", kind)];
        let of_job = own.iter().all(same);
        if of_job && own.iter().all(|(name, _)| self.spank.variable(name).is_some()) {
            // The job's own, whose script may have chosen otherwise for what it starts.
            return;
        }
        self.both("SHIFTER_IMAGE", &image.tag, None);
        self.both("SHIFTER_IMAGETYPE", kind, None);
        // Where the step's environment was emptied, the job's own name for its image is still known.
        let named = [
            ("SHIFTER_IMAGEREQUEST", &*wanted.tag),
            ("SHIFTER_IMAGEREQUESTTYPE", wanted.image_type.as_str()),
        ];
        let of_job =
            named.map(|(name, _)| self.spank.variable(&format!("SLURM_SPANK_{name}")).filter(|_| of_job));
        for ((name, value), of_job) in named.into_iter().zip(of_job) {
            self.both(name, of_job.as_deref().unwrap_or(value), None);
        }
        self.remember(Choice::Image, &image.to_string());
    }

    /// Sets a variable for the job and its prolog.
    fn both(&mut self, name: &str, value: &str, choice: Option<Choice>) {
        self.spank.set_variable(name, value);
        self.spank.set_for_prolog(name, value);
        if let Some(choice) = choice {
            self.remember(choice, value);
        }
    }

    /// Makes Slurm tell the job's steps this, and not the last use of the option.
    fn remember(&mut self, choice: Choice, value: &str) {
        let name = choice.memory(self.arguments);
        self.spank.set_variable(&name, value);
        self.spank.set_for_prolog(&name, value);
    }
}

#[cfg(test)]
mod tests;
