use super::*;
use crate::native::Oracle;
use crate::{End, UserCpu};

#[test]
fn a_case_follows_from_seed_and_number() {
    let (mut one, mut two) = (Generator::new(7), Generator::new(7));
    two.case(3);
    for number in [1, 100, 5000] {
        let (one, two) = (one.case(number).unwrap(), two.case(number).unwrap());
        assert_eq!(one.before, two.before);
        assert_eq!(one.code(), two.code());
    }
}

#[test]
fn every_form_is_compared_or_skipped_for_a_reason() {
    let generator = Generator::new(1);
    for mode in Mode::ALL {
        let skipped: usize =
            generator.skipped().iter().filter(|(key, _)| key.0 == mode).map(|(_, forms)| forms.len()).sum();
        let forms = generator.forms(mode).len();
        assert_eq!(forms + skipped, forms::all(mode).count());
        assert!(forms > 1000, "{forms} forms in {mode:?}");
        assert_eq!(generator.skipped().get(&(mode, Skip::NotEncodable)), None);
    }
}

#[test]
fn the_host_agrees_with_itself() {
    let mut oracle = Oracle::new().unwrap();
    let mut generator = Generator::new(2);
    let background = background();
    let (mut retired, mut made) = (0, 0);
    let cases = 20_000;
    for number in 0..cases {
        let Some(case) = generator.case(number) else { continue };
        made += 1;
        let mut run = || {
            oracle.window().copy_from_slice(&background);
            case.apply(oracle.window());
            let mut after = UserState::new(0);
            let end = oracle.run_one(&case.before, case.code(), &mut after);
            (end, after, oracle.window().to_vec())
        };
        let first = run();
        assert!(first == run(), "case {number}: {}", case.instruction());
        retired += u64::from(first.0 == End::Ok);
    }
    assert!(made > cases * 99 / 100, "{made} of {cases} cases made");
    assert!(retired > made / 2, "{retired} of {made} cases retired");
}
