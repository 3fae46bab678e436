//! `imagemanager.json`: every key of the original, plus our own few, checked before anything starts.
//!
//! The reader is strict where silence would hurt (JSON syntax, types, ranges, an admin list given as
//! a string is one exact name and never a substring) and lenient where a site's file would otherwise
//! stop working (unknown keys are reported with the nearest known name, unused keys are accepted).
//! It deliberately does not look at the machine: whether directories exist is found out by `serve`.

mod doors;
mod images;
mod import;
mod keys;
mod openings;
mod registries;
mod remote;
mod section;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use shifter_registry::Registries;

pub(crate) use self::doors::{Doors, Endpoint, TlsFiles};
pub(crate) use self::import::{Import, Importers};
pub(crate) use self::openings::Environment;
use self::section::{Notes, Section};
use crate::catalog::{Place, PlaceError};
use crate::convert::{self, Converters};
use crate::examine::Examiner;
use crate::transfer::{self, Account};

/// Where the catalog is unless `DatabaseURI` says otherwise.
pub(crate) const DEFAULT_DATABASE: &str = "/var/lib/shifter/shifter.db";

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) platforms: BTreeMap<String, Platform>,
    pub(crate) registries: Registries,
    pub(crate) cache_directory: PathBuf,
    /// Bytes of blobs that are kept.
    pub(crate) cache_limit: Option<u64>,
    pub(crate) expand_directory: PathBuf,
    /// How long an image lives after its last pull or lookup.
    pub(crate) image_expiration: Duration,
    /// How long one caller's pull of a tag also answers others without asking the registry again.
    pub(crate) pull_update: Duration,
    /// Pulls that download and convert at the same time; 0: workers run apart.
    pub(crate) worker_threads: usize,
    /// The key that registry credentials for workers apart are sealed with.
    pub(crate) seal_key_file: Option<PathBuf>,
    pub(crate) authentication: Authentication,
    /// Whether list and lookup of public images need no credential.
    pub(crate) allow_anonymous_reads: bool,
    /// Whether a private image is everybody's when its puller names nobody.
    pub(crate) private_is_public: bool,
    /// Where decisions are noted.
    pub(crate) audit_log: Option<PathBuf>,
    /// The file it was read from, an absolute path; none until somebody says it.
    pub(crate) file: Option<PathBuf>,
    /// What the environment says; the default until somebody reads it.
    pub(crate) environment: Environment,
    /// Who may import files, and from where.
    pub(crate) import: Import,
    /// Looks at images before they are published.
    pub(crate) examiner: Option<Examiner>,
    /// How long a child that converts or unpacks may take.
    pub(crate) conversion_time: Duration,
    /// Whether expired images are removed unasked.
    pub(crate) auto_expire: bool,
    /// Whether lookups are noted.
    pub(crate) metrics: bool,
    pub(crate) log_level: Option<&'static str>,
    /// Where the catalog is.
    pub(crate) database: Place,
    /// Listeners, administrators' socket, form of the log.
    pub(crate) doors: Doors,
    /// Keys that are set and that this version cannot honour; each is a whole sentence.
    unsupported: Vec<String>,
}

/// How callers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// By a munge credential.
    Munge,
    /// By their word, for tests on a loopback address.
    Mock,
}

/// One system that images are published on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Platform {
    pub(crate) munge_socket: Option<PathBuf>,
    pub(crate) access: Access,
    /// How its hosts are reached, where it is remote.
    pub(crate) remote: Option<Account>,
    pub(crate) image_dir: PathBuf,
    /// OCI architecture of the system's nodes, with the most capable variant they run (`amd64/v3`) where it is given.
    pub(crate) architecture: String,
    /// How its images are made.
    pub(crate) converters: Converters,
    /// Exact user names, `uid:N` or `gid:N`.
    pub(crate) admins: Vec<String>,
    /// Bytes of image files beyond which the longest unused go.
    pub(crate) size_limit: Option<u64>,
}

impl Platform {
    /// Whether an image published on one of them is published on the other: one directory.
    pub(crate) fn shares_files_with(&self, other: &Platform) -> bool {
        crate::transfer::is_shared(self, other)
    }
}

/// How files reach a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Local,
    Remote,
}

/// What is wrong with the file; all of it, one problem per line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("it is not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("it is not an object of keys and values")]
    NotAnObject,
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
}

impl Config {
    /// Parses the text; the second value is warnings for the administrator.
    pub(crate) fn parse(text: &str) -> Result<(Config, Vec<String>), ConfigError> {
        let value: Value = serde_json::from_str(text)?;
        let Value::Object(map) = &value else { return Err(ConfigError::NotAnObject) };
        let mut notes = Notes::default();
        let config = read(&mut Section::new(String::new(), map, keys::TOP, &mut notes));
        if notes.problems.is_empty() {
            Ok((config, notes.warnings))
        } else {
            Err(ConfigError::Problems(notes.problems))
        }
    }

