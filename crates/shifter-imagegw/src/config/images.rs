//! How images are made: the keys that stand at the top level and, for one system, in its section.

use shifter_layers::Policy;

use super::keys;
use super::section::Section;
use crate::convert::{Converters, Format, Program};

/// Reads what a section says; what it does not say is as in `common`. What is in order but cannot be made goes to
/// `unsupported`.
pub(super) fn read(
    section: &mut Section<'_>,
    common: &Converters,
    unsupported: &mut Vec<String>,
) -> Converters {
    let program = match section.choice("Converter", &["shifter", "mksquashfs", "tar2sqfs"]) {
        Some("mksquashfs") => Some(Program::Mksquashfs),
        Some("tar2sqfs") => Some(Program::Tar2sqfs),
        Some(_) => None,
        None => common.program,
    };
    let format = read_format(section, unsupported).unwrap_or(common.format);
    let (squashfs, erofs) = read_options(section);
    Converters {
        program,
        options: squashfs.unwrap_or_else(|| common.options.clone()),
        format,
        erofs: erofs.unwrap_or_else(|| common.erofs.clone()),
        keep: read_policy(section).unwrap_or_else(|| common.keep.clone()),
    }
}

fn read_format(section: &mut Section<'_>, unsupported: &mut Vec<String>) -> Option<Format> {
    match section.choice("DefaultImageFormat", &["squashfs", "erofs", "cramfs", "ext4", "mock"])? {
        "squashfs" => Some(Format::Squashfs),
        "erofs" => Some(Format::Erofs),
        other => {
            let key = section.path_of("DefaultImageFormat");
            unsupported
                .push(format!("{key}: \"{other}\" cannot be made; set it to \"squashfs\" or \"erofs\""));
            None
        }
    }
}

/// Names in the order of the policy, each once, so that equal policies are equal.
fn read_policy(section: &mut Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "LayerPolicy";
    if !section.is_set(KEY) {
        return None;
    }
    let names = section.names(KEY);
    if let Err(unknown) = Policy::keeping(&names) {
        let known = Policy::NAMES.join(", ");
        section.problem(KEY, &format!("\"{unknown}\" cannot be kept; write some of {known}"));
    }
    let named = Policy::NAMES.iter().filter(|name| names.iter().any(|n| n == *name));
    Some(named.map(|name| (*name).to_owned()).collect())
}

/// `{"squashfs": [...]}` or `{"squashfs": "..."}`, and likewise `erofs`; other formats' options are accepted and
/// unused. The original gave a string as one argument; split at blanks it can say what was meant.
fn read_options(section: &mut Section<'_>) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let words = |options: Vec<String>| -> Vec<String> {
        options.iter().flat_map(|option| option.split_whitespace()).map(str::to_owned).collect()
    };
    let options = section.object("ConverterOptions", keys::CONVERTERS, |section| {
        for unused in ["cramfs", "ext4", "mock"] {
            section.names(unused);
        }
        let erofs = section.is_set("erofs").then(|| words(section.names("erofs")));
        let squashfs = section.is_set("squashfs").then(|| words(section.names("squashfs")));
        (squashfs, erofs)
    });
    options.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use crate::config::Config;

    /// Of each system `a` and `b`: program, options, format, options of EROFS, what is kept.
    fn read(top: &str, a: &str) -> Result<[String; 2], String> {
        let text = format!(
            r#"{{"DefaultImageLocation": "r", "Authentication": "mock", "CacheDirectory": "/c", "ExpandDirectory": "/e",
            "Locations": {{"r": {{"remotetype": "dockerv2"}}}}, {top} "Platforms": {{
            "a": {{{a} "accesstype": "local", "local": {{"imageDir": "/a"}}}},
            "b": {{"accesstype": "local", "local": {{"imageDir": "/b"}}}}}}}}"#
        );
        let (config, warnings) = Config::parse(&text).map_err(|error| error.to_string())?;
        assert_eq!(warnings, [""; 0]);
        config.check_servable().map_err(|error| error.to_string())?;
        Ok(["a", "b"].map(|name| {
            let made = &config.platforms[name].converters;
            format!(
                "{:?} {:?} {:?} {:?} {:?}",
                made.program, made.options, made.format, made.erofs, made.keep
            )
        }))
    }

    #[test]
    fn a_system_says_how_its_images_are_made_and_else_it_is_as_for_all() {
        let usual = "None [] Squashfs [] []";
        let both = |a: &str, b: &str| Ok([a.to_owned(), b.to_owned()]);
        assert_eq!(read("", ""), both(usual, usual));
        let erofs = r#""DefaultImageFormat": "EROFS", "ConverterOptions": {"erofs": "-zlz4 -C65536"},"#;
        let as_asked = r#"None [] Erofs ["-zlz4", "-C65536"] []"#;
        assert_eq!(read("", erofs), both(as_asked, usual));
        assert_eq!(read(erofs, ""), both(as_asked, as_asked));
        let back = r#""DefaultImageFormat": "squashfs", "ConverterOptions": {"erofs": []},"#;
        assert_eq!(read(erofs, back), both(usual, as_asked));
        let keeps = r#""LayerPolicy": ["xattrs", "owners", "owners"], "Converter": "tar2sqfs","#;
        let kept = r#"Some(Tar2sqfs) [] Squashfs [] ["owners", "xattrs"]"#;
        assert_eq!(read(keeps, r#""LayerPolicy": [], "Converter": "shifter","#), both(usual, kept));
        for (top, expected) in [
            (
                r#""LayerPolicy": ["root"],"#,
                "LayerPolicy: \"root\" cannot be kept; write some of owners, setuid",
            ),
            (r#""DefaultImageFormat": "cramfs","#, "DefaultImageFormat: \"cramfs\" cannot be made"),
            (r#""DefaultImageFormat": "zip","#, "DefaultImageFormat: must be one of squashfs, erofs"),
        ] {
            let error = read(top, "").unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            let error = read("", top).unwrap_err();
            assert!(error.starts_with(&format!("Platforms.a.{expected}")), "{error}");
        }
    }
}
