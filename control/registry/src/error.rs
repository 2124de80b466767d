//! What can go wrong, said so that a person knows what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A reference that cannot be one.
    #[error(
        "{text:?} is no reference to an image: {problem}; references look like alpine, alpine:3.20, ghcr.io/owner/app:v1, \
         localhost:5000/app or any of them with @sha256:DIGEST"
    )]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The registry cannot be talked to.
    #[error("cannot reach the registry {host}: {reason}")]
    Unreachable {
        /// Its host, and port if one was given.
        host: String,
        /// Why.
        reason: String,
    },
    /// The registry's certificate is not to be trusted, or it does not speak TLS.
    #[error("cannot talk to the registry {host} by TLS: {reason}")]
    Tls {
        /// Its host, and port if one was given.
        host: String,
        /// Why.
        reason: String,
    },
    /// The registry has no such image, or keeps it to itself.
    #[error("the registry {host} has no image {repository}{}", reason_in(.said))]
    NoImage {
        /// Its host, and port if one was given.
        host: String,
        /// The repository that was asked for.
        repository: String,
        /// What the registry said.
        said: String,
    },
    /// The image has no such tag or digest.
    #[error("{repository} has no {which}{}", hint_in(.hint))]
    NoTag {
        /// The image.
        repository: String,
        /// `tag 3.20` or `manifest sha256:...`.
        which: String,
        /// What there is instead.
        hint: String,
    },
    /// The registry wants to know who asks, or does not like who does.
    #[error("the registry {host} does not give out {repository}{}; {advice}", reason_in(.said))]
    Denied {
        /// Its host, and port if one was given.
        host: String,
        /// The repository that was asked for.
        repository: String,
        /// What the registry said.
        said: String,
        /// What can be done about it.
        advice: String,
    },
    /// The registry has had enough of us.
    #[error(
        "the registry {host} takes no more requests for now (429{}){}; try again later, or log in: it may allow more then",
        time_in(.wait), reason_in(.said)
    )]
    Throttled {
        /// Its host, and port if one was given.
        host: String,
        /// For how long, if it said so.
        wait: Option<Duration>,
        /// What the registry said.
        said: String,
    },
    /// An answer that is none.
    #[error("the registry {host} answered {status} to {what}{}", reason_in(.said))]
    Status {
        /// Its host, and port if one was given.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What the registry said.
        said: String,
    },
    /// A download broke off each time that it was tried.
    #[error(
        "the download of {what} broke off {times} times, last at {at} of {size} bytes: {reason}; what is there is kept for the next try"
    )]
    BrokenOff {
        /// The blob.
        what: String,
        /// How often in a row without a byte more.
        times: u32,
        /// Bytes that are there.
        at: u64,
        /// Bytes that there should be.
        size: u64,
        /// What happened last.
        reason: String,
    },
    /// Bytes that are not those that were announced.
    #[error("{what} was tampered with or damaged on the way: {problem}; nothing of it was kept")]
    Tampered {
        /// The blob, manifest or configuration.
        what: String,
        /// What its digest or size is and should be.
        problem: String,
    },
    /// A document that is not what it should be.
    #[error("{what} {problem}")]
    Document {
        /// The manifest, index or configuration.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An image for other computers.
    #[error("{image} is not for {wanted}: it is there for {there}")]
    Platform {
        /// The image.
        image: String,
        /// What it should be for.
        wanted: String,
        /// What it is for.
        there: String,
    },
    /// A folder or file that is not what it was said to be.
    #[error("{} {problem}", path.display())]
    Layout {
        /// The layout or archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Credentials that cannot be read.
    #[error("cannot take credentials from {}: {problem}", path.display())]
    Credentials {
        /// Docker's configuration.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk is, or would be, full.
    #[error(
        "there is no room for the image: {needed} MiB are to be fetched, and {} has {free} MiB free",
        path.display()
    )]
    NoRoom {
        /// Where layers are kept.
        path: PathBuf,
        /// MiB that are free.
        free: u64,
        /// MiB that are needed.
        needed: u64,
    },
    /// The host's file system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The person, or a signal, stopped it.
    #[error(
        "stopped before the image was there; layers that came whole, and parts of others, are kept for the next try"
    )]
    Cancelled,
}

impl RegistryError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
        move |source| RegistryError::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn document(what: &str, problem: impl Into<String>) -> RegistryError {
        RegistryError::Document { what: what.to_owned(), problem: problem.into() }
    }
}

fn reason_in(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" (it said: {text})") }
}

fn hint_in(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; {text}") }
}

fn time_in(time: &Option<Duration>) -> String {
    time.map_or(String::new(), |time| format!(", for {} s", time.as_secs()))
}
