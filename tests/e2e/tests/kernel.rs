//! Kernels of one's own: a few instructions each.

use motu_e2e::{Code, Ended, Kernel, Terminal, command, motu};
use std::io::Read;

fn args<'a>(kernel: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--memory", "16M", "--kernel", kernel], more].concat()
}

fn run(code: Code, more: &[&str]) -> Ended {
    let kernel = Kernel::new(code);
    motu(args(kernel.path().to_str().unwrap(), more))
}

#[test]
fn the_serial_console_is_on_stdout_and_power_off_is_success() {
    let ended = run(Code::new().print("hello\n").power_off(), &[]);
    assert_eq!((ended.status, ended.stdout.as_str(), ended.stderr.as_str()), (0, "hello\n", ""));
}

#[test]
fn the_console_goes_where_it_is_told() {
    let kernel = Kernel::new(Code::new().print("hello\n").power_off());
    let path = kernel.path();
    let log = kernel.folder().join("log");
    let ended = motu(args(path.to_str().unwrap(), &["--console", log.to_str().unwrap()]));
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(log).unwrap(), "hello\n");
    let ended = motu(args(path.to_str().unwrap(), &["--console", "none"]));
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""));
}

#[test]
fn a_triple_fault_is_reported_with_registers_and_the_last_instructions() {
    let ended = run(Code::new().print("soon").triple_fault(), &[]);
    assert_eq!((ended.status, ended.stdout.as_str()), (123, "soon"));
    for word in ["triple fault", "eip=001000", "cr0=", "ud2", "lidt"] {
        assert!(ended.stderr.contains(word), "no {word} in\n{}", ended.stderr);
    }
}

#[test]
fn a_guest_that_spins_is_ended_by_the_timeout() {
    let ended = run(Code::new().print("on").jump(0), &["--timeout", "500ms", "--console", "none"]);
    assert_eq!(ended.status, 124);
    assert!(ended.stderr.contains("--timeout"), "{}", ended.stderr);
}

#[test]
fn a_guest_that_floods_a_console_which_nobody_reads_is_ended_by_the_timeout() {
    let kernel = Kernel::new(Code::new().print("flood").jump(0));
    let mut child = command(args(kernel.path().to_str().unwrap(), &["--timeout", "500ms"])).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(124));
    let mut printed = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut printed).unwrap();
    assert!(printed.starts_with(b"floodflood"));
}

#[test]
fn a_reader_that_goes_away_ends_the_machine() {
    let kernel = Kernel::new(Code::new().print("flood").jump(0));
    let mut child = command(args(kernel.path().to_str().unwrap(), &[])).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141), "as SIGPIPE ends a program");
}

#[test]
fn a_reset_starts_the_kernel_again() {
    let kernel = Kernel::new(Code::new().print("boot\n").reset().spin());
    let mut child = command(args(kernel.path().to_str().unwrap(), &[])).spawn().unwrap();
    let mut printed = [0; 15];
    child.stdout.take().unwrap().read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"boot\nboot\nboot\n");
    child.wait().unwrap();
}

#[test]
fn figures_of_the_run_are_printed_when_asked_for() {
    let ended = run(Code::new().print("x").power_off(), &["--stats", "--engine", "soft,translate=off"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "x"));
    for word in ["engine", "soft", "guest instructions", "TLB misses", "port writes", "wall time", "peak memory"] {
        assert!(ended.stderr.contains(word), "no {word} in\n{}", ended.stderr);
    }
}

#[test]
fn ctrl_bracket_leaves_and_gives_the_terminal_back() {
    let kernel = Kernel::new(Code::new().print("ready").spin());
    let mut terminal = Terminal::start(command(args(kernel.path().to_str().unwrap(), &[])));
    terminal.wait_for("ready");
    assert!(!terminal.echoes(), "the terminal is raw while the machine runs");
    terminal.type_in("abc\x1d");
    assert_eq!(terminal.end().code(), Some(0));
    assert!(terminal.echoes());
}

#[test]
fn a_signal_ends_it_and_gives_the_terminal_back() {
    use rustix::process::{Signal, kill_process};
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let kernel = Kernel::new(Code::new().print("ready").spin());
        let mut terminal = Terminal::start(command(args(kernel.path().to_str().unwrap(), &[])));
        terminal.wait_for("ready");
        kill_process(terminal.pid(), signal).unwrap();
        assert_eq!(terminal.end().code(), Some(status));
        assert!(terminal.echoes());
    }
}
