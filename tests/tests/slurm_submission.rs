//! What is decided and said when a job is submitted: which image, for whom, and why not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::site::local;
use common::slurm::{SlurmSite, image_named};
use shifter_tests::fixture::{Built, Image, Layer};
use shifter_tests::harness::{GatewayOptions, Registry, RegistryOptions, SlurmOptions};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const LOGIN: (&str, &str) = ("ada", "pass:word");

fn one_node() -> SlurmOptions {
    SlurmOptions { nodes: 1, cpus: 4, ..SlurmOptions::default() }
}

fn built(name: &str) -> Built {
    Image::new(vec![Layer::new(image_named(name))]).build().unwrap()
}

/// A cluster whose gateway has one registry, with `open/app:1` and `closed/app:1` in it.
fn with_gateway(arguments: &str) -> (SlurmSite, Registry) {
    let mut registry = None;
    let site = SlurmSite::with(arguments, one_node(), |sandbox, munged| {
        // All below `open` is everybody's; all below `closed` wants a password, which alice has.
        let tokens = sandbox.token_service(&[LOGIN]).unwrap();
        let made = RegistryOptions { tokens: Some(&tokens), ..RegistryOptions::default() };
        let made = sandbox.registry(made).unwrap();
        for name in ["open/app", "closed/app"] {
            sandbox.push(&made, &built("old\n"), name, "1").unwrap();
        }
        let options = GatewayOptions { locations: vec![local(&made.url)], ..GatewayOptions::default() };
        sandbox.gateway(munged, &options).unwrap();
        registry = Some(made);
    });
    let store = format!(
        "umask 077; mkdir .udiRoot; echo testsystem:local=$(munge -s {}:{}) > .udiRoot/.cred",
        LOGIN.0, LOGIN.1
    );
    site.run("alice", &["bash", "-ec", &store]).success().unwrap();
    (site, registry.unwrap())
}

#[test]
fn what_cannot_be_is_said_at_submission_by_every_command_and_no_job_comes_of_it() {
    let (site, _) = with_gateway("");
    let image = site.image();
    for (options, expected) in [
        (
            &["--image=docker:local/nosuch:1"][..],
            "Failed to lookup image.  Aborting. docker:local/nosuch:1: ",
        ),
        (&["--image=docker:a;b"], "--image: the character ';' cannot be part of a docker image name"),
        (&["--image="], "--image: the image name is empty"),
        (&["--image=id:../../etc"], "--image: the character '/' cannot be part of a id image name"),
        (&["--image=id:12"], "\"12\" is no image identifier"),
        (&["--image=local:/"], "local: images are not allowed here (allowLocalChroot)"),
        (
            &[&image, "--volume=/home:/etc"],
            "--volume: volume map \"/home:/etc\": \"/etc\" is filled by Shifter",
        ),
        (&[&image, "--volume=/home:/mnt:rec"], "is for siteFs"),
        (&[&image, "--module=zz"], "--module: Unknown shifter module: zz"),
        (&["--volume=/home:/mnt"], "Cannot specify shifter volumes without specifying the image first!"),
    ] {
        // In a script's own lines the shell has no say, and Slurm splits words at blanks.
        let lines: String = options.iter().map(|option| format!("#SBATCH {option}\n")).collect();
        fs::write("/home/alice/lines.sh", format!("#!/bin/bash\n{lines}true\n")).unwrap();
        for (name, before, after) in [
            ("srun", options, "true"),
            ("salloc", options, "true"),
            ("sbatch", options, "--wrap=true"),
            ("sbatch", &[], "lines.sh"),
        ] {
            let out = site.run("alice", &[&[name], before, &[after]].concat());
            assert!(
                !out.status.success() && out.err().contains(&format!("{name}: error: shifter: ")),
                "{}",
                out.describe()
            );
            assert!(out.err().contains(expected), "{}", out.describe());
        }
    }
    let bytes = format!("mkdir $'\\xff'; srun {image} --volume=$'/home/alice/\\xff:/mnt' true");
    let out = site.run("alice", &["bash", "-c", &bytes]);
    assert!(
        !out.status.success() && out.err().contains("shifter: --volume: it is not UTF-8"),
        "{}",
        out.describe()
    );
    assert_eq!(site.run("alice", &["squeue", "-h", "-t", "all"]).out(), "");
    site.finish();
}

