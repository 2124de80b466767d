//! What cloud-init in the guest is given.

use anyhow::{Context, Result};
use clap::Args;
use motu_seed::{Part, SeedSpec, parse_keys};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Args)]
pub struct SeedArgs {
    /// Give cloud-init in the guest this user-data (#cloud-config, a script, ...), by a read-only disk with the label cidata
    #[arg(long, value_name = "FILE")]
    pub user_data: Option<PathBuf>,
    /// Have cloud-init let these public SSH keys log in as the guest's default user, such as id_ed25519.pub; may be repeated
    #[arg(long = "ssh-key", value_name = "FILE")]
    pub ssh_keys: Vec<PathBuf>,
    /// Give cloud-init this meta-data [default: an instance-id, the machine's name and the keys of --ssh-key]
    #[arg(long, value_name = "FILE")]
    pub meta_data: Option<PathBuf>,
    /// Give cloud-init this network configuration, of version 1 or 2
    #[arg(long, value_name = "FILE")]
    pub network_config: Option<PathBuf>,
}

impl SeedArgs {
    /// The texts of the files; none if there are none.
    ///
    /// # Errors
    /// A file cannot be read, or cloud-init could do nothing with it.
    pub fn spec(&self) -> Result<Option<SeedSpec>> {
        let one = |part: Part, path: &Option<PathBuf>| path.as_deref().map(|path| read(part, path)).transpose();
        let mut spec = SeedSpec {
            user_data: one(Part::UserData, &self.user_data)?,
            meta_data: one(Part::MetaData, &self.meta_data)?,
            network_config: one(Part::NetworkConfig, &self.network_config)?,
            ssh_keys: Vec::new(),
        };
        for path in &self.ssh_keys {
            spec.ssh_keys.extend(parse_keys(&read(Part::SshKeys, path)?)?);
        }
        Ok((!spec.is_empty()).then_some(spec))
    }
}

/// The text of a file, which may be a pipe.
fn read(part: Part, path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    // One more than is right, to see that it is too many.
    let file = File::open(path).and_then(|file| file.take(part.limit() as u64 + 1).read_to_end(&mut bytes));
    file.with_context(|| format!("reading the {part} {}", path.display()))?;
    let text = part.text(bytes).and_then(|text| part.check(&text).map(|()| text));
    text.with_context(|| format!("{} cannot be the {part} for cloud-init", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Shown;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@host\n";

    #[test]
    fn files_become_texts() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        assert_eq!(SeedArgs::default().spec().unwrap(), None);
        let args = SeedArgs {
            user_data: Some(file("user", "#!/bin/sh\n")),
            ssh_keys: vec![file("a.pub", KEY), file("b.pub", &format!("# two\n{KEY}{KEY}"))],
            ..SeedArgs::default()
        };
        let spec = args.spec().unwrap().unwrap();
        assert_eq!((spec.user_data.as_deref(), spec.ssh_keys), (Some("#!/bin/sh\n"), vec![KEY.trim().to_owned(); 3]));
        for (text, words) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "bad cannot be the SSH key for cloud-init: it is a private key"),
            ("ssh-ed25519 x\n", "bad cannot be the SSH key for cloud-init: line 1 is no public key"),
        ] {
            let args = SeedArgs { ssh_keys: vec![file("bad", text)], ..SeedArgs::default() };
            let error = Shown(&args.spec().unwrap_err()).to_string();
            assert!(error.contains(words), "{error}");
        }
        for (path, words) in [
            (folder.path().join("none"), "none: No such file"),
            (folder.path().to_owned(), "directory"),
            (file("long", &"#".repeat(300 << 10)), "256 KiB"),
        ] {
            let args = SeedArgs { user_data: Some(path), ..SeedArgs::default() };
            let error = Shown(&args.spec().unwrap_err()).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
