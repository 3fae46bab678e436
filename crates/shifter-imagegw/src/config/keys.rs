//! The keys of `imagemanager.json` by section: one line each, with default and meaning.
//!
//! The tables serve both the unknown-key check and the reference that `check-config --keys` prints,
//! so what is documented is what is read.

/// One key of a section.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// Value when the key is absent; `-` where there is none.
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning }
}

/// All sections, for the printed reference.
pub(crate) const SECTIONS: &[(&str, &[Key])] = &[
    ("(top level)", TOP),
    ("Platforms.NAME", PLATFORM),
    ("Platforms.NAME.local", LOCAL),
    ("Platforms.NAME.ssh", SSH),
    ("Locations.NAME", LOCATION),
    ("ConverterOptions", CONVERTERS),
];

pub(crate) const TOP: &[Key] = &[
    key(
        "AdminSocket",
        "DatabaseURI's file + .sock",
        "socket by which backup, reconcile and ready reach a running gateway; none with other databases; ours",
    ),
    key(
        "AllowImages",
        "all of Locations",
        "what may be pulled: REGISTRY, REGISTRY/REPOSITORY, REGISTRY/GROUP/*; ours",
    ),
    key(
        "AllowAnonymousReads",
        "false",
        "true: list and lookup answer about public images without a credential; ours",
    ),
    key("AuditLog", "-", "file for one JSON line per decision; without it they are in the log; ours"),
    key("Authentication", "munge", "munge, or mock for tests on a loopback address"),
    key("AutoExpire", "false", "remove expired images every hour, without being asked; ours"),
    key("Broker", "-", "unused (task broker of an early original)"),
    key("CacheDirectory", "required", "downloaded blobs, kept by content"),
    key("CacheSizeLimit", "-", "GB of blobs kept in CacheDirectory; the longest unused go first; ours"),
    key(
        "ConversionTimeLimit",
        "14400",
        "seconds that converting an image, and unpacking it for the examiner, may each take; ours",
    ),
    key("Converter", "shifter", "what writes images: shifter, mksquashfs or tar2sqfs; ours"),
    key(
        "ConverterOptions",
        "{}",
        "options per format; for squashfs [] means zstd level 3 in blocks of 128 KiB",
    ),
    key(
        "DatabaseURI",
        "MongoDBURI's, else SQLite's",
        "the catalog: sqlite:///FILE, postgres://HOST/DATABASE or mongodb://HOST/DATABASE; ours",
    ),
    key("DefaultImageFormat", "squashfs", "squashfs, or erofs, which needs mkfs.erofs"),
    key("DefaultImageLocation", "required", "the Locations entry for references without a registry"),
    key("DefaultImageRemote", "-", "unused"),
    key("DefaultLustreReplication", "-", "unused"),
    key("DefaultOstCount", "-", "unused"),
    key("DenyImages", "nothing", "what may not be pulled, written as AllowImages, which it overrules; ours"),
    key("ExaminerPaths", "[]", "what the examiner reads and runs besides the system's programs; ours"),
    key("ExaminerSizeLimit", "64", "GB that an image may unpack to for the examiner; ours"),
    key("ExaminerTimeLimit", "600", "seconds that the examiner may take; ours"),
    key("ExpandDirectory", "required", "scratch space for conversion"),
    key("ImageExpirationTimeout", "90:00:00:00", "days:hours:minutes:seconds since the last pull or lookup"),
    key("ImportPaths", "anywhere", "directories below which files to be imported must be; ours"),
    key("ImportUsers", "nobody", "all, None, or exact user names, uid:N, gid:N that may import files"),
    key(
        "LayerPolicy",
        "[]",
        "what images keep of layers, some of owners, setuid, devices, fifos, xattrs; else all are dropped; ours",
    ),
    key("Listen", "0.0.0.0:5000", "list of ADDRESS:PORT and unix:/PATH; --listen overrules it; ours"),
    key("Locations", "required", "the registries that may be pulled from"),
    key("LogFormat", "text", "text or json; ours"),
    key("LogLevel", "info", "debug, info, warn, error or critical"),
    key("Metrics", "false", "record lookups, the newest million"),
    key("MongoDB", "-", "name of the database in MongoDBURI's server"),
    key("MongoDBURI", "-", "the original's catalog, used unless DatabaseURI names another"),
    key("Platforms", "required", "the systems that images are published on"),
    key(
        "PrivateWithoutACL",
        "puller",
        "whose a private image is that was pulled without user or group: puller, or as in the original public; ours",
    ),
    key("PullUpdateTime", "-", "other name of PullUpdateTimeout"),
    key("PullUpdateTimeout", "300", "seconds for which one caller's pull of a tag also answers others"),
    key("SealKeyFile", "-", "32 bytes that seal registry credentials for workers apart; ours"),
    key(
        "TLSCertificate",
        "-",
        "PEM file of the certificate chain; every address of Listen then speaks https; ours",
    ),
    key("TLSKey", "-", "PEM file of its private key; ours"),
    key(
        "WorkerThreads",
        "4",
        "conversions, and pulls from one registry, at the same time, up to 256; 0: only workers apart pull",
    ),
    key(
        "examiner",
        "-",
        "program run as PROGRAM DIRECTORY ID on the unpacked image before it is published; other status than 0 refuses",
    ),
    key("allowVerbatimImport", "false", "administrators may have squashfs images published unread; ours"),
];

