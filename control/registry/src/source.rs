//! Where images come from.

use crate::{Reference, RegistryError};
use std::path::{Path, PathBuf};

/// Where an OCI image comes from, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `oci:REFERENCE`: a registry.
    Registry(Reference),
    /// `oci-layout:DIR[:NAME]`: a folder by the OCI image layout specification.
    Layout(Place),
    /// `oci-archive:FILE[:NAME]`: such a folder in a tar archive.
    OciArchive(Place),
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive(Place),
}

/// A folder or file, and perhaps which of the images in it. Which part is which is seen when it is opened: both may have colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub(crate) String);

impl Place {
    /// The path, and the name behind it.
    pub(crate) fn split(&self) -> (PathBuf, Option<&str>) {
        let whole = Path::new(&self.0);
        if whole.exists() {
            return (whole.to_owned(), None);
        }
        let colons = self.0.match_indices(':').map(|(at, _)| at);
        let cut = |at: usize| Some((self.0.get(..at)?, self.0.get(at + 1..)?));
        let mut parts = colons.filter_map(cut).filter(|(path, _)| !path.is_empty());
        match parts.find(|(path, _)| Path::new(path).exists()) {
            Some((path, name)) => (PathBuf::from(path), Some(name)),
            None => (whole.to_owned(), None),
        }
    }
}

impl Source {
    /// What a person wrote, if it is one of these kinds.
    ///
    /// # Errors
    /// [`RegistryError::Reference`] for an `oci:` that names nothing that there could be.
    pub fn new(written: &motu_store::Source) -> Result<Option<Self>, RegistryError> {
        use motu_store::Source as Written;
        Ok(Some(match written {
            Written::Oci(text) => Source::Registry(text.parse()?),
            Written::OciLayout(text) => Source::Layout(Place(text.clone())),
            Written::OciArchive(text) => Source::OciArchive(Place(text.clone())),
            Written::DockerArchive(text) => Source::DockerArchive(Place(text.clone())),
            Written::Deb(_) | Written::Disk(_) | Written::Dir(_) => return Ok(None),
        }))
    }

    /// The folder or file that it is in; `None` for a registry.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Source::Registry(_) => None,
            Source::Layout(place) | Source::OciArchive(place) | Source::DockerArchive(place) => Some(place.split().0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let new = |text: &str| Source::new(&text.parse().expect(text));
        let reference = "alpine:3.20".parse().expect("a reference");
        assert_eq!(new("oci:alpine:3.20").expect("one"), Some(Source::Registry(reference)));
        assert_eq!(new("oci-layout:d:n").expect("one"), Some(Source::Layout(Place("d:n".to_owned()))));
        assert_eq!(new("disk:a.raw").expect("none of ours"), None);
        assert!(matches!(new("oci:Alpine"), Err(RegistryError::Reference { .. })));
    }

    #[test]
    fn a_place_is_split_where_a_path_ends() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("with:colon");
        std::fs::create_dir(&path).expect("made");
        let text = path.to_str().expect("UTF-8");
        assert_eq!(Place(text.to_owned()).split(), (path.clone(), None));
        assert_eq!(Place(format!("{text}:app:v1")).split(), (path, Some("app:v1")));
        assert_eq!(Place("/no/such:x".to_owned()).split(), (PathBuf::from("/no/such:x"), None));
    }
}
