//! What a batch system does on a node: `setupRoot` before a job, `unsetupRoot` after it.

use super::Machine;
use shifter_tests::harness::Outcome;
use std::path::PathBuf;

pub const ALICE: [&str; 7] = ["-U", "4201", "-G", "4201", "-u", "alice", "id"];
pub const BOB: [&str; 7] = ["-U", "4202", "-G", "4202", "-u", "bob", "id"];

/// Runs one of root's programs.
pub fn root(machine: &Machine, program: &str, words: &[&str]) -> Outcome {
    let program = machine.sandbox.program(program).unwrap().display().to_string();
    machine.sandbox.root().run(&[&[program.as_str()], words].concat()).unwrap()
}

pub fn setup(machine: &Machine, user: &[&str], words: &[&str]) -> Outcome {
    root(machine, "setupRoot", &[user, &[machine.id.as_str()], words].concat())
}

/// Takes containers down, which must go without a word.
pub fn unsetup(machine: &Machine, words: &[&str]) {
    let out = root(machine, "unsetupRoot", words);
    assert!(out.status.success() && out.err().is_empty(), "{}", out.describe());
}

/// Whether a start finds a prepared container, as it says itself.
pub fn is_joined(machine: &Machine, user: &str, words: &[&str]) -> bool {
    says_joined(machine.run(user, &[&["-v"], words, &["true"]].concat()))
}

pub fn says_joined(out: Outcome) -> bool {
    assert!(out.status.success() && out.err().contains("run        true"), "{}", out.describe());
    out.err().contains("joined     the container prepared for this job")
}

/// A path below udiMount.
pub fn udi(machine: &Machine, path: &str) -> PathBuf {
    machine.sandbox.prefix().join("udi").join(path)
}
