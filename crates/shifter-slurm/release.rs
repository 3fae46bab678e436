//! Slurm's releases, as the build script and its test understand them.

/// Before it, SPANK lacked contexts and items that the plugin needs.
pub(crate) const OLDEST: (u32, u32) = (20, 11);

/// The newest whose headers were compared with what the plugin uses (`dist/slurm/spank-releases.txt`).
pub(crate) const NEWEST: (u32, u32) = (26, 5);

/// `24.05` or `24.05.3`.
pub(crate) fn release(text: &str) -> Option<(u32, u32)> {
    let numbers: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [major, minor] | [major, minor, _] if major < 256 && (1..=12).contains(&minor) => {
            Some((major, minor))
        }
        _ => None,
    }
}

/// The number Slurm gives a release, `SLURM_VERSION_NUM` of its headers; the last digit group does not matter to it.
pub(crate) fn number((major, minor): (u32, u32)) -> u32 {
    (major << 16) | (minor << 8)
}
