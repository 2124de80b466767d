//! What those have who write kernels: `--debug-exit`, `--trace`, crash reports.

use motu_e2e::{Code, Ended, Kernel, command, motu};
use std::fs;
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;

fn args<'a>(kernel: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    // The software engine is the one that remembers what ran.
    [&["run", "--engine", "soft", "--memory", "16M", "--kernel", kernel], more].concat()
}

fn run(code: Code, more: &[&str]) -> Ended {
    let kernel = Kernel::new(code);
    motu(args(kernel.path().to_str().unwrap(), more))
}

/// Runs real-mode code at 0x7c00.
fn run_real(code: &[u8], more: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("code");
    fs::write(&file, code).unwrap();
    let flat = ["--kernel-address", "0x7c00", "--kernel-mode", "real"];
    motu(args(file.to_str().unwrap(), &[&flat, more].concat()))
}

fn in_folder(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn the_guest_chooses_the_exit_status_as_with_qemu() {
    assert_eq!(run(Code::new().print("ok").out8(0xf4, 0x10).spin(), &["--debug-exit"]).status, 0x21);
    assert_eq!(run(Code::new().out8(0xf5, 0).spin(), &["--debug-exit"]).status, 1);
    let wide = run(Code::new().out16(0xf4, 0x1234).spin(), &["--debug-exit", "--timeout", "1m"]);
    assert_eq!((wide.status, wide.stderr.as_str()), (0x69, ""));
}

#[test]
fn the_debug_exit_port_is_there_only_when_asked_for() {
    assert_eq!(run(Code::new().out8(0xf4, 0x10).power_off(), &[]).status, 0);
}

#[test]
fn instructions_and_accesses_are_told_in_the_order_of_what_happened() {
    let ended = run(Code::new().print("A").out8(0xf4, 1).spin(), &["--debug-exit", "--trace", "exec,io"]);
    let expected = "\
exec cpu0 at=0010:0000000000100014 linear=0x0000000000100014 mov dx,3F8h
exec cpu0 at=0010:0000000000100018 linear=0x0000000000100018 mov al,41h
exec cpu0 at=0010:000000000010001a linear=0x000000000010001a out dx,al
io cpu0 out port=0x03f8 size=1 value=0x41
exec cpu0 at=0010:000000000010001b linear=0x000000000010001b mov dx,0F4h
exec cpu0 at=0010:000000000010001f linear=0x000000000010001f mov al,1
exec cpu0 at=0010:0000000000100021 linear=0x0000000000100021 out dx,al
io cpu0 out port=0x00f4 size=1 value=0x01
";
    assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (3, "A", expected));
}

#[test]
fn exceptions_and_software_interrupts_are_told() {
    // Vectors 0x40 and 6 lead to IRET and to the end of the machine.
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00,
        0x7c, // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
        0xc7, 0x06, 0x00, 0x01, 0x25, 0x7c, // mov word [0x100], 0x7c25
        0xc7, 0x06, 0x02, 0x01, 0x00, 0x00, // mov word [0x102], 0
        0xc7, 0x06, 0x18, 0x00, 0x26, 0x7c, // mov word [0x18], 0x7c26
        0xc7, 0x06, 0x1a, 0x00, 0x00, 0x00, // mov word [0x1a], 0
        0xcd, 0x40, 0x0f, 0x0b, // int 0x40; ud2
        0xcf, // iret
        0xb0, 0x10, 0xe6, 0xf4, 0xeb, 0xfe, // mov al, 0x10; out 0xf4, al; jmp $
    ];
    let ended = run_real(&code, &["--debug-exit", "--trace", "int"]);
    let at = "at=0000:0000000000007c23 cpl=0 stack=0000:0000000000007c00";
    let expected = format!("int cpu0 software vector=0x40 {at}\nint cpu0 exception vector=0x06 #UD {at}\n");
    assert_eq!((ended.status, ended.stderr), (0x21, expected));
}

#[test]
fn each_kind_goes_to_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let (io, rest) = (in_folder(&folder, "io"), in_folder(&folder, "rest"));
    fs::write(&rest, "from before").unwrap();
    // mov al, [0xfec00000]: the I/O APIC's index, which is 0.
    let code = [0xa0, 0, 0, 0xc0, 0xfe, 0xe6, 0xf4, 0xeb, 0xfe];
    let file = in_folder(&folder, "code");
    fs::write(&file, code).unwrap();
    let (to_io, to_rest) = (format!("io:{io}"), format!("mmio,int:{rest}"));
    let more = ["--kernel-address", "0x100000", "--debug-exit", "--trace", &to_io, "--trace", &to_rest];
    let ended = motu(args(&file, &more));
    assert_eq!((ended.status, ended.stderr.as_str()), (1, ""));
    assert_eq!(fs::read_to_string(io).unwrap(), "io cpu0 out port=0x00f4 size=1 value=0x00\n");
    let mmio = "mmio cpu0 read address=0x00000000fec00000 size=1 value=0x00\n";
    assert_eq!(fs::read_to_string(rest).unwrap(), mmio);
}

