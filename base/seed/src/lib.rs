//! What cloud-init in a guest is given: the seed of its data source NoCloud, a file system with the label `cidata` that has the files
//! `user-data`, `meta-data` and perhaps `network-config` (cloud-init's documentation, reference/datasources/nocloud).
//!
//! ```text
//!   files of a person's ── Part::check, keys ── SeedSpec ── + who the machine is (Identity) ── image() ── ISO 9660
//! ```
//!
//! A seed is checked before there is a machine: cloud-init itself tells of a mistake in a log inside the guest.
#![forbid(unsafe_code)]

mod error;
mod iso9660;
mod keys;
mod meta;
mod part;
mod yaml;

pub use error::{PartError, SeedError};
pub use keys::parse as parse_keys;
pub use part::Part;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The file system's label, by which cloud-init finds it.
pub const LABEL: &str = "cidata";

/// Bytes of an instance-id that come of the seed itself; they are written in hexadecimal digits.
const ID_BYTES: usize = 6;

/// What a person gives to cloud-init. The texts are in it, not the names of their files: a machine that stays keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedSpec {
    /// What is to be done in the guest, in one of cloud-init's formats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// What the machine is, as YAML; left out, it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<String>,
    /// The guest's network, as YAML of version 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
    /// Public keys that may log in as the guest's default user, each a line of an `authorized_keys` (sshd(8)). They are part of
    /// the meta-data, so `meta_data` must not be given with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
}

/// Which machine a seed is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// What stays the same as long as the machine does.
    pub id: &'a str,
    /// What it is called now.
    pub name: &'a str,
}

impl SeedSpec {
    /// Whether nothing was given, and there is to be no seed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether cloud-init can use all of it.
    ///
    /// # Errors
    /// The first thing that it cannot.
    pub fn check(&self) -> Result<(), SeedError> {
        if self.meta_data.is_some() && !self.ssh_keys.is_empty() {
            return Err(SeedError::KeysAndMetaData);
        }
        let texts = [
            (Part::UserData, &self.user_data),
            (Part::MetaData, &self.meta_data),
            (Part::NetworkConfig, &self.network_config),
        ];
        for (part, text) in texts {
            let checked = text.as_ref().map_or(Ok(()), |text| part.check(text));
            checked.map_err(|problem| SeedError::Part { part, problem })?;
        }
        keys::check(&self.ssh_keys).map_err(|problem| SeedError::Part { part: Part::SshKeys, problem })
    }

    /// The file system for a machine, as an image of whole sectors; the same bytes each time. A machine that does not stay has
    /// no identity: it gets an instance-id of what it is given, so that cloud-init does its work once on a disk that is kept, and
    /// again when it is given something else.
    pub fn image(&self, machine: Option<Identity<'_>>) -> Vec<u8> {
        let id = machine.map_or_else(|| self.digest(), |machine| machine.id.to_owned());
        let made = || meta::data(&id, machine.map_or("motu", |machine| machine.name), &self.ssh_keys);
        let meta_data = self.meta_data.clone().unwrap_or_else(made);
        // It has to be there.
        let user_data = self.user_data.as_deref().unwrap_or("#cloud-config\n{}\n");
        // Sorted, as records have to be (ECMA-119, 9.3).
        let mut files = vec![("meta-data", meta_data.as_bytes())];
        files.extend(self.network_config.as_ref().map(|text| ("network-config", text.as_bytes())));
        files.push(("user-data", user_data.as_bytes()));
        iso9660::image(LABEL, &files)
    }

    fn digest(&self) -> String {
        let mut sha = Sha256::new();
        let texts = [&self.user_data, &self.meta_data, &self.network_config].map(Option::as_deref);
        for text in texts.into_iter().chain(self.ssh_keys.iter().map(|key| Some(key.as_str()))) {
            // What is left out is not what is empty, and no text runs into the next.
            sha.update(text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            sha.update(text.unwrap_or_default());
        }
        sha.finalize().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests;
