use super::*;

const LIMITS: Limits<'static> =
    Limits { engine: "soft", max_cpus: 1, contracts: &["v3-2026", "v2-2026"], host_memory: 8 << 30 };

fn parse(json: &str) -> Result<VmSpec, serde_json::Error> {
    serde_json::from_str(json)
}

fn refused(change: impl FnOnce(&mut VmSpec)) -> SpecError {
    let mut spec = VmSpec::default();
    change(&mut spec);
    spec.validate(&LIMITS).unwrap_err()
}

#[test]
fn an_empty_body_is_the_default_spec() {
    let spec = parse("{}").unwrap();
    assert_eq!(spec, VmSpec::default());
    assert_eq!(spec.image_name(), Some("tiny"));
    spec.validate(&LIMITS).unwrap();
}

#[test]
fn what_is_written_reads_back() {
    let spec = VmSpec {
        kernel: Some("/boot/vmlinuz".into()),
        initrd: Some("initrd.img".into()),
        kernel_address: Some(GuestAddress(0x7c00)),
        kernel_mode: Some(KernelMode::Real),
        cmdline: Some("console=ttyS0".into()),
        memory: "1.5G".parse().unwrap(),
        engine: "soft,translate=off".parse().unwrap(),
        cpu: Some("v2-2026".into()),
        console: Some(Console::File("boot.log".into())),
        timeout: Some("90s".parse().unwrap()),
        profile: Some(Profile { file: "boot.svg".into(), symbols: Some("System.map".into()) }),
        ..VmSpec::default()
    };
    assert_eq!(parse(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
    assert_eq!(spec.image_name(), None);
}

#[test]
fn sizes_and_times_may_be_text_or_numbers() {
    let spec = parse(r#"{"memory": "1G", "timeout": 30, "console": "none"}"#).unwrap();
    assert_eq!(spec.memory, ByteSize::gib(1));
    assert_eq!(spec.timeout, Some("30s".parse().unwrap()));
    assert_eq!(spec.console, Some(Console::None));
    assert_eq!(parse(r#"{"memory": 1073741824}"#).unwrap().memory, ByteSize::gib(1));
}

#[test]
fn addresses_and_modes_of_kernels() {
    let spec = parse(r#"{"kernel": "k", "kernel_address": "0x7c00", "kernel_mode": "real"}"#).unwrap();
    assert_eq!((spec.kernel_address, spec.kernel_mode), (Some(GuestAddress(0x7c00)), Some(KernelMode::Real)));
    assert_eq!(parse(r#"{"kernel_address": 31744}"#).unwrap().kernel_address, Some(GuestAddress(0x7c00)));
    for (text, mode) in [("real", KernelMode::Real), ("protected", KernelMode::Protected), ("long", KernelMode::Long)] {
        assert_eq!(text.parse(), Ok(mode));
    }
}

#[test]
fn unknown_keys_and_values_are_refused_with_what_would_have_been_right() {
    let error = parse(r#"{"memroy": "1G"}"#).unwrap_err().to_string();
    assert!(error.contains("memroy") && error.contains("`memory`"), "{error}");
    let error = parse(r#"{"engine": "fast"}"#).unwrap_err().to_string();
    assert!(error.contains("auto, kvm and soft"), "{error}");
    let error = parse(r#"{"memory": "lots"}"#).unwrap_err().to_string();
    assert!(error.contains("512M"), "{error}");
    let error = parse(r#"{"kernel_mode": "fast"}"#).unwrap_err().to_string();
    assert!(error.contains("`real`, `protected`, `long`"), "{error}");
    assert_eq!("fast".parse::<KernelMode>(), Err(ParseModeError("fast".into())));
    let error = parse(r#"{"kernel_address": "top"}"#).unwrap_err().to_string();
    assert!(error.contains("0x7c00"), "{error}");
}

#[test]
fn memory_rules() {
    assert_eq!(refused(|s| s.memory = ByteSize::mib(1)), SpecError::TooLittleMemory(ByteSize::mib(1)));
    assert_eq!(refused(|s| s.memory = ByteSize(0)), SpecError::TooLittleMemory(ByteSize(0)));
    assert_eq!(refused(|s| s.memory = ByteSize(512)), SpecError::UnitForgotten(512));
    assert_eq!(
        refused(|s| s.memory = ByteSize::gib(1024)),
        SpecError::TooMuchMemory { asked: ByteSize::gib(1024), have: ByteSize::gib(8) }
    );
    assert_eq!(refused(|s| s.memory = ByteSize((16 << 20) + 1)), SpecError::OddMemory { asked: (16 << 20) + 1 });
    let wide = Limits { host_memory: u64::MAX, ..LIMITS };
    let spec = VmSpec { memory: ByteSize::gib(1024), ..VmSpec::default() };
    assert_eq!(spec.validate(&wide), Err(SpecError::BeyondAddressSpace(ByteSize::gib(1024))));
    let text = refused(|s| s.memory = ByteSize::mib(1)).to_string();
    assert_eq!(text, "1M of memory is too little; give at least 16M");
    let text = refused(|s| s.memory = ByteSize((16 << 20) + 1)).to_string();
    assert!(text.ends_with("16781312 is the next that is"), "{text}");
}

#[test]
fn cpu_rules() {
    assert_eq!(refused(|s| s.cpus = 0), SpecError::NoCpus);
    assert_eq!(refused(|s| s.cpus = 2), SpecError::TooManyCpus { asked: 2, engine: "soft".into(), max: 1 });
    let text = refused(|s| s.cpu = Some("v9".into())).to_string();
    assert!(text.ends_with("it can keep v3-2026, v2-2026"), "{text}");
}

#[test]
fn source_rules() {
    assert!(matches!(
        refused(|s| (s.image, s.kernel) = (Some("tiny".into()), Some("k".into()))),
        SpecError::ImageAndKernel { .. }
    ));
    assert_eq!(refused(|s| s.initrd = Some("i".into())), SpecError::InitrdWithoutKernel);
    assert_eq!(refused(|s| s.kernel_address = Some(GuestAddress(0))), SpecError::AddressWithoutKernel);
    assert_eq!(
        refused(|s| (s.kernel, s.kernel_mode) = (Some("k".into()), Some(KernelMode::Long))),
        SpecError::ModeWithoutAddress
    );
    assert_eq!(refused(|s| s.cmdline = Some("x".repeat(2048))), SpecError::CmdlineTooLong(2048));
    assert_eq!(refused(|s| s.cmdline = Some("a\0b".into())), SpecError::CmdlineZero);
}

#[test]
fn disk_and_share_rules() {
    let disk = |path: &str| DiskSpec::parse(path.as_ref()).unwrap();
    let share = |text: &str| ShareSpec::parse(text.as_ref()).unwrap();
    assert_eq!(refused(|s| s.disks = vec![disk("a"), disk("b"), disk("a")]), SpecError::DiskTwice("a".into()));
    let many: Vec<DiskSpec> = (0..MAX_DISKS).map(|n| disk(&format!("{n}"))).collect();
    assert_eq!(
        refused(|s| (s.disks, s.shares) = (many, vec![share("./x:/x")])),
        SpecError::TooManyDisks(MAX_DISKS + 1)
    );
    for again in ["/x", "/x/", "//x"] {
        let shares = vec![share("./a:/x"), share("./b:/x/y"), share(&format!("./c:{again}"))];
        assert_eq!(refused(|s| s.shares = shares), SpecError::TargetTwice(again.into()));
    }
    assert!(matches!(
        refused(|s| s.shares = vec![ShareSpec { target: "x".into(), ..share("./a:/x") }]),
        SpecError::Share(_)
    ));
}

#[test]
fn what_cloud_init_is_given_is_a_disk_and_is_checked() {
    let disks = |count: usize| (0..count).map(|n| DiskSpec::parse(format!("{n}.raw").as_ref()).unwrap()).collect();
    let seed = |text: &str| Some(SeedSpec { user_data: Some(text.into()), ..SeedSpec::default() });
    let full = VmSpec { disks: disks(MAX_DISKS - 1), seed: seed("#!/bin/sh\n"), ..VmSpec::default() };
    full.validate(&LIMITS).unwrap();
    assert_eq!(parse(&serde_json::to_string(&full).unwrap()).unwrap(), full);
    let more = refused(|s| (s.disks, s.seed) = (disks(MAX_DISKS), seed("#!/bin/sh\n")));
    assert_eq!(more, SpecError::TooManyDisks(MAX_DISKS + 1));
    assert!(matches!(refused(|s| s.seed = seed("hostname: web\n")), SpecError::Seed(SeedError::Part { .. })));
    let error = parse(r##"{"seed": {"userdata": "#!"}}"##).unwrap_err().to_string();
    assert!(error.contains("`user_data`"), "{error}");
}
