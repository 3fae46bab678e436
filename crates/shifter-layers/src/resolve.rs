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
use crate::name::{components, shown};
use crate::paths::{PathId, ROOT};
use crate::stock::{Kind, Stock};
use crate::tree::{HOLDS_ENTRIES, OPAQUE, Stand, Tree, WHITEOUT};

/// The links that one name may lead through, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where the directory `path` of the layer `newer` really lies: the links of `older` followed. A link to
/// nothing yet makes its target appear, as with the other unpackers; where one leads to a file or in a
/// circle, the path stays, and the layer's directory will replace the link.
pub(crate) fn follow_older_links<D: Copy>(
    path: PathId,
    newer: &Tree,
    older: &Tree,
    stock: &mut Stock<D>,
    limits: &Limits,
) -> Result<PathId, Rule> {
    let nearest = stock.paths.upwards(path).map(|above| older.at(above)).find(|at| *at != Stand::Nothing);
    if !matches!(nearest, Some(Stand::Leaf(_))) {
        return Ok(path);
    }
    match resolve(path, newer, older, stock, limits)? {
        Some(found) if found != path => {
            let (depth, bytes) = stock
                .paths
                .upwards(found)
                .fold((0, 0), |(depth, bytes), id| (depth + 1, bytes + stock.paths.name(id).len() + 1));
            if depth >= limits.depth {
                return Err(Rule::TooDeep(depth + 1));
            }
            if bytes > limits.name_bytes {
                return Err(Rule::NameTooLong(bytes));
            }
            Ok(found)
        }
        _ => Ok(path),
    }
}

/// The directory that `path` leads to, or `None` where there cannot be one.
fn resolve<D: Copy>(
    path: PathId,
    newer: &Tree,
    older: &Tree,
    stock: &mut Stock<D>,
    limits: &Limits,
) -> Result<Option<PathId>, Rule> {
    let whole = stock.paths.whole(path);
    let mut rest: VecDeque<Vec<u8>> = components(&whole).map(<[u8]>::to_vec).collect();
    let mut done = ROOT;
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        let above = done;
        match component.as_slice() {
            b"." => continue,
            b".." => {
                // Above the root there is the root.
                done = stock.paths.parent(done);
                continue;
            }
            long if long.len() > limits.component_bytes => return Err(Rule::ComponentTooLong(long.len())),
            name => done = stock.paths.child(done, name),
        }
        match newer.at(done) {
            Stand::Leaf(_) => return Err(Rule::ParentNotDirectory(shown(&stock.paths.whole(done)))),
            Stand::Implied | Stand::Directory(_) if newer.has(done, HOLDS_ENTRIES) => continue,
            _ if hides(newer, stock, done) => continue,
            _ => {}
        }
        let Stand::Leaf(record) = older.at(done) else { continue };
        let Some(record) = stock.record(record).filter(|record| record.kind == Kind::Symlink) else {
            return Ok(None);
        };
        links += 1;
        if links > MOST_LINKS {
            return Ok(None);
        }
        let target = stock.paths.text(record.value);
        done = if target.starts_with(b"/") { ROOT } else { above };
        for component in components(target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(component.to_vec());
        }
    }
    Ok(Some(done))
}

/// Whether the layer, so far, hides what older layers have at `path`.
fn hides<D: Copy>(newer: &Tree, stock: &Stock<D>, path: PathId) -> bool {
    let is_leaf = |path| matches!(newer.at(path), Stand::Leaf(_));
    stock.paths.upwards(path).any(|above| {
        let parent = stock.paths.parent(above);
        newer.has(above, WHITEOUT) || newer.has(parent, OPAQUE) || is_leaf(parent)
    })
}
