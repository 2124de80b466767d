use super::*;
use crate::cases::Generator;
use crate::native::Oracle;
use motu_x86::flags::rflags;

/// A CPU that is right but for what `spoil` does.
struct Spoiled<F> {
    window: Vec<u8>,
    spoil: F,
    answers: std::collections::VecDeque<(End, UserState, Vec<u8>)>,
}

impl<F: Fn(&mut UserState, &mut [u8])> UserCpu for Spoiled<F> {
    fn window(&mut self) -> &mut [u8] {
        &mut self.window
    }

    fn run_one(&mut self, _: &UserState, _: &[u8], after: &mut UserState) -> End {
        let (end, mut state, mut window) = self.answers.pop_front().expect("an answer of the host for every case");
        (self.spoil)(&mut state, &mut window);
        *after = state;
        self.window.copy_from_slice(&window);
        end
    }
}

/// Compares the host with itself spoiled, over the forms of one mnemonic.
fn mismatches(mnemonic: iced_x86::Mnemonic, spoil: impl Fn(&mut UserState, &mut [u8])) -> (u64, Report) {
    const CASES: u64 = 200;
    let mut oracle = Oracle::new().unwrap();
    let mut generator = Generator::new(11);
    generator.retain(|code| code.mnemonic() == mnemonic);
    let background = cases::background();
    let mut other = Spoiled { window: vec![0; background.len()], spoil, answers: Default::default() };
    for number in 0..CASES {
        let Some(case) = generator.case(number) else { continue };
        oracle.window().copy_from_slice(&background);
        let mut after = UserState::new(0);
        let end = run_one(&mut oracle, &case, &mut after);
        other.answers.push_back((end, after, oracle.window().to_vec()));
    }
    let report = run((0..CASES).map(|number| generator.case(number)), &mut oracle, &mut other);
    (report.mismatches, report)
}

#[test]
fn equal_results_are_no_mismatch() {
    let (count, report) = mismatches(iced_x86::Mnemonic::Add, |_, _| ());
    assert_eq!(count, 0, "{report}");
}

#[test]
fn every_part_of_the_state_is_compared() {
    let spoils: [fn(&mut UserState, &mut [u8]); 8] = [
        |s, _| s.gpr[3] ^= 1 << 20,
        |s, _| s.selectors[4] ^= 8,
        |s, _| s.rflags ^= rflags::AF,
        |s, _| s.rip += 1,
        |s, _| s.set_mxcsr(s.mxcsr() ^ 1),
        |s, _| s.xsave.0[4] ^= 0x10,
        |s, _| s.xsave.0[32 + 7 * 16 + 9] ^= 1,
        |s, _| s.xsave.0[motu_x86::XsaveArea::YMM_HIGH + 255] ^= 1,
    ];
    for (index, spoil) in spoils.into_iter().enumerate() {
        let (count, report) = mismatches(iced_x86::Mnemonic::Add, spoil);
        assert_eq!(count, report.cases, "spoil {index}");
        assert!(report.to_string().contains("Add: "));
    }
}

#[test]
fn a_store_to_where_nothing_should_be_stored_is_found() {
    // All of the window is looked at now and then only.
    let (count, report) = mismatches(iced_x86::Mnemonic::Add, |_, w| w[4096] ^= 1);
    assert!(count >= report.cases / PERIOD, "{count} of {}", report.cases);
}

#[test]
fn undefined_flags_are_not_compared() {
    let (count, report) = mismatches(iced_x86::Mnemonic::Mul, |s, _| s.rflags ^= rflags::ZF | rflags::AF);
    assert_eq!(count, 0, "{report}");
    let (count, report) = mismatches(iced_x86::Mnemonic::Mul, |s, _| s.rflags ^= rflags::CF);
    assert_eq!(count, report.cases);
}
