//! State images against the host's own instructions.

use iced_x86::{Code, Instruction, OpKind, Register};
use motu_x86::XSAVE_SIZE;
use motu_x86::flags::xcr0;

use super::oracle::{Oracle, Random, compare};
use super::*;

const ALL: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
const LONG: ImageForm = ImageForm { long: true, wide: true };

fn on_memory(code: Code) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    instruction.set_op_kind(0, OpKind::Memory);
    instruction.set_memory_base(Register::RDI);
    instruction
}

/// A state whose x87 pointers are zero: whether a CPU keeps them without a pending exception differs.
fn guest(random: &mut Random) -> Guest {
    let mut guest = random.guest();
    // Some exceptions pending.
    if random.below(3) == 0 {
        x87::set_status(&mut guest.fpu, random.next() as u16 & 0x7f7f);
        x87::set_control(&mut guest.fpu, random.next() as u16);
        x87::update_summary(&mut guest.fpu);
    }
    guest
}

/// Runs `code` on the host with `image` as its operand.
fn host(oracle: &mut Oracle, code: Code, guest: &mut Guest, image: &mut [u8]) {
    let offset = oracle.compile(on_memory(code), Register::RDI);
    oracle.run(offset, image, 0, guest);
}

const FORMATS: [(bool, Code, Code, Code, Code); 2] = [
    (false, Code::Fnstenv_m14byte, Code::Fldenv_m14byte, Code::Fnsave_m94byte, Code::Frstor_m94byte),
    (true, Code::Fnstenv_m28byte, Code::Fldenv_m28byte, Code::Fnsave_m108byte, Code::Frstor_m108byte),
];

#[test]
fn stored_environments_agree_with_the_host() {
    let (mut oracle, mut random) = (Oracle::new(), Random(77));
    for (wide, fnstenv, _, fnsave, _) in FORMATS {
        let format = EnvironmentFormat { wide, real: false };
        for _ in 0..300 {
            let before = guest(&mut random);
            let (mut ours, mut theirs) = (before.clone(), before.clone());
            let mut image = vec![0; format.environment_size()];
            host(&mut oracle, fnstenv, &mut theirs, &mut image);
            assert_eq!(fnstenv_image(&ours.fpu, format).as_bytes(), image, "{wide}");
            mask_x87_exceptions(&mut ours.fpu);
            compare("fnstenv", &before, &ours, &theirs, 0);

            let (mut ours, mut theirs) = (before.clone(), before.clone());
            let mut image = vec![0; format.save_size()];
            host(&mut oracle, fnsave, &mut theirs, &mut image);
            assert_eq!(fnsave_image(&ours.fpu, format).as_bytes(), image, "{wide}");
            fninit(&mut ours.fpu);
            compare("fnsave", &before, &ours, &theirs, 0);
        }
    }
}

#[test]
fn loaded_environments_agree_with_the_host() {
    let (mut oracle, mut random) = (Oracle::new(), Random(99));
    for (wide, _, load, _, restore) in FORMATS {
        let format = EnvironmentFormat { wide, real: false };
        for _ in 0..300 {
            let before = random.guest();
            let mut image: Vec<u8> = (0..format.save_size()).map(|_| random.next() as u8).collect();
            let (mut ours, mut theirs) = (before.clone(), before.clone());
            fldenv(&mut ours.fpu, format, &image);
            host(&mut oracle, load, &mut theirs, &mut image[..format.environment_size()].to_vec());
            compare("fldenv", &before, &ours, &theirs, 0);

            let (mut ours, mut theirs) = (before.clone(), before.clone());
            frstor(&mut ours.fpu, format, &image);
            host(&mut oracle, restore, &mut theirs, &mut image);
            compare("frstor", &before, &ours, &theirs, 0);
        }
    }
}

#[test]
fn environments_survive_a_round_trip_in_every_format() {
    let mut random = Random(5);
    for (wide, real) in [(false, false), (false, true), (true, false), (true, true)] {
        let format = EnvironmentFormat { wide, real };
        let mut before = random.guest();
        x87::set_instruction_pointer(&mut before.fpu, if wide { 0x1234_5678 } else { 0x5678 });
        x87::set_data_pointer(&mut before.fpu, if wide { 0x9abc_def0 } else { 0xdef0 });
        // The 16-bit protected format alone has no room for the opcode.
        x87::set_opcode(&mut before.fpu, if wide || real { 0x5a5 } else { 0 });
        let mut after = Guest::new();
        frstor(&mut after.fpu, format, fnsave_image(&before.fpu, format).as_bytes());
        assert_eq!(after.fpu.0[0..24], before.fpu.0[0..24], "{format:?}");
        assert_eq!(after.fpu.0[32..160], before.fpu.0[32..160], "{format:?}");
    }
}

#[test]
fn fxsave_and_fxrstor_agree_with_the_host() {
    let (mut oracle, mut random) = (Oracle::new(), Random(31));
    for (wide, save, load) in [
        (true, Code::Fxsave64_m512byte, Code::Fxrstor64_m512byte),
        (false, Code::Fxsave_m512byte, Code::Fxrstor_m512byte),
    ] {
        let form = ImageForm { long: true, wide };
        for _ in 0..300 {
            let before = guest(&mut random);
            let mut theirs = before.clone();
            let mut image = [0; FXSAVE_SIZE];
            host(&mut oracle, save, &mut theirs, &mut image);
            let (ours, written) = fxsave_image(&before.fpu, form);
            assert_eq!(written, 0..416);
            // MXCSR_MASK and the selectors are the guest's own.
            assert_eq!(ours[..24], image[..24]);
            assert_eq!(ours[24..28], image[24..28]);
            assert_eq!(ours[32..416], image[32..416]);

            let mut image = [0; FXSAVE_SIZE];
            image.fill_with(|| random.next() as u8);
            image[24..28].copy_from_slice(&(random.next() as u32 & MXCSR_MASK).to_le_bytes());
            let (mut ours, mut theirs) = (before.clone(), before.clone());
            assert_eq!(fxrstor_image(&mut ours.fpu, &image, form), Ok(()));
            host(&mut oracle, load, &mut theirs, &mut image);
            compare("fxrstor", &before, &ours, &theirs, 0);
        }
    }
}

