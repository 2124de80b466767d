//! Showing who one is (distribution's "Token Authentication Specification" and its OAuth 2.0 variant).

use super::challenge::Challenge;
use super::{Client, failure};
use crate::RegistryError;
use crate::credentials::Credential;
use crate::retry::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::Read;
use ureq::Body;
use ureq::http::Response;

/// Bytes of an answer with a token at most.
const MAX_TOKEN: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client<'_> {
    /// What to put into `Authorization` for this challenge; `None` if there is nothing.
    pub(super) fn authorize(&self, challenge: &Challenge) -> Result<Option<String>, Failure> {
        match (challenge, &self.credential) {
            (_, Some(Credential::Registry(token))) => Ok(Some(format!("Bearer {token}"))),
            (Challenge::Basic, Some(Credential::Password { user, password })) => Ok(Some(basic(user, password))),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, credential) => {
                self.check_realm(realm)?;
                let default = format!("repository:{}:pull", self.reference.repository());
                let scope = scope.as_deref().unwrap_or(&default);
                let service = service.as_deref().unwrap_or_default();
                self.token(realm, service, scope, credential.as_ref()).map(Some)
            }
        }
    }

    /// A password that goes to the registry by TLS goes nowhere without.
    fn check_realm(&self, realm: &str) -> Result<(), Failure> {
        if realm.starts_with("https://") || (realm.starts_with("http://") && self.base.starts_with("http://")) {
            return Ok(());
        }
        let shown = crate::manifest::printable(realm, 100);
        let reason = format!("it sends us for a token to {shown:?}, which is not https");
        Err(Failure::Final(RegistryError::Unreachable { host: self.host().to_owned(), reason }))
    }

    fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        credential: Option<&Credential>,
    ) -> Result<String, Failure> {
        let mut form = format!("service={}&scope={}", encode(service), encode(scope));
        let sent = if let Some(Credential::Identity(token)) = credential {
            let _ = write!(form, "&grant_type=refresh_token&client_id=motu&refresh_token={}", encode(token));
            self.agent.post(realm).header("content-type", "application/x-www-form-urlencoded").send(form)
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let mut request = self.agent.get(format!("{realm}{separator}{form}"));
            if let Some(Credential::Password { user, password }) = credential {
                request = request.header("authorization", basic(user, password));
            }
            request.call()
        };
        let response = sent.map_err(|error| failure::of_transport(self.host(), error))?;
        match response.status().as_u16() {
            200 => self.token_in(response),
            400 | 401 | 403 | 404 => Err(self.denied(response)),
            _ => Err(failure::of_status(self.host(), self.repository(), "the request for a token", response)),
        }
    }

    fn token_in(&self, response: Response<Body>) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_TOKEN).read_to_end(&mut bytes).map_err(|error| failure::of_read(self.host(), error))?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        // What cannot be in a header must not break out of it.
        let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        let reason = "it sent us for a token, and there was none".to_owned();
        let none = || Failure::Final(RegistryError::Unreachable { host: self.host().to_owned(), reason });
        token.map(|token| format!("Bearer {token}")).ok_or_else(none)
    }
}

/// RFC 7617, section 2.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// RFC 3986, section 2.1: everything but unreserved characters.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_encoded() {
        assert_eq!(encode("repository:a/b:pull é"), "repository%3Aa%2Fb%3Apull%20%C3%A9");
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
