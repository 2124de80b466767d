//! Random layers against a model that knows the image specification in another way: a layer's whiteouts come first, then
//! the rest of it.

use super::archive::archived;
use super::made::{Made, Tar, make_within};
use crate::Limits;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Change {
    File(String, Vec<u8>),
    Folder(String),
    Symlink(String, String),
    /// To the layer's own file of this number, counted round.
    HardLink(String, usize),
    Hide(String),
    HideAll(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    File(Vec<u8>),
    Folder,
    Symlink(String),
}

/// Paths and what is there, folders included.
type Tree = BTreeMap<String, Item>;

/// Folders have other names than all else, but for `x`, which may be anything.
fn folder() -> impl Strategy<Value = String> {
    prop::collection::vec("d[01]", 0..3).prop_map(|parts| parts.iter().map(|part| format!("{part}/")).collect())
}

fn change() -> impl Strategy<Value = Change> {
    let data = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0usize..20_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len])
    ];
    let leaf = prop_oneof![4 => "f[0-3]", 1 => Just("x".to_owned())];
    prop_oneof![
        6 => (folder(), leaf, data).prop_map(|(folder, name, data)| Change::File(folder + &name, data)),
        2 => (folder(), prop_oneof!["d[01]", "x"]).prop_map(|(folder, name)| Change::Folder(folder + &name)),
        1 => (folder(), "[a-z/]{1,80}").prop_map(|(folder, target)| Change::Symlink(folder + "x", target)),
        1 => (folder(), "h[01]", 0usize..10).prop_map(|(folder, name, to)| Change::HardLink(folder + &name, to)),
        2 => (folder(), prop_oneof!["d[01]", "f[0-3]", "x"]).prop_map(|(folder, name)| Change::Hide(folder + ".wh." + &name)),
        1 => folder().prop_map(Change::HideAll),
    ]
}

fn remove(tree: &mut Tree, path: &str) {
    tree.retain(|other, _| other != path && !other.starts_with(&format!("{path}/")));
}

fn put(tree: &mut Tree, path: &str, item: Item) {
    for (at, _) in path.match_indices('/') {
        tree.entry(path[..at].to_owned()).or_insert(Item::Folder);
    }
    if item != Item::Folder || tree.get(path) != Some(&Item::Folder) {
        remove(tree, path);
        tree.insert(path.to_owned(), item);
    }
}

/// A layer as an archive, applied to the model as well.
fn apply(tree: &mut Tree, layer: &[Change]) -> Vec<u8> {
    for change in layer {
        match change {
            Change::Hide(path) => remove(tree, &path.replace(".wh.", "")),
            Change::HideAll(folder) => tree.retain(|path, _| !path.starts_with(folder.as_str())),
            _ => {}
        }
    }
    let mut tar = Tar::new();
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for change in layer {
        tar = match change {
            Change::File(path, data) => {
                // What has the name later is not what was linked to.
                files.retain(|(other, _)| other != path);
                if !path.ends_with('x') {
                    files.push((path, data.clone()));
                }
                put(tree, path, Item::File(data.clone()));
                tar.file(path, data)
            }
            Change::Folder(path) => {
                put(tree, path, Item::Folder);
                tar.folder(path)
            }
            Change::Symlink(path, target) => {
                put(tree, path, Item::Symlink(target.clone()));
                tar.symlink(path, target)
            }
            Change::HardLink(path, to) => match files.get(to % files.len().max(1)) {
                Some((target, data)) => {
                    put(tree, path, Item::File(data.clone()));
                    tar.hard_link(path, target)
                }
                None => tar,
            },
            Change::Hide(path) => tar.file(path, b""),
            Change::HideAll(folder) => tar.file(&format!("{folder}.wh..wh..opq"), b""),
        };
    }
    tar.end()
}

fn read(made: &Made) -> Tree {
    let mut tree = Tree::new();
    let mut rest = vec![String::new()];
    while let Some(folder) = rest.pop() {
        for name in made.names(&format!("/{folder}")) {
            let path = format!("{folder}{}", String::from_utf8(name).unwrap());
            let full = format!("/{path}");
            let kind = made.metadata(&full).file_type();
            let item = if kind.is_dir() {
                rest.push(format!("{path}/"));
                Item::Folder
            } else if kind.is_symlink() {
                Item::Symlink(String::from_utf8(made.link(&full)).unwrap())
            } else {
                Item::File(made.read(&full))
            };
            tree.insert(path, item);
        }
    }
    tree.remove("lost+found");
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn layers_make_what_the_specification_says(
        layers in prop::collection::vec(prop::collection::vec(change(), 0..25), 1..4)
    ) {
        let mut tree = Tree::new();
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| apply(&mut tree, layer)).collect();
        let archives: Vec<&[u8]> = archives.iter().map(Vec::as_slice).collect();
        let made = make_within(Limits::default(), 16, &archives).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(read(&made), tree);
        // All layers become one, which makes the same tree again.
        let layer = archived(&made);
        let again = make_within(Limits::default(), 16, &[&layer]).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(read(&again), read(&made));
        prop_assert!(archived(&again) == layer);
    }
}
