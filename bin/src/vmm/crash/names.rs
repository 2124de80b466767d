//! What the bits of registers are called, for a person.

use motu_x86::Segment;
use motu_x86::flags::{cr0, cr4, efer, rflags};

type Names = [(u64, &'static str)];

/// Intel SDM vol. 1, 3.4.3.
pub const RFLAGS: &Names = &[
    (rflags::CF, "CF"),
    (rflags::PF, "PF"),
    (rflags::AF, "AF"),
    (rflags::ZF, "ZF"),
    (rflags::SF, "SF"),
    (rflags::TF, "TF"),
    (rflags::IF, "IF"),
    (rflags::DF, "DF"),
    (rflags::OF, "OF"),
    (rflags::NT, "NT"),
    (rflags::RF, "RF"),
    (rflags::VM, "VM"),
    (rflags::AC, "AC"),
    (rflags::VIF, "VIF"),
    (rflags::VIP, "VIP"),
    (rflags::ID, "ID"),
];

/// Intel SDM vol. 3, 2.5.
pub const CR0: &Names = &[
    (cr0::PE, "PE"),
    (cr0::MP, "MP"),
    (cr0::EM, "EM"),
    (cr0::TS, "TS"),
    (cr0::ET, "ET"),
    (cr0::NE, "NE"),
    (cr0::WP, "WP"),
    (cr0::AM, "AM"),
    (cr0::NW, "NW"),
    (cr0::CD, "CD"),
    (cr0::PG, "PG"),
];

/// Intel SDM vol. 3, 2.5.
pub const CR4: &Names = &[
    (cr4::VME, "VME"),
    (cr4::PVI, "PVI"),
    (cr4::TSD, "TSD"),
    (cr4::DE, "DE"),
    (cr4::PSE, "PSE"),
    (cr4::PAE, "PAE"),
    (cr4::MCE, "MCE"),
    (cr4::PGE, "PGE"),
    (cr4::PCE, "PCE"),
    (cr4::OSFXSR, "OSFXSR"),
    (cr4::OSXMMEXCPT, "OSXMMEXCPT"),
    (cr4::UMIP, "UMIP"),
    (cr4::LA57, "LA57"),
    (cr4::FSGSBASE, "FSGSBASE"),
    (cr4::PCIDE, "PCIDE"),
    (cr4::OSXSAVE, "OSXSAVE"),
    (cr4::SMEP, "SMEP"),
    (cr4::SMAP, "SMAP"),
    (cr4::PKE, "PKE"),
];

/// Intel SDM vol. 3, 2.2.1.
pub const EFER: &Names = &[(efer::SCE, "SCE"), (efer::LME, "LME"), (efer::LMA, "LMA"), (efer::NXE, "NXE")];

/// Names of the bits that are set in `value`, with a blank in front of each.
pub fn set(value: u64, names: &Names) -> String {
    names.iter().filter(|(bit, _)| value & bit != 0).flat_map(|(_, name)| [" ", name]).collect()
}

/// What kind of segment it is, as its hidden part says (SDM vol. 3, 3.4.5 and 3.5).
pub fn segment(segment: &Segment) -> String {
    const CODE: u32 = 1 << 3;
    /// Conforming for code, expand-down for data.
    const SPECIAL: u32 = 1 << 2;
    /// Readable for code, writable for data.
    const MORE: u32 = 1 << 1;
    const BUSY: u32 = 1 << 1;
    let kind = segment.kind();
    if segment.attributes & Segment::UNUSABLE != 0 {
        return "null".into();
    }
    let present = if segment.attributes & Segment::PRESENT == 0 { ", not present" } else { "" };
    if segment.attributes & Segment::S == 0 {
        let name = match kind & !BUSY {
            0x0 => "LDT",
            0x1 => "16-bit TSS",
            0x9 => "TSS",
            _ => return format!("system type {kind:#x}{present}"),
        };
        return format!("{name}{present}");
    }
    let bits = match (segment.attributes & Segment::L != 0, segment.attributes & Segment::DB != 0) {
        (true, _) if kind & CODE != 0 => 64,
        (_, true) => 32,
        (_, false) => 16,
    };
    let (name, special, rights) = match (kind & CODE != 0, kind & MORE != 0) {
        (true, true) => ("code", "conforming", "read/execute"),
        (true, false) => ("code", "conforming", "execute"),
        (false, true) => ("data", "expand-down", "read/write"),
        (false, false) => ("data", "expand-down", "read"),
    };
    let special = if kind & SPECIAL != 0 { format!(" {special}") } else { String::new() };
    format!("{bits}-bit{special} {name}, {rights}, DPL {}{present}", segment.dpl())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_named_in_their_order() {
        assert_eq!(set(cr0::PG | cr0::PE | cr0::WP, CR0), " PE WP PG");
        assert_eq!(set(rflags::FIXED_1, RFLAGS), "");
    }

    #[test]
    fn segments_are_what_their_type_says() {
        let with = |attributes| segment(&Segment { attributes, ..Segment::null() });
        assert_eq!(segment(&Segment::flat_code(8, true)), "64-bit code, read/execute, DPL 0");
        assert_eq!(segment(&Segment::flat_data(16)), "32-bit data, read/write, DPL 0");
        assert_eq!(segment(&Segment::null()), "null");
        assert_eq!(with(0x93), "16-bit data, read/write, DPL 0");
        assert_eq!(with(0x7c | Segment::DB), "32-bit conforming code, execute, DPL 3, not present");
        assert_eq!(with(0x95), "16-bit expand-down data, read, DPL 0");
        assert_eq!(with(0x82), "LDT");
        assert_eq!(with(0x8b), "TSS");
        assert_eq!(with(0x83), "16-bit TSS");
        assert_eq!(with(0x8c), "system type 0xc");
    }
}
