//! `login` and `logout`: the user's registry passwords in `~/.udiRoot/.cred`.
//!
//! A password is asked for on the terminal without being shown, tried at the registry by way of the gateway, which is
//! what will use it, and then sealed by munge for this user alone. It is never taken from the command line, where
//! everybody could read it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
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
    match OpenOptions::new().read(true).write(true).open("/dev/tty") {
        Ok(terminal) => ask_on(&terminal, question, echo),
        Err(_) => {
            let _ = write!(io::stderr(), "{question}");
            first_line(&mut io::stdin().lock(), None)
        }
    }
}

fn ask_on(mut terminal: &File, question: &str, echo: Echo) -> anyhow::Result<String> {
    terminal.write_all(question.as_bytes())?;
    if echo == Echo::On {
        return first_line(&mut BufReader::new(terminal), None);
    }
    let before = tcgetattr(terminal)?;
    let mut silent = before.clone();
    // A signal would end the program before the echo is back, so Ctrl-C is a character here, which ends the line.
    let interrupt = before.special_codes[SpecialCodeIndex::VINTR];
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    tcsetattr(terminal, OptionalActions::Flush, &silent)?;
    let line = first_line(&mut BufReader::new(terminal), Some(interrupt));
    tcsetattr(terminal, OptionalActions::Now, &before)?;
    terminal.write_all(b"\n")?;
    line
}

/// Up to the end of the line, or to the character that interrupts.
fn first_line(from: &mut dyn BufRead, interrupt: Option<u8>) -> anyhow::Result<String> {
    let mut line = Vec::new();
    for byte in from.take(LONGEST).bytes() {
        match byte.context("cannot read the answer")? {
            b'\n' => return String::from_utf8(line).context("the answer is not UTF-8; nothing was stored"),
            byte if Some(byte) == interrupt => bail!("interrupted; nothing was stored"),
            byte => line.push(byte),
        }
    }
    bail!("the answer ended before its line; nothing was stored")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;

    #[test]
    fn an_interrupt_ends_the_question_for_a_password_and_the_echo_comes_back() {
        let table: [(&[u8], Result<&str, &str>); 3] = [
            (b"se cret\n", Ok("se cret")),
            (b"sec\x03", Err("interrupted")),
            (b"\x04", Err("ended before its line")),
        ];
        for (typed, expected) in table {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
            let master = openpt(flags).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let terminal = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
            let mut user = File::from(master);
            let (tell, told) = channel();
            let asked = terminal.try_clone().unwrap();
            thread::spawn(move || tell.send(ask_on(&asked, "password: ", Echo::Off)));
            // The question is written before what was typed earlier is thrown away, hence the echo is waited for.
            while tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO) {
                thread::sleep(Duration::from_millis(1));
            }
            user.write_all(typed).unwrap();
            let answer = told.recv_timeout(Duration::from_secs(10)).expect("the question was not ended");
            match expected {
                Ok(text) => assert_eq!(answer.unwrap(), text),
                Err(why) => assert!(answer.unwrap_err().to_string().contains(why)),
            }
            let modes = tcgetattr(&terminal).unwrap().local_modes;
            assert!(modes.contains(LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        }
    }
}
