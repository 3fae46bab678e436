//! `shifterimg`: the users' command for the image gateway: pull, import, list, look up and manage images.
//!
//! Everything a script may want is on standard output; every diagnostic is one sentence on standard error. The
//! runtime and the Slurm plugin run `shifterimg lookup` as the user and read the identifier from its output.
//! This program has no privileges and checks no owner of its configuration: whoever can change that file for
//! this user could as well run another program. It sends and receives; deciding is the gateway's business.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shifter_api::client::{Client, ClientError, Filter, Named};
use shifter_api::cred;
use shifter_api::munge::Munge;
use shifter_api::wire::{Image, ImageList, PullRequest};
use shifter_core::descriptor::Descriptor;

mod accounts;
mod cli;
mod config;
mod import;
mod login;
mod manage;
mod pull;
mod show;

use cli::{Cli, Mode};

/// Exit status of a pull or import that goes on.
const PENDING: u8 = 3;

/// Exit status where the gateway or the registry denies access.
const DENIED: u8 = 4;

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
            say(&show::causes(&error));
            let is_denied = error.downcast_ref::<ClientError>().is_some_and(ClientError::is_denied);
            if is_denied { ExitCode::from(DENIED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    cli.check()?;
    let settings = config::load()?;
    let munge = Munge::load()?;
    let mut client = Client::new(&settings.client, Box::new(|payload: &[u8]| munge.encode(None, payload)))?;
    if cli.verbose {
        client = client.observed_by(Box::new(show_message));
    }
    let named = |number: usize| -> anyhow::Result<Descriptor> {
        let text = cli.word(number)?;
        let wanted = Descriptor::parse(text, settings.default_image_type)
            .with_context(|| format!("{text:?} names no image"))?;
        cli.mode.check_type(wanted.image_type)?;
        cli::check_name(&wanted)?;
        Ok(wanted)
    };
    let gives_access = !cli.user.is_empty() || !cli.group.is_empty();
    if gives_access && !matches!(cli.mode, Mode::Pull | Mode::Pullnb | Mode::Import) {
        say("--user and --group belong to pull and import and are ignored here");
    }
    let system = settings.client.system.as_str();
    let style = style(cli);
    let pace = match cli.mode != Mode::Pullnb && !cli.no_wait {
        true => pull::Pace::waiting(style, settings.client.timeout),
        false => pull::Pace::ONCE,
    };
    match cli.mode {
        Mode::Images => {
            let filter = Filter { mine: cli.mine, name: cli.name.clone(), labels: cli.label.clone() };
            let list = client.images(&filter)?;
            let text = if cli.json { document(&ImageList { list })? } else { show::table(&list) };
            write_out(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Lookup => {
            let wanted = named(0)?;
            let image = client.lookup(name(&wanted))?;
            let id = show::identifier(&image)
                .with_context(|| format!("the gateway knows {wanted} but sent no identifier for it"))?;
            let text = if cli.json { document(&image)? } else { format!("{id}\n") };
            write_out(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Mode::Pull | Mode::Pullnb => {
            let wanted = named(0)?;
            let access = access(cli)?;
            let locations = stored_credentials(&munge, system)?;
            let ask = |seen: &str| client.pull(name(&wanted), &access, &locations, pace.wait(seen));
            follow(cli, "Pulling Image", &wanted, (style, &pace), &ask)
        }
        Mode::Import => {
            let wanted = named(1)?;
            let import = import::Import::new(cli, &client, name(&wanted), access(cli)?)?;
            follow(cli, "Importing Image", &wanted, (style, &pace), &|seen| import.ask(pace.wait(seen)))
        }
        Mode::Login => login::login(cli, &client, &munge, system),
        Mode::Logout => login::logout(cli, system),
        Mode::Queue | Mode::Metrics | Mode::Autoexpire | Mode::Status => manage::overall(cli, &client),
        _ => {
            let wanted = named(0)?;
            manage::about(cli, &client, &wanted.to_string(), name(&wanted))
        }
    }
}

fn name(wanted: &Descriptor) -> Named<'_> {
    Named { itype: wanted.image_type.as_str(), tag: &wanted.tag }
}

fn access(cli: &Cli) -> anyhow::Result<PullRequest> {
    Ok(PullRequest {
        allowed_uids: accounts::ids(accounts::Database::Users, &cli.user)?,
        allowed_gids: accounts::ids(accounts::Database::Groups, &cli.group)?,
    })
}

fn style(cli: &Cli) -> pull::Style {
    match () {
        () if cli.json => pull::Style::Silent,
        () if cli.verbose => pull::Style::EveryAnswer,
        () if io::stdout().is_terminal() => pull::Style::OneLine { columns: show::columns() },
        () => pull::Style::Changes,
    }
}

/// Shows a pull or import until it is over; what the gateway made of it decides the exit status.
fn follow(
    cli: &Cli,
    doing: &str,
    wanted: &Descriptor,
    (style, pace): (pull::Style, &pull::Pace),
    ask: &pull::Ask<'_>,
) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut progress = pull::Progress::new(&mut out, style, format!("{doing}: {wanted}"));
    let image = pull::follow(pace, ask, &mut progress)?;
    drop(out);
    if cli.json {
        write_out(&document::<Image>(&image)?)?;
    }
    match pull::outcome(&image) {
        pull::Outcome::Ready => {
            if let Some(hint) = pull::hint(&image).filter(|_| !cli.json) {
                say(&hint);
            }
            Ok(ExitCode::SUCCESS)
        }
        // Scripts written for the original take every other status of pullnb for a failure.
        pull::Outcome::Going if cli.mode == Mode::Pullnb => Ok(ExitCode::SUCCESS),
        pull::Outcome::Going => Ok(ExitCode::from(PENDING)),
        pull::Outcome::Denied(reason) => {
            say(&format!("{wanted} cannot be had: {reason}"));
            Ok(ExitCode::from(DENIED))
        }
        pull::Outcome::Failed(reason) => {
            say(&format!("{doing} {wanted} failed: {reason}"));
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
