//! The options users have in srun, sbatch and salloc, and what they have chosen with them.
//!
//! Slurm calls once for each use: first what the job's environment says, then `#SBATCH` lines, then the command line.
//! So the later wins, and volumes are kept all. For the job's own steps Slurm remembers one value of each option;
//! [`crate::submit`] writes there what all of them come to.

use crate::arguments::Arguments;
use crate::request;
use crate::site::Site;
use shifter_core::descriptor::Descriptor;
use shifter_core::volume::{self, VolumeMap};

/// An option of the plugin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `--image`
    Image,
    /// `--volume`
    Volume,
    /// `--module`
    Module,
    /// `--ccm`
    Ccm,
}

impl Choice {
    /// All of them.
    pub const ALL: [Choice; 4] = [Choice::Image, Choice::Volume, Choice::Module, Choice::Ccm];

    /// The option's name, without its dashes.
    pub fn name(self, arguments: &Arguments) -> String {
        let word = self.word();
        // The original leaves this one short.
        if arguments.long_options && self != Choice::Ccm {
            format!("shifter.{word}")
        } else {
            word.to_owned()
        }
    }

    fn word(self) -> &'static str {
        match self {
            Choice::Image => "image",
            Choice::Volume => "volume",
            Choice::Module => "module",
            Choice::Ccm => "ccm",
        }
    }

    /// The variable in which Slurm remembers the option for the job's steps.
    pub fn memory(self, arguments: &Arguments) -> String {
        format!("_SLURM_SPANK_OPTION_shifter_{}", self.name(arguments).replace('.', "_"))
    }

    /// What its value is called in help texts; none for a flag.
    pub fn value(self) -> Option<&'static str> {
        match self {
            Choice::Image => Some("type:name"),
            Choice::Volume => Some("from:to[:ro]"),
            Choice::Module => Some("name,name"),
            Choice::Ccm => None,
        }
    }

    /// A line of help.
    pub fn help(self) -> &'static str {
        match self {
            Choice::Image => "shifter image to prepare for the job",
            Choice::Volume => "directory to show in containers; may be repeated",
            Choice::Module => "shifter modules of containers; none for none",
            Choice::Ccm => "run the job in a container of the node's own system, with ssh",
        }
    }

    /// Whether the site offers it.
    pub fn offered(self, arguments: &Arguments) -> bool {
        self != Choice::Ccm || arguments.enable_ccm
    }
}

/// What was chosen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The last `--image`.
    pub image: Option<Descriptor>,
    /// Every `--volume`; of the same target the last, in the place of the first.
    pub volumes: Vec<VolumeMap>,
    /// The last `--module`, as written.
    pub modules: Option<String>,
    /// `--ccm`
    pub ccm: bool,
}

impl Chosen {
    /// Takes one use of an option in; a sentence says why not.
    pub fn add(&mut self, choice: Choice, value: &str, site: &Result<Site, String>) -> Result<(), String> {
        let site = site.as_ref().map_err(|reason| {
            format!("--{} cannot be used: Shifter is not set up on this host: {reason}", choice.word())
        })?;
        let named = |said: String| format!("--{}: {said}", choice.word());
        match choice {
            Choice::Image => {
                let parsed = Descriptor::parse(value, site.conf.default_image_type);
                self.image = Some(parsed.map_err(|error| named(error.to_string()))?);
            }
            Choice::Volume => {
                for map in request::volumes(value, site).map_err(named)? {
                    match self.volumes.iter_mut().find(|known| known.to == map.to) {
                        Some(known) => *known = map,
                        None => self.volumes.push(map),
                    }
                }
            }
            Choice::Module => self.modules = Some(request::modules(value, site).map_err(named)?),
            Choice::Ccm => self.ccm = true,
        }
        Ok(())
    }

    /// All volumes as one map list.
    pub fn volume_text(&self) -> String {
        join(&self.volumes)
    }
}

/// Maps as one map list, in their order.
pub fn join(maps: &[volume::VolumeMap]) -> String {
    maps.iter().map(|map| map.signature.as_str()).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use shifter_core::udiroot::UdiRootConf;

    fn site() -> Result<Site, String> {
        let text = "imagePath=/i\nudiRootPath=/usr\ndefaultImageType=docker\nmodule_m_siteEnv=A=1\nmodule_n_siteEnv=A=2";
        Ok(Site { conf: UdiRootConf::parse(text).unwrap(), ..Site::default() })
    }

    #[test]
    fn the_later_use_wins_and_volumes_are_kept_all() {
        let mut chosen = Chosen::default();
        for (choice, value) in [
            (Choice::Image, "custom:a"),
            (Choice::Volume, "/a:/x"),
            (Choice::Volume, "/b:/y:ro;/c:/z"),
            (Choice::Volume, "/d:/x/:ro"),
            (Choice::Image, "debian:12"),
            (Choice::Module, "m,n"),
            (Choice::Module, "n"),
            (Choice::Ccm, ""),
        ] {
            chosen.add(choice, value, &site()).unwrap();
        }
        assert_eq!(chosen.image.as_ref().unwrap().to_string(), "docker:debian:12");
        assert_eq!(chosen.volume_text(), "/d:/x/:ro;/b:/y:ro;/c:/z");
        assert_eq!((chosen.modules.as_deref(), chosen.ccm), (Some("n"), true));
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_a_sentence() {
        let nowhere = Err("cannot read /etc/shifter/udiRoot.conf: No such file".to_owned());
        for (choice, value, site, expected) in [
            (Choice::Image, "", site(), "--image: the image name is empty"),
            (Choice::Image, "docker:a;b", site(), "--image: the character ';'"),
            (
                Choice::Volume,
                "/a:/etc",
                site(),
                "--volume: volume map \"/a:/etc\": \"/etc\" is filled by Shifter",
            ),
            (Choice::Volume, "", site(), "--volume: it is empty"),
            (Choice::Module, "q", site(), "--module: Unknown shifter module: q"),
            (
                Choice::Image,
                "a",
                nowhere,
                "--image cannot be used: Shifter is not set up on this host: cannot read",
            ),
        ] {
            let mut chosen = Chosen::default();
            let said = chosen.add(choice, value, &site).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
            assert_eq!(chosen, Chosen::default());
        }
    }

    #[test]
    fn names_follow_the_sites_choice() {
        let short = Arguments::default();
        let long = Arguments { long_options: true, enable_ccm: true, ..Arguments::default() };
        let names = |arguments: &Arguments| Choice::ALL.map(|choice| choice.name(arguments));
        assert_eq!(names(&short), ["image", "volume", "module", "ccm"]);
        assert_eq!(names(&long), ["shifter.image", "shifter.volume", "shifter.module", "ccm"]);
        assert_eq!(Choice::Image.memory(&long), "_SLURM_SPANK_OPTION_shifter_shifter_image");
        assert!(Choice::Ccm.offered(&long) && !Choice::Ccm.offered(&short));
    }
}
