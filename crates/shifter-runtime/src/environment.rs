//! The container's environment, in the original's order: caller, Shifter, image, file, command line, modules, site. Later
//! ones win, so nobody overrides the site; a container without any `PATH` gets a usual one before the site
//! adds to it.

use shifter_core::environment::{DEFAULT_PATH, Environment};
use shifter_core::udiroot::{Module, SiteEnv};

/// What an environment is made of.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The caller's variables; empty under `--clearenv`.
    pub inherited: &'a [Vec<u8>],
    /// What the user asked for, as typed.
    pub request: &'a str,
    /// The image's identifier.
    pub id: &'a str,
    /// The image's `ENV`.
    pub image: &'a [String],
    /// `--env-file`, in order.
    pub file: &'a [Vec<u8>],
    /// `--env`, in order.
    pub command_line: &'a [Vec<u8>],
    /// Active modules, in order.
    pub modules: &'a [Module],
    /// udiRoot.conf's `siteEnv…`.
    pub site: &'a SiteEnv,
}

/// Puts the sources together.
pub fn build(sources: &Sources<'_>) -> Environment {
    let mut environment = Environment::inherited(sources.inherited.iter().cloned());
    environment.set(format!("SHIFTER_IMAGEREQUEST={}", sources.request).as_bytes());
    environment.set(format!("SHIFTER_IMAGE={}", sources.id).as_bytes());
    for variable in sources.image {
        environment.set(variable.as_bytes());
    }
    for variable in sources.file.iter().chain(sources.command_line) {
        environment.set(variable);
    }
    if environment.get(b"PATH").is_none() {
        environment.set(format!("PATH={DEFAULT_PATH}").as_bytes());
    }
    for settings in sources.modules.iter().map(|module| &module.env).chain([sources.site]) {
        apply_site(&mut environment, settings);
    }
    environment
}

fn apply_site(environment: &mut Environment, site: &SiteEnv) {
    site.set.iter().for_each(|variable| environment.set(variable.as_bytes()));
    site.append.iter().for_each(|variable| environment.append(variable.as_bytes()));
    site.prepend.iter().for_each(|variable| environment.prepend(variable.as_bytes()));
    site.unset.iter().for_each(|name| environment.unset(name.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_site_wins_over_command_line_over_image_over_caller() {
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let bytes = |words: &[&str]| words.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let site = SiteEnv {
            set: own(&["A=site"]),
            append: own(&["PATH=/opt/udiImage/bin"]),
            prepend: own(&["L=/first"]),
            unset: own(&["GONE"]),
        };
        let module = |name: &str| {
            let env = SiteEnv {
                set: own(&["A=module", "D=module"]),
                append: own(&["L=module"]),
                ..SiteEnv::default()
            };
            Module { name: name.to_owned(), env, ..Module::default() }
        };
        let modules = [module("one")];
        let check = |inherited: &[&str], image: &[&str], command_line: &[&str], expected: &[&str]| {
            let environment = build(&Sources {
                inherited: &bytes(inherited),
                request: "docker:x",
                id: "0123",
                image: &own(image),
                file: &bytes(&["C=file", "F=file"]),
                command_line: &bytes(command_line),
                modules: if inherited.is_empty() { &[] } else { &modules },
                site: &site,
            });
            assert_eq!(environment.entries(), bytes(expected));
        };
        check(
            &["A=caller", "B=caller", "C=caller", "PATH=/caller", "LD_PRELOAD=/x", "GONE=1"],
            &["B=image", "C=image", "PATH=/image"],
            &["C=line"],
            &[
                "A=site",
                "B=image",
                "C=line",
                "PATH=/image:/opt/udiImage/bin",
                "SHIFTER_IMAGEREQUEST=docker:x",
                "SHIFTER_IMAGE=0123",
                "F=file",
                "D=module",
                "L=/first:module",
            ],
        );
        check(
            &[],
            &[],
            &[],
            &[
                "SHIFTER_IMAGEREQUEST=docker:x",
                "SHIFTER_IMAGE=0123",
                "C=file",
                "F=file",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/udiImage/bin",
                "A=site",
                "L=/first",
            ],
        );
    }
}
