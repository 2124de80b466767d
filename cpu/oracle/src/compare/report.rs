//! Mismatches, grouped for a person who has to mend them.

use super::difference::{self, Difference};
use super::{Outcome, amd, undefined};
use crate::End;
use crate::cases::Case;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Mismatches of one mnemonic that are described in full, each of another kind.
const DESCRIBED: usize = 3;
/// Mnemonics that are named for one kind of mismatch.
const NAMED: usize = 12;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that ran on both CPUs.
    pub cases: u64,
    /// Cases of those in which the host's instruction retired.
    pub retired: u64,
    /// Cases that the other CPU ran translated.
    pub translated: u64,
    /// Case numbers for which no harmless case was found.
    pub not_made: u64,
    /// Cases in which the host differs in a way that is its vendor's own.
    pub vendors_own: u64,
    pub mismatches: u64,
    /// By mnemonic.
    pub groups: BTreeMap<String, Group>,
    /// By what differs: how often, and the mnemonics.
    pub kinds: BTreeMap<String, (u64, BTreeSet<String>)>,
}

/// The mismatches of one mnemonic.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub count: u64,
    /// By kind, the first of some of them described.
    pub first: BTreeMap<String, String>,
}

impl Report {
    /// Counts a case; `same_windows` says that the parts of the windows that matter are equal.
    pub(super) fn count(&mut self, case: &Case, outcomes: &[Outcome<'_>; 2], same_windows: bool) {
        self.cases += 1;
        self.retired += u64::from(outcomes[0].end == End::Ok);
        let [host, other] = outcomes;
        if same_windows && difference::are_equal(host, other) {
            return;
        }
        let differences = difference::find(case, host, other);
        if differences.is_empty() {
            return;
        }
        if amd::is_the_host() && amd::is_its_way(case, &differences, host, other) {
            self.vendors_own += 1;
            return;
        }
        self.mismatches += 1;
        let mnemonic = format!("{:?}", case.instruction().mnemonic());
        let mut kinds: Vec<_> = differences.iter().map(Difference::kind).collect();
        kinds.dedup();
        let kind = kinds.join(", ");
        let entry = self.kinds.entry(kind.clone()).or_default();
        entry.0 += 1;
        entry.1.insert(mnemonic.clone());
        let group = self.groups.entry(mnemonic).or_default();
        group.count += 1;
        if group.first.len() < DESCRIBED {
            group.first.entry(kind).or_insert_with(|| describe(case, &differences));
        }
    }
}

fn describe(case: &Case, differences: &[Difference]) -> String {
    let bytes: Vec<_> = case.code().iter().map(|b| format!("{b:02x}")).collect();
    let instruction = case.instruction();
    let mut text = format!(
        "seed {} case {}: {instruction} ({:?})\n  bytes {}",
        case.seed,
        case.number,
        instruction.code(),
        bytes.join(" ")
    );
    for difference in differences {
        text += &format!("\n  {difference}");
    }
    let open = undefined::of(case);
    if open.flags != 0 {
        text += &format!("\n  flags not compared: {:#x}", open.flags);
    }
    text += "\n  before:\n";
    text += &difference::describe(&case.before);
    text + &operands(case)
}

/// The operands that show in no other line: vector registers, memory.
fn operands(case: &Case) -> String {
    let instruction = case.instruction();
    let mut text = String::new();
    for operand in 0..instruction.op_count() {
        let register = instruction.op_register(operand);
        if register.is_vector_register() {
            let value = case.before.ymm(register.number());
            text += &format!("\n  {register:?} before: {}", difference::number(&value));
        } else if register.is_st() || register.is_mm() {
            text += &format!("\n  {register:?} before: {}", difference::number(&case.before.st(register.number())));
        }
    }
    if let Some(address) = crate::cases::operand::explicit_address(instruction, &case.before) {
        text += &format!("\n  operand at {address:#x}");
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
        for (mnemonic, group) in &groups {
            writeln!(f, "{mnemonic}: {} mismatches", group.count)?;
            for case in group.first.values() {
                writeln!(f, "{case}\n")?;
            }
        }
        for (mnemonic, group) in &groups {
            writeln!(f, "{mnemonic}: {} mismatches", group.count)?;
        }
        writeln!(f)?;
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (kind, (count, mnemonics)) in kinds {
            let named: Vec<_> = mnemonics.iter().take(NAMED).map(String::as_str).collect();
            let more = if mnemonics.len() > NAMED { " ..." } else { "" };
            writeln!(f, "{count} of kind \"{kind}\" in {} mnemonics: {}{more}", mnemonics.len(), named.join(" "))?;
        }
        write!(
            f,
            "{} cases compared, {} retired, {} raised an exception, {} not made; {} mismatches",
            self.cases,
            self.retired,
            self.cases - self.retired,
            self.not_made,
            self.mismatches
        )
    }
}
