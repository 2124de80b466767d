//! `motu doctor` on this host, whatever it has.

use motu_e2e::motu;
use std::process::Command;

#[test]
fn the_table_is_for_eighty_columns_and_has_no_colours_in_a_pipe() {
    let ended = motu(["doctor"]);
    assert!(matches!(ended.status, 0 | 1), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert!(ended.stdout.starts_with("--engine auto takes "), "{}", ended.stdout);
    assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
    assert!(!ended.stdout.contains('\x1b'));
    for name in [
        "VT-x / AMD-V",
        "/dev/kvm",
        "KVM API",
        "IOMMU",
        "huge pages",
        "KSM",
        "cgroups",
        "user namespaces",
        "overcommit",
    ] {
        assert!(ended.stdout.contains(name), "no {name} in\n{}", ended.stdout);
    }
}

#[test]
fn json_says_what_the_table_and_the_status_say() {
    let ended = motu(["doctor", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let checks = shown["checks"].as_array().unwrap();
    let table = motu(["doctor"]).stdout;
    for check in checks {
        assert!(table.contains(check["name"].as_str().unwrap()), "{check}");
        assert!(["ok", "note", "problem"].contains(&check["level"].as_str().unwrap()), "{check}");
    }
    let has_problem = checks.iter().any(|check| check["level"] == "problem");
    assert_eq!(ended.status, i32::from(has_problem));
    let engine = shown["engine"].as_str().unwrap();
    assert!(table.starts_with(&format!("--engine auto takes {engine}: ")), "{table}");
}

#[test]
fn the_commands_are_a_script_that_a_shell_understands() {
    let ended = motu(["doctor", "--fix"]);
    let checked = Command::new("sh").args(["-n", "-c", &ended.stdout]).status().unwrap();
    assert!(checked.success(), "{}", ended.stdout);
}

#[test]
fn two_forms_at_once_are_refused() {
    let ended = motu(["doctor", "--fix", "--json"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (125, ""));
    assert!(ended.stderr.contains("cannot be used with"), "{}", ended.stderr);
}
