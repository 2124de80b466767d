//! Taking names out of the tree.

use super::{LayerNumber, NodeId, NodeKind, Place, Tree};
use crate::space::Run;

impl Tree {
    /// One name less leads to a node. With the last one it goes, and all below it; its space is added to `freed`.
    pub(super) fn unlinked(&mut self, id: NodeId, freed: &mut Vec<Run>) {
        let mut rest = vec![id];
        while let Some(id) = rest.pop() {
            let Some(node) = self.get_mut(id) else { continue };
            node.links = node.links.saturating_sub(1);
            if node.links > 0 {
                continue;
            }
            let gone = self.nodes.get_mut(id.index()).and_then(Option::take);
            self.free.push(id);
            match gone.map(|node| node.kind) {
                Some(NodeKind::Directory(directory)) => {
                    rest.extend(directory.children.values().map(|child| child.node))
                }
                Some(NodeKind::File { runs, .. }) => freed.extend(runs),
                _ => {}
            }
        }
    }

    /// Takes out a name, whatever layer it is of, with all below it.
    pub(crate) fn remove(&mut self, at: &Place, freed: &mut Vec<Run>) {
        let gone = self.directory_mut(at.directory).and_then(|directory| directory.children.remove(&at.name));
        if let Some(gone) = gone {
            self.unlinked(gone.node, freed);
        }
    }

    /// Takes out a name if it comes from another layer than `at.layer`. Of a directory that this layer has something in, only the
    /// rest goes ("Whiteouts": they apply to lower layers only).
    pub(crate) fn hide(&mut self, at: &Place, freed: &mut Vec<Run>) {
        let Some(child) = self.child(at.directory, &at.name) else { return };
        if self.directory(child.node).is_some() {
            self.hide_below(child.node, at.layer, freed);
        }
        let is_kept = child.layer == at.layer || self.directory(child.node).is_some_and(|it| !it.children.is_empty());
        if !is_kept {
            self.remove(at, freed);
        }
    }

    /// Takes out all of a directory that comes from other layers.
    pub(crate) fn hide_below(&mut self, top: NodeId, layer: LayerNumber, freed: &mut Vec<Run>) {
        // Each directory before those in it. One that was done in this layer has nothing of others any more, so that
        // however many whiteouts a layer has, each directory is walked through once.
        let mut rest = vec![top];
        let mut found = Vec::new();
        while let Some(id) = rest.pop() {
            let Some(directory) = self.directory_mut(id) else { continue };
            if directory.hidden == layer {
                continue;
            }
            directory.hidden = layer;
            let below: Vec<NodeId> = directory.children.values().map(|child| child.node).collect();
            rest.extend(below.into_iter().filter(|id| self.directory(*id).is_some()));
            found.push(id);
        }
        for id in found.into_iter().rev() {
            let Some(directory) = self.directory(id) else { continue };
            let others = directory.children.iter().filter(|(_, child)| child.layer != layer);
            let gone: Vec<Place> = others
                .filter(|(_, child)| self.directory(child.node).is_none_or(|below| below.children.is_empty()))
                .map(|(name, _)| Place { directory: id, name: name.clone(), layer })
                .collect();
            for place in gone {
                self.remove(&place, freed);
            }
        }
    }
}
