//! /proc/self/mountinfo as far as two containers can be compared by it: everything but numbers that every mount
//! has anew (ids, anonymous devices) and the source, which is only a label.

use anyhow::{Context as _, Result, bail};

/// What a program can tell of a mount, proc(5).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    point: String,
    root: String,
    flags: String,
    propagation: Vec<String>,
    kind: String,
    read_only_inside: bool,
}

/// Parses a whole file, keeping its order.
pub(crate) fn parse(text: &str) -> Result<Vec<Mount>> {
    text.lines().map(|line| parse_line(line).with_context(|| format!("mountinfo line {line:?}"))).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (of_mount, of_file_system) = line.split_once(" - ")?;
    let mut fields = of_mount.split(' ').skip(3).map(str::to_owned);
    let (root, point, flags) = (fields.next()?, fields.next()?, fields.next()?);
    // Peer groups are numbered; that a mount has one is what counts.
    let propagation = fields.map(|tag| tag.split(':').next().unwrap_or_default().to_owned()).collect();
    let mut inside = of_file_system.split(' ');
    let (kind, _source, options) = (inside.next()?.to_owned(), inside.next()?, inside.next()?);
    let read_only_inside = options.split(',').any(|option| option == "ro");
    Some(Mount { point, root, flags, propagation, kind, read_only_inside })
}

/// Fails, naming the first differences, unless both have the same mounts in the same order.
pub(crate) fn compare(ours: &[Mount], floors: &[Mount]) -> Result<()> {
    let only = |these: &[Mount], those: &[Mount]| -> Vec<String> {
        these.iter().filter(|mount| !those.contains(mount)).map(|mount| format!("{mount:?}")).collect()
    };
    let (more, missing) = (only(ours, floors), only(floors, ours));
    if !more.is_empty() || !missing.is_empty() {
        bail!("mounts differ; shifter alone has {more:#?}, the floor program alone {missing:#?}");
    }
    if ours != floors {
        bail!("shifter and the floor program make the same mounts, but in another order or number");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LINE: &str =
        "138 120 7:0 /usr /usr ro,nosuid,nodev,relatime master:7 - squashfs /dev/loop0 ro,errors=continue";

    #[test]
    fn mounts_that_differ_in_what_a_program_can_tell_are_told_apart() {
        for (from, to, same) in [
            ("138 120 7:0", "99 98 7:3", true),
            ("master:7", "master:8", true),
            ("/dev/loop0", "/proc/self/fd/7", true),
            ("nosuid,", "", false),
            (" /usr /usr", " /usr /opt", false),
            (" /usr /usr", " / /usr", false),
            (" master:7", "", false),
            ("master:7", "shared:7", false),
            ("squashfs", "erofs", false),
            ("ro,errors", "rw,errors", false),
        ] {
            let (one, other) = (parse(LINE).unwrap(), parse(&LINE.replace(from, to)).unwrap());
            assert_eq!(compare(&one, &other).is_ok(), same, "{from} -> {to}");
        }
        let twice = parse(&format!("{LINE}\n{LINE}")).unwrap();
        assert!(compare(&parse(LINE).unwrap(), &twice).is_err(), "a mount made twice");
        assert!(parse("1 2 3").is_err(), "a line cut short");
    }
}
