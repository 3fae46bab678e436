//! `shifter-fixture`: builds, pushes and serves the named fixture images from the command line.
//!
//! Used by `./quickstart` where no registry can be reached, and by hand. It takes no configuration and keeps no
//! state.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use shifter_tests::fixture::{Server, Target, build_named, names, push, write_oci_layout};

const USAGE: &str = "usage: shifter-fixture list
       shifter-fixture build NAME DIRECTORY
       shifter-fixture push NAME HOST:PORT/REPOSITORY:TAG [--user USER --password PASSWORD]
       shifter-fixture serve NAME --listen HOST:PORT";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shifter-fixture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["list"] => {
            for (name, purpose) in names() {
                println!("{name:22} {purpose}");
            }
            Ok(())
        }
        ["build", name, directory] => {
            let built = build_named(name)?;
            write_oci_layout(&built, Path::new(directory), "latest")?;
            println!("{}", built.top);
            Ok(())
        }
        ["push", name, target, options @ ..] => {
            let mut target = Target::parse(target)?;
            target.login = match options {
                [] => None,
                ["--user", user, "--password", password] => {
                    Some(((*user).to_owned(), (*password).to_owned()))
                }
                _ => bail!("{USAGE}"),
            };
            let built = build_named(name)?;
            push(&built, &target).with_context(|| format!("push {name} to {}", target.authority))?;
            println!("{}", built.top);
            Ok(())
        }
        ["serve", name, "--listen", listen] => {
            let built = build_named(name)?;
            let server = Server::start(listen, &[(name, "latest", &built)], &[])?;
            println!("serving {}/{name}:latest ({})", server.authority(), built.top);
            server.wait();
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}
