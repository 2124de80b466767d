use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<EngineChoice, ParseEngineError> {
    text.parse()
}

fn soft(options: SoftOptions) -> Result<EngineChoice, ParseEngineError> {
    Ok(EngineChoice::Soft(options))
}

#[test]
fn engines_without_options() {
    assert_eq!(parse("auto"), Ok(EngineChoice::default()));
    assert_eq!(parse("kvm"), Ok(EngineChoice::Kvm));
    let default = SoftOptions { translate: Translate::On, deny: Vec::new(), flags: Flags::Live, stress: None };
    assert_eq!(parse("soft"), soft(default));
}

#[test]
fn options_follow_in_any_order() {
    let expected = SoftOptions {
        translate: Translate::Lockstep,
        deny: vec![0x401000..=0x401000, 0xffff_ffff_8100_0000..=u64::MAX],
        flags: Flags::Exact,
        stress: Some(7),
    };
    let text = "soft,stress=7,deny=401000:0xffffffff81000000-FFFFFFFFFFFFFFFF,flags=exact,translate=lockstep";
    assert_eq!(parse(text), soft(expected.clone()));
    assert_eq!(parse(&text.replace("soft", "auto")), Ok(EngineChoice::Auto(expected)));
    let off = SoftOptions { translate: Translate::Off, ..SoftOptions::default() };
    assert_eq!(parse("soft,translate=off"), soft(off));
    assert_eq!(parse("soft,translate=on,flags=live"), parse("soft"));
}

#[test]
fn what_is_wrong_is_said_with_what_would_be_right() {
    let cases = [
        ("", "auto, kvm and soft"),
        ("fast", "auto, kvm and soft"),
        ("Soft", "auto, kvm and soft"),
        (",translate=off", "auto, kvm and soft"),
        ("kvm,translate=off", "auto and soft"),
        ("kvm,translate=off,soft", "auto and soft"),
        ("kvm,kvm,soft", "3 engines"),
        ("kvm,auto", "kvm,soft"),
        ("auto,soft", "kvm,soft"),
        ("soft,kvm,", "auto and soft"),
        ("kvm,", "auto and soft"),
        ("soft,", "translate=off|on|lockstep"),
        ("soft,fast=1", "deny=ADDR"),
        ("soft,translate", "translate=off"),
        ("auto,Translate=off", "translate=off"),
        ("soft,translate=", "off, on and lockstep"),
        ("soft,translate=fast", "off, on and lockstep"),
        ("soft,flags=lazy", "live and exact"),
        ("soft,flags=exact,flags=live", "given twice"),
        ("soft,translate=off,translate=off", "given twice"),
        ("soft,deny=1,deny=2", "given twice"),
        ("soft,stress=1,stress=1", "given twice"),
        ("soft,deny=", "hexadecimal"),
        ("soft,deny=main", "hexadecimal"),
        ("soft,deny=+1", "hexadecimal"),
        ("soft,deny=1::2", "hexadecimal"),
        ("soft,deny=2-1", "the lower first"),
        ("soft,deny=1-2-3", "hexadecimal"),
        ("soft,deny=10000000000000000", "hexadecimal"),
        ("soft,stress=", "decimal"),
        ("soft,stress=-1", "decimal"),
        ("soft,stress=0x1", "decimal"),
        ("soft,stress=18446744073709551616", "decimal"),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn two_engines_have_options_of_their_own() {
    let stress = Turn::Soft(SoftOptions { stress: Some(3), ..SoftOptions::default() });
    let plain = Turn::Soft(SoftOptions::default());
    let turns = |first: &Turn, second: &Turn| Ok(EngineChoice::Turns(Box::new([first.clone(), second.clone()])));
    assert_eq!(parse("kvm,soft"), turns(&Turn::Kvm, &plain));
    assert_eq!(parse("soft,kvm"), turns(&plain, &Turn::Kvm));
    assert_eq!(parse("soft,soft,stress=3"), turns(&plain, &stress));
    assert_eq!(parse("soft,stress=3,soft"), turns(&stress, &plain));
    assert_eq!(parse("kvm,soft,stress=3").unwrap().to_string(), "kvm,soft,stress=3");
}

#[test]
fn json_is_the_same_text() {
    let json = |text: &str| serde_json::from_str::<EngineChoice>(text).map_err(|error| error.to_string());
    assert_eq!(json(r#""soft,translate=off""#), Ok(parse("soft,translate=off").unwrap()));
    assert_eq!(serde_json::to_string(&parse("auto,stress=3").unwrap()).unwrap(), r#""auto,stress=3""#);
    assert!(json(r#""soft,speed=1""#).unwrap_err().contains("stress=SEED"));
    assert!(json(r#"{"soft": {"translate": "off"}}"#).is_err());
}

fn translates() -> impl Strategy<Value = Translate> {
    prop::sample::select(vec![Translate::Off, Translate::On, Translate::Lockstep])
}

fn ranges() -> impl Strategy<Value = RangeInclusive<u64>> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(a, b, single)| if single { a..=a } else { a.min(b)..=a.max(b) })
}

fn choices() -> impl Strategy<Value = EngineChoice> {
    let deny = prop::collection::vec(ranges(), 0..4);
    let flags = prop::sample::select(vec![Flags::Live, Flags::Exact]);
    let options = (translates(), deny, flags, any::<Option<u64>>());
    let options = options.prop_map(|(translate, deny, flags, stress)| SoftOptions { translate, deny, flags, stress });
    (options, 0..3).prop_map(|(options, engine)| match engine {
        0 => EngineChoice::Auto(options),
        1 => EngineChoice::Kvm,
        _ => EngineChoice::Soft(options),
    })
}

proptest! {
    #[test]
    fn what_is_shown_reads_back(choice in choices()) {
        prop_assert_eq!(parse(&choice.to_string()), Ok(choice.clone()));
        let json = serde_json::to_string(&choice).unwrap();
        prop_assert_eq!(serde_json::from_str::<EngineChoice>(&json).unwrap(), choice);
    }

    #[test]
    fn no_text_panics(text in "(auto|kvm|soft|x)(,|=|:|-|,soft|,kvm|translate|deny|flags|stress|off|[0-9a-f]{1,17}){0,8}") {
        if let Ok(choice) = parse(&text) {
            prop_assert_eq!(parse(&choice.to_string()), Ok(choice));
        }
    }
}