    /// What `serve` must refuse although the file itself is in order: ignoring a policy that the site asked for would
    /// be worse than not starting.
    pub(crate) fn check_servable(&self) -> Result<(), ConfigError> {
        let mut problems = self.unsupported.clone();
        let systems: Vec<_> = self.platforms.iter().collect();
        for (index, (name, platform)) in systems.iter().enumerate() {
            for (other_name, other) in &systems[index + 1..] {
                if !transfer::is_shared(platform, other) {
                    continue;
                }
                if platform.converters != other.converters {
                    problems.push(format!(
                        "Platforms: {name} and {other_name} share the image directory {}, but an image file is \
                         written once; give them the same DefaultImageFormat, ConverterOptions and LayerPolicy, or \
                         directories of their own",
                        platform.image_dir.display()
                    ));
                }
                if platform.architecture != other.architecture {
                    problems.push(format!(
                        "Platforms: {name} ({}) and {other_name} ({}) share the image directory {}, \
                         but an image file fits one architecture; give them directories of their own",
                        platform.architecture,
                        other.architecture,
                        platform.image_dir.display()
                    ));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Problems(problems)) }
    }
}

/// All keys as a text for administrators, one line each.
pub(crate) fn keys_reference() -> String {
    let mut out = String::new();
    for (section, keys) in keys::SECTIONS {
        out.push_str(&format!("{section}\n"));
        for key in *keys {
            out.push_str(&format!("  {:<26} {:<36} {}\n", key.name, key.default, key.meaning));
        }
    }
    out
}

fn read(top: &mut Section<'_>) -> Config {
    let database = read_database(top);
    let default_location = top.required_text("DefaultImageLocation").unwrap_or_default();
    let locations = top.objects("Locations", keys::LOCATION, registries::read_location);
    if !locations.contains_key(&default_location) && !default_location.is_empty() {
        let what = format!("\"{default_location}\" is not one of the Locations; add it there");
        // Without any registry nothing can be pulled, but what is published can be served.
        match locations.is_empty() {
            true => top.warning("DefaultImageLocation", &what),
            false => top.problem("DefaultImageLocation", &what),
        }
    }
    let registries = registries::read(top, locations, &default_location);
    let mut unsupported = Vec::new();
    let converters = images::read(top, &Converters::default(), &mut unsupported);
    let platforms = top.objects("Platforms", keys::PLATFORM, |section| {
        read_platform(section, &converters, &mut unsupported)
    });
    if platforms.is_empty() {
        top.problem("Platforms", "at least one system must be configured");
    }
    let authentication = match top.choice("Authentication", &["munge", "mock"]) {
        Some("mock") => Authentication::Mock,
        _ => Authentication::Munge,
    };
    if authentication == Authentication::Munge {
        for name in platforms.iter().filter(|(_, p)| p.munge_socket.is_none()).map(|(name, _)| name) {
            top.problem(&format!("Platforms.{name}.mungeSocketPath"), "missing; munge needs its socket");
        }
    }
    // The original reads PullUpdateTimeout only if PullUpdateTime exists too; both names count here.
    let pull_update = top.integer("PullUpdateTimeout", 0, 31_536_000);
    let pull_update_alias = top.integer("PullUpdateTime", 0, 31_536_000);
    let conversion_time = top.integer("ConversionTimeLimit", 1, 31_536_000);
    check_unused(top);
    Config {
        registries,
        platforms,
        authentication,
        allow_anonymous_reads: top.bool("AllowAnonymousReads").unwrap_or(false),
        private_is_public: top.choice("PrivateWithoutACL", &["puller", "public"]) == Some("public"),
        audit_log: top.path("AuditLog"),
        file: None,
        environment: Environment::default(),
        examiner: read_examiner(top),
        auto_expire: top.bool("AutoExpire").unwrap_or_default(),
        metrics: top.bool("Metrics").unwrap_or_default(),
        import: Import::read(top),
        conversion_time: conversion_time.map_or(convert::TIME, Duration::from_secs),
        unsupported,
        doors: doors::read(top, &database),
        database,
        seal_key_file: top.path("SealKeyFile"),
        cache_directory: top.required_path("CacheDirectory").unwrap_or_default(),
        cache_limit: top
            .integer("CacheSizeLimit", 1, 1_000_000_000)
            .map(|gigabytes| gigabytes * 1_000_000_000),
        expand_directory: top.required_path("ExpandDirectory").unwrap_or_default(),
        image_expiration: read_expiration(top),
        pull_update: Duration::from_secs(pull_update.or(pull_update_alias).unwrap_or(300)),
        worker_threads: top
            .integer("WorkerThreads", 0, 256)
            .and_then(|threads| usize::try_from(threads).ok())
            .unwrap_or(4),
        log_level: top.choice("LogLevel", &["debug", "info", "warn", "warning", "error", "critical"]).map(
            |level| match level {
                "critical" => "error",
                "warning" => "warn",
                other => other,
            },
        ),
    }
}

/// Keys of the original that mean nothing here: only their types are checked.
fn check_unused(top: &mut Section<'_>) {
    for key in ["DefaultLustreReplication", "DefaultOstCount"] {
        top.integer(key, 0, u64::from(u32::MAX));
    }
    for key in ["DefaultImageRemote", "Broker"] {
        top.text(key);
    }
}

/// `DatabaseURI` decides; without it the original's pair of keys does; without that it is a file.
fn read_database(top: &mut Section<'_>) -> Place {
    let (uri, original, database) = (top.text("DatabaseURI"), top.text("MongoDBURI"), top.text("MongoDB"));
    let (key, place) = match (uri, original) {
        (Some(uri), _) => ("DatabaseURI", Place::parse(uri, database)),
        (None, Some(original)) => match database {
            Some(database) => ("MongoDBURI", Place::of_original(original, database)),
            None => ("MongoDB", Err(PlaceError::NoDatabase)),
        },
        (None, None) => return Place::Sqlite(DEFAULT_DATABASE.into()),
    };
    place.unwrap_or_else(|error| {
        top.problem(key, &crate::convert::sentence(&error));
        Place::Sqlite(DEFAULT_DATABASE.into())
    })
}

fn read_platform(
    section: &mut Section<'_>,
    converters: &Converters,
    unsupported: &mut Vec<String>,
) -> Platform {
    let access = match section.choice("accesstype", &["local", "remote"]) {
        Some("remote") => Access::Remote,
        Some(_) => Access::Local,
        None => {
            section.problem("accesstype", "missing; write \"local\" or \"remote\"");
            Access::Local
        }
    };
    let local = section.object("local", keys::LOCAL, |local| local.required_path("imageDir"));
    let hosts = remote::read_hosts(section, access);
    let ssh = section.object("ssh", keys::SSH, |ssh| remote::read_ssh(ssh, access, hosts));
    let (account, remote_directory) = ssh.unzip();
    let (name, directory) = match access {
        Access::Local => ("local", local),
        Access::Remote => ("ssh", remote_directory),
    };
    if directory.is_none() {
        section.problem(name, "missing; its imageDir says where images are published");
    }
    if section.text("policy_file").is_some() {
        unsupported.push(format!(
            "{}: signature policies are not enforced by this version; remove the key only if pulling \
             without one is acceptable",
            section.path_of("policy_file")
        ));
    }
    section.bool("use_external");
    section.text("usergroupService");
    section.text("mountCommand");
    Platform {
        munge_socket: section.path("mungeSocketPath"),
        access,
        remote: account.filter(|_| access == Access::Remote),
        image_dir: directory.flatten().unwrap_or_default(),
        architecture: read_architecture(section).unwrap_or_else(|| host_architecture().to_owned()),
        converters: images::read(section, converters, unsupported),
        admins: section.names("admins"),
        size_limit: section
            .decimal("ImageDirSizeLimit", 0.001, 1e9)
            .map(|gigabytes| (gigabytes * 1e9) as u64),
    }
}

/// `amd64`, or with a variant, `amd64/v3`.
fn read_architecture(section: &mut Section<'_>) -> Option<String> {
    const KNOWN: [&str; 5] = ["amd64", "arm64", "ppc64le", "riscv64", "s390x"];
    let text = section.text("architecture")?.to_ascii_lowercase();
    let (name, variant) = text.split_once('/').unwrap_or((&text, "v0"));
    let is_variant = variant.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !KNOWN.contains(&name) || variant.is_empty() || !is_variant {
        let known = KNOWN.join(", ");
        section
            .problem("architecture", &format!("must be one of {known}, or one with a variant, as amd64/v3"));
        return None;
    }
    Some(text)
}

/// The gateway's own architecture by its OCI name, for systems that do not say theirs.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn read_examiner(top: &mut Section<'_>) -> Option<Examiner> {
    let program = top.path("examiner");
    let seconds = top.integer("ExaminerTimeLimit", 1, 86_400);
    let gigabytes = top.integer("ExaminerSizeLimit", 1, 1_000_000);
    let paths: Vec<PathBuf> = top.names("ExaminerPaths").into_iter().map(PathBuf::from).collect();
    if paths.iter().any(|path| !path.is_absolute()) {
        top.problem("ExaminerPaths", "must be absolute paths");
    }
    for key in ["ExaminerTimeLimit", "ExaminerSizeLimit", "ExaminerPaths"] {
        if program.is_none() && top.is_set(key) {
            top.warning(key, "has no effect without examiner");
        }
    }
    Some(Examiner {
        program: program?,
        time: Duration::from_secs(seconds.unwrap_or(600)),
        bytes: gigabytes.unwrap_or(64) * 1_000_000_000,
        paths,
        configuration: PathBuf::new(),
    })
}

/// `"D:H:M:S"`, exactly four numbers.
fn read_expiration(top: &mut Section<'_>) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(90 * 86_400);
    let Some(text) = top.text("ImageExpirationTimeout") else { return DEFAULT };
    let fields: Option<Vec<u64>> = text.split(':').map(|field| field.trim().parse().ok()).collect();
    match fields.as_deref() {
        Some(&[days, hours, minutes, seconds])
            if [days, hours, minutes, seconds].iter().all(|n| *n < 1 << 24) =>
        {
            Duration::from_secs(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
        }
        _ => {
            top.problem("ImageExpirationTimeout", "must be days:hours:minutes:seconds, as \"90:00:00:00\"");
            DEFAULT
        }
    }
}

#[cfg(test)]
mod tests;
