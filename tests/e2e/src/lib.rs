//! motu as its users run it: the built program, its exit status and its output.
#![forbid(unsafe_code)]

pub mod gdb;
mod guest;
pub mod newc;
pub mod packages;
mod screen;
mod terminal;

pub use guest::{Code, Kernel};
pub use screen::Screen;
pub use terminal::Terminal;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

/// What a run of motu came to.
#[derive(Debug)]
pub struct Ended {
    /// 128 + n if signal n ended motu itself.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let by_signal = || output.status.signal().map_or(-1, |signo| 128 + signo);
        Self {
            status: output.status.code().unwrap_or_else(by_signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// `motu` with these arguments; its images are the tests' own.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("MOTU_LOG");
    command.env("MOTU_HOME", home());
    command
}

/// Where the tests' images are: `MOTU_HOME` if it is set, else in the target folder.
pub fn home() -> PathBuf {
    std::env::var_os("MOTU_HOME").map_or_else(|| target().join("e2e-home"), PathBuf::from)
}

/// Runs `motu` with these arguments to its end, without input.
pub fn motu<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ended {
    command(args).output().expect("motu starts").into()
}

/// The same with this input.
pub fn motu_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Ended {
    let mut child: Child = command(args).stdin(Stdio::piped()).spawn().expect("motu starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_vec();
    // A motu that ends early leaves input unread.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("motu ends");
    feeder.join().expect("the input's thread ends");
    output.into()
}

/// The program: `MOTU_BIN` (`cargo xtask check` has built it), else built with the tests' own profile.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(built) = std::env::var_os("MOTU_BIN") {
            return built.into();
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "motu", "--target-dir"]).arg(target());
        if profile_folder().ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo can be run");
        assert!(status.success(), "motu does not build: {status}");
        profile_folder().join("motu")
    })
}

/// The folder of this profile's programs: the test's own is in `deps` below it.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its program");
    test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_owned()
}

fn target() -> PathBuf {
    profile_folder().parent().expect("a profile's folder lies in target").to_owned()
}
