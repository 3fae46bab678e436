//! Who may use an image: pure decisions over grants, and the caller's groups as this host knows them.
//!
//! A grant is earned only by credentials that the registry accepted. A tag is open to whom its own
//! grants name; the `.meta` file beside the image, which the nodes read, holds the union over all
//! tags of the image. Nothing here touches the catalog or the files.

use std::collections::{BTreeSet, HashMap};

use shifter_api::wire::MAX_ACL_IDS;
use shifter_core::meta::Acl;

use crate::catalog::Tag;
use crate::host::{self, Answers};
use crate::model::{Grant, TagKey};

/// A caller with all groups, supplementary ones included.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// What a caller asked for, with themselves added as the original does: a list that is given
/// always includes its author. The author counts toward the limit of what the nodes read.
pub(crate) fn with_author(uids: &[u32], gids: &[u32], uid: u32, gid: u32) -> Result<Acl, TooManyIds> {
    let add = |ids: &[u32], own: u32| {
        let mut ids = ids.to_vec();
        if !ids.is_empty() && !ids.contains(&own) {
            ids.push(own);
        }
        ids
    };
    within_limit(Acl { uids: add(uids, uid), gids: add(gids, gid) })
}

/// The access list of a new grant: nobody named means the puller alone.
pub(crate) fn of_grant(requested: &Acl, uid: u32) -> Acl {
    if requested.uids.is_empty() && requested.gids.is_empty() {
        Acl { uids: vec![uid], gids: Vec::new() }
    } else {
        requested.clone()
    }
}

/// Whether one grant lets the caller in; who is nobody gets what is public.
pub(crate) fn allows(grant: &Grant, member: &Option<Member>) -> bool {
    let is_named = |member: &Member| {
        grant.acl.uids.contains(&member.uid)
            || grant.acl.gids.contains(&member.gid)
            || member.groups.iter().any(|group| grant.acl.gids.contains(group))
    };
    grant.public || member.as_ref().is_some_and(is_named)
}

/// Whether one of the grants lets a user in whose groups are not asked.
pub(crate) fn opens_to(grants: &[Grant], uid: u32) -> bool {
    grants.iter().any(|grant| grant.public || grant.acl.uids.contains(&uid))
}

/// The access list shown with grants: empty where one is public, else all that are named.
pub(crate) fn union<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Option<Acl> {
    let (mut uids, mut gids, mut any) = (BTreeSet::new(), BTreeSet::new(), false);
    for grant in grants {
        any = true;
        if grant.public {
            return Some(Acl::default());
        }
        uids.extend(&grant.acl.uids);
        gids.extend(&grant.acl.gids);
    }
    any.then(|| Acl { uids: uids.into_iter().collect(), gids: gids.into_iter().collect() })
}

/// The access list for `.meta`. Without any grant it is the gateway's own uid: old runtimes read an
/// empty list as "public".
pub(crate) fn for_meta(grants: &[Grant], gateway_uid: u32) -> Result<Acl, TooManyIds> {
    let nobody = Acl { uids: vec![gateway_uid], gids: Vec::new() };
    within_limit(union(grants).unwrap_or(nobody))
}

fn within_limit(acl: Acl) -> Result<Acl, TooManyIds> {
    if acl.uids.len() > MAX_ACL_IDS || acl.gids.len() > MAX_ACL_IDS {
        return Err(TooManyIds);
    }
    Ok(acl)
}

/// The nodes' metadata reader takes no longer lists.
#[derive(Debug, thiserror::Error)]
#[error(
    "the image would be shared with more than {MAX_ACL_IDS} users or groups, which the nodes cannot read; \
     share it with a group instead"
)]
pub(crate) struct TooManyIds;

/// The grants of an image, from two sources or before and after one was earned: of each caller's for a
/// tag the one checked last, of equal ones the later in line. A tag for which the registry demanded
/// credentials is no longer public, whoever saw it public before, and in whatever order both come here.
pub(crate) fn merged<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Vec<Grant> {
    let mut kept: Vec<Grant> = Vec::new();
    for grant in grants {
        match kept.iter_mut().find(|old| old.key == grant.key && old.puller == grant.puller) {
            Some(old) if old.checked <= grant.checked => *old = grant.clone(),
            Some(_) => {}
            None => kept.push(grant.clone()),
        }
    }
    let private: Vec<(TagKey, f64)> =
        kept.iter().filter(|grant| !grant.public).map(|grant| (grant.key.clone(), grant.checked)).collect();
    kept.retain(|grant| {
        !grant.public || !private.iter().any(|(key, checked)| *key == grant.key && *checked > grant.checked)
    });
    kept
}

