//! Where a CPU starts: a state and tables of every mode of operation that are in order, for the input to
//! put into disorder.

use motu_x86::flags::{cr0, cr4, efer, rflags, xcr0};
use motu_x86::{CpuState, DescriptorTable, Segment};
use std::sync::OnceLock;

pub const RAM: u64 = 256 << 10;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
/// Offset of the I/O permission map, behind the interrupt redirection map (SDM vol. 3, 21.3).
const IO_MAP: u64 = 0x88;
const TSS_LIMIT: u32 = 0x2088;
const OTHER_TSS: u64 = 0x5800;
const LDT: u64 = 0x5c00;
const PAE_ROOT: u64 = 0x5d00;
const HANDLERS: u64 = 0x6000;
const STACK: u64 = 0x7ff0;
const KERNEL_STACK: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const DIRECTORY: u64 = 0xb000;
const TABLE: u64 = 0xc000;
const TOP_DIRECTORY: u64 = 0xd000;
const DIRECTORY_32: u64 = 0xe000;
const TABLE_32: u64 = 0xf000;
pub const CODE: u64 = 0x1_0000;
pub const DATA: u64 = 0x2_0000;

/// Where the input's disorder goes: the start and length of each structure.
pub const STRUCTURES: [(u64, u64); 16] = [
    (GDT, 0x100),
    (IDT, 0x400),
    (TSS, 0x88),
    (TSS + IO_MAP, 0x2000),
    (OTHER_TSS, 0x68),
    (LDT, 0x100),
    (PAE_ROOT, 0x20),
    (PML4, 0x1000),
    (PDPT, 0x1000),
    (DIRECTORY, 0x1000),
    (TABLE, 0x400),
    (TOP_DIRECTORY, 0x1000),
    (DIRECTORY_32, 0x1000),
    (TABLE_32, 0x100),
    (DATA, 0x1000),
    (0, 0x400),
];

/// Selectors of the GDT below.
mod selector {
    pub const CODE_64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE_32: u16 = 0x18;
    pub const USER_CODE_32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE_64: u16 = 0x33;
    pub const CODE_16: u16 = 0x38;
    pub const TSS: u16 = 0x48;
    pub const LDT: u16 = 0x58;
    pub const OTHER_TSS: u16 = 0x68;
}

/// A mode of operation (SDM vol. 3, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    Protected16,
    Protected32,
    Paged32,
    Virtual8086,
    Pae,
    Long,
    LongUser,
    Compatibility,
}

impl Mode {
    pub const ALL: [Mode; 9] = [
        Mode::Real,
        Mode::Protected16,
        Mode::Protected32,
        Mode::Paged32,
        Mode::Virtual8086,
        Mode::Pae,
        Mode::Long,
        Mode::LongUser,
        Mode::Compatibility,
    ];

    pub fn pick(choice: u8) -> Self {
        Self::ALL.get(usize::from(choice) % Self::ALL.len()).copied().unwrap_or(Mode::Long)
    }

    fn is_long(self) -> bool {
        matches!(self, Mode::Long | Mode::LongUser | Mode::Compatibility)
    }

    fn has_16_bit_segments(self) -> bool {
        matches!(self, Mode::Real | Mode::Virtual8086 | Mode::Protected16)
    }

    /// RIP of what lies at `offset` from [`CODE`].
    pub fn rip(self, offset: u16) -> u64 {
        if self.has_16_bit_segments() { offset.into() } else { CODE + u64::from(offset) }
    }

    /// The state that code at [`CODE`] starts in.
    pub fn state(self) -> CpuState {
        let mut state = CpuState {
            rip: self.rip(0),
            cr0: cr0::MP | cr0::ET | cr0::NE,
            cr4: cr4::DE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE,
            xcr0: xcr0::X87 | xcr0::SSE,
            gdtr: DescriptorTable { base: GDT, limit: 0xff },
            idtr: DescriptorTable { base: IDT, limit: if self.is_long() { 0xfff } else { 0x7ff } },
            ..CpuState::default()
        };
        let data = if self.has_16_bit_segments() { 0x100 } else { DATA };
        state.gpr = [data, 4, 0x1c, data + 8, STACK, STACK, data, data + 64, 1, 2, 3, data, 4, 5, data, 6];
        if self == Mode::Real {
            state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        } else {
            state.cr0 |= cr0::PE | cr0::WP;
        }
        self.set_paging(&mut state);
        self.set_segments(&mut state);
        if self == Mode::Virtual8086 {
            state.rflags |= rflags::VM | rflags::IOPL;
        }
        let registers = &mut state.lapic.registers;
        // As after reset, and enabled (SDM vol. 3, 11.4.7.1).
        registers[0x0e] = u32::MAX;
        registers[0x0f] = 0x1ff;
        registers[0x32..0x38].fill(0x1_0000);
        state
    }

