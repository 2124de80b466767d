//! Which engine runs a machine, and what a person hears of it.

use motu_e2e::{Code, Ended, Kernel, Terminal, command, motu};
use std::os::unix::process::CommandExt;
use std::path::Path;

fn args(kernel: &Kernel, more: &[&str]) -> Vec<String> {
    let path = kernel.path();
    let run = ["run", "--memory", "16M", "--timeout", "60s", "--kernel", path.to_str().unwrap()];
    run.iter().chain(more).map(|&word| word.to_owned()).collect()
}

fn run(code: Code, more: &[&str]) -> Ended {
    let kernel = Kernel::new(code);
    motu(args(&kernel, more))
}

/// The engine that `--stats` names.
fn engine(ended: &Ended) -> String {
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix("engine"));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn a_small_kernel_runs_on_kvm() {
    if !Path::new("/dev/kvm").exists() {
        return println!("SKIPPED: there is no /dev/kvm");
    }
    let ended = run(Code::new().print("x").power_off(), &["--engine", "kvm", "--stats"]);
    if ended.status == 125 {
        assert!(ended.stderr.contains("use --engine soft"), "{ended:?}");
        return println!("SKIPPED: {}", ended.stderr.trim());
    }
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "x"), "{ended:?}");
    assert!(engine(&ended).starts_with("kvm (as asked"), "{ended:?}");
    assert!(ended.stderr.contains("exits from guest code"), "{ended:?}");
    // Without hardware there is a warning, and no other time.
    let warns = ended.stderr.contains("warning: /dev/kvm has no hardware behind it");
    assert_eq!(warns, engine(&ended).contains("without hardware"), "{ended:?}");
}

/// A figure of `--stats`.
fn figure(ended: &Ended, name: &str) -> Option<u64> {
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().replace(',', "").parse().ok()
}

#[test]
fn what_kvm_cannot_emulate_the_software_engine_runs() {
    let code = Code::new().print("a").popcnt().print("b").popcnt().print("c").power_off();
    let ended = run(code, &["--engine", "kvm", "--stats"]);
    if ended.status == 125 {
        return println!("SKIPPED: {}", ended.stderr.trim());
    }
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "abc"), "{ended:?}");
    // Hardware knows the instruction, an emulator does not.
    let emulated = engine(&ended).contains("without hardware");
    assert_eq!(figure(&ended, "instructions rescued"), Some(if emulated { 2 } else { 0 }), "{ended:?}");
}

#[test]
fn auto_is_the_default_and_says_nothing_to_a_pipe() {
    let quiet = run(Code::new().print("x").power_off(), &[]);
    assert_eq!((quiet.status, quiet.stdout.as_str(), quiet.stderr.as_str()), (0, "x", ""));
    for more in [&["--stats"][..], &["--stats", "--engine", "auto"]] {
        let ended = run(Code::new().power_off(), more);
        assert!(engine(&ended).contains("(auto: "), "{ended:?}");
    }
    let log = run(Code::new().power_off(), &["--verbose"]);
    assert!(log.stderr.contains("engine ") && log.stderr.contains("auto: "), "{log:?}");
}

#[test]
fn why_auto_took_the_software_engine_is_told_once_to_a_person() {
    let home = tempfile::tempdir().unwrap();
    let kernel = Kernel::new(Code::new().print("ready").power_off());
    let on_terminal = || {
        let mut motu = command(args(&kernel, &[]));
        motu.env("MOTU_HOME", home.path());
        let mut terminal = Terminal::start(motu);
        let screen = terminal.wait_for("ready");
        assert_eq!(terminal.end().code(), Some(0));
        screen
    };
    let first = on_terminal();
    if engine(&run(Code::new().power_off(), &["--stats"])).starts_with("kvm") {
        assert!(!first.contains("engine"), "{first}");
        return;
    }
    assert!(first.contains("motu: using the soft engine: "), "{first}");
    let second = on_terminal();
    assert!(!second.contains("engine"), "{second}");
}

#[test]
fn kvm_without_the_right_to_it_is_one_clear_error() {
    let closed = std::fs::metadata("/dev/kvm").is_ok_and(|kvm| {
        use std::os::unix::fs::PermissionsExt;
        kvm.permissions().mode() & 0o006 == 0
    });
    if !closed {
        return println!("SKIPPED: /dev/kvm is missing, or open to everybody");
    }
    let kernel = Kernel::new(Code::new().power_off());
    let mut motu = command(args(&kernel, &["--engine", "kvm"]));
    // Nobody: on Debian and elsewhere.
    motu.uid(65534);
    let ended: Ended = match motu.output() {
        Ok(output) => output.into(),
        Err(error) => return println!("SKIPPED: no other user can be had: {error}"),
    };
    assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{ended:?}");
    for word in ["/dev/kvm", "permission denied", "usermod -aG kvm", "--engine soft"] {
        assert!(ended.stderr.contains(word), "no {word:?} in {ended:?}");
    }
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[test]
fn what_only_the_software_engine_can_do_is_not_asked_of_kvm() {
    for more in [&["--trace", "exec"][..], &["--trace", "io,int"]] {
        let ended = run(Code::new().power_off(), &[&["--engine", "kvm"], more].concat());
        assert_eq!(ended.status, 125, "{ended:?}");
        assert!(ended.stderr.contains(more[0]) && ended.stderr.contains("--engine soft"), "{ended:?}");
    }
}

#[test]
fn more_cpus_than_kvm_runs_are_refused() {
    let ended = run(Code::new().power_off(), &["--engine", "kvm", "--cpus", "65"]);
    assert_eq!(ended.status, 125, "{ended:?}");
    if ended.stderr.contains("use --engine soft") {
        return println!("SKIPPED: {}", ended.stderr.trim());
    }
    assert!(ended.stderr.contains("kvm") && ended.stderr.contains("at most"), "{ended:?}");
}

/// The image `tiny`, while its machine goes to and fro.
#[test]
fn debian_boots_and_runs_a_command_while_the_machine_switches_engines() {
    for cpus in ["1", "4"] {
        let options = ["run", "--engine", "soft,soft", "--switch-every", "10ms", "--cpus", cpus, "--timeout", "300s"];
        let ended = motu(options.iter().chain(&["--stats", "--", "nproc"]));
        assert_eq!((ended.status, ended.stdout.trim()), (0, cpus), "{ended:?}");
        assert!(figure(&ended, "engine switches").is_some_and(|switches| switches > 10), "{ended:?}");
        assert_eq!(figure(&ended, "  refused by an engine"), Some(0), "{ended:?}");
    }
}

#[test]
fn a_small_kernel_runs_on_kvm_and_soft_by_turns() {
    if !Path::new("/dev/kvm").exists() {
        return println!("SKIPPED: there is no /dev/kvm");
    }
    let code = Code::new().print("a").popcnt().print("b").power_off();
    let ended = run(code, &["--engine", "kvm,soft", "--switch-every", "1ms", "--stats"]);
    if ended.status == 125 {
        assert!(ended.stderr.contains("use --engine soft"), "{ended:?}");
        return println!("SKIPPED: {}", ended.stderr.trim());
    }
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "ab"), "{ended:?}");
    assert!(engine(&ended).starts_with("kvm,soft (as asked"), "{ended:?}");
}
