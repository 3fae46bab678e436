//! Which program runs, from the command line and the image: the original's table, plus nothing.

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
