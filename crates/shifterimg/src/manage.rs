//! The modes that ask one question and print one answer: inspection, removal, and what administrators do.
//!
//! Whether the caller may is decided by the gateway; its "no" is told here, where the original printed nothing.

use std::process::ExitCode;

use shifter_api::client::{Client, Named};
use shifter_api::wire::Done;

use crate::cli::{Cli, Mode};
use crate::{DENIED, document, say, show, write_out};

/// What an administrator-only mode says to everybody else.
const NOT_ADMIN: &str = "only administrators of the image gateway may do this";

/// Modes about one image.
pub(crate) fn about(
    cli: &Cli,
    client: &Client<'_>,
    name: &str,
    image: Named<'_>,
) -> anyhow::Result<ExitCode> {
    match cli.mode {
        Mode::Inspect => {
            let found = client.inspect(image)?;
            let text = if cli.json { document(&found)? } else { show::pretty(&found)? };
            write_out(&text)?;
        }
        Mode::History => {
            let history = client.history(image)?;
            let text = if cli.json { document(&history)? } else { show::history(&history) };
            write_out(&text)?;
        }
        Mode::Cancel => client.cancel(image)?,
        Mode::Rm => client.remove(image, cli.all)?,
        Mode::Restore => return told(cli, name, client.change("restore", image.tag)?),
        Mode::Pin => return told(cli, name, client.change("pin", image.tag)?),
        Mode::Unpin => return told(cli, name, client.change("unpin", image.tag)?),
        _ => return told(cli, name, client.expire(image)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Modes about the whole system.
pub(crate) fn overall(cli: &Cli, client: &Client<'_>) -> anyhow::Result<ExitCode> {
    let text = match cli.mode {
        Mode::Queue => {
            let queue = client.queue()?;
            if cli.json { document(&queue)? } else { show::queue(&queue) }
        }
        Mode::Metrics => {
            let lookups = client.metrics(cli.limit.unwrap_or(10))?;
            if cli.json { document(&lookups)? } else { show::lookups(&lookups) }
        }
        Mode::Autoexpire => {
            let expired = client.autoexpire(cli.dry_run)?;
            let Some(ids) = expired.ids() else {
                say(NOT_ADMIN);
                return Ok(ExitCode::from(DENIED));
            };
            let lines = ids.iter().map(|id| show::printable(id) + "\n").collect();
            if cli.json { document(&expired)? } else { lines }
        }
        _ => return status(cli, client),
    };
    write_out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `status`: fails unless every gateway answers.
fn status(cli: &Cli, client: &Client<'_>) -> anyhow::Result<ExitCode> {
    let gateways = client.status();
    let text = if cli.json {
        let list: Vec<_> = gateways
            .iter()
            .map(|(url, answer)| match answer {
                Ok(()) => serde_json::json!({ "gateway": url, "up": true }),
                Err(error) => serde_json::json!({ "gateway": url, "up": false, "error": error.to_string() }),
            })
            .collect();
        document(&list)?
    } else {
        let line = |(url, answer): &(String, Result<(), _>)| {
            let state = answer.as_ref().map_or("down", |()| "up");
            format!("{state:<5} {url}\n")
        };
        gateways.iter().map(line).collect()
    };
    write_out(&text)?;
    let failures = gateways.iter().filter_map(|(_, answer)| answer.as_ref().err());
    let failures: Vec<_> = failures.map(|error| say(&error.to_string())).collect();
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(cli: &Cli, name: &str, done: Done) -> anyhow::Result<ExitCode> {
    if cli.json {
        write_out(&document(&done)?)?;
    }
    if let Some(sentence) = remark(name, done) {
        say(&sentence);
    }
    Ok(match done.status {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::from(DENIED),
        None => ExitCode::FAILURE,
    })
}

/// What is said of an answer; nothing where all is done.
fn remark(name: &str, done: Done) -> Option<String> {
    match done.status {
        Some(true) if done.file == Some(false) => Some(format!(
            "{name} is restored without its file, which the next pull of one of its tags brings; of an imported \
             image, import the file again"
        )),
        Some(true) => None,
        Some(false) => Some(NOT_ADMIN.to_owned()),
        None => Some(format!("the gateway has no image {name} for which this can be done")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_restored_without_its_file_is_not_passed_over_in_silence() {
        for (status, file, expected) in [
            (Some(true), None, None),
            (Some(true), Some(true), None),
            (Some(true), Some(false), Some("restored without its file")),
            (Some(false), None, Some(NOT_ADMIN)),
            (None, None, Some("no image id:ab")),
        ] {
            let said = remark("id:ab", Done { status, file });
            let fits = said.as_ref().map(|said| expected.is_some_and(|expected| said.contains(expected)));
            assert_eq!(fits, expected.map(|_| true), "{status:?} {file:?}: {said:?}");
        }
    }
}
