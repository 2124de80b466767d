//! Every MSR, with what RDMSR and WRMSR do.

use crate::lapic::{Lapic, Moment, X2APIC_NAMES};
use crate::msr::Rule;
use motu_x86::contract::{Contract, Feature, FixedWrite};
use motu_x86::{Nanos, msr};

/// An MSR, or several in a row that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsrRow {
    pub first: u32,
    pub last: u32,
    /// As the SDM calls it.
    pub name: &'static str,
    /// What the contract must have; without it any access is #GP(0).
    pub needs: Option<Feature>,
    /// What RDMSR gives.
    pub read: String,
    /// What WRMSR does.
    pub write: String,
}

/// Every MSR that exists, in the order of numbers; any other is #GP(0).
pub fn msrs() -> Vec<MsrRow> {
    let fixed = Contract::FIXED_MSRS.iter().map(|msr| MsrRow {
        first: msr.number,
        last: msr.number,
        name: msr.name,
        needs: None,
        read: format!("always {:#x}", msr.value),
        write: if msr.write == FixedWrite::Ignored { "ignored".into() } else { "#GP(0)".into() },
    });
    let state = crate::msr::STATE.iter().map(|msr| MsrRow {
        first: msr.first,
        last: msr.last,
        name: msr.name,
        needs: msr.needs,
        read: if msr.is_readable() { "its state".into() } else { "#GP(0)".into() },
        write: match msr.rule {
            _ if !msr.is_writable() => "#GP(0)".into(),
            Rule::Any => msr.rule.to_string(),
            rule => format!("{rule}, else #GP(0)"),
        },
    });
    let mut rows: Vec<_> = fixed.chain(state).collect();
    rows.sort_by_key(|row| row.first);
    rows
}

/// The MSRs of x2APIC mode, as an APIC answers that is tried: which of them can be read, and which bits can
/// be written.
pub fn x2apic() -> Vec<MsrRow> {
    let at = Moment { now: Nanos(0), tsc: 0 };
    let apic = |contract| {
        let mut lapic = Lapic::new(0, contract);
        // The base of a boot processor with EN and EXTD.
        lapic.msr_write(msr::APIC_BASE, 0xfee0_0d00, at).map(|_| lapic)
    };
    let Some(lapic) = Contract::ALL.iter().find_map(|contract| apic(contract).ok()) else { return Vec::new() };
    let row = |&(first, last, name): &(u32, u32, &'static str)| {
        let number = msr::X2APIC_FIRST + first;
        let takes = |value: u64| lapic.clone().msr_write(number, value, at).is_ok();
        let bits = (0..64).map(|bit| 1 << bit).filter(|&bit| takes(bit)).fold(0u64, |bits, bit| bits | bit);
        MsrRow {
            first: number,
            last: msr::X2APIC_FIRST + last,
            name,
            needs: Some(Feature::X2apic),
            read: if lapic.clone().msr_read(number, at).is_ok() { "its state".into() } else { "#GP(0)".into() },
            write: match bits {
                _ if !takes(0) => "#GP(0)".into(),
                0 => "zero, else #GP(0)".into(),
                bits => format!("bits {bits:#x} only, else #GP(0)"),
            },
        }
    };
    X2APIC_NAMES.iter().map(row).collect()
}