#[test]
fn a_job_keeps_the_image_it_was_submitted_with() {
    let (mut site, registry) = with_gateway("shared_jobs=1");
    let pull = ["shifterimg", "pull", "docker:local/open/app:1"];
    site.run("alice", &pull).success().unwrap();
    let script = "echo asked $SHIFTER_IMAGEREQUEST got $SHIFTER_IMAGETYPE:$SHIFTER_IMAGE\n\
        srun shifter cat /etc/which\nsrun --image=docker:local/open/app:1 shifter cat /etc/which\n";
    let option = "--image=docker:local/open/app:1";
    let job = site.submit("alice", &["--hold", option], script);
    site.sandbox.push(&registry, &built("new\n"), "open/app", "1").unwrap();
    site.run("alice", &pull).success().unwrap();
    site.run("alice", &["scontrol", "release", &job]).success().unwrap();
    assert_eq!(site.end_of(&job), "COMPLETED");
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    let id = built("old\n").id().to_owned();
    assert_eq!(out, format!("asked local/open/app:1 got id:{id}\nold\nold\n"));
    assert!(site.batch_well("alice", &[option], script).ends_with("\nnew\nnew\n"));
    site.finish();
}

#[test]
fn a_job_submitted_from_inside_a_job_runs_what_its_own_script_says() {
    let site = SlurmSite::with("shared_jobs=1", one_node(), |_, _| {});
    let second = site.sandbox.install_image(&image_named("second\n"), "").unwrap();
    for name in ["a", "b", "c"] {
        fs::create_dir(format!("/home/alice/{name}")).unwrap();
        fs::write(format!("/home/alice/{name}/name"), format!("{name}\n")).unwrap();
    }
    let show = "srun shifter cat /etc/which /x/name /y/name";
    for (script, options, expected) in [
        ("", "", "first\na\nc\n"),
        (&*format!("#SBATCH --image=id:{second} --volume=/home/alice/b:/x\n"), "", "second\nb\nc\n"),
        (&format!("#SBATCH --image=id:{second}\n"), &site.image(), "first\na\nc\n"),
    ] {
        fs::write("/home/alice/inner.sh", format!("#!/bin/bash\n{script}{show}\n")).unwrap();
        let inner = format!("sbatch -Q -n1 --wait --output=/home/alice/inner {options} /home/alice/inner.sh");
        let image = site.image();
        let volumes = "--volume=/home/alice/a:/x;/home/alice/c:/y";
        site.run("alice", &["salloc", "-n1", &image, volumes, "bash", "-c", &inner]).success().unwrap();
        let out = fs::read_to_string("/home/alice/inner").unwrap();
        assert_eq!(out, expected, "{script}{options}\n{}", site.logs());
    }
    site.finish();
}

#[test]
fn a_heterogeneous_job_has_one_image_and_is_refused_with_two() {
    let options = SlurmOptions { nodes: 2, cpus: 4, ..SlurmOptions::default() };
    let site = SlurmSite::with("shared_jobs=1", options, |_, _| {});
    let second = format!("--image=id:{}", site.sandbox.install_image(&image_named("second\n"), "").unwrap());
    let image = site.image();
    let show = ["shifter", "cat", "/etc/which"];
    let two = ["-n1", &image, ":", "-n1", &second];
    let written =
        format!("#!/bin/bash\n#SBATCH -n1 {image}\n#SBATCH hetjob\n#SBATCH -n1 {second}\nsrun true\n");
    fs::write("/home/alice/two.sh", &written).unwrap();
    fs::write("/home/alice/none.sh", "#!/bin/bash\nsrun true\n").unwrap();
    for words in [
        [&["srun", "-n1", &image, "true", ":", "-n1", &second, "true"][..], &[]].concat(),
        [&["salloc"][..], &two, &["true"]].concat(),
        [&["sbatch"][..], &two, &["none.sh"]].concat(),
        vec!["sbatch", "two.sh"],
    ] {
        let out = site.run("alice", &words);
        let said = "shifter: the components of a heterogeneous job have one image";
        assert!(!out.status.success() && out.err().contains(said), "{words:?} {}", out.describe());
    }
    assert_eq!(site.run("alice", &["squeue", "-h", "-t", "all"]).out(), "");
    let words = [&["srun", "-n1", &image][..], &show, &[":", "-n1"], &show].concat();
    assert_eq!(site.run("alice", &words).success().unwrap(), "first\nfirst\n");
    let step = format!("srun --het-group=1 {second} shifter cat /etc/which");
    let script = "#!/bin/bash\nsrun --het-group=0,1 shifter -v cat /etc/which 2>&1\n".to_owned() + &step;
    for (head, options) in [
        (format!("#SBATCH -n1 {image}\n#SBATCH hetjob\n#SBATCH -n1\n"), vec!["--wait"]),
        (String::new(), vec!["--wait", "-n1", &image, ":", "-n1", &image]),
    ] {
        let script = script.replacen('\n', &format!("\n{head}"), 1);
        let out = site.batch_well("alice", &options, &script);
        let counts = ["first\n", "second\n"].map(|said| out.matches(said).count());
        assert_eq!(counts, [2, 1], "{out}\n{}", site.logs());
    }
    site.finish();
}

