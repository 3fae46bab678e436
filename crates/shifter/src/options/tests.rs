//! getopt_long's rules and the order of image sources, as tables.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

fn bytes(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn parsed(words: &[&str]) -> Result<Options, Fault> {
    match parse(bytes(&[&["shifter"], words].concat()))? {
        Outcome::Run(options) => Ok(options),
        Outcome::Help => panic!("help was asked for"),
    }
}

#[test]
fn options_end_where_the_command_begins() {
    for (words, image, command) in [
        (&["--image=a", "ls", "-l", "--image=b"][..], Some("a"), &["ls", "-l", "--image=b"][..]),
        (&["-i", "a", "--", "--env"], Some("a"), &["--env"]),
        (&["-ia", "-vE", "x"], Some("a"), &["x"]),
        (&["--imag", "a", "-i", "b"], Some("b"), &[]),
        (&["-n", "-", "x"], None, &["-", "x"]),
        (&["-w", "/dir", "x"], None, &["/dir", "x"]),
    ] {
        let options = parsed(words).unwrap();
        assert_eq!(options.image, image.map(|i| i.as_bytes().to_vec()), "{words:?}");
        assert_eq!(options.words, bytes(command), "{words:?}");
    }
}

#[test]
fn values_reach_their_options() {
    let options =
        parsed(&["-w/a", "--entry=/x y", "-eA=1", "--env", "B=", "--clearenv", "--dry-run", "-v"]).unwrap();
    assert_eq!(options.workdir, Workdir::Given(b"/a".to_vec()));
    assert_eq!(options.entrypoint, Entrypoint::Given(b"/x y".to_vec()));
    assert_eq!(options.environment, bytes(&["A=1", "B="]));
    assert!(options.clear_environment && options.dry_run && options.verbose);
    let options = parsed(&["--workdir", "--entrypoint", "x"]).unwrap();
    assert_eq!((options.workdir, options.entrypoint), (Workdir::OfImage, Entrypoint::OfImage));
}

#[test]
fn what_is_wrong_is_said() {
    for (words, expected) in [
        (&["--colour"][..], "there is no option --colour"),
        (&["-x"], "there is no option -x"),
        (&["--en"], "--en could be --entrypoint or --env or --env-file"),
        (&["--v=x"], "--v could be --verbose or --volume"),
        (&["-V"], "--volume needs a value"),
        (&["--"], ""),
        (&["--image"], "--image needs a value"),
        (&["-i"], "--image needs a value"),
        (&["--verbose=1"], "--verbose takes no value"),
        (&["-e", "X"], "Improperly formatted environment variable: \"X\" is not NAME=VALUE"),
        (&["-e", "=1"], "Improperly formatted environment variable: \"=1\" is not NAME=VALUE"),
        (&["--=x"], "there is no option --"),
    ] {
        assert_eq!(
            parsed(words).err().map(|fault| fault.to_string()).unwrap_or_default(),
            expected,
            "{words:?}"
        );
    }
    assert!(matches!(parse(bytes(&["shifter", "-h", "--colour"])), Ok(Outcome::Help)));
    assert!(parse(vec![]).is_ok(), "an empty argv is a command line without words");
}

#[test]
fn the_command_line_beats_the_pair_beats_the_request() {
    let docker = Some(ImageType::Docker);
    for (arguments, environment, expected) in [
        (&["-i", "id:9"][..], &["SHIFTER_IMAGETYPE=docker", "SHIFTER_IMAGE=a"][..], Ok(("id:9", "id:9"))),
        (&[], &["SHIFTER_IMAGETYPE=id", "SLURM_SPANK_SHIFTER_IMAGE=a"], Ok(("id:a", "id:a"))),
        (
            &[],
            &[
                "SHIFTER_IMAGE=b",
                "SLURM_SPANK_SHIFTER_IMAGE=a",
                "SLURM_SPANK_SHIFTER_IMAGETYPE=custom",
                "SHIFTER_IMAGEREQUEST=b:1",
            ],
            Ok(("custom:b", "b:1")),
        ),
        (&[], &["SHIFTER_IMAGE=b", "SLURM_SPANK_SHIFTER_IMAGEREQUEST=deb:1"], Ok(("docker:deb:1", "deb:1"))),
        (&[], &["SHIFTER_IMAGETYPE=bogus", "SHIFTER_IMAGE=b"], Err(Fault::NoImage)),
        (&[], &["SHIFTER_IMAGEREQUEST=a b"], Err(Fault::NoImage)),
        (&["-i", "a"], &["SHIFTER_VOLUME="], Ok(("docker:a", "a"))),
        (&[], &["SHIFTER=docker:deb:1"], Ok(("docker:deb:1", "docker:deb:1"))),
        (&[], &["SHIFTER=docker:deb:1", "SLURM_SPANK_SHIFTER_IMAGEREQUEST=b"], Ok(("docker:b", "b"))),
        (&[], &["SHIFTER=docker:deb:1", "SHIFTER_IMAGEREQUEST=a b"], Ok(("docker:deb:1", "docker:deb:1"))),
        (&[], &["SHIFTER=deb"], Err(Fault::NoImage)),
        (&[], &["SHIFTER=/opt/shifter"], Err(Fault::NoImage)),
        (&[], &["SHIFTER=module:deb"], Err(Fault::NoImage)),
        (&[], &[], Err(Fault::NoImage)),
    ] {
        let got = parsed(arguments).unwrap().image_request(&bytes(environment), docker);
        let got = got.map(|request| (request.descriptor.to_string(), request.text));
        assert_eq!(got, expected.map(|(d, t)| (d.to_owned(), t.to_owned())), "{arguments:?} {environment:?}");
    }
    assert!(matches!(
        parsed(&["-i", "a b"]).unwrap().image_request(&[], docker),
        Err(Fault::Image { fault: DescriptorError::Character { character: ' ', .. }, .. })
    ));
}

#[test]
fn volumes_and_modules_of_the_command_line_replace_those_of_the_environment() {
    let environment = bytes(&[
        "SHIFTER_VOLUME=/e:/e",
        "SLURM_SPANK_SHIFTER_VOLUME=/s:/s",
        "SLURM_SPANK_SHIFTER_MODULE=m,n",
    ]);
    for (words, volumes, modules) in [
        (&[][..], "/e:/e", Some("m,n")),
        (&["-V", "/a:/b", "--vol=/c:/d; /e:/f", "-m", "x", "--module=y"], "/a:/b;/c:/d; /e:/f", Some("y")),
        (&["-V/a:/b:ro", "-mnone"], "/a:/b:ro", Some("none")),
    ] {
        let options = parsed(words).unwrap();
        assert_eq!(options.volume_map(&environment).unwrap().as_deref(), Some(volumes), "{words:?}");
        assert_eq!(options.module_choice(&environment).unwrap().as_deref(), modules, "{words:?}");
    }
    assert_eq!(parsed(&[]).unwrap().volume_map(&[]), Ok(None));
}

#[test]
fn names_that_are_not_utf8_are_refused_and_never_read_as_others() {
    let of = |text: &[u8]| [text, b"d\xe9"].concat();
    let options = |words: &[&[u8]]| match parse(
        [&[b"shifter" as &[u8]], words].concat().iter().map(|word| word.to_vec()).collect(),
    ) {
        Ok(Outcome::Run(options)) => options,
        _ => panic!("{words:?}"),
    };
    let none = options(&[]);
    for (variable, refused) in
        [("SHIFTER_VOLUME=", "SHIFTER_VOLUME"), ("SLURM_SPANK_SHIFTER_VOLUME=", "SLURM_SPANK_SHIFTER_VOLUME")]
    {
        let fault = none.volume_map(&[of(variable.as_bytes())]).unwrap_err();
        assert_eq!(fault, Fault::NotText { what: refused.to_owned(), value: "d\\xe9".to_owned() });
    }
    assert!(none.module_choice(&[of(b"SHIFTER_MODULE=")]).is_err());
    for variable in ["SHIFTER_IMAGE=", "SHIFTER_IMAGETYPE=", "SHIFTER_IMAGEREQUEST="] {
        assert!(
            matches!(none.image_request(&[of(variable.as_bytes())], None), Err(Fault::NotText { .. })),
            "{variable}"
        );
    }
    // What other programs mean by this one is theirs.
    assert_eq!(none.image_request(&[of(b"SHIFTER=")], None), Err(Fault::NoImage));
    let word = of(b"/");
    for letter in [b"-V" as &[u8], b"-m", b"-i"] {
        let options = options(&[letter, &word]);
        let (volumes, modules) = (options.volume_map(&[]), options.module_choice(&[]));
        let refused = volumes.is_err()
            || modules.is_err()
            || options.image_request(&[], None).is_err_and(|fault| matches!(fault, Fault::NotText { .. }));
        assert!(refused, "{}", letter.escape_ascii());
    }
}

#[test]
fn run_follows_the_image_unless_a_program_is_given() {
    for (words, expected) in [
        (&["--run", "x"][..], Entrypoint::AsImageSays),
        (&["--run", "--entrypoint=/e"], Entrypoint::Given(b"/e".to_vec())),
        (&["--entrypoint=/e", "--run"], Entrypoint::Given(b"/e".to_vec())),
    ] {
        let options = parsed(words).unwrap();
        assert!(options.run_image && options.entrypoint == expected, "{words:?}");
    }
}
