//! The tools that convert where a site does not want our own writer. tar2sqfs needs 11 MB of memory where mksquashfs
//! takes hundreds, writes the same bytes for the same stream, and refuses what it cannot represent.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::FindError;

/// Where tools are searched and what they get as PATH; the caller's environment has no say.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that makes squashfs images of tar streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Converter {
    /// From squashfs-tools-ng.
    Tar2sqfs,
    /// From squashfs-tools, 4.5 or newer. Stamps the root directory with the time of conversion, whatever
    /// its options say (seen with 4.5.1), so equal streams give images that differ there.
    Mksquashfs,
}

impl fmt::Display for Converter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Converter {
    /// The file name of the program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Converter::Tar2sqfs => "tar2sqfs",
            Converter::Mksquashfs => "mksquashfs",
        }
    }

    /// The program with its directory; refuses a mksquashfs that cannot read tar streams.
    pub(crate) fn locate(self) -> Result<PathBuf, FindError> {
        let program = search(self.program()).ok_or(FindError::Missing { searched: SEARCH_PATH })?;
        if self == Converter::Mksquashfs {
            require_tar_input(&program)?;
        }
        Ok(program)
    }
}

fn search(program: &str) -> Option<PathBuf> {
    let executable = |path: &Path| {
        path.metadata().is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
    };
    SEARCH_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| executable(path))
}

fn require_tar_input(program: &Path) -> Result<(), FindError> {
    let output = Command::new(program)
        .arg("-version")
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FindError::Start { program: program.into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = version_word(&text);
    if reads_tar(version) {
        return Ok(());
    }
    Err(FindError::NoTarInput { program: program.into(), version: version.chars().take(40).collect() })
}

/// `mksquashfs version 4.5.1 (2022/03/17)` has `4.5.1`.
fn version_word(text: &str) -> &str {
    text.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or("unknown")
}

fn reads_tar(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (4, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_read_tar_are_told_apart() {
        let table = [
            ("mksquashfs version 4.5.1 (2022/03/17)\ncopyright", true),
            ("mksquashfs version 4.5 (2021/07/22)", true),
            ("mksquashfs version 4.6.1-git (2023)", true),
            ("mksquashfs version 4.10", true),
            ("mksquashfs version 5.0", true),
            ("mksquashfs version 4.4 (2019/08/29)", false),
            ("mksquashfs version 4.3-git (2014/09/12)", false),
            ("FATAL ERROR", false),
            ("", false),
        ];
        for (text, expected) in table {
            assert_eq!(reads_tar(version_word(text)), expected, "{text}");
        }
    }
}
