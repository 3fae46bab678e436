//! The floor program is only a floor while it makes the very container that `shifter` makes.

use std::process::Command;

/// Runs as root: it mounts.
#[test]
fn floor_and_shifter_differ_in_what_the_program_sees() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../start");
    let (success, said) = match Command::new(script).arg("--check").output() {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => (false, error.to_string()),
    };
    assert!(success, "{script} --check: {said}");
}