#[test]
fn a_private_image_is_refused_at_submission_in_the_prolog_and_in_the_task() {
    let (site, _) = with_gateway("shared_jobs=1");
    site.run("alice", &["shifterimg", "pull", "docker:local/closed/app:1"]).success().unwrap();
    let named = ["srun", "--image=docker:local/closed/app:1", "shifter", "cat", "/etc/which"];
    assert_eq!(site.run("alice", &named).success().unwrap(), "old\n");
    let out = site.run("bob", &named);
    assert!(
        out.err().contains("Failed to lookup image.  Aborting. docker:local/closed/app:1"),
        "{}",
        out.describe()
    );
    // By its identifier: nothing is looked up, and the node decides.
    let image = format!("--image=id:{}", built("old\n").id());
    let out = site.run("bob", &["srun", &image, "true"]);
    let said = "shifter: the container of this job could not be prepared: setupRoot: FAILED permission denied to image";
    assert!(!out.status.success() && out.err().contains(said), "{}\n{}", out.describe(), site.logs());
    let (code, out) = site.batch("bob", &[&image], "echo ran\n");
    assert!(code != Some(0) && out.contains(said) && !out.contains("ran"), "{code:?} {out}");
    // Private from now on: the container that is there is not joined.
    let script = "srun shifter cat /etc/which; echo > up; while [ ! -e go ]; do sleep 0.05; done; srun shifter cat /etc/which\n";
    let job = site.submit("alice", &[&site.image()], script);
    site.text_of("/home/alice/up");
    site.sandbox.write_record(&site.id, "FORMAT: squashfs\nUSERACL: 4202\n").unwrap();
    fs::write("/home/alice/go", "").unwrap();
    assert_eq!(site.end_of(&job), "FAILED");
    let out = fs::read_to_string(format!("/home/alice/out-{job}")).unwrap();
    assert!(out.starts_with("first\n") && out.contains("FAILED permission denied to image"), "{out}");
    site.finish();
}

#[test]
fn a_submit_host_without_shifter_runs_plain_jobs_and_refuses_images_in_a_sentence() {
    let site = SlurmSite::new(1, "");
    // On this machine alone: nodes keep what they saw when they were started.
    site.sandbox
        .root()
        .run(&["mount", "-t", "tmpfs", "-o", "mode=755", "none", "/etc/shifter"])
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(site.run("alice", &["srun", "hostname"]).success().unwrap(), "node1\n");
    assert_eq!(site.batch("alice", &[], "echo plain\n"), (Some(0), "plain\n".to_owned()));
    for words in [&["srun", "true"][..], &["sbatch", "--wrap=true"], &["salloc", "true"]] {
        let image = site.image();
        let words = [&words[..1], &[image.as_str()], &words[1..]].concat();
        let out = site.run("alice", &words);
        let said = "shifter: --image cannot be used: Shifter is not set up on this host: cannot read /etc/shifter/udiRoot.conf: No such file";
        assert!(!out.status.success() && out.err().contains(said), "{}", out.describe());
        let lines = out.err();
        let ours: Vec<&str> = lines.lines().filter(|line| line.contains("error: shifter:")).collect();
        assert_eq!(ours.len(), 1, "{lines}");
    }
    site.sandbox.root().run(&["umount", "/etc/shifter"]).unwrap().success().unwrap();
    // With a configuration, and without shifterimg.
    fs::rename("/opt/shifter-test/bin/shifterimg", "/opt/shifter-test/bin/away").unwrap();
    let said = "Aborting. docker:a: cannot run /opt/shifter-test/bin/shifterimg";
    for (name, word) in [("srun", "true"), ("salloc", "true"), ("sbatch", "--wrap=true")] {
        let out = site.run("alice", &[name, "--image=docker:a", word]).failure(1).unwrap();
        let ours: Vec<&str> = out.lines().filter(|line| line.contains("shifter: ")).collect();
        assert!(ours.len() == 1 && ours[0].contains(said), "{name}: {out}");
        assert!(ours[0].starts_with(&format!("{name}: error: ")), "{name}: {out}");
    }
    assert_eq!(site.run("alice", &["squeue", "-h"]).out(), "");
    assert_eq!(site.run("alice", &["srun", "hostname"]).success().unwrap(), "node1\n");
    site.finish();
}

