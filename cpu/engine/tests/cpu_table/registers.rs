//! Contracts, MSRs and CPUID leaves.

use crate::markdown::{list, table};
use motu_engine::inventory::{self, DEVIATIONS, MsrRow, Subject};
use motu_x86::contract::{Contract, CpuidInputs, CpuidResult, Feature, LEAVES, Provider};

/// One processor, its control registers as after reset.
const AT_RESET: CpuidInputs = CpuidInputs { apic_id: 0, cpus: 1, cr4: 0, misc_enable: 0, xcr0: 1, apic_enabled: true };

/// Which contracts have a feature, and what is true of no form and no register alone.
pub fn contracts() -> String {
    let names: Vec<_> = Contract::ALL.iter().map(Contract::name).collect();
    let rows = Feature::ALL.iter().map(|&feature| {
        let place = feature.place();
        let subleaf = if place.subleaf > 0 { format!(".{}", place.subleaf) } else { String::new() };
        let has = |contract: &Contract| if contract.has(feature) { "yes" } else { "" }.to_owned();
        let by = match place.provider {
            Provider::Host => "the host's own instructions",
            Provider::Engine => "the engine",
            Provider::Hint => "a hint",
        };
        [
            format!("{feature:?}"),
            format!("{:#x}{subleaf} {:?}[{}]", place.leaf, place.register, place.bit),
            by.to_owned(),
            has(&Contract::ALL[0]),
            has(&Contract::ALL[1]),
            has(&Contract::ALL[2]),
        ]
    });
    let head = ["feature", "CPUID", "comes from", names[0], names[1], names[2]];
    let deviations = DEVIATIONS.iter().filter_map(|deviation| match deviation.of {
        Subject::Processor(what) => Some([what.to_owned(), deviation.reason.to_owned()]),
        Subject::Instructions(_) | Subject::Msr(_) => None,
    });
    format!(
        "## Contracts\n\nWithout `--cpu` a machine has the first that its host can keep. What comes from the host's own \
         instructions has to be in the host's CPU too; all else runs on any.\n\n{}\
         ## Deviations that are not one instruction's\n\n{}",
        table(head, rows),
        table(["what", "how it is, and why"], deviations)
    )
}

fn deviation_of(first: u32, last: u32) -> Option<&'static str> {
    DEVIATIONS.iter().find_map(|deviation| match deviation.of {
        Subject::Msr(number) if (first..=last).contains(&number) => Some(deviation.reason),
        _ => None,
    })
}

pub fn msrs() -> String {
    let head = ["MSR", "name", "RDMSR", "WRMSR takes", "status"];
    format!(
        "## MSRs\n\nAny other is #GP(0), as are both instructions outside ring 0.\n\n{}\
         ### The local APIC in x2APIC mode\n\nIn the other modes they are #GP(0).\n\n{}",
        table(head, msr_rows(inventory::msrs())),
        table(head, msr_rows(inventory::x2apic()))
    )
}

fn msr_rows(rows: Vec<MsrRow>) -> impl Iterator<Item = [String; 5]> {
    rows.into_iter().map(|row| {
        let numbers = if row.first == row.last {
            format!("{:#x}", row.first)
        } else {
            format!("{:#x} to {:#x}", row.first, row.last)
        };
        let lacking: Vec<_> =
            Contract::ALL.iter().filter(|one| row.needs.is_some_and(|needed| !one.has(needed))).collect();
        let mut status = match deviation_of(row.first, row.last) {
            Some(reason) => format!("deviation: {reason}"),
            None => "done".to_owned(),
        };
        if !lacking.is_empty() {
            let names: Vec<_> = lacking.iter().map(|one| one.name()).collect();
            status += &format!("; #GP(0) in {}", list(&names));
        }
        [numbers, row.name.to_owned(), row.read, row.write, status]
    })
}

pub fn cpuid() -> String {
    let rows = LEAVES.iter().map(|one| {
        let several = LEAVES.iter().filter(|other| other.leaf == one.leaf).count() > 1;
        let number = if several { format!("{:#x}.{}", one.leaf, one.subleaf) } else { format!("{:#x}", one.leaf) };
        let answers: Vec<_> =
            Contract::ALL.iter().map(|c| (c.name(), c.cpuid(one.leaf, one.subleaf, &AT_RESET))).collect();
        [number, one.tells.to_owned(), answer(&answers), "done".to_owned()]
    });
    format!(
        "## CPUID\n\nEAX, EBX, ECX and EDX of a machine's only processor, its control registers as after reset. Past \
         the highest leaf of either range the highest basic leaf answers; sub-leaves that are not here are zero, but for leaf \
         0xb, which tells the APIC ID in all.\n\n{}",
        table(["leaf", "tells", "answers", "status"], rows)
    )
}

/// One answer where all contracts agree.
fn answer(answers: &[(&str, CpuidResult)]) -> String {
    let text = |found: &CpuidResult| match found {
        CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 } => "0".to_owned(),
        found => format!("{:08x} {:08x} {:08x} {:08x}", found.eax, found.ebx, found.ecx, found.edx),
    };
    match answers {
        [(_, first), rest @ ..] if rest.iter().all(|(_, other)| other == first) => text(first),
        all => all.iter().map(|(name, found)| format!("{name}: {}", text(found))).collect::<Vec<_>>().join("<br>"),
    }
}
