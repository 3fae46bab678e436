//! The options users have in srun, sbatch and salloc, and what they have chosen with them.
//!
//! Slurm calls once for each use: in sbatch first for `#SBATCH` lines, then for what the job that sbatch runs in was
//! submitted with, then for the command line; in srun and salloc for that job's, then for the command line. The later
//! use wins, but what is only inherited never does, and volumes are kept all. For steps, and for jobs submitted from
//! this one, Slurm remembers one value of each option; [`crate::submit`] writes there what all of them come to.

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

    /// The name where the site has chosen no other.
    pub(crate) fn word(self) -> &'static str {
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

/// What was chosen.
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
    /// Takes one use of an option in, which has this name here; a sentence says why not.
    pub fn add(
        &mut self,
        choice: Choice,
        name: &str,
        value: &str,
        site: &Result<Site, String>,
    ) -> Result<(), String> {
        let site = site.as_ref().map_err(|reason| {
            format!("--{name} cannot be used: Shifter is not set up on this host: {reason}")
        })?;
        let named = |said: String| format!("--{name}: {said}");
        // What C's bytes become where they are no text; it would be another name.
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(named("it is not UTF-8, or has U+FFFD in it, which stands for that".to_owned()));
        }
        match choice {
            Choice::Image => {
                let parsed = Descriptor::parse(value, site.conf.default_image_type);
                self.image = Some(parsed.map_err(|error| named(error.to_string()))?);
            }
            Choice::Volume => {
                for map in request::volumes(value, site).map_err(named)? {
                    self.add_volume(map);
                }
            }
            Choice::Module => self.modules = Some(request::modules(value, site).map_err(named)?),
            Choice::Ccm => self.ccm = true,
        }
        Ok(())
    }

    /// This, and what it leaves open as inherited. In a step the job's `--ccm` stays: its tasks run in that container.
    fn upon(&self, inherited: &Chosen, is_step: bool) -> Chosen {
        let image = self.image.as_ref().or(inherited.image.as_ref().filter(|_| !self.ccm));
        // Jobs that a --ccm job submitted with an image remember both.
        let of_job = inherited.ccm && inherited.image.as_ref().is_none_or(request::is_whole_system);
        let mut all = Chosen {
            image: image.cloned(),
            volumes: inherited.volumes.clone(),
            modules: self.modules.clone().or_else(|| inherited.modules.clone()),
            ccm: self.ccm || of_job && (is_step || self.image.is_none()),
        };
        self.volumes.iter().cloned().for_each(|map| all.add_volume(map));
        all
    }

    fn add_volume(&mut self, map: VolumeMap) {
        match self.volumes.iter_mut().find(|known| known.to == map.to) {
            Some(known) => *known = map,
            None => self.volumes.push(map),
        }
    }

    /// All volumes as one map list.
    pub fn volume_text(&self) -> String {
        join(&self.volumes)
    }
}

/// What was used in this process, and whose choice it was.
#[derive(Debug, Default)]
pub struct Uses {
    own: Chosen,
    inherited: Chosen,
    handed_on: Vec<Choice>,
    /// What the components of a heterogeneous job before this one came to.
    before: Option<Chosen>,
}

impl Uses {
    /// Takes one use in, of an option that has this name here. `memory` is what Slurm remembers of the option ([`Choice::memory`]) and hands on once: so the
    /// first use that says the same is that one, and whatever else is used counts more.
    pub fn add(
        &mut self,
        choice: Choice,
        name: &str,
        value: &str,
        memory: Option<&str>,
        site: &Result<Site, String>,
    ) -> Result<(), String> {
        let remembered = memory == Some(value);
        if remembered && site.is_err() {
            // Checked at submission; where a step is started, in a container for instance, it need not be known.
            return Ok(());
        }
        if remembered && !self.handed_on.contains(&choice) {
            self.handed_on.push(choice);
            return self.inherited.add(choice, name, value, site);
        }
        self.own.add(choice, name, value, site)
    }

    /// What was chosen in this process itself, and not handed on to it.
    pub fn own(&self) -> &Chosen {
        &self.own
    }

