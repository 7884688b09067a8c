//! Model directories by repository id, through the cache that Python's tools share.
//!
//! [`fetch`] brings what a model needs and nothing else: the index, configurations, tokenizer files, and the safetensors
//! weights of one variant. A file that the cache has is not asked for again, whoever put it there.
//!
//! This module is the one that may use the network and read the environment, and it is only built with the feature
//! `hub`. [`HubOptions::from_env`] does the reading; proxies are taken from `HTTPS_PROXY` and its kin by the HTTP client.

mod cache;
mod client;
mod options;

use std::{collections::BTreeMap, path::PathBuf};

pub use options::HubOptions;

use self::{
    cache::Cache,
    client::{Client, Content, Failure, Listing},
};
use super::{
    ConfigReader, DIFFUSERS_STEM, ModelIndex, TRANSFORMERS_STEM, Weights, is_plain_name,
    weights::candidates,
};
use crate::{Error, Result};

/// The index, by its path in a repository.
const INDEX: &str = "model_index.json";

/// A model repository at one of its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `organisation/name`.
    pub id: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// The variant of the weights, such as `fp16`.
    pub variant: Option<String>,
}

impl From<&str> for Repository {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl Repository {
    /// The repository called `id`, at its branch `main`, in its plain variant.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), revision: "main".to_owned(), variant: None }
    }

    /// At another revision.
    #[must_use]
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = revision.into();
        self
    }

    /// In a variant.
    #[must_use]
    pub fn variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = Some(variant.into());
        self
    }
}

/// A download has come further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// The file's path in the repository.
    pub file: &'a str,
    /// The bytes that have arrived.
    pub received: u64,
    /// The bytes that were announced.
    pub total: Option<u64>,
}

/// The folder of the cache that holds a model, downloaded as far as it was not there.
///
/// Of the components that the index names, those in `parts` are brought, or all when `parts` is empty. A repository
/// without an index is one network, whose files lie at the top.
///
/// `report` is called as bytes arrive. When the hub cannot be reached and the cache holds a complete model, that is
/// returned with a warning. An interrupted download goes on where it stopped.
///
/// # Errors
///
/// [`Error::Hub`], naming the repository, the file and the cache folder: when the hub refuses, when offline a file is
/// not in the cache, when a component has no safetensors weights of the variant, and when what arrives is not what was
/// announced. [`Error::InvalidInput`] when id or revision cannot be one.
pub fn fetch(
    repository: &Repository,
    parts: &[&str],
    options: &HubOptions,
    report: &mut dyn FnMut(Download<'_>),
) -> Result<PathBuf> {
    check(repository)?;
    let cache = Cache::new(&options.cache, &repository.id);
    let session = Session { repository, parts, options, cache };
    if options.offline {
        return session.cached().map_err(|missing| {
            session.error(format!("the hub is not to be used (HF_HUB_OFFLINE), and {missing}"))
        });
    }
    let client = Client::new(options, &repository.id);
    match client.listing(&repository.revision) {
        Ok(listing) => session.download(&client, &listing, report),
        Err(Failure::Unreachable(reason)) => match session.cached() {
            Ok(path) => {
                tracing::warn!(repository = repository.id, reason, "the cached model is used");
                Ok(path)
            }
            Err(missing) => Err(session.error(format!("{reason}, and {missing}"))),
        },
        Err(Failure::Refused(reason)) => Err(session.error(reason)),
    }
}

fn check(repository: &Repository) -> Result<()> {
    let plain = |name: &str| {
        is_plain_name(name)
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let Repository { id, revision, variant } = repository;
    if id.split('/').count() > 2 || !id.split('/').all(plain) {
        return Err(Error::invalid("id", id, "a repository as `organisation/name`"));
    }
    if revision.len() > 255 || !revision.split('/').all(plain) {
        return Err(Error::invalid("revision", revision, "a branch, tag or commit"));
    }
    match variant {
        Some(variant) if !plain(variant) => {
            Err(Error::invalid("variant", variant, "a part of a file name, such as `fp16`"))
        }
        _ => Ok(()),
    }
}

/// One call of [`fetch`].
struct Session<'a> {
    repository: &'a Repository,
    parts: &'a [&'a str],
    options: &'a HubOptions,
    cache: Cache,
}

