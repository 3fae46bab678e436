//! What of an image nodes get to see: one place for every rule that changes or drops content, so that
//! administrators can read what is done to their users' images.
//!
//! - Owners: everything is root's (the writer's headers say 0:0).
//! - Modes: everything is readable by all, directories and programs also searchable and executable, as the
//!   old gateway's native mode left them, because nobody in a container is the owner. Setuid, setgid, and
//!   sticky on files are dropped.
//! - Shadow password files are emptied: readable-by-all must not publish hashes, and nobody can log in.
//! - Device nodes, fifos (and sockets, which tar cannot hold) are dropped, and everything below `dev/`:
//!   nodes bring their own `/dev`, and a fifo on a read-only image connects nobody.
//! - Extended attributes are dropped: capabilities would be setuid by another name.

/// Permissions of a directory that no layer has an entry for.
pub const IMPLIED_DIRECTORY_MODE: u16 = 0o755;

/// Permissions of the emptied shadow files; the one exception from readable-by-all.
pub const SHADOW_MODE: u16 = 0o400;

/// Permissions that a directory gets. The sticky bit stays: it means something on directories.
pub fn directory_mode(archived: u16) -> u16 {
    (archived & 0o1777) | 0o755
}

/// Permissions that a regular file gets.
pub fn file_mode(archived: u16) -> u16 {
    let executable = if archived & 0o111 != 0 { 0o111 } else { 0 };
    (archived & 0o777) | 0o644 | executable
}

/// Whether the file's content is withheld.
pub fn is_shadow(name: &[u8]) -> bool {
    matches!(name, b"etc/shadow" | b"etc/shadow-" | b"etc/gshadow" | b"etc/gshadow-")
}

/// Whether what lies below this directory is dropped (the directory itself stays, as a mount point).
pub fn is_emptied_directory(name: &[u8]) -> bool {
    name == b"dev"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_open_reading_and_close_setuid() {
        let files = [
            (0o4755, 0o755),
            (0o2700, 0o755),
            (0o0600, 0o644),
            (0o0000, 0o644),
            (0o1640, 0o644),
            (0o0010, 0o755),
            (0o0666, 0o666),
        ];
        for (archived, expected) in files {
            assert_eq!(file_mode(archived), expected, "{archived:o}");
        }
        let directories = [(0o1777, 0o1777), (0o2770, 0o775), (0o0700, 0o755), (0o0000, 0o755)];
        for (archived, expected) in directories {
            assert_eq!(directory_mode(archived), expected, "{archived:o}");
        }
    }
}