    /// What they come to, for a step or for a job: called once for each component of a heterogeneous one. All have one
    /// environment, so one with choices that the others lack would silently have theirs, or they its.
    pub fn all(&mut self, is_step: bool) -> Result<Chosen, String> {
        let all = self.own.upon(&self.inherited, is_step);
        if self.before.as_ref().is_some_and(|before| *before != all) {
            return Err("the components of a heterogeneous job have one image, and one set of volumes and modules: name \
                 them for the first one; steps started by an srun each may have others"
                .to_owned());
        }
        self.before = Some(all.clone());
        self.handed_on.clear();
        Ok(all)
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
            chosen.add(choice, choice.word(), value, &site()).unwrap();
        }
        assert_eq!(chosen.image.as_ref().unwrap().to_string(), "docker:debian:12");
        assert_eq!(chosen.volume_text(), "/d:/x/:ro;/b:/y:ro;/c:/z");
        assert_eq!((chosen.modules.as_deref(), chosen.ccm), (Some("n"), true));
    }

    /// What sbatch sees in a job: the script, then the job's memory, then the command line.
    #[test]
    fn a_script_that_names_its_own_is_not_given_the_image_and_volumes_of_the_job_it_was_submitted_from() {
        use Choice::{Ccm, Image, Module, Volume};
        let id = format!("id:{}", "1".repeat(64));
        let job = [(Image, id.as_str()), (Volume, "/o:/o;/o:/x"), (Module, "m")];
        let in_ccm = [(Image, "local:/"), (Ccm, "")];
        let submitted_from_ccm = [(Image, id.as_str()), (Ccm, "")];
        for (memory, script, command, expected, of_step) in [
            (&job[..], &[][..], &[][..], format!("{id} /o:/o;/o:/x m false"), "the same"),
            (
                &job,
                &[(Image, "docker:s"), (Volume, "/s:/x;/s:/s"), (Module, "n")],
                &[],
                "docker:s /o:/o;/s:/x;/s:/s n false".to_owned(),
                "the same",
            ),
            (
                &job,
                &[(Image, "docker:s")],
                &[(Image, "docker:c")],
                "docker:c /o:/o;/o:/x m false".to_owned(),
                "the same",
            ),
            // The command line may say what the job's was.
            (
                &job,
                &[(Image, "docker:s"), (Module, "n")],
                &[(Image, id.as_str()), (Module, "m")],
                format!("{id} /o:/o;/o:/x m false"),
                "the same",
            ),
            // And so may the script.
            (&job, &[(Module, "m")], &[(Module, "n")], format!("{id} /o:/o;/o:/x n false"), "the same"),
            (&job, &[], &[(Ccm, "")], "- /o:/o;/o:/x m true".to_owned(), "the same"),
            (&in_ccm, &[], &[], "local:/  - true".to_owned(), "the same"),
            (&in_ccm, &[(Image, "docker:s")], &[], "docker:s  - false".to_owned(), "docker:s  - true"),
            (&in_ccm, &[(Image, "docker:s")], &[(Ccm, "")], "docker:s  - true".to_owned(), "the same"),
            (&submitted_from_ccm, &[], &[], format!("{id}  - false"), "the same"),
        ] {
            let mut uses = Uses::default();
            for (choice, value) in script.iter().chain(memory).chain(command) {
                let known = memory.iter().find(|(known, _)| known == choice).map(|(_, value)| *value);
                uses.add(*choice, choice.word(), value, known, &site()).unwrap();
            }
            let shown = |is_step: bool| {
                let all = uses.own.upon(&uses.inherited, is_step);
                let image = all.image.as_ref().map_or("-".to_owned(), ToString::to_string);
                let modules = all.modules.as_deref().unwrap_or("-");
                format!("{image} {} {modules} {}", all.volume_text(), all.ccm)
            };
            assert_eq!(shown(false), expected, "{memory:?} {script:?} {command:?}");
            let of_step = if of_step == "the same" { expected.as_str() } else { of_step };
            assert_eq!(shown(true), of_step, "{memory:?} {script:?} {command:?}");
        }
    }

    #[test]
    fn what_is_only_handed_on_needs_no_configuration() {
        let nowhere = Err("cannot read".to_owned());
        let mut uses = Uses::default();
        for _ in 0..2 {
            uses.add(Choice::Image, "image", "id:1", Some("id:1"), &nowhere).unwrap();
        }
        assert!(
            uses.add(Choice::Image, "image", "id:2", Some("id:1"), &nowhere)
                .unwrap_err()
                .contains("not set up")
        );
        assert_eq!(uses.all(true), Ok(Chosen::default()));
    }

    /// What Slurm hands on to a second component is what the first has left.
    #[test]
    fn a_component_with_other_choices_than_the_first_is_refused() {
        use Choice::{Ccm, Image, Module, Volume};
        let id = format!("id:{}", "1".repeat(64));
        let app = (Image, "docker:app");
        for (first, memory, second, good) in [
            (&[app][..], &[][..], &[][..], true),
            (&[app], &[], &[app], true),
            (&[app], &[(Image, id.as_str())], &[], true),
            (&[app, (Volume, "/a:/x")], &[(Image, id.as_str()), (Volume, "/a:/x")], &[app], true),
            (&[], &[], &[], true),
            // The first one's environment is the script's, which would not know of it.
            (&[], &[], &[app, (Volume, "/a:/x")], false),
            (&[app], &[], &[(Image, "docker:other")], false),
            (&[app], &[(Image, id.as_str())], &[(Image, "docker:other")], false),
            (&[app], &[], &[(Volume, "/a:/x")], false),
            (&[app, (Volume, "/a:/x")], &[(Volume, "/a:/x")], &[(Volume, "/b:/x")], false),
            (&[app], &[], &[(Module, "m")], false),
            (&[app], &[], &[(Ccm, "")], false),
        ] {
            let mut uses = Uses::default();
            for (choice, value) in first {
                uses.add(*choice, choice.word(), value, None, &site()).unwrap();
            }
            let came_to = uses.all(false).unwrap();
            for (choice, value) in second.iter().chain(memory) {
                let known = memory.iter().find(|(known, _)| known == choice).map(|(_, value)| *value);
                uses.add(*choice, choice.word(), value, known, &site()).unwrap();
            }
            let all = uses.all(false);
            assert_eq!(all.is_ok(), good, "{first:?} {second:?}: {all:?}");
            match all {
                Ok(all) => assert!(first.is_empty() || all == came_to, "{first:?} {second:?}: {all:?}"),
                Err(said) => assert!(said.starts_with("the components of a heterogeneous job"), "{said}"),
            }
        }
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
            (Choice::Volume, "/home/alice/\u{fffd}:/x", site(), "--volume: it is not UTF-8"),
            (Choice::Module, "q", site(), "--module: Unknown shifter module: q"),
            (
                Choice::Image,
                "a",
                nowhere,
                "--image cannot be used: Shifter is not set up on this host: cannot read",
            ),
        ] {
            let mut chosen = Chosen::default();
            let said = chosen.add(choice, choice.word(), value, &site).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
            assert_eq!(chosen, Chosen::default());
        }
        // By the name that the site gave it.
        let said = Chosen::default().add(Choice::Module, "shifter.module", "q", &site()).unwrap_err();
        assert!(said.starts_with("--shifter.module: Unknown"), "{said}");
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
