//! `--format` of `motu image export`.

use motu_disk::Format;
use motu_registry::SaveFormat;
use std::path::Path;
use std::str::FromStr;

/// What an image is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Its root disk, all layers in one.
    Disk(Format),
    /// An OCI image.
    Layers(SaveFormat),
}

/// By their names: qemu-img's for disks, skopeo's for images.
const NAMES: [(&str, ExportFormat); 5] = [
    ("qcow2", ExportFormat::Disk(Format::Qcow2)),
    ("raw", ExportFormat::Disk(Format::Raw)),
    ("oci", ExportFormat::Layers(SaveFormat::Oci)),
    ("oci-archive", ExportFormat::Layers(SaveFormat::OciArchive)),
    ("docker-archive", ExportFormat::Layers(SaveFormat::DockerArchive)),
];

impl ExportFormat {
    /// What a file's name says.
    pub fn by_name(path: &Path) -> Option<Self> {
        let is_tar = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"));
        let layers = is_tar.then_some(Self::Layers(SaveFormat::OciArchive));
        layers.or_else(|| Format::by_name(path).map(Self::Disk))
    }

    /// Their names, for a sentence.
    pub fn all() -> String {
        let [rest @ .., last] = NAMES.map(|(name, _)| name);
        format!("{} or {last}", rest.join(", "))
    }
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, format)| *format);
        found.ok_or_else(|| format!("there is no such format; there are {}", Self::all()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_named_or_told_by_the_file() {
        for (name, format) in NAMES {
            assert_eq!(name.parse(), Ok(format));
        }
        let error = "oci-tar".parse::<ExportFormat>().unwrap_err();
        assert!(error.ends_with("qcow2, raw, oci, oci-archive or docker-archive"), "{error}");
        for (path, name) in [("a.raw", "raw"), ("b.QCOW2", "qcow2"), ("c.tar", "oci-archive")] {
            assert_eq!(ExportFormat::by_name(Path::new(path)), name.parse().ok(), "{path}");
        }
        assert_eq!(ExportFormat::by_name(Path::new("folder")), None);
    }
}
