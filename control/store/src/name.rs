//! What people call images: `debian`, `alpine:3.20`, `ghcr.io/owner/app:v1`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The tag of a name that is given without one.
pub const DEFAULT_TAG: &str = "latest";
/// Characters of a tag at most (OCI distribution specification, "Pulling manifests").
const MAX_TAG: usize = 128;
/// Characters of a whole name at most: it is a file's name in the store, where `/` takes three.
const MAX_NAME: usize = 200;

/// A name as Docker's: a repository of lower-case parts, which a registry's host may stand before, and a tag, `latest` if
/// there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    repository: String,
    tag: String,
}

/// A text that is no image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no image name: {problem}; names look like debian, alpine:3.20 or example.org/team/app:v1 (a-z, 0-9, '.', '_' \
     and '-' between them; a tag may have capitals)"
)]
pub struct ParseNameError {
    text: String,
    problem: &'static str,
}

impl ImageName {
    /// What stands before the tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What stands behind the last colon.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name of its file in the store: no other name has the same.
    pub(crate) fn file_name(&self) -> String {
        format!("{}:{}.json", self.repository.replace('/', "%2F"), self.tag)
    }

    /// The inverse of [`ImageName::file_name`].
    pub(crate) fn from_file_name(file: &str) -> Option<Self> {
        let name: Self = file.strip_suffix(".json")?.replace("%2F", "/").parse().ok()?;
        (name.file_name() == file).then_some(name)
    }
}

/// Whether a part of a repository's path is one: alphanumeric runs with one separator between two of them (OCI
/// distribution specification, "Pulling manifests").
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    text.split(alphanumeric).filter(|between| !between.is_empty()).all(separator)
}

/// Whether the first part of a path is a registry's host, by Docker's rule.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let port_is_one = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (text.contains(['.', ':']) || text == "localhost") && port_is_one && name.split('.').all(label)
}

impl FromStr for ImageName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let wrong = |problem| ParseNameError { text: text.to_owned(), problem };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.contains('@') {
            return Err(wrong("it has a digest; name it without, or by the digest alone"));
        }
        // A colon before a slash is a port's.
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (text, DEFAULT_TAG),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !tag.starts_with(word) || !tag.chars().all(|c| word(c) || matches!(c, '.' | '-')) || tag.len() > MAX_TAG {
            return Err(wrong("its tag is none"));
        }
        let mut parts = repository.split('/').peekable();
        let first_is_host = repository.contains('/') && parts.peek().is_some_and(|first| is_host(first));
        if !parts.skip(usize::from(first_is_host)).all(is_component) {
            let capital = repository.chars().any(|c| c.is_ascii_uppercase());
            return Err(wrong(if capital { "it has capitals" } else { "a part of it is none" }));
        }
        if repository.replace('/', "%2F").len() + tag.len() > MAX_NAME {
            return Err(wrong("it is too long"));
        }
        Ok(Self { repository: repository.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.repository, self.tag)
    }
}

impl TryFrom<String> for ImageName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: ParseNameError| error.to_string())
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_dockers() {
        for (text, repository, tag) in [
            ("debian", "debian", "latest"),
            ("alpine:3.20", "alpine", "3.20"),
            ("library/alpine", "library/alpine", "latest"),
            ("ghcr.io/owner/app:V1", "ghcr.io/owner/app", "V1"),
            ("localhost:5000/app", "localhost:5000/app", "latest"),
            ("localhost:5000/app:1", "localhost:5000/app", "1"),
            ("Example.org/app", "Example.org/app", "latest"),
            ("a--b__c.d_e", "a--b__c.d_e", "latest"),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.repository(), name.tag()), (repository, tag));
        }
    }

    #[test]
    fn what_is_none_is_said() {
        for text in ["", "../x", "a//b", ".hidden", "a/", "a:", "a:b c", "a___b", "-a", "a/../b", "a%2Fb", "ä", "a:.b"]
        {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
        let error = "Tiny".parse::<ImageName>().unwrap_err().to_string();
        assert!(error.contains("it has capitals") && error.contains("alpine:3.20"), "{error}");
        assert!("a".repeat(300).parse::<ImageName>().is_err());
    }

    proptest! {
        #[test]
        fn every_name_has_a_file_of_its_own(text in "[a-z0-9.:/_-]{1,30}") {
            if let Ok(name) = text.parse::<ImageName>() {
                let file = name.file_name();
                prop_assert!(!file.contains('/') && file.len() < 255);
                prop_assert_eq!(ImageName::from_file_name(&file), Some(name.clone()));
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<ImageName>();
            let _ = ImageName::from_file_name(&text);
        }
    }
}
