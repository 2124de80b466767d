//! What people call an image in a registry: `alpine`, `ghcr.io/owner/app:v1`, `localhost:5000/app@sha256:...`.

use crate::RegistryError;
use crate::digest::parse_digest;
use motu_store::Digest;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The registry of names without a host, as Docker has it.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// The tag of a reference without tag and digest.
const DEFAULT_TAG: &str = "latest";
/// Characters of a host and a repository together at most (distribution specification, "Pulling manifests").
const MAX_NAME: usize = 255;
/// Characters of a tag at most (the same).
const MAX_TAG: usize = 128;

/// How a registry is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// By TLS only.
    Https,
    /// In the clear: a registry on this very host, or one of which the person said so with `http://`.
    Http,
}

/// A reference to an image in a registry, complete as Docker completes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    scheme: Scheme,
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with a port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository, without the host: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if neither tag nor digest were given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index that is wanted and no other.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name as people know it, without what Docker adds and without the digest: `alpine`, `ghcr.io/owner/app`.
    pub fn familiar_name(&self) -> String {
        if self.host != DOCKER_HUB {
            return format!("{}/{}", self.host, self.repository);
        }
        self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
    }

    /// Whether the registry is on this very host.
    pub(crate) fn is_on_this_host(&self) -> bool {
        is_loopback(&self.host)
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What the distribution specification calls `<reference>`: the digest if there is one, else the tag.
    pub(crate) fn wanted(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme != implied(&self.host) {
            out.write_str(if self.scheme == Scheme::Http { "http://" } else { "https://" })?;
        }
        write!(out, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(out, "@sha256:{digest}"))
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        parse(text).map_err(|problem| RegistryError::Reference { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        Some((other, _)) => return Err(format!("{other}:// is no way to a registry")),
        None => (None, text),
    };
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (rest, None),
    };
    // A colon before a slash is a port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (host, repository) = match name.split_once('/') {
        Some((host, repository)) if is_host(host) || scheme.is_some() => (host, repository),
        _ if scheme.is_some() => return Err("a registry's host and a repository are needed after ://".to_owned()),
        _ => (DOCKER_HUB, name),
    };
    check_host(host)?;
    let host = if host == "index.docker.io" { DOCKER_HUB } else { host };
    let repository = match repository {
        official if host == DOCKER_HUB && !official.contains('/') => format!("library/{official}"),
        other => other.to_owned(),
    };
    repository.split('/').try_for_each(check_component)?;
    if host.len() + repository.len() > MAX_NAME {
        return Err(format!("it is longer than {MAX_NAME} characters"));
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    let scheme = scheme.unwrap_or_else(|| implied(host));
    Ok(Reference { scheme, host: host.to_owned(), repository, tag, digest })
}

/// Whether the part before the first slash is a host, by Docker's rule.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase())
}

/// Splits a host that may be an IPv6 address from a port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = split_port(host);
    let wrong = || format!("{host:?} is no host");
    if let Some(inner) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        inner.parse::<Ipv6Addr>().map_err(|_| wrong())?;
    } else {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let label = |label: &str| !label.is_empty() && label.bytes().all(letter);
        if !name.split('.').all(label) {
            return Err(wrong());
        }
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        _ => Err(format!("{:?} is no port", port.unwrap_or_default())),
    }
}

/// What nobody needs to say: TLS, but not on this very host, where no one else can listen or answer.
fn implied(host: &str) -> Scheme {
    if is_loopback(host) { Scheme::Http } else { Scheme::Https }
}

fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let inner = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || match inner.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => Ipv4Addr::is_loopback(&address),
            Ok(IpAddr::V6(address)) => Ipv6Addr::is_loopback(&address),
            Err(_) => false,
        }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let whole = tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'));
    if whole && tag.len() <= MAX_TAG {
        return Ok(());
    }
    Err(format!("{tag:?} is no tag: tags have letters, digits, '_', '.' and '-', {MAX_TAG} at most"))
}

/// A part of a repository: alphanumeric runs with one separator between two of them (distribution specification,
/// "Pulling manifests").
fn check_component(text: &str) -> Result<(), String> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let ends = text.starts_with(alphanumeric) && text.ends_with(alphanumeric);
    if ends && text.split(alphanumeric).filter(|between| !between.is_empty()).all(separator) {
        return Ok(());
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("names of images have no capitals".to_owned());
    }
    Err(format!("{text:?} is no part of an image's name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_completed_as_dockers() {
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("owner/app", "docker.io/owner/app:latest"),
            ("ghcr.io/owner/app:V1", "ghcr.io/owner/app:V1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest"),
            ("Host/app", "Host/app:latest"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("http://lan:5000/app", "http://lan:5000/app:latest"),
            ("https://lan/app", "lan/app:latest"),
            ("https://localhost/app", "https://localhost/app:latest"),
            ("http://localhost/app", "localhost/app:latest"),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), whole);
        }
        let pinned: Reference = format!("alpine@sha256:{HEX}").parse().expect("pinned");
        assert_eq!((pinned.tag(), pinned.wanted()), (None, format!("sha256:{HEX}")));
        let both: Reference = format!("alpine:3@sha256:{HEX}").parse().expect("both");
        assert_eq!((both.tag(), both.wanted()), (Some("3"), format!("sha256:{HEX}")));
    }

    #[test]
    fn only_this_host_may_be_talked_to_in_the_clear_unasked() {
        let scheme = |text: &str| text.parse::<Reference>().expect(text).scheme();
        for text in ["localhost/a", "localhost:5000/a", "127.1.2.3/a", "[::1]/a", "[::1]:80/a"] {
            assert_eq!(scheme(text), Scheme::Http, "{text}");
        }
        for text in ["a", "10.0.0.1:5000/a", "localhost.example.org/a", "https://localhost/a"] {
            assert_eq!(scheme(text), Scheme::Https, "{text}");
        }
        assert_eq!(scheme("http://10.0.0.1:5000/a"), Scheme::Http);
    }

    #[test]
    fn names_that_people_know() {
        for (text, name) in [
            ("alpine:3", "alpine"),
            ("docker.io/o/a", "o/a"),
            ("ghcr.io/o/a:1", "ghcr.io/o/a"),
            ("localhost:5/a", "localhost:5/a"),
        ] {
            assert_eq!(text.parse::<Reference>().expect(text).familiar_name(), name);
        }
    }

    #[test]
    fn what_is_no_reference_is_said() {
        for (text, problem) in [
            ("", "\"\" is no part"),
            ("Alpine", "no capitals"),
            ("a//b", "\"\" is no part"),
            ("../b", "\"..\" is no host"),
            ("a:", "\"\" is no tag"),
            ("a:b c", "\"b c\" is no tag"),
            ("a@sha256:12", "\"12\" is no SHA-256"),
            ("a@sha512:12", "sha512"),
            ("a.b:x/c", "\"x\" is no port"),
            ("a.b:0/c", "\"0\" is no port"),
            ("[::g]/c", "is no host"),
            ("[::g]:1/c", "is no host"),
            ("ftp://a/b", "ftp:// is no way"),
            ("http://a", "a registry's host"),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(problem) && error.contains("ghcr.io/owner/app:v1"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn a_complete_reference_means_itself(text in "(http://)?[a-z.:0-9\\[\\]]{1,12}/[a-z0-9._/-]{1,20}(:[a-z0-9.]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().expect("the same again");
                prop_assert_eq!(again, reference);
            }
        }
    }
}
