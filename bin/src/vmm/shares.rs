//! Folders of the host for a machine.

use anyhow::Result;
use motu_machine::ShareConfig;
use motu_share::Share;
use motu_spec::ShareSpec;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fmt::Write;

/// Opens the folders.
///
/// # Errors
/// One of them is not there, or is no folder.
pub fn open(specs: &[ShareSpec]) -> Result<Vec<ShareConfig>> {
    if !specs.is_empty() {
        allow_many_files();
    }
    let open = |(n, spec): (usize, &ShareSpec)| {
        Ok(ShareConfig { share: Share::open(&spec.path, spec.readonly)?, tag: tag(n) })
    };
    specs.iter().enumerate().map(open).collect()
}

/// What the guest mounts the nth folder by.
fn tag(n: usize) -> String {
    format!("share{n}")
}

/// What the kernel's command line has of it for the agent in the guest: `motu.mount=TAG,ro,PATH`, in which what the command line cannot
/// have is written `%XX`.
pub fn parameters(specs: &[ShareSpec]) -> impl Iterator<Item = String> {
    specs.iter().enumerate().map(|(n, spec)| {
        let way = if spec.readonly { "ro" } else { "rw" };
        let mut parameter = format!("motu.mount={},{way},", tag(n));
        for byte in spec.target.bytes() {
            match byte {
                b'/' | b'.' | b'_' | b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => parameter.push(byte.into()),
                // Writing to a string does not fail.
                other => drop(write!(parameter, "%{other:02x}")),
            }
        }
        parameter
    })
}

/// A guest has a file of the host's open for each one that it knows: as many as the host allows.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("guests may have few files of shared folders at a time: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_one_word_each() {
        let spec = |target: &str, readonly| ShareSpec { path: ".".into(), target: target.into(), readonly };
        let all: Vec<_> = parameters(&[spec("/src", true), spec("/a b/ü,\"", false)]).collect();
        assert_eq!(all, ["motu.mount=share0,ro,/src", "motu.mount=share1,rw,/a%20b/%c3%bc%2c%22"]);
    }
}
