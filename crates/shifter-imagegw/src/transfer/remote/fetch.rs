//! A file that a user names, brought from the first host by our program `fasthash` there, which checks for whom it is
//! opened. The name goes over its standard input, so it is no part of any command line. What comes back may be anything:
//! it is bounded, hashed here, and compared with what was read there, so that a broken connection is not a short file.

use std::fs::File;
use std::io::{BufRead, ErrorKind, Read as _, Seek as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use shifter_fasthash::talk::{self, Beginning, Request};

use super::super::TransferError;
use super::super::ssh::{Fault, Output};
use super::{Link, Remote};
use crate::import::{self, Copied};

/// Longest wait for the next bytes; finding and hashing samples comes before the first.
const SILENCE: Duration = Duration::from_secs(120);

/// Longest time for a file: 256 GiB at 20 MB/s.
const LONGEST: Duration = Duration::from_secs(14_400);

/// What became of a wish for a file.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// All of it is here.
    Copied(Copied),
    /// A sentence for the user.
    Refused(String),
}

/// What reading an answer came to.
enum Read {
    Done(Fetched),
    /// What arrived is not what was read there.
    Differs,
    /// Where it is to be written, it cannot be.
    Kept(std::io::Error),
    /// It ended or fell silent, or is no answer.
    Lost(std::io::Error),
}

impl Remote {
    pub(in super::super) async fn fetch(
        &self,
        request: &Request,
        to: &File,
    ) -> Result<Fetched, TransferError> {
        let Some(host) = self.hosts.first() else {
            return Ok(Fetched::Refused("the system has no host".to_owned()));
        };
        let attempt = |link: Arc<Link>| async move {
            let to = to.try_clone().map_err(|error| Fault::lasting(format!("the copy: {error}")))?;
            self.fetch_once(&link, request, to).await
        };
        self.on(host, &AtomicU64::new(0), attempt).await
    }

    async fn fetch_once(&self, link: &Link, request: &Request, to: File) -> Result<Fetched, Fault> {
        let mut line = serde_json::to_vec(request).map_err(|error| Fault::lasting(error.to_string()))?;
        line.push(b'\n');
        let limit = request.limit;
        let words = [self.fasthash.as_str(), "--import"];
        let reading = move |from: &mut dyn BufRead| read(from, to, limit);
        let streaming = link.connection.stream(&words, line, SILENCE, reading);
        let Ok(done) = tokio::time::timeout(LONGEST, streaming).await else {
            return Err(Fault::lasting(format!("the file took longer than {} s", LONGEST.as_secs())));
        };
        let (read, output) = done?;
        let file = request.path.display();
        match read {
            Read::Done(fetched) => Ok(fetched),
            Read::Differs => {
                Err(Fault::passing(format!("what arrived of {file} is not what {} sent", self.fasthash)))
            }
            Read::Kept(error) => Err(Fault::lasting(format!("storing {file} here failed: {error}"))),
            Read::Lost(error) => Err(self.lost(&output, &error)),
        }
    }

    /// What an answer that did not come whole means.
    fn lost(&self, output: &Output, error: &std::io::Error) -> Fault {
        let (program, said) = (&self.fasthash, &output.said);
        let why = match said.is_empty() {
            true => format!("{program} on the host gave no whole answer ({error})"),
            false => format!("{program} on the host gave no whole answer: {said}"),
        };
        match output.status {
            // ssh's own end, or none that is known.
            None | Some(255) => Fault::passing(why),
            Some(126 | 127) => Fault::lasting(format!(
                "{program} cannot be run there ({said}); the administrators install it on the host, or you upload the file"
            )),
            Some(_) if error.kind() == ErrorKind::TimedOut => Fault::passing(why),
            Some(_) => Fault::lasting(why),
        }
    }
}

fn read(from: &mut dyn BufRead, mut to: File, limit: u64) -> Read {
    let size = match talk::begin(from) {
        Ok(Beginning::File(size)) if size <= limit => size,
        Ok(Beginning::File(_)) => return Read::Lost(ErrorKind::FileTooLarge.into()),
        Ok(Beginning::Refused(why)) => return Read::Done(Fetched::Refused(why)),
        Err(error) => return Read::Lost(error),
    };
    // An earlier attempt's.
    if let Err(error) = to.set_len(0).and_then(|()| to.rewind()) {
        return Read::Kept(error);
    }
    let copied = match import::copy(&mut from.take(size), &mut to, limit) {
        Ok(copied) => copied,
        Err(error) => match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return Read::Kept(error),
            _ => return Read::Lost(error),
        },
    };
    if copied.size != size {
        return Read::Lost(ErrorKind::UnexpectedEof.into());
    }
    match talk::end(from) {
        Ok((id, sha256)) if (&id, &sha256) == (&copied.id, &copied.sha256) => {
            Read::Done(Fetched::Copied(copied))
        }
        Ok(_) => Read::Differs,
        Err(error) => Read::Lost(error),
    }
}
