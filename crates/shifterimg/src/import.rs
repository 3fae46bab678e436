//! `import`: an image made from a file, which the gateway reads itself, or which is sent to it.
//!
//! What the file is and who may import is the gateway's business; here it only gets a name that the gateway can use:
//! an absolute one, or its bytes.

use std::cell::Cell;
use std::fs::File;

use anyhow::Context;
use shifter_api::client::{Client, ClientError, Named};
use shifter_api::payload::file_digest;
use shifter_api::wire::{PullRequest, Pulled};

use crate::cli::Cli;

/// What a file is taken for.
const FORMAT: &str = "squashfs";

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
        let source = if cli.upload {
            let file = File::open(name).with_context(|| format!("cannot open {name}"))?;
            let sha256 = file_digest(&file).with_context(|| format!("cannot read {name}"))?;
            Source::Upload { file, sha256, is_sent: Cell::new(false) }
        } else {
            let path = std::path::absolute(name).with_context(|| format!("{name:?} is no path"))?;
            let path = path.into_os_string().into_string();
            Source::Path(path.ok().with_context(|| format!("{name:?} is not UTF-8; use --upload"))?)
        };
        let format = cli.format.as_deref().unwrap_or(FORMAT);
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
