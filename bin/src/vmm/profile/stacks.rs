//! Adding samples up by where they were: call chains, named as far as names are known.

use super::symbols::Symbols;
use motu_hv::GuestSample;
use std::collections::HashMap;
use std::iter;

/// Different stacks that are told apart. A guest can make any number of them.
const MOST_STACKS: usize = 1 << 15;
const PAGE_MASK: u64 = 4095;
/// Bits of CR3 that are an address (SDM vol. 3, 4.5), not PCID or flags.
const ROOT: u64 = 0x000f_ffff_ffff_f000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// Milliseconds by stack.
#[derive(Debug, Default)]
pub struct Stacks {
    symbols: Option<Symbols>,
    /// How far the running kernel lies from where its symbols say; `None` as long as it has not given itself away.
    slide: Option<u64>,
    times: HashMap<Stack, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stack {
    whose: Whose,
    /// Innermost first.
    frames: Box<[Frame]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Idle,
    Kernel,
    /// A program, by the root of its page tables.
    User(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Frame {
    /// Number of the kernel's symbol.
    Symbol(u32),
    /// Code of the kernel that is looked up when it is known where the kernel lies.
    Unplaced(u64),
    /// Nothing better is known than the page.
    Page(u64),
    /// Where [`MOST_STACKS`] was reached.
    Beyond,
}

impl Stacks {
    pub fn new(symbols: Option<Symbols>) -> Self {
        Self { symbols, ..Self::default() }
    }

    pub fn add(&mut self, sample: &GuestSample<'_>) {
        if let Some(slide) = self.symbols.as_ref().and_then(|symbols| symbols.slide(sample.syscall_entry)) {
            self.slide = Some(slide);
        }
        let whose = match (sample.halted, sample.cpl) {
            (true, _) => Whose::Idle,
            (false, 3) => Whose::User(sample.cr3 & ROOT),
            (false, _) => Whose::Kernel,
        };
        let kernel = whose == Whose::Kernel;
        // A return address stands behind the call, perhaps where the next function begins.
        let callers = sample.callers.iter().map(|address| address.wrapping_sub(1));
        let places = iter::once(sample.linear).chain(callers).filter(|_| whose != Whose::Idle);
        let mut frames: Vec<Frame> =
            places.map(|at| if kernel { self.kernel_frame(at) } else { Frame::Page(at & !PAGE_MASK) }).collect();
        // Calls inside a page say nothing, while a function that calls itself does.
        frames.dedup_by(|a, b| a == b && matches!(a, Frame::Page(_)));
        let mut stack = Stack { whose, frames: frames.into() };
        if self.times.len() >= MOST_STACKS && !self.times.contains_key(&stack) {
            stack = Stack { whose: Whose::Kernel, frames: Box::new([Frame::Beyond]) };
        }
        *self.times.entry(stack).or_default() += sample.time.0 / NANOS_PER_MILLI;
    }

    fn kernel_frame(&self, address: u64) -> Frame {
        match &self.symbols {
            Some(symbols) if self.slide.is_none() && symbols.may_slide() => Frame::Unplaced(address),
            _ => self.placed(address),
        }
    }

    /// The function at `address`, by where the kernel is known to lie.
    fn placed(&self, address: u64) -> Frame {
        let linked = address.wrapping_sub(self.slide.unwrap_or(0));
        let symbol = self.symbols.as_ref().and_then(|symbols| symbols.find(linked));
        symbol.map_or(Frame::Page(address & !PAGE_MASK), Frame::Symbol)
    }

    /// Lines of `outermost;...;innermost milliseconds`.
    pub fn folded(&self) -> Vec<String> {
        self.times.iter().map(|(stack, time)| format!("{} {time}", self.line(stack))).collect()
    }

    fn line(&self, stack: &Stack) -> String {
        let whose = match stack.whose {
            Whose::Idle => "[idle]".to_owned(),
            Whose::Kernel => "[kernel]".to_owned(),
            Whose::User(root) => format!("[user, CR3 {root:#x}]"),
        };
        let frames = stack.frames.iter().rev().map(|frame| self.name(*frame));
        iter::once(whose).chain(frames).collect::<Vec<_>>().join(";")
    }

    fn name(&self, frame: Frame) -> String {
        match frame {
            Frame::Symbol(number) => {
                self.symbols.as_ref().map(|symbols| symbols.name(number)).unwrap_or_default().to_owned()
            }
            Frame::Unplaced(address) => self.name(self.placed(address)),
            Frame::Page(page) => format!("page {page:#x}"),
            Frame::Beyond => format!("[other than the first {MOST_STACKS} stacks]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_x86::Nanos;

    const MAP: &str = "\
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81001000 T do_work
ffffffff81002000 T entry_SYSCALL_64
ffffffff81003000 R rodata
";
    const KERNEL: GuestSample<'static> = GuestSample {
        time: Nanos(2 * NANOS_PER_MILLI),
        halted: false,
        linear: 0xffff_ffff_8100_1234,
        cpl: 0,
        cr3: 0x1800,
        syscall_entry: 0,
        callers: &[],
    };

    fn folded(map: Option<&str>, samples: &[GuestSample<'_>]) -> Vec<String> {
        let mut stacks = Stacks::new(map.map(|map| Symbols::parse_text(map).unwrap()));
        samples.iter().for_each(|sample| stacks.add(sample));
        let mut lines = stacks.folded();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn equal_stacks_are_added_and_callers_stand_outside() {
        let called = GuestSample { callers: &[0xffff_ffff_8100_2010, 0xffff_ffff_8100_1000], ..KERNEL };
        let lines = folded(Some(MAP), &[KERNEL, called, KERNEL]);
        assert_eq!(lines, ["[kernel];do_work 4", "[kernel];startup_64;entry_SYSCALL_64;do_work 2"]);
    }

    #[test]
    fn without_names_there_are_pages() {
        let called = GuestSample { callers: &[0xffff_ffff_8100_1300, 0xffff_ffff_8100_2010], ..KERNEL };
        assert_eq!(folded(None, &[called]), ["[kernel];page 0xffffffff81002000;page 0xffffffff81001000 2"]);
        let module = GuestSample { linear: 0xffff_ffff_c000_0123, ..KERNEL };
        assert_eq!(folded(Some(MAP), &[module]), ["[kernel];page 0xffffffffc0000000 2"]);
    }

    #[test]
    fn programs_are_told_apart_and_sleep_is_nobodys() {
        let user = GuestSample { cpl: 3, linear: 0x40_1234, cr3: 0x12_3456, ..KERNEL };
        let other = GuestSample { cr3: 0x8000_0000_0020_0001, ..user };
        let asleep = GuestSample { halted: true, time: Nanos(7 * NANOS_PER_MILLI), ..KERNEL };
        let expected = ["[idle] 7", "[user, CR3 0x123000];page 0x401000 2", "[user, CR3 0x200000];page 0x401000 2"];
        assert_eq!(folded(Some(MAP), &[user, other, asleep]), expected);
    }

    #[test]
    fn a_kernel_that_moved_gives_itself_away_and_what_came_before_is_named_too() {
        let slide = 0x1260_0000;
        let early = GuestSample { linear: 0xffff_ffff_8100_0010 + slide, ..KERNEL };
        let syscall_entry = 0xffff_ffff_8100_2000 + slide;
        let late = GuestSample { linear: KERNEL.linear + slide, syscall_entry, ..KERNEL };
        let low = GuestSample { linear: 0x100_0000, ..KERNEL };
        let expected = ["[kernel];do_work 2", "[kernel];page 0x1000000 2", "[kernel];startup_64 2"];
        assert_eq!(folded(Some(MAP), &[low, early, late]), expected);
    }

    #[test]
    fn a_guest_that_is_everywhere_does_not_fill_the_hosts_memory() {
        let mut stacks = Stacks::new(None);
        for page in 0..2 * MOST_STACKS as u64 {
            stacks.add(&GuestSample { linear: page << 12, ..KERNEL });
        }
        let lines = stacks.folded();
        assert_eq!(lines.len(), MOST_STACKS + 1);
        let rest = format!("[kernel];[other than the first {MOST_STACKS} stacks] {}", 2 * MOST_STACKS);
        assert!(lines.contains(&rest));
    }
}
