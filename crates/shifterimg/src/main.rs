//! `shifterimg`: the users' command for the image gateway: pull, list and look up images.
//!
//! Everything a script may want is on standard output; every diagnostic is one sentence on standard error. The
//! runtime and the Slurm plugin run `shifterimg lookup` as the user and read the identifier from its output.
//! This program has no privileges and checks no owner of its configuration: whoever can change that file for
//! this user could as well run another program. It sends and receives; deciding is the gateway's business.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shifter_api::client::Client;
use shifter_api::cred;
use shifter_api::munge::Munge;
use shifter_api::wire::{Image, ImageList, PullRequest};
use shifter_core::descriptor::Descriptor;

mod accounts;
mod cli;
mod config;
mod pull;
mod show;

use cli::{Cli, Mode};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output with status 0; a usage error to standard error with 1, the status
            // scripts written for the original expect, where clap's own would be 2.
            let text = cli::explanation(&error);
            if error.use_stderr() {
                let _ = io::stderr().write_all(text.as_bytes());
                return ExitCode::FAILURE;
            }
            return write_out(&text).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
    };
    match run(&cli) {
        Ok(code) => code,
        // The reader of our output has gone; there is nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let settings = config::load()?;
    let munge = Munge::load()?;
    let mut client = Client::new(&settings.client, Box::new(|payload: &[u8]| munge.encode(None, payload)))?;
    if cli.verbose {
        client = client.observed_by(Box::new(show_message));
    }
    let named = || -> anyhow::Result<Descriptor> {
        let text = cli.image.as_deref().context("name the image, e.g. docker:debian:12")?;
        Descriptor::parse(text, settings.default_image_type)
            .with_context(|| format!("{text:?} names no image"))
    };
    let gives_access = !cli.user.is_empty() || !cli.group.is_empty();
    if gives_access && matches!(cli.mode, Mode::Images | Mode::Lookup) {
        say("--user and --group belong to pull and are ignored here");
    }
    match cli.mode {
        Mode::Images => {
            anyhow::ensure!(cli.image.is_none(), "images takes no image name; look one up with lookup");
            let list = client.images()?;
            let text = if cli.json { document(&ImageList { list })? } else { show::table(&list) };
            write_out(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Lookup => {
            let wanted = named()?;
            let image = client.lookup(wanted.image_type.as_str(), &wanted.tag)?;
            let id = show::identifier(&image)
                .with_context(|| format!("the gateway knows {wanted} but sent no identifier for it"))?;
            let text = if cli.json { document(&image)? } else { format!("{id}\n") };
            write_out(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Pull | Mode::Pullnb => {
            let wanted = named()?;
            let access = PullRequest {
                allowed_uids: accounts::ids(accounts::Database::Users, &cli.user)?,
                allowed_gids: accounts::ids(accounts::Database::Groups, &cli.group)?,
            };
            let locations = stored_credentials(&munge, &settings.client.system)?;
            let ask = || client.pull(wanted.image_type.as_str(), &wanted.tag, &access, &locations);
            let style = match () {
                () if cli.json => pull::Style::Silent,
                () if cli.verbose => pull::Style::EveryAnswer,
                () if io::stdout().is_terminal() => pull::Style::OneLine { columns: show::columns() },
                () => pull::Style::Changes,
            };
            let mut out = io::stdout().lock();
            let mut progress = pull::Progress::new(&mut out, style, wanted.to_string());
            let pace = if cli.mode == Mode::Pullnb { pull::Pace::ONCE } else { pull::Pace::DEFAULT };
            let image = pull::follow(&pace, &ask, &mut progress)?;
            drop(out);
            finish(cli, &wanted, &image)
        }
    }
}

/// The end of a pull: what the gateway made of it decides the exit status.
fn finish(cli: &Cli, wanted: &Descriptor, image: &Image) -> anyhow::Result<ExitCode> {
    if cli.json {
        write_out(&document(image)?)?;
    }
    match pull::outcome(image) {
        pull::Outcome::Ready | pull::Outcome::Going => Ok(ExitCode::SUCCESS),
        pull::Outcome::Failed(reason) => {
            say(&format!("pulling {wanted} failed: {reason}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The caller's stored registry passwords for this system; useless entries are told, not fatal.
fn stored_credentials(
    munge: &Munge,
    system: &str,
) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
    let uid = rustix::process::getuid().as_raw();
    let Some(home) = accounts::home(uid) else { return Ok(std::collections::BTreeMap::new()) };
    let stored = cred::load(&home, uid, system, &|credential| munge.decode_stored(None, credential))?;
    for sentence in &stored.skipped {
        say(sentence);
    }
    Ok(stored.locations)
}

/// The verbose mode's view of every answer.
fn show_message(gateway: &str, status: u16, body: &[u8]) {
    let text = show::printable(&String::from_utf8_lossy(body));
    let line = match status {
        200 => format!("Message: {text}"),
        _ => format!("{gateway} answered {status}: {text}"),
    };
    let _ = writeln!(io::stderr(), "{line}");
}

fn document<T>(value: &T) -> anyhow::Result<String>
where
    T: ?Sized + serde::Serialize,
{
    Ok(serde_json::to_string(value)? + "\n")
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One diagnostic; standard error may be closed, which is no reason to panic.
fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "shifterimg: {sentence}");
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
