//! Volume maps of sites (`siteFs`) and users (`--volume`): `from[:to[:flag…]]`, entries separated by `;`.
//!
//! Pure text to plan; no path is looked at here. Bytes that the original silently deleted from paths are
//! kept where they are unambiguous and refused otherwise. Comparison of paths is by component, never by
//! string prefix (CVE-2026-48785 was such a prefix).

use std::fmt;

/// How a mount exchanges later mounts with the place it came from, mount_namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing comes in or goes out.
    Private,
    /// Later mounts of the host come in.
    Slave,
    /// Both ways; for sites only.
    Shared,
}

/// A per-node scratch file system, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerNodeCache {
    /// Size of the backing file.
    pub size: u64,
    /// Block size; part of the state signature only.
    pub block_size: u64,
    /// File system type made in it.
    pub fs: String,
}

/// One entry of a volume map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMap {
    /// Absolute path of the host, no trailing slash.
    pub from: String,
    /// Absolute path in the container, no trailing slash.
    pub to: String,
    /// `ro`
    pub read_only: bool,
    /// `rec`: mounts below `from` come along.
    pub recursive: bool,
    /// `slave`, `private`, `shared`; `None` leaves it to `mountPropagationStyle`.
    pub propagation: Option<Propagation>,
    /// `perNodeCache=size=…`
    pub cache: Option<PerNodeCache>,
    /// The entry as the original's state file has it: paths as written, flags in the original's order.
    pub signature: String,
}

/// What users may not map to, and the site's exceptions: `volumeDeny` and `volumeAllow` of shifter.conf. Each
/// path stands for itself and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserRules {
    /// Targets refused beside [`USER_FORBIDDEN`].
    pub deny: Vec<String>,
    /// Targets allowed in spite of both.
    pub allow: Vec<String>,
}

impl UserRules {
    /// Whether a user may mount on `target`, an absolute path without `..`.
    pub fn allow_target(&self, target: &str) -> bool {
        let below = |tree: &&str| is_below(target, tree);
        let deny = USER_FORBIDDEN.into_iter().chain(self.deny.iter().map(String::as_str)).find(below);
        target == "/var/tmp"
            || self.allow.iter().map(String::as_str).any(|tree| below(&tree))
            || (deny.is_none() && !matches!(target, "/" | "/opt"))
    }
}

/// Whether `path` is `tree` or lies below it, by component.
pub fn is_below(path: &str, tree: &str) -> bool {
    let rest = path.strip_prefix(tree.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why a map is refused; `entry` is the text of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeError {
    /// The entry at fault.
    pub entry: String,
    /// The rule it breaks.
    pub reason: VolumeReason,
}

/// The rule a volume map breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeReason {
    /// A path is not absolute, or empty.
    NotAbsolute(String),
    /// A path has a `..` component.
    DotDot(String),
    /// A path has a control character or a quote.
    Character(String),
    /// The target is one that Shifter fills itself.
    ForbiddenTarget(String),
    /// A user's map without a target.
    NoTarget,
    /// A flag that only sites can use.
    SiteFlag(String),
    /// No such flag.
    UnknownFlag(String),
    /// The same flag twice, or two kinds of propagation.
    Repeated(String),
    /// A flag with a value it cannot have, or without one it needs.
    FlagValue(String),
}

impl fmt::Display for VolumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume map \"{}\": ", self.entry.escape_default())?;
        match &self.reason {
            VolumeReason::NotAbsolute(path) => write!(f, "\"{path}\" is not an absolute path"),
            VolumeReason::DotDot(path) => write!(f, "\"{path}\" has a .. in it"),
            VolumeReason::Character(path) => {
                write!(f, "\"{}\" has a control character or a quote in it", path.escape_default())
            }
            VolumeReason::ForbiddenTarget(path) => {
                write!(f, "\"{path}\" is filled by Shifter and cannot be a target")
            }
            VolumeReason::NoTarget => f.write_str("it names no target; write FROM:TO"),
            VolumeReason::SiteFlag(flag) => {
                write!(
                    f,
                    "Invalid mount flags specified: \"{flag}\" is for siteFs; users have ro and perNodeCache"
                )
            }
            VolumeReason::UnknownFlag(flag) => {
                write!(
                    f,
                    "\"{flag}\" is no flag; ro, rec, slave, private, shared and perNodeCache=size=… are"
                )
            }
            VolumeReason::Repeated(flag) => write!(f, "\"{flag}\" repeats or contradicts a flag before it"),
            VolumeReason::FlagValue(flag) => {
                write!(f, "the flag \"{flag}\" has a value it cannot have, or lacks one")
            }
        }
    }
}

impl std::error::Error for VolumeError {}

/// Targets a site cannot map to, compared whole.
const SITE_FORBIDDEN: [&str; 7] =
    ["/", "/opt", "/etc", "/var", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];

/// Targets, and all below them, that users cannot map to; `/` and `/opt` themselves besides, but `/var/tmp` they can.
pub const USER_FORBIDDEN: [&str; 6] = ["/etc", "/var", "/opt/udiImage", "/dev", "/proc", "/sys"];

