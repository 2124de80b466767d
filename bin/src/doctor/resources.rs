//! Memory, CPU time and isolation; and what the software engine needs.

use super::kvm::Cpu;
use super::{Files, Finding};

pub fn soft_engine(cpu: &Cpu, contracts: &[&str]) -> Finding {
    const NAME: &str = "soft engine";
    if contracts.is_empty() {
        return Finding::problem(NAME, "cannot run: the CPU is older than x86-64-v2")
            .advise("use a CPU of 2009 or later");
    }
    let kept = contracts.join(", ");
    let lacking: Vec<&str> = ["avx", "bmi2"].into_iter().filter(|flag| !cpu.has(flag)).collect();
    if lacking.is_empty() {
        return Finding::ok(NAME, format!("keeps {kept}, and translates to host code"));
    }
    Finding::note(NAME, format!("keeps {kept}, but interprets: the CPU lacks {}", lacking.join(" and ")))
        .advise("guests run several times faster on a CPU that has them, or whose hypervisor shows them")
}

pub fn huge_pages(files: &Files) -> Finding {
    const NAME: &str = "huge pages";
    const SWITCH: &str = "sys/kernel/mm/transparent_hugepage/enabled";
    let Some(setting) = files.read(SWITCH) else {
        return Finding::note(NAME, "the kernel has no transparent ones").advise("guests work, with more TLB misses");
    };
    // The choice is the word in brackets: "always [madvise] never".
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or_default();
    if chosen == "always" {
        return Finding::ok(NAME, "transparent ones for all memory");
    }
    Finding::note(NAME, format!("transparent ones are set to {chosen}, so that guest RAM has none"))
        .advise("set them to always: guests that use much memory get faster")
        .fix(format!("echo always | sudo tee /{SWITCH}"))
}

pub fn ksm(files: &Files) -> Finding {
    const NAME: &str = "KSM";
    match files.read("sys/kernel/mm/ksm/run").as_deref() {
        None => Finding::ok(NAME, "the kernel has none; motu does not ask it to merge pages"),
        Some("1") => Finding::ok(NAME, "runs; motu does not ask it to merge guests' pages"),
        Some(_) => Finding::ok(NAME, "does not run; motu does not ask it to merge guests' pages"),
    }
}

/// Folder of this process's cgroup in the unified hierarchy.
fn own_cgroup(files: &Files) -> Option<String> {
    let text = files.read("proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("sys/fs/cgroup{path}").trim_end_matches('/').to_owned())
}

pub fn cgroups(files: &Files) -> Finding {
    const NAME: &str = "cgroups";
    if files.exists("sys/fs/cgroup/cgroup.controllers") {
        return Finding::ok(NAME, "version 2");
    }
    if files.exists("sys/fs/cgroup/unified/cgroup.controllers") {
        return Finding::note(NAME, "version 1, with version 2 beside it")
            .advise("limits of machines will need version 2: boot with systemd.unified_cgroup_hierarchy=1");
    }
    if files.count("sys/fs/cgroup") > 0 {
        return Finding::note(NAME, "version 1")
            .advise("limits of machines will need version 2: boot with systemd.unified_cgroup_hierarchy=1");
    }
    Finding::note(NAME, "not mounted")
        .advise("limits of machines will need version 2")
        .fix("sudo mount -t cgroup2 none /sys/fs/cgroup")
}

pub fn delegation(files: &Files) -> Finding {
    const NAME: &str = "cgroup delegation";
    const WANTED: [&str; 2] = ["cpu", "memory"];
    let Some(own) = own_cgroup(files).filter(|own| files.exists(&format!("{own}/cgroup.controllers"))) else {
        return Finding::note(NAME, "not known without cgroups of version 2");
    };
    let controllers = files.read(&format!("{own}/cgroup.controllers")).unwrap_or_default();
    let lacking: Vec<&str> =
        WANTED.into_iter().filter(|wanted| !controllers.split_whitespace().any(|found| found == *wanted)).collect();
    let delegate = "sudo systemctl set-property \"user@$(id -u).service\" Delegate=yes";
    if !files.is_writable(&own) {
        return Finding::note(NAME, "your cgroup is not yours to divide, so motu cannot limit machines one by one")
            .advise("have systemd delegate it to you")
            .fix(delegate);
    }
    if !lacking.is_empty() {
        return Finding::note(NAME, format!("your cgroup has no {} controller", lacking.join(" and no ")))
            .advise("have systemd delegate the controllers to you")
            .fix(delegate);
    }
    Finding::ok(NAME, "your cgroup is yours, with the cpu and memory controllers")
}

pub fn user_namespaces(files: &Files) -> Finding {
    const NAME: &str = "user namespaces";
    let number = |path: &str| files.read(path).and_then(|text| text.parse::<u64>().ok());
    // Jails of machines are made of them.
    let advice = "motu will jail machines in them";
    let sysctl = |setting: &str| format!("sudo sysctl -w {setting}");
    match number("proc/sys/user/max_user_namespaces") {
        None => return Finding::note(NAME, "the kernel has none").advise(advice),
        Some(0) => {
            return Finding::note(NAME, "none are allowed")
                .advise(advice)
                .fix(sysctl("user.max_user_namespaces=16384"));
        }
        Some(_) => {}
    }
    // Debian's switch and Ubuntu's.
    if number("proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Finding::note(NAME, "only root may make them")
            .advise(advice)
            .fix(sysctl("kernel.unprivileged_userns_clone=1"));
    }
    if number("proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Finding::note(NAME, "AppArmor keeps them from programs without a profile")
            .advise(advice)
            .fix(sysctl("kernel.apparmor_restrict_unprivileged_userns=0"));
    }
    Finding::ok(NAME, "open to everybody")
}

pub fn overcommit(files: &Files) -> Finding {
    const NAME: &str = "overcommit";
    match files.read("proc/sys/vm/overcommit_memory").as_deref() {
        None => Finding::note(NAME, "not known: /proc is not mounted"),
        Some("2") => Finding::problem(NAME, "memory is not promised beyond what there is (vm.overcommit_memory=2)")
            .advise("all of a machine's --memory counts when it starts, whether it uses it or not; let the kernel promise more")
            .fix("sudo sysctl -w vm.overcommit_memory=0"),
        Some("1") => Finding::ok(NAME, "memory is promised without limit (vm.overcommit_memory=1)"),
        Some(_) => Finding::ok(NAME, "memory is promised within reason (vm.overcommit_memory=0)"),
    }
}
