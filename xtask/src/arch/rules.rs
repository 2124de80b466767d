//! The layers' directions (ARCHITECTURE.md, "Layers"), as rules on the edges between crates.

use super::graph::{Graph, Node};
use std::fmt;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `from -> to`, or the crate or file that breaks the rule by itself.
    pub what: String,
    pub rule: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.rule)
    }
}

/// No edge from a crate in one of `from` to a crate in one of `to`. A folder stands for all below it.
struct Forbidden {
    from: &'static [&'static str],
    to: &'static [&'static str],
    rule: &'static str,
}

/// Rules on edges inside the workspace. They hold for tests too, unless [`TEST_EDGES`] has the edge.
const FORBIDDEN: &[Forbidden] = &[
    Forbidden {
        from: &["base"],
        to: &["cpu", "machine", "control", "guest", "bin", "tests", "fuzz", "xtask"],
        rule: "base/ is vocabulary and formats: it sees no other layer",
    },
    Forbidden {
        from: &["cpu"],
        to: &["machine", "control", "guest", "bin", "tests", "fuzz", "xtask"],
        rule: "cpu/ runs instructions: it knows nothing of the board nor of what is above it",
    },
    Forbidden { from: &["cpu/hv"], to: &["cpu"], rule: "cpu/hv is the seam: it names none of the engines behind it" },
    Forbidden {
        from: &["cpu/rescue"],
        to: &["cpu/engine", "cpu/kvm", "cpu/oracle"],
        rule: "cpu/rescue makes one engine of two that it is told: it names neither",
    },
    Forbidden {
        from: &["cpu/switch"],
        to: &["cpu/engine", "cpu/kvm", "cpu/oracle"],
        rule: "cpu/switch has two engines that it is told take turns: it names neither",
    },
    Forbidden { from: &["cpu/kvm"], to: &["cpu/engine", "cpu/oracle"], rule: "the engines know nothing of each other" },
    Forbidden {
        from: &["cpu/engine"],
        to: &["cpu/kvm", "cpu/oracle"],
        rule: "the engines know nothing of each other, nor of who tests them",
    },
    Forbidden {
        from: &["machine"],
        to: &["control", "guest", "bin", "tests", "fuzz", "xtask"],
        rule: "machine/ is the board: it knows nothing of what is above it",
    },
    Forbidden {
        from: &["machine/bus", "machine/devices", "machine/virtio", "machine/net", "machine/boot"],
        to: &["cpu"],
        rule: "devices, virtio, net and boot see the bus and memory, never the CPU seam nor an engine",
    },
    Forbidden {
        from: &["control"],
        to: &["cpu", "machine", "bin", "tests", "fuzz", "xtask"],
        rule: "control/ talks to a machine's process over a socket: it never sees cpu/ or machine/",
    },
    Forbidden {
        from: &["guest"],
        to: &["base", "cpu", "machine", "control", "bin", "tests", "fuzz", "xtask"],
        rule: "guest/ runs in the guest: it sees nothing of the host's side",
    },
];

/// Crates that only a few may name. `to` is in the workspace if it has a slash, else an outside crate.
struct Reserved {
    to: &'static [&'static str],
    only: &'static [&'static str],
    rule: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        to: &["machine/devices", "machine/virtio", "machine/net", "machine/boot"],
        only: &["machine/machine", "machine/virtio -> machine/devices", "fuzz"],
        rule: "only machine/machine names concrete devices (virtio the PCI functions of devices, and fuzz all of them)",
    },
    Reserved {
        to: &["cpu/engine", "cpu/kvm"],
        only: &["bin", "cpu/oracle", "cpu/conformance", "tests", "fuzz"],
        rule: "only bin names concrete engines (and the crates that judge them)",
    },
    Reserved { to: &["clap"], only: &["bin", "xtask"], rule: "the command line is bin's: no other crate parses it" },
    Reserved {
        to: &["tokio", "async-std", "smol", "futures", "async-trait"],
        only: &["control/api", "control/manager", "bin"],
        rule: "async lives only in control/api, control/manager and bin",
    },
    Reserved {
        to: &["http", "hyper", "axum", "reqwest", "tower", "ureq"],
        only: &["control/api", "control/registry", "bin"],
        rule: "HTTP is named only in control/api and control/registry",
    },
    Reserved {
        to: &["anyhow"],
        only: &["bin", "tests", "fuzz", "xtask"],
        rule: "libraries have errors of their own (thiserror); anyhow is for bin, tests and xtask",
    },
];

/// Edges that a crate's tests may have though the crate itself may not.
const TEST_EDGES: &[(&str, &str)] = &[("machine/machine", "cpu/engine"), ("machine/gdb", "cpu/engine")];

/// Crates that may have unsafe code.
pub const UNSAFE_ALLOWED: &[&str] =
    &["base/memory", "cpu/engine", "cpu/kvm", "cpu/oracle", "machine/net", "bin", "guest/agent", "tests/e2e", "fuzz"];

const FORBID_RULE: &str = "a crate outside the few with unsafe code says #![forbid(unsafe_code)]";

/// Every rule that `graph` breaks.
pub fn violations(graph: &Graph) -> Vec<Violation> {
    graph.0.iter().flat_map(|node| broken_by(graph, node)).collect()
}

fn broken_by(graph: &Graph, node: &Node) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (to, in_tests) in edges(node) {
        let place = graph.folder_of(to);
        let edge = |rule| {
            let note = if in_tests { " (dev-dependency)" } else { "" };
            Violation { what: format!("{} -> {}{note}", node.folder, place.unwrap_or(to)), rule }
        };
        if in_tests && place.is_some_and(|place| TEST_EDGES.contains(&(node.folder.as_str(), place))) {
            continue;
        }
        for forbidden in FORBIDDEN {
            let hit = place.is_some_and(|place| place != node.folder && within_any(place, forbidden.to));
            if hit && within_any(&node.folder, forbidden.from) {
                broken.push(edge(forbidden.rule));
            }
        }
        for reserved in RESERVED {
            let named = place.map_or(reserved.to.contains(&to), |place| within_any(place, reserved.to));
            if named && !may_name(reserved, &node.folder, place.unwrap_or(to)) {
                broken.push(edge(reserved.rule));
            }
        }
    }
    if !within_any(&node.folder, UNSAFE_ALLOWED) {
        let lacking = node.unsafe_roots.iter();
        broken.extend(lacking.map(|file| Violation { what: file.clone(), rule: FORBID_RULE }));
    }
    broken
}

/// What a crate names, and whether only its tests do.
fn edges(node: &Node) -> impl Iterator<Item = (&str, bool)> {
    let ordinary = node.needs.iter().map(|name| (name.as_str(), false));
    ordinary.chain(node.needs_in_tests.iter().map(|name| (name.as_str(), true)))
}

fn may_name(reserved: &Reserved, from: &str, to: &str) -> bool {
    reserved.only.iter().any(|allowed| match allowed.split_once(" -> ") {
        Some((only_from, only_to)) => within(from, only_from) && within(to, only_to),
        None => within(from, allowed),
    })
}

/// Whether `folder` is `layer` or below it.
fn within(folder: &str, layer: &str) -> bool {
    folder.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn within_any(folder: &str, layers: &[&str]) -> bool {
    layers.iter().any(|layer| within(folder, layer))
}
