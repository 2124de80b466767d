//! What a kernel's code is called.

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, ReadCache, SectionKind, SymbolKind};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// Bytes of a text at most: that of a Linux kernel with all its modules has 20 million.
const LARGEST_TEXT: u64 = 256 << 20;
/// Letters of a name that are kept.
const LONGEST_NAME: usize = 200;
/// Where Linux for x86-64 takes system calls, as it tells the processor by IA32_LSTAR.
const SYSCALL_ENTRY: &str = "entry_SYSCALL_64";
/// A Linux kernel that is put somewhere by chance moves by a multiple of this (CONFIG_PHYSICAL_ALIGN, at least 2 MiB)...
const SLIDE_STEP: u64 = 2 << 20;
/// ... and by less than this (KERNEL_IMAGE_SIZE).
const LONGEST_SLIDE: u64 = 1 << 30;
/// Code behind the last symbol of a text is its own up to here.
const LAST_LENGTH: u64 = 4096;

/// Functions by their address.
#[derive(Debug)]
pub struct Symbols {
    /// By start, and each start once.
    functions: Vec<Function>,
    syscall_entry: Option<u64>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    /// The first address behind it.
    end: u64,
    name: Box<str>,
}

impl Symbols {
    /// Reads a `System.map`, a `/proc/kallsyms` or an ELF file.
    ///
    /// # Errors
    /// The file cannot be read, is none of them, or has no symbols of code.
    pub fn load(path: &Path) -> Result<Self> {
        let reading = || format!("reading the symbols in {}", path.display());
        let mut file = File::open(path).with_context(reading)?;
        let mut magic = Vec::new();
        (&mut file).take(4).read_to_end(&mut magic).with_context(reading)?;
        if magic == *b"\x7fELF" {
            file.rewind().with_context(reading)?;
            return Self::parse_elf(file).with_context(reading);
        }
        let mut text = magic;
        file.take(LARGEST_TEXT).read_to_end(&mut text).with_context(reading)?;
        ensure!((text.len() as u64) < LARGEST_TEXT, "{} is too large for a list of symbols", path.display());
        Self::parse_text(&String::from_utf8_lossy(&text)).with_context(reading)
    }

    /// Lines of an address, the type of the symbol as `nm` has it, and a name, in any order; what follows the name is
    /// the module that it is in.
    pub fn parse_text(text: &str) -> Result<Self> {
        let mut symbols = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_ascii_whitespace();
            let found = (|| {
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let kind = words.next().filter(|kind| kind.len() == 1)?;
                Some((address, kind, words.next()?))
            })();
            let Some(symbol) = found else {
                let shown: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
                bail!(
                    "line {number} is no symbol: {shown:?}; a System.map, the guest's /proc/kallsyms or an ELF file \
                     such as vmlinux is needed"
                );
            };
            symbols.push(symbol);
        }
        let hidden = !symbols.is_empty() && symbols.iter().all(|(address, ..)| *address == 0);
        ensure!(!hidden, "its addresses are all zero, as the kernel shows them to those who are not root");
        // Per-CPU variables are counted from 0, and other absolute values are no addresses either.
        symbols.retain(|(_, kind, _)| !matches!(*kind, "A" | "a"));
        symbols.sort_by_key(|(address, kind, _)| (*address, kind.starts_with(|c: char| c.is_ascii_lowercase())));
        let ends = symbols.iter().map(|(address, ..)| *address).skip(1);
        let mut functions: Vec<Function> = Vec::new();
        let mut next = ends.clone();
        for (address, kind, name) in &symbols {
            let following = next.next().unwrap_or(address.saturating_add(LAST_LENGTH));
            // Names of one place share its end, which the last of them has.
            if let Some(last) = functions.last_mut().filter(|last| last.start == *address) {
                last.end = following;
            } else if matches!(*kind, "t" | "T" | "w" | "W") && !is_the_linkers(name) {
                functions.push(Function { start: *address, end: following, name: shown(name) });
            }
        }
        Self::new(functions)
    }

    fn parse_elf(file: File) -> Result<Self> {
        let cache = ReadCache::new(file);
        let elf = object::File::parse(&cache).context("it is no ELF file that can be read")?;
        let is_code = |symbol: &object::Symbol<'_, '_, _>| match symbol.kind() {
            SymbolKind::Text => true,
            // What an assembler's label is.
            SymbolKind::Unknown | SymbolKind::Label => symbol
                .section_index()
                .and_then(|index| elf.section_by_index(index).ok())
                .is_some_and(|section| section.kind() == SectionKind::Text),
            _ => false,
        };
        let mut functions: Vec<Function> = elf
            .symbols()
            .filter(|symbol| symbol.is_definition() || symbol.kind() == SymbolKind::Unknown)
            .filter(is_code)
            .filter_map(|symbol| {
                let (start, name) = (symbol.address(), symbol.name().ok().filter(|name| !name.is_empty())?);
                Some(Function { start, end: start.saturating_add(symbol.size()), name: shown(name) })
            })
            .collect();
        functions.sort_by_key(|function| (function.start, std::cmp::Reverse(function.end)));
        functions.dedup_by_key(|function| function.start);
        // A label has no size: what follows is its own up to the next.
        let starts: Vec<u64> = functions.iter().map(|function| function.start).skip(1).collect();
        let mut starts = starts.into_iter();
        for function in &mut functions {
            let following = starts.next().unwrap_or(function.start.saturating_add(LAST_LENGTH));
            if function.end == function.start {
                function.end = following;
            }
        }
        Self::new(functions)
    }

    fn new(functions: Vec<Function>) -> Result<Self> {
        ensure!(
            !functions.is_empty(),
            "it names no code; a System.map, the guest's /proc/kallsyms or an ELF file with symbols is needed (Debian's \
             /boot/System.map is none: take /proc/kallsyms from the guest)"
        );
        let entry = functions.iter().find(|function| &*function.name == SYSCALL_ENTRY);
        Ok(Self { syscall_entry: entry.map(|function| function.start), functions })
    }

    /// The number of the function at `address`.
    pub fn find(&self, address: u64) -> Option<u32> {
        let behind = self.functions.partition_point(|function| function.start <= address);
        let number = behind.checked_sub(1)?;
        let function = self.functions.get(number)?;
        (address < function.end).then_some(u32::try_from(number).ok()?)
    }

    pub fn name(&self, number: u32) -> &str {
        self.functions.get(number as usize).map_or("", |function| &function.name)
    }

    /// Whether it can be told where the kernel lies.
    pub fn may_slide(&self) -> bool {
        self.syscall_entry.is_some()
    }

    /// How far the kernel lies from where its symbols say, if it takes system calls at `entry`.
    pub fn slide(&self, entry: u64) -> Option<u64> {
        let slide = entry.wrapping_sub(self.syscall_entry?);
        // It may have moved down, too, from symbols that are those of another boot.
        let distance = slide.min(slide.wrapping_neg());
        (distance.is_multiple_of(SLIDE_STEP) && distance < LONGEST_SLIDE).then_some(slide)
    }
}

