//! Connections: certificates, proxies and how long is waited.

use crate::Reference;
use std::sync::OnceLock;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(20);

/// Makes requests to the registry that has this image, and to where that sends us.
pub(super) fn agent(reference: &Reference, clear: bool, idle: Duration) -> Agent {
    // This very host is not behind a proxy, whatever the environment says.
    let proxy = if reference.is_on_this_host() { None } else { ureq::Proxy::try_from_env() };
    let tls = TlsConfig::builder().root_certs(roots()).build();
    Agent::config_builder()
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
        .build()
        .into()
}

/// The certificates that this host trusts (or those that SSL_CERT_FILE and SSL_CERT_DIR name); Mozilla's where it has none, as
/// in many containers.
fn roots() -> RootCerts {
    static ROOTS: OnceLock<RootCerts> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return RootCerts::WebPki;
        }
        RootCerts::from(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
    };
    ROOTS.get_or_init(load).clone()
}
