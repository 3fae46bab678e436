//! What a list is narrowed to: the caller's own images, tags that a pattern fits, labels. Narrows only;
//! what a caller may see at all is decided before.

use std::collections::BTreeMap;

use crate::route::{Query, QueryError};

/// Longest pattern in bytes.
pub(crate) const LONGEST_GLOB: usize = 256;

/// Most labels in one request.
const MOST_LABELS: usize = 16;

/// What to keep of a list; the default keeps all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Only images that the caller pulled.
    pub(crate) mine: bool,
    name: Option<Vec<char>>,
    /// Names, and values where they matter.
    labels: Vec<(String, Option<String>)>,
}

/// Why a filter cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("the pattern for names is longer than {LONGEST_GLOB} bytes")]
    Pattern,
    #[error("there are more than {MOST_LABELS} labels to look for")]
    Labels,
}

impl Filter {
    pub(crate) fn parse(query: &Query) -> Result<Filter, FilterError> {
        let name = query.get("name").filter(|name| !name.is_empty());
        if name.is_some_and(|name| name.len() > LONGEST_GLOB) {
            return Err(FilterError::Pattern);
        }
        let labels: Vec<_> = query
            .all("label")
            .filter(|label| !label.is_empty())
            .map(|label| match label.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (label.to_owned(), None),
            })
            .take(MOST_LABELS + 1)
            .collect();
        if labels.len() > MOST_LABELS {
            return Err(FilterError::Labels);
        }
        let name = name.map(|name| name.chars().collect());
        Ok(Filter { mine: query.flag("mine")?, name, labels })
    }

    pub(crate) fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, wanted)| {
            labels.get(name).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        })
    }

    /// Whether the pattern fits a whole tag, as `repo:tag`.
    pub(crate) fn has_name(&self, tag: &str) -> bool {
        self.name.as_ref().is_none_or(|pattern| fits(pattern, tag))
    }
}

/// Without recursion: of several stars only the last needs to be tried again, so the time is bounded by
/// the product of both lengths, whatever somebody writes.
fn fits(pattern: &[char], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut place) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(character) = text.get(place) {
        match pattern.get(at) {
            Some('*') => {
                retry = Some((at + 1, place));
                at += 1;
                continue;
            }
            Some(wanted) if *wanted == '?' || wanted == character => {
                (at, place) = (at + 1, place + 1);
                continue;
            }
            _ => {}
        }
        let Some((after_star, begun)) = retry else { return false };
        retry = Some((after_star, begun + 1));
        (at, place) = (after_star, begun + 1);
    }
    pattern.get(at..).unwrap_or_default().iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn filter(query: &str) -> Result<Filter, FilterError> {
        Filter::parse(&Query::parse(Some(query)).unwrap())
    }

    #[test]
    fn patterns_fit_whole_tags() {
        for (pattern, tag, expected) in [
            ("debian:12", "debian:12", true),
            ("debian", "debian:12", false),
            ("debian:*", "debian:12", true),
            ("*:12", "org/debian:12", true),
            ("*deb*1*", "org/debian:12", true),
            ("deb?an:*", "debian:12", true),
            ("deb?an:*", "debiian:12", false),
            ("*", "anything", true),
            ("**a**", "a", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("[a]", "a", false),
            ("Debian:*", "debian:12", false),
        ] {
            assert_eq!(
                filter(&format!("name={pattern}")).unwrap().has_name(tag),
                expected,
                "{pattern} {tag}"
            );
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let slow = filter(&format!("name={}b", "a*".repeat(127))).unwrap();
        let tag = "a".repeat(512);
        let begun = std::time::Instant::now();
        for _ in 0..1000 {
            assert!(!slow.has_name(&tag));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn labels_and_limits() {
        let labels = [("who".to_owned(), "me".to_owned()), ("a=b".to_owned(), String::new())].into();
        for (query, expected) in [
            ("", true),
            ("label=who", true),
            ("label=who%3Dme", true),
            ("label=who=me&label=nosuch", false),
            ("label=who=you", false),
            ("label=", true),
        ] {
            assert_eq!(filter(query).unwrap().has_labels(&labels), expected, "{query}");
        }
        assert_eq!(filter(&format!("name={}", "a".repeat(300))), Err(FilterError::Pattern));
        assert_eq!(filter(&"label=x&".repeat(20)), Err(FilterError::Labels));
        assert_eq!(filter("mine=maybe"), Err(FilterError::Query(QueryError::Flag("mine"))));
    }
}
