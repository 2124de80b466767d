//! `--profile`: a picture of where the guest's time went.

use motu_e2e::motu;
use std::fs;
use std::path::Path;

/// 32-bit code at 1 MiB: `outer` calls `inner`, which spins for 300 ms of the TSC, a tick a nanosecond (less on a KVM without hardware); then the
/// machine is switched off.
const CODE: [u8; 57] = [
    0xbc, 0x00, 0x80, 0x00, 0x00, // start: mov esp, 0x8000
    0x31, 0xed, // xor ebp, ebp
    0xe8, 0x0c, 0x00, 0x00, 0x00, // call outer
    0x66, 0xba, 0x04, 0x06, // mov dx, 0x604
    0x66, 0xb8, 0x00, 0x34, // mov ax, 5 << 10 | 1 << 13
    0x66, 0xef, // out dx, ax
    0xeb, 0xfe, // jmp $
    0x55, // outer: push ebp
    0x89, 0xe5, // mov ebp, esp
    0xe8, 0x05, 0x00, 0x00, 0x00, // call inner
    0x5d, // pop ebp
    0xc3, // ret
    0x90, 0x90, 0x90, // a gap
    0x55, // inner: push ebp
    0x89, 0xe5, // mov ebp, esp
    0x0f, 0x31, // rdtsc
    0x89, 0xc7, // mov edi, eax
    0x0f, 0x31, // spin: rdtsc
    0x29, 0xf8, // sub eax, edi
    0x3d, 0x00, 0xa3, 0xe1, 0x11, // cmp eax, 300_000_000
    0x72, 0xf5, // jb spin
    0x5d, // pop ebp
    0xc3, // ret
];
const MAP: &str = "\
0000000000100000 T start
0000000000100018 t outer
0000000000100025 t inner
0000000000100039 B _end
";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_picture_shows_what_was_called_by_whom_and_for_how_long() {
    let folder = tempfile::tempdir().unwrap();
    let [code, map, svg] = ["code", "System.map", "out.svg"].map(|name| folder.path().join(name));
    fs::write(&code, CODE).unwrap();
    fs::write(&map, MAP).unwrap();
    let kernel = ["--kernel", text(&code), "--kernel-address", "0x100000", "--memory", "16M"];
    let profile = ["--profile", text(&svg), "--symbols", text(&map)];
    for engine in
        [&["--engine", "soft"][..], &["--engine", "kvm"], &["--engine", "soft,soft", "--switch-every", "10ms"]]
    {
        let ended = motu([&["run"][..], engine, &kernel, &profile].concat());
        if engine.contains(&"kvm") && ended.status == 125 {
            println!("SKIPPED: {}", ended.stderr.trim());
            continue;
        }
        assert_eq!(ended.status, 0, "{engine:?}: {ended:?}");
        // Of a KVM without hardware there is a warning.
        assert!(ended.stderr.is_empty() || engine.contains(&"kvm"), "{engine:?}: {ended:?}");
        let picture = fs::read_to_string(&svg).unwrap();
        // Each frame at most as wide as the one it stands on.
        let mut outside = u64::MAX;
        for name in ["all", "[kernel]", "start", "outer", "inner"] {
            let time = milliseconds(&picture, name);
            assert!((1..=outside).contains(&time), "{engine:?}, {name}: {time} ms in\n{picture}");
            outside = time;
        }
    }
}

/// The time of the widest frame of this name: where `inner` has no frame yet or no more, `outer` stands alone.
fn milliseconds(picture: &str, name: &str) -> u64 {
    let title = format!("<title>{name} (");
    let time = |rest: &str| rest.split_once(" ms").and_then(|(time, _)| time.replace(',', "").parse().ok());
    picture.split(&title).skip(1).filter_map(time).max().unwrap_or(0)
}

#[test]
fn what_cannot_be_profiled_is_refused_before_the_machine_starts() {
    let folder = tempfile::tempdir().unwrap();
    let [code, list, svg] = ["code", "list", "out.svg"].map(|name| folder.path().join(name));
    fs::write(&code, CODE).unwrap();
    fs::write(&list, "milk\neggs\n").unwrap();
    let refused = |more: &[&str], words: &[&str]| {
        let kernel = ["run", "--kernel", text(&code), "--kernel-address", "0x100000"];
        let ended = motu([&kernel, more].concat());
        assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{more:?}: {ended:?}");
        words.iter().for_each(|word| assert!(ended.stderr.contains(word), "{more:?}: no {word:?} in {ended:?}"));
    };
    refused(&["--profile", "/no/such/folder/out.svg"], &["/no/such/folder/out.svg", "No such file"]);
    refused(&["--profile", text(folder.path())], &["directory"]);
    refused(&["--symbols", text(&list)], &["--profile"]);
    let with = |symbols: &Path, words: &[&str]| {
        refused(&["--profile", text(&svg), "--symbols", text(symbols)], words);
        assert!(!svg.exists(), "nothing is half done");
    };
    with(Path::new("/no/such/map"), &["/no/such/map", "No such file"]);
    with(&list, &["line 1", "milk", "System.map", "kallsyms", "vmlinux"]);
    with(folder.path(), &["directory"]);
}
