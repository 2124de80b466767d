//! The command line.

mod env;
mod export;
mod image;
pub mod life;
mod seed;

pub use export::ExportFormat;
pub use image::{BuildArgs, ImageCommand, MadeArgs, PruneArgs, SystemCommand};

use crate::commands::doctor::Form;
use crate::status;
use anyhow::Result;
use clap::{ArgAction, Args, Parser, Subcommand};
use life::{
    CpArgs, CreateArgs, DiskCommand, ExecArgs, KillArgs, LogsArgs, LsArgs, NamesArgs, OwnArgs, RenameArgs, RmArgs,
    StatsArgs, StopArgs, VmmArgs,
};
use motu_spec::{
    ByteSize, Console, DiskSpec, EngineChoice, Gdb, GuestAddress, KernelMode, Period, Profile, ShareSpec, Timeout,
    Trace, VmSpec,
};
use seed::SeedArgs;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Virtual machines anywhere x86-64 Linux runs
#[derive(Debug, Parser)]
#[command(name = "motu", version, after_help = status::HELP)]
pub struct Cli {
    /// Show motu's own log on stderr; given twice, more of it
    #[arg(long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a machine, run a command or a shell in it, and exit with its status
    Run(Box<RunArgs>),
    /// Make a machine that stays, and do not start it
    Create(Box<CreateArgs>),
    /// Start machines that stay
    Start(NamesArgs),
    /// Have machines end their processes and switch themselves off
    Stop(StopArgs),
    /// Switch machines off at once, or send a signal to their command
    Kill(KillArgs),
    /// Remove machines, with all that they have written
    Rm(RmArgs),
    /// List machines
    #[command(visible_alias = "ps")]
    Ls(LsArgs),
    /// Show all that is known of machines, as JSON
    Inspect(NamesArgs),
    /// Show what machines that run use, once
    Stats(StatsArgs),
    /// Show what a machine's command wrote
    Logs(LogsArgs),
    /// Run a command in a machine that runs, and exit with its status
    Exec(Box<ExecArgs>),
    /// Copy files and folders from a machine that runs, or to one
    Cp(CpArgs),
    /// Give a machine another name
    Rename(RenameArgs),
    /// Wait until machines end, and print what their commands exited with
    Wait(NamesArgs),
    /// Look after machines' disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// The process of a machine that stays
    #[command(hide = true)]
    Vmm(VmmArgs),
    /// Show what this host can do for motu, and what to do about the rest
    #[command(after_help = "Exit status:\n  0    all is well\n  1    there is a problem that can be mended")]
    Doctor(DoctorArgs),
    /// Get, show and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look after all that motu keeps
    #[command(subcommand)]
    System(SystemCommand),
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the commands that change what can be changed; nothing is run
    #[arg(long, conflicts_with = "json")]
    fix: bool,
}