#[test]
fn a_site_may_give_the_options_longer_names() {
    let site = SlurmSite::with("long_options", one_node(), |sandbox, _| {
        sandbox.write_udiroot(&[("module_m_siteEnv", "M=1"), ("module_n_siteEnv", "M=2")]).unwrap();
    });
    fs::create_dir("/home/alice/data").unwrap();
    let image = site.image().replace("--image", "--shifter.image");
    let options =
        ["--exclusive", &image, "--shifter.volume=/home/alice:/a", "--shifter.volume=/home/alice:/b"];
    let out = site.batch_well("alice", &options, "srun shifter -v ls -d /a/data /b/data 2>&1\n");
    assert!(
        out.contains("joined     the container prepared") && out.ends_with("/a/data\n/b/data\n"),
        "{out}"
    );
    let module = "--shifter.module=m";
    let show = "shifter sh -c 'ls -d /a/data; echo M=$M'";
    // A step in a step, with a module of its own; and a job of salloc's.
    fs::write(
        "/home/alice/nested.sh",
        format!("srun --overlap {show}\nsrun --overlap --shifter.module=n {show}\n"),
    )
    .unwrap();
    let volume = "--shifter.volume=/home/alice:/a";
    let words = ["salloc", "-n1", &image, module, volume, "srun", "bash", "./nested.sh"];
    let out = site.run("alice", &words).success().unwrap();
    assert_eq!(out, "/a/data\nM=1\n/a/data\nM=2\n");
    for (bad, expected) in [
        ("--shifter.module=zz", "shifter: --shifter.module: Unknown shifter module: zz"),
        ("--shifter.image=local:/", "local: images are not allowed here (allowLocalChroot)"),
        ("--image=a", "unrecognized option '--image=a'"),
        ("--module=m", "unrecognized option '--module=m'"),
        ("--volume=/home:/mnt", "unrecognized option '--volume=/home:/mnt'"),
    ] {
        fs::write("/home/alice/lines.sh", format!("#!/bin/bash\n#SBATCH {image}\n#SBATCH {bad}\ntrue\n"))
            .unwrap();
        let nested = format!("srun --overlap {bad} true; exit $?");
        for words in [
            &["srun", bad, "true"][..],
            &["salloc", bad, "true"],
            &["sbatch", "lines.sh"],
            &["salloc", "-n1", &image, "srun", "bash", "-c", &nested],
        ] {
            let out = site.run("alice", words);
            assert!(!out.status.success() && out.err().contains(expected), "{words:?} {}", out.describe());
        }
    }
    site.finish();
}

#[test]
fn each_job_brings_its_own_ssh_key() {
    let site = SlurmSite::new(1, "enable_sshd=1");
    let show = "echo \"$SLURM_SPANK_SHIFTER_SSH_PUBKEY\"; srun true\n";
    let keys = [(); 2].map(|()| site.batch_well("alice", &["-n1", &site.image()], show));
    assert_ne!(keys[0], keys[1]);
    let mut names: Vec<_> = fs::read_dir("/home/alice/.udiRoot")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("shifter-"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "two pairs, and none for the steps: {names:?}");
    for key in &keys {
        let words: Vec<&str> = key.split_whitespace().collect();
        assert_eq!(words[0], "ssh-ed25519", "{key}");
        let file = format!("/home/alice/.udiRoot/{}", words[2]);
        let shown = site.run("alice", &["ssh-keygen", "-y", "-f", &file]).success().unwrap();
        assert!(key.starts_with(shown.split_whitespace().take(2).collect::<Vec<_>>().join(" ").as_str()));
    }
    let plain = site.batch_well("alice", &[], show);
    assert_eq!(plain, "\n", "a plain job needs none");
    // Nodes look in the account's home, whatever HOME is at submission.
    let pairs = || fs::read_dir("/home/alice/.udiRoot").unwrap().count() / 2;
    fs::create_dir("/home/alice/b").unwrap();
    let image = site.image();
    let words = ["srun", &image, "-n1", "true"];
    for home in ["HOME=/home/alice/b", "HOME=/root", "-uHOME"] {
        let before = pairs();
        site.run("alice", &[&["env", home][..], &words].concat()).success().unwrap();
        assert_eq!(pairs(), before + 1, "{home}");
    }
    assert!(!fs::exists("/home/alice/b/.udiRoot").unwrap());
    // Where none can be made, the job goes without, and its user is told.
    fs::set_permissions("/home/alice/.udiRoot", fs::Permissions::from_mode(0o775)).unwrap();
    let out = site.run("alice", &words);
    let said = "shifter: this job has no sshd: cannot make the job's ssh key: ";
    assert!(out.err().contains(said) && !out.err().contains("error"), "{}", out.describe());
    assert!(out.success().is_ok() && pairs() == 5, "{}", pairs());
    site.finish();
}