/// Most grants of one tag that is open to everybody: each says the same, and that its puller may take it back.
const MOST_PUBLIC: usize = 100;

/// An image's grants without those that let nobody in whom another one does not: of a tag that everybody
/// may use, what was given to some before, and all but the newest of those that say so; and of tags that
/// left the image, what was earned before a time, in seconds since the epoch.
pub(crate) fn pruned(grants: Vec<Grant>, tags: &[Tag], before: f64) -> Vec<Grant> {
    let mut public: HashMap<TagKey, Vec<f64>> = HashMap::new();
    for grant in grants.iter().filter(|grant| grant.public) {
        public.entry(grant.key.clone()).or_default().push(grant.checked);
    }
    for times in public.values_mut() {
        times.sort_by(|a, b| b.total_cmp(a));
    }
    let is_tag = |key: &TagKey| tags.iter().any(|tag| tag.itype == key.itype && tag.tag == key.tag);
    let is_kept = |grant: &Grant| {
        let times = public.get(&grant.key).map_or(&[][..], Vec::as_slice);
        let is_needed = match (grant.public, times.first()) {
            (true, _) => times.get(MOST_PUBLIC - 1).is_none_or(|oldest| grant.checked >= *oldest),
            (false, Some(newest)) => grant.checked >= *newest,
            (false, None) => true,
        };
        is_needed && (grant.checked >= before || is_tag(&grant.key))
    };
    grants.into_iter().filter(is_kept).collect()
}

/// The groups of users.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    known: Answers<Vec<u32>>,
}

impl Groups {
    #[cfg(test)]
    pub(crate) fn knows(&self, uid: u32) -> bool {
        self.known.recall(uid).is_some()
    }