impl DoctorArgs {
    pub fn form(&self) -> Form {
        match (self.json, self.fix) {
            (true, _) => Form::Json,
            (_, true) => Form::Commands,
            _ => Form::Table,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = status::HELP)]
pub struct RunArgs {
    /// Image to boot [default: tiny]
    #[arg(conflicts_with = "kernel")]
    pub image: Option<String>,
    /// Command to run in the image instead of a shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    /// Start a machine that stays and leave it running; its name, or its ID, is printed
    #[arg(long, short, conflicts_with = "kernel")]
    pub detach: bool,
    #[command(flatten)]
    pub own: OwnArgs,
    /// Boot this kernel (bzImage, PVH ELF or multiboot, told by its content), its serial console on this
    /// terminal; a machine that resets is booted again
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for --kernel; for a multiboot kernel its modules, 'FILE ARG...,FILE ARG...', with ,,
    /// for a comma of the text
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Load --kernel at this address, such as 0x7c00, whatever it is, and start at its first byte (as QEMU's
    /// -device loader,addr=,cpu-num=0)
    #[arg(long, value_name = "ADDR", requires = "kernel", allow_hyphen_values = true)]
    pub kernel_address: Option<GuestAddress>,
    /// The processor's mode at --kernel-address: real, protected or long [default: protected]
    #[arg(long, value_name = "MODE", requires = "kernel_address")]
    pub kernel_mode: Option<KernelMode>,
    /// Kernel command line; with an image, added to the image's own
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// RAM, such as 256M or 1.5G
    #[arg(long, short, value_name = "SIZE", default_value_t = motu_spec::DEFAULT_MEMORY, allow_hyphen_values = true)]
    pub memory: ByteSize,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub cpus: u32,
    /// Give the machine a disk: a raw or qcow2 file, or a block device; may be repeated. A raw disk that is written must be
    /// said to be one (format=raw, or a name that ends in .raw or .img). Options: path=FILE, format=raw|qcow2|auto, readonly,
    /// serial=TEXT, size=SIZE (20G makes a disk that is not there), io=auto|threads
    #[arg(long = "disk", value_name = "FILE[,OPTION...]", value_parser = disk_parser())]
    pub disks: Vec<DiskSpec>,

    /// Share a folder of the host with the guest, at this path there, read-only with :ro; may be repeated. A kernel of your own
    /// mounts it by the tag share0, share1 and so on: mount -t virtiofs share0 /mnt
    #[arg(
        short = 'v',
        long = "volume",
        value_name = "HOST:GUEST[:ro]",
        value_parser = share_parser()
    )]
    pub shares: Vec<ShareSpec>,
    #[command(flatten)]
    pub seed: SeedArgs,
    /// What runs the guest's instructions: kvm (the host's CPU), soft (motu's own), or auto: kvm where there is
    /// hardware for it. To find faults in the soft engine, options may follow:
    /// translate=off|on|lockstep (to host code; lockstep: compared with the interpreter block by block),
    /// deny=ADDR:LOW-HIGH:... (code at these hexadecimal addresses is interpreted), flags=live|exact (exact:
    /// arithmetic flags are right where only a debugger looks, too, which costs speed), stress=SEED (looks for
    /// interrupts every few instructions); such as soft,translate=off
    #[arg(long, value_name = "ENGINE[,OPTION...]", default_value_t)]
    pub engine: EngineChoice,
    /// Go over to the other of two engines every so often while the machine runs, such as 10ms with --engine kvm,soft or
    /// soft,soft: to find faults in what moves a machine
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub switch_every: Option<Period>,
    /// CPU contract that the guest sees: v3-2026, v2-2026 or max-2026 [default: the first of them that this host can keep]
    #[arg(long, value_name = "NAME")]
    pub cpu: Option<String>,
    /// Stop the machine after this time, such as 30s or 5m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub timeout: Option<Timeout>,
    /// Where the serial console goes: a file, none, or stdio [default: stdio with --kernel, else none]
    #[arg(long, value_name = "FILE|none|stdio", value_parser = console_parser())]
    pub console: Option<Console>,
    /// Run the command on a terminal of its own, as ssh -t does; a shell on a terminal always has one
    #[arg(long, short, conflicts_with = "kernel")]
    pub tty: bool,
    /// Print what the machine did, on stderr, when it has ended
    #[arg(long)]
    pub stats: bool,
    /// Give the machine QEMU's isa-debug-exit: a value v that the guest writes to port 0xf4 ends it, and
    /// motu exits with (v << 1 | 1) & 0xff
    #[arg(long)]
    pub debug_exit: bool,
    /// Write a line to FILE, or to stderr, for each instruction (exec), exception and interrupt (int), access to
    /// a port (io), access to memory that is no RAM (mmio); such as int,io:FILE; may be repeated
    #[arg(long = "trace", value_name = "exec|int|mmio|io[,...][:FILE]", value_parser = trace_parser())]
    pub traces: Vec<Traces>,
    /// Write a flame graph of where the guest's time went to FILE: an SVG picture, for a browser
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// What the kernel's code is called, for --profile: System.map, vmlinux or the guest's /proc/kallsyms
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub symbols: Option<PathBuf>,
    /// Let gdb attach at ADDR: HOST:PORT, :PORT for 127.0.0.1, or a Unix socket's path. With ,wait the machine runs
    /// its first instruction only when gdb says so (as QEMU's -gdb and -S)
    #[arg(long, value_name = "ADDR[,wait]")]
    pub gdb: Option<Gdb>,
}

