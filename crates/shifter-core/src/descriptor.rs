//! `[type:]tag`, the way users name an image on every command line.
//!
//! The original deletes characters it does not like; here they are refused, so that what runs is what was
//! written. Whether a docker tag is a valid reference is `reference`'s matter.

use crate::image_type::ImageType;
use std::fmt;

/// Longest tag accepted, in bytes: a registry name, a path and a digest fit many times.
pub const LONGEST_TAG: usize = 1024;

/// An image as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What kind of name `tag` is.
    pub image_type: ImageType,
    /// The rest: a reference, an identifier or a path. Never empty.
    pub tag: String,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// Nothing after the type.
    Empty,
    /// No known type in front and the configuration has no `defaultImageType`.
    NoType,
    /// A character that names of this type cannot have.
    Character {
        /// The first one found.
        character: char,
        /// The type that forbids it.
        image_type: ImageType,
    },
    /// Longer than [`LONGEST_TAG`].
    TooLong,
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DescriptorError::Empty => f.write_str("the image name is empty: write type:name, e.g. docker:debian:12"),
            DescriptorError::NoType => f.write_str(
                "the image has no type (docker:, custom:, id: or local:) and udiRoot.conf sets no defaultImageType",
            ),
            DescriptorError::Character { character, image_type } => write!(
                f,
                "the character '{}' cannot be part of a {} image name: letters, digits and _ : . + - @{} can",
                character.escape_default(),
                image_type.as_str(),
                if allows_slash(*image_type) { " /" } else { "" }
            ),
            DescriptorError::TooLong => write!(f, "the image name is longer than {LONGEST_TAG} bytes"),
        }
    }
}

impl std::error::Error for DescriptorError {}

impl Descriptor {
    /// Reads `[type:]tag`; `default` is udiRoot.conf's `defaultImageType`.
    pub fn parse(text: &str, default: Option<ImageType>) -> Result<Self, DescriptorError> {
        let typed = text
            .split_once(':')
            .and_then(|(word, rest)| ImageType::parse(word).map(|image_type| (image_type, rest)));
        let (image_type, tag) = match typed {
            Some(found) => found,
            None => (default.ok_or(DescriptorError::NoType)?, text),
        };
        Self::new(image_type, tag)
    }

    /// A descriptor from a type and a tag that came apart (two environment variables, say).
    pub fn new(image_type: ImageType, tag: &str) -> Result<Self, DescriptorError> {
        if tag.is_empty() {
            return Err(DescriptorError::Empty);
        }
        if tag.len() > LONGEST_TAG {
            return Err(DescriptorError::TooLong);
        }
        // A local image is a path of the host: bytes other than control characters are its owner's choice.
        let legal = |c: char| match image_type {
            ImageType::Local => !c.is_control(),
            _ => c.is_ascii_alphanumeric() || "_:.+-@".contains(c) || (c == '/' && allows_slash(image_type)),
        };
        if let Some(character) = tag.chars().find(|c| !legal(*c)) {
            return Err(DescriptorError::Character { character, image_type });
        }
        Ok(Self { image_type, tag: tag.to_owned() })
    }
}

fn allows_slash(image_type: ImageType) -> bool {
    matches!(image_type, ImageType::Docker | ImageType::Local)
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.image_type.as_str(), self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_what_stands_before_the_first_colon_or_the_default() {
        use ImageType::*;
        let check = |text: &str, default, expected: Option<(ImageType, &str)>| {
            let got = Descriptor::parse(text, default).ok();
            assert_eq!(got.as_ref().map(|d| (d.image_type, d.tag.as_str())), expected, "{text}");
        };
        check("docker:debian:12", None, Some((Docker, "debian:12")));
        check("debian:12", Some(Docker), Some((Docker, "debian:12")));
        check("debian", Some(Custom), Some((Custom, "debian")));
        check("id:0123", None, Some((Id, "0123")));
        check("local:/opt/a b", None, Some((Local, "/opt/a b")));
        check("host:5000/a/b:1", Some(Docker), Some((Docker, "host:5000/a/b:1")));
        check("docker:a@sha256:00", None, Some((Docker, "a@sha256:00")));
        check("debian", None, None);
        check("docker:", Some(Docker), None);
        check("", Some(Docker), None);
        check("custom:a/b", None, None);
        check("custom:a;b|c", None, None);
        check("id:../abc", None, None);
        check("docker:a\nb", None, None);
        check("local:/a\u{7}", None, None);
    }
}
