//! The plugin against Slurm's releases: with the facts of their headers that `dist/slurm/spank-releases.txt` keeps, and
//! with headers themselves, those installed and those that `SHIFTER_SLURM_HEADERS` lists (directories separated by
//! colons, with `slurm/spank.h` below each), by the script that sites have for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/layout.rs"]
#[allow(dead_code, unreachable_pub)]
mod layout;
#[path = "../release.rs"]
mod release;

use layout::SpankOption;
use release::{BETWEEN, INSIST, OLDEST, READ, number, refusal, release};
use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::{Command, Output};

const TABLE: &str = include_str!("../../../dist/slurm/spank-releases.txt");
const FFI: &str = include_str!("../src/ffi.rs");
const LAYOUT: &str = include_str!("../src/layout.rs");

/// The names of the releases, and what their headers say of each fact.
fn table() -> (Vec<&'static str>, BTreeMap<&'static str, Vec<&'static str>>) {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (fact, values) = line.split_once('|').unwrap_or_else(|| panic!("no column in {line}"));
        (fact.trim(), values.split_whitespace().collect::<Vec<_>>())
    });
    let mut facts: BTreeMap<_, _> = lines.collect();
    let releases = facts.remove("release").unwrap();
    for (fact, values) in &facts {
        assert_eq!(values.len(), releases.len(), "{fact}");
    }
    (releases, facts)
}

/// Every release must say this of a fact.
fn assert_everywhere(fact: &str, expected: &str) {
    let (releases, facts) = table();
    let values = facts.get(fact).unwrap_or_else(|| panic!("the table lacks {fact}"));
    for (release, value) in releases.iter().zip(values) {
        assert_eq!(*value, expected, "{fact}, in Slurm {release}");
    }
}

#[test]
fn releases_are_read_and_what_is_none_is_refused() {
    for (text, expected) in [
        ("22.05", Some(0x0016_0500)),
        ("22.05.8", Some(0x0016_0500)),
        ("24.11.0", Some(0x0018_0b00)),
        ("20.11", Some(0x0014_0b00)),
        ("20.02", None),
        ("22", None),
        ("22.13", None),
        ("22.05.8.1", None),
        ("slurm-22.05", None),
        ("", None),
    ] {
        assert_eq!(release(text).filter(|found| *found >= OLDEST).map(number), expected, "{text}");
    }
}

#[test]
fn the_number_of_every_release_is_what_its_own_headers_make_of_it() {
    let (releases, facts) = table();
    let numbers = &facts["number SLURM_VERSION_NUMBER"];
    for (name, value) in releases.iter().zip(numbers) {
        // Slurm compares all but the last part.
        assert_eq!(number(release(name).unwrap()), value.parse::<u32>().unwrap() & !0xff, "{name}");
    }
    assert_everywhere("value SLURM_VERSION_NUM(24, 5, 3)", &(number((24, 5)) + 3).to_string());
    let read: Vec<(u32, u32)> = releases.iter().map(|name| release(name).unwrap()).collect();
    assert_eq!(read, READ, "release.rs and the table name others");
    assert!(BETWEEN.iter().all(|between| !READ.contains(between) && (OLDEST..READ[6]).contains(between)));
    assert!(releases.is_sorted(), "check-headers looks for the last that is not newer");
}

/// Runs the build script itself, as cargo does but with another Slurm in mind.
#[test]
fn a_plugin_for_a_release_that_nobody_has_looked_at_is_refused_unless_the_site_insists() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let built = Command::new(rustc).args(["--edition=2024", source, "-o"]).arg(&script).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let unknown = "is none of the releases that the plugin is known to fit";
    for (version, insist, expected) in [
        ("20.11", "", "rustc-env=SHIFTER_SLURM_NUMBER=1313536"),
        ("22.05.8", "", "rustc-env=SHIFTER_SLURM_NUMBER=1443072"),
        ("23.02", "", "rustc-env=SHIFTER_SLURM_NUMBER=1507840"),
        ("24.05", "", "rustc-env=SHIFTER_SLURM_NUMBER=1574144"),
        ("25.05", "", "rustc-env=SHIFTER_SLURM_NUMBER=1639680"),
        ("26.05", "", "rustc-env=SHIFTER_SLURM_NUMBER=1705216"),
        ("22.06", "", unknown),
        ("26.11", "", unknown),
        ("26.11", "yes", unknown),
        ("26.11", "1", "rustc-env=SHIFTER_SLURM_NUMBER=1706752"),
        ("20.02", "1", "error=Slurm 20.02 is older than 20.11: no plugin is built for it"),
        ("new", "1", "error=SHIFTER_SLURM_VERSION=new is no release of Slurm"),
    ] {
        let mut command = Command::new(&script);
        let out = command.env("SHIFTER_SLURM_VERSION", version).env(INSIST, insist).output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        let is_built = said.contains("rustc-env=");
        assert!(out.status.success() && said.contains(expected), "{version} {insist}: {said}");
        assert_eq!(is_built, expected.starts_with("rustc-env="), "{version} {insist}: {said}");
        assert_ne!(is_built, said.contains("cargo::error="), "{version} {insist}: {said}");
    }
    for known in READ.into_iter().chain(BETWEEN) {
        assert_eq!(refusal(known, false), None);
    }
}

