use super::*;
use crate::msr;
use proptest::prelude::*;

const AT: CpuidInputs = CpuidInputs { apic_id: 0, cpus: 4, cr4: 0, misc_enable: 0, xcr0: 1, apic_enabled: true };

fn contract(name: &str) -> &'static Contract {
    Contract::by_name(name).expect("a contract of this name")
}

fn text(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(char::from).collect()
}

#[test]
fn names_are_found_and_the_default_comes_first() {
    let names: Vec<_> = Contract::ALL.iter().map(Contract::name).collect();
    assert_eq!(names, ["v3-2026", "v2-2026", "max-2026"]);
    assert!(Contract::ALL.iter().all(|one| contract(one.name()).name() == one.name()));
    assert!(Contract::by_name("v4-2026").is_none());
    for (high, low) in [("max-2026", "v3-2026"), ("v3-2026", "v2-2026")] {
        let (high, low) = (contract(high), contract(low));
        assert!(Feature::ALL.iter().all(|&feature| high.has(feature) || !low.has(feature)));
    }
}

#[test]
fn cpuid_tells_exactly_the_features_of_the_contract() {
    for contract in Contract::ALL {
        for &feature in Feature::ALL {
            let told = feature.is_in(|leaf, subleaf| contract.cpuid(leaf, subleaf, &AT));
            assert_eq!(told, contract.has(feature), "{feature:?} of {}", contract.name());
        }
    }
}

#[test]
fn flags_stand_where_the_manual_puts_them() {
    let v3 = contract("v3-2026");
    let one = v3.cpuid(1, 0, &AT);
    assert_eq!((one.ecx, one.edx), (0xf7f8_3203, 0x1f8b_fbff));
    let seven = v3.cpuid(7, 0, &AT);
    assert_eq!((seven.eax, seven.ebx, seven.ecx, seven.edx), (2, 0x23eb, 0, 0x2400_0010));
    assert_eq!(v3.cpuid(7, 1, &AT), CpuidResult::default());
    assert_eq!(v3.cpuid(7, 2, &AT), CpuidResult { edx: 0x10, ..CpuidResult::default() });
    assert_eq!(v3.cpuid(7, 3, &AT), CpuidResult::default());
    let extended = v3.cpuid(0x8000_0001, 0, &AT);
    assert_eq!((extended.ecx, extended.edx), (0x121, 0x2c10_0800));
    assert_eq!(v3.cpuid(0x8000_0007, 0, &AT).edx, 0x100);
}

#[test]
fn the_maximum_adds_what_the_engine_can_do() {
    let (v3, max) = (contract("v3-2026"), contract("max-2026"));
    let (one, seven) = (max.cpuid(1, 0, &AT), max.cpuid(7, 0, &AT));
    // PCID.
    assert_eq!((one.ecx, one.edx), (0xf7fa_3203, 0x1f8b_fbff));
    // INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA; UMIP, PKU, RDPID.
    assert_eq!(
        seven.ebx & !v3.cpuid(7, 0, &AT).ebx,
        1 << 10 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24 | 1 << 29
    );
    assert_eq!(seven.ecx, 1 << 2 | 1 << 3 | 1 << 22);
    assert_eq!(max.cpuid(7, 0, &CpuidInputs { cr4: cr4::PKE, ..AT }).ecx, seven.ecx | 1 << 4, "OSPKE");
    assert_eq!(max.cpuid(6, 0, &AT).eax, 1 << 2, "ARAT");
}

#[test]
fn levels_are_those_of_the_psabi() {
    use Feature::*;
    let (v2, v3) = (contract("v2-2026"), contract("v3-2026"));
    for feature in [Cx16, Lahf64, Popcnt, Sse3, Sse4_1, Sse4_2, Ssse3] {
        assert!(v2.has(feature), "{feature:?}");
    }
    for feature in [Avx, Avx2, Bmi1, Bmi2, F16c, Fma, Lzcnt, Movbe] {
        assert!(v3.has(feature) && !v2.has(feature), "{feature:?}");
    }
    for feature in [Smap, Pcid, Invpcid, La57, Mpx, Pku, Avx512f, Monitor, Vmx, Umip, Rtm, Hle] {
        assert!(!v3.has(feature), "{feature:?}");
    }
}

