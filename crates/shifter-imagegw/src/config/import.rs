//! Who may make images of files, and of which: `ImportUsers`, `ImportPaths` and `allowVerbatimImport`.

use std::path::PathBuf;

use super::section::Section;

/// What a site says of imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) users: Importers,
    /// If there are some, files must be below one of them.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether administrators may have squashfs images published unread.
    pub(crate) allows_verbatim: bool,
}

/// Who may import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Importers {
    #[default]
    Nobody,
    Everybody,
    /// Exact user names, `uid:N` and `gid:N`.
    Named(Vec<String>),
}

impl Import {
    pub(super) fn read(top: &mut Section<'_>) -> Import {
        let is_set = top.is_set("ImportUsers");
        let names = top.names("ImportUsers");
        let is_only = |word: &str| matches!(&*names, [name] if name.eq_ignore_ascii_case(word));
        let users = match () {
            () if !is_set || is_only("none") => Importers::Nobody,
            // An empty list, too, as in the original.
            () if names.is_empty() || is_only("all") => Importers::Everybody,
            () => Importers::Named(names),
        };
        let paths = top.names("ImportPaths");
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            top.problem("ImportPaths", &format!("\"{path}\" is not an absolute path"));
        }
        Import {
            users,
            paths: paths.into_iter().map(PathBuf::from).collect(),
            allows_verbatim: top.bool("allowVerbatimImport").unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::config::Config;

    #[test]
    fn who_may_import_is_read_as_the_original_meant_it() {
        let named = |names: &[&str]| Importers::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (keys, expected) in [
            ("", Importers::Nobody),
            (r#""ImportUsers": null,"#, Importers::Nobody),
            (r#""ImportUsers": "None","#, Importers::Nobody),
            (r#""ImportUsers": ["none"],"#, Importers::Nobody),
            (r#""ImportUsers": "all","#, Importers::Everybody),
            (r#""ImportUsers": [],"#, Importers::Everybody),
            // Not part of a name, as with the original.
            (r#""ImportUsers": "alice","#, named(&["alice"])),
            (r#""ImportUsers": ["all", "alice"],"#, named(&["all", "alice"])),
        ] {
            let text = format!(
                r#"{{"DefaultImageLocation": "reg", "CacheDirectory": "/c", "ExpandDirectory": "/e", {keys}
                "ImportPaths": ["/scratch"], "Locations": {{"reg": {{"remotetype": "dockerv2"}}}}, "Platforms": {{"sysa":
                {{"accesstype": "local", "mungeSocketPath": "/m", "local": {{"imageDir": "/i"}}}}}}}}"#
            );
            let import = Config::parse(&text).unwrap().0.import;
            assert_eq!(import.users, expected, "{keys}");
            assert_eq!((import.paths, import.allows_verbatim), (vec!["/scratch".into()], false));
        }
    }
}
