//! What a site opens that is closed by default, by its keys or by the environment, and how it is said.

use std::ffi::OsString;

use shifter_core::meta::Meta;

use super::{Authentication, Config};

/// The variables that change what the gateway does, as in the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// `DISABLE_ACL_METADATA`, whatever its value: access lists stay out of `.meta`.
    pub(crate) no_acl_in_meta: bool,
    /// `ENABLE_LABELS`, not empty: answers show labels.
    pub(crate) show_labels: bool,
}

impl Environment {
    /// Of variables as `std::env::var_os` knows them.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Environment {
        Environment {
            no_acl_in_meta: variable("DISABLE_ACL_METADATA").is_some(),
            show_labels: variable("ENABLE_LABELS").is_some_and(|value| !value.is_empty()),
        }
    }

    /// What is to be written of a record; one without its access list says that it had one.
    pub(crate) fn as_written(self, meta: Meta) -> Meta {
        if self.no_acl_in_meta { meta.without_acl() } else { meta }
    }
}

impl Config {
    /// What the site's choices open that is closed by default; each is a sentence, for `check-config` and the
    /// log.
    pub(crate) fn openings(&self) -> Vec<&'static str> {
        let said = [
            (
                self.allow_anonymous_reads,
                "AllowAnonymousReads: whoever reaches the gateway can list all public images and look them up, \
                 without saying who they are; private images stay closed",
            ),
            (
                self.private_is_public,
                "PrivateWithoutACL: a private image that is pulled without --user or --group is open to \
                 everybody on all its systems, although its registry asked for a password",
            ),
            (
                self.environment.no_acl_in_meta,
                "DISABLE_ACL_METADATA is set: the nodes are not told who may use private images; any user who \
                 knows or guesses an image's id can run it",
            ),
            (
                self.authentication == Authentication::Mock,
                "Authentication is mock: every request is believed whoever it says it is from",
            ),
        ];
        said.into_iter().filter(|(is_open, _)| *is_open).map(|(_, sentence)| sentence).collect()
    }
}
