//! Hardware virtualization and KVM.

use super::{Files, Finding, Level};
use motu_kvm::OpenError;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// What /proc/cpuinfo tells of the first CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    flags: Vec<String>,
}

/// Whose processor it is, by what it calls virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
}

impl Cpu {
    pub fn of(files: &Files) -> Self {
        let text = files.read("proc/cpuinfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
        let flags = line.map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect());
        Self { flags: flags.unwrap_or_default() }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }

    fn vendor(&self) -> Option<Vendor> {
        if self.has("vmx") {
            Some(Vendor::Intel)
        } else if self.has("svm") {
            Some(Vendor::Amd)
        } else {
            None
        }
    }

    /// The host is a virtual machine itself.
    fn is_guest(&self) -> bool {
        self.has("hypervisor")
    }
}

impl Vendor {
    fn module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }
}

/// What KVM says of itself.
#[derive(Debug)]
pub struct Kvm(pub Result<Opened, OpenError>);

/// A KVM that motu can use.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Why there is no hardware behind it.
    pub emulated: Option<String>,
    /// Extensions that some contracts need, which it lacks: name, the kernel that brought it, what it is for.
    pub lacking: Vec<(&'static str, &'static str, &'static str)>,
    /// CPU contracts and what of each it cannot keep.
    pub contracts: Vec<(&'static str, Vec<String>)>,
}

impl Kvm {
    pub fn of_this_host() -> Self {
        use motu_x86::contract::Contract;
        Self(motu_kvm::open().map(|kvm| {
            Opened {
                emulated: match kvm.backing() {
                    motu_kvm::Backing::Hardware => None,
                    motu_kvm::Backing::Emulated(why) => Some(why.clone()),
                },
                lacking: motu_kvm::EXTENSIONS
                    .iter()
                    .filter(|extension| !kvm.has(extension))
                    .map(|extension| (extension.name, extension.since, extension.purpose))
                    .collect(),
                contracts: Contract::ALL.iter().map(|contract| (contract.name(), kvm.differences(contract))).collect(),
            }
        }))
    }
}

pub fn virtualization(cpu: &Cpu) -> Finding {
    const NAME: &str = "VT-x / AMD-V";
    match cpu.vendor() {
        Some(Vendor::Intel) => Finding::ok(NAME, "VT-x (vmx)"),
        Some(Vendor::Amd) => Finding::ok(NAME, "AMD-V (svm)"),
        None if cpu.is_guest() => Finding::note(NAME, "neither: this host is a virtual machine without them")
            .advise("ask its provider for nested virtualization, or use the soft engine, which needs none"),
        None => Finding::note(NAME, "neither")
            .advise("switch virtualization on in the firmware's setup, if the CPU has it; the soft engine needs none"),
    }
}

pub fn nested(files: &Files, cpu: &Cpu) -> Finding {
    const NAME: &str = "nested";
    let host = if cpu.is_guest() { "this host is a virtual machine" } else { "this host is no virtual machine" };
    let module = [Vendor::Intel, Vendor::Amd].map(Vendor::module).into_iter().find_map(|module| {
        let value = files.read(&format!("sys/module/{module}/parameters/nested"))?;
        Some((module, matches!(value.as_str(), "Y" | "1")))
    });
    // No contract has VMX or SVM, so that nothing is lost where it is off.
    match module {
        Some((module, on)) => Finding::ok(NAME, format!("{host}; {module} nests: {}", if on { "yes" } else { "no" })),
        None => Finding::ok(NAME, host),
    }
}

pub fn device(files: &Files, cpu: &Cpu, kvm: &Kvm) -> Finding {
    const NAME: &str = "/dev/kvm";
    let metadata = files.metadata("dev/kvm");
    let mode = metadata.as_ref().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    let is_open_to_group = mode & 0o060 == 0o060;
    let owner = metadata.map_or(String::new(), |metadata| {
        format!(" (mode {mode:03o}, user {}, group {})", metadata.uid(), metadata.gid())
    });
    // Without hardware there is nothing that it could do better.
    let level = if cpu.vendor().is_some() { Level::Problem } else { Level::Note };
    let bad = |found: String| Finding::new(NAME, level, found);
    match &kvm.0 {
        Err(error @ OpenError::Missing) => {
            let finding = bad("missing".to_owned()).advise(crate::engine::remedy(error));
            match cpu.vendor() {
                Some(vendor) => finding.fix(format!("sudo modprobe {}", vendor.module())),
                None => finding,
            }
        }
        Err(error @ OpenError::Denied) => {
            let mut finding = bad(format!("not open to you{owner}")).advise(crate::engine::remedy(error));
            if !is_open_to_group {
                finding = finding.fix("sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm");
            }
            finding.fix("sudo usermod -aG kvm \"$USER\"   # then log in again")
        }
        Err(error @ OpenError::Open(_)) => bad(error.to_string()).advise(crate::engine::remedy(error)),
        Err(OpenError::Version(_) | OpenError::Extensions(_)) | Ok(_) => {
            Finding::ok(NAME, format!("open to you{owner}"))
        }
    }
}

pub fn api(kvm: &Kvm) -> Finding {
    const NAME: &str = "KVM API";
    match &kvm.0 {
        Err(error @ (OpenError::Version(_) | OpenError::Extensions(_))) => {
            Finding::problem(NAME, error.to_string()).advise(crate::engine::remedy(error))
        }
        Err(_) => Finding::note(NAME, "not known, as /dev/kvm cannot be opened"),
        Ok(opened) if opened.lacking.is_empty() => Finding::ok(NAME, "version 12, with every extension that motu uses"),
        Ok(opened) => {
            let lacking = |(name, since, purpose): &(_, _, _)| format!("{name} (Linux {since}: {purpose})");
            let lacking: Vec<String> = opened.lacking.iter().map(lacking).collect();
            Finding::note(NAME, format!("version 12, without {}", lacking.join(", ")))
                .advise("a newer kernel, or a CPU with TSC scaling, has what is missing")
        }
    }
}

pub fn backing(kvm: &Kvm) -> Finding {
    const NAME: &str = "KVM's hardware";
    match &kvm.0 {
        Err(_) => Finding::note(NAME, "not known, as /dev/kvm cannot be used"),
        Ok(Opened { emulated: None, .. }) => Finding::ok(NAME, "a test guest ran at the speed of hardware"),
        Ok(Opened { emulated: Some(why), .. }) => Finding::note(NAME, format!("none: {why}"))
            .advise("this KVM emulates what guests' kernels do, far slower than the soft engine does"),
    }
}

pub fn contracts(kvm: &Kvm) -> Finding {
    const NAME: &str = "CPU contracts";
    let Ok(opened) = &kvm.0 else { return Finding::note(NAME, "of KVM: not known, as /dev/kvm cannot be used") };
    let kept: Vec<_> =
        opened.contracts.iter().filter(|(_, lacking)| lacking.is_empty()).map(|(name, _)| *name).collect();
    if !kept.is_empty() {
        return Finding::ok(NAME, format!("KVM keeps {}", kept.join(", ")));
    }
    let least = opened.contracts.iter().min_by_key(|(_, lacking)| lacking.len());
    let lacking =
        least.map_or(String::new(), |(name, lacking)| format!("; for {name} it lacks {}", lacking.join(", ")));
    let level = if opened.emulated.is_some() { Level::Note } else { Level::Problem };
    Finding::new(NAME, level, format!("KVM keeps none{lacking}"))
        .advise("auto takes the soft engine, which keeps them all by itself")
}

pub fn iommu(files: &Files, cpu: &Cpu) -> Finding {
    const NAME: &str = "IOMMU";
    match files.count("sys/kernel/iommu_groups") {
        0 => {
            let finding =
                Finding::note(NAME, "none; only devices handed to guests need one, which motu does not do yet");
            match cpu.vendor() {
                Some(Vendor::Intel) => finding
                    .advise("switch VT-d on in the firmware, and add intel_iommu=on to the kernel's command line"),
                Some(Vendor::Amd) => finding.advise("switch AMD-Vi on in the firmware"),
                None => finding,
            }
        }
        groups => Finding::ok(NAME, format!("{groups} groups")),
    }
}
