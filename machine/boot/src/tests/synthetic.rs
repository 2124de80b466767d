//! Kernels of a few hundred bytes, as correct or as wrong as a test needs them.

/// A bzImage of one setup sector.
pub struct BzImageSpec {
    pub version: u16,
    pub xloadflags: u16,
    pub pref_address: u64,
    pub init_size: u32,
    pub initrd_addr_max: u32,
    pub cmdline_size: u32,
    pub code: Vec<u8>,
}

impl Default for BzImageSpec {
    fn default() -> Self {
        Self {
            version: 0x20f,
            xloadflags: 1,
            pref_address: 0x100_0000,
            init_size: 0x10_0000,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            code: (0..0x1000u32).map(|n| ((n * 7) >> 3) as u8).collect(),
        }
    }
}

impl BzImageSpec {
    pub fn build(&self) -> Vec<u8> {
        let mut image = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1f4, &(self.code.len() as u32 / 16).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.version.to_le_bytes());
        put(0x211, &[1]);
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x234, &[1, 21]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &self.cmdline_size.to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        image.extend_from_slice(&self.code);
        image
    }
}

/// An ELF with one loaded segment and one segment of notes.
#[derive(Clone)]
pub struct ElfSpec {
    /// 1 makes an ELF of 32 bits, all else one of 64.
    pub class: u8,
    pub data: u8,
    pub machine: u16,
    pub address: u64,
    /// How far above its physical address the segment is linked.
    pub virtual_offset: u64,
    pub memory_len: u64,
    /// What the file's header says.
    pub header_entry: u64,
    /// What the PVH note says; without a note if it is zero.
    pub entry: u32,
    pub other_notes: usize,
    pub note_align: usize,
    pub code: Vec<u8>,
}

impl Default for ElfSpec {
    fn default() -> Self {
        Self {
            class: 2,
            data: 1,
            machine: 62,
            address: 0x20_0000,
            virtual_offset: 0,
            memory_len: 0x2800,
            header_entry: 0x20_0000,
            entry: 0x20_0040,
            other_notes: 0,
            note_align: 4,
            code: (0..0x900u32).map(|n| ((n * 5) >> 2) as u8).collect(),
        }
    }
}

impl ElfSpec {
    /// For an i386 kernel.
    pub fn i386() -> Self {
        Self { class: 1, machine: 3, ..Self::default() }
    }

    /// An i386 kernel with a multiboot header of these flags at its beginning, and without a PVH note.
    pub fn multiboot(flags: u32) -> Self {
        let mut spec = Self { entry: 0, header_entry: 0x20_0020, ..Self::i386() };
        spec.code[..12].copy_from_slice(&multiboot_header(flags, &[]));
        spec
    }

    pub fn build(&self) -> Vec<u8> {
        let notes = self.notes();
        let (header_len, program_len) = if self.is_32() { (52, 32) } else { (64, 56) };
        let notes_at = header_len + 2 * program_len;
        let code_at = notes_at + notes.len();
        let mut image = b"\x7fELF".to_vec();
        image.extend_from_slice(&[self.class, self.data, 1]);
        image.resize(16, 0);
        image.extend_from_slice(&2u16.to_le_bytes());
        image.extend_from_slice(&self.machine.to_le_bytes());
        image.extend_from_slice(&1u32.to_le_bytes());
        image.extend([self.header_entry, header_len as u64, 0].iter().flat_map(|value| self.word(*value)));
        image.extend_from_slice(&0u32.to_le_bytes());
        let halves = [header_len as u16, program_len as u16, 2, 0, 0, 0];
        image.extend(halves.iter().flat_map(|value| value.to_le_bytes()));
        let code_len = self.code.len() as u64;
        image.extend(self.program_header(1, code_at, self.address, (code_len, self.memory_len), 4096));
        let notes_len = notes.len() as u64;
        image.extend(self.program_header(4, notes_at, 0, (notes_len, notes_len), self.note_align as u64));
        image.extend(notes);
        image.extend_from_slice(&self.code);
        image
    }

    fn is_32(&self) -> bool {
        self.class == 1
    }

    /// A number of the class's own width.
    fn word(&self, value: u64) -> Vec<u8> {
        let bytes = value.to_le_bytes();
        bytes[..if self.is_32() { 4 } else { 8 }].to_vec()
    }

    fn program_header(&self, kind: u32, at: usize, address: u64, lens: (u64, u64), align: u64) -> Vec<u8> {
        let flags = 7u32.to_le_bytes().to_vec();
        let [before, behind] = if self.is_32() { [vec![], flags] } else { [flags, vec![]] };
        let fields = [at as u64, address.wrapping_add(self.virtual_offset), address, lens.0, lens.1];
        let fields: Vec<u8> = fields.iter().flat_map(|value| self.word(*value)).collect();
        [kind.to_le_bytes().to_vec(), before, fields, behind, self.word(align)].concat()
    }

    fn notes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for _ in 0..self.other_notes {
            self.note(&mut notes, b"Linux\0", 18, &[1, 2, 3, 4, 5]);
        }
        if self.entry != 0 {
            self.note(&mut notes, b"Xen\0", 18, &u64::from(self.entry).to_le_bytes());
        }
        notes
    }

    fn note(&self, notes: &mut Vec<u8>, name: &[u8], kind: u32, value: &[u8]) {
        let header = [name.len() as u32, value.len() as u32, kind];
        notes.extend(header.iter().flat_map(|field| field.to_le_bytes()));
        for part in [name, value] {
            notes.extend_from_slice(part);
            notes.resize(notes.len().next_multiple_of(self.note_align), 0);
        }
    }
}

/// A multiboot header with its checksum, and what follows it.
pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [&[MAGIC, flags, checksum], addresses].concat().iter().flat_map(|word| word.to_le_bytes()).collect()
}
