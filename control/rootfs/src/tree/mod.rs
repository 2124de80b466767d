//! The tree that is being made: names, kinds and attributes; of files' data only where it lies.
//!
//! A directory entry leads to a node, and knows the layer that it comes from; several lead to one node if they are hard links.
//! Nothing here is recursive: how deep a tree is, is for its layers to say.

mod path;
mod remove;

pub(crate) use path::{Found, Way};

use crate::space::Run;
use std::collections::BTreeMap;

/// A moment: since 1970, negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// What is to be added, below 1 000 000 000.
    pub nanos: u32,
}

/// What every file and folder has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with the set-user-ID, set-group-ID and sticky bits: at most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub mtime: Time,
    /// Extended attributes with their full names, such as `security.capability`, as Linux gives their values to programs.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A node's place in the tree's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which layer something comes from; 0 is before the first.
pub(crate) type LayerNumber = u32;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) kind: NodeKind,
    /// Names that lead here; the root has one without being in a directory.
    pub(crate) links: u32,
}

#[derive(Debug)]
pub(crate) enum NodeKind {
    Directory(Directory),
    File { size: u64, runs: Vec<Run> },
    Symlink(Box<[u8]>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: NodeId,
    pub(crate) children: BTreeMap<Box<[u8]>, Child>,
    /// The layer that has already hidden what is below from other layers.
    hidden: LayerNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) node: NodeId,
    pub(crate) layer: LayerNumber,
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
    /// Places in the list that are free again.
    free: Vec<NodeId>,
    /// Directories that were made because names led through them.
    implied: u64,
}

impl Tree {
    /// A tree of a root directory.
    pub(crate) fn new(root: Attributes) -> Self {
        let kind = NodeKind::Directory(Directory { parent: NodeId::ROOT, children: BTreeMap::new(), hidden: 0 });
        Tree { nodes: vec![Some(Node { attributes: root, kind, links: 1 })], free: Vec::new(), implied: 0 }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())?.as_mut()
    }

    pub(crate) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.get(id)?.kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.get_mut(id)?.kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn child(&self, directory: NodeId, name: &[u8]) -> Option<Child> {
        self.directory(directory)?.children.get(name).copied()
    }

    /// How many directories were made because names led through them, those included that are gone again.
    pub(crate) fn implied(&self) -> u64 {
        self.implied
    }

    /// How many places nodes have: all indices are below it.
    pub(crate) fn places(&self) -> usize {
        self.nodes.len()
    }

    /// Makes a node, which no name leads to yet. `None` if there are as many as can be numbered.
    fn add(&mut self, attributes: Attributes, kind: NodeKind) -> Option<NodeId> {
        let node = Some(Node { attributes, kind, links: 0 });
        if let Some(id) = self.free.pop() {
            *self.nodes.get_mut(id.index())? = node;
            return Some(id);
        }
        let id = NodeId(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push(node);
        Some(id)
    }

    /// Makes a directory with nothing in it in place of what has the name, if anything. `None` as in [`Tree::put`].
    pub(crate) fn put_directory(&mut self, at: &Place, attributes: Attributes, freed: &mut Vec<Run>) -> Option<NodeId> {
        let directory = Directory { parent: at.directory, children: BTreeMap::new(), hidden: at.layer };
        self.put(at, attributes, NodeKind::Directory(directory), freed)
    }

    /// Makes a node in place of what has the name, if anything; the space of what goes is added to `freed`. `None` if the
    /// directory is none or there are too many nodes.
    pub(crate) fn put(
        &mut self,
        at: &Place,
        attributes: Attributes,
        kind: NodeKind,
        freed: &mut Vec<Run>,
    ) -> Option<NodeId> {
        self.directory(at.directory)?;
        let id = self.add(attributes, kind)?;
        self.link(at, id, freed)?;
        Some(id)
    }

    /// Has a name lead to a node, in place of what it led to. The node is no directory that has a name already.
    pub(crate) fn link(&mut self, at: &Place, id: NodeId, freed: &mut Vec<Run>) -> Option<()> {
        // Counted first, as the name may be the node's only one already.
        self.get_mut(id)?.links += 1;
        let child = Child { node: id, layer: at.layer };
        let before = self.directory_mut(at.directory)?.children.insert(at.name.clone(), child);
        if let Some(before) = before {
            self.unlinked(before.node, freed);
        }
        Some(())
    }

    /// Marks a name as this layer's.
    pub(crate) fn touch(&mut self, at: &Place) {
        if let Some(child) = self.directory_mut(at.directory).and_then(|directory| directory.children.get_mut(&at.name))
        {
            child.layer = at.layer;
        }
    }
}

/// A name in a directory, and the layer that it is for.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) directory: NodeId,
    pub(crate) name: Box<[u8]>,
    pub(crate) layer: LayerNumber,
}
