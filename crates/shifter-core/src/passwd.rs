//! passwd(5) and group(5) text: finding an account, and writing the files a container gets.
//!
//! Only labels come from here; credentials come from the kernel. Generated files are built from checked
//! fields, never by editing a host file in place.

/// One line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Free text.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Login shell; may be empty.
    pub shell: String,
}

impl Account {
    /// Reads one line; `None` if it is no account or has characters that would break a file made from it.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim_end_matches('\n').split(':');
        let mut next = || fields.next();
        let (name, _password) = (next()?, next()?);
        let (uid, gid) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (gecos, home, shell) = (next()?, next()?, next()?);
        let clean = |text: &str| !text.chars().any(char::is_control);
        if next().is_some() || !is_name(name) || ![gecos, home, shell].into_iter().all(clean) {
            return None;
        }
        let [name, gecos, home, shell] = [name, gecos, home, shell].map(str::to_owned);
        Some(Self { name, uid, gid, gecos, home, shell })
    }

    /// The account of `uid` in a passwd file's text.
    pub fn find(text: &str, uid: u32) -> Option<Self> {
        // The id first: checking and copying the other lines would be most of the work.
        text.lines().filter(|line| id_in(line) == Some(uid)).find_map(Self::parse)
    }

    /// The line for a container's file; the password field is always `x`.
    pub fn line(&self) -> String {
        let Self { name, uid, gid, gecos, home, shell } = self;
        format!("{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}\n")
    }
}

/// Whether `name` may be an account or group name: the characters useradd(8) accepts, and a few sites use.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(['-', '+'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-$@+\\".contains(c))
}

/// The number in a line's third field. Byte by byte, because fields are too short for anything cleverer to pay.
fn id_in(line: &str) -> Option<u32> {
    let field = line.as_bytes().split(|byte| *byte == b':').nth(2)?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

/// Name, not checked yet, and id of each line of a group(5) text that has both.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| Some((line.split(':').next()?, id_in(line)?)))
}

/// Those of `wanted` that no line of a group(5) text has.
pub fn groups_missing_in(text: &str, wanted: &[u32]) -> Vec<u32> {
    let known: Vec<u32> = groups(text).map(|(_, gid)| gid).collect();
    wanted.iter().copied().filter(|gid| !known.contains(gid)).collect()
}

/// The groups that a group(5) text lists `user` in.
pub fn groups_listing(text: &str, user: &str) -> Vec<u32> {
    let lists = |line: &&str| line.split(':').nth(3).is_some_and(|all| all.split(',').any(|one| one == user));
    text.lines().filter(lists).filter_map(id_in).collect()
}

/// A container's `/etc/group`, from a host file: every group but gid 0 once; `user` is listed in those of
/// `member_of`, at most `most` of them (0: no limit), because old libc readers fail on long files.
/// With `others` the user's own groups and those alone are written.
pub fn container_groups(
    text: &str,
    user: &str,
    member_of: &[u32],
    most: usize,
    others: Option<&[u32]>,
) -> String {
    let mut out = String::new();
    let mut seen = Vec::new();
    let mut memberships = 0;
    for (name, gid) in groups(text) {
        let member = member_of.contains(&gid);
        if gid == 0
            || seen.contains(&gid)
            || others.is_some_and(|others| !member && !others.contains(&gid))
            || !is_name(name)
        {
            continue;
        }
        seen.push(gid);
        let listed = member && (most == 0 || memberships < most);
        memberships += usize::from(listed);
        out.push_str(&format!("{name}:x:{gid}:{}\n", if listed { user } else { "" }));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accounts_are_found_by_id_and_rewritten_without_password() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\nalice:$6$x:1000:100:A, B:/home/alice:/bin/sh\n";
        let alice = Account::find(text, 1000).unwrap();
        assert_eq!(alice.line(), "alice:x:1000:100:A, B:/home/alice:/bin/sh\n");
        assert_eq!(Account::find(text, 7), None);
        for bad in [
            "a:x:1:2:g:h",
            "a:x:1:2:g:h:s:more",
            "a b:x:1:2:::",
            ":x:1:2:::",
            "a:x:-1:2:::",
            "a:x:1:2:g\u{7}::",
            "+a:x:1:2:::",
        ] {
            assert_eq!(Account::parse(bad), None, "{bad}");
        }
        assert!(Account::parse("DOM\\a.b-c$:x:1:2:::").is_some());
    }

    #[test]
    fn the_user_is_listed_in_every_own_group_up_to_the_limit() {
        let text = "root:x:0:\nusers::100:bob\nproj:x:200:alice,bob\nproj:x:200:\nlab:x:300:\nfar:x:400:\n: :1:\nbad\n";
        for (most, only, expected) in [
            (0, false, "users:x:100:alice\nproj:x:200:alice\nlab:x:300:\nfar:x:400:\n"),
            (1, false, "users:x:100:alice\nproj:x:200:\nlab:x:300:\nfar:x:400:\n"),
            (0, true, "users:x:100:alice\nproj:x:200:alice\nlab:x:300:\n"),
        ] {
            assert_eq!(
                container_groups(text, "alice", &[100, 200, 0], most, only.then_some(&[300][..])),
                expected,
                "{most} {only}"
            );
        }
        for (user, listed) in [("bob", &[100, 200][..]), ("alice", &[200]), ("ali", &[])] {
            assert_eq!(
                groups_listing("users::100:bob\nproj:x:200:alice,bob\nlab:x:300:", user),
                listed,
                "{user}"
            );
        }
    }
}