    fn set_paging(self, state: &mut CpuState) {
        let root = match self {
            Mode::Real | Mode::Protected16 | Mode::Protected32 => return,
            Mode::Paged32 | Mode::Virtual8086 => DIRECTORY_32,
            Mode::Pae => PAE_ROOT,
            Mode::Long | Mode::LongUser | Mode::Compatibility => PML4,
        };
        state.cr3 = root;
        state.cr0 |= cr0::PG;
        state.cr4 |= if root == DIRECTORY_32 { cr4::PSE | cr4::VME } else { cr4::PAE | cr4::PGE };
        if root != DIRECTORY_32 {
            state.msrs.efer |= efer::NXE;
        }
        if self.is_long() {
            state.msrs.efer |= efer::SCE | efer::LME | efer::LMA;
            state.cr4 |= cr4::FSGSBASE;
            state.msrs.lstar = HANDLERS;
            state.msrs.star = 0x0023_0008 << 32;
        }
        state.msrs.sysenter_cs = selector::CODE_64.into();
        state.msrs.sysenter_eip = HANDLERS;
        state.msrs.sysenter_esp = KERNEL_STACK;
    }

    fn set_segments(self, state: &mut CpuState) {
        let dpl3 = |mut segment: Segment| {
            segment.attributes |= 3 << 5;
            segment
        };
        // Real-address mode's segments, which virtual-8086 mode has with DPL 3.
        let small = |selector: u16, kind: u32| Segment {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            attributes: kind | Segment::S | Segment::PRESENT,
        };
        let user_data = dpl3(Segment::flat_data(selector::USER_DATA));
        let (code, data, stack) = match self {
            Mode::Real => (small(0x1000, 0xb), small(0x2000, 3), small(0, 3)),
            Mode::Virtual8086 => (dpl3(small(0x1000, 3)), dpl3(small(0x2000, 3)), dpl3(small(0, 3))),
            Mode::Protected16 => {
                let segment = |selector, base, kind| Segment { selector, base, ..small(0, kind) };
                (segment(selector::CODE_16, CODE, 0xb), segment(selector::CODE_16 + 8, DATA, 3), segment(0x40, 0, 3))
            }
            Mode::Protected32 | Mode::Pae => {
                let data = Segment::flat_data(selector::DATA);
                (Segment::flat_code(selector::CODE_32, false), data, data)
            }
            Mode::Long => {
                let data = Segment::flat_data(selector::DATA);
                (Segment::flat_code(selector::CODE_64, true), data, data)
            }
            Mode::LongUser => (dpl3(Segment::flat_code(selector::USER_CODE_64, true)), user_data, user_data),
            Mode::Paged32 | Mode::Compatibility => {
                (dpl3(Segment::flat_code(selector::USER_CODE_32, false)), user_data, user_data)
            }
        };
        let segments = &mut state.segments;
        (segments.cs, segments.ss) = (code, stack);
        (segments.ds, segments.es, segments.fs, segments.gs) = (data, data, data, data);
        let system =
            |selector, base, limit, kind| Segment { selector, base, limit, attributes: kind | Segment::PRESENT };
        segments.tr = system(selector::TSS, TSS, TSS_LIMIT, 0xb);
        segments.ldtr = system(selector::LDT, LDT, 0xff, 2);
    }
}

/// The RAM below [`CODE`]: tables and handlers of `mode`.
pub fn image(mode: Mode) -> &'static [u8] {
    static IMAGES: [OnceLock<Vec<u8>>; Mode::ALL.len()] = [const { OnceLock::new() }; Mode::ALL.len()];
    let Some(image) = IMAGES.get(mode as usize) else { return &[] };
    image.get_or_init(|| {
        let mut bytes = vec![0; CODE as usize];
        let mut image = Image(&mut bytes);
        image.descriptors(mode);
        image.tasks(mode);
        image.handlers(mode);
        image.page_tables();
        bytes
    })
}

/// The RAM below [`CODE`], in the making.
struct Image<'a>(&'a mut [u8]);

