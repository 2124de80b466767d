//! Hosts that are a few files.

use super::kvm::{Cpu, Opened};
use super::*;
use motu_kvm::OpenError;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A host with these files.
fn host(files: &[(&str, &str)]) -> (TempDir, Files) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let files = Files::below(folder.path());
    (folder, files)
}

const INTEL: (&str, &str) = ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx avx bmi2\nvmx flags\t: vnmi\n");
const AMD: (&str, &str) = ("proc/cpuinfo", "flags\t\t: fpu svm avx bmi2\n");
const NEITHER: (&str, &str) = ("proc/cpuinfo", "flags\t\t: fpu hypervisor avx\n");

fn hardware() -> Kvm {
    let contracts = vec![("v3-2026", vec!["Avx2".to_owned()]), ("v2-2026", Vec::new())];
    Kvm(Ok(Opened { contracts, ..Opened::default() }))
}

fn missing() -> Kvm {
    Kvm(Err(OpenError::Missing))
}

/// The finding of that name.
fn find(findings: &[Finding], name: &str) -> Finding {
    findings.iter().find(|finding| finding.name == name).cloned().unwrap_or_else(|| panic!("no {name}"))
}

fn on(files: &[(&str, &str)], kvm: &Kvm, name: &str) -> Finding {
    let (_folder, files) = host(files);
    find(&examine(&files, kvm, &["v3-2026"]), name)
}

