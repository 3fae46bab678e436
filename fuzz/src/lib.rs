//! What must hold of every parser whatever it is given: no panic, no growth out of proportion, and what is written
//! reads back. The targets are the tests of this crate; inputs are bytes, shortened by bolero when one fails.
#![cfg(test)]

mod squashfs;

use bolero::check;
use shifter_core::descriptor::Descriptor;
use shifter_core::environment::Environment;
use shifter_core::image_type::ImageType;
use shifter_core::json;
use shifter_core::meta::{Meta, Rich};
use shifter_core::mountinfo::{Mount, mounts};
use shifter_core::passwd::{Account, container_groups, groups_missing_in};
use shifter_core::reference::ImageRef;
use shifter_core::shifter_conf::ShifterConf;
use shifter_core::udiroot::UdiRootConf;
use shifter_core::volume::{self, UserRules};

/// What the formats are made of: bytes alone would hardly ever spell two of these in a row.
const PIECES: [&str; 48] = [
    "/",
    "/",
    "/",
    ":",
    ":",
    ";",
    "=",
    ",",
    " ",
    "\n",
    "\n",
    "\\",
    "\"",
    "'",
    "#",
    "..",
    ".",
    "a",
    "b",
    "ü",
    "@",
    "0",
    "1",
    "64M",
    "ro",
    "rec",
    "slave",
    "private",
    "shared",
    "perNodeCache=size=",
    "fs=xfs",
    "etc",
    "var",
    "tmp",
    "opt",
    "udiImage",
    "dev",
    "imagePath=/i",
    "siteFs=",
    "module_m_siteEnv=",
    "FORMAT: ",
    "USERACL: ",
    "ENTRY: ['",
    "']",
    "#shifter1 {",
    "root:x:",
    "docker:",
    "\r",
];

/// Bytes as pieces of the formats.
fn spelled(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| PIECES[usize::from(*byte) % PIECES.len()]).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn udiroot_conf_is_read_or_refused_with_a_line_that_is_there() {
    check!().for_each(|bytes: &[u8]| {
        let text = text(bytes);
        // Half of the inputs begin well, so that more than the first line is looked at.
        for text in [
            spelled(bytes),
            text.clone(),
            format!("imagePath=/i\nsiteFs=/a:/b\n{text}"),
            format!("imagePath=/i\nsiteFs={text}"),
        ] {
            if let Err(error) = UdiRootConf::parse(&text) {
                assert!(error.line <= text.lines().count() && !error.to_string().is_empty());
            }
            if let Err(error) = ShifterConf::parse(&text) {
                assert!(error.line <= text.lines().count());
            }
        }
    });
}

#[test]
fn users_volume_maps_never_lead_where_they_are_forbidden() {
    let rules = UserRules::default();
    check!().for_each(|bytes: &[u8]| {
        let text = text(bytes);
        let closed = volume::USER_FORBIDDEN[bytes.len() % volume::USER_FORBIDDEN.len()];
        for text in [
            format!("/a:/{closed}//{}", spelled(bytes)),
            spelled(bytes),
            format!("/a:{}", spelled(bytes)),
            text.clone(),
            format!("/a:{text}"),
            format!("/a:/{text};/b:/c:{text}"),
        ] {
            let Ok(maps) = volume::parse_user(&text, &rules) else { continue };
            for map in &maps {
                assert!(rules.allow_target(&map.to), "{text:?}: {}", map.to);
                for path in [&map.from, &map.to] {
                    assert!(
                        path.starts_with('/') && !path.split('/').any(|name| name == ".."),
                        "{text:?}: {path}"
                    );
                    assert!(!path.chars().any(|c| c.is_control() || c == '"'), "{text:?}: {path}");
                }
                for forbidden in volume::USER_FORBIDDEN {
                    let below = map
                        .to
                        .strip_prefix(forbidden)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                    assert!(!below || map.to == "/var/tmp", "{text:?}: {}", map.to);
                }
            }
            // A signature is a map again, and its own signature.
            let signature = volume::signature(&maps);
            let again = volume::parse_user(&signature, &rules).expect("a signature is a map");
            assert_eq!(volume::signature(&again), signature, "{text:?}");
        }
    });
}

#[test]
fn sites_volume_maps_keep_their_signature() {
    check!().for_each(|bytes: &[u8]| {
        let text = if bytes.len() % 4 == 0 { text(bytes) } else { spelled(bytes) };
        if let Ok(maps) = volume::parse_site(&text) {
            // `shared` has no place in the original's signature.
            let again = volume::parse_site(&volume::signature(&maps)).expect("a signature is a map");
            assert_eq!(volume::signature(&again), volume::signature(&maps), "{text:?}");
        }
    });
}

