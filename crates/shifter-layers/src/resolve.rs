//! Entries that reach their directory through a symlink of an *older* layer: `lib/x` onto an image whose
//! `lib` leads to `usr/lib`, from builders that archive files without their directories. All layer
//! unpackers in the field follow such a link within the image, so an image would lose its libraries here if
//! we made `lib` a directory. The link is followed in the tree of names, where the root is the image's and
//! nothing of the host exists.
//!
//! Links of the *same* layer are never followed (symlink, then file: the pattern of escapes), and a
//! directory entry never is a reason to follow: it replaces the link.

use std::collections::VecDeque;

use crate::error::Rule;
use crate::limits::Limits;
use crate::name::{components, shown, split_last};
use crate::tree::{Content, Directory, Found, Inode};

/// The links that one name may lead through, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where `name` of the layer `newer` really lies: its parent with the links of `older` followed. A link to
/// nothing yet makes its target appear, as with the other unpackers; where one leads to a file or in a
/// circle, the name stays, and the layer's directory will replace the link.
pub(crate) fn follow_older_links(
    name: Vec<u8>,
    newer: &Directory,
    older: &Directory,
    inodes: &[Inode],
    limits: &Limits,
) -> Result<Vec<u8>, Rule> {
    let (parent, last) = split_last(&name);
    if !older.has_leaf_at_or_above(parent) {
        return Ok(name);
    }
    let Some(mut found) = resolve(parent, newer, older, inodes)? else { return Ok(name) };
    if found == parent {
        return Ok(name);
    }
    if !found.is_empty() {
        found.push(b'/');
    }
    found.extend_from_slice(last);
    let depth = components(&found).count();
    if depth > limits.depth {
        return Err(Rule::TooDeep(depth));
    }
    if found.len() > limits.name_bytes {
        return Err(Rule::NameTooLong(found.len()));
    }
    Ok(found)
}

/// The directory that `parent` leads to, or `None` where there cannot be one.
fn resolve(
    parent: &[u8],
    newer: &Directory,
    older: &Directory,
    inodes: &[Inode],
) -> Result<Option<Vec<u8>>, Rule> {
    let mut rest: VecDeque<&[u8]> = components(parent).collect();
    let mut done = Vec::new();
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        let above = done.len();
        match component {
            b"." => continue,
            b".." => {
                // Above the root there is the root.
                done.truncate(split_last(&done).0.len());
                continue;
            }
            _ if done.is_empty() => done.extend_from_slice(component),
            _ => {
                done.push(b'/');
                done.extend_from_slice(component);
            }
        }
        match newer.find(&done) {
            Some(Found::Directory) => continue,
            Some(Found::Leaf(_)) => return Err(Rule::ParentNotDirectory(shown(&done))),
            None if newer.hides(&done) => continue,
            None => {}
        }
        let Some(Found::Leaf(id)) = older.find(&done) else { continue };
        let Some(Content::Symlink(target)) = inodes.get(id as usize).map(|inode| &inode.content) else {
            return Ok(None);
        };
        links += 1;
        if links > MOST_LINKS {
            return Ok(None);
        }
        done.truncate(if target.starts_with(b"/") { 0 } else { above });
        for component in components(target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(component);
        }
    }
    Ok(Some(done))
}
