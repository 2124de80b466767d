//! The pages of [`crate::layout`] in this process.

use super::{MAX_INSTRUCTION, OracleError};
use crate::Mode;
use crate::layout::{self, PAGE};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Fills code pages: wherever a branch goes, it stops there.
const INT3: u8 = 0xcc;
/// `jmp [rip + disp32]`: opcode and ModRM.
const JMP_INDIRECT: [u8; 2] = [0xff, 0x25];
const JMP_SIZE: usize = 6;
/// `jmp far cs:[disp32]` of 32-bit code.
const JMP_FAR: [u8; 3] = [0x2e, 0xff, 0x2d];
const JMP_FAR_SIZE: usize = 7;
/// In the scaffold page: the pointer of [`JMP_FAR`], and the 64-bit code that it leads to.
const FAR_POINTER: u64 = 16;
const LANDING: u64 = 32;

/// Code and window, mapped at their fixed addresses and once more, writable, for the host.
#[derive(Debug)]
pub struct Pages {
    /// The scaffold page, the code pages and the window, as the host writes them.
    host: *mut u8,
    /// Bytes of code pages that hold no INT3: start and length.
    written: (usize, usize),
    /// The instruction that lies there.
    code: Vec<u8>,
    mode: Mode,
}

const SCAFFOLD: u64 = 0;
const CODE: u64 = PAGE;
const WINDOW: u64 = CODE + layout::CODE_SIZE;
const TOTAL: u64 = WINDOW + layout::WINDOW_SIZE;

impl Pages {
    pub(super) fn map(exit: u64) -> Result<Self, OracleError> {
        let memory = memfd()?;
        // SAFETY: a new mapping of a file that nothing else has.
        let host = unsafe {
            map(
                0,
                TOTAL,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                Some((&memory, 0)),
            )?
        };
        // Dropping unmaps whatever was mapped when a later step fails.
        let mut pages = Self { host: host as *mut u8, written: (0, 0), code: Vec::new(), mode: Mode::Bits64 };
        pages.slice(SCAFFOLD, 8).copy_from_slice(&exit.to_le_bytes());
        let landing = (layout::AREAS[0] + layout::SCAFFOLD_OFFSET + LANDING) as u32;
        pages.slice(FAR_POINTER, 4).copy_from_slice(&landing.to_le_bytes());
        pages.slice(FAR_POINTER + 4, 2).copy_from_slice(&Mode::Bits64.selectors()[1].to_le_bytes());
        let back = -((LANDING + JMP_SIZE as u64) as i32);
        pages.slice(LANDING, 2).copy_from_slice(&JMP_INDIRECT);
        pages.slice(LANDING + 2, 4).copy_from_slice(&back.to_le_bytes());
        pages.slice(CODE, layout::CODE_SIZE).fill(INT3);
        for area in 0..layout::AREAS.len() {
            map_area(area, &memory)?;
        }
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        for (start, len) in layout::LOW_GAPS {
            // SAFETY: takes only addresses that are free.
            unsafe { map(start, len, libc::PROT_NONE, reserve, None)? };
        }
        Ok(pages)
    }

    fn slice(&mut self, offset: u64, len: u64) -> &mut [u8] {
        assert!(offset + len <= TOTAL);
        // SAFETY: within the host's mapping; the guest's views of it are used by the stub only,
        // which needs `&mut self` as well.
        unsafe { std::slice::from_raw_parts_mut(self.host.add(offset as usize), len as usize) }
    }

    pub(super) fn window(&mut self) -> &mut [u8] {
        self.slice(WINDOW, layout::WINDOW_SIZE)
    }