#[test]
fn records_read_back_as_they_were_written_and_give_no_rights_away() {
    check!().for_each(|bytes: &[u8]| {
        let words: Vec<String> = bytes
            .split(|byte| *byte == 0)
            .map(|word| if word.len() % 2 == 0 { text(word) } else { spelled(word) })
            .collect();
        let word = |index: usize| words.get(index).cloned().unwrap_or_default();
        let meta = Meta {
            format: "squashfs".to_owned(),
            entry: Some(words.clone()),
            cmd: Some(vec![word(0)]),
            workdir: Some(word(1)).filter(|path| !path.is_empty()),
            env: words.iter().map(|word| format!("NAME={word}")).collect(),
            acl: shifter_core::meta::Acl { uids: vec![bytes.len() as u32], gids: vec![] },
            rich: Some(Rich {
                size: 7,
                sha256: word(2),
                volumes: vec![word(1)],
                labels: vec![(word(0), word(3))],
                ..Rich::default()
            }),
            ..Meta::default()
        };
        let written = meta.render();
        assert_eq!(Meta::parse(&written).expect("what we write we read"), meta);
        // An old runtime sees the same access list, whatever the image's own words are.
        let legacy: String =
            written.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        assert_eq!(Meta::parse(&legacy).expect("the original's lines are a record").acl, meta.acl);
    });
}

#[test]
fn any_record_is_read_or_refused_and_a_list_of_nobody_is_never_public() {
    check!().for_each(|bytes: &[u8]| {
        let text = if bytes.len() % 3 == 0 { text(bytes) } else { spelled(bytes) };
        let _read_or_refused = Meta::parse(&text);
        let _same = json::parse_object(&text);
        let list = text.replace(['\n', '\r'], " ");
        if let Ok(meta) = Meta::parse(&format!("USERACL: {list}\n")) {
            assert!(!meta.acl.is_public() || list.trim().is_empty() || list.trim() == "\\", "{list:?}");
        }
    });
}

#[test]
fn accounts_and_groups_stay_one_line_each() {
    check!().for_each(|bytes: &[u8]| {
        let text = if bytes.len() % 3 == 0 { text(bytes) } else { spelled(bytes) };
        for line in text.lines() {
            if let Some(account) = Account::parse(line) {
                assert_eq!(account.line().matches('\n').count(), 1);
                assert_eq!(Account::parse(&account.line()).as_ref(), Some(&account));
            }
        }
        let wanted = [0, 1, 1000];
        let groups =
            container_groups(&text, "user", &wanted, 2, (bytes.len() % 2 == 0).then_some(&wanted[..1]));
        for line in groups.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            assert!(
                fields.len() == 4
                    && fields[1] == "x"
                    && fields[2] != "0"
                    && ["", "user"].contains(&fields[3]),
                "{line:?}"
            );
        }
        assert!(groups.lines().filter(|line| line.ends_with(":user")).count() <= 2);
        assert!(groups_missing_in(&text, &wanted).len() <= wanted.len());
    });
}

#[test]
fn image_names_print_as_they_were_read() {
    check!().for_each(|bytes: &[u8]| {
        let text = if bytes.len() % 3 == 0 { text(bytes) } else { spelled(bytes) };
        if let Ok(descriptor) = Descriptor::parse(&text, Some(ImageType::Docker)) {
            let printed = descriptor.to_string();
            assert_eq!(Descriptor::parse(&printed, None).as_ref(), Ok(&descriptor), "{text:?}");
        }
        let _read_or_refused = ImageRef::parse(&text, &|name| name == "registry.example.org");
    });
}

#[test]
fn files_of_variables_give_variables_or_a_line() {
    check!().for_each(|bytes: &[u8]| match Environment::read_file(bytes) {
        Ok(variables) => {
            assert!(variables.iter().all(|variable| variable.contains(&b'=') && !variable.contains(&b'\n')));
            let environment = Environment::inherited(variables);
            assert!(environment.get(b"LD_PRELOAD").is_none());
        }
        Err(line) => assert!((1..=bytes.split(|byte| *byte == b'\n').count()).contains(&line)),
    });
}

/// A name as the kernel writes it into its table of mounts.
fn escaped(name: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    name.iter().flat_map(one).collect()
}

#[test]
fn a_mounts_place_is_read_as_it_was_named_and_no_name_makes_a_second_mount() {
    check!().for_each(|bytes: &[u8]| {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        // As they come, and with the beginning and the end of a line about them.
        let about = [b"36 35 98:0 / /".as_slice(), bytes, b" rw shared:1 - ext4 /dev/x rw"].concat();
        for table in [bytes, about.as_slice()] {
            let found: Vec<Mount<'_>> = mounts(table).collect();
            assert!(found.len() <= lines);
            assert!(
                found.iter().map(|mount| mount.point.len() + mount.kind.len()).sum::<usize>() <= table.len()
            );
        }
        let names = bytes.split(|byte| *byte == 0).map(|name| [b"/", name].concat());
        let names: Vec<Vec<u8>> = names
            .enumerate()
            .map(|(at, name)| if at % 2 == 0 { name } else { [&name, spelled(&name).as_bytes()].concat() })
            .collect();
        let mut table = Vec::new();
        for name in &names {
            let (root, place) = (escaped(name), escaped(name));
            // The optional fields, none, one or two, end with the hyphen.
            let optional = ["", "shared:7 ", "shared:7 master:-1 "][name.len() % 3];
            table.extend([b"36 35 98:0 ", root.as_slice(), b" ", place.as_slice(), b" rw,noatime "].concat());
            table.extend([optional.as_bytes(), b"- fuse.x ", place.as_slice(), b" rw,user_id=1\n"].concat());
        }
        let found: Vec<Vec<u8>> = mounts(&table).map(|mount| mount.point).collect();
        assert_eq!(found, names);
        assert!(mounts(&table).all(|mount| mount.kind == b"fuse.x" && mount.options == b"rw,user_id=1"));
    });
}
