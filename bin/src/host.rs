//! What this host has.

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes of memory and swap altogether.
///
/// # Errors
/// /proc is not mounted, or not readable.
pub fn memory() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let field = |name| proc_kib(&text, name).with_context(|| format!("{path} has no {name}"));
    Ok((field("MemTotal")? + proc_kib(&text, "SwapTotal").unwrap_or(0)) << 10)
}

/// Bytes of this process's memory at its largest, and now.
pub fn resident() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some((proc_kib(&text, "VmHWM")? << 10, proc_kib(&text, "VmRSS")? << 10))
}

/// Fills `bytes` from the kernel's random number generator.
pub fn random(bytes: &mut [u8]) {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Only a kernel before 3.17 has none: no host that runs motu.
            Err(error) => panic!("the host's kernel gives no random numbers: {error}"),
        }
    }
}

/// Bytes of the mapping at `start` (page-aligned, `len` bytes) that the host has pages for; 0 where
/// nothing is mapped.
pub fn resident_in(start: *const u8, len: u64) -> u64 {
    const PAGE: usize = 4096;
    const STEP: usize = 1 << 14;
    let mut pages = [0u8; STEP];
    let mut resident = 0;
    let mut done = 0;
    while let Some(left) = usize::try_from(len).ok().and_then(|len| len.checked_sub(done)).filter(|&left| left > 0) {
        let bytes = left.min(STEP * PAGE);
        let at = start.wrapping_add(done).cast_mut().cast();
        // SAFETY: mincore reads no memory at `at`, it only looks it up (ENOMEM if it is not mapped),
        // and writes one byte a page, for which `pages` has room.
        if unsafe { libc::mincore(at, bytes, pages.as_mut_ptr()) } == 0 {
            let counted = pages.iter().take(bytes.div_ceil(PAGE)).filter(|&&page| page & 1 != 0).count();
            resident += (counted * PAGE) as u64;
        }
        done += bytes;
    }
    resident
}

/// The value of a line `Name:   123 kB` (proc(5)).
fn proc_kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read_by_their_whole_name() {
        let text = "MemTotal:       24609284 kB\nSwapTotal:             0 kB\nHugePages_Total:       3\n";
        assert_eq!(proc_kib(text, "MemTotal"), Some(24_609_284));
        assert_eq!(proc_kib(text, "SwapTotal"), Some(0));
        assert_eq!(proc_kib(text, "Mem"), None);
        assert_eq!(proc_kib(text, "HugePages_Total"), None);
    }

    #[test]
    fn a_page_that_was_written_is_resident() {
        let page = vec![1u8; 3 * 4096];
        let start = page.as_ptr().wrapping_add(page.as_ptr().align_offset(4096));
        assert_eq!(resident_in(start, 8192), 8192);
        assert_eq!(resident_in(std::ptr::null(), 4096), 0);
    }

    #[test]
    fn this_host_has_memory_and_this_process_uses_less() {
        let (peak, now) = resident().unwrap();
        assert!(peak >= now && now > 0);
        assert!(memory().unwrap() > now);
    }
}