#[test]
fn the_processor_names_itself() {
    let v3 = contract("v3-2026");
    let vendor = v3.cpuid(0, 0, &AT);
    assert_eq!(text(&[vendor.ebx, vendor.edx, vendor.ecx]), "GenuineIntel");
    let hypervisor = v3.cpuid(0x4000_0000, 0, &AT);
    assert_eq!(text(&[hypervisor.ebx, hypervisor.ecx, hypervisor.edx]), "motumotumotu");
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| v3.cpuid(leaf, 0, &AT))
        .flat_map(|part| [part.eax, part.ebx, part.ecx, part.edx])
        .collect();
    assert_eq!(text(&brand).trim_end_matches('\0'), "motu v3-2026 virtual CPU");
    assert!(Contract::ALL.iter().all(|contract| contract.brand.len() < 48));
}

/// Programs that go by the model take for granted what the model has: GCC's `target_clones` with `arch=`, for one.
#[test]
fn a_contract_has_what_compilers_use_of_its_model() {
    use Feature::*;
    let nehalem = [Cx16, Popcnt, Sse3, Ssse3, Sse4_1, Sse4_2, Lahf64];
    let haswell =
        [&nehalem[..], &[Aes, Pclmul, Xsave, Avx, Avx2, Bmi1, Bmi2, Fma, F16c, Fsgsbase, Lzcnt, Movbe, Rdrand]]
            .concat();
    for contract in Contract::ALL {
        let signature = contract.cpuid(1, 0, &AT).eax;
        let (family, model) = (signature >> 8 & 0xf, (signature >> 4 & 0xf) | (signature >> 12 & 0xf0));
        let used = match (family, model) {
            (6, 0x1a) => &nehalem[..],
            (6, 0x3f) => &haswell,
            other => panic!("what does {other:x?} have?"),
        };
        assert!(used.iter().all(|&feature| contract.has(feature)), "{}", contract.name());
        // There is none of the models' AVX-512 or TSX to be had either.
        assert!(![Avx512f, Rtm, Hle].iter().any(|&feature| contract.has(feature)), "{}", contract.name());
    }
}

#[test]
fn the_tsc_counts_nanoseconds() {
    let v3 = contract("v3-2026");
    let tsc = v3.cpuid(0x15, 0, &AT);
    assert_eq!(u64::from(tsc.ecx) * u64::from(tsc.ebx) / u64::from(tsc.eax), TSC_HZ);
    assert_eq!(u64::from(tsc.ecx), APIC_TIMER_HZ);
    assert_eq!(v3.cpuid(0x16, 0, &AT).eax, 1000);
    let hypervisor = v3.cpuid(0x4000_0010, 0, &AT);
    assert_eq!((hypervisor.eax, hypervisor.ebx), (1_000_000, 25_000));
}

#[test]
fn flags_of_state_follow_the_state() {
    let v3 = contract("v3-2026");
    let on = CpuidInputs { cr4: cr4::OSXSAVE, ..AT };
    assert_eq!(v3.cpuid(1, 0, &on).ecx ^ v3.cpuid(1, 0, &AT).ecx, 1 << 27);
    let off = CpuidInputs { apic_enabled: false, ..AT };
    assert_eq!(v3.cpuid(1, 0, &off).edx ^ v3.cpuid(1, 0, &AT).edx, 1 << 9);
    let limited = CpuidInputs { misc_enable: 1 << 22, ..AT };
    assert_eq!((v3.cpuid(0, 0, &limited).eax, v3.cpuid(0, 0, &AT).eax), (2, 0x16));
    let no_nx = CpuidInputs { misc_enable: 1 << 34, ..AT };
    assert_eq!(v3.cpuid(0x8000_0001, 0, &no_nx).edx ^ v3.cpuid(0x8000_0001, 0, &AT).edx, 1 << 20);
    let alone = CpuidInputs { cpus: 1, ..AT };
    assert_eq!(v3.cpuid(1, 0, &alone).edx ^ v3.cpuid(1, 0, &AT).edx, 1 << 28);
}

