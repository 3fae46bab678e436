//! Submission against a Slurm that only records, and a shifterimg that knows one image.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::options::Uses;
use crate::recording::Recording;
use shifter_core::udiroot::UdiRootConf;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const NEW: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OLD: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// What the environment of a job holds that has the image `OLD`.
const IN_A_JOB: [(&str, &str); 5] = [
    ("SLURM_JOB_ID", "5"),
    ("SLURM_SPANK_SHIFTER_IMAGE", OLD),
    ("SLURM_SPANK_SHIFTER_IMAGETYPE", "id"),
    ("SLURM_SPANK_SHIFTER_IMAGEREQUEST", "known"),
    ("SLURM_SPANK_SHIFTER_IMAGEREQUESTTYPE", "docker"),
];

/// A site whose shifterimg knows `known` and takes down what it was asked.
struct Fixture {
    site: Result<Site, String>,
    place: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("bin/shifterimg");
    fs::create_dir(place.path().join("bin")).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}/asked\n[ \"${{2%:2}}\" = docker:known ] && echo {NEW} || {{ echo no such image >&2; exit 1; }}\n",
        place.path().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "imagePath=/i\nudiRootPath={}\ndefaultImageType=docker\nmodule_m_siteEnv=A=1",
        place.path().display()
    );
    Fixture { site: Ok(Site { conf: UdiRootConf::parse(&text).unwrap(), ..Site::default() }), place }
}

impl Fixture {
    fn submit(&self, spank: &mut Recording, uses: &[(Choice, &str)]) -> Result<(), String> {
        self.submit_upon(spank, &[], uses)
    }

    /// With what was handed on from a job.
    fn submit_upon(
        &self,
        spank: &mut Recording,
        handed_on: &[(Choice, &str)],
        own: &[(Choice, &str)],
    ) -> Result<(), String> {
        let mut uses = Uses::default();
        for (choice, value) in handed_on {
            uses.add(*choice, choice.word(), value, Some(value), &self.site)?;
        }
        for (choice, value) in own {
            uses.add(*choice, choice.word(), value, None, &self.site)?;
        }
        let chosen = uses.all(is_step(spank))?;
        submit(spank, &Arguments::default(), &chosen, uses.own(), &self.site)
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.place.path().join("asked")).unwrap_or_default()
    }
}

