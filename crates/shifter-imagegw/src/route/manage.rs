//! The routes of `api::manage` and `api::inspect`: names and methods, no more.

use super::Route;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Expire,
    Autoexpire,
    Metrics,
    Image,
    Restore,
    Pin,
    Unpin,
    History,
}

impl Verb {
    /// Old clients expire by GET.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Verb::Expire | Verb::Autoexpire => "GET, POST",
            Verb::Metrics | Verb::History => "GET",
            Verb::Image => "GET, DELETE",
            Verb::Restore | Verb::Pin | Verb::Unpin => "POST",
        }
    }
}

/// A request about images that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manage {
    pub(crate) verb: Verb,
    pub(crate) system: String,
    /// Type and tag.
    pub(crate) name: Option<(String, String)>,
}

/// The route of a path's parts, if it is one of these.
pub(super) fn route(parts: &[&str]) -> Option<Route> {
    let (verb, system, name) = match *parts {
        ["autoexpire", system] => (Verb::Autoexpire, system, None),
        ["metrics", system] => (Verb::Metrics, system, None),
        ["restore", system] => (Verb::Restore, system, None),
        ["pin", system] => (Verb::Pin, system, None),
        ["unpin", system] => (Verb::Unpin, system, None),
        // By ?id= alone.
        ["expire", system] => (Verb::Expire, system, None),
        ["expire", system, itype, tag] => (Verb::Expire, system, Some((itype, tag))),
        ["image", system, itype, tag] => (Verb::Image, system, Some((itype, tag))),
        ["history", system, itype, tag] => (Verb::History, system, Some((itype, tag))),
        _ => return None,
    };
    let name = match name {
        Some((_, tag)) if tag.starts_with('/') => return None,
        name => name.map(|(itype, tag)| (itype.to_owned(), tag.to_owned())),
    };
    Some(Route::Manage(Manage { verb, system: system.to_owned(), name }))
}
