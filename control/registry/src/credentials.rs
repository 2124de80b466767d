//! Who one is to a registry, as `docker login` has written it down.

use crate::reference::DOCKER_HUB;
use crate::{Reference, RegistryError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What Docker calls its own registry in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Bytes of a configuration, or of what a helper says, at most.
const MAX_BYTES: u64 = 4 << 20;

/// Where credentials come from.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    config: Option<PathBuf>,
}

/// Who one is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// A token that is exchanged for tokens (OAuth 2.0's refresh token).
    Identity(String),
    /// A token that the registry takes as it is.
    Registry(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credential")
    }
}

impl Credentials {
    /// None: what registries give to everybody.
    pub fn none() -> Self {
        Credentials::default()
    }

    /// Those of Docker's configuration: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. `env` reads an environment
    /// variable.
    pub fn docker(env: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        Credentials { config: folder.map(|folder| folder.join("config.json")) }
    }

    /// Who one is to the registry of this image, if that is written down.
    pub(crate) fn of(&self, reference: &Reference) -> Result<Option<Credential>, RegistryError> {
        let Some(path) = &self.config else { return Ok(None) };
        let wrong = |problem: String| RegistryError::Credentials { path: path.clone(), problem };
        let Some(config) = read(path).map_err(wrong)? else { return Ok(None) };
        let key = if reference.host() == DOCKER_HUB { DOCKER_HUB_KEY } else { reference.host() };
        let helper = config.cred_helpers.get(key).or(config.creds_store.as_ref()).filter(|name| !name.is_empty());
        if let Some(helper) = helper {
            match ask(helper, key) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                // As good as none: what is public can be had without.
                Err(problem) => tracing::warn!("docker-credential-{helper} gives no credentials for {key}: {problem}"),
            }
        }
        let found = config.auths.iter().find(|(name, _)| *name == key);
        let found = found.or_else(|| config.auths.iter().find(|(name, _)| host_of(name) == host_of(key)));
        found
            .map_or(Ok(None), |(name, entry)| entry.credential().map_err(|problem| wrong(format!("{name}: {problem}"))))
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::Registry(self.registrytoken.clone())));
        }
        let pair = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let wrong = || "its auth is not user:password in base64; `docker login` writes it anew".to_owned();
            let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| wrong())?;
            let text = String::from_utf8(bytes).map_err(|_| wrong())?;
            let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(wrong)?;
            (user.to_owned(), password.to_owned())
        };
        let (user, password) = pair;
        Ok((!user.is_empty()).then_some(Credential::Password { user, password }))
    }
}

/// The host of a key of `auths`, which may be a URL.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    if host == "index.docker.io" { DOCKER_HUB } else { host }
}

fn read(path: &Path) -> Result<Option<Config>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    // Where, and not what: it is full of secrets.
    let place = |error: serde_json::Error| {
        format!("it is no configuration of Docker's (see line {}, column {})", error.line(), error.column())
    };
    serde_json::from_slice(&text).map(Some).map_err(place)
}

/// Asks a credential helper (docker-credential-helpers, "Development"): the server's name in, JSON out.
fn ask(helper: &str, server: &str) -> Result<Option<Credential>, String> {
    if helper.contains('/') {
        return Err("its name is a path".to_owned());
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read says so by its answer.
        let _ = input.write_all(server.as_bytes());
    }
    let mut output = Vec::new();
    let said = child.stdout.take().map_or(Ok(0), |output_of| output_of.take(MAX_BYTES).read_to_end(&mut output));
    let status = child.wait().map_err(|error| error.to_string())?;
    said.map_err(|error| error.to_string())?;
    if !status.success() {
        let text = String::from_utf8_lossy(&output);
        let none = text.contains("credentials not found");
        return if none { Ok(None) } else { Err(crate::manifest::printable(&text, 200)) };
    }
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| "it did not answer as helpers do".to_owned())?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(Credential::Identity(answer.secret)),
        _ => Some(Credential::Password { user: answer.username, password: answer.secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(config: &str, image: &str) -> Result<Option<Credential>, RegistryError> {
        let folder = tempfile::TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        let path = folder.path().as_os_str().to_owned();
        let credentials = Credentials::docker(|name| (name == "DOCKER_CONFIG").then(|| path.clone()));
        credentials.of(&image.parse().expect("a reference"))
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn entries_are_found_by_host() {
        // "u:p:q", "a:b"
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnE="},"lan:5000":{"auth":"YTpi"},
                         "https://old.example/v1/":{"username":"o","password":"w"},"t.example":{"identitytoken":"T"},
                         "empty.example":{}},"HttpHeaders":{}}"#;
        assert_eq!(find(config, "alpine").expect("read"), password("u", "p:q"));
        assert_eq!(find(config, "lan:5000/a").expect("read"), password("a", "b"));
        assert_eq!(find(config, "old.example/a").expect("read"), password("o", "w"));
        assert_eq!(find(config, "t.example/a").expect("read"), Some(Credential::Identity("T".to_owned())));
        assert_eq!(find(config, "lan:5001/a").expect("read"), None);
        assert_eq!(find(config, "empty.example/a").expect("read"), None);
    }

    #[test]
    fn a_configuration_that_is_none_is_named() {
        let error = find("{", "alpine").expect_err("no JSON").to_string();
        assert!(error.contains("config.json: it is no configuration of Docker's"), "{error}");
        let error = find(r#"{"auths":{"lan.x":"secret"}}"#, "alpine").expect_err("a text").to_string();
        assert!(error.contains("line 1, column 2") && !error.contains("secret"), "{error}");
        let error = find(r#"{"auths":{"lan.x":{"auth":"!"}}}"#, "lan.x/a").expect_err("no base64").to_string();
        assert!(error.contains("lan.x: its auth is not user:password in base64"), "{error}");
        assert_eq!(Credentials::docker(|_| None).of(&"a".parse().expect("a")).expect("none"), None);
        let missing = Credentials::docker(|_| Some("/nowhere/at/all".into()));
        assert_eq!(missing.of(&"a".parse().expect("a")).expect("none"), None);
    }

    #[test]
    fn a_helper_that_is_missing_is_as_none() {
        let config = r#"{"credsStore":"motu-has-no-such-helper","auths":{"lan.x":{"auth":"YTpi"}}}"#;
        assert_eq!(find(config, "lan.x/a").expect("read"), password("a", "b"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Credential::Identity("secret".to_owned());
        assert_eq!(format!("{secret:?}"), "Credential");
    }
}
