//! Slurm's releases, as the build script and its test understand them.

/// Before it, SPANK lacked contexts and items that the plugin needs.
pub(crate) const OLDEST: (u32, u32) = (20, 11);

/// Those whose headers were compared with what the plugin uses (`dist/slurm/spank-releases.txt`), and those that were
/// not at hand: as those before and after them agree in all of it, they are taken to do so as well.
pub(crate) const READ: [(u32, u32); 7] = [OLDEST, (21, 8), (22, 5), (23, 11), (24, 11), (25, 11), (26, 5)];
pub(crate) const BETWEEN: [(u32, u32); 3] = [(23, 2), (24, 5), (25, 5)];

/// Set to 1 it has the plugin built for a release that is not known.
pub(crate) const INSIST: &str = "SHIFTER_SLURM_UNKNOWN";

/// Why no plugin is built for a release.
pub(crate) fn refusal(release: (u32, u32), insisted: bool) -> Option<String> {
    let ((major, minor), (oldest, of)) = (release, OLDEST);
    if release < OLDEST {
        return Some(format!(
            "Slurm {major}.{minor:02} is older than {oldest}.{of:02}: no plugin is built for it"
        ));
    }
    let known = READ.contains(&release) || BETWEEN.contains(&release);
    (!known && !insisted).then(|| {
        format!(
            "Slurm {major}.{minor:02} is none of the releases that the plugin is known to fit: have \
             dist/slurm/check-headers compare its headers, and if they agree, build with {INSIST}=1"
        )
    })
}

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
