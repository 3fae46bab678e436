//! What the gateway and `fasthash` on another host say to each other: one line of JSON there, and back either why not or
//! the file, framed by lines of text. Nothing that a user wrote is ever a word of a command line.
//!
//! ```text
//! fasthash 1 refused WHY            fasthash 1 file SIZE
//!                                   SIZE bytes
//!                                   fasthash 1 end IDENTIFIER SHA256
//! ```
//!
//! What comes back is hostile: the gateway bounds it, hashes the bytes itself, and takes the last line only as a check on
//! the way. Start files of an account's shell may print before the first line.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hash;
use crate::open::{Asker, OpenError, Places, open};

/// How each line of an answer begins; the number is that of the protocol.
const MARK: &str = "fasthash 1 ";

/// Most bytes before the first line, and of a line.
const MOST: u64 = 64 << 10;

/// Most characters of a reason that are shown.
const REASON: usize = 600;

/// Which file is wanted, and for whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Absolute.
    pub path: PathBuf,
    /// For whom.
    pub asker: Asker,
    /// Where it may be.
    pub places: Places,
    /// Most bytes.
    pub limit: u64,
}

/// How an answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A sentence for the user.
    Refused(String),
    /// So many bytes follow.
    File(u64),
}

/// Why a file is not sent.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No request came.
    #[error("the request cannot be read: {0}")]
    Request(io::Error),
    /// The file cannot be read to the end that it had, or nobody takes it.
    #[error("sending the file failed: {0}")]
    Send(io::Error),
}

/// The helper's side: reads one request and answers it.
///
/// # Errors
/// [`Failure`]; a refusal is an answer and no failure.
pub fn serve(from: &mut dyn BufRead, to: &mut dyn Write) -> Result<(), Failure> {
    let mut line = Vec::new();
    // Groups, places and a path: far below.
    from.take(16 << 20).read_until(b'\n', &mut line).map_err(Failure::Request)?;
    let request: Request = serde_json::from_slice(&line).map_err(|error| Failure::Request(error.into()))?;
    answer(&request, to).map_err(Failure::Send)
}

fn answer(request: &Request, to: &mut dyn Write) -> io::Result<()> {
    let mut refuse = |why: &dyn std::fmt::Display| {
        let why: String = why.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        writeln!(to, "{MARK}refused {why}")
    };
    let mut file = match open(&request.path, &request.asker, &request.places) {
        Ok(file) => file,
        Err(error) => return refuse(&error),
    };
    let size = file.metadata()?.len();
    if size > request.limit {
        return refuse(&format_args!("the file is larger than {} GiB", request.limit >> 30));
    }
    let id = match hash::fasthash(&file, size) {
        Ok(id) => id,
        Err(error) => {
            return refuse(&OpenError::Gateway(request.path.display().to_string(), error.to_string()));
        }
    };
    writeln!(to, "{MARK}file {size}")?;
    let sha256 = hash::copy(&mut file, to, size)?;
    writeln!(to, "{MARK}end {id} {sha256}")?;
    to.flush()
}

/// The gateway's side: how an answer begins. The bytes, and then [`end`], are to be read next.
///
/// # Errors
/// What reading gives; `InvalidData` where it is no answer, `UnexpectedEof` where it ends before.
pub fn begin(from: &mut dyn BufRead) -> io::Result<Beginning> {
    let mut before = 0;
    loop {
        let line = line(from)?;
        before += line.len() as u64 + 1;
        match line.strip_prefix(MARK).and_then(|rest| rest.split_once(' ')) {
            Some(("refused", why)) => {
                let is_shown = |c: &char| !c.is_control();
                return Ok(Beginning::Refused(why.chars().filter(is_shown).take(REASON).collect()));
            }
            Some(("file", size)) => {
                let size = size.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                return Ok(Beginning::File(size));
            }
            _ if before > MOST => return Err(io::ErrorKind::InvalidData.into()),
            _ => {}
        }
    }
}

/// Identifier and sha256 as they were there, in hexadecimal digits.
///
/// # Errors
/// As for [`begin`].
pub fn end(from: &mut dyn BufRead) -> io::Result<(String, String)> {
    let line = line(from)?;
    let words = line.strip_prefix(MARK).and_then(|rest| rest.strip_prefix("end "));
    let words = words.and_then(|rest| rest.split_once(' '));
    let (id, sha256) = words.ok_or(io::ErrorKind::InvalidData)?;
    Ok((id.to_owned(), sha256.to_owned()))
}

fn line(from: &mut dyn BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(MOST).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(String::from_utf8_lossy(&line).into_owned()),
        Some(_) if line.len() as u64 + 1 == MOST => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn asked(path: &str, limit: u64) -> Vec<u8> {
        let asker = Asker { uid: 0, gids: vec![0] };
        let request = Request { path: path.into(), asker, places: Places::default(), limit };
        let mut line = serde_json::to_vec(&request).unwrap();
        line.push(b'\n');
        let mut said = Vec::new();
        serve(&mut &*line, &mut said).unwrap();
        said
    }

    #[test]
    fn a_file_arrives_whole_behind_what_shells_print() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a\nb 'c' $(d)");
        std::fs::write(&path, "blah blah hash").unwrap();
        let said = [b"Welcome to the cluster\n".to_vec(), asked(path.to_str().unwrap(), 14)].concat();
        let mut said = &*said;
        assert_eq!(begin(&mut said).unwrap(), Beginning::File(14));
        let mut bytes = Vec::new();
        let sum = hash::copy(&mut said, &mut bytes, 14).unwrap();
        assert_eq!(bytes, b"blah blah hash");
        assert_eq!(end(&mut said).unwrap(), (sum.clone(), sum));
        let mut refused = &*asked(path.to_str().unwrap(), 13);
        assert!(
            matches!(begin(&mut refused).unwrap(), Beginning::Refused(why) if why.contains("larger than"))
        );
        let mut missing = &*asked("/no\nthing", 13);
        let expected = "/no?thing is not there, or you cannot read it";
        assert_eq!(begin(&mut missing).unwrap(), Beginning::Refused(expected.to_owned()));
    }

    #[test]
    fn answers_that_lie_or_do_not_end_are_no_answers() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        let noise = [b"x".repeat(1000), b"\n".to_vec()].concat().repeat(100);
        for (said, expected) in [
            (b"".to_vec(), UnexpectedEof),
            (b"sh: fasthash: not found\n".to_vec(), UnexpectedEof),
            (b"fasthash 1 file 10".to_vec(), UnexpectedEof),
            (b"fasthash 1 file -1\n".to_vec(), InvalidData),
            (b"fasthash 1 file 99999999999999999999\n".to_vec(), InvalidData),
            (noise, InvalidData),
            (b"x".repeat(1 << 20), InvalidData),
        ] {
            let error = begin(&mut &*said).unwrap_err();
            assert_eq!(error.kind(), expected, "{:?}", &said[..said.len().min(40)]);
        }
        assert_eq!(end(&mut &b"fasthash 1 end 00\n"[..]).unwrap_err().kind(), InvalidData);
        assert_eq!(end(&mut &b""[..]).unwrap_err().kind(), UnexpectedEof);
        let mut long = &*[b"fasthash 1 refused ", &*b"\x1b[31my".repeat(999), b"\n"].concat();
        assert!(
            matches!(begin(&mut long).unwrap(), Beginning::Refused(why) if why.len() == REASON && !why.contains('\x1b'))
        );
        serve(&mut &b"{}\n"[..], &mut io::sink()).unwrap_err();
    }
}
