//! `login` and `logout`: the user's registry passwords in `~/.udiRoot/.cred`.
//!
//! A password is asked for on the terminal without being shown, tried at the registry by way of the gateway, which is
//! what will use it, and then sealed by munge for this user alone. It is never taken from the command line, where
//! everybody could read it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use shifter_api::client::{Client, ClientError};
use shifter_api::cred;
use shifter_api::munge::Munge;

use crate::accounts;
use crate::cli::Cli;
use crate::{DENIED, say, show};

/// The location whose password is taken for the site's default registry.
const DEFAULT: &str = "default";

/// Longest name or password, bytes.
const LONGEST: u64 = 8192;

/// `login [LOCATION]`.
pub(crate) fn login(cli: &Cli, client: &Client<'_>, munge: &Munge, system: &str) -> anyhow::Result<ExitCode> {
    let location = location(cli)?;
    let (uid, home) = whose()?;
    let user = match &cli.username {
        Some(name) => name.clone(),
        None if cli.password_stdin => bail!("--password-stdin needs --username"),
        None => ask(&format!("{location} username: "), Echo::On)?,
    };
    check_text("user name", &user)?;
    ensure!(!user.contains(':'), "a user name with a colon cannot be used at a registry (RFC 7617)");
    let password = if cli.password_stdin {
        let mut text = String::new();
        io::stdin().take(LONGEST).read_to_string(&mut text).context("cannot read the password")?;
        text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
    } else {
        ask(&format!("{location} password: "), Echo::Off)?
    };
    check_text("password", &password)?;
    let login = format!("{user}:{password}");
    if !cli.no_verify {
        let probe = client.probe(location, &BTreeMap::from([(location.to_owned(), login.clone())]));
        match probe {
            Ok(probe) if probe.status => {}
            Ok(probe) => {
                let why = probe.message.unwrap_or_else(|| "the registry refuses it".to_owned());
                say(&format!("the login at {location} was not stored: {}", show::printable(&why)));
                return Ok(ExitCode::from(DENIED));
            }
            Err(error) if is_unknown_route(&error) => {
                say("this gateway cannot check a login; the password is stored untried");
            }
            Err(error) => {
                return Err(error).context("the password was not stored; --no-verify stores it untried");
            }
        }
    }
    let sealed = munge.seal(None, uid, login.as_bytes())?;
    cred::store(&home, uid, system, location, Some(&sealed))?;
    Ok(ExitCode::SUCCESS)
}

/// `logout [LOCATION]`.
pub(crate) fn logout(cli: &Cli, system: &str) -> anyhow::Result<ExitCode> {
    let location = location(cli)?;
    let (uid, home) = whose()?;
    let was_there = cred::store(&home, uid, system, location, None)?;
    ensure!(was_there, "no password is stored for {location} on {system}");
    Ok(ExitCode::SUCCESS)
}

fn location(cli: &Cli) -> anyhow::Result<&str> {
    let location = cli.what.first().map_or(DEFAULT, String::as_str);
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"._-:/[]".contains(&b);
    ensure!(
        !location.is_empty() && location.len() <= 255 && location.bytes().all(is_fine),
        "{location:?} is not the name of a registry, e.g. registry.example.org:5000"
    );
    Ok(location)
}

fn whose() -> anyhow::Result<(u32, std::path::PathBuf)> {
    let uid = rustix::process::getuid().as_raw();
    let home = accounts::home(uid).context("the user database names no home directory for you")?;
    Ok((uid, home))
}

fn check_text(what: &str, text: &str) -> anyhow::Result<()> {
    ensure!(!text.is_empty(), "the {what} is empty; nothing was stored");
    ensure!(!text.chars().any(char::is_control), "the {what} has a control character; nothing was stored");
    Ok(())
}

/// A gateway that lacks the route: the original's.
fn is_unknown_route(error: &ClientError) -> bool {
    error.statuses().is_some_and(|statuses| statuses.iter().all(|status| matches!(status, 404 | 405)))
}

/// Whether what is typed is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

/// Asks on the terminal, or, without one, on standard error and input.
fn ask(question: &str, echo: Echo) -> anyhow::Result<String> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        let _ = write!(io::stderr(), "{question}");
        return first_line(&mut io::stdin().lock());
    };
    (&terminal).write_all(question.as_bytes())?;
    let before = tcgetattr(&terminal)?;
    if echo == Echo::Off {
        let mut silent = before.clone();
        // Without ISIG a Ctrl-C is a character of the line, which is then refused, and the echo comes back.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    }
    let line = first_line(&mut BufReader::new(&terminal));
    if echo == Echo::Off {
        tcsetattr(&terminal, OptionalActions::Now, &before)?;
        (&terminal).write_all(b"\n")?;
    }
    line
}

fn first_line(from: &mut dyn BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    from.take(LONGEST).read_line(&mut line).context("cannot read the answer")?;
    ensure!(line.ends_with('\n'), "the answer ended before its line; nothing was stored");
    line.pop();
    Ok(line)
}