pub(crate) const PLATFORM: &[Key] = &[
    key("Converter", "the common one", "the same for this system's images; ours"),
    key("ConverterOptions", "the common ones", "the same for this system's images; ours"),
    key("DefaultImageFormat", "the common one", "the same for this system's images; ours"),
    key("ImageDirSizeLimit", "-", "GB of images kept; beyond, the longest unused go; ours"),
    key("LayerPolicy", "the common one", "the same for this system's images; ours"),
    key("accesstype", "required", "local or remote"),
    key("admins", "nobody", "exact user names, uid:N or gid:N; a string is one of them"),
    key(
        "architecture",
        "the gateway's",
        "amd64, arm64, ppc64le, riscv64 or s390x, or with the most capable variant, amd64/v3; ours",
    ),
    key("host", "-", "hosts of a remote system; each gets every image"),
    key("local", "-", "section for accesstype local"),
    key("mountCommand", "-", "unused"),
    key("mungeSocketPath", "required with munge", "socket of the munged that shares this system's key"),
    key("policy_file", "-", "signature policy; not supported"),
    key("ssh", "-", "section for accesstype remote"),
    key("use_external", "-", "accepted; there is one pull path only"),
    key("usergroupService", "-", "unused"),
];

pub(crate) const LOCAL: &[Key] = &[key("imageDir", "required", "where the runtime looks for images")];

pub(crate) const SSH: &[Key] = &[
    key("imageDir", "required", "directory on each host"),
    key(
        "fasthash",
        "fasthash",
        "our program of this name on the first host, for imports of files there; ours",
    ),
    key("key", "ssh's own", "private key file, an absolute path, mode 0600"),
    key("scpCmdOptions", "[]", "options of scp that also hold for ssh, as -P PORT; scp itself is not run"),
    key("sshCmdOptions", "[]", "options for ssh, as -p PORT or -o NAME=VALUE"),
    key("username", "required", "account on the hosts"),
];

pub(crate) const LOCATION: &[Key] = &[
    key("authMethod", "token", "token or basic"),
    key("authentication", "-", "unused"),
    key("mirrors", "[]", "base URLs asked for content first, without credentials; ours"),
    key("remotetype", "required", "dockerv2"),
    key("sslcacert", "-", "PEM file of private certificate authorities, for the mirrors, too"),
    key("timeout", "60", "seconds of silence before the registry is asked again; ours"),
    key(
        "trustedHosts",
        "[]",
        "other hosts of the registry: token service of another domain, local storage; ours",
    ),
    key("url", "https://NAME", "base URL of the registry"),
];

pub(crate) const CONVERTERS: &[Key] = &[
    key("cramfs", "-", "accepted, unused"),
    key("erofs", "[]", "options for mkfs.erofs, as a list or one string; [] means -zlz4hc; ours"),
    key("ext4", "-", "accepted, unused"),
    key("mock", "-", "accepted, unused"),
    key("squashfs", "[]", "options for mksquashfs, as a list or one string"),
];
