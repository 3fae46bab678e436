//! What the programs that root runs around jobs share: `setupRoot` and `unsetupRoot`, `shifter-prologue` and
//! `shifter-epilogue` for batch systems without the plugin, the node health check, and the DataWarp helper.
//!
//! Root runs these, before and after a job. They are not part of the setuid program, which only joins what they
//! prepare (`shifter_runtime::prepared`).

pub mod batch;
pub mod leftovers;
pub mod options;
pub mod prepare;
pub mod sshd;
pub mod teardown;

/// Says something on standard error; whoever closed it does not want to know.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _closed = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