/// What one `--trace` asks for.
#[derive(Clone, Debug)]
pub struct Traces(Vec<Trace>);

/// Keeps a path that is not UTF-8 as it is.
fn disk_parser() -> impl clap::builder::TypedValueParser<Value = DiskSpec> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text: OsString| DiskSpec::parse(&text))
}

/// Keeps a path that is not UTF-8 as it is.
fn share_parser() -> impl clap::builder::TypedValueParser<Value = ShareSpec> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text: OsString| ShareSpec::parse(&text))
}

/// Keeps a path that is not UTF-8 as it is.
fn trace_parser() -> impl clap::builder::TypedValueParser<Value = Traces> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text: OsString| Trace::parse_list(&text).map(Traces))
}

/// Keeps a path that is not UTF-8 as it is.
fn console_parser() -> impl clap::builder::TypedValueParser<Value = Console> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text: OsString| match text.to_str() {
        _ if text.as_bytes().is_empty() => Err("give a file's name, none or stdio"),
        Some(text) => Ok(Console::from(text)),
        None => Ok(Console::File(text.into())),
    })
}

impl RunArgs {
    /// What was asked for, with the texts of files that are given to cloud-init.
    ///
    /// # Errors
    /// One of these files cannot be read, or is not what it should be.
    pub fn spec(&self) -> Result<VmSpec> {
        Ok(VmSpec {
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            kernel_address: self.kernel_address,
            kernel_mode: self.kernel_mode,
            cmdline: self.append.clone(),
            memory: self.memory,
            cpus: self.cpus,
            disks: self.disks.clone(),
            shares: self.shares.clone(),
            seed: self.seed.spec()?,
            engine: self.engine.clone(),
            switch_every: self.switch_every,
            cpu: self.cpu.clone(),
            console: self.console.clone(),
            timeout: self.timeout,
            debug_exit: self.debug_exit,
            traces: self.traces.iter().flat_map(|traces| traces.0.clone()).collect(),
            profile: self.profile.clone().map(|file| Profile { file, symbols: self.symbols.clone() }),
            gdb: self.gdb.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use motu_spec::Growth;

    fn run_args(line: &[&str]) -> Result<RunArgs, clap::Error> {
        match Cli::try_parse_from([&["motu", "run"], line].concat())?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?} is not a run"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_given_is_the_default_spec() {
        assert_eq!(run_args(&[]).unwrap().spec().unwrap(), VmSpec::default());
    }

    #[test]
    fn what_follows_the_dashes_is_the_command() {
        let args = run_args(&["--memory", "1G", "--", "sh", "-c", "exit 7"]).unwrap();
        assert_eq!(args.image, None);
        assert_eq!(args.command, ["sh", "-c", "exit 7"]);
        assert_eq!(args.memory, ByteSize::gib(1));
        let args = run_args(&["tiny", "--", "--help"]).unwrap();
        assert_eq!((args.image.as_deref(), args.command), (Some("tiny"), vec!["--help".into()]));
    }

    #[test]
    fn bad_values_say_what_would_have_been_right() {
        let cases: [(&[&str], &str); 26] = [
            (&["--disk", "d,format=vmdk"], "raw, qcow2 and auto"),
            (&["--disk", "d,ro"], "readonly"),
            (&["-v", "data:/data"], "./data"),
            (&["-v", "./data"], "HOST:GUEST"),
            (&["-v", "./data:/data:z"], "ro and rw"),
            (&["--gdb", "localhost"], "127.0.0.1:1234"),
            (&["--memory", "lots"], "512M"),
            (&["--timeout", "-1"], "30s"),
            (&["--cpus", "-1"], "0..="),
            (&["--engine", "fast"], "auto, kvm and soft"),
            (&["--engine", "soft,fast"], "translate=off|on|lockstep"),
            (&["--engine", "kvm,translate=off"], "auto and soft"),
            (&["--engine", "kvm,kvm,soft"], "kvm,soft"),
            (&["--engine", "kvm,soft", "--switch-every", "10"], "10ms"),
            (&["--engine", "kvm,soft", "--switch-every", "0"], "1ms"),
            (&["--memroy", "1G"], "--memory"),
            (&["--trace", "cpu"], "exec, int, mmio and io"),
            (&["--trace", "io:"], "io:FILE"),
            (&["--symbols", "x"], "--profile"),
            (&["--initrd", "x"], "--kernel"),
            (&["--kernel-address", "0x7c00"], "--kernel"),
            (&["--kernel", "k", "--kernel-address", "top"], "0x7c00"),
            (&["--kernel", "k", "--kernel-address", "-1"], "0x7c00"),
            (&["--kernel", "k", "--kernel-mode", "long"], "--kernel-address"),
            (&["--kernel", "k", "--kernel-address", "0", "--kernel-mode", "16"], "real, protected and long"),
            (&["tiny", "--kernel", "k"], "cannot be used with"),
        ];
        for (line, expected) in cases {
            let error = run_args(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_disk_may_be_left_out_before_its_size() {
        let parse = |line: &[&str]| match Cli::try_parse_from([&["motu", "disk", "resize"], line].concat())?.command {
            Command::Disk(DiskCommand::Resize(args)) => Ok((args.grow_fs, args.machine, args.disk, args.size)),
            other => panic!("{other:?} is no resize"),
        };
        let size = Growth::By(ByteSize::gib(2));
        for line in [&["--grow-fs", "web", "+2G"], &["web", "--grow-fs", "+2G"]] {
            assert_eq!(parse(line).unwrap(), (true, "web".into(), None, size), "{line:?}");
        }
        assert_eq!(parse(&["web", "vdb", "+2G"]).unwrap(), (false, "web".into(), Some("vdb".into()), size));
        let cases: [(&[&str], &str); 4] = [
            (&["web", "-2G"], "does not shrink"),
            (&["web", "vdb", "-2G"], "does not shrink"),
            (&["web", "vdb", "big"], "+2G"),
            (&["web"], "<SIZE>"),
        ];
        for (line, expected) in cases {
            let error = parse(line).map_err(|error: clap::Error| error.to_string()).unwrap_err();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
    }

    #[test]
    fn a_kernel_may_have_an_address_and_a_mode() {
        let spec = run_args(&["--kernel", "k", "--kernel-address", "0x7c00"]).unwrap().spec().unwrap();
        assert_eq!((spec.kernel_address, spec.kernel_mode), (Some(GuestAddress(0x7c00)), None));
        let line = ["--kernel", "k", "--kernel-address", "1048576", "--kernel-mode", "real"];
        let spec = run_args(&line).unwrap().spec().unwrap();
        assert_eq!((spec.kernel_address, spec.kernel_mode), (Some(GuestAddress(1 << 20)), Some(KernelMode::Real)));
    }

    #[test]
    fn traces_are_listed_repeated_or_both() {
        let traces = run_args(&["--trace", "int,io:log", "--trace=exec"]).unwrap().spec().unwrap().traces;
        let words: Vec<_> = traces.iter().map(|t| (t.kind.to_string(), t.file.clone())).collect();
        assert_eq!(
            words,
            [("int".to_owned(), Some("log".into())), ("io".to_owned(), Some("log".into())), ("exec".to_owned(), None)]
        );
    }

    #[test]
    fn the_console_is_a_word_or_a_file() {
        let console = |text| run_args(&["--console", text]).unwrap().console.unwrap();
        assert_eq!(console("none"), Console::None);
        assert_eq!(console("stdio"), Console::Stdio);
        assert_eq!(console("boot.log"), Console::File("boot.log".into()));
        assert!(run_args(&["--console", ""]).is_err());
    }
}