#[test]
fn xsave_areas_have_the_standard_sizes() {
    let all = CpuidInputs { xcr0: 7, ..AT };
    let v3 = contract("v3-2026").cpuid(0xd, 0, &all);
    assert_eq!((v3.eax, v3.ebx, v3.ecx, v3.edx), (7, 832, 832, 0));
    assert_eq!(contract("v3-2026").cpuid(0xd, 0, &AT).ebx, 576);
    let v2 = contract("v2-2026").cpuid(0xd, 0, &CpuidInputs { xcr0: 3, ..AT });
    assert_eq!((v2.eax, v2.ebx, v2.ecx, v2.edx), (3, 576, 576, 0));
    assert_eq!(contract("v3-2026").cpuid(0xd, 1, &all), CpuidResult::default());
    assert_eq!(contract("v3-2026").cpuid(0xd, 2, &all), CpuidResult { eax: 256, ebx: 576, ecx: 0, edx: 0 });
    assert_eq!(contract("v2-2026").cpuid(0xd, 2, &all), CpuidResult::default());
    let max = contract("max-2026");
    let keys = CpuidInputs { xcr0: 0x207, ..AT };
    assert_eq!(max.cpuid(0xd, 0, &keys), CpuidResult { eax: 0x207, ebx: 2696, ecx: 2696, edx: 0 });
    assert_eq!((max.cpuid(0xd, 0, &all).ebx, max.cpuid(0xd, 0, &all).ecx), (832, 2696));
    assert_eq!(max.cpuid(0xd, 1, &keys), CpuidResult { eax: 0xf, ebx: 840, ecx: 0, edx: 0 });
    assert_eq!(max.cpuid(0xd, 9, &keys), CpuidResult { eax: 8, ebx: 2688, ecx: 0, edx: 0 });
    assert_eq!(contract("v3-2026").cpuid(0xd, 9, &all), CpuidResult::default());
}

#[test]
fn topology_is_one_package_of_single_threaded_cores() {
    let at = CpuidInputs { apic_id: 2, cpus: 3, ..AT };
    let v3 = contract("v3-2026");
    let levels: Vec<_> = (0..3).map(|level| v3.cpuid(0xb, level, &at)).collect();
    assert_eq!(levels[0], CpuidResult { eax: 0, ebx: 1, ecx: 0x100, edx: 2 });
    assert_eq!(levels[1], CpuidResult { eax: 2, ebx: 3, ecx: 0x201, edx: 2 });
    assert_eq!(levels[2], CpuidResult { eax: 0, ebx: 0, ecx: 2, edx: 2 });
    assert_eq!(v3.cpuid(1, 0, &at).ebx, 0x0204_0800);
}

#[test]
fn cache_sizes_come_out_of_leaf_4() {
    let sizes: Vec<_> = (0..5)
        .map(|index| contract("v3-2026").cpuid(4, index, &AT))
        .map(
            |one| if one.eax & 0x1f == 0 { 0 } else { ((one.ebx >> 22) + 1) * ((one.ebx & 0xfff) + 1) * (one.ecx + 1) },
        )
        .collect();
    assert_eq!(sizes, [32 << 10, 32 << 10, 256 << 10, 32 << 20, 0]);
    let third = contract("v3-2026").cpuid(4, 3, &AT).eax;
    assert_eq!((third >> 14 & 0xfff, third >> 26), (3, 3));
}

#[test]
fn a_leaf_out_of_range_reads_as_the_highest_basic_one() {
    let v3 = contract("v3-2026");
    for leaf in [0x17, 0x1234_5678, 0x8000_0009, 0xc000_0000, u32::MAX] {
        assert_eq!(v3.cpuid(leaf, 0, &AT), v3.cpuid(0x16, 0, &AT), "{leaf:#x}");
    }
    assert_eq!(v3.cpuid(0x4000_0100, 0, &AT), CpuidResult::default());
}

#[test]
fn every_leaf_that_says_something_is_listed() {
    let all = CpuidInputs { xcr0: u64::MAX, cr4: u64::MAX, ..AT };
    let ranges = (0..=0x16).chain(0x4000_0000..=0x4000_0010).chain(0x8000_0000..=0x8000_0008);
    for (leaf, subleaf) in ranges.flat_map(|leaf| (0..64).map(move |subleaf| (leaf, subleaf))) {
        let listed = LEAVES.iter().any(|one| (one.leaf, one.subleaf) == (leaf, subleaf));
        // Leaf 0xb tells the APIC ID and the sub-leaf for whatever sub-leaf; the rest have one answer for all.
        let of_others = !matches!(leaf, 4 | 7 | 0xb | 0xd) && subleaf > 0;
        for contract in Contract::ALL {
            let silent = contract.cpuid(leaf, subleaf, &all) == CpuidResult::default();
            assert!(listed || silent || of_others || leaf == 0xb, "{leaf:#x}.{subleaf}");
        }
    }
    assert!(LEAVES.is_sorted_by_key(|one| (one.leaf, one.subleaf)));
}

