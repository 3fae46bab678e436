//! The plugin against Slurm's own headers: those installed, and those of further releases that `SHIFTER_SLURM_HEADERS`
//! lists, directories separated by colons with `slurm/spank.h` below each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../release.rs"]
mod release;

use release::{OLDEST, number, release};
use std::path::Path;
use std::process::Command;

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

/// The compiler compares what `ffi.rs` declares with what the header does.
#[test]
fn declarations_are_those_of_the_headers() {
    let ours = include_str!("../src/ffi.rs");
    let constants = ours.lines().filter_map(|line| line.strip_prefix("const S_")?.split_once(": c_int = "));
    let mut checks: String = constants
        .map(|(name, value)| {
            format!("_Static_assert(S_{name} == {}, \"S_{name}\");\n", value.trim_end_matches(';'))
        })
        .collect();
    assert_eq!(checks.lines().count(), 4, "{checks}");
    let fields = ["name", "arginfo", "usage", "has_arg", "val", "cb"];
    for (field, at) in fields.iter().zip([0, 8, 16, 24, 28, 32]) {
        checks += &format!("_Static_assert(offsetof(struct spank_option, {field}) == {at}, \"{field}\");\n");
    }
    // A second declaration must agree with the first.
    checks += "_Static_assert(S_CTX_LOCAL == 1 && S_CTX_REMOTE == 2 && S_CTX_ALLOCATOR == 3 && S_CTX_JOB_SCRIPT == 5, \"contexts\");\n\
        _Static_assert(ESPANK_SUCCESS == 0 && sizeof(uid_t) == 4 && sizeof(gid_t) == 4 && sizeof(pid_t) == 4, \"sizes\");\n\
        spank_context_t spank_context(void);\n\
        spank_err_t spank_option_register(spank_t, struct spank_option *);\n\
        spank_err_t spank_option_getopt(spank_t, struct spank_option *, char **);\n\
        spank_err_t spank_get_item(spank_t, spank_item_t, ...);\n\
        spank_err_t spank_getenv(spank_t, const char *, char *, int);\n\
        spank_err_t spank_setenv(spank_t, const char *, const char *, int);\n\
        spank_err_t spank_job_control_setenv(spank_t, const char *, const char *, int);\n\
        void slurm_info(const char *, ...);\nvoid slurm_debug(const char *, ...);\n\
        _Static_assert(sizeof(spank_err_t) == sizeof(int) && sizeof(spank_context_t) == sizeof(int), \"enums\");\n\
        static int used(int val, const char *value, int remote) { return val + !value + remote; }\n\
        spank_opt_cb_f ours = used;\n";
    let program = format!(
        "#include <stddef.h>\n#include <stdint.h>\n#include <sys/types.h>\n#include <slurm/slurm.h>\n#include <slurm/spank.h>\n{checks}"
    );
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("check.c");
    std::fs::write(&source, program).unwrap();
    let further = std::env::var("SHIFTER_SLURM_HEADERS").unwrap_or_default();
    let places: Vec<&str> =
        ["/usr/include"].into_iter().chain(further.split(':')).filter(|place| !place.is_empty()).collect();
    let mut seen = 0;
    for place in places.iter().filter(|place| Path::new(place).join("slurm/spank.h").exists()) {
        let words = ["-fsyntax-only", "-Werror", "-I", place];
        let out = Command::new("cc").args(words).arg(&source).output().unwrap();
        assert!(out.status.success(), "{place}: {}", String::from_utf8_lossy(&out.stderr));
        seen += 1;
    }
    assert!(seen > 0, "Slurm's headers are not installed (package libslurm-dev)");
}