    /// All groups of a uid; none where the host does not know the user or does not answer in time:
    /// then only the primary group of the credential counts, which can only narrow access.
    pub(crate) async fn of(&self, uid: u32) -> Vec<u32> {
        let ask = async {
            let output = host::ask("id", &["-G"], uid, "groups").await;
            let Some(output) = output.filter(|output| output.status.success()) else { return Vec::new() };
            let words = String::from_utf8_lossy(&output.stdout);
            words.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        self.known.get(uid, ask).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn grant(tag: &str, puller: u32, public: bool, uids: &[u32], gids: &[u32]) -> Grant {
        Grant {
            key: TagKey { system: "s".into(), itype: "docker".into(), tag: tag.into() },
            id: "ab".into(),
            puller,
            public,
            acl: Acl { uids: uids.to_vec(), gids: gids.to_vec() },
            checked: 0.0,
        }
    }

    #[test]
    fn a_grant_lets_in_whom_it_names() {
        let member = Some(Member { uid: 10, gid: 20, groups: vec![20, 21] });
        for (grant, expected) in [
            (grant("a:1", 9, true, &[], &[]), true),
            (grant("a:1", 9, false, &[10], &[]), true),
            (grant("a:1", 9, false, &[9], &[20]), true),
            (grant("a:1", 9, false, &[9], &[21]), true),
            (grant("a:1", 9, false, &[20], &[10]), false),
            (grant("a:1", 9, false, &[], &[]), false),
        ] {
            assert_eq!(allows(&grant, &member), expected, "{grant:?}");
            assert_eq!(allows(&grant, &None), grant.public, "nobody gets what is public: {grant:?}");
        }
    }

    #[test]
    fn lists_include_their_author_and_private_means_the_puller_alone() {
        assert_eq!(with_author(&[], &[], 5, 6).unwrap(), Acl::default());
        assert_eq!(with_author(&[1], &[], 5, 6).unwrap(), Acl { uids: vec![1, 5], gids: vec![] });
        assert_eq!(with_author(&[5], &[7, 6], 5, 6).unwrap(), Acl { uids: vec![5], gids: vec![7, 6] });
        assert_eq!(of_grant(&Acl::default(), 5), Acl { uids: vec![5], gids: vec![] });
        assert_eq!(of_grant(&Acl { uids: vec![], gids: vec![3] }, 5), Acl { uids: vec![], gids: vec![3] });
    }

    #[test]
    fn an_author_who_makes_a_full_list_too_long_is_refused() {
        let full: Vec<u32> = (1..=1000).collect();
        assert_eq!(with_author(&full, &[], 1, 1).unwrap().uids, full);
        assert!(with_author(&full, &[], 5000, 1).is_err());
        assert!(with_author(&[], &full, 1, 5000).is_err());
    }

    #[test]
    fn meta_never_becomes_public_by_being_empty() {
        let cases: [(&[Grant], Acl); 4] = [
            (&[], Acl { uids: vec![999], gids: vec![] }),
            (&[grant("a:1", 1, false, &[1, 2], &[])], Acl { uids: vec![1, 2], gids: vec![] }),
            (
                &[grant("a:1", 3, false, &[3, 1], &[7]), grant("b:1", 1, false, &[1], &[])],
                Acl { uids: vec![1, 3], gids: vec![7] },
            ),
            (&[grant("a:1", 1, false, &[1], &[]), grant("b:1", 2, true, &[], &[])], Acl::default()),
        ];
        for (grants, expected) in cases {
            assert_eq!(for_meta(grants, 999).unwrap(), expected);
        }
        let many: Vec<u32> = (0..1001).collect();
        assert!(for_meta(&[grant("a:1", 1, false, &many, &[])], 0).is_err());
    }

    #[test]
    fn a_tag_that_became_private_loses_its_public_grants() {
        let public = grant("a:1", 1, true, &[], &[]);
        let other_tag = grant("b:1", 1, true, &[], &[]);
        let shared = grant("a:1", 3, false, &[3], &[]);
        let mine = Grant { checked: 1.0, ..grant("a:1", 2, false, &[2], &[]) };
        let after = |grants: &[Grant], new: &Grant| merged(grants.iter().chain([new]));
        let now_public = grant("a:1", 2, true, &[], &[]);
        let old = [public.clone(), other_tag.clone(), shared.clone()];
        assert_eq!(after(&old, &mine), [other_tag.clone(), shared.clone(), mine.clone()]);
        assert_eq!(after(&old, &now_public), [public, other_tag, shared, now_public]);
        assert_eq!(after(std::slice::from_ref(&mine), &mine), std::slice::from_ref(&mine));
        // Answers that come late: the registry's last word counts, not whose came last.
        let own_public = Grant { checked: 0.5, ..grant("a:1", 2, true, &[], &[]) };
        let late = Grant { checked: 0.5, ..grant("a:1", 9, true, &[], &[]) };
        for old in [own_public, late] {
            assert_eq!(after(std::slice::from_ref(&mine), &old), std::slice::from_ref(&mine));
        }
    }

    #[test]
    fn grants_that_say_nothing_new_do_not_pile_up() {
        let at = |checked: f64, grant: Grant| Grant { checked, ..grant };
        let tags = [Tag { itype: "docker".into(), tag: "a:1".into(), asked: 0.0 }];
        let many: Vec<Grant> = (0..1500).map(|n| at(f64::from(n), grant("a:1", n, true, &[], &[]))).collect();
        let kept = pruned(many, &tags, 0.0);
        let pullers: Vec<u32> = kept.iter().map(|grant| grant.puller).collect();
        assert_eq!(pullers, (1400..1500).collect::<Vec<_>>(), "the newest are left");

        let before = at(1.0, grant("a:1", 1, false, &[1], &[]));
        let public = at(2.0, grant("a:1", 2, true, &[], &[]));
        let after = at(3.0, grant("a:1", 3, false, &[3], &[]));
        let left = at(4.0, grant("gone:1", 4, false, &[4], &[]));
        let all = vec![before.clone(), public.clone(), after.clone(), left.clone()];
        assert_eq!(pruned(all.clone(), &tags, 4.0), [public.clone(), after.clone(), left]);
        assert_eq!(pruned(all, &tags, 5.0), [public, after]);
        assert_eq!(pruned(vec![before.clone()], &tags, 5.0), [before], "a tag's own grants do not age");
    }

    #[tokio::test]
    async fn groups_come_from_the_host() {
        let groups = Groups::default();
        assert!(groups.of(0).await.contains(&0));
        assert!(groups.of(4_000_000_000).await.is_empty());
    }
}