#[test]
fn no_reason_for_a_mitigation_is_left() {
    let told = contract("v3-2026").fixed_msr(msr::ARCH_CAPABILITIES).map_or(0, |fixed| fixed.value);
    for bit in [0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62] {
        assert_eq!(told >> bit & 1, 1, "bit {bit}");
    }
    // Linux from 2025 on does not take BHI_NO for an answer: without BHI_DIS_S it clears the branch
    // history with a loop at each system call.
    assert!(Contract::ALL.iter().all(|one| one.spec_ctrl_allowed() == 0x403));
    // RSBA, TSX_CTRL, RRSBA and RFDS_CLEAR each ask for a mitigation.
    for bit in [2, 7, 19, 28] {
        assert_eq!(told >> bit & 1, 0, "bit {bit}");
    }
}

#[test]
fn fixed_msrs_refuse_writes_unless_harmless() {
    let v2 = contract("v2-2026");
    let fixed = |number| v2.fixed_msr(number).map(|fixed| (fixed.value, fixed.write));
    assert_eq!(fixed(msr::MTRRCAP), Some((0x508, FixedWrite::Fault)));
    assert_eq!(fixed(msr::BIOS_SIGN_ID), Some((0xffff_ffff << 32, FixedWrite::Ignored)));
    // State of the engine, a command, RAPL, and CPUID faulting.
    for unknown in [msr::EFER, msr::PRED_CMD, 0x606, 0x140] {
        assert_eq!(fixed(unknown), None, "{unknown:#x}");
    }
}

#[test]
fn fixed_msrs_are_in_order() {
    assert!(Contract::FIXED_MSRS.is_sorted_by(|a, b| a.number < b.number));
    assert!(Contract::ALL.iter().all(|one| Contract::FIXED_MSRS.iter().all(|m| one.fixed_msr(m.number) == Some(m))));
}

#[test]
fn control_registers_follow_the_features() {
    let newer = cr4::SMAP | cr4::PCIDE | cr4::UMIP | cr4::PKE;
    for contract in Contract::ALL {
        let allowed = contract.cr4_allowed();
        let always = cr4::OSXSAVE | cr4::VME | cr4::PVI;
        assert_eq!(allowed & always, always);
        assert_eq!(allowed & newer, if contract.name() == "max-2026" { newer } else { 0 });
        assert_eq!(allowed & cr4::LA57, 0);
        assert_eq!(contract.efer_allowed(), 0xd01);
    }
}

#[test]
fn a_host_is_told_what_it_lacks() {
    let v3 = contract("v3-2026");
    let same = |leaf, subleaf| v3.cpuid(leaf, subleaf, &AT);
    assert_eq!(v3.missing_on(same, 7), []);
    // The system does not save the upper halves of YMM.
    assert_eq!(v3.missing_on(same, 3), [Feature::Fma, Feature::Avx, Feature::F16c, Feature::Avx2]);
    // What the engine does itself is not asked of the host: all but ADX and SHA.
    assert_eq!(contract("max-2026").missing_on(same, 7), [Feature::Adx, Feature::Sha]);
    let v2 = contract("v2-2026");
    let lower = |leaf, subleaf| v2.cpuid(leaf, subleaf, &AT);
    assert_eq!(v2.missing_on(lower, 0), []);
    assert!(v3.missing_on(lower, 7).contains(&Feature::Bmi2));
    // A processor of 1995 has no leaf 7, nor the extended leaves.
    let old = |leaf, _| if leaf == 0 { CpuidResult { eax: 1, ..Default::default() } } else { CpuidResult::default() };
    assert!(!Feature::BhiCtrl.is_in(old));
    assert!(v2.missing_on(old, 0).contains(&Feature::Lahf64));
}

proptest! {
    #[test]
    fn any_leaf_answers(leaf: u32, subleaf: u32, apic_id: u32, cpus: u32, xcr0: u64) {
        let at = CpuidInputs { apic_id, cpus, xcr0, ..AT };
        for contract in Contract::ALL {
            for leaf in [leaf, leaf & 0x1f, 0x8000_0000 | leaf & 0xf] {
                prop_assert_eq!(contract.cpuid(leaf, subleaf, &at), contract.cpuid(leaf, subleaf, &at));
                contract.cpuid(leaf, subleaf & 7, &at);
            }
        }
    }
}