impl Session<'_> {
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Hub { repository: self.repository.id.clone(), reason: reason.into() }
    }

    fn variant(&self) -> Option<&str> {
        self.repository.variant.as_deref()
    }

    /// The folders to bring: those of the components asked for, or the top.
    fn folders(&self, index: Option<&ModelIndex>) -> Vec<String> {
        match index {
            None => vec![String::new()],
            Some(index) => index
                .parts
                .keys()
                .filter(|name| self.parts.is_empty() || self.parts.contains(&name.as_str()))
                .cloned()
                .collect(),
        }
    }

    /// The snapshot in the cache, if nothing that it should have is missing; or what is.
    fn cached(&self) -> Result<PathBuf, String> {
        let revision = &self.repository.revision;
        let Some(commit) = self.cache.commit(revision) else {
            let reference = self.cache.reference(revision);
            return Err(format!(
                "the revision `{revision}` is not in the cache: {} is not there",
                reference.display()
            ));
        };
        let snapshot = self.cache.snapshot(&commit);
        let missing = |file: &str| {
            let path = snapshot.join(file);
            format!("`{file}` is not in the cache: {} is not there", path.display())
        };
        let index = match snapshot.join(INDEX) {
            path if path.is_file() => Some(ModelIndex::open(path).map_err(|e| e.to_string())?),
            _ if snapshot.join("config.json").is_file() => None,
            _ => return Err(missing(INDEX)),
        };
        for folder in self.folders(index.as_ref()) {
            let dir = snapshot.join(&folder);
            if !dir.is_dir() {
                return Err(missing(&folder));
            }
            // Tokenizers and schedulers have configurations of other names, and no weights.
            if !dir.join("config.json").is_file() {
                continue;
            }
            let stems = [DIFFUSERS_STEM, TRANSFORMERS_STEM];
            let found = stems.iter().find_map(|stem| Weights::find(&dir, stem, self.variant()));
            let Some(name) = found else {
                let name = candidates(DIFFUSERS_STEM, self.variant()).swap_remove(0);
                return Err(missing(&join(&folder, &name)));
            };
            if name.ends_with(".json") {
                let shards = shards(&dir.join(&name)).map_err(|e| e.to_string())?;
                if let Some(shard) = shards.iter().find(|shard| !dir.join(shard).is_file()) {
                    return Err(missing(&join(&folder, shard)));
                }
            }
        }
        Ok(snapshot)
    }

    fn download(
        &self,
        client: &Client<'_>,
        listing: &Listing,
        report: &mut dyn FnMut(Download<'_>),
    ) -> Result<PathBuf> {
        let commit = listing.commit();
        let mut bring = |file: &str| self.bring(client, commit, file, report);
        // The files of each folder; deeper ones belong to no component.
        let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for file in listing.files() {
            let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
            if is_plain_name(name) && (folder.is_empty() || is_plain_name(folder)) {
                folders.entry(folder).or_default().push(name);
            }
        }
        let top = folders.get("").map(Vec::as_slice).unwrap_or_default();
        let index =
            if top.contains(&INDEX) { Some(ModelIndex::open(bring(INDEX)?)?) } else { None };
        for folder in self.folders(index.as_ref()) {
            let files = folders.get(folder.as_str()).map(Vec::as_slice).unwrap_or_default();
            for name in files.iter().filter(|name| is_description(name)) {
                bring(&join(&folder, name))?;
            }
            let Some(weights) = self.weights(&folder, files)? else { continue };
            let path = bring(&join(&folder, weights))?;
            if weights.ends_with(".json") {
                for shard in shards(&path)? {
                    bring(&join(&folder, &shard))?;
                }
            }
        }
        // The reference moves when everything that it promises is there.
        self.cache.remember(&self.repository.revision, commit)?;
        Ok(self.cache.snapshot(commit))
    }

    /// The weights, or their index, among the files of a folder; none where it has no weights at all.
    fn weights<'f>(&self, folder: &str, files: &[&'f str]) -> Result<Option<&'f str>> {
        let stems = [DIFFUSERS_STEM, TRANSFORMERS_STEM];
        let found = stems
            .iter()
            .flat_map(|stem| candidates(stem, self.variant()))
            .find_map(|one| files.iter().find(|file| **file == one).copied());
        let is_weights = |file: &&str| file.ends_with(".safetensors") || file.ends_with(".bin");
        let others: Vec<&str> = files.iter().copied().filter(is_weights).collect();
        if found.is_some() || others.is_empty() {
            return Ok(found);
        }
        let wanted = candidates(DIFFUSERS_STEM, self.variant()).swap_remove(0);
        Err(self.error(format!(
            "it has no {} in the safetensors format; there is {}",
            join(folder, &wanted),
            others.join(", ")
        )))
    }

    /// Sees to it that the snapshot has `file`, and says where.
    fn bring(
        &self,
        client: &Client<'_>,
        commit: &str,
        file: &str,
        report: &mut dyn FnMut(Download<'_>),
    ) -> Result<PathBuf> {
        let pointer = self.cache.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let failed = |reason: String| {
            let cache = self.options.cache.display();
            self.error(format!("{file} could not be brought to {cache}: {reason}"))
        };
        let remote = client.file(commit, file).map_err(|e| failed(e.reason()))?;
        self.store(client, file, &remote.etag, remote.size, remote.content, report)
            .map_err(failed)?;
        tracing::debug!(repository = self.repository.id, file, "downloaded");
        self.cache.link(commit, file, &remote.etag).map_err(|e| failed(e.to_string()))
    }

    /// Sees to it that the cache has the blob.
    fn store(
        &self,
        client: &Client<'_>,
        file: &str,
        etag: &str,
        total: Option<u64>,
        content: Content,
        report: &mut dyn FnMut(Download<'_>),
    ) -> Result<(), String> {
        let broken = |e: std::io::Error| e.to_string();
        let blob = self.cache.blob(etag);
        if blob.is_file() {
            return Ok(());
        }
        let mut partial = self.cache.partial(etag).map_err(broken)?;
        if blob.is_file() {
            return partial.discard().map_err(broken);
        }
        let (start, body) = match content {
            Content::Here(body) => (0, body),
            Content::Elsewhere(address) => {
                let had = partial.length().map_err(broken)?;
                // A part as long as the whole, or longer, is no part of this file.
                let start = if total.is_some_and(|total| had >= total) { 0 } else { had };
                client.fetch(&address, start).map_err(Failure::reason)?
            }
        };
        partial
            .extend(start, body, |received| report(Download { file, received, total }))
            .map_err(broken)?;
        partial.finish(etag, total).map_err(broken)
    }
}

/// Whether a file says what a component is: small, and needed whatever the variant.
fn is_description(name: &str) -> bool {
    (name.ends_with(".json") && !name.contains(".index.")) || name == "merges.txt"
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The files that an index of shards names.
fn shards(index: &PathBuf) -> Result<Vec<String>> {
    let mut config = ConfigReader::open(index)?;
    let map: BTreeMap<String, String> = config.required("weight_map")?;
    let mut shards: Vec<String> = map.into_values().collect();
    shards.sort();
    shards.dedup();
    match shards.iter().find(|shard| !is_plain_name(shard)) {
        Some(_) => Err(config.error("weight_map", "names of files beside the index")),
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests;