#[test]
fn a_trace_that_is_cut_by_the_timeout_ends_with_a_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = in_folder(&folder, "log");
    let ended = run(Code::new().print("x").jump(0), &["--timeout", "500ms", "--trace", &format!("io:{log}")]);
    assert_eq!(ended.status, 124);
    assert!(!ended.stderr.contains("lost"), "{}", ended.stderr);
    let trace = fs::read_to_string(log).unwrap();
    assert!(trace.ends_with("\n") && trace.lines().all(|line| line.ends_with("size=1 value=0x78")), "{trace}");
}

#[test]
fn a_full_disk_is_reported_once_and_the_guest_goes_on() {
    let ended = run(Code::new().print("on and on").power_off(), &["--trace", "exec,io:/dev/full"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "on and on"));
    assert_eq!(ended.stderr.matches("/dev/full").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_the_guest_runs() {
    for (trace, word) in [("io:/no/such/folder/log", "/no/such/folder/log"), ("io:/", "/"), ("cpu", "exec, int")] {
        let ended = run(Code::new().print("ran").power_off(), &["--trace", trace]);
        assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{trace}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{trace}: {}", ended.stderr);
    }
}

#[test]
fn a_reader_that_goes_away_or_sleeps_does_not_keep_motu_alive() {
    let kernel = Kernel::new(Code::new().print("x").jump(0));
    let path = kernel.path();
    let start = |more: &[&str]| {
        command(args(path.to_str().unwrap(), &[&["--console", "none", "--trace", "exec"], more].concat()))
            .spawn()
            .unwrap()
    };
    let mut gone = start(&[]);
    let mut first = [0; 9];
    gone.stderr.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!((&first, gone.wait().unwrap().code()), (b"exec cpu0", Some(141)));

    let mut asleep = start(&["--timeout", "500ms"]);
    let unread = asleep.stderr.take().unwrap();
    assert_eq!(asleep.wait().unwrap().code(), Some(124));
    drop(unread);
}

#[test]
fn a_crash_of_16_bit_code_is_reported_in_its_own_terms() {
    // lidt [0x7c10], whose limit is 0; int 0x21
    let mut code = vec![0xfa, 0x0f, 0x01, 0x1e, 0x10, 0x7c, 0x90, 0x90, 0xcd, 0x21];
    code.resize(32, 0);
    let ended = run_real(&code, &[]);
    assert_eq!(ended.status, 123, "{}", ended.stderr);
    for line in ["in real mode, at 0000:7c08", "  0000:7c01  lidt [7C10h]", "  0000:7c08  int 21h"] {
        assert!(ended.stderr.lines().any(|shown| shown == line), "no {line:?} in\n{}", ended.stderr);
    }
}

#[test]
fn a_trace_of_a_crash_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let log = in_folder(&folder, "log");
    let ended = run(Code::new().triple_fault(), &["--trace", &format!("exec:{log}")]);
    assert_eq!(ended.status, 123);
    assert!(ended.stderr.contains("in protected mode, 32-bit code, CPL 0, at 0010:0010001b"), "{}", ended.stderr);
    let trace = fs::read_to_string(Path::new(&log)).unwrap();
    assert!(trace.ends_with(" ud2\n"), "{trace}");
}

#[test]
fn no_instruction_is_left_out_of_a_trace() {
    // mov ss, ax holds interrupts off for the next one; mov ax, 0x1234 at 0x7ffe crosses a page; out 0xf4, al.
    let mut code = vec![0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xe9, 0xf4, 0x03];
    code.resize(0x3fe, 0x90);
    code.extend([0xb8, 0x34, 0x12, 0xe6, 0xf4, 0xeb, 0xfe]);
    let ended = run_real(&code, &["--debug-exit", "--trace", "exec"]);
    assert_eq!(ended.status, 0x69);
    let texts: Vec<_> = ended.stderr.lines().filter_map(|line| line.splitn(5, ' ').nth(4)).collect();
    let expected = ["xor ax,ax", "mov ss,ax", "mov sp,7C00h", "jmp 7FFEh", "mov ax,1234h", "out 0F4h,al"];
    assert_eq!(texts, expected);
}

#[test]
fn what_leads_to_a_triple_fault_is_told() {
    let ended = run(Code::new().triple_fault(), &["--trace", "int"]);
    let vectors: Vec<_> = ended.stderr.lines().filter(|line| line.starts_with("int ")).collect();
    // The first fault finds no gate, nor does that fault, nor the double fault that comes of it.
    assert_eq!(vectors.len(), 3, "{vectors:?}");
    for (line, name) in vectors.iter().zip([" #UD ", " #GP error=0x0033 ", " #DF error=0x0000 "]) {
        assert!(line.contains(name), "{vectors:?}");
    }
}

#[test]
fn a_crash_report_ends_at_the_instruction_that_crashed() {
    let ended = run(Code::new().print("many instructions").triple_fault(), &[]);
    let (_, last) = ended.stderr.split_once("the newest at the end:\n").unwrap();
    let texts: Vec<_> = last.trim_end().lines().filter_map(|line| line.split_once("  0010:")).collect();
    // Three for each letter, lidt and ud2.
    assert_eq!(texts.len(), 3 * 17 + 2, "{last}");
    assert!(last.trim_end().ends_with("  ud2"), "{last}");
}