    /// Puts `code` at `offset` of the code pages and the way back after it. Where that does not
    /// fit, running on ends in a fetch fault behind the last page, which is as good a way back.
    pub(super) fn write_code(&mut self, offset: usize, code: &[u8], mode: Mode) {
        debug_assert!(code.len() <= MAX_INSTRUCTION);
        let size = layout::CODE_SIZE as usize;
        let (start, len) = self.written;
        if start == offset && self.code == code && self.mode == mode {
            return;
        }
        self.mode = mode;
        self.code.clear();
        self.code.extend_from_slice(code);
        let page = self.slice(CODE, layout::CODE_SIZE);
        page[start..start + len].fill(INT3);
        let len = code.len().min(size - offset);
        page[offset..offset + len].copy_from_slice(&code[..len]);
        let end = offset + len;
        let mut written = len;
        if mode == Mode::Bits32 {
            if end + JMP_FAR_SIZE <= size {
                let pointer = (layout::AREAS[0] + layout::SCAFFOLD_OFFSET + FAR_POINTER) as u32;
                page[end..end + 3].copy_from_slice(&JMP_FAR);
                page[end + 3..end + 7].copy_from_slice(&pointer.to_le_bytes());
                written += JMP_FAR_SIZE;
            }
        } else if end + JMP_SIZE <= size {
            let after_jump = layout::CODE_OFFSET + (end + JMP_SIZE) as u64;
            let displacement = (layout::SCAFFOLD_OFFSET as i64 - after_jump as i64) as i32;
            page[end..end + 2].copy_from_slice(&JMP_INDIRECT);
            page[end + 2..end + 6].copy_from_slice(&displacement.to_le_bytes());
            written += JMP_SIZE;
        }
        self.written = (offset, written);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: these are this value's own mappings; areas that were not mapped yet are skipped
        // by the kernel, and nothing else maps there while an oracle lives.
        unsafe {
            libc::munmap(self.host.cast(), TOTAL as usize);
            for start in layout::AREAS {
                libc::munmap(start as *mut libc::c_void, layout::AREA_SIZE as usize);
            }
            for (start, len) in layout::LOW_GAPS {
                libc::munmap(start as *mut libc::c_void, len as usize);
            }
        }
    }
}

fn map_area(area: usize, memory: &OwnedFd) -> Result<(), OracleError> {
    let start = layout::AREAS[area];
    let fixed = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
    let read = libc::PROT_READ;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let execute = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: the first mapping takes only addresses that are free; the others replace parts of it.
    unsafe {
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        map(start, layout::AREA_SIZE, libc::PROT_NONE, reserve, None)?;
        map(start + layout::SCAFFOLD_OFFSET, PAGE, execute, fixed, Some((memory, SCAFFOLD)))?;
        map(layout::code(area), layout::CODE_SIZE, execute, fixed, Some((memory, CODE)))?;
        for page in 0..layout::WINDOW_PAGES {
            let protection = if page == layout::READ_ONLY_PAGE { read } else { write };
            let offset = page * PAGE;
            map(layout::window(area) + offset, PAGE, protection, fixed, Some((memory, WINDOW + offset)))?;
        }
        // A page that the host had taken away would change a fault's error code. Where the limit on
        // locked memory forbids this, the pages are few and busy enough to stay.
        libc::mlock(layout::window(area) as *const libc::c_void, layout::WINDOW_SIZE as usize);
    }
    Ok(())
}

fn memfd() -> Result<OwnedFd, OracleError> {
    // SAFETY: the name is a C string; the descriptor is checked and owned by nobody else.
    let memory = unsafe {
        let fd = libc::memfd_create(c"motu-oracle".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(host("making the memory of the oracle"));
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: plain system call on our descriptor.
    if unsafe { libc::ftruncate(memory.as_raw_fd(), TOTAL as i64) } != 0 {
        return Err(host("sizing the memory of the oracle"));
    }
    Ok(memory)
}

/// # Safety
/// With MAP_FIXED, `start` and `len` must lie in a mapping that the caller owns.
unsafe fn map(
    start: u64,
    len: u64,
    protection: i32,
    flags: i32,
    file: Option<(&OwnedFd, u64)>,
) -> Result<u64, OracleError> {
    let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset as i64));
    // SAFETY: the caller's duty.
    let at = unsafe { libc::mmap(start as *mut libc::c_void, len as usize, protection, flags, fd, offset) };
    if at == libc::MAP_FAILED {
        return Err(host(&format!("mapping {len:#x} bytes at {start:#x}")));
    }
    Ok(at as u64)
}

fn host(doing: &str) -> OracleError {
    OracleError::Host { doing: doing.into(), source: io::Error::last_os_error() }
}
