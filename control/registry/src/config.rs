//! An image's configuration (OCI image specification, "Image Configuration").

use crate::digest::parse_digest;
use crate::manifest::{Platform, json_problem, printable};
use motu_store::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// What an image says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program, and arguments that a command comes behind.
    pub entrypoint: Vec<String>,
    /// The command, or the entry point's arguments.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`; root if it is empty.
    pub user: String,
    /// The folder that commands start in; `/` if it is empty.
    pub workdir: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// What its makers say of it.
    pub labels: BTreeMap<String, String>,
    /// When it was made, as it says (RFC 3339), unchecked.
    pub created: Option<String>,
    /// `amd64`; empty where the image leaves it out.
    pub architecture: String,
    /// `linux`; empty where the image leaves it out.
    pub os: String,
    /// The layers' digests when they are unpacked, the lowest first.
    pub diff_ids: Vec<Digest>,
}

/// As it is written. Go writes `null` for what is empty, so everything may be missing.
#[derive(Deserialize)]
struct Raw {
    created: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: Option<String>,
    diff_ids: Option<Vec<String>>,
}

impl ImageConfig {
    /// Reads a configuration. The error goes on from its name.
    pub(crate) fn parse(bytes: &[u8]) -> Result<ImageConfig, String> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| format!("is no configuration of an image ({})", json_problem(&error)))?;
        if raw.rootfs.kind.as_deref().is_some_and(|kind| kind != "layers") {
            return Err("is a configuration whose root file system is not made of layers".to_owned());
        }
        let run = raw.config.unwrap_or_default();
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        let config = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            workdir: run.working_dir.unwrap_or_default(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: run.labels.unwrap_or_default(),
            created: raw.created,
            architecture: raw.architecture.unwrap_or_default(),
            os: raw.os.unwrap_or_default(),
            diff_ids: diff_ids.iter().map(|text| parse_digest(text)).collect::<Result<_, _>>()?,
        };
        config.check().map(|()| config)
    }

    /// No argument, variable or path of Linux holds a NUL.
    fn check(&self) -> Result<(), String> {
        let lists = self.entrypoint.iter().chain(&self.cmd).chain(&self.env);
        if lists.chain([&self.user, &self.workdir]).any(|text| text.contains('\0')) {
            return Err("has a NUL in its command, environment, user or folder".to_owned());
        }
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            let shown = printable(&self.workdir, 100);
            return Err(format!("has the folder {shown:?} to start in, which is not absolute"));
        }
        Ok(())
    }

    /// What it runs on, if that is not what motu has.
    pub(crate) fn other_platform(&self) -> Option<String> {
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let platform =
            Platform { os: or(&self.os, "linux"), architecture: or(&self.architecture, "amd64"), variant: None };
        (!platform.is_ours()).then(|| platform.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_configuration_is_read() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05Z","author":"x","history":[],
               "config":{{"User":"1000:10","ExposedPorts":{{"80/tcp":{{}}}},"Env":["A=1","B=2"],"Entrypoint":["/e"],
               "Cmd":["c"],"Volumes":{{"/v":{{}}}},"WorkingDir":"/w","Labels":{{"l":"m"}},"StopSignal":"SIGTERM"}},
               "rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).expect("a configuration");
        assert_eq!((config.entrypoint, config.cmd), (vec!["/e".to_owned()], vec!["c".to_owned()]));
        assert_eq!(config.env, ["A=1", "B=2"]);
        assert_eq!((config.user.as_str(), config.workdir.as_str()), ("1000:10", "/w"));
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.labels.get("l").map(String::as_str), Some("m"));
        assert_eq!(config.diff_ids.len(), 1);
    }

    #[test]
    fn nulls_are_nothing() {
        let text = r#"{"config":{"Entrypoint":null,"Cmd":null,"Env":null,"Labels":null,"ExposedPorts":null},
                       "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(text.as_bytes()).expect("a configuration");
        assert_eq!(config, ImageConfig::default());
        assert_eq!(config.other_platform(), None);
        assert!(ImageConfig::parse(br#"{"config":null,"rootfs":{}}"#).is_ok());
    }

    #[test]
    fn other_computers_are_named() {
        let text = r#"{"architecture":"arm64","os":"linux","rootfs":{}}"#;
        let config = ImageConfig::parse(text.as_bytes()).expect("a configuration");
        assert_eq!(config.other_platform().as_deref(), Some("linux/arm64"));
    }

    #[test]
    fn what_is_none_is_said() {
        for (text, problem) in [
            ("[]", "is no configuration"),
            ("{}", "missing field `rootfs`"),
            (r#"{"rootfs":{"type":"magic"}}"#, "not made of layers"),
            (r#"{"rootfs":{"diff_ids":["md5:1"]}}"#, "motu knows sha256"),
            (r#"{"rootfs":{},"config":{"Env":["A=\u0000"]}}"#, "has a NUL"),
            (r#"{"rootfs":{},"config":{"WorkingDir":"etc"}}"#, "not absolute"),
        ] {
            let error = ImageConfig::parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageConfig::parse(&bytes);
        }
    }
}
