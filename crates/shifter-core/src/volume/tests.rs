//! Volume maps as tables: what is read, what is refused, what a signature is.
#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn site_maps_of_the_documents_are_read() {
    let maps = parse_site(
        "/home:/home; \"/a b:/c@d/\" ;/scratch;;/var/opt/cray/alps:/var/opt/cray/alps:rec:slave:ro;\
         /x:/y:perNodeCache=size=4T,bs=4M",
    )
    .unwrap();
    let short: Vec<_> =
        maps.iter().map(|m| (m.from.as_str(), m.to.as_str(), m.read_only, m.recursive)).collect();
    assert_eq!(
        short,
        [
            ("/home", "/home", false, false),
            ("/a b", "/c@d", false, false),
            ("/scratch", "/scratch", false, false),
            ("/var/opt/cray/alps", "/var/opt/cray/alps", true, true),
            ("/x", "/y", false, false),
        ]
    );
    assert_eq!(maps[3].propagation, Some(Propagation::Slave));
    assert_eq!(maps[4].cache, Some(PerNodeCache { size: 4 << 40, block_size: 4 << 20, fs: "xfs".into() }));
}

#[test]
fn a_long_list_of_site_mounts_keeps_every_entry_and_its_propagation() {
    let names = [
        "alps",
        "dws",
        "wlm",
        "global/u1",
        "global/u2",
        "global/homes",
        "global/syscom",
        "scratch1",
        "scratch2",
    ];
    let text: String = names.map(|name| format!("/var/{name}:/opt/site/{name}:rec:slave;\\\n")).concat();
    let maps = parse_site(&text.replace("\\\n", " ")).unwrap();
    let shown: Vec<_> = maps.iter().map(|m| (m.to.as_str(), m.recursive, m.propagation)).collect();
    let expected = names.map(|name| (format!("/opt/site/{name}"), true, Some(Propagation::Slave)));
    let expected: Vec<_> = expected.iter().map(|(to, rec, how)| (to.as_str(), *rec, *how)).collect();
    assert_eq!(shown, expected);
}

#[test]
fn bad_entries_are_refused_by_rule() {
    use VolumeReason::*;
    let own = str::to_owned;
    for (text, expected) in [
        ("home:/home", NotAbsolute(own("home"))),
        ("/a::ro", NotAbsolute(own(""))),
        ("/a:/b/../etc", DotDot(own("/b/../etc"))),
        ("/a\u{1}:/b", Character(own("/a\u{1}"))),
        ("/a:/etc/", ForbiddenTarget(own("/etc"))),
        ("/a://", ForbiddenTarget(own("/"))),
        ("/a:/b:ro,rec", UnknownFlag(own("ro,rec"))),
        ("/a:/b:rw", UnknownFlag(own("rw"))),
        ("/a:/b:ro:ro", Repeated(own("ro"))),
        ("/a:/b:slave:private", Repeated(own("private"))),
        ("/a:/b:ro=1", FlagValue(own("ro=1"))),
        ("/a:/b:perNodeCache", FlagValue(own("perNodeCache"))),
        ("/a:/b:perNodeCache=size=0", FlagValue(own("perNodeCache=size=0"))),
        ("/a:/b:perNodeCache=size=1,colour=red", FlagValue(own("perNodeCache=size=1,colour=red"))),
    ] {
        assert_eq!(parse_site(text).unwrap_err().reason, expected, "{text}");
    }
    // Names that only begin like a forbidden one are other names; dots inside a name are no `..`.
    assert!(parse_site("/a:/etcetera;/a:/optional;/a..b:/a..b;/x:/y:ro=").is_ok());
}

#[test]
fn users_have_fewer_targets_and_flags_than_sites() {
    use VolumeReason::*;
    let rules = UserRules { deny: vec!["/scratch".to_owned()], allow: vec!["/var/lib/data".to_owned()] };
    let own = str::to_owned;
    for (text, expected) in [
        ("/data:/mnt", None),
        ("/a b:/c d; /x@y:/z=~ü:ro ;", None),
        ("/data:/var/tmp;/data:/opt/mine;/data:/etcetera;/a:/devices;/a:/var/lib/data/x", None),
        ("/data:/var/log", Some(ForbiddenTarget(own("/var/log")))),
        ("/data:/var/lib/datax", Some(ForbiddenTarget(own("/var/lib/datax")))),
        ("/data:/etc/", Some(ForbiddenTarget(own("/etc")))),
        ("/data:/opt", Some(ForbiddenTarget(own("/opt")))),
        ("/data:/opt/udiImage/bin", Some(ForbiddenTarget(own("/opt/udiImage/bin")))),
        ("/data:/dev/shm", Some(ForbiddenTarget(own("/dev/shm")))),
        ("/data:/proc", Some(ForbiddenTarget(own("/proc")))),
        ("/data://", Some(ForbiddenTarget(own("/")))),
        ("/data:/scratch/x", Some(ForbiddenTarget(own("/scratch/x")))),
        ("/data", Some(NoTarget)),
        ("/data:/mnt:rec", Some(SiteFlag(own("/data:/mnt:rec")))),
        ("/data:/mnt:shared", Some(SiteFlag(own("/data:/mnt")))),
        ("/data:/mnt:ro,rec", Some(UnknownFlag(own("ro,rec")))),
    ] {
        assert_eq!(parse_user(text, &rules).err().map(|error| error.reason), expected, "{text}");
    }
}

#[test]
fn signatures_are_the_originals() {
    for (text, expected) in [
        ("", ""),
        ("/b:/c;/a:/x:ro", "/a:/x:ro;/b:/c"),
        (
            "/none:/data:perNodeCache=size=400M,fs=xfs:ro",
            "/none:/data:ro:perNodeCache=size=419430400,bs=1048576,method=loop,fstype=xfs",
        ),
        ("/data/:/x//y", "/data/:/x//y"),
    ] {
        assert_eq!(signature(&parse_user(text, &UserRules::default()).unwrap()), expected);
    }
    let five = "/s5:/m5:ro;/s1:/m1;/s4:/m4:perNodeCache=size=1G:ro;\"/s3:/m 3\";/s2:/m2";
    let maps = parse_user(five, &UserRules::default()).unwrap();
    assert_eq!(
        signature(&maps),
        "/s1:/m1;/s2:/m2;/s3:/m 3;/s4:/m4:ro:perNodeCache=size=1073741824,bs=1048576,method=loop,fstype=xfs;/s5:/m5:ro"
    );
    let site = parse_site("/a:/b:private:rec:ro;/c:/d:slave:rec").unwrap();
    assert_eq!(signature(&site), "/a:/b:ro:rec:private;/c:/d:rec:slave");
}

#[test]
fn sizes_take_one_unit() {
    for (text, expected) in [
        ("5", Some(5)),
        ("5k", Some(5120)),
        ("500KB", Some(512_000)),
        ("1.5m", Some(1_572_864)),
        ("4T", Some(4 << 40)),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1kk", None),
        ("99e", None),
        ("inf", None),
    ] {
        assert_eq!(parse_bytes(text), expected, "{text}");
    }
}
