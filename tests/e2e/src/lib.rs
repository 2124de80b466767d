//! motu as its users run it: the built program, its exit status and its output.
#![forbid(unsafe_code)]

pub mod gdb;
mod guest;
mod home;
pub mod newc;
pub mod packages;
pub mod registry;
mod screen;
mod terminal;

pub use guest::{Code, Kernel};
pub use home::Home;
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

/// Makes a small root file system's files: the static busybox that `tiny` was made from, `/etc/passwd` with a user `app`, a file
/// with several names.
///
/// # Panics
/// `tiny` cannot be made, or the files not be written.
pub fn root_tree(root: &Path) {
    use std::os::unix::fs::symlink;
    assert_eq!(motu(["run", "--", "true"]).status, 0, "tiny can be made");
    let record = std::fs::read(home().join("packages/tiny.json")).expect("its packages are kept");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("a record");
    let packages = record["packages"].as_array().expect("packages");
    let busybox = packages.iter().find(|package| package["name"] == "busybox-static").expect("busybox is one of them");
    let blob = home().join("blobs/sha256").join(busybox["digest"].as_str().expect("a digest"));
    let package = tempfile::tempdir().expect("a folder");
    let unpacked = Command::new("dpkg-deb").arg("--extract").arg(&blob).arg(package.path()).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "dpkg-deb unpacks {}", blob.display());
    let folders = ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "home/app", "srv"];
    folders.iter().for_each(|folder| std::fs::create_dir_all(root.join(folder)).expect("a folder"));
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| package.path().join(path));
    let busybox = busybox.iter().find(|path| path.is_file()).expect("the package has busybox");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("busybox");
    let tools =
        "sh ls cat mount df echo env id pwd dd sync sleep seq uname mkdir rm stat head wc test true false fstrim touch";
    tools.split(' ').for_each(|tool| symlink("busybox", root.join("bin").join(tool)).expect("a link"));
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
        ("etc/group", "root:x:0:\napp:x:1000:\n"),
        ("etc/motd", "hello from the tree\n"),
    ];
    files.iter().for_each(|(path, text)| std::fs::write(root.join(path), text).expect("a file"));
    std::fs::hard_link(root.join("etc/motd"), root.join("etc/hard")).expect("a link");
    symlink("/etc/motd", root.join("etc/absolute")).expect("a link");
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
