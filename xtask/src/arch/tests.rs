use super::graph::{Graph, Node};
use super::rules::{Violation, violations};

/// A crate in `folder`, named after it, that needs crates by the folder's name or an outside one's.
fn node(folder: &str, needs: &[&str]) -> Node {
    let name = |folder: &str| folder.replace('/', "-");
    Node {
        name: name(folder),
        folder: folder.to_owned(),
        needs: needs.iter().map(|folder| name(folder)).collect(),
        ..Node::default()
    }
}

fn broken(nodes: Vec<Node>) -> Vec<String> {
    violations(&Graph(nodes)).into_iter().map(|Violation { what, .. }| what).collect()
}

#[test]
fn the_layers_as_they_are_meant_to_be_break_nothing() {
    let graph = vec![
        node("base/x86", &["thiserror"]),
        node("base/memory", &["base/x86"]),
        node("cpu/hv", &["base/memory", "base/x86"]),
        node("cpu/engine", &["cpu/hv", "base/x86"]),
        node("cpu/oracle", &["cpu/engine", "cpu/hv"]),
        node("machine/bus", &["base/x86"]),
        node("machine/devices", &["machine/bus"]),
        node("machine/virtio", &["machine/bus", "machine/devices", "base/memory"]),
        node("machine/machine", &["cpu/hv", "machine/devices", "machine/virtio"]),
        node("control/store", &["base/spec"]),
        node("guest/proto", &[]),
        node("guest/agent", &["guest/proto"]),
        node("fuzz", &["cpu/engine", "machine/devices", "machine/virtio", "guest/proto", "base/spec"]),
        node("bin", &["cpu/engine", "machine/machine", "control/store", "guest/proto", "clap", "anyhow", "tokio"]),
    ];
    assert_eq!(broken(graph), [""; 0]);
}

#[test]
fn edges_against_the_direction_are_named() {
    let cases = [
        ("base/x86", "cpu/hv", "vocabulary"),
        ("cpu/hv", "cpu/engine", "seam"),
        ("cpu/engine", "machine/bus", "board"),
        ("cpu/engine", "cpu/kvm", "each other"),
        ("cpu/kvm", "cpu/engine", "each other"),
        ("cpu/rescue", "cpu/kvm", "names neither"),
        ("cpu/switch", "cpu/engine", "names neither"),
        ("machine/devices", "cpu/hv", "never the CPU seam"),
        ("machine/boot", "cpu/hv", "never the CPU seam"),
        ("machine/machine", "control/store", "above it"),
        ("machine/machine", "cpu/engine", "only bin names concrete engines"),
        ("control/store", "cpu/hv", "socket"),
        ("control/store", "machine/machine", "socket"),
        ("guest/agent", "base/x86", "host's side"),
        ("bin", "machine/devices", "concrete devices"),
        ("machine/machine", "fuzz", "above it"),
        ("machine/devices", "machine/virtio", "concrete devices"),
    ];
    for (from, to, rule) in cases {
        let found = violations(&Graph(vec![node(from, &[to]), node(to, &[])]));
        let text = found.iter().map(Violation::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains(&format!("{from} -> {to}: ")) && text.contains(rule), "{from} -> {to}: {text:?}");
    }
}

#[test]
fn outside_crates_are_reserved_to_their_layers() {
    for (from, to) in [
        ("control/store", "clap"),
        ("machine/machine", "tokio"),
        ("control/store", "tokio"),
        ("control/manager", "hyper"),
        ("cpu/hv", "anyhow"),
    ] {
        assert_eq!(broken(vec![node(from, &[to])]), [format!("{from} -> {to}")]);
    }
    assert_eq!(broken(vec![node("control/api", &["tokio", "hyper"]), node("xtask", &["clap", "anyhow"])]), [""; 0]);
}

#[test]
fn tests_keep_the_directions_but_for_the_edges_listed() {
    let mut machine = node("machine/machine", &[]);
    machine.needs_in_tests = vec!["cpu-engine".to_owned()];
    assert_eq!(broken(vec![machine, node("cpu/engine", &[])]), [""; 0]);
    let mut devices = node("machine/devices", &[]);
    devices.needs_in_tests = vec!["cpu-engine".to_owned()];
    let found = broken(vec![devices, node("cpu/engine", &[])]);
    assert!(found.iter().all(|edge| edge == "machine/devices -> cpu/engine (dev-dependency)"), "{found:?}");
    assert!(!found.is_empty());
}

#[test]
fn unsafe_code_is_forbidden_but_where_it_is_due() {
    let lacking = |folder: &str| Node { unsafe_roots: vec![format!("{folder}/src/lib.rs")], ..node(folder, &[]) };
    assert_eq!(broken(vec![lacking("cpu/engine"), lacking("machine/bus")]), ["machine/bus/src/lib.rs"]);
}

#[test]
fn a_folder_is_not_taken_for_one_that_begins_alike() {
    assert_eq!(broken(vec![node("cpu/hvx", &["cpu/engine2"]), node("cpu/engine2", &[])]), [""; 0]);
}
