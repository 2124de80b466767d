//! The disks of a machine, by the names that people have for them.

use anyhow::{Result, bail};
use motu_spec::DiskSpec;
use std::path::Path;

/// Where a disk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The machine's own writes over its image's root disk.
    Root,
    /// `--disk`, the how manieth.
    Listed(usize),
}

/// A machine's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDisk {
    /// As Linux names it, in the order in which the machine has its disks.
    pub device: String,
    pub origin: Origin,
}

/// The disk that a person means: as the guest names it (`vdb`, `/dev/vdb`), by its serial number, or its file. If none is named, the
/// root disk, or the only one.
///
/// # Errors
/// There is none, or it is not clear which; what there is, is told.
pub fn find(machine: &str, has_root: bool, specs: &[DiskSpec], asked: Option<&Path>) -> Result<(usize, NamedDisk)> {
    let listed = (0..specs.len()).map(Origin::Listed);
    let origins = has_root.then_some(Origin::Root).into_iter().chain(listed);
    let disks: Vec<NamedDisk> =
        origins.enumerate().map(|(n, origin)| NamedDisk { device: device(n), origin }).collect();
    let is_meant = |disk: &NamedDisk, asked: &Path| {
        let spec = if let Origin::Listed(n) = disk.origin { specs.get(n) } else { None };
        let by_file = || spec.is_some_and(|spec| std::path::absolute(asked).is_ok_and(|path| path == spec.path));
        let by_serial =
            || spec.and_then(|spec| spec.serial.as_deref()).is_some_and(|serial| asked == Path::new(serial));
        asked == Path::new(&disk.device) || asked == Path::new("/dev").join(&disk.device) || by_serial() || by_file()
    };
    let found = match asked {
        Some(asked) => disks.iter().position(|disk| is_meant(disk, asked)),
        None => (has_root || disks.len() == 1).then_some(0),
    };
    if let Some((at, disk)) = found.and_then(|at| Some((at, disks.get(at)?.clone()))) {
        return Ok((at, disk));
    }
    let told: Vec<String> = disks.iter().map(|disk| tell(disk, specs)).collect();
    match asked {
        _ if disks.is_empty() => bail!("the machine {machine} has no disk; --disk gives a new machine one"),
        Some(asked) => {
            bail!("the machine {machine} has no disk {}; it has {}", asked.display(), told.join(", "))
        }
        None => bail!("the machine {machine} has several disks; say which: {}", told.join(", ")),
    }
}

fn tell(disk: &NamedDisk, specs: &[DiskSpec]) -> String {
    let file = if let Origin::Listed(n) = disk.origin { specs.get(n) } else { None };
    match file {
        Some(spec) => format!("{} ({})", disk.device, spec.path.display()),
        None => format!("{} (its root disk)", disk.device),
    }
}

/// `vda` to `vdz`, then `vdaa` and so on (Linux, drivers/block/virtio_blk.c, `virtblk_name_format`).
pub fn device(n: usize) -> String {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    match n / 26 {
        0 => format!("vd{}", letter(n)),
        more => format!("vd{}{}", letter(more - 1), letter(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<DiskSpec> {
        ["path=/a.raw,serial=SER-1", "/b.qcow2"].map(|text| DiskSpec::parse(text.as_ref()).unwrap()).to_vec()
    }

    #[test]
    fn a_disk_has_several_names() {
        let found = |root, asked: Option<&str>| {
            let found = find("web", root, &specs(), asked.map(Path::new));
            found.map(|(at, disk)| (at, disk.device, disk.origin)).map_err(|error| error.to_string())
        };
        assert_eq!(found(true, None), Ok((0, "vda".into(), Origin::Root)));
        assert_eq!(found(true, Some("/dev/vda")), Ok((0, "vda".into(), Origin::Root)));
        for name in ["vdb", "/dev/vdb", "SER-1", "/a.raw"] {
            assert_eq!(found(true, Some(name)), Ok((1, "vdb".into(), Origin::Listed(0))), "{name}");
        }
        assert_eq!(found(false, Some("/b.qcow2")), Ok((1, "vdb".into(), Origin::Listed(1))));
        let several = found(false, None).unwrap_err();
        assert!(several.contains("say which: vda (/a.raw), vdb (/b.qcow2)"), "{several}");
        let none = found(true, Some("vdd")).unwrap_err();
        assert!(none.contains("no disk vdd") && none.contains("vda (its root disk)"), "{none}");
        assert!(find("web", false, &[], None).unwrap_err().to_string().contains("--disk"));
        assert_eq!(find("web", false, &specs()[1..], None).unwrap().0, 0, "the only one");
    }

    #[test]
    fn disks_are_named_as_linux_does() {
        assert_eq!([0, 25, 26, 27, 52].map(device), ["vda", "vdz", "vdaa", "vdab", "vdba"]);
    }
}
