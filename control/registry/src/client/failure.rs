//! What went wrong, and whether it may go better next time.

use crate::manifest::printable;
use crate::retry::Failure;
use crate::{Reference, RegistryError};
use serde::Deserialize;
use std::io::{self, Read};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Body, Error};

/// Bytes of an answer that are looked at for its reason.
const MAX_REASON: u64 = 64 << 10;

/// OCI distribution specification, "Error Codes".
#[derive(Deserialize)]
struct Answer {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    code: Option<String>,
    message: Option<String>,
}

/// Of a request that got no answer.
pub(super) fn of_transport(host: &str, error: Error) -> Failure {
    let unreachable = |reason: String| RegistryError::Unreachable { host: host.to_owned(), reason };
    match error {
        Error::Io(error) => of_read(host, error),
        Error::Rustls(error) => Failure::Final(tls(host, &error.to_string())),
        Error::Tls(reason) => Failure::Final(tls(host, reason)),
        Error::Timeout(_) => Failure::Passing(unreachable("it did not answer in time".to_owned()), None),
        Error::HostNotFound => Failure::Final(unreachable("no such host is known".to_owned())),
        Error::RequireHttpsOnly(_) => Failure::Final(unreachable("it sends us on to a place without TLS".to_owned())),
        Error::ConnectProxyFailed(reason) => {
            let reason = printable(&reason, 200);
            Failure::Final(unreachable(format!(
                "the proxy that HTTPS_PROXY or ALL_PROXY names does not let us: {reason}"
            )))
        }
        Error::Protocol(error) => Failure::Passing(unreachable(format!("its answer is no HTTP ({error})")), None),
        error => Failure::Final(unreachable(error.to_string())),
    }
}

/// Of an answer that broke off, or of a connection that was not made.
pub(super) fn of_read(host: &str, error: io::Error) -> Failure {
    let inner = error.get_ref().map(ToString::to_string);
    match (error.kind(), inner) {
        // rustls says so what it does not like.
        (io::ErrorKind::InvalidData, Some(reason)) => Failure::Final(tls(host, &reason)),
        (kind, _) => {
            let reason = printable(&error.to_string(), 300);
            let unreachable = RegistryError::Unreachable { host: host.to_owned(), reason };
            if lasts(kind) { Failure::Final(unreachable) } else { Failure::Passing(unreachable, None) }
        }
    }
}

/// Whether a connection that fails so would fail again. `getaddrinfo` has no kind of its own.
fn lasts(kind: io::ErrorKind) -> bool {
    let broken_off = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::TimedOut,
        io::ErrorKind::WouldBlock,
        io::ErrorKind::Interrupted,
        io::ErrorKind::Other,
    ];
    !broken_off.contains(&kind)
}

fn tls(host: &str, reason: &str) -> RegistryError {
    let reason = printable(reason, 300);
    let advice = if reason.contains("CaUsedAsEndEntity") {
        format!("{reason}: its certificate is an authority's (CA:TRUE), and a server needs one of its own")
    } else if reason.contains("UnknownIssuer") {
        format!(
            "{reason}: nobody whom this host trusts vouches for it; SSL_CERT_FILE names a file of certificates to trust"
        )
    } else if reason.contains("corrupt message") {
        format!("{reason}; if it is meant to be talked to in the clear, say so: oci:http://{host}/...")
    } else {
        reason
    };
    RegistryError::Tls { host: host.to_owned(), reason: advice }
}

/// Of an answer that nobody wants.
pub(super) fn of_status(host: &str, repository: &str, what: &str, response: Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let wait = wait.map(Duration::from_secs);
    let said = reason(response);
    let host = host.to_owned();
    if status == 429 {
        return Failure::Passing(RegistryError::Throttled { host, wait, said }, wait);
    }
    let error = RegistryError::Status { host, status, what: format!("{what} of {repository}"), said };
    if status >= 500 || status == 408 { Failure::Passing(error, wait) } else { Failure::Final(error) }
}

/// Of an answer that says that one may not. Registries answer so for what is not there, too, so that nobody learns what is.
pub(super) fn denied(reference: &Reference, known: bool, response: Response<Body>) -> Failure {
    let host = reference.host().to_owned();
    let advice = if known {
        format!("it may not be there, or the account of `docker login {host}` may not read it")
    } else {
        format!("it may not be there, or `docker login {host}` may be needed")
    };
    let repository = reference.repository().to_owned();
    Failure::Final(RegistryError::Denied { host, repository, said: reason(response), advice })
}

/// What an answer says about itself, in a registry's words or in plain ones.
pub(super) fn reason(response: Response<Body>) -> String {
    let plain = response.body().mime_type().is_none_or(|kind| kind == "text/plain");
    let mut bytes = Vec::new();
    // The reason is a help, and no more.
    let _ = response.into_body().into_reader().take(MAX_REASON).read_to_end(&mut bytes);
    let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) else {
        let text = String::from_utf8(bytes).unwrap_or_default();
        let first = text.lines().next().filter(|line| plain && !line.starts_with(['<', '{']));
        return printable(first.unwrap_or_default(), 200);
    };
    let first = answer.errors.into_iter().find_map(|entry| entry.message.or(entry.code));
    printable(&first.unwrap_or_default(), 200)
}