/// Labels of Linux' linker script, before code and behind it: what follows has a name of its own, or is no code.
fn is_the_linkers(name: &str) -> bool {
    matches!(name, "_etext" | "_einittext" | "__entry_text_end" | "_text" | "_stext")
}

/// As it may stand in a line of a flame graph, where semicolons part names.
fn shown(name: &str) -> Box<str> {
    let clean = |c: char| if c == ';' || c.is_control() { '?' } else { c };
    name.chars().map(clean).take(LONGEST_NAME).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(symbols: &Symbols, address: u64) -> &str {
        symbols.find(address).map_or("", |number| symbols.name(number))
    }

    #[test]
    fn a_map_names_code_up_to_the_next_symbol() {
        let text = "2000 t inner;x\n1000 T outer\n1000 t alias\n2800 r table\n0 A per_cpu\n3000 W last [module]\n";
        let symbols = Symbols::parse_text(text).unwrap();
        let expected = [
            (0, ""),
            (0xfff, ""),
            (0x1000, "outer"),
            (0x1fff, "outer"),
            (0x2000, "inner?x"),
            (0x2800, ""),
            (0x3fff, "last"),
            (0x4000, ""),
        ];
        for (address, name) in expected {
            assert_eq!(named(&symbols, address), name, "{address:#x}");
        }
        assert!(!symbols.may_slide());
    }

    #[test]
    fn the_place_of_a_linux_kernel_follows_from_where_it_takes_system_calls() {
        let symbols = Symbols::parse_text("ffffffff81a00080 T entry_SYSCALL_64").unwrap();
        assert!(symbols.may_slide());
        assert_eq!(symbols.slide(0xffff_ffff_81a0_0080), Some(0));
        assert_eq!(symbols.slide(0xffff_ffff_91a0_0080), Some(0x1000_0000));
        assert_eq!(symbols.slide(0xffff_ffff_8180_0080), Some(0u64.wrapping_sub(0x20_0000)));
        assert_eq!(symbols.slide(0), None, "not set yet");
        assert_eq!(symbols.slide(0xffff_ffff_91a0_0000), None, "another kernel's");
    }

    #[test]
    fn an_elf_file_names_code() {
        let own = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&own).unwrap();
        let main = symbols.functions.iter().find(|function| &*function.name == "main").expect("a program has main");
        assert_eq!(named(&symbols, main.end - 1), "main");
    }

    #[test]
    fn what_has_no_symbols_is_refused_with_what_would_be_right() {
        let debian = "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
        for (text, expected) in [
            ("", "it names no code"),
            (debian, "take /proc/kallsyms from the guest"),
            ("0000000000000000 T a\n0000000000000000 t b\n", "not root"),
            ("1000 T a\na shopping list\n", "line 2 is no symbol: \"a shopping list\""),
            ("1000 T\n", "System.map, the guest's /proc/kallsyms or an ELF file"),
        ] {
            let error = Symbols::parse_text(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        for (file, expected) in [("/no/such/map", "No such file"), ("/", "directory"), ("/dev/zero", "too large")] {
            let error = format!("{:#}", Symbols::load(Path::new(file)).unwrap_err());
            assert!(error.contains(expected) && error.contains(file), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_function_is_found(text in "([0-9a-f]{1,4} [tTbA] [a-z]{1,3}\n){0,20}.{0,5}") {
            if let Ok(symbols) = Symbols::parse_text(&text) {
                for (number, function) in (0..).zip(&symbols.functions) {
                    prop_assert!(function.start < function.end);
                    prop_assert_eq!(symbols.find(function.start), Some(number));
                }
            }
        }
    }
}