/// Reads a user's map list, by the same rules as a site's but fewer flags and targets.
pub fn parse_user(text: &str, rules: &UserRules) -> Result<Vec<VolumeMap>, VolumeError> {
    let check = |map: VolumeMap, entry: &str| {
        let reason = if !entry.contains(':') {
            VolumeReason::NoTarget
        } else if !rules.allow_target(&map.to) {
            VolumeReason::ForbiddenTarget(map.to)
        } else if map.recursive || map.propagation.is_some() {
            VolumeReason::SiteFlag(map.signature)
        } else {
            return Ok(map);
        };
        Err(VolumeError { entry: entry.to_owned(), reason })
    };
    entries(text).map(|entry| check(parse_entry(entry)?, entry)).collect()
}

/// The signature of a whole map, for the state file.
pub fn signature(maps: &[VolumeMap]) -> String {
    let mut entries: Vec<&str> = maps.iter().map(|map| map.signature.as_str()).collect();
    entries.sort_unstable();
    entries.join(";")
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Reads a site's map list; empty entries are skipped, blanks around entries and tokens trimmed, one pair of
/// double quotes around an entry stripped.
pub fn parse_site(text: &str) -> Result<Vec<VolumeMap>, VolumeError> {
    let check = |map: VolumeMap, entry: &str| match SITE_FORBIDDEN.contains(&map.to.as_str()) {
        true => Err(VolumeError { entry: entry.to_owned(), reason: VolumeReason::ForbiddenTarget(map.to) }),
        false => Ok(map),
    };
    entries(text).map(|entry| check(parse_entry(entry)?, entry)).collect()
}

fn parse_entry(entry: &str) -> Result<VolumeMap, VolumeError> {
    let refuse = |reason| VolumeError { entry: entry.to_owned(), reason };
    let bare = entry.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(entry);
    let mut tokens = bare.split(':').map(str::trim);
    let written = tokens.next().unwrap_or("");
    let written_to = tokens.next().unwrap_or(written); // for sites a lone path stands for both sides
    let mut map = VolumeMap {
        from: checked_path(written).map_err(refuse)?,
        to: checked_path(written_to).map_err(refuse)?,
        read_only: false,
        recursive: false,
        propagation: None,
        cache: None,
        signature: format!("{written}:{written_to}"),
    };
    for token in tokens {
        apply_flag(&mut map, token).map_err(refuse)?;
    }
    let mut flag = |set: bool, text: &str| map.signature.push_str(if set { text } else { "" });
    flag(map.read_only, ":ro");
    flag(map.recursive, ":rec");
    if let Some(PerNodeCache { size, block_size, fs }) = &map.cache {
        flag(true, &format!(":perNodeCache=size={size},bs={block_size},method=loop,fstype={fs}"));
    }
    flag(map.propagation == Some(Propagation::Slave), ":slave");
    flag(map.propagation == Some(Propagation::Private), ":private");
    Ok(map)
}

fn apply_flag(map: &mut VolumeMap, token: &str) -> Result<(), VolumeReason> {
    let (name, value) = token.split_once('=').unwrap_or((token, ""));
    let name = name.to_ascii_lowercase();
    if name != "pernodecache" && !value.is_empty() {
        return Err(VolumeReason::FlagValue(token.to_owned()));
    }
    let repeated = match name.as_str() {
        "ro" => std::mem::replace(&mut map.read_only, true),
        "rec" => std::mem::replace(&mut map.recursive, true),
        "slave" => map.propagation.replace(Propagation::Slave).is_some(),
        "private" => map.propagation.replace(Propagation::Private).is_some(),
        "shared" => map.propagation.replace(Propagation::Shared).is_some(),
        "pernodecache" => {
            let cache = parse_cache(value).ok_or_else(|| VolumeReason::FlagValue(token.to_owned()))?;
            map.cache.replace(cache).is_some()
        }
        _ => return Err(VolumeReason::UnknownFlag(token.to_owned())),
    };
    if repeated { Err(VolumeReason::Repeated(token.to_owned())) } else { Ok(()) }
}

/// `size=N[,bs=N][,fs=xfs][,method=loop]`, keys in any case; `fstype` is what the original printed for `fs`.
fn parse_cache(text: &str) -> Option<PerNodeCache> {
    let mut cache = PerNodeCache { size: 0, block_size: 1 << 20, fs: "xfs".to_owned() };
    for item in text.split(',') {
        let (key, value) = item.split_once('=')?;
        match (key.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("size", value) => cache.size = parse_bytes(value)?,
            ("bs", value) => cache.block_size = parse_bytes(value)?,
            ("fs" | "fstype", value @ ("xfs" | "ext4" | "tmpfs")) => cache.fs = value.to_owned(),
            ("method", "loop") => {}
            _ => return None,
        }
    }
    (cache.size > 0).then_some(cache)
}

/// A size in bytes: a decimal number, then one letter of `bkmgtpe` (powers of 1024), then at most a `B`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// An absolute path without `..`, empty or `.` components, quotes or control characters.
fn checked_path(text: &str) -> Result<String, VolumeReason> {
    if !text.starts_with('/') {
        return Err(VolumeReason::NotAbsolute(text.to_owned()));
    }
    if text.chars().any(|c| c.is_control() || c == '"') {
        return Err(VolumeReason::Character(text.to_owned()));
    }
    let components: Vec<&str> = text.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
    if components.contains(&"..") {
        return Err(VolumeReason::DotDot(text.to_owned()));
    }
    Ok(format!("/{}", components.join("/")))
}

#[cfg(test)]
mod tests;
