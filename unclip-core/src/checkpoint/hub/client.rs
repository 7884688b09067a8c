//! The few requests that a download takes.
//!
//! A file is asked for at `/<id>/resolve/<commit>/<file>`. A small one is the answer itself; a large one is an address
//! elsewhere, with the hash and size in the headers of the answer. The token goes to the hub alone.

use std::{io::Read, time::Duration};

use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode},
};

use super::{HubOptions, cache};

/// The longest list of a repository's files that is read.
const MAX_LISTING: u64 = 16 << 20;
const MAX_REDIRECTS: usize = 5;

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub cannot be reached, or is in trouble: the cache may help.
    Unreachable(String),
    /// The hub says no.
    Refused(String),
}

impl Failure {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Unreachable(reason) | Self::Refused(reason) => reason,
        }
    }
}

/// What a repository holds at a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(super) fn commit(&self) -> &str {
        &self.sha
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|file| file.rfilename.as_str())
    }
}

/// A file of the hub, ready to be read.
pub(super) struct Remote {
    pub(super) etag: String,
    pub(super) size: Option<u64>,
    pub(super) content: Content,
}

/// Where the bytes of a file are.
pub(super) enum Content {
    /// In the answer already.
    Here(Box<dyn Read + Send>),
    /// At another address.
    Elsewhere(String),
}

/// What the hub says of a file that it stores elsewhere; its first word counts.
#[derive(Default)]
struct Linked {
    etag: Option<String>,
    size: Option<u64>,
}

impl Linked {
    fn notice(&mut self, headers: &HeaderMap) {
        self.etag = self.etag.take().or(text(headers, "x-linked-etag").map(str::to_owned));
        self.size = self.size.or(text(headers, "x-linked-size").and_then(|size| size.parse().ok()));
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Speaks with one repository of a hub.
#[derive(Debug)]
pub(super) struct Client<'a> {
    options: &'a HubOptions,
    id: &'a str,
    /// Follows no redirects, as the headers of the first answer matter.
    hub: Agent,
    /// Follows redirects, and never carries a token.
    storage: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a HubOptions, id: &'a str) -> Self {
        let agent = |redirects| -> Agent {
            Agent::config_builder()
                .user_agent(concat!("unclip/", env!("CARGO_PKG_VERSION")))
                .http_status_as_error(false)
                .max_redirects(redirects)
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                // A large file takes its time, but not silently.
                .timeout_per_read(Some(Duration::from_secs(60)))
                .build()
                .into()
        };
        Self { options, id, hub: agent(0), storage: agent(5) }
    }

    /// The files at a revision, and the commit that it stands at.
    pub(super) fn listing(&self, revision: &str) -> Result<Listing, Failure> {
        let revision = revision.replace('/', "%2F");
        let path = format!("/api/models/{}/revision/{revision}", self.id);
        let (_, answer) = self.ask(format!("{}{path}", self.options.endpoint))?;
        let mut body = Vec::new();
        answer
            .into_body()
            .into_reader()
            .take(MAX_LISTING)
            .read_to_end(&mut body)
            .map_err(|e| Failure::Unreachable(format!("the list of files broke off: {e}")))?;
        let listing: Listing = serde_json::from_slice(&body).map_err(|e| {
            Failure::Refused(format!(
                "{} does not answer as a model hub: {e}",
                self.options.endpoint
            ))
        })?;
        if cache::is_commit(&listing.sha) {
            Ok(listing)
        } else {
            Err(Failure::Refused(format!("the hub names the commit {:?}", listing.sha)))
        }
    }

    /// Asks for a file of a commit.
    pub(super) fn file(&self, commit: &str, file: &str) -> Result<Remote, Failure> {
        let path = format!("/{}/resolve/{commit}/{file}", self.id);
        let (linked, answer) = self.ask(format!("{}{path}", self.options.endpoint))?;
        let header = |name: &str| text(answer.headers(), name);
        let number = |name| header(name).and_then(|text| text.parse().ok());
        let Some(etag) = linked.etag.as_deref().or(header("etag")).and_then(cache::etag) else {
            let reason = format!("the hub's answer for {file} has no usable ETag");
            return Err(Failure::Refused(reason));
        };
        let etag = etag.to_owned();
        if answer.status().is_redirection() {
            let Some(address) = header("location") else {
                let reason = format!("the hub redirects {file} to nowhere");
                return Err(Failure::Refused(reason));
            };
            let content = Content::Elsewhere(address.to_owned());
            return Ok(Remote { etag, size: linked.size, content });
        }
        let size = linked.size.or(number("content-length"));
        Ok(Remote {
            etag,
            size,
            content: Content::Here(Box::new(answer.into_body().into_reader())),
        })
    }

    /// Reads an address that the hub gave, from the byte `start` on. Also says where it begins: 0 when the server
    /// knows no ranges.
    pub(super) fn fetch(
        &self,
        address: &str,
        start: u64,
    ) -> Result<(u64, Box<dyn Read + Send>), Failure> {
        let mut request = self.storage.get(address);
        if start > 0 {
            request = request.header("Range", format!("bytes={start}-"));
        }
        let answer = request.call().map_err(|e| Failure::Unreachable(e.to_string()))?;
        match answer.status() {
            StatusCode::OK => Ok((0, Box::new(answer.into_body().into_reader()))),
            StatusCode::PARTIAL_CONTENT if start > 0 => {
                Ok((start, Box::new(answer.into_body().into_reader())))
            }
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => self.fetch(address, 0),
            status => Err(Failure::Unreachable(format!("the storage answers {status}"))),
        }
    }

    /// Asks the hub itself, following redirects within it. Returns what the answers say of a large file, and the last
    /// answer, which is a success or a redirect to elsewhere.
    fn ask(&self, mut address: String) -> Result<(Linked, Response<Body>), Failure> {
        let mut linked = Linked::default();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.hub.get(&address);
            if let Some(token) = &self.options.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|e| {
                Failure::Unreachable(format!("{} does not answer: {e}", self.options.endpoint))
            })?;
            linked.notice(answer.headers());
            let status = answer.status();
            if status.is_success() {
                return Ok((linked, answer));
            }
            if !status.is_redirection() {
                return Err(refusal(status, self.options));
            }
            match text(answer.headers(), "location") {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    address = format!("{}{path}", origin(&self.options.endpoint));
                }
                _ => return Ok((linked, answer)),
            }
        }
        Err(Failure::Refused("the hub redirects in circles".to_owned()))
    }
}

/// Scheme and host of an address.
fn origin(endpoint: &str) -> &str {
    let host = endpoint.find("://").map_or(0, |at| at + 3);
    let end = endpoint[host..].find('/').map_or(endpoint.len(), |at| host + at);
    &endpoint[..end]
}

fn refusal(status: StatusCode, options: &HubOptions) -> Failure {
    let endpoint = &options.endpoint;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let token = if options.token.is_some() { "this token" } else { "no token" };
            Failure::Refused(format!(
                "{endpoint} answers {status} with {token}: it does not exist, or its conditions \
                 must be accepted there and HF_TOKEN set"
            ))
        }
        StatusCode::NOT_FOUND => {
            Failure::Refused(format!("{endpoint} has no such repository, revision or file"))
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Failure::Unreachable(format!("{endpoint} answers {status}"))
        }
        status => Failure::Refused(format!("{endpoint} answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_and_host() {
        assert_eq!(origin("https://huggingface.co"), "https://huggingface.co");
        assert_eq!(origin("http://mirror:8080/hub/x"), "http://mirror:8080");
        assert_eq!(origin("mirror/x"), "mirror");
    }
}
