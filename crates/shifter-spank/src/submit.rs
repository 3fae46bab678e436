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
/// In a step with another image: `JOB TYPE:NAME ID` of the job's own.
const PINNED: &str = "SLURM_SPANK_SHIFTER_PINNED";

/// Checks what was chosen, looks the image up, and publishes both. A sentence says why the job cannot be.
pub fn submit(
    spank: &mut dyn Spank,
    arguments: &Arguments,
    chosen: &Chosen,
    own: &Chosen,
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
    let is_step = is_step(spank);
    let mut published = Published { spank, arguments, is_step };
    if let Some(wanted) = &chosen.image {
        let image = resolve(published.spank, site, wanted)?;
        published.image(&image, wanted, own.image.is_some() || own.ccm);
    }
    if !chosen.volumes.is_empty() && published.is_wanted("SHIFTER_VOLUME", !own.volumes.is_empty()) {
        published.both("SHIFTER_VOLUME", &chosen.volume_text(), Some(Choice::Volume));
    }
    if let Some(modules) = &chosen.modules
        && published.is_wanted("SHIFTER_MODULE", own.modules.is_some())
    {
        published.both("SHIFTER_MODULE", modules, Some(Choice::Module));
    }
    if chosen.ccm {
        published.both("SHIFTER_CCM", "1", None);
        published.remember(Choice::Ccm, "");
    }
    // A step has its job's key.
    if arguments.enable_sshd && chosen.image.is_some() && !is_step {
        let made = key::home().and_then(|home| key::make(&home));
        give_key(published.spank, made, chosen.ccm)?;
    }
    Ok(())
}

/// A job without a key has no sshd, which most do not miss; a --ccm job is for its ssh.
fn give_key(spank: &mut dyn Spank, made: Result<String, String>, ccm: bool) -> Result<(), String> {
    match made {
        Ok(line) => spank.set_for_prolog("SHIFTER_SSH_PUBKEY", &line),
        Err(reason) if ccm => return Err(reason),
        Err(reason) => spank.say(Level::Info, &format!("shifter: this job has no sshd: {reason}")),
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
    if !is_step(spank) {
        return None;
    }
    let job = in_job(spank)?;
    if let Some(kept) = spank.variable(PINNED)
        && let Some(id) = kept.strip_prefix(&format!("{job} {wanted} ")).filter(|id| is_image_id(id))
    {
        return Some(Descriptor { image_type: ImageType::Id, tag: id.to_owned() });
    }
    let find = |name: &str| spank.variable(&format!("SLURM_SPANK_{name}"));
    let named = find("SHIFTER_IMAGEREQUEST")? == wanted.tag
        && find("SHIFTER_IMAGEREQUESTTYPE")? == wanted.image_type.as_str();
    let resolved = find("SHIFTER_IMAGETYPE")? == ImageType::Id.as_str();
    let tag = find("SHIFTER_IMAGE").filter(|id| named && resolved && is_image_id(id))?;
    Some(Descriptor { image_type: ImageType::Id, tag })
}

/// The job this runs in.
fn in_job(spank: &dyn Spank) -> Option<String> {
    spank.variable("SLURM_JOB_ID").filter(|id| !id.is_empty())
}

/// Whether this is srun in a job, which starts a step of it, and no job.
pub fn is_step(spank: &dyn Spank) -> bool {
    spank.context() == Context::Local && in_job(spank).is_some()
}

struct Published<'a> {
    spank: &'a mut dyn Spank,
    arguments: &'a Arguments,
    is_step: bool,
}

impl Published<'_> {
    /// Whether a variable is to be set to what was chosen: not in a step that was only handed on what its job has, where a
    /// script may have chosen otherwise for what it starts.
    fn is_wanted(&self, name: &str, is_own: bool) -> bool {
        is_own || !self.is_step || self.spank.variable(name).is_none()
    }

    fn image(&mut self, image: &Descriptor, wanted: &Descriptor, is_own: bool) {
        let kind = image.image_type.as_str();
        let same = |(name, value): &(&str, &str)| {
            self.spank.variable(&format!("SLURM_SPANK_{name}")).as_deref() == Some(*value)
        };
        let variables = [("SHIFTER_IMAGE", image.tag.as_str()), ("SHIFTER_IMAGETYPE", kind)];
        let of_job = variables.iter().all(same);
        let stays = |(name, value): &(&str, &str)| {
            !self.is_wanted(name, is_own)
                || self.is_step && self.spank.variable(name).as_deref() == Some(*value)
        };
        if of_job && variables.iter().all(stays) {
            return;
        }
        if !of_job {
            self.keep_pin();
        }
        self.both("SHIFTER_IMAGE", &image.tag, None);
        self.both("SHIFTER_IMAGETYPE", kind, None);
        // Where the step's environment was emptied, the job's own name for its image is still known; and a job that was
        // handed on no more than the identifier has that name, too.
        let named = [
            ("SHIFTER_IMAGEREQUEST", &*wanted.tag),
            ("SHIFTER_IMAGEREQUESTTYPE", wanted.image_type.as_str()),
        ];
        let keeps_name = of_job && (self.is_step || wanted.image_type == ImageType::Id);
        let of_job =
            named.map(|(name, _)| self.spank.variable(&format!("SLURM_SPANK_{name}")).filter(|_| keeps_name));
        for ((name, value), of_job) in named.into_iter().zip(of_job) {
            self.both(name, of_job.as_deref().unwrap_or(value), None);
        }
        self.remember(Choice::Image, &image.to_string());
    }

    /// For a step with another image: sruns inside of it still know what the job's name for its own stands for.
    fn keep_pin(&mut self) {
        let find = |name: &str| self.spank.variable(&format!("SLURM_SPANK_{name}"));
        let Some(job) = in_job(self.spank).filter(|_| self.is_step) else { return };
        let is_kept = self.spank.variable(PINNED).is_some_and(|kept| kept.starts_with(&format!("{job} ")));
        if let (Some(kind), Some(name), Some(id), false) =
            (find("SHIFTER_IMAGEREQUESTTYPE"), find("SHIFTER_IMAGEREQUEST"), find("SHIFTER_IMAGE"), is_kept)
        {
            self.spank.set_variable(PINNED, &format!("{job} {kind}:{name} {id}"));
        }
    }

    /// Sets a variable for the job and its prolog.
    fn both(&mut self, name: &str, value: &str, choice: Option<Choice>) {
        self.set(name, value);
        if let Some(choice) = choice {
            self.remember(choice, value);
        }
    }

    /// Makes Slurm tell the job's steps this, and not the last use of the option.
    fn remember(&mut self, choice: Choice, value: &str) {
        let name = choice.memory(self.arguments);
        self.set(&name, value);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.spank.set_variable(name, value);
        self.spank.set_for_prolog(name, value);
        if self.is_step {
            // Slurm does not do it for a job that runs, and nothing else passes `srun --export=NONE`.
            self.spank.set_variable(&format!("SLURM_SPANK_{name}"), value);
        }
    }
}

#[cfg(test)]
mod tests;
