//! `cargo xtask`: the developers' tasks that cargo has no command for.
//!
//! `tidy` checks the rules of ARCHITECTURE.md that a compiler does not: which crate may use which, what the setuid
//! program consists of, how long files are, and what project text must not say. `soak` tries the squashfs writer with
//! many more random trees than `./test` does, the gateway with two hundred clients for longer, the largest images, or
//! whether OpenSSH is built the same twice. Nothing here is ever shipped.

mod soak;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

const USAGE: &str = "usage: cargo xtask tidy\n       cargo xtask soak [TREES [SEED]]\n       cargo xtask soak gateway [SECONDS [SEED]]\n       cargo xtask soak openssh\n       cargo xtask soak large";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => root().and_then(|root| tidy::run(&root)),
        ["soak", rest @ ..] if rest.len() < 4 => root().and_then(|root| soak::run(&root, rest)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root: the parent of this crate's directory.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.context("xtask lies in the repository's root directory")?.to_owned())
}
