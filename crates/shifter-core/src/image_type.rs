//! The closed list of image types: the word before the first colon of what a user asks for.

/// What kind of thing an image descriptor names (spec: the original's four types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageType {
    /// An image of a registry, found through the gateway.
    Docker,
    /// An imported image, found through the gateway.
    Custom,
    /// An image identifier, used as it is.
    Id,
    /// A directory of the host used as the root.
    Local,
}

impl ImageType {
    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            ImageType::Docker => "docker",
            ImageType::Custom => "custom",
            ImageType::Id => "id",
            ImageType::Local => "local",
        }
    }

    /// The type a word names; case matters, as in the original.
    pub fn parse(word: &str) -> Option<Self> {
        [ImageType::Docker, ImageType::Custom, ImageType::Id, ImageType::Local]
            .into_iter()
            .find(|image_type| image_type.as_str() == word)
    }
}

/// Whether `text` may name an image in `imagePath`: exactly 64 lower-case hexadecimal digits.
pub fn is_image_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_digests_name_images() {
        for (text, expected) in [
            ("a".repeat(64), true),
            ("0".repeat(63), false),
            ("A".repeat(64), false),
            (format!("{}/", "a".repeat(63)), false),
            ("../../../etc/passwd".to_owned(), false),
        ] {
            assert_eq!(is_image_id(&text), expected, "{text}");
        }
    }
}
