//! The meta-data that motu makes.

use serde::Serialize;

/// What cloud-init reads of meta-data, by its names.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaData<'a> {
    /// Another one than at the last boot, and cloud-init takes the machine for a new one.
    instance_id: String,
    local_hostname: &'a str,
    /// For the default user, as if a cloud's console had been given them: user-data of any format may say something else beside.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    public_keys: &'a [String],
}

/// As JSON, which is YAML.
pub fn data(id: &str, name: &str, public_keys: &[String]) -> String {
    let data = MetaData { instance_id: format!("motu-{id}"), local_hostname: name, public_keys };
    // Strings and lists of strings can always be written.
    serde_json::to_string_pretty(&data).unwrap_or_default() + "\n"
}