#[test]
fn fxrstor_refuses_reserved_bits_of_mxcsr_and_changes_nothing() {
    let mut random = Random(3);
    let mut guest = random.guest();
    let before = guest.clone();
    let mut image = [0x55; FXSAVE_SIZE];
    image[24..28].copy_from_slice(&0x1_1f80u32.to_le_bytes());
    assert_eq!(fxrstor_image(&mut guest.fpu, &image, LONG), Err(ReservedBits));
    assert_eq!(guest.fpu, before.fpu);
}

#[test]
fn eight_registers_are_saved_and_loaded_outside_64_bit_mode() {
    let form = ImageForm { long: false, wide: false };
    let mut random = Random(8);
    let before = random.guest();
    let (image, written) = fxsave_image(&before.fpu, form);
    assert_eq!(written, 0..288);
    let mut after = random.guest();
    let high = after.fpu.0[288..416].to_vec();
    assert_eq!(fxrstor_image(&mut after.fpu, &image, form), Ok(()));
    assert_eq!(after.fpu.0[160..288], before.fpu.0[160..288]);
    assert_eq!(after.fpu.0[288..416], high);
}

/// `xsave64` or `xrstor64` with EDX:EAX in the guest's registers.
fn xsave_on_host(oracle: &mut Oracle, code: Code, features: u64, guest: &mut Guest, image: &mut [u8; XSAVE_SIZE]) {
    guest.gpr[0] = features;
    guest.gpr[2] = 0;
    host(oracle, code, guest, image);
}

#[test]
fn xsave_writes_what_the_host_writes() {
    let (mut oracle, mut random) = (Oracle::new(), Random(1234));
    for features in (0..8).cycle().take(400) {
        let before = guest(&mut random);
        let mut old = [0; XSAVE_SIZE];
        old.fill_with(|| random.next() as u8);
        old[512..576].fill(0);
        old[512] = random.next() as u8 & 7;
        let (mut guest_image, mut theirs, mut state) = (old, old, before.clone());
        let mut staged = old;
        for range in xsave_image(&before.fpu, features, LONG, &mut staged) {
            guest_image[range.clone()].copy_from_slice(&staged[range]);
        }
        xsave_on_host(&mut oracle, Code::Xsave64_mem, features, &mut state, &mut theirs);
        // XINUSE is the CPU's affair, MXCSR_MASK the guest's.
        assert_eq!(u64::from(guest_image[512]) & !features, u64::from(theirs[512]) & !features);
        guest_image[512] = theirs[512];
        guest_image[28..32].copy_from_slice(&theirs[28..32]);
        assert_eq!(guest_image, theirs, "features {features}");
    }
}

#[test]
fn xrstor_loads_what_the_host_loads() {
    let (mut oracle, mut random) = (Oracle::new(), Random(4321));
    for features in (0..8).cycle().take(400) {
        let mut before = random.guest();
        before.gpr[0] = features;
        before.gpr[2] = 0;
        let mut image = [0; XSAVE_SIZE];
        image.fill_with(|| random.next() as u8);
        image[24..28].copy_from_slice(&(random.next() as u32 & MXCSR_MASK).to_le_bytes());
        image[512..576].fill(0);
        image[512] = random.next() as u8 & 7;
        let (mut ours, mut theirs) = (before.clone(), before.clone());
        assert_eq!(xrstor_image(&mut ours.fpu, features, ALL, LONG, &image), Ok(()));
        xsave_on_host(&mut oracle, Code::Xrstor64_mem, features, &mut theirs, &mut image);
        compare(&format!("xrstor {features} of {}", image[512]), &before, &ours, &theirs, 0);
    }
}

#[test]
fn xrstor_refuses_reserved_bits_of_the_header() {
    let mut image = [0; XSAVE_SIZE];
    image[24..28].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
    let mut guest = Guest::new();
    assert_eq!(xrstor_image(&mut guest.fpu, ALL, ALL, LONG, &image), Ok(()));
    // A component outside XCR0, XCOMP_BV, the quadword after it; then bytes that are not checked.
    for (offset, value, expected) in [
        (512, 8, Err(ReservedBits)),
        (512, 4, Ok(())),
        (519, 0x80, Err(ReservedBits)),
        (527, 0x80, Err(ReservedBits)),
        (535, 1, Err(ReservedBits)),
        (536, 1, Ok(())),
        (26, 1, Err(ReservedBits)),
    ] {
        let mut image = image;
        image[offset] = value;
        assert_eq!(xrstor_image(&mut guest.fpu, ALL, ALL, LONG, &image), expected, "byte {offset}");
    }
    image[512] = 4;
    assert_eq!(xrstor_image(&mut guest.fpu, ALL, ALL & !4, LONG, &image), Err(ReservedBits));
}

#[test]
fn a_saved_image_becomes_live() {
    let mut random = Random(6);
    let mut fpu = random.guest().fpu;
    fpu.0[512..576].fill(0xff);
    fpu.0[512] = 0;
    set_mxcsr(&mut fpu, MXCSR_DEFAULT);
    fpu.0[27] = 0xff;
    make_live(&mut fpu);
    let mut expected = Guest::new().fpu;
    expected.0[512] = 7;
    assert_eq!(fpu, expected);
}
