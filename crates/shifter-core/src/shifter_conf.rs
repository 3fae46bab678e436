//! `shifter.conf`: settings the original does not know, beside `udiRoot.conf`, same format and trust rules.
//!
//! The file is optional. It is separate because old programs fail on keys they do not know while a site's
//! nodes are moved over one by one and share one `udiRoot.conf`.

use crate::lexer::records;
use crate::nearest::nearest;
use crate::udiroot::{ConfError, ConfReason};

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShifterConf {
    /// `imageOwner`: a uid that, beside root and the owner of `imagePath`, may own images and `.meta` files.
    pub image_owner: Option<u32>,
}

/// Every key there is.
pub const KEYS: &[&str] = &["imageOwner"];

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
                unknown => return Err(fail(ConfReason::Unknown(nearest(unknown, KEYS.iter().copied())))),
            }
        }
        Ok(conf)
    }
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
            ("\nimageowner=1", Err("line 2: unknown key \"imageowner\"; did you mean \"imageOwner\"?")),
        ] {
            let got =
                ShifterConf::parse(text).map(|conf| conf.image_owner).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
        }
    }
}
