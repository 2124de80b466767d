//! `motu image` and `motu system`.

use super::ExportFormat;
use clap::{Args, Subcommand};
use motu_disk::Format;
use motu_spec::{ByteSize, EngineChoice};
use motu_store::{ImageName, Source};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of images, as JSON
    Inspect {
        /// A name, or a digest or its first digits
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Print JSON, which it does anyway
        #[arg(long, hide = true)]
        json: bool,
    },
    /// Get an image from a registry, an archive, packages, a disk or a tree of files
    Pull(PullArgs),
    /// Build an image from a Motufile: FROM, PACKAGES, COPY, RUN, ENV, ... as in a Dockerfile
    Build(BuildArgs),
    /// Make an image of a file or folder: a disk, an archive, an image layout or a tree of files, told by how it looks
    Import(ImportArgs),
    /// Write an image for other programs: its root disk, all layers in one, or an OCI image
    Export {
        #[arg(value_name = "IMAGE")]
        image: String,
        /// The file, or the folder for oci; it must not be there
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// qcow2, raw, oci (a folder), oci-archive or docker-archive [default: what the file's name says; a .tar is an oci-archive]
        #[arg(long, value_name = "FORMAT")]
        format: Option<ExportFormat>,
    },
    /// Give an image one more name
    Tag {
        #[arg(value_name = "IMAGE")]
        image: String,
        name: ImageName,
    },
    /// Take names from images, and delete an image with its last name; the next use of tiny makes it anew
    Rm {
        /// A name, or a digest or its first digits
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Take the last name from an image that is in use, too, and all names from one that is named by its digest
        #[arg(long, short)]
        force: bool,
    },
    /// Delete images that have no name
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// oci:REFERENCE, oci-layout:FOLDER, oci-archive:FILE, docker-archive:FILE, deb:SUITE, disk:FILE or dir:FOLDER
    #[arg(value_name = "SOURCE")]
    pub source: Source,
    #[command(flatten)]
    pub made: MadeArgs,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file or folder
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub made: MadeArgs,
}

/// What an image is to be beside what it is made of.
#[derive(Debug, Args)]
pub struct MadeArgs {
    /// The image's name [default: one after the source]; may be repeated
    #[arg(long = "tag", short = 't', value_name = "NAME")]
    pub names: Vec<ImageName>,
    /// Of a disk: raw or qcow2 [default: what its name and content say]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Of a disk: the kernel to boot it with
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The command line for --kernel, such as 'root=/dev/vda1 console=ttyS0'
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Of a distribution (deb:SUITE): packages to install beside the essential ones, such as curl,git; may be repeated
    #[arg(long, value_name = "PACKAGE[,PACKAGE...]", value_delimiter = ',', allow_hyphen_values = true)]
    pub include: Vec<String>,
    /// Print the image's record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The folder that COPY copies from
    #[arg(value_name = "CONTEXT")]
    pub context: PathBuf,
    /// The Motufile [default: Motufile or Dockerfile in the context]
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The image's name; may be repeated
    #[arg(long = "tag", short = 't', value_name = "NAME")]
    pub names: Vec<ImageName>,
    /// Do all steps, also those that were done before
    #[arg(long)]
    pub no_cache: bool,
    /// RAM of the machines that steps are done in
    #[arg(long, short, value_name = "SIZE", default_value_t = motu_spec::DEFAULT_MEMORY, allow_hyphen_values = true)]
    pub memory: ByteSize,
    /// Their virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub cpus: u32,
    /// What runs their instructions, as for motu run
    #[arg(long, value_name = "ENGINE[,OPTION...]", default_value_t)]
    pub engine: EngineChoice,
    /// Print the image's record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Delete all images that no machine stands on, too
    #[arg(long, short)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Show what takes how much of the disk
    Df {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read everything that images and machines need, and compare it with what was stored
    #[command(after_help = "Exit status:\n  0    all is well\n  1    something is damaged")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete images that have no name, what only saves a download, and what killed motus left
    Prune(PruneArgs),
}
