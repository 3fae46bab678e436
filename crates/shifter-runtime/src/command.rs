//! Which program runs, from the command line and the image: the original's table; and scripts that name this program
//! in their first line.

use shifter_sys::credentials::{Access, Unprivileged, with_access};
use shifter_sys::descriptors::path_of;
use shifter_sys::directory::{file_type, open_to_read, place};
use shifter_sys::exec::leave_open;
use shifter_sys::lockdown::LockedDown;
use std::os::fd::OwnedFd;

/// A script whose `#!` line names this program. It may lie where no container shows it, as batch systems' do.
#[derive(Debug)]
pub struct Script {
    path: String,
    file: OwnedFd,
}

impl Script {
    /// Opens it as the caller; `None` if it is no file of theirs to read.
    pub fn open(locked: &LockedDown, path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.to_owned();
        let file = with_access(Access::AsCaller(locked.caller()), || open_to_read(&path)).ok()?;
        file_type(&file, &path).is_ok_and(|kind| kind.is_file()).then_some(Self { path, file })
    }

    /// In the container: where its path leads to something else or nowhere, `argv` gets one that leads to it.
    pub fn name_in(self, argv: &mut [Vec<u8>], user: &Unprivileged, locked: &LockedDown) {
        let path = path_of(locked.proc(), &self.file);
        if place(&path) != place(&self.path)
            && leave_open(user, self.file).is_ok()
            && let Some(word) = argv.iter_mut().find(|word| **word == self.path.as_bytes())
        {
            *word = path.into_bytes();
        }
    }
}

/// The kernel passes on all that follows a script's interpreter as one word (execve(2)); here it is several. Returns
/// the script's path.
pub fn split_first_line(words: &mut Vec<Vec<u8>>, started_as: &[u8]) -> Option<Vec<u8>> {
    let at = words.iter().skip(1).take(2).position(|word| word == started_as)?;
    let line = words.splice(1..1 + at, []).collect::<Vec<_>>().concat();
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let several = line.split(blank).filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
    words.splice(1..1, several);
    Some(started_as.to_vec())
}

/// What `--entrypoint` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entrypoint {
    /// Not given: the words of the command line, or a shell.
    #[default]
    Unused,
    /// `--entrypoint`: the image's.
    OfImage,
    /// `--run`: the image's if it has one, then the words or the image's command, as Docker does.
    AsImageSays,
    /// `--entrypoint=PROGRAM`: one word, not split.
    Given(Vec<u8>),
}

/// The image has no entry point to use, or nothing to run at all.
#[derive(Debug, PartialEq, Eq)]
pub struct NoEntrypoint;

/// The argument vector: never empty.
pub fn select(
    entrypoint: &Entrypoint,
    words: &[Vec<u8>],
    image_entry: Option<&[String]>,
    image_cmd: Option<&[String]>,
) -> Result<Vec<Vec<u8>>, NoEntrypoint> {
    let bytes = |list: &[String]| list.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    Ok(match entrypoint {
        Entrypoint::Unused if words.is_empty() => vec![b"/bin/sh".to_vec()],
        Entrypoint::Unused => words.to_vec(),
        Entrypoint::Given(program) => [std::slice::from_ref(program), words].concat(),
        Entrypoint::OfImage | Entrypoint::AsImageSays => {
            let mut argv = bytes(image_entry.unwrap_or_default());
            if argv.is_empty() && *entrypoint == Entrypoint::OfImage {
                return Err(NoEntrypoint);
            }
            argv.extend(if words.is_empty() { bytes(image_cmd.unwrap_or_default()) } else { words.to_vec() });
            if argv.is_empty() {
                return Err(NoEntrypoint);
            }
            argv
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_first_line_is_split_into_words() {
        let split = |given: &[&str]| {
            let mut words: Vec<Vec<u8>> = given.iter().map(|word| word.as_bytes().to_vec()).collect();
            let script = split_first_line(&mut words, b"/spool/script");
            (words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>(), script)
        };
        for (given, expected, found) in [
            (&["shifter", "/spool/script", "a b"][..], &["shifter", "/spool/script", "a b"][..], true),
            (&["shifter", "/bin/bash", "/spool/script"], &["shifter", "/bin/bash", "/spool/script"], true),
            (
                &["shifter", "--image=x \t/bin/bash -e", "/spool/script", "a b"],
                &["shifter", "--image=x", "/bin/bash", "-e", "/spool/script", "a b"],
                true,
            ),
            (&["shifter", "a b", "c", "/spool/script"], &["shifter", "a b", "c", "/spool/script"], false),
            (&["shifter"], &["shifter"], false),
            (&["/spool/script", "a b"], &["/spool/script", "a b"], false),
        ] {
            let (words, script) = split(given);
            assert_eq!(
                (words, script.is_some()),
                (expected.iter().map(|word| (*word).to_owned()).collect(), found),
                "{given:?}"
            );
        }
    }

    #[test]
    fn every_row_of_the_table_holds() {
        use Entrypoint::*;
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let bytes = |words: &[&str]| words.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let (entry, cmd) = (list(&["/entry", "-e"]), list(&["cmd"]));
        let given = || Given(b"/bin/echo a".to_vec());
        for (use_entry, words, with_entry, expected) in [
            (Unused, &["ls", "-l"][..], true, Ok(&["ls", "-l"][..])),
            (Unused, &[], true, Ok(&["/bin/sh"])),
            (OfImage, &[], true, Ok(&["/entry", "-e", "cmd"])),
            (OfImage, &["x"], true, Ok(&["/entry", "-e", "x"])),
            (OfImage, &["x"], false, Err(NoEntrypoint)),
            (OfImage, &[], false, Err(NoEntrypoint)),
            (AsImageSays, &[], true, Ok(&["/entry", "-e", "cmd"])),
            (AsImageSays, &["x"], true, Ok(&["/entry", "-e", "x"])),
            (AsImageSays, &[], false, Ok(&["cmd"])),
            (AsImageSays, &["x"], false, Ok(&["x"])),
            (given(), &[], true, Ok(&["/bin/echo a"])),
            (given(), &["x"], false, Ok(&["/bin/echo a", "x"])),
        ] {
            let entry = with_entry.then_some(entry.as_slice());
            let got = select(&use_entry, &bytes(words), entry, Some(&cmd));
            assert_eq!(got, expected.map(bytes), "{use_entry:?} {words:?}");
        }
    }
}
