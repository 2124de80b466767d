//! gdb's `monitor` command: what QEMU's users type there, as far as it is of use.

use crate::memory::View;
use crate::target::Debuggee;
use motu_x86::{Activity, CpuState, DescriptorTable, Segment};
use std::fmt::Write;

const HELP: &str = "\
help             shows this
info cpus        shows what each CPU does
info registers   shows the registers of all CPUs
gva2gpa ADDRESS  shows the physical address of a virtual one
system_reset     resets the machine, which stays paused
quit             ends the machine; so does gdb's kill
";

/// What `command` has to say.
pub fn answer(debuggee: &mut Debuggee, command: &[u8]) -> String {
    let text = String::from_utf8_lossy(command);
    let words: Vec<_> = text.split_whitespace().collect();
    match words.as_slice() {
        [] | ["help", ..] => HELP.to_owned(),
        ["info", "cpus"] => of_all(debuggee, activity),
        ["info", "registers"] => of_all(debuggee, registers),
        ["gva2gpa", address] => translate(debuggee, address),
        ["system_reset" | "reset"] => {
            debuggee.port.reset();
            debuggee.forget();
            "The machine is reset.\n".to_owned()
        }
        ["quit" | "q"] => {
            debuggee.port.stop();
            "The machine ends.\n".to_owned()
        }
        _ => format!("There is no command {:?}; help lists those that there are.\n", text.trim()),
    }
}

fn of_all(debuggee: &mut Debuggee, show: fn(&CpuState) -> String) -> String {
    let cpus = 0..debuggee.port.cpus();
    let shown = |cpu| match debuggee.state(cpu) {
        Some(state) => format!("CPU#{cpu} {}", show(state)),
        None => format!("CPU#{cpu} is not to be had\n"),
    };
    cpus.map(shown).collect()
}

fn activity(state: &CpuState) -> String {
    let does = match state.activity {
        Activity::Active => "running",
        Activity::Halted => "halted",
        Activity::WaitForSipi => "not started",
        Activity::Shutdown => "shut down",
    };
    format!("{does} at {:#x}\n", state.rip)
}

fn translate(debuggee: &mut Debuggee, address: &str) -> String {
    let digits = address.strip_prefix("0x").unwrap_or(address);
    let Ok(linear) = u64::from_str_radix(digits, 16) else {
        return format!("{address:?} is no address; write it in hexadecimal, such as 0xffffffff81000000.\n");
    };
    let ram = debuggee.port.ram().clone();
    let current = debuggee.current;
    let Some(state) = debuggee.state(current) else { return "The machine is not paused.\n".to_owned() };
    match View::of(state, &ram).physical(linear) {
        Some(physical) => format!("gpa: {:#x}\n", physical.0),
        None => format!("{linear:#x} is not mapped on CPU#{current}.\n"),
    }
}

/// The order of QEMU's `info registers`.
const GENERAL: [(&str, usize); 16] = [
    ("RAX", 0),
    ("RBX", 3),
    ("RCX", 1),
    ("RDX", 2),
    ("RSI", 6),
    ("RDI", 7),
    ("RBP", 5),
    ("RSP", 4),
    ("R8 ", 8),
    ("R9 ", 9),
    ("R10", 10),
    ("R11", 11),
    ("R12", 12),
    ("R13", 13),
    ("R14", 14),
    ("R15", 15),
];

fn registers(state: &CpuState) -> String {
    let mut text = activity(state);
    for row in GENERAL.chunks(4) {
        let shown = row.iter().map(|(name, n)| format!("{name}={:016x}", state.gpr.get(*n).unwrap_or(&0)));
        let _ = writeln!(text, "{}", shown.collect::<Vec<_>>().join(" "));
    }
    let _ = writeln!(text, "RIP={:016x} RFL={:08x}", state.rip, state.rflags);
    let s = &state.segments;
    let segments = [
        ("ES ", s.es),
        ("CS ", s.cs),
        ("SS ", s.ss),
        ("DS ", s.ds),
        ("FS ", s.fs),
        ("GS ", s.gs),
        ("LDT", s.ldtr),
        ("TR ", s.tr),
    ];
    for (name, Segment { selector, base, limit, attributes }) in segments {
        let _ = writeln!(text, "{name}={selector:04x} {base:016x} {limit:08x} {attributes:05x}");
    }
    for (name, DescriptorTable { base, limit }) in [("GDT", state.gdtr), ("IDT", state.idtr)] {
        let _ = writeln!(text, "{name}=     {base:016x} {limit:08x}");
    }
    let _ = writeln!(
        text,
        "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:016x}",
        state.cr0, state.cr2, state.cr3, state.cr4, state.msrs.efer
    );
    let [dr0, dr1, dr2, dr3, _, _, dr6, dr7] = state.dr;
    let _ = writeln!(text, "DR0={dr0:016x} DR1={dr1:016x} DR2={dr2:016x} DR3={dr3:016x} DR6={dr6:08x} DR7={dr7:08x}");
    text
}
