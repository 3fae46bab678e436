//! What the benchmark's driver sets up and the floor program takes for granted: paths, the image's entries, the
//! files of the container's `/etc`.
//!
//! The floor program is told everything at compile time, because finding out is part of what it is there to
//! measure the cost of. The driver makes the same things, and its check fails where the two disagree with what
//! `shifter` does.

use std::ffi::CStr;

/// Where the benchmark's own files lie, on a tmpfs that no other mount namespace sees.
pub const BASE: &str = "/opt/shifter-bench";
/// `imagePath`.
pub const IMAGES: &str = "/opt/shifter-bench/images";
/// `udiMount`.
pub const ROOT: &CStr = c"/opt/shifter-bench/udi";
/// `loopMount`.
pub const IMAGE: &CStr = c"/opt/shifter-bench/loop";
/// The overlay's layers: [`ROOT`]'s `/etc` over [`IMAGE`]'s.
pub const ETC_LAYERS: &CStr = c"/opt/shifter-bench/udi/etc:/opt/shifter-bench/loop/etc";

/// Name, uid and gid of the ordinary user who starts everything.
pub const USER: (&str, u32, u32) = ("bench", 54321, 54321);
/// The user's other group.
pub const OTHER_GROUP: (&str, u32) = ("project", 54322);

/// An entry of a directory of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory that the container shows as it is.
    Shown,
    /// A directory that the root has of its own.
    Hidden,
    /// A symbolic link to this target.
    Link(&'static CStr),
    /// A symbolic link in whose place the root has a directory of its own.
    HiddenLink(&'static CStr),
}

/// The image's top directory: a usr-merged Debian's.
pub const TOP: [(&CStr, Entry); 19] = [
    (c"bin", Entry::Link(c"usr/bin")),
    (c"boot", Entry::Shown),
    (c"dev", Entry::Hidden),
    (c"etc", Entry::Hidden),
    (c"home", Entry::Hidden),
    (c"lib", Entry::Link(c"usr/lib")),
    (c"lib64", Entry::Link(c"usr/lib64")),
    (c"media", Entry::Shown),
    (c"mnt", Entry::Shown),
    (c"opt", Entry::Hidden),
    (c"proc", Entry::Hidden),
    (c"root", Entry::Shown),
    (c"run", Entry::Shown),
    (c"sbin", Entry::Link(c"usr/sbin")),
    (c"srv", Entry::Shown),
    (c"sys", Entry::Hidden),
    (c"tmp", Entry::Hidden),
    (c"usr", Entry::Shown),
    (c"var", Entry::Hidden),
];

/// The image's `/var`, of which the root has some entries of its own.
pub const VAR: [(&CStr, Entry); 11] = [
    (c"backups", Entry::Shown),
    (c"cache", Entry::Shown),
    (c"lib", Entry::Shown),
    (c"local", Entry::Shown),
    (c"lock", Entry::Link(c"/run/lock")),
    (c"log", Entry::Shown),
    (c"mail", Entry::Shown),
    (c"opt", Entry::Shown),
    (c"run", Entry::HiddenLink(c"/run")),
    (c"spool", Entry::Hidden),
    (c"tmp", Entry::Hidden),
];

/// The host's `/etc/hosts` in the benchmark.
pub const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n192.0.2.17 node017.example.org node017\n";
/// The host's `/etc/resolv.conf` in the benchmark.
pub const RESOLV_CONF: &str = "search example.org\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n";

/// The files that the container's `/etc` has instead of the image's.
pub const ETC: [(&CStr, &str); 7] = [
    (c"passwd", "bench:x:54321:54321:Bench,,,:/home/bench:/bin/sh\n"),
    (c"group", "bench:x:54321:bench\nproject:x:54322:bench\n"),
    (
        c"nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files dns\nservices: files\n\
         protocols: files\nrpc: files\nethers: files\nnetmasks: files\nnetgroup: files\npublickey: files\n\
         bootparams: files\nautomount: files\naliases: files\n",
    ),
    (c"host.conf", "order bind,hosts\nmulti on\n"),
    (c"hosts", HOSTS),
    (c"resolv.conf", RESOLV_CONF),
    (c"shadow", ""),
];
