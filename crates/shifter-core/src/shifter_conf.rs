//! `shifter.conf`: settings the original does not know, beside `udiRoot.conf`, same format and trust rules.
//!
//! The file is optional. It is separate because old programs fail on keys they do not know while a site's
//! nodes are moved over one by one and share one `udiRoot.conf`.

use crate::lexer::records;
use crate::nearest::nearest;
use crate::udiroot::keys::boolean;
use crate::udiroot::{ConfError, ConfReason};
use crate::volume::UserRules;

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShifterConf {
    /// `imageOwner`: a uid that, beside root and the owner of `imagePath`, may own images and `.meta` files.
    pub image_owner: Option<u32>,
    /// `volumeDeny`, `volumeAllow`: where users may mount, space-separated paths.
    pub volumes: UserRules,
    /// `xfsImages`: whether the kernel may mount xfs images, which it was not made to read from strangers.
    pub xfs_images: bool,
}

/// Every key there is.
pub const KEYS: &[&str] = &["imageOwner", "volumeDeny", "volumeAllow", "xfsImages"];

impl ShifterConf {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, ConfError> {
        let mut conf = Self::default();
        for record in records(text, '=') {
            let fail = |reason| ConfError { line: record.line, key: record.key.to_owned(), reason };
            match record.key {
                "imageOwner" => {
                    let uid =
                        record.value.parse().map_err(|_| fail(ConfReason::Value("a numeric user id")))?;
                    conf.image_owner = Some(uid);
                }
                "volumeDeny" => conf.volumes.deny = paths(&record.value).ok_or_else(|| fail(PATHS))?,
                "volumeAllow" => conf.volumes.allow = paths(&record.value).ok_or_else(|| fail(PATHS))?,
                "xfsImages" => conf.xfs_images = boolean(&record.value).map_err(fail)?,
                unknown => return Err(fail(ConfReason::Unknown(nearest(unknown, KEYS.iter().copied())))),
            }
        }
        Ok(conf)
    }
}

const PATHS: ConfReason = ConfReason::Value("absolute paths, separated by spaces");

fn paths(value: &str) -> Option<Vec<String>> {
    let mut paths = value.split_whitespace();
    paths.clone().all(|path| path.starts_with('/')).then(|| paths.by_ref().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_read_and_others_refused_by_line() {
        for (text, expected) in [
            ("", Ok(None)),
            ("# nothing\n imageOwner = 991 \n", Ok(Some(991))),
            ("imageOwner=shifter", Err("line 1: the value of \"imageOwner\" must be a numeric user id")),
            ("volumeDeny=/a /b\nvolumeAllow=/c\nxfsImages=1", Ok(None)),
            (
                "volumeDeny=a",
                Err("line 1: the value of \"volumeDeny\" must be absolute paths, separated by spaces"),
            ),
            ("\nimageowner=1", Err("line 2: unknown key \"imageowner\"; did you mean \"imageOwner\"?")),
        ] {
            let got =
                ShifterConf::parse(text).map(|conf| conf.image_owner).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
        }
    }
}
