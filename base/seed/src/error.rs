//! What is wrong with a seed.

use crate::Part;

/// Why a person's text cannot be a part of a seed. Each begins with a verb or "it": what it is about stands before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    #[error("it is empty")]
    Empty,
    #[error("it has more than {} KiB, which is the most", .0 >> 10)]
    TooLong(usize),
    #[error("it is no UTF-8 text")]
    NotText,
    #[error("it has a zero byte in it; write it as plain text")]
    Zero,
    #[error("it is compressed by gzip; give it as it was before (gunzip)")]
    Compressed,
    #[error(
        "it begins with {0:?}, which cloud-init does not know; YAML begins with the line #cloud-config, a script with #! and its \
         interpreter; #include, #cloud-boothook, #cloud-config-archive, #cloud-config-jsonp, #part-handler, ## template: jinja and a \
         MIME message are known as well"
    )]
    Header(String),
    #[error("line {line}, column {column}: {problem}; it has to be YAML")]
    Yaml { line: usize, column: usize, problem: String },
    #[error("it has several YAML documents; cloud-init reads one, so leave out the lines --- behind the first")]
    Documents,
    #[error("its YAML is no mapping, which has lines such as hostname: web")]
    NoMapping,
    #[error("its YAML is no list, which has lines that begin with a dash, as a #cloud-config-archive has")]
    NoList,
    #[error("it has no instance-id, by which cloud-init knows a machine again; add a line such as instance-id: web-1")]
    NoInstanceId,
    #[error("it has neither version nor network at its top; it begins with a line such as version: 2")]
    NoVersion,
    #[error("it is a private key, which nobody else is to have; give the public one, whose file's name ends in .pub")]
    PrivateKey,
    #[error("it has no public key; one is a line such as ssh-ed25519 AAAAC3Nza... me@host")]
    NoKey,
    #[error("line {0} is no public key as OpenSSH writes them, such as ssh-ed25519 AAAAC3Nza... me@host")]
    Key(usize),
}

/// What is wrong with a seed, and what would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    #[error("the {part} for cloud-init cannot be used: {problem}")]
    Part { part: Part, problem: PartError },
    #[error(
        "SSH keys and meta-data for cloud-init cannot both be given, since the keys are part of the meta-data; write them there, \
         as public-keys, or leave the meta-data out"
    )]
    KeysAndMetaData,
}
