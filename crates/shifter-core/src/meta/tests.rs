//! What old and new readers see of hostile and of ordinary records.
#![allow(clippy::unwrap_used)]

use super::*;

fn list(items: &[&str]) -> Option<Vec<String>> {
    Some(items.iter().map(|item| (*item).to_owned()).collect())
}

#[test]
fn records_of_the_original_are_read() {
    let meta = Meta::parse(
        "FORMAT: squashfs\nENTRY: ['/bin/sh', '-c']\nCMD: [u'echo', u'hi']\nWORKDIR: /work\nUSERACL: 4242,65534\n\
         GROUPACL: \nENV: PATH=/bin\nENV: X=1=2\nUSER: alice\n",
    )
    .unwrap();
    assert_eq!(meta.format, "squashfs");
    assert_eq!(meta.entry, list(&["/bin/sh", "-c"]));
    assert_eq!(meta.cmd, list(&["echo", "hi"]));
    assert_eq!(meta.workdir.as_deref(), Some("/work"));
    assert_eq!(meta.acl, Acl { uids: vec![4242, 65534], gids: vec![] });
    assert_eq!(meta.env, ["PATH=/bin", "X=1=2"]);
    assert_eq!(meta.rich, None);
}

#[test]
fn list_values_follow_the_legacy_grammar() {
    for (value, expected) in [
        ("['a', 'b c']", list(&["a", "b c"])),
        ("/bin/app", list(&["/bin/app"])),
        ("[\"a\"]", list(&["[\"a\"]"])),
        ("['a', \"it's\"]", None),
        ("['a'", None),
    ] {
        let text = format!("FORMAT: squashfs\nCMD: {value}\n");
        match (Meta::parse(&text), expected) {
            (Ok(meta), expected) => assert_eq!(meta.cmd, expected, "{value}"),
            (Err(error), expected) => {
                assert_eq!((error, expected), (MetaError::List { line: 2 }, None), "{value}");
            }
        }
    }
}

#[test]
fn an_access_list_that_says_nothing_never_means_everybody() {
    for (value, expected) in [
        ("", Some(vec![])),
        ("1, 2,,x,3", Some(vec![1, 2, 3])),
        (",1", Some(vec![1])),
        ("2,", Some(vec![2])),
        ("123temp,4", Some(vec![4])),
        ("123temp", None),
        ("alice", None),
        (",", None),
        ("-1", None),
        ("99999999999", None),
    ] {
        assert_eq!(Meta::parse(&format!("USERACL: {value}\n")).ok().map(|m| m.acl.uids), expected, "{value}");
    }
    let many = (0..1001).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(Meta::parse(&format!("A: b\nGROUPACL: {many}\n")), Err(MetaError::Acl { line: 2 }));
}

#[test]
fn access_follows_user_then_groups() {
    let acl = Acl { uids: vec![1], gids: vec![20] };
    for (uid, gid, groups, expected) in
        [(1, 9, &[][..], true), (2, 20, &[], true), (2, 9, &[8, 20], true), (2, 9, &[8], false)]
    {
        assert_eq!(acl.allows(uid, gid, groups), expected, "{uid} {gid} {groups:?}");
    }
    assert!(Acl::default().allows(7, 7, &[]));
}

#[test]
fn hostile_values_cannot_write_lines_and_survive_exactly() {
    let meta = Meta {
        format: "squashfs".into(),
        entry: list(&["it's"]),
        cmd: list(&["a\nUSERACL: 0", "b"]),
        workdir: Some("/w\\".into()),
        env: vec![
            "A=1".into(),
            "B=x\nUSERACL: 7".into(),
            "C=y\\".into(),
            " D=z ".into(),
            "E=\r".into(),
            "F=ü".into(),
            "NOVALUE".into(),
        ],
        acl: Acl { uids: vec![42], gids: vec![] },
        rich: Some(Rich {
            size: 9,
            sha256: "ab".into(),
            volumes: vec!["/data".into()],
            labels: vec![("k".into(), "v".into())],
            source: "tar:00".into(),
            ..Rich::default()
        }),
        is_acl_left_out: false,
    };
    let text = meta.render();
    let legacy: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(legacy, ["FORMAT: squashfs", "USERACL: 42", "ENV: A=1", "ENV: F=ü"]);
    assert_eq!(Meta::parse(&text).unwrap(), meta);
    // An old reader, which skips the comment line, sees the same access list.
    let old = Meta::parse(&legacy.join("\n")).unwrap();
    assert_eq!((old.acl, old.env), (meta.acl.clone(), vec!["A=1".to_owned(), "F=ü".to_owned()]));
}

#[test]
fn an_ordinary_record_is_written_as_the_original_wrote_it() {
    let meta = Meta {
        format: "squashfs".into(),
        entry: list(&["/bin/sh", "-c"]),
        cmd: list(&["echo", "hi"]),
        workdir: Some("/work".into()),
        env: vec!["PATH=/bin".into(), "X=1=2".into()],
        acl: Acl { uids: vec![4242, 65534], gids: vec![7] },
        ..Meta::default()
    };
    assert_eq!(
        meta.render(),
        "FORMAT: squashfs\nENTRY: ['/bin/sh', '-c']\nCMD: ['echo', 'hi']\nWORKDIR: /work\nUSERACL: 4242,65534\n\
         GROUPACL: 7\nENV: PATH=/bin\nENV: X=1=2\n"
    );
}

#[test]
fn an_access_list_that_was_left_out_is_a_comment_to_nodes() {
    let acl = Acl { uids: vec![42], gids: vec![7] };
    for (acl, is_marked) in [(acl, true), (Acl::default(), false)] {
        let whole = Meta { format: "squashfs".into(), env: vec!["A=1".into()], acl, ..Meta::default() };
        let rich = Meta { rich: Some(Rich { size: 9, ..Rich::default() }), ..whole.clone() };
        for meta in [whole, rich] {
            let bare = meta.without_acl();
            let text = bare.render();
            assert_eq!(Meta::parse(&text).unwrap(), bare);
            assert_eq!((bare.is_acl_left_out, bare.acl.is_public()), (is_marked, true), "{text}");
            // Old readers know no line that begins with #, and find no other key.
            let legacy: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(legacy, ["FORMAT: squashfs", "ENV: A=1"]);
            assert_eq!(text.lines().any(|line| line.starts_with("#shifter1-acl")), is_marked, "{text}");
        }
    }
    // No value of an image's writes that line, or hides it.
    let text = "FORMAT: squashfs\nENV: A=#shifter1-acl left out\n #shifter1-acl left out\n";
    assert!(!Meta::parse(text).unwrap().is_acl_left_out);
    let hidden = "FORMAT: squashfs\nWORKDIR: /w\\\n#shifter1-acl left out\n/x\n";
    assert!(Meta::parse(hidden).unwrap().is_acl_left_out);
}

#[test]
fn a_damaged_exact_record_is_an_error_not_a_guess() {
    assert!(matches!(
        Meta::parse("FORMAT: squashfs\n#shifter1 {\"size\":}\n"),
        Err(MetaError::Rich { line: 2, .. })
    ));
    assert_eq!(Meta::parse("# shifter1 {\n #shifter1 {\n").unwrap().rich, None);
}