#[test]
fn an_image_is_looked_up_once_and_published_under_the_originals_names() {
    let fixture = fixture();
    let mut spank = Recording::new(Context::Allocator, &[("SHIFTER_VOLUME", "/old:/old")]);
    let uses = [
        (Choice::Image, "known"),
        (Choice::Volume, "/a:/x"),
        (Choice::Volume, "/b:/y"),
        (Choice::Module, "m"),
    ];
    fixture.submit(&mut spank, &uses).unwrap();
    assert_eq!(fixture.asked(), "lookup docker:known\n");
    let id = format!("id:{NEW}");
    let expected = [
        ("SHIFTER_IMAGE", NEW),
        ("SHIFTER_IMAGEREQUEST", "known"),
        ("SHIFTER_IMAGEREQUESTTYPE", "docker"),
        ("SHIFTER_IMAGETYPE", "id"),
        ("SHIFTER_MODULE", "m"),
        ("SHIFTER_VOLUME", "/a:/x;/b:/y"),
        ("_SLURM_SPANK_OPTION_shifter_image", &id),
        ("_SLURM_SPANK_OPTION_shifter_module", "m"),
        ("_SLURM_SPANK_OPTION_shifter_volume", "/a:/x;/b:/y"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!((&spank.for_prolog, &spank.variables), (&expected, &expected));
}

#[test]
fn a_job_without_options_is_left_alone_even_where_shifter_is_not_set_up() {
    let mut spank = Recording::new(Context::Allocator, &[("SHIFTER_IMAGE", "x")]);
    let nowhere = Err("cannot read /etc/shifter/udiRoot.conf".to_owned());
    submit(&mut spank, &Arguments::default(), &Chosen::default(), &Chosen::default(), &nowhere).unwrap();
    assert!(spank.for_prolog.is_empty() && spank.said.is_empty() && spank.variables.len() == 1);
}

#[test]
fn what_cannot_be_is_said_and_nothing_is_published() {
    let fixture = fixture();
    for (uses, expected) in [
        (
            &[(Choice::Image, "unknown")][..],
            "Failed to lookup image.  Aborting. docker:unknown: no such image",
        ),
        (&[(Choice::Volume, "/a:/b")], "Cannot specify shifter volumes without specifying the image first!"),
        (&[(Choice::Image, "id:12")], "\"12\" is no image identifier"),
        (&[(Choice::Image, "local:/")], "local: images are not allowed here (allowLocalChroot)"),
        (&[(Choice::Ccm, ""), (Choice::Image, "known")], "--ccm runs in the node's own system"),
        (&[(Choice::Ccm, "")], "local: images are not allowed here"),
    ] {
        let mut spank = Recording::new(Context::Allocator, &[]);
        let said = fixture.submit(&mut spank, uses).unwrap_err();
        assert!(said.starts_with(expected), "{said}");
        assert!(spank.for_prolog.is_empty() && spank.variables.is_empty(), "{uses:?}");
    }
}

#[test]
fn steps_keep_their_jobs_image_under_its_name_and_may_have_another() {
    let fixture = fixture();
    let [a, b, c, d, e] = IN_A_JOB;
    let job = [a, b, c, d, e, ("SHIFTER_IMAGE", OLD), ("SHIFTER_IMAGETYPE", "id")];
    let (inherited, inherited_new) = (format!("id:{OLD}"), format!("id:{NEW}"));
    // What Slurm remembers of the job, and the job's own name for it, whatever it means by now.
    for image in [inherited.as_str(), "docker:known"] {
        let mut spank = Recording::new(Context::Local, &job);
        fixture.submit(&mut spank, &[(Choice::Image, image)]).unwrap();
        assert_eq!(spank.for_prolog, BTreeMap::new(), "{image}");
        assert_eq!(fixture.asked(), "");
    }
    // What the script has chosen for its steps stays, unless the command line says otherwise.
    let handed_on = [(Choice::Image, inherited.as_str()), (Choice::Volume, "/a:/x"), (Choice::Module, "m")];
    let scripts = [("SHIFTER_IMAGE", "other"), ("SHIFTER_VOLUME", "/s:/s"), ("SHIFTER_MODULE", "")];
    for (own, expected) in [
        (&[][..], ["other", "/s:/s", ""]),
        (&[(Choice::Image, "docker:known")], [OLD, "/s:/s", ""]),
        (&[(Choice::Image, inherited_new.as_str())], [NEW, "/s:/s", ""]),
        (&[(Choice::Volume, "/b:/y")], ["other", "/a:/x;/b:/y", ""]),
        (&[(Choice::Module, "none")], ["other", "/s:/s", "none"]),
    ] {
        let mut spank = Recording::new(Context::Local, &job);
        spank.variables.extend(scripts.map(|(name, value)| (name.to_owned(), value.to_owned())));
        fixture.submit_upon(&mut spank, &handed_on, own).unwrap();
        assert_eq!(scripts.map(|(name, _)| spank.variables[name].as_str()), expected, "{own:?}");
    }
    // Where the environment was emptied, it is the job's.
    let mut spank = Recording::new(Context::Local, &job[..5]);
    fixture.submit_upon(&mut spank, &handed_on, &[]).unwrap();
    assert_eq!(scripts.map(|(name, _)| spank.variables[name].as_str()), [OLD, "/a:/x", "m"]);
    // Another job submitted from this one, and another image.
    let mut spank = Recording::new(Context::Allocator, &job);
    fixture.submit(&mut spank, &[(Choice::Image, "docker:known")]).unwrap();
    assert_eq!(
        (spank.for_prolog["SHIFTER_IMAGE"].as_str(), fixture.asked().as_str()),
        (NEW, "lookup docker:known\n")
    );
    // Also with the very image of this one: the other job's prolog knows only what is submitted with it.
    let job = job.map(|(name, value)| (name, if value == OLD { NEW } else { value }));
    let mut spank = Recording::new(Context::Allocator, &job);
    fixture.submit(&mut spank, &[(Choice::Image, "docker:known")]).unwrap();
    assert_eq!(spank.for_prolog["SHIFTER_IMAGE"], NEW);
    // It has the name that it was submitted with, and this one's where it was handed on.
    for (handed_on, own, expected) in [
        (&[][..], &[(Choice::Image, "docker:known:2")][..], "known:2"),
        (&[(Choice::Image, inherited_new.as_str())], &[], "known"),
    ] {
        let mut spank = Recording::new(Context::Allocator, &job);
        fixture.submit_upon(&mut spank, handed_on, own).unwrap();
        assert_eq!(spank.for_prolog["SHIFTER_IMAGE"], NEW, "{expected}");
        assert_eq!(spank.for_prolog["SHIFTER_IMAGEREQUEST"], expected);
    }
}

#[test]
fn a_step_with_another_image_keeps_it_in_an_emptied_environment_and_its_sruns_know_the_jobs_name() {
    let fixture = fixture();
    let [a, b, c, d, e] = IN_A_JOB;
    let job = [a, b, c, d, e, ("SLURM_SPANK_SHIFTER_VOLUME", "/a:/x")];
    let mut spank = Recording::new(Context::Local, &job);
    let other = format!("id:{NEW}");
    let uses = [(Choice::Image, &*other), (Choice::Volume, "/b:/y"), (Choice::Module, "m")];
    fixture.submit(&mut spank, &uses).unwrap();
    // What `srun --export=NONE` leaves.
    spank.variables.retain(|name, _| name.starts_with("SLURM_"));
    for (name, expected) in [
        ("SHIFTER_IMAGE", NEW),
        ("SHIFTER_IMAGEREQUEST", NEW),
        ("SHIFTER_IMAGEREQUESTTYPE", "id"),
        ("SHIFTER_VOLUME", "/b:/y"),
        ("SHIFTER_MODULE", "m"),
        ("_SLURM_SPANK_OPTION_shifter_image", &other),
        ("_SLURM_SPANK_OPTION_shifter_volume", "/b:/y"),
    ] {
        assert_eq!(spank.variables[&format!("SLURM_SPANK_{name}")], expected, "{name}");
    }
    // A step in the step: Slurm tells it the outer one's, and the job's name still means the job's image.
    for (image, expected) in [(&*other, NEW), ("docker:known", OLD), (&*other, NEW)] {
        fixture.submit(&mut spank, &[(Choice::Image, image)]).unwrap();
        assert_eq!(spank.variables["SHIFTER_IMAGE"], expected, "{image}");
    }
    assert_eq!(fixture.asked(), "");
    // In another job that was submitted from there, the name is that job's to look up.
    spank.variables.insert("SLURM_JOB_ID".to_owned(), "6".to_owned());
    fixture.submit(&mut spank, &[(Choice::Image, "docker:known")]).unwrap();
    assert_eq!(spank.variables["SHIFTER_IMAGE"], NEW);
}

#[test]
fn no_key_is_no_reason_to_refuse_a_job_unless_it_is_for_its_ssh() {
    for (made, ccm, done, key, said) in [
        (Ok("line"), false, Ok(()), Some("line"), ""),
        (Ok("line"), true, Ok(()), Some("line"), ""),
        (Err("full"), false, Ok(()), None, "shifter: this job has no sshd: full"),
        (Err("full"), true, Err("full"), None, ""),
    ] {
        let mut spank = Recording::new(Context::Allocator, &[]);
        let result = give_key(&mut spank, made.map(str::to_owned).map_err(str::to_owned), ccm);
        assert_eq!(result, done.map_err(str::to_owned), "{made:?} {ccm}");
        assert_eq!(spank.for_prolog.get("SHIFTER_SSH_PUBKEY").map(String::as_str), key, "{made:?} {ccm}");
        let expected = [(Level::Info, said.to_owned())];
        assert_eq!(spank.said, expected[..usize::from(!said.is_empty())], "{made:?} {ccm}");
    }
}

#[test]
fn a_name_stands_for_the_jobs_image_only_with_the_jobs_type() {
    let fixture = fixture();
    for (of_job, asked, pinned) in [
        (Some("docker"), "docker:known", true),
        (Some("custom"), "custom:known", true),
        (Some("custom"), "docker:known", false),
        (Some("docker"), "custom:known", false),
        // Submitted by a plugin that did not tell the type.
        (None, "docker:known", false),
    ] {
        let mut spank = Recording::new(
            Context::Local,
            &[
                ("SLURM_JOB_ID", "5"),
                ("SLURM_SPANK_SHIFTER_IMAGE", OLD),
                ("SLURM_SPANK_SHIFTER_IMAGETYPE", "id"),
                ("SLURM_SPANK_SHIFTER_IMAGEREQUEST", "known"),
            ],
        );
        if let Some(kind) = of_job {
            spank.variables.insert("SLURM_SPANK_SHIFTER_IMAGEREQUESTTYPE".to_owned(), kind.to_owned());
        }
        let _unknown_here = fs::remove_file(fixture.place.path().join("asked"));
        let done = fixture.submit(&mut spank, &[(Choice::Image, asked)]);
        let known = asked == "docker:known";
        assert_eq!(done.is_ok(), pinned || known, "{of_job:?} {asked}");
        assert_eq!(fixture.asked().is_empty(), pinned, "{of_job:?} {asked}");
        if pinned {
            let kind = of_job.unwrap();
            assert_eq!(spank.variables["SHIFTER_IMAGE"], OLD);
            assert_eq!(spank.variables["SHIFTER_IMAGEREQUESTTYPE"], kind);
        }
    }
}
