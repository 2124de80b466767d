//! A registry's client (OCI distribution specification, "Pull").
//!
//! Synchronous: each request is answered before the next one is made, and whoever wants several at once has several threads.

mod challenge;
mod failure;
mod token;
mod transport;

use crate::credentials::Credential;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, printable};
use crate::reference::{DOCKER_HUB, Scheme};
use crate::retry::{Backoff, Failure};
use crate::{Options, Reference, RegistryError};
use motu_store::Digest;
use serde::Deserialize;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, BodyReader};

/// Where Docker's registry really is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Tags that are asked for, to find near ones among them.
const TAGS: u64 = 1000;

/// One repository of one registry.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    agent: Agent,
    reference: &'a Reference,
    /// `https://HOST`, without a slash at its end.
    base: String,
    credential: Option<Credential>,
    /// What the registry took last as `Authorization`.
    authorization: Mutex<Option<String>>,
    pause: Duration,
    cancel: &'a AtomicBool,
}

/// A document as a registry gave it.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

/// A blob's bytes from some byte on.
pub(crate) struct Stream {
    /// The first byte that comes: what was asked for, or 0.
    pub(crate) from: u64,
    pub(crate) body: BodyReader<'static>,
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

impl<'a> Client<'a> {
    /// A client of the registry that has this image. Nothing is asked of it yet.
    pub(crate) fn new(
        reference: &'a Reference,
        options: &Options,
        cancel: &'a AtomicBool,
    ) -> Result<Self, RegistryError> {
        let host = if reference.host() == DOCKER_HUB { DOCKER_HUB_HOST } else { reference.host() };
        let clear = reference.scheme() == Scheme::Http;
        let scheme = if clear { "http" } else { "https" };
        Ok(Client {
            agent: transport::agent(reference, clear, options.idle)?,
            reference,
            base: format!("{scheme}://{host}"),
            credential: options.credentials.of(reference)?,
            authorization: Mutex::new(None),
            pause: options.pause,
            cancel,
        })
    }

    /// What ends the requests that are being made, and all later ones.
    pub(crate) fn stopper(&self) -> Agent {
        self.agent.clone()
    }

    pub(crate) fn backoff(&self) -> Backoff<'a> {
        Backoff::new(self.pause, self.cancel)
    }

    /// A manifest or index by tag or digest ("Pulling manifests"); `None` if there is none.
    pub(crate) fn manifest(&self, wanted: &str) -> Result<Option<Document>, RegistryError> {
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let what = format!("manifests/{wanted}");
        self.backoff().run(|| {
            let mut response = self.get(&what, Some(&accept), None)?;
            if response.status() == 404 {
                return Ok(None);
            }
            let bytes = self.small(&what, &mut response)?;
            let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
            // Parameters such as a charset may come behind.
            let media_type = media_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
            Ok(Some(Document { bytes, media_type }))
        })
    }

    /// A small blob, such as an image's configuration; `None` if there is none.
    pub(crate) fn small_blob(&self, digest: Digest) -> Result<Option<Vec<u8>>, RegistryError> {
        let what = format!("blobs/sha256:{digest}");
        self.backoff().run(|| {
            let mut response = self.get(&what, None, None)?;
            if response.status() == 404 { Ok(None) } else { self.small(&what, &mut response).map(Some) }
        })
    }

    /// A blob from its byte `from` on, or from its first where the registry gives no parts ("Pulling blobs"; RFC 9110, section
    /// 14). Tried once.
    pub(crate) fn blob(&self, digest: Digest, from: u64) -> Result<Stream, Failure> {
        let what = format!("blobs/sha256:{digest}");
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let response = self.get(&what, None, range.as_deref())?;
        let starts = match response.status().as_u16() {
            200 => 0,
            206 => {
                let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
                let first = range.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
                first.filter(|first| *first == from).ok_or_else(|| {
                    let range = printable(range.unwrap_or_default(), 60);
                    let problem = format!("comes with the range {range:?}, and not from byte {from} on as asked");
                    Failure::Final(RegistryError::document(&what, problem))
                })?
            }
            // What is there already is as long as the blob, or longer.
            416 if from > 0 => return self.blob(digest, 0),
            404 => return Err(Failure::Final(self.none(&format!("blob sha256:{digest}"), String::new()))),
            _ => return Err(failure::of_status(self.host(), self.repository(), &what, response)),
        };
        Ok(Stream { from: starts, body: response.into_body().into_with_config().limit(u64::MAX).reader() })
    }

    /// The repository's tags, as far as the registry names them at once ("Listing Tags"). None if it does not.
    pub(crate) fn tags(&self) -> Vec<String> {
        let what = format!("tags/list?n={TAGS}");
        let bytes = self.get(&what, None, None).and_then(|mut response| match response.status().as_u16() {
            200 => self.small(&what, &mut response),
            _ => Ok(Vec::new()),
        });
        let tags = bytes.ok().and_then(|bytes| serde_json::from_slice::<Tags>(&bytes).ok());
        tags.and_then(|tags| tags.tags).unwrap_or_default()
    }

    /// The error that there is no such thing in the repository.
    pub(crate) fn none(&self, which: &str, hint: String) -> RegistryError {
        RegistryError::NoTag { repository: self.reference.familiar_name(), which: which.to_owned(), hint }
    }

    /// The failure that an answer's body ended before its end.
    pub(crate) fn broke_off(&self, error: io::Error) -> Failure {
        failure::of_read(self.host(), error)
    }

    fn host(&self) -> &str {
        self.reference.host()
    }

    fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// Asks once for something of the repository, and shows who one is where the registry wants to know. Answers with 200, 206,
    /// 404 and 416 are the caller's.
    fn get(&self, what: &str, accept: Option<&str>, range: Option<&str>) -> Result<Response<Body>, Failure> {
        let url = format!("{}/v2/{}/{what}", self.base, self.repository());
        let send = |authorization: Option<String>| {
            let mut request = self.agent.get(&url);
            for (name, value) in [("accept", accept), ("range", range), ("authorization", authorization.as_deref())] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            request.call().map_err(|error| failure::of_transport(self.host(), error))
        };
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = send(known)?;
        if response.status() == 401 {
            // At first, or when a token has grown old.
            let headers = response.headers().get_all("www-authenticate");
            let asked = challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()));
            let Some(asked) = asked else { return Err(self.denied(response)) };
            let Some(authorization) = self.authorize(&asked)? else { return Err(self.denied(response)) };
            response = send(Some(authorization.clone()))?;
            if response.status() != 401 {
                *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
            }
        }
        match response.status().as_u16() {
            200 | 206 | 404 | 416 => Ok(response),
            401 | 403 => Err(self.denied(response)),
            _ => Err(failure::of_status(self.host(), self.repository(), what, response)),
        }
    }

    fn denied(&self, response: Response<Body>) -> Failure {
        failure::denied(self.reference, self.credential.is_some(), response)
    }

    /// An answer's whole body, which may have 4 MiB.
    fn small(&self, what: &str, response: &mut Response<Body>) -> Result<Vec<u8>, Failure> {
        if !matches!(response.status().as_u16(), 200 | 206) {
            let problem = format!("was answered with {}", response.status());
            return Err(Failure::Final(RegistryError::document(what, problem)));
        }
        let mut bytes = Vec::new();
        let body = response.body_mut().as_reader();
        body.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(|error| failure::of_read(self.host(), error))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let problem = format!("of {} has more than the {MAX_DOCUMENT} bytes that are allowed", self.reference);
            return Err(Failure::Final(RegistryError::document(what, problem)));
        }
        Ok(bytes)
    }
}
