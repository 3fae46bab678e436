//! What `setupRoot` and `unsetupRoot` share: their options, the places of prepared containers, and taking one down.
//!
//! Root runs these, before and after a job. They are not part of the setuid program, which only joins what they
//! prepare (`shifter_runtime::prepared`).

pub mod options;
pub mod prepare;
pub mod sshd;
pub mod teardown;

/// Says something on standard error; whoever closed it does not want to know.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _closed = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