impl Image<'_> {
    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at as usize..at as usize + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn word(&mut self, at: u64, value: u64) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn descriptors(&mut self, mode: Mode) {
        let system = |base: u64, limit: u64, kind: u64| {
            (limit & 0xffff) | (base & 0xff_ffff) << 16 | (kind | 0x80) << 40 | (limit >> 16) << 48
        };
        let gate = |selector: u16, offset: u64, kind: u64| {
            (offset & 0xffff) | u64::from(selector) << 16 | kind << 40 | (offset >> 16) << 48
        };
        let code = if mode.is_long() { selector::CODE_64 } else { selector::CODE_32 };
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_9b01_0000_ffff,
            0x0000_9300_0000_ffff,
            system(TSS, TSS_LIMIT.into(), 0xb),
            0,
            system(LDT, 0xff, 2),
            0,
            system(OTHER_TSS, 0x67, 9),
            0,
            gate(code, HANDLERS, 0xec),
            0,
            gate(selector::OTHER_TSS, 0, 0xe5),
            0x00cf_9f00_0000_ffff,
            0x00cf_9700_0000_ffff,
            system(OTHER_TSS, 0x2b, 1),
            gate(code, HANDLERS, 0xe4),
        ];
        for (at, descriptor) in (GDT..).step_by(8).zip(descriptors) {
            self.word(at, descriptor);
            self.word(at - GDT + LDT, descriptor);
        }
    }

    /// The task of the code, and another one (SDM vol. 3, 8.2.1 and 8.7).
    fn tasks(&mut self, mode: Mode) {
        for at in [TSS, OTHER_TSS] {
            let top = if at == TSS { KERNEL_STACK } else { KERNEL_STACK - 0x800 };
            self.word(at + 4, top);
            if mode.is_long() {
                self.word(at + 0x24, top - 0x400);
                self.word(at + 0x2c, top - 0x600);
            } else {
                self.bytes(at + 8, &[selector::DATA as u8, 0, 0, 0]);
                let root = if mode == Mode::Pae { PAE_ROOT } else { DIRECTORY_32 };
                self.word(at + 0x1c, root | CODE << 32);
                self.word(at + 0x24, rflags::FIXED_1);
                self.word(at + 0x38, top - 0x400);
                for (register, selector) in [(0x48, 0x10), (0x4c, 0x18), (0x50, 0x10), (0x54, 0x10), (0x60, 0x58)] {
                    self.bytes(at + register, &[selector]);
                }
            }
            self.bytes(at + 0x66, &[IO_MAP as u8, 0]);
        }
        self.bytes(TSS + u64::from(TSS_LIMIT), &[0xff]);
    }

    /// Handlers: of exceptions, which go on one byte behind the fault, so that code is not stuck at its
    /// first one; and of interrupts, which end them at the local APIC.
    fn handlers(&mut self, mode: Mode) {
        const WITH_ERROR_CODE: [u64; 9] = [8, 10, 11, 12, 13, 14, 17, 21, 30];
        // add rsp, 8; inc qword [rsp]; iretq; mov dword [0xfee000b0], 0; iretq; and the like for 32 and 16 bits.
        let (drop_code, skip, end): (&[u8], &[u8], &[u8]) = match mode {
            Mode::Real => (&[], &[0x55, 0x89, 0xe5, 0xff, 0x46, 0x02, 0x5d, 0xcf], &[0xcf]),
            _ if mode.is_long() => (
                &[0x48, 0x83, 0xc4, 8],
                &[0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
                &[0xc7, 0x04, 0x25, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0, 0x48, 0xcf],
            ),
            _ => (&[0x83, 0xc4, 4], &[0xff, 0x04, 0x24, 0xcf], &[0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0, 0xcf]),
        };
        let plain = HANDLERS + drop_code.len() as u64;
        let interrupt = plain + skip.len() as u64;
        self.bytes(HANDLERS, &[drop_code, skip, end].concat());
        for vector in 0..256u64 {
            let offset = match vector {
                0x20.. => interrupt,
                _ if WITH_ERROR_CODE.contains(&vector) => HANDLERS,
                _ => plain,
            };
            let user = matches!(vector, 3 | 4 | 0x20..);
            let kind = 0x8e | if user { 0x60 } else { 0 };
            match mode {
                Mode::Real => self.bytes(4 * vector, &(offset as u32).to_le_bytes()),
                _ if mode.is_long() => {
                    let selector = u64::from(selector::CODE_64);
                    self.word(IDT + 16 * vector, offset | selector << 16 | kind << 40);
                }
                _ if vector == 0x41 => self.word(IDT + 8 * vector, u64::from(selector::OTHER_TSS) << 16 | 0xe5 << 40),
                _ => self.word(IDT + 8 * vector, offset | u64::from(selector::CODE_32) << 16 | kind << 40),
            }
        }
    }

    /// The first 2 MiB where they are, RAM or not, the local APIC, and a high half that is the same again.
    fn page_tables(&mut self) {
        const ALL: u64 = 7;
        const LARGE: u64 = 0x80;
        for page in 0..512 {
            self.word(TABLE + 8 * page, page << 12 | ALL);
        }
        self.word(PML4, PDPT | ALL);
        self.word(PML4 + 8 * 511, PDPT | ALL);
        self.word(PDPT, DIRECTORY | ALL);
        self.word(PDPT + 8 * 3, TOP_DIRECTORY | ALL);
        self.word(PDPT + 8 * 510, DIRECTORY | ALL);
        self.word(PDPT + 8 * 511, TOP_DIRECTORY | ALL);
        self.word(DIRECTORY, TABLE | ALL);
        self.word(DIRECTORY + 8, LARGE | ALL);
        self.word(TOP_DIRECTORY + 8 * 0x1f7, 0xfee0_0000 | LARGE | ALL);
        self.word(PAE_ROOT, DIRECTORY | 1);
        self.word(PAE_ROOT + 8 * 3, TOP_DIRECTORY | 1);
        for page in 0..1024 {
            self.bytes(TABLE_32 + 4 * page, &((page << 12 | ALL) as u32).to_le_bytes());
        }
        for (entry, value) in [(0, TABLE_32 | ALL), (1, LARGE | ALL), (0x3fb, 0xfec0_0000 | LARGE | ALL)] {
            self.bytes(DIRECTORY_32 + 4 * entry, &(value as u32).to_le_bytes());
        }
    }
}