#[test]
fn a_good_host_has_no_problem_and_nothing_to_run() {
    let (_folder, files) = host(&[
        INTEL,
        ("dev/kvm", ""),
        ("sys/module/kvm_intel/parameters/nested", "Y\n"),
        ("sys/kernel/iommu_groups/0/type", ""),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
        ("sys/kernel/mm/ksm/run", "0\n"),
        ("proc/self/cgroup", "0::/user.slice/me\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
        ("sys/fs/cgroup/user.slice/me/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("proc/sys/user/max_user_namespaces", "96000\n"),
        ("proc/sys/vm/overcommit_memory", "0\n"),
    ]);
    let findings = examine(&files, &hardware(), &["v3-2026", "v2-2026"]);
    for finding in &findings {
        assert_eq!((finding.level, &finding.fix), (Level::Ok, &Vec::new()), "{finding:?}");
    }
    assert_eq!(find(&findings, "VT-x / AMD-V").found, "VT-x (vmx)");
    assert_eq!(find(&findings, "CPU contracts").found, "KVM keeps v2-2026");
    assert_eq!(find(&findings, "IOMMU").found, "1 groups");
    assert!(find(&findings, "nested").found.contains("kvm_intel nests: yes"));
    assert!(commands(&findings).starts_with("# there is nothing"));
}

#[test]
fn a_host_of_no_files_is_no_reason_to_fail() {
    let findings = examine(&Files::below("/no/such/root"), &missing(), &[]);
    assert_eq!(findings.len(), 14);
    assert_eq!(find(&findings, "soft engine").level, Level::Problem, "not even the software engine runs");
    let others = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    assert_eq!(others, 1, "{findings:#?}");
}

#[test]
fn kvm_that_could_be_there_is_a_problem_and_one_that_could_not_is_a_note() {
    let finding = on(&[INTEL], &missing(), "/dev/kvm");
    assert_eq!((finding.level, finding.fix), (Level::Problem, vec!["sudo modprobe kvm_intel".to_owned()]));
    assert_eq!(on(&[AMD], &missing(), "/dev/kvm").fix, ["sudo modprobe kvm_amd"]);
    let finding = on(&[NEITHER], &missing(), "/dev/kvm");
    assert_eq!((finding.level, finding.fix.len()), (Level::Note, 0));

    let (folder, files) = host(&[INTEL, ("dev/kvm", "")]);
    fs::set_permissions(folder.path().join("dev/kvm"), fs::Permissions::from_mode(0o600)).unwrap();
    let finding = find(&examine(&files, &Kvm(Err(OpenError::Denied)), &["v3-2026"]), "/dev/kvm");
    assert_eq!(finding.level, Level::Problem);
    assert!(finding.found.contains("mode 600"), "{finding:?}");
    assert!(finding.fix[0].contains("chmod 660") && finding.fix[1].contains("usermod -aG kvm"), "{finding:?}");
}

#[test]
fn what_stands_behind_kvm_is_told_apart() {
    let emulated = Kvm(Ok(Opened { emulated: Some("slow".into()), ..Opened::default() }));
    let finding = on(&[NEITHER], &emulated, "KVM's hardware");
    assert_eq!((finding.level, finding.found.as_str()), (Level::Note, "none: slow"));
    assert_eq!(on(&[INTEL], &hardware(), "KVM's hardware").level, Level::Ok);
    assert_eq!(on(&[INTEL], &missing(), "KVM's hardware").level, Level::Note);
    let guest = on(&[NEITHER], &missing(), "VT-x / AMD-V");
    assert!(guest.found.contains("virtual machine") && guest.advice.unwrap().contains("nested"));
}

#[test]
fn an_api_that_is_too_old_is_a_problem_and_one_that_lacks_something_a_note() {
    assert_eq!(on(&[INTEL], &Kvm(Err(OpenError::Version(11))), "KVM API").level, Level::Problem);
    let lacking = vec![("X86_APIC_BUS_CYCLES_NS", "6.11", "the APIC timer")];
    let finding = on(&[INTEL], &Kvm(Ok(Opened { lacking, ..Opened::default() })), "KVM API");
    assert_eq!(finding.level, Level::Note);
    assert!(finding.found.contains("X86_APIC_BUS_CYCLES_NS (Linux 6.11"), "{finding:?}");
}

#[test]
fn contracts_that_hardware_cannot_keep_name_what_is_missing() {
    let contracts = vec![("v3-2026", vec!["Avx2".into(), "Bmi2".into()]), ("v2-2026", vec!["Smep".into()])];
    let finding = on(&[INTEL], &Kvm(Ok(Opened { contracts, ..Opened::default() })), "CPU contracts");
    assert_eq!((finding.level, finding.found.as_str()), (Level::Problem, "KVM keeps none; for v2-2026 it lacks Smep"));
}

#[test]
fn the_software_engine_wants_what_its_translator_needs() {
    let finding = on(&[NEITHER], &missing(), "soft engine");
    assert_eq!(finding.level, Level::Note);
    assert!(finding.found.ends_with("the CPU lacks bmi2"), "{finding:?}");
    assert!(Cpu::of(&host(&[INTEL]).1).has("bmi2"));
}

#[test]
fn huge_pages_are_read_from_the_brackets() {
    const FILE: &str = "sys/kernel/mm/transparent_hugepage/enabled";
    let finding = on(&[(FILE, "always [madvise] never")], &missing(), "huge pages");
    assert!(finding.found.contains("set to madvise"), "{finding:?}");
    assert_eq!(finding.fix, ["echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"]);
    assert_eq!(on(&[(FILE, "[always] madvise never")], &missing(), "huge pages").level, Level::Ok);
}

#[test]
fn cgroups_have_versions() {
    let level = |files: &[(&str, &str)]| {
        let finding = on(files, &missing(), "cgroups");
        (finding.level, finding.found)
    };
    assert_eq!(level(&[("sys/fs/cgroup/cgroup.controllers", "")]), (Level::Ok, "version 2".into()));
    let hybrid = level(&[("sys/fs/cgroup/unified/cgroup.controllers", "")]);
    assert_eq!(hybrid, (Level::Note, "version 1, with version 2 beside it".into()));
    assert_eq!(level(&[("sys/fs/cgroup/memory/tasks", "")]), (Level::Note, "version 1".into()));
    assert_eq!(level(&[]), (Level::Note, "not mounted".into()));
}

#[test]
fn a_cgroup_without_controllers_is_to_be_delegated() {
    let files = [("proc/self/cgroup", "1:name=systemd:/\n0::/me\n"), ("sys/fs/cgroup/me/cgroup.controllers", "memory")];
    let finding = on(&files, &missing(), "cgroup delegation");
    assert_eq!(finding.found, "your cgroup has no cpu controller");
    assert!(finding.fix.concat().contains("Delegate=yes"), "{finding:?}");
}

#[test]
fn user_namespaces_have_three_switches() {
    const MOST: (&str, &str) = ("proc/sys/user/max_user_namespaces", "100");
    let fix = |files: &[(&str, &str)]| on(files, &missing(), "user namespaces").fix.concat();
    assert_eq!(fix(&[MOST]), "");
    assert!(fix(&[("proc/sys/user/max_user_namespaces", "0")]).contains("user.max_user_namespaces=16384"));
    assert!(fix(&[MOST, ("proc/sys/kernel/unprivileged_userns_clone", "0")]).contains("userns_clone=1"));
    assert!(fix(&[MOST, ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")]).contains("userns=0"));
}

#[test]
fn strict_memory_is_a_problem() {
    const FILE: &str = "proc/sys/vm/overcommit_memory";
    assert_eq!(on(&[(FILE, "2")], &missing(), "overcommit").level, Level::Problem);
    assert_eq!(on(&[(FILE, "1")], &missing(), "overcommit").level, Level::Ok);
}

#[test]
fn the_table_stays_within_its_width() {
    let findings = examine(&Files::below("/no/such/root"), &missing(), &["v3-2026"]);
    for width in [60, 80, 100] {
        let text = table(&findings, &"word ".repeat(40), Style { width, colour: false });
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest <= width), "{text}");
        assert!(!text.contains('\x1b'));
        for finding in &findings {
            assert!(text.contains(finding.name), "{}", finding.name);
        }
    }
    let coloured = table(&findings, "x", Style { width: 80, colour: true });
    assert!(coloured.contains("\x1b[33mnote"), "{coloured:?}");
}

#[test]
fn programs_and_shells_find_the_same() {
    let (_folder, files) = host(&[INTEL, ("proc/sys/vm/overcommit_memory", "2")]);
    let findings = examine(&files, &missing(), &["v3-2026"]);
    let shown = json(&findings, "soft", "there is no /dev/kvm");
    assert_eq!(shown["engine"], "soft");
    let checks = shown["checks"].as_array().unwrap();
    assert_eq!(checks.len(), findings.len());
    assert!(checks.iter().all(|check| check["found"].is_string() && check["fix"].is_array()), "{shown}");
    let commands = commands(&findings);
    assert!(
        commands.contains("sudo modprobe kvm_intel\n") && commands.contains("vm.overcommit_memory=0\n"),
        "{commands}"
    );
    let lines_are_commands_or_reasons =
        commands.lines().all(|line| ["# ", "sudo ", "echo "].iter().any(|start| line.starts_with(start)));
    assert!(lines_are_commands_or_reasons, "{commands}");
}
