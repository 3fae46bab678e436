//! Who may make images of files, and of which: `ImportUsers`, `ImportPaths` and `allowVerbatimImport`.

use std::path::{Path, PathBuf};

use super::section::Section;
use super::{Config, Place};

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

impl Config {
    /// Directories and files that are the gateway's own, and never imported. Besides its directories these are single
    /// files, wherever they are: their directories, as `/var/log`, may be everybody's.
    pub(crate) fn own_places(&self) -> Vec<PathBuf> {
        let mut own = vec![
            self.cache_directory.clone(),
            self.expand_directory.clone(),
            PathBuf::from(shifter_core::paths::SYSCONFDIR),
        ];
        own.extend(self.platforms.values().map(|platform| platform.image_dir.clone()));
        if let Some(file) = &self.file {
            own.push(file.clone());
            own.extend(directory_of(file, &self.import.paths).map(Path::to_owned));
        }
        own.extend(self.seal_key_file.clone());
        own.extend(self.audit_log.clone());
        own.extend(self.doors.tls.as_ref().map(|files| files.key.clone()));
        own.extend(self.platforms.values().filter_map(|platform| platform.remote.as_ref()?.key.clone()));
        if let Place::Sqlite(file) = &self.database {
            for end in ["", "-wal", "-shm"] {
                let mut name = file.clone().into_os_string();
                name.push(end);
                own.push(name.into());
            }
        }
        own
    }
}

/// The directory of a configuration file, unless that is the whole machine, or the site allows imports from below it.
fn directory_of<'a>(file: &'a Path, allowed: &[PathBuf]) -> Option<&'a Path> {
    let directory = file.parent().filter(|directory| directory.parent().is_some())?;
    (!allowed.iter().any(|path| path.starts_with(directory))).then_some(directory)
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

    #[test]
    fn the_directory_of_a_configuration_is_closed_unless_that_closes_what_the_site_opened() {
        for (file, allowed, expected) in [
            ("/etc/site/imagemanager.json", &[][..], Some("/etc/site")),
            ("/etc/site/imagemanager.json", &["/etc/sites", "/etc"], Some("/etc/site")),
            ("/srv/imagemanager.json", &["/home", "/srv/imports"], None),
            ("/srv/imagemanager.json", &["/srv"], None),
            ("/imagemanager.json", &[], None),
        ] {
            let allowed: Vec<PathBuf> = allowed.iter().map(PathBuf::from).collect();
            assert_eq!(
                directory_of(Path::new(file), &allowed),
                expected.map(Path::new),
                "{file} {allowed:?}"
            );
        }
    }
}
