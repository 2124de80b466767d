//! Loaders: kernels and initrds that are anything but what they say.

use arbitrary::{Arbitrary, Result, Unstructured};
use motu_boot::{BoardTables, BootSource, Flat, FlatMode, Image, Module, Role};
use motu_memory::GuestRam;
use std::cell::RefCell;

/// More takes longer to clear, and says no more.
const RAM: u64 = 8 << 20;
/// Where `setup_header` lies in a bzImage (Linux, Documentation/arch/x86/boot.rst).
const HEADER: usize = 0x1f1;
/// Modules of one input at most.
const MODULES: usize = 5;

thread_local! {
    /// Kept, as it takes longer to map than to load most inputs.
    static MEMORY: RefCell<Option<GuestRam>> = const { RefCell::new(None) };
}

fn image(role: Role, bytes: &[u8]) -> Option<Image> {
    Image::from_bytes(role, "input", bytes.to_vec()).ok()
}

fn load(kernel: &[u8], modules: Vec<Module>, cmdline: &str, flat: Option<Flat>) {
    let Some(kernel) = image(Role::Kernel, kernel) else { return };
    let source = BootSource { kernel, modules, cmdline: cmdline.to_owned(), flat };
    MEMORY.with_borrow_mut(|memory| {
        let ram = memory.get_or_insert_with(|| GuestRam::new(RAM).expect("a little memory"));
        if let Err(error) = motu_boot::load(ram, &source, &BoardTables::default()) {
            // The sentence is made for every error.
            assert!(!error.to_string().is_empty());
        }
    });
}

fn module(bytes: &[u8], command_line: &[u8]) -> Option<Module> {
    Some(Module::new(image(Role::Module, bytes)?, command_line.to_vec()))
}

/// The input is the header from 0x1f1 on and the code behind a setup sector; a quarter of it once more is
/// the initrd.
pub fn bzimage(bytes: &[u8]) {
    let mut kernel = vec![0; HEADER];
    kernel.extend_from_slice(bytes);
    kernel.resize(kernel.len().max(1024), 0);
    for (at, magic) in [(0x1fe, &[0x55, 0xaa][..]), (0x202, b"HdrS")] {
        if let Some(place) = kernel.get_mut(at..at + magic.len()) {
            place.copy_from_slice(magic);
        }
    }
    let initrd = module(bytes.get(..bytes.len() / 4).unwrap_or_default(), b"");
    load(&kernel, initrd.into_iter().collect(), "console=ttyS0", None);
}

/// The input is the ELF behind its magic number.
pub fn elf(bytes: &[u8]) {
    load(&[b"\x7fELF", bytes].concat(), Vec::new(), "console=ttyS0", None);
}

/// The input begins with how it is to be loaded, a command line and modules; the kernel is the rest.
pub fn kernel(bytes: &[u8]) {
    _ = read_kernel(&mut Unstructured::new(bytes));
}

fn read_kernel(input: &mut Unstructured<'_>) -> Result<()> {
    let choice = u8::arbitrary(input)?;
    let flat = match choice >> 6 {
        0 => Some(FlatMode::Real),
        1 => Some(FlatMode::Protected),
        2 => Some(FlatMode::Long),
        _ => None,
    };
    let flat = flat.map(|mode| Ok(Flat { address: u32::arbitrary(input)?.into(), mode })).transpose()?;
    let len = usize::from(u8::arbitrary(input)?);
    let cmdline = String::from_utf8_lossy(input.bytes(len.min(input.len()))?).into_owned();
    let mut modules = Vec::new();
    for _ in 0..usize::from(choice & 7).min(MODULES) {
        let len = usize::from(u8::arbitrary(input)?);
        let bytes = input.bytes(len.min(input.len()))?;
        modules.extend(module(bytes, bytes.get(..len / 4).unwrap_or_default()));
    }
    let kernel = input.bytes(input.len())?;
    load(kernel, modules, &cmdline, flat);
    Ok(())
}
