//! `import`: an image made from a file, which the gateway reads itself, or which is sent to it.
//!
//! What the file is and who may import is the gateway's business; here it only gets a name that the gateway can use:
//! an absolute one, or its bytes.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use shifter_api::client::{Client, ClientError, Named};
use shifter_api::payload::file_digest;
use shifter_api::wire::{PullRequest, Pulled};

use crate::cli::Cli;

/// What a file is taken for.
const FORMAT: &str = "squashfs";

/// The format that is no file.
const DIRECTORY: &str = "directory";

/// One import, as often as it is asked after.
pub(crate) struct Import<'a> {
    client: &'a Client<'a>,
    image: Named<'a>,
    format: &'a str,
    access: PullRequest,
    source: Source,
}

enum Source {
    /// Where the gateway finds it.
    Path(String),
    /// What is sent, once.
    Upload { file: File, sha256: String, is_sent: Cell<bool> },
}

impl<'a> Import<'a> {
    /// Finds the file that the command line names; nothing is sent yet.
    pub(crate) fn new(
        cli: &'a Cli,
        client: &'a Client<'a>,
        image: Named<'a>,
        access: PullRequest,
    ) -> anyhow::Result<Import<'a>> {
        let name = cli.word(0)?;
        let format = cli.format.as_deref().unwrap_or(FORMAT);
        ensure!(
            !cli.upload || (format != DIRECTORY && !Path::new(name).is_dir()),
            "a directory cannot be uploaded; upload a tar of it, with --format tar"
        );
        let source = if cli.upload {
            let file = File::open(name).with_context(|| format!("cannot open {name}"))?;
            let sha256 = file_digest(&file).with_context(|| format!("cannot read {name}"))?;
            Source::Upload { file, sha256, is_sent: Cell::new(false) }
        } else {
            let path = std::path::absolute(name).with_context(|| format!("{name:?} is no path"))?;
            let path = path.into_os_string().into_string();
            Source::Path(path.ok().with_context(|| format!("{name:?} is not UTF-8; use --upload"))?)
        };
        Ok(Import { client, image, format, access, source })
    }

    /// Starts it, then asks how it stands.
    pub(crate) fn ask(&self, wait: Option<(u64, &str)>) -> Result<Pulled, ClientError> {
        match &self.source {
            Source::Path(path) => self.client.import(self.image, path, self.format, &self.access, wait),
            Source::Upload { is_sent, .. } if is_sent.get() => self.client.job(self.image, wait),
            Source::Upload { file, sha256, is_sent } => {
                let sent = self.client.upload(self.image, file, sha256, self.format, &self.access)?;
                is_sent.set(true);
                Ok(sent)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use clap::Parser;
    use shifter_api::client::ClientConfig;

    use super::*;

    #[test]
    fn who_uploads_a_directory_is_told_what_to_do() {
        let config = ClientConfig { gateways: vec!["localhost:1".to_owned()], ..ClientConfig::default() };
        let client = Client::new(&config, Box::new(|_| Ok(String::new()))).unwrap();
        let image = Named { itype: "custom", tag: "app:1" };
        for line in ["--upload --format directory /nowhere", "--upload --format tar /", "--upload /"] {
            let words = format!("shifterimg import {line} custom:app:1");
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let made = Import::new(&cli, &client, image, PullRequest::default());
            let error = made.err().unwrap().to_string();
            assert!(error.contains("upload a tar of it"), "{line}: {error}");
        }
    }
}
