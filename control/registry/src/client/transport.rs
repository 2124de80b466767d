//! Connections: certificates, proxies and how long is waited.

use crate::{Reference, RegistryError};
use rustls_native_certs::CertificateResult;
use std::sync::OnceLock;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(20);

/// Makes requests to the registry that has this image, and to where that sends us.
///
/// # Errors
/// The person names certificates that cannot be read, and the registry is to be talked to by TLS.
pub(super) fn agent(reference: &Reference, clear: bool, idle: Duration) -> Result<Agent, RegistryError> {
    // This very host is not behind a proxy, whatever the environment says.
    let proxy = if reference.is_on_this_host() { None } else { ureq::Proxy::try_from_env() };
    let roots = match roots() {
        Ok(roots) => roots,
        Err(_) if clear => RootCerts::WebPki,
        Err(reason) => return Err(RegistryError::Tls { host: reference.host().to_owned(), reason }),
    };
    let tls = TlsConfig::builder().root_certs(roots).build();
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(!clear)
        .proxy(proxy)
        .tls_config(tls)
        .user_agent(concat!("motu/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(idle))
        .timeout_per_write(Some(idle))
        .timeout_recv_response(Some(idle))
        .build();
    Ok(agent.into())
}

/// The certificates that this host trusts (or those that SSL_CERT_FILE and SSL_CERT_DIR name); Mozilla's where it has none, as
/// in many containers.
fn roots() -> Result<RootCerts, String> {
    static ROOTS: OnceLock<Result<RootCerts, String>> = OnceLock::new();
    let load = || {
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find(|name| std::env::var_os(name).is_some());
        choose(rustls_native_certs::load_native_certs(), named)
    };
    ROOTS.get_or_init(load).clone()
}

/// `named` is the variable by which the person said which ones, if any: then there are no others.
fn choose(found: CertificateResult, named: Option<&str>) -> Result<RootCerts, String> {
    match named {
        Some(name) if found.certs.is_empty() => {
            let why = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
            Err(format!(
                "{name} leads to no certificates{why}; it is to name a file or folder of certificates in PEM format"
            ))
        }
        None if found.certs.is_empty() => Ok(RootCerts::WebPki),
        _ => Ok(RootCerts::from(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_a_person_names_are_not_replaced_by_others() {
        let none = rustls_native_certs::load_certs_from_paths(Some("/no/such/file".as_ref()), None);
        let error = choose(none, Some("SSL_CERT_FILE")).expect_err("none");
        assert!(
            error.contains("SSL_CERT_FILE leads to no certificates (") && error.contains("/no/such/file"),
            "{error}"
        );
        assert!(matches!(choose(CertificateResult::default(), None), Ok(RootCerts::WebPki)));
    }
}
