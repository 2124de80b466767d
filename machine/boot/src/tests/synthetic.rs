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
pub struct ElfSpec {
    pub class: u8,
    pub data: u8,
    pub machine: u16,
    pub address: u64,
    pub memory_len: u64,
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
            memory_len: 0x2800,
            entry: 0x20_0040,
            other_notes: 0,
            note_align: 4,
            code: (0..0x900u32).map(|n| ((n * 5) >> 2) as u8).collect(),
        }
    }
}

impl ElfSpec {
    pub fn build(&self) -> Vec<u8> {
        let notes = self.notes();
        let notes_at = 64 + 2 * 56;
        let code_at = notes_at + notes.len();
        let mut image = b"\x7fELF".to_vec();
        image.extend_from_slice(&[self.class, self.data, 1]);
        image.resize(16, 0);
        image.extend_from_slice(&2u16.to_le_bytes());
        image.extend_from_slice(&self.machine.to_le_bytes());
        image.extend_from_slice(&1u32.to_le_bytes());
        image.extend([self.address, 64, 0].iter().flat_map(|value| value.to_le_bytes()));
        image.extend_from_slice(&0u32.to_le_bytes());
        image.extend([64u16, 56, 2, 0, 0, 0].iter().flat_map(|value| value.to_le_bytes()));
        let code_len = self.code.len() as u64;
        image.extend(program_header(1, code_at, self.address, (code_len, self.memory_len), 4096));
        let notes_len = notes.len() as u64;
        image.extend(program_header(4, notes_at, 0, (notes_len, notes_len), self.note_align as u64));
        image.extend(notes);
        image.extend_from_slice(&self.code);
        image
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

fn program_header(kind: u32, at: usize, address: u64, lens: (u64, u64), align: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend_from_slice(&7u32.to_le_bytes());
    let fields = [at as u64, address, address, lens.0, lens.1, align];
    header.extend(fields.iter().flat_map(|value| value.to_le_bytes()));
    header
}
