//! `motu disk resize`: makes a machine's disk larger, whether it runs or not.
//!
//! Of a machine that runs, its own process does it, which has the disk open: the file grows, the guest is told, and the machine's record
//! says so. Of one that does not, this process has the machine's folder meanwhile.

use super::named::{self, NamedDisk, Origin};
use crate::agent::{End, Event, Remote, printable};
use crate::cli::life::DiskResizeArgs;
use crate::commands::machine::kept;
use crate::images;
use crate::status::Status;
use crate::vmm::{Disks, Sizes};
use anyhow::{Context, Result, bail};
use motu_disk::Disk;
use motu_manager::wire::Request;
use motu_manager::{Connection, Machine, Machines, ManagerError};
use motu_proto::{Exec, OutputStream, builtin};
use motu_spec::{ByteSize, Growth};
use motu_store::{RootDisk, Watch};

/// Bytes of what the guest says that are shown at most.
const LONGEST: usize = 4 << 10;

/// # Errors
/// There is no such machine or disk, it would shrink, or it cannot be made larger: it has its size then.
pub fn run(args: &DiskResizeArgs) -> Result<Status> {
    let machines = kept::machines()?;
    let machine = machines.find(&args.machine)?;
    let root = root_disk(&machine)?;
    let specs = machine.record()?.spec.disks;
    let (at, disk) = named::find(&machine.name, root.is_some(), &specs, args.disk.as_deref())?;
    let grown = match Connection::open(&machine) {
        Ok(mut connection) => connection.grow_disk(at, args.size)?,
        Err(ManagerError::NotRunning(name)) if args.grow_fs => {
            bail!(
                "a file system grows by the machine's own kernel, and {name} is not running; `motu start {name}` starts it"
            )
        }
        Err(ManagerError::NotRunning(_)) => grow_stopped(&machines, &machine, root, &disk, args.size)?,
        Err(error) => return Err(error.into()),
    };
    if args.grow_fs {
        grow_file_system(&machine, &disk.device, grown).with_context(|| {
            format!("{} has {} now, but its file system could not be made larger", disk.device, ByteSize(grown))
        })?;
    }
    kept::say(&format!("{} {}", disk.device, ByteSize(grown)))?;
    Ok(Status::Success)
}

/// The root disk of the image that a machine stands on, with the image's name.
fn root_disk(machine: &Machine) -> Result<Option<(String, RootDisk)>> {
    let Some(digest) = machine.image else { return Ok(None) };
    let image = images::store()?.find(&digest.to_string())?;
    Ok(image.record.disk.map(|disk| (image.name, disk)))
}

fn grow_stopped(
    machines: &Machines,
    machine: &Machine,
    root: Option<(String, RootDisk)>,
    disk: &NamedDisk,
    growth: Growth,
) -> Result<u64> {
    // It is nobody else's as long as this is here.
    let folder = machines.take(machine)?;
    let grow = |opened: &dyn Disk| -> Result<u64> {
        opened.grow(growth.of(opened.size())).map_err(|error| refused(&disk.device, &error))?;
        Ok(opened.size())
    };
    match (disk.origin, root) {
        (Origin::Root, Some((image, root))) => grow(&folder.open_disk(&image, &root, Watch::silent())?),
        (Origin::Root, None) => bail!("the machine {} has no root disk", machine.name),
        (Origin::Listed(at), _) => {
            let specs = machine.record()?.spec.disks;
            let spec =
                specs.get(at).with_context(|| format!("the machine {} has no disk {}", machine.name, disk.device))?;
            // One that is yet to be made is made for this.
            let mut disks = Disks::open(std::slice::from_ref(spec), Sizes::AtLeast)?;
            let opened = disks.take();
            let opened = opened.first().context("a disk is lost")?;
            let size = grow(&*opened.disk)?;
            disks.keep();
            machine.write_disk_size(at, size)?;
            Ok(size)
        }
    }
}

/// Why a disk did not grow, for people.
pub fn refused(device: &str, error: &motu_disk::GrowError) -> anyhow::Error {
    anyhow::anyhow!("the disk {device} {error}")
}

/// Has the machine's agent make the file system as large as the disk.
fn grow_file_system(machine: &Machine, device: &str, size: u64) -> Result<()> {
    Connection::open(machine)?.ask(&Request::Ready)?;
    let argv = vec![builtin::GROW.to_vec(), device.into(), size.to_string().into()];
    let exec = Exec { argv, builtin: true, ..Exec::default() };
    let (speaker, says) = Connection::open(machine)?.command(&Request::Exec, Some(exec))?;
    let (_remote, events) = Remote::start(speaker, says).context("starting the thread for the machine")?;
    let mut said = Vec::new();
    for event in events {
        match event {
            Event::Output(OutputStream::Stderr, data) => {
                said.extend(data.iter().take(LONGEST.saturating_sub(said.len())));
            }
            Event::Ended(End::Exited(status)) if status.shell_status() == 0 => return Ok(()),
            Event::Ended(End::Exited(_)) => bail!(printable(String::from_utf8_lossy(&said).trim_end())),
            Event::Ended(End::Refused { message, .. }) => bail!(message),
            Event::Ended(End::Lost(error)) => bail!(error.to_string()),
            _ => {}
        }
    }
    bail!("the machine ended meanwhile")
}
