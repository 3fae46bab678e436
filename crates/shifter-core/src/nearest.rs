//! "Did you mean …": the known name closest to a mistyped one. Deliberately small: names are short and few.

/// Longest name worth comparing, in bytes.
const LONGEST: usize = 64;

/// The candidate within two edits (three for names over eight bytes), case ignored; `None` if none is near.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let allowed = if name.len() > 8 { 3 } else { 2 };
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over ASCII-lowercased bytes.
fn distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_key_and_a_stranger_does_not() {
        let keys = ["udiMount", "loopMount", "siteEnvAppend"];
        for (typed, expected) in [
            ("udimount", Some("udiMount")),
            ("udiMonut", Some("udiMount")),
            ("siteEnvApend", Some("siteEnvAppend")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, keys), expected, "{typed}");
        }
    }
}
