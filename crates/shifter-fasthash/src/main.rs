//! `fasthash FILE...` prints the identifiers that images imported from these files get; `fasthash --import` sends the
//! gateway one file, asked for on standard input. It has no rights of its own: whoever runs it could read the file
//! without it. Installed on the hosts of remote systems.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitCode;

use shifter_fasthash::{hash, talk};

const USAGE: &str = "usage: fasthash FILE...\n       fasthash --import";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match &*words {
        [word] if word == "--import" => {
            talk::serve(&mut io::stdin().lock(), &mut io::stdout().lock()).map_err(|error| error.to_string())
        }
        [word] if word == "--version" => {
            println!("fasthash {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        [] => Err(USAGE.to_owned()),
        [word, ..] if word.as_encoded_bytes().starts_with(b"-") => Err(USAGE.to_owned()),
        files => files.iter().try_for_each(|name| {
            let hashed = File::open(name).and_then(|file| {
                let size = file.metadata()?.len();
                hash::fasthash(&file, size)
            });
            let id = hashed.map_err(|error| format!("hashing {} failed: {error}", name.display()))?;
            writeln!(io::stdout(), "{id}").map_err(|error| format!("printing failed: {error}"))
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Where nobody reads it, there is nobody to tell.
            let _ = writeln!(io::stderr(), "fasthash: {why}");
            ExitCode::FAILURE
        }
    }
}
