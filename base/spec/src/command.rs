//! The command that a machine runs, as asked for.

use serde::{Deserialize, Serialize};

/// What a person says of a machine's command; what is left out is the image's to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandSpec {
    /// The command and its arguments, instead of the image's; with an entry point, its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// The program instead of the image's entry point; the image's command is not used then. Empty: none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Names and values, added to the image's or in their place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// `NAME|UID[:GROUP|GID]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The folder that it starts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// On a terminal of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
}
