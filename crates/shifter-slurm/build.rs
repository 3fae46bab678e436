//! Fixes the Slurm release that the plugin is for: Slurm refuses plugins of any other, by the number they carry.
//!
//! `SHIFTER_SLURM_VERSION` names it (`24.05`, or the whole `24.05.3`); without it, the Slurm installed here; without
//! one, Debian 12's. No headers are needed: what the plugin uses of SPANK has been the same since the oldest release
//! that is accepted (`dist/slurm/spank-releases.txt`); of a release newer than that was known for, it warns.

mod release;

use release::{NEWEST, OLDEST, number, release};
use std::process::Command;

/// The release where nobody says otherwise.
const DEFAULT: (u32, u32) = (22, 5);

fn main() {
    println!("cargo::rerun-if-env-changed=SHIFTER_SLURM_VERSION");
    let chosen = std::env::var("SHIFTER_SLURM_VERSION").ok().filter(|text| !text.is_empty());
    let release = match &chosen {
        Some(text) => release(text),
        None => Some(installed().unwrap_or(DEFAULT)),
    };
    match release {
        Some(release) if release >= OLDEST => {
            println!("cargo::rustc-env=SHIFTER_SLURM_NUMBER={}", number(release));
            if release > NEWEST {
                let ((major, minor), (newest, of)) = (release, NEWEST);
                println!(
                    "cargo::warning=Slurm {major}.{minor:02} is newer than {newest}.{of:02}, the last that was looked at: \
                     compare its headers by dist/slurm/check-headers before the plugin is used"
                );
            }
        }
        Some((major, minor)) => {
            let (oldest, of) = OLDEST;
            println!(
                "cargo::error=Slurm {major}.{minor:02} is older than {oldest}.{of:02}: no plugin is built for it"
            );
        }
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
