//! Users by name, as this host knows them, and who is an administrator of a system.
//!
//! A credential says a uid; names come from the host's name service, kept for a minute.

use crate::acl::Member;
use crate::host::{self, Answers};

/// The names of users.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    known: Answers<Option<String>>,
}

impl Accounts {
    /// The name of a user; none where the host knows none or does not answer in time.
    pub(crate) async fn name(&self, uid: u32) -> Option<String> {
        let ask = async {
            let output = host::ask("getent", &["passwd"], uid, "name").await?;
            name_in(&String::from_utf8_lossy(&output.stdout), uid)
        };
        self.known.get(uid, ask).await
    }

    /// Whether a list of exact user names, `uid:N` and `gid:N` names a caller.
    pub(crate) async fn is_named(&self, list: &[String], member: &Member) -> bool {
        list.iter().any(|entry| is_number_of(entry, member))
            || (list.iter().any(|entry| !is_number(entry))
                && self.name(member.uid).await.is_some_and(|name| list.contains(&name)))
    }
}

/// Whether a list has entries for which the caller's groups matter.
pub(crate) fn names_groups(list: &[String]) -> bool {
    list.iter().any(|entry| entry.starts_with("gid:"))
}

fn is_number(entry: &str) -> bool {
    entry.starts_with("uid:") || entry.starts_with("gid:")
}

fn is_number_of(entry: &str, member: &Member) -> bool {
    match entry.split_once(':') {
        Some(("uid", number)) => number.parse() == Ok(member.uid),
        Some(("gid", number)) => {
            number.parse().is_ok_and(|gid: u32| member.gid == gid || member.groups.contains(&gid))
        }
        _ => false,
    }
}

/// The name in a line of passwd(5), if it is this user's: a name may look like a number.
fn name_in(line: &str, uid: u32) -> Option<String> {
    let fields: Vec<&str> = line.trim_end().split(':').collect();
    let is_the_users = fields.get(2).is_some_and(|field| field.parse() == Ok(uid));
    fields.first().filter(|name| is_the_users && !name.is_empty()).map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_an_administrator_by_a_part_of_a_name() {
        let member = |uid, gid, groups: &[u32]| Member { uid, gid, groups: groups.to_vec() };
        let root = member(0, 0, &[]);
        let user = member(4_000_000_001, 70, &[71]);
        let accounts = Accounts::default();
        for (list, who, expected) in [
            (&["root"][..], &root, true),
            (&["roo"], &root, false),
            (&["xroot"], &root, false),
            (&["root,alice"], &root, false),
            (&["0"], &root, false),
            (&["uid:0"], &root, true),
            (&["gid:0"], &root, true),
            (&[], &root, false),
            (&["", "root"], &user, false),
            (&["uid:4000000001"], &user, true),
            (&["uid:400000000"], &user, false),
            (&["uid:"], &user, false),
            (&["gid:70"], &user, true),
            (&["gid:71"], &user, true),
            (&["gid:72", "uid:70"], &user, false),
        ] {
            assert_eq!(accounts.is_named(list_of(list).as_slice(), who).await, expected, "{list:?} {who:?}");
        }
    }

    fn list_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_that_looks_like_a_uid_is_not_taken_for_it() {
        for (line, expected) in [
            ("alice:x:500:500::/home/alice:/bin/sh\n", Some("alice")),
            ("500:x:7:7::/:/bin/sh", None),
            (":x:500:500::/:", None),
            ("", None),
        ] {
            assert_eq!(name_in(line, 500).as_deref(), expected, "{line}");
        }
    }
}
