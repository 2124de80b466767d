//! What a path means in the tree: what it would mean to a program whose root directory it is (path_resolution(7)).

use super::{Attributes, LayerNumber, NodeId, NodeKind, Place, Tree};
use crate::space::Run;
use std::collections::VecDeque;

/// Symbolic links that one path may lead through (Linux's MAXSYMLINKS).
const MOST_LINKS: u32 = 40;

/// Bytes of a name in a directory (Linux's NAME_MAX, ext4's EXT4_NAME_LEN).
pub(crate) const LONGEST_NAME: usize = 255;

/// Why a path leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    Missing,
    /// This part is there and no directory.
    NotDirectory(String),
    TooManyLinks,
    LongName(usize),
    TooManyNodes,
}

impl PathError {
    /// To be read after the entry's name.
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::Missing => "whose folder is not there".to_owned(),
            Self::NotDirectory(name) => format!("which lies below {name:?}, and that is no folder"),
            Self::TooManyLinks => format!("which leads through more than {MOST_LINKS} symbolic links"),
            Self::LongName(len) => format!("with a name of {len} bytes in it; {LONGEST_NAME} at most can be"),
            Self::TooManyNodes => "one more than there can be".to_owned(),
        }
    }
}

/// What is to be done where a directory on the way is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'a> {
    /// That is an error.
    Find,
    /// It is made, owned by root, with this time.
    Make(&'a Attributes),
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Found {
    /// To this directory itself, by `.`, `..` or no name at all.
    Directory(NodeId),
    /// To a name in a directory, whether that is there or not; if it is a symbolic link it was not followed.
    Place(Place),
}

impl Tree {
    /// Follows a path up to its last name.
    pub(crate) fn resolve(&mut self, path: &[u8], way: Way<'_>, layer: LayerNumber) -> Result<Found, PathError> {
        let mut parts: VecDeque<Box<[u8]>> = components(path).collect();
        let mut current = NodeId::ROOT;
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if &*part == b".." {
                // The root's parent is the root.
                current = self.directory(current).map_or(NodeId::ROOT, |directory| directory.parent);
                continue;
            }
            if part.len() > LONGEST_NAME {
                return Err(PathError::LongName(part.len()));
            }
            if parts.is_empty() {
                return Ok(Found::Place(Place { directory: current, name: part, layer }));
            }
            current = match self.child(current, &part) {
                None => match way {
                    Way::Find => return Err(PathError::Missing),
                    Way::Make(attributes) => {
                        let place = Place { directory: current, name: part, layer };
                        let mut freed: Vec<Run> = Vec::new();
                        let made = self.put_directory(&place, (*attributes).clone(), &mut freed);
                        debug_assert!(freed.is_empty(), "the name was free");
                        self.implied = self.implied.saturating_add(1);
                        made.ok_or(PathError::TooManyNodes)?
                    }
                },
                Some(child) => match self.get(child.node).map(|node| &node.kind) {
                    Some(NodeKind::Directory(_)) => child.node,
                    Some(NodeKind::Symlink(target)) => {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err(PathError::TooManyLinks);
                        }
                        for component in components(target).rev() {
                            parts.push_front(component);
                        }
                        if target.starts_with(b"/") { NodeId::ROOT } else { current }
                    }
                    _ => return Err(PathError::NotDirectory(String::from_utf8_lossy(&part).into_owned())),
                },
            };
        }
        Ok(Found::Directory(current))
    }

    /// The node that a path leads to, the last name's symbolic link not followed.
    pub(crate) fn find(&mut self, path: &[u8]) -> Result<NodeId, PathError> {
        match self.resolve(path, Way::Find, 0)? {
            Found::Directory(id) => Ok(id),
            Found::Place(place) => {
                self.child(place.directory, &place.name).map(|child| child.node).ok_or(PathError::Missing)
            }
        }
    }
}

/// The names in a path, without those that say nothing.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Box<[u8]>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(Box::from)
}
