//! The image `tiny`: commands and a shell in it. The first run makes it, which takes a network.

use motu_e2e::{Terminal, command, motu, motu_with};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;

#[test]
fn a_commands_output_and_status_are_its_own() {
    let ended = motu(["run", "--", "sh", "-c", "uname -s; echo oh >&2; exit 7"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (7, "Linux\n"));
    assert!(ended.stderr.ends_with("oh\n"), "{}", ended.stderr);
}

#[test]
fn a_command_that_cannot_be_run_has_the_shells_status() {
    assert_eq!(motu(["run", "--", "no-such-command"]).status, 127);
    assert_eq!(motu(["run", "--", "/etc/passwd"]).status, 126);
    assert_eq!(motu(["run", "--", "sh", "-c", "kill -9 $$"]).status, 137);
}

#[test]
fn input_reaches_the_command_whole() {
    // More than every buffer on the way holds.
    let input: Vec<u8> = (0..700_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let ended = motu_with(["run", "--", "sha256sum"], &input);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let expected = std::process::Command::new("sha256sum").stdin(temporary(&input)).output().unwrap();
    assert_eq!(ended.stdout, String::from_utf8_lossy(&expected.stdout));
}

fn temporary(content: &[u8]) -> std::fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn much_output_arrives_whole_and_a_reader_that_goes_away_ends_it() {
    let ended = motu(["run", "--", "sh", "-c", "seq 1 200000"]);
    assert_eq!((ended.status, ended.stdout.lines().count()), (0, 200_000));
    assert!(ended.stdout.ends_with("\n200000\n"));

    let mut child = command(["run", "--", "yes"]).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!((&first, child.wait().unwrap().code()), (b"y\n", Some(141)));
}

#[test]
fn a_script_on_stdin_is_run_by_a_shell() {
    let ended = motu_with(["run"], b"echo $((6 * 7))\nexit 3\n");
    assert_eq!((ended.status, ended.stdout.as_str()), (3, "42\n"));
}

#[test]
fn a_signal_is_the_commands() {
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 1; done";
    let mut child = command(["run", "--", "sh", "-c", script]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(9), "caught\n"));
}

#[test]
fn the_timeout_ends_a_command() {
    let ended = motu(["run", "--timeout", "1s", "--", "sleep", "1000"]);
    assert_eq!(ended.status, 124);
}

#[test]
fn a_guest_that_is_switched_off_under_a_command_is_an_error() {
    let ended = motu(["run", "--", "sh", "-c", "poweroff -f; sleep 1000"]);
    assert_eq!(ended.status, 125, "{}", ended.stderr);
}

#[test]
fn a_guest_that_restarts_under_a_command_is_said_to_have_done_so() {
    let ended = motu(["run", "--", "sh", "-c", "reboot -f; sleep 1000"]);
    assert_eq!(ended.status, 123, "{}", ended.stderr);
    assert!(ended.stderr.contains("the guest restarted before its command ended"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("crashed"), "{}", ended.stderr);
}

#[test]
fn a_kernel_panic_is_a_crash_and_its_message_is_shown() {
    let ended = motu(["run", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000"]);
    assert_eq!(ended.status, 123, "{}", ended.stderr);
    assert!(ended.stderr.contains("Kernel panic"), "{}", ended.stderr);
}

#[test]
fn a_shell_has_a_terminal_of_this_ones_size() {
    let mut terminal = Terminal::start(command(["run"]));
    terminal.wait_for("# ");
    assert!(!terminal.echoes(), "the guest's terminal echoes, and this one does not");
    terminal.type_in("stty size; tty\r");
    let shown = terminal.wait_for("/dev/pts/0");
    assert!(shown.contains("33 111"), "{shown}");
    terminal.type_in("exit 5\r");
    assert_eq!(terminal.end().code(), Some(5));
    assert!(terminal.echoes());
}

#[test]
fn images_are_listed_and_what_is_not_there_cannot_be_removed() {
    let home = tempfile::tempdir().unwrap();
    let image = |args: &[&str]| {
        let output = command([&["image"], args].concat()).env("MOTU_HOME", home.path()).output().unwrap();
        motu_e2e::Ended::from(output)
    };
    let listed = image(&["ls"]);
    assert_eq!((listed.status, listed.stdout.lines().count()), (0, 1), "a heading and no image");
    assert_eq!(image(&["ls", "--json"]).stdout, "[]\n");
    let removed = image(&["rm", "tiny"]);
    assert_eq!(removed.status, 125);
    assert!(removed.stderr.contains("tiny"), "{}", removed.stderr);
}
