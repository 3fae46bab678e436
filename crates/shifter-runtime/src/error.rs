//! Everything that can keep a container from starting, as sentences for the person who typed the command.
//! Beginnings that operators search logs for are the original's.

use shifter_core::meta::MetaError;
use shifter_core::udiroot::ConfError;
use std::fmt;

const ENOSYS: i32 = 38;

/// Why there is no container.
#[derive(Debug)]
pub enum Error {
    /// A kernel operation failed.
    System(shifter_sys::Error),
    /// A configuration file cannot be opened or trusted.
    ConfigurationFile(shifter_sys::Error),
    /// A configuration file's text is wrong.
    Configuration {
        /// Its path.
        path: String,
        /// Line and fault.
        fault: ConfError,
    },
    /// The identifier is none.
    NotAnId(String),
    /// There is no such image, or its files cannot be used.
    Image {
        /// Identifier.
        id: String,
        /// What failed.
        cause: shifter_sys::Error,
    },
    /// The image's record is damaged.
    Meta {
        /// File name.
        name: String,
        /// Line and fault.
        fault: MetaError,
    },
    /// The image file is not the one its record was written for.
    Size {
        /// File name.
        name: String,
    },
    /// The record names a format this runtime does not mount.
    Format {
        /// Identifier.
        id: String,
        /// `FORMAT` of the record.
        format: String,
    },
    /// The image is a directory of somebody who could change it.
    ForeignImage(String),
    /// The site does not let users name directories as images.
    LocalForbidden,
    /// The kernel cannot mount this.
    NoFileSystem {
        /// Its name.
        kind: String,
    },
    /// The kernel does not take this image, perhaps for want of its codec.
    Codec {
        /// What it said.
        error: shifter_sys::Error,
        /// The codec's name.
        codec: &'static str,
        /// The kernel option that has it, after `CONFIG_`.
        option: String,
    },
    /// The image's access list has neither the caller nor one of their groups.
    Denied {
        /// Identifier.
        id: String,
    },
    /// The caller owns the image directory.
    CallerOwnsImages,
    /// A site mount has no place.
    Target {
        /// Path in the container.
        path: String,
        /// Why it cannot be made.
        rule: &'static str,
    },
    /// A site hook did not end with status 0.
    Hook {
        /// Its path.
        script: String,
        /// The original's words for it.
        failure: String,
        /// What it printed.
        said: String,
    },
    /// What the user wants mounted cannot be.
    Volume {
        /// The map, as its signature has it.
        map: String,
        /// The rule it breaks, or what failed.
        rule: String,
    },
    /// No name is known for the caller's uid.
    NoAccount {
        /// User id.
        uid: u32,
    },
    /// An account of `usersToImport` does not exist.
    UnknownImport(String),
    /// `shifterimg lookup` did not print an identifier.
    Lookup {
        /// `type:tag`
        image: String,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first interface that is missing is met before anything is mounted.
            Error::System(error) if error.errno() == Some(ENOSYS) => {
                write!(f, "this kernel is older than Linux 5.12, which shifter needs ({error})")
            }
            Error::System(error) => error.fmt(f),
            Error::ConfigurationFile(error) => write!(f, "FAILED to parse udiRoot configuration. {error}"),
            Error::Configuration { path, fault } => {
                write!(f, "FAILED to parse udiRoot configuration. {path}, {fault}")
            }
            Error::NotAnId(id) => write!(
                f,
                "\"{}\" is not an image identifier: 64 lower-case hexadecimal digits, as shifterimg lookup prints them",
                id.escape_debug()
            ),
            Error::Image { id, cause } => {
                write!(
                    f,
                    "FAILED to find requested image. {id}: {cause}; shifterimg images lists what there is"
                )
            }
            Error::Meta { name, fault } => {
                write!(f, "the image's record {name} is damaged, {fault}; pull the image again")
            }
            Error::Size { name } => {
                write!(
                    f,
                    "the image file {name} is not the one its record was written for; pull the image again"
                )
            }
            Error::Format { id, format } => write!(
                f,
                "FAILED to mount image {id}: format \"{}\" is not supported; squashfs, erofs, VFS and, with \
                 xfsImages=1 in shifter.conf, xfs are; pull the image again",
                format.escape_debug()
            ),
            Error::ForeignImage(id) => {
                write!(
                    f,
                    "the image directory {id} belongs neither to root nor to the image owner; give it to root"
                )
            }
            Error::LocalForbidden => f.write_str(
                "images of type local are not allowed here: udiRoot.conf lacks allowLocalChroot=1",
            ),
            Error::NoFileSystem { kind } => write!(
                f,
                "ERROR: no apparent support for {kind}! It is not in /proc/filesystems; an administrator loads it \
                 with \"modprobe {kind}\""
            ),
            Error::Codec { error, codec, option } => write!(
                f,
                "{error}; the image is compressed with {codec}, for which the kernel needs CONFIG_{option}, \
                 or it is damaged: pull it again"
            ),
            Error::Denied { id } => write!(
                f,
                "FAILED permission denied to image {id}: it is private, and neither you nor your groups are on its list"
            ),
            Error::CallerOwnsImages => {
                f.write_str("the owner of the images cannot run containers: use another account")
            }
            Error::Target { path, rule } => {
                write!(f, "FAILED to create volume \"{}\": {rule}", path.escape_debug())
            }
            Error::Volume { map, rule } => {
                write!(f, "FAILED to setup user-requested mounts. Volume {}: {rule}", map.escape_debug())
            }
            Error::Hook { script, failure, said } => {
                write!(f, "{failure} {script} must end with status 0")?;
                if said.is_empty() { Ok(()) } else { write!(f, "; it said: {said}") }
            }
            Error::NoAccount { uid } => write!(
                f,
                "Failed to lookup username: no account of uid {uid} in etcPath/passwd, /etc/passwd or getent passwd"
            ),
            Error::UnknownImport(name) => {
                let name = name.escape_debug();
                write!(f, "FAILED to import user {name}: usersToImport names an account that is not there")
            }
            Error::Lookup { image } => {
                write!(
                    f,
                    "FAILED to lookup image {image}: it is not on this system; pull it with: shifterimg pull {image}"
                )
            }
        }
    }
}

impl Error {
    /// Whether the rights of this process did not suffice.
    pub fn is_permission(&self) -> bool {
        const EACCES: i32 = 13;
        matches!(self, Error::System(error) | Error::Image { cause: error, .. } if error.errno() == Some(EACCES))
    }
}

impl std::error::Error for Error {}

impl From<shifter_sys::Error> for Error {
    fn from(error: shifter_sys::Error) -> Self {
        Error::System(error)
    }
}
