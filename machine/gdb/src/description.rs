//! What gdb is told of the registers: names, sizes and order of gdb's own features are those of its sources'
//! `features/i386/*.xml`, which it insists on; those of [`SYSTEM`] are QEMU's names.

use crate::registers::{Place, Seg, X87};
use std::sync::LazyLock;

/// One register.
#[derive(Clone, Debug)]
pub struct Register {
    pub name: String,
    pub place: Place,
    pub bits: usize,
    kind: &'static str,
}

impl Register {
    pub fn bytes(&self) -> usize {
        self.bits / 8
    }
}

/// Registers that belong together, and the types that are theirs.
struct Feature {
    name: &'static str,
    types: String,
    registers: Vec<Register>,
}

fn register(name: impl Into<String>, place: Place, bits: usize, kind: &'static str) -> Register {
    Register { name: name.into(), place, bits, kind }
}

fn flags(id: &str, bytes: usize, bits: &[(&str, u32)]) -> String {
    let field = |(name, bit): &(&str, u32)| format!("<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
    let fields: String = bits.iter().map(field).collect();
    format!("<flags id=\"{id}\" size=\"{bytes}\">{fields}</flags>")
}

const GENERAL: [(&str, usize); 16] = [
    ("rax", 0),
    ("rbx", 3),
    ("rcx", 1),
    ("rdx", 2),
    ("rsi", 6),
    ("rdi", 7),
    ("rbp", 5),
    ("rsp", 4),
    ("r8", 8),
    ("r9", 9),
    ("r10", 10),
    ("r11", 11),
    ("r12", 12),
    ("r13", 13),
    ("r14", 14),
    ("r15", 15),
];

const EFLAGS: [(&str, u32); 17] = [
    ("CF", 0),
    ("", 1),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("NT", 14),
    ("RF", 16),
    ("VM", 17),
    ("AC", 18),
    ("VIF", 19),
    ("VIP", 20),
    ("ID", 21),
];

fn core() -> Feature {
    let mut registers: Vec<_> = GENERAL
        .into_iter()
        .map(|(name, n)| register(name, Place::General(n), 64, if matches!(n, 4 | 5) { "data_ptr" } else { "int64" }))
        .collect();
    registers.push(register("rip", Place::Rip, 64, "code_ptr"));
    registers.push(register("eflags", Place::Rflags, 32, "i386_eflags"));
    let selectors =
        [("cs", Seg::Cs), ("ss", Seg::Ss), ("ds", Seg::Ds), ("es", Seg::Es), ("fs", Seg::Fs), ("gs", Seg::Gs)];
    registers.extend(selectors.map(|(name, seg)| register(name, Place::Selector(seg), 32, "int32")));
    registers.extend((0..8).map(|n| register(format!("st{n}"), Place::Stack(n), 80, "i387_ext")));
    let control = [
        ("fctrl", X87::Control),
        ("fstat", X87::Status),
        ("ftag", X87::Tag),
        ("fiseg", X87::InstructionSegment),
        ("fioff", X87::InstructionOffset),
        ("foseg", X87::OperandSegment),
        ("fooff", X87::OperandOffset),
        ("fop", X87::Opcode),
    ];
    registers.extend(control.map(|(name, part)| register(name, Place::X87(part), 32, "int")));
    Feature { name: "org.gnu.gdb.i386.core", types: flags("i386_eflags", 4, &EFLAGS), registers }
}

fn sse() -> Feature {
    let lanes = [
        ("v4f", "ieee_single", 4, "v4_float"),
        ("v2d", "ieee_double", 2, "v2_double"),
        ("v16i8", "int8", 16, "v16_int8"),
        ("v8i16", "int16", 8, "v8_int16"),
        ("v4i32", "int32", 4, "v4_int32"),
        ("v2i64", "int64", 2, "v2_int64"),
    ];
    let vectors: String = lanes
        .iter()
        .map(|(id, of, count, _)| format!("<vector id=\"{id}\" type=\"{of}\" count=\"{count}\"/>"))
        .collect();
    let fields: String =
        lanes.iter().map(|(id, _, _, field)| format!("<field name=\"{field}\" type=\"{id}\"/>")).collect();
    let mxcsr = [
        ("IE", 0),
        ("DE", 1),
        ("ZE", 2),
        ("OE", 3),
        ("UE", 4),
        ("PE", 5),
        ("DAZ", 6),
        ("IM", 7),
        ("DM", 8),
        ("ZM", 9),
        ("OM", 10),
        ("UM", 11),
        ("PM", 12),
        ("FZ", 15),
    ];
    let types = format!(
        "{vectors}<union id=\"vec128\">{fields}<field name=\"uint128\" type=\"uint128\"/></union>{}",
        flags("i386_mxcsr", 4, &mxcsr)
    );
    let mut registers: Vec<_> = (0..16).map(|n| register(format!("xmm{n}"), Place::Xmm(n), 128, "vec128")).collect();
    registers.push(register("mxcsr", Place::Mxcsr, 32, "i386_mxcsr"));
    Feature { name: "org.gnu.gdb.i386.sse", types, registers }
}

fn avx() -> Feature {
    let registers = (0..16).map(|n| register(format!("ymm{n}h"), Place::YmmHigh(n), 128, "uint128")).collect();
    Feature { name: "org.gnu.gdb.i386.avx", types: String::new(), registers }
}

fn segments() -> Feature {
    let bases = [("fs_base", Seg::Fs), ("gs_base", Seg::Gs)];
    let registers = bases.map(|(name, seg)| register(name, Place::Base(seg), 64, "int")).into();
    Feature { name: "org.gnu.gdb.i386.segments", types: String::new(), registers }
}

/// The name of the feature that gdb knows nothing of.
const SYSTEM: &str = "org.motu.system";

fn system() -> Feature {
    let cr0 = [
        ("PE", 0),
        ("MP", 1),
        ("EM", 2),
        ("TS", 3),
        ("ET", 4),
        ("NE", 5),
        ("WP", 16),
        ("AM", 18),
        ("NW", 29),
        ("CD", 30),
        ("PG", 31),
    ];
    let cr4 = [
        ("VME", 0),
        ("PVI", 1),
        ("TSD", 2),
        ("DE", 3),
        ("PSE", 4),
        ("PAE", 5),
        ("MCE", 6),
        ("PGE", 7),
        ("PCE", 8),
        ("OSFXSR", 9),
        ("OSXMMEXCPT", 10),
        ("UMIP", 11),
        ("FSGSBASE", 16),
        ("PCIDE", 17),
        ("OSXSAVE", 18),
        ("SMEP", 20),
        ("SMAP", 21),
        ("PKE", 22),
    ];
    let efer = [("SCE", 0), ("LME", 8), ("LMA", 10), ("NXE", 11)];
    let types = [flags("x86_cr0", 8, &cr0), flags("x86_cr4", 8, &cr4), flags("x86_efer", 8, &efer)].concat();
    let registers = vec![
        register("k_gs_base", Place::KernelGsBase, 64, "int"),
        register("cr0", Place::Cr0, 64, "x86_cr0"),
        register("cr2", Place::Cr2, 64, "int"),
        register("cr3", Place::Cr3, 64, "int"),
        register("cr4", Place::Cr4, 64, "x86_cr4"),
        register("cr8", Place::Cr8, 64, "int"),
        register("efer", Place::Efer, 64, "x86_efer"),
    ];
    Feature { name: SYSTEM, types, registers }
}

/// All registers in gdb's order, and what tells gdb of them.
pub struct Table {
    pub registers: Vec<Register>,
    pub xml: String,
    /// Of all registers.
    pub bytes: usize,
    /// Where RIP is among them.
    pub rip: usize,
}

impl Table {
    fn new() -> Self {
        let features = [core(), sse(), avx(), segments(), system()];
        let mut xml = String::from(
            "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
             <architecture>i386:x86-64</architecture>",
        );
        for feature in &features {
            xml += &format!("<feature name=\"{}\">{}", feature.name, feature.types);
            for Register { name, bits, kind, .. } in &feature.registers {
                xml += &format!("<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
            }
            xml += "</feature>";
        }
        xml += "</target>";
        let registers: Vec<_> = features.into_iter().flat_map(|feature| feature.registers).collect();
        let bytes = registers.iter().map(Register::bytes).sum();
        let rip = registers.iter().take_while(|register| register.place != Place::Rip).map(Register::bytes).sum();
        Self { registers, xml, bytes, rip }
    }
}

pub static TABLE: LazyLock<Table> = LazyLock::new(Table::new);