#[test]
fn numbers_and_fields_are_those_of_every_release() {
    let constants =
        LAYOUT.lines().filter_map(|line| line.strip_prefix("pub(crate) const ")?.split_once(": c_int = "));
    let mut seen = 0;
    for (name, value) in constants {
        assert_everywhere(&format!("value {name}"), value.trim_end_matches(';'));
        seen += 1;
    }
    assert_eq!(seen, 9, "{LAYOUT}");
    for (field, at) in [
        ("name", offset_of!(SpankOption, name)),
        ("arginfo", offset_of!(SpankOption, arginfo)),
        ("usage", offset_of!(SpankOption, usage)),
        ("has_arg", offset_of!(SpankOption, has_arg)),
        ("val", offset_of!(SpankOption, val)),
        ("cb", offset_of!(SpankOption, cb)),
    ] {
        assert_everywhere(&format!("value offsetof(struct spank_option, {field})"), &at.to_string());
    }
    assert_everywhere("value sizeof(struct spank_option)", &size_of::<SpankOption>().to_string());
    let int = size_of::<std::ffi::c_int>().to_string();
    for what in ["spank_err_t", "spank_item_t", "spank_context_t", "uid_t", "gid_t", "plugin_version"] {
        assert_everywhere(&format!("value sizeof({what})"), &int);
    }
    for field in ["has_arg", "val"] {
        assert_everywhere(&format!("value sizeof(((struct spank_option *)0)->{field})"), &int);
    }
    let callback = "value __builtin_types_compatible_p(spank_opt_cb_f, int (*)(int, const char *, int))";
    assert_everywhere(callback, "1");
    assert_everywhere("value strcmp(plugin_type, \"spank\")", "0");
    assert!(FFI.contains("static plugin_type: [u8; 6] = *b\"spank\\0\";"));
}

/// A C declaration's types, in Rust.
fn in_rust(declaration: &str) -> String {
    let (before, parameters) = declaration.trim_end_matches(')').split_once('(').unwrap();
    let (result, name) = before.rsplit_once(' ').unwrap();
    let kind = |text: &str| match text {
        "spank_t" => "*mut Handle",
        "struct spank_option *" => "*mut SpankOption",
        "char **" => "*mut *mut c_char",
        "char *" => "*mut c_char",
        "const char *" => "*const c_char",
        "int" | "spank_item_t" | "spank_err_t" | "spank_context_t" => "c_int",
        "..." => "...",
        "void" => "",
        other => panic!("{other} in {declaration}"),
    };
    let parameters: Vec<&str> = parameters.split(", ").map(kind).collect();
    format!("{name}({}) {}", parameters.join(", "), kind(result)).trim_end().to_owned()
}

/// The functions of a piece of Rust, written as `in_rust` does.
fn functions(text: &str) -> Vec<String> {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("Words", "*mut *mut c_char");
    let parts = one_line.split("fn ").skip(1).filter_map(|part| {
        let (name, rest) = part.split_once('(')?;
        let (parameters, rest) = rest.split_once(')')?;
        let kinds: Vec<&str> = parameters
            .split(", ")
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| {
                parameter.split_once(": ").map_or(parameter, |(_, kind)| kind).trim_end_matches(',')
            })
            .collect();
        let result = rest.trim_start().strip_prefix("-> ").and_then(|rest| rest.split([' ', ';']).next());
        Some(format!("{name}({}) {}", kinds.join(", "), result.unwrap_or("")).trim_end().to_owned())
    });
    parts.collect()
}

#[test]
fn functions_are_declared_as_in_every_release() {
    let (_, facts) = table();
    let mut known: Vec<String> = Vec::new();
    for declaration in facts.keys().filter_map(|fact| fact.strip_prefix("declares ")) {
        assert_everywhere(&format!("declares {declaration}"), "yes");
        known.push(in_rust(declaration));
    }
    let (_, calls) = FFI.split_once("unsafe extern \"C\" {").unwrap();
    let (calls, rest) = calls.split_once("\n}").unwrap();
    let hooks = rest.split("pub(crate) extern \"C\" ").skip(1).map(|hook| hook.split('{').next().unwrap());
    let mut used = functions(calls);
    used.extend(hooks.flat_map(functions));
    used.sort_unstable();
    known.sort_unstable();
    assert_eq!(used, known);
    assert_eq!(used.len(), 16, "{used:?}");
}

fn check_headers(words: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/slurm/check-headers");
    Command::new(script).args(words).output().unwrap()
}

#[test]
fn headers_that_are_at_hand_agree_with_the_table() {
    let further = std::env::var("SHIFTER_SLURM_HEADERS").unwrap_or_default();
    assert!(
        Path::new("/usr/include/slurm/spank.h").exists(),
        "Slurm's headers are not installed (package libslurm-dev)"
    );
    for place in ["/usr/include"].into_iter().chain(further.split(':').filter(|place| !place.is_empty())) {
        let out = check_headers(&[place]);
        assert!(out.status.success(), "{place}: {out:?}");
    }
}

#[test]
fn a_site_is_told_what_its_headers_have_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    assert_eq!(check_headers(&[place]).status.code(), Some(2), "there are none");
    let copy = Command::new("cp").args(["-r", "/usr/include/slurm", place]).status().unwrap();
    assert!(copy.success());
    let header = directory.path().join("slurm/spank.h");
    let text = std::fs::read_to_string(&header).unwrap();
    let changed = text.replacen("    S_JOB_GID,", "    S_JOB_OTHER, S_JOB_GID,", 1).replacen(
        "spank_getenv (spank_t spank, const char *var, char *buf, int len)",
        "spank_getenv (spank_t spank, long var)",
        1,
    );
    assert_ne!(text, changed);
    std::fs::write(&header, changed).unwrap();
    let out = check_headers(&[place]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    for line in [
        "value S_JOB_GID: the table says 1, these headers say 2",
        "value S_JOB_STEPID: the table says 3, these headers say 4",
        "declares spank_err_t spank_getenv(spank_t, const char *, char *, int): the table says yes, these headers say no",
        "4 differences: do not use the plugin with this Slurm",
    ] {
        assert!(said.lines().any(|known| known == line), "{line}\n{said}");
    }
}
