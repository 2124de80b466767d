//! The arguments of commands on machines that stay.

use super::RunArgs;
use clap::{Args, Subcommand};
use motu_spec::{CommandSpec, Growth, ParseTimeoutError, Timeout};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What a command in a machine finds around it.
#[derive(Debug, Default, Args)]
pub struct CommandArgs {
    /// Set an environment variable of the command; without a value, to what it is here; may be repeated
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file, one NAME=VALUE a line; may be repeated
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// The folder that the command starts in; made if it is not there
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Who runs the command, by the machine's /etc/passwd and /etc/group [default: the image's user, or root]
    #[arg(long, short, value_name = "NAME|UID[:GROUP|GID]")]
    pub user: Option<String>,
}

/// The same for a machine's own command, and how the machine is kept.
#[derive(Debug, Default, Args)]
pub struct OwnArgs {
    #[command(flatten)]
    pub around: CommandArgs,
    /// Run this program instead of the image's entry point; "" for none
    #[arg(long, value_name = "PROGRAM", conflicts_with = "kernel")]
    pub entrypoint: Option<String>,
    /// Keep the machine under this name when it has ended
    #[arg(long, value_name = "NAME", conflicts_with = "kernel")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Names, IDs or their first digits
    #[arg(required = true, value_name = "MACHINE")]
    pub machines: Vec<String>,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub names: NamesArgs,
    /// How long processes have to end by themselves before they are killed: seconds, or such as 1m
    #[arg(long, short, value_name = "TIME", default_value = "10", value_parser = grace)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    pub names: NamesArgs,
    /// Send this signal to the machine's own command instead: a name such as HUP, or a number
    #[arg(long, short, value_name = "SIGNAL")]
    pub signal: Option<String>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    #[command(flatten)]
    pub names: NamesArgs,
    /// Switch a machine that runs off first
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Show all machines, not only those that run
    #[arg(long, short)]
    pub all: bool,
    /// Print only IDs
    #[arg(long, short, conflicts_with = "json")]
    pub quiet: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Names, IDs or their first digits [default: all that run]
    #[arg(value_name = "MACHINE")]
    pub machines: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name, ID or its first digits
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    /// Go on until the machine ends
    #[arg(long, short)]
    pub follow: bool,
    /// Show so many lines at the end only
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<usize>,
    /// Show a time before each piece of output
    #[arg(long, short)]
    pub timestamps: bool,
    /// Show what the serial console said instead of the machine's command
    #[arg(long, conflicts_with_all = ["follow", "tail", "timestamps"])]
    pub console: bool,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Give the command this standard input
    #[arg(long, short)]
    pub interactive: bool,
    /// Run the command on a terminal of its own
    #[arg(long, short)]
    pub tty: bool,
    #[command(flatten)]
    pub around: CommandArgs,
    /// Name, ID or its first digits
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    /// Command to run
    #[arg(required = true, value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct CpArgs {
    /// Give what is copied into a machine the owners that it has here
    #[arg(long, short)]
    pub archive: bool,
    /// Follow a symbolic link at SOURCE
    #[arg(long, short = 'L')]
    pub follow_link: bool,
    /// A file or folder of this host, or MACHINE:PATH; with /. at its end, only what is in the folder
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// Where it goes: into a folder that is there, else it is called so
    #[arg(value_name = "TARGET")]
    pub target: OsString,
}

#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Name, ID or its first digits
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make a machine's disk larger, whether it runs or not
    Resize(DiskResizeArgs),
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct DiskResizeArgs {
    /// Make the file system on the disk as large, too, while it is mounted in the machine: ext4 on a whole disk
    #[arg(long)]
    pub grow_fs: bool,
    /// Name, ID or its first digits
    #[arg(value_name = "MACHINE")]
    pub machine: String,
    /// The disk: as the guest names it, such as vdb, its serial number or its file [default: the root disk, or the only one]
    #[arg(value_name = "DISK", allow_hyphen_values = true)]
    pub disk: Option<PathBuf>,
    /// Its new size, such as 20G, or what is added, such as +2G; a disk does not shrink
    #[arg(value_name = "SIZE", required = true, allow_hyphen_values = true)]
    pub size: Growth,
}

#[derive(Debug, Args)]
pub struct VmmArgs {
    #[arg(long)]
    pub attached: bool,
    pub id: String,
}

/// Seconds, as Docker takes them, or a time with a unit.
fn grace(text: &str) -> Result<Duration, ParseTimeoutError> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => text.parse::<Timeout>().map(|timeout| timeout.duration()),
    }
}

impl OwnArgs {
    /// The machine's own command.
    ///
    /// # Errors
    /// A file of variables cannot be read, or something is no text.
    pub fn spec(&self, command: &[OsString], tty: bool) -> anyhow::Result<CommandSpec> {
        let argv = command.iter().map(|word| match word.to_str() {
            Some(word) => Ok(word.to_owned()),
            None => anyhow::bail!("the argument {word:?} is no UTF-8 text, as a machine's own command has to be"),
        });
        Ok(CommandSpec { argv: argv.collect::<anyhow::Result<_>>()?, tty, ..self.around_only()? })
    }

    /// The same without the command itself.
    ///
    /// # Errors
    /// A file of variables cannot be read, or has something else in it.
    pub fn around_only(&self) -> anyhow::Result<CommandSpec> {
        Ok(CommandSpec { entrypoint: self.entrypoint.clone(), ..self.around.spec()? })
    }
}

impl CommandArgs {
    /// What is found around a command.
    ///
    /// # Errors
    /// A file of variables cannot be read, or has something else in it.
    pub fn spec(&self) -> anyhow::Result<CommandSpec> {
        Ok(CommandSpec {
            env: super::env::variables(&self.env, &self.env_file)?,
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            ..CommandSpec::default()
        })
    }
}
