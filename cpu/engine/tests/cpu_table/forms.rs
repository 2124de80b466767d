//! Instruction forms, grouped by the CPUID features that they need.

use crate::markdown::{list, table};
use iced_x86::{CpuidFeature, Mnemonic};
use motu_engine::inventory::{self, DEVIATIONS, Foreign, Inventory, Standing, Subject};
use motu_x86::contract::Contract;
use std::collections::{BTreeMap, BTreeSet};

const MODES: [u32; 3] = [16, 32, 64];

/// How a form stands under each contract, in code of one size.
type Standings = Vec<Standing>;

/// The features that a form needs, in the order in which decoders name them.
type Features = Vec<CpuidFeature>;

/// A mnemonic's forms that stand alike.
#[derive(Default)]
struct Row {
    /// By the decoder's number: the opcode, and the sizes of code.
    forms: BTreeMap<u16, (String, BTreeSet<u32>)>,
}

impl Row {
    fn modes(&self) -> BTreeSet<u32> {
        self.forms.values().flat_map(|(_, modes)| modes).copied().collect()
    }

    /// The opcodes, with their sizes of code where they are not the row's.
    fn opcodes(&self) -> String {
        let all = self.modes();
        let each = self.forms.values().map(|(opcode, modes)| {
            if *modes == all { format!("`{opcode}`") } else { format!("`{opcode}` ({})", spaced(modes)) }
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Default)]
struct Tables {
    /// Of each group, by mnemonic and standing.
    groups: BTreeMap<Features, BTreeMap<(String, Standings), Row>>,
    foreign: BTreeMap<Foreign, BTreeMap<String, u32>>,
}

fn inventory() -> Inventory {
    Inventory::new().expect("the host gives memory for code")
}

fn name(mnemonic: Mnemonic) -> String {
    format!("{mnemonic:?}").to_uppercase()
}

fn collect() -> Tables {
    let mut inventory = inventory();
    let mut tables = Tables::default();
    for code in inventory::forms() {
        if let Some(why) = inventory::foreign(code) {
            *tables.foreign.entry(why).or_default().entry(name(code.mnemonic())).or_default() += 1;
            continue;
        }
        let group = tables.groups.entry(code.cpuid_features().to_vec()).or_default();
        for bits in MODES {
            let standings: Standings = Contract::ALL.iter().map(|one| inventory.standing(code, bits, one)).collect();
            if standings.iter().all(|&standing| standing == Standing::NotInMode) {
                continue;
            }
            let row = group.entry((name(code.mnemonic()), standings)).or_default();
            let opcode = || (code.op_code().op_code_string().to_owned(), BTreeSet::new());
            row.forms.entry(code as u16).or_insert_with(opcode).1.insert(bits);
        }
    }
    tables.groups.retain(|_, rows| !rows.is_empty());
    tables
}

/// What a contract has and the engine has not.
pub fn missing() -> Vec<String> {
    let mut inventory = inventory();
    let mut found = Vec::new();
    for code in inventory::forms().filter(|&code| inventory::foreign(code).is_none()) {
        for (bits, contract) in MODES.iter().flat_map(|&bits| Contract::ALL.iter().map(move |one| (bits, one))) {
            if inventory.standing(code, bits, contract) == Standing::Missing {
                found.push(format!("{code:?} in {bits}-bit code of {}", contract.name()));
            }
        }
    }
    found
}

pub fn tables() -> String {
    let tables = collect();
    let claimed = |rows: &BTreeMap<(String, Standings), Row>| rows.keys().any(|(_, standings)| !is_nowhere(standings));
    let (had, lacked): (Vec<_>, Vec<_>) = tables.groups.iter().partition(|(_, rows)| claimed(rows));
    let mut text = format!(
        "## Instructions\n\nEach form that decoders know, as its opcode in the SDM's notation (vol. 2, 3.1.1.1), and the \
         sizes of code in which it is: the row's, but where others stand behind it. Forms that need several features stand under all of them together. {} forms are in a \
         contract.\n\n",
        had.iter().flat_map(|(_, rows)| rows.iter()).map(|(_, row)| row.forms.len()).sum::<usize>()
    );
    for (features, rows) in had {
        let cells = rows.iter().map(|((mnemonic, standings), row)| {
            [mnemonic.clone(), spaced(&row.modes()), row.opcodes(), status(mnemonic, standings)]
        });
        text += &format!("### {}\n\n{}", title(features), table(["instruction", "code", "forms", "status"], cells));
    }
    let rows = lacked.into_iter().map(|(features, rows)| {
        let mut mnemonics: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
        for ((mnemonic, _), row) in rows {
            mnemonics.entry(mnemonic).or_default().extend(row.forms.keys());
        }
        let forms: usize = mnemonics.values().map(BTreeSet::len).sum();
        let names: Vec<_> = mnemonics.keys().copied().collect();
        [title(features), forms.to_string(), names.join(" "), "#UD by contract".to_owned()]
    });
    text += &format!(
        "### In no contract\n\nThe feature is absent from every contract, so all forms are #UD in all modes.\n\n{}",
        table(["feature", "forms", "instructions", "status"], rows)
    );
    text += &format!("### Not forms of this processor\n\n{}", foreign(&tables.foreign));
    text
}

fn foreign(all: &BTreeMap<Foreign, BTreeMap<String, u32>>) -> String {
    let rows = all.iter().map(|(why, mnemonics)| {
        let why = match why {
            Foreign::TwoInstructions => "two instructions for the processor: WAIT, and the one without it",
            Foreign::OtherProcessor => "a meaning of the bytes on some other or older processor only",
        };
        let names: Vec<_> = mnemonics.keys().map(String::as_str).collect();
        [why.to_owned(), mnemonics.values().sum::<u32>().to_string(), names.join(" ")]
    });
    table(["why", "forms", "instructions"], rows)
}

fn is_nowhere(standings: &Standings) -> bool {
    standings.iter().all(|standing| matches!(standing, Standing::NotInContract | Standing::NotInMode))
}

fn spaced(modes: &BTreeSet<u32>) -> String {
    modes.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// The features by the decoder's names, the old processors by Intel's.
fn title(features: &Features) -> String {
    let names: Vec<_> = features
        .iter()
        .map(|feature| match feature {
            CpuidFeature::INTEL8086 => "8086".to_owned(),
            CpuidFeature::INTEL186 => "80186".to_owned(),
            CpuidFeature::INTEL286 => "80286".to_owned(),
            CpuidFeature::INTEL386 => "Intel386".to_owned(),
            CpuidFeature::INTEL486 => "Intel486".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    list(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn status(mnemonic: &str, standings: &Standings) -> String {
    let contracts_with = |wanted: Standing| -> Vec<&str> {
        let each = Contract::ALL.iter().zip(standings);
        each.filter(|(_, standing)| **standing == wanted).map(|(contract, _)| contract.name()).collect()
    };
    let done = contracts_with(Standing::Done);
    let mut parts = Vec::new();
    if let Some(reason) = deviation(mnemonic).filter(|_| !done.is_empty()) {
        parts.push(format!("deviation: {reason}"));
    } else if done.len() == standings.len() {
        parts.push("done".to_owned());
    } else if !done.is_empty() {
        parts.push(format!("done in {}", list(&done)));
    }
    let mut kinds = standings.clone();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        let names = list(&contracts_with(kind));
        match kind {
            Standing::NotInContract => parts.push(format!("#UD by contract in {names}")),
            Standing::RunsAs(other) => parts.push(format!("{} in {names}, as on processors without it", name(other))),
            Standing::Missing => parts.push(format!("missing in {names}")),
            Standing::Done | Standing::NotInMode => {}
        }
    }
    parts.join("; ")
}

fn deviation(mnemonic: &str) -> Option<&'static str> {
    DEVIATIONS.iter().find_map(|deviation| match deviation.of {
        Subject::Instructions(of) if of.iter().any(|&one| name(one) == mnemonic) => Some(deviation.reason),
        _ => None,
    })
}
