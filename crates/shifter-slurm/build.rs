//! Fixes the Slurm release that the plugin is for: Slurm refuses plugins of any other, by the number they carry.
//!
//! `SHIFTER_SLURM_VERSION` names it (`24.05`, or the whole `24.05.3`); without it, the Slurm installed here; without
//! one, Debian 12's. No headers are needed: what the plugin uses of SPANK has been the same since the oldest release
//! that is accepted (`dist/slurm/spank-releases.txt`). One that is not known is refused, unless `SHIFTER_SLURM_UNKNOWN=1`
//! insists.

mod release;

use release::{INSIST, number, refusal, release};
use std::process::Command;

/// The release where nobody says otherwise.
const DEFAULT: (u32, u32) = (22, 5);

fn main() {
    println!("cargo::rerun-if-env-changed=SHIFTER_SLURM_VERSION");
    println!("cargo::rerun-if-env-changed={INSIST}");
    let chosen = std::env::var("SHIFTER_SLURM_VERSION").ok().filter(|text| !text.is_empty());
    let release = match &chosen {
        Some(text) => release(text),
        None => Some(installed().unwrap_or(DEFAULT)),
    };
    let insisted = std::env::var(INSIST).is_ok_and(|text| text == "1");
    match release {
        Some(release) => match refusal(release, insisted) {
            None => println!("cargo::rustc-env=SHIFTER_SLURM_NUMBER={}", number(release)),
            Some(reason) => println!("cargo::error={reason}"),
        },
        None => {
            let text = chosen.unwrap_or_default();
            println!(
                "cargo::error=SHIFTER_SLURM_VERSION={text} is no release of Slurm; write 24.05, for instance"
            );
        }
    }
}

/// What `sinfo --version` says: `slurm-wlm 22.05.8`.
fn installed() -> Option<(u32, u32)> {
    let output = Command::new("sinfo").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    release(text.split_whitespace().last()?)
}
