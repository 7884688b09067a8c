//! Where the hub and its cache are: the conventions of Python's `huggingface_hub`.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The hub that is asked when nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// Where models are looked for, and with which rights.
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// The cache folder, which holds `models--<organisation>--<name>`.
    pub cache: PathBuf,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// What proves the user's identity to the hub. Never printed, and sent to the hub alone.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
}

impl HubOptions {
    /// The public hub, without a token, and a cache folder.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), endpoint: ENDPOINT.to_owned(), token: None, offline: false }
    }

    /// What the environment says: the only place in this crate that reads it.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub fn from_env() -> Result<Self> {
        Self::resolve(|name| std::env::var_os(name))
    }

    /// What the variables that `lookup` knows say, as the Python tools understand them:
    ///
    /// | variable | says | otherwise |
    /// |---|---|---|
    /// | `HF_HUB_CACHE` | the cache folder | `$HF_HOME/hub` |
    /// | `HF_HOME` | the folder of cache and token | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
    /// | `HF_TOKEN` | the token | the file `$HF_TOKEN_PATH`, `$HF_HOME/token` |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | `1`, `true`, `yes` or `on`: use no token | |
    /// | `HF_ENDPOINT` | the hub's address | `https://huggingface.co` |
    /// | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: use the cache alone | |
    ///
    /// An empty variable is one that is not set. The older names `HUGGINGFACE_HUB_CACHE`, `HUGGING_FACE_HUB_TOKEN` and
    /// `TRANSFORMERS_OFFLINE` count where the newer ones say nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when there is no home folder to fall back to, or a variable is not text.
    pub fn resolve(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let variable = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let either = |new: &str, old: &str| variable(new).or_else(|| variable(old));
        let home = either("HOME", "USERPROFILE").map(PathBuf::from);
        let folder = |value: OsString| expand(PathBuf::from(value), home.as_deref());

        let hf_home = match (variable("HF_HOME"), variable("XDG_CACHE_HOME"), &home) {
            (Some(path), ..) => Some(folder(path)),
            (None, Some(cache), _) => Some(folder(cache).join("huggingface")),
            (None, None, Some(home)) => Some(home.join(".cache/huggingface")),
            (None, None, None) => None,
        };
        let cache = match either("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") {
            Some(path) => folder(path),
            None => match &hf_home {
                Some(path) => path.join("hub"),
                None => {
                    let expected = "a folder for downloaded models, as there is no home folder";
                    return Err(Error::invalid("HF_HOME", "not set", expected));
                }
            },
        };
        let endpoint = match variable("HF_ENDPOINT") {
            Some(value) => text("HF_ENDPOINT", value)?.trim_end_matches('/').to_owned(),
            None => ENDPOINT.to_owned(),
        };
        let is_on = |value: Option<OsString>| {
            value.and_then(|value| value.into_string().ok()).is_some_and(|value| {
                ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
            })
        };
        let token = match either("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") {
            _ if is_on(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")) => None,
            Some(value) => Some(text("HF_TOKEN", value)?),
            None => variable("HF_TOKEN_PATH")
                .map(folder)
                .or_else(|| hf_home.as_ref().map(|path| path.join("token")))
                .and_then(|path| fs::read_to_string(path).ok()),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let offline = is_on(either("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"));
        Ok(Self { cache, endpoint, token, offline })
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(kept secret)"))
            .field("offline", &self.offline)
            .finish()
    }
}

fn text(name: &'static str, value: OsString) -> Result<String> {
    value.into_string().map_err(|value| {
        Error::invalid(name, value.to_string_lossy(), "text in the UTF-8 encoding")
    })
}

/// `~` at the beginning stands for the home folder; a shell has usually seen to it already.
fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Result<HubOptions> {
        HubOptions::resolve(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let home = ("HOME", "/home/me");
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[home], "/home/me/.cache/huggingface/hub"),
            (&[home, ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[home, ("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (&[home, ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HUB_CACHE", "/c")], "/c"),
            (&[home, ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[home, ("HF_HOME", "")], "/home/me/.cache/huggingface/hub"),
        ];
        for (variables, cache) in cases {
            let options = resolve(variables).expect("resolves");
            assert_eq!(options.cache, Path::new(cache), "{variables:?}");
            assert_eq!(options.endpoint, "https://huggingface.co");
        }
        let error = resolve(&[]).expect_err("no folder at all").to_string();
        assert!(error.contains("HF_HOME"), "{error}");
    }

    #[test]
    fn the_token_comes_from_its_variable_or_its_file_and_is_never_shown() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = dir.path().to_str().expect("a plain path");
        fs::write(dir.path().join("token"), " from-file\n").expect("is written");
        fs::write(dir.path().join("other"), "other-file").expect("is written");
        let other = dir.path().join("other");
        let token = |more: &[(&str, &str)]| {
            let mut variables = vec![("HF_HOME", home)];
            variables.extend_from_slice(more);
            resolve(&variables).expect("resolves").token
        };
        assert_eq!(token(&[]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_TOKEN", "from-variable")]).as_deref(), Some("from-variable"));
        let path = [("HF_TOKEN_PATH", other.to_str().expect("a plain path"))];
        assert_eq!(token(&path).as_deref(), Some("other-file"));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let shown = format!("{:?}", resolve(&[("HF_HOME", home)]).expect("resolves"));
        assert!(!shown.contains("from-file"), "{shown}");
    }

    #[test]
    fn offline_and_endpoint_are_honoured() {
        let offline = |value| {
            resolve(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).expect("resolves").offline
        };
        assert!(["1", "true", "YES", "On"].into_iter().all(offline), "a yes is not understood");
        assert!(!["0", "false", "no", ""].into_iter().any(offline), "a no is not understood");
        let options = resolve(&[("HOME", "/h"), ("HF_ENDPOINT", "http://mirror:8080/hub/")]);
        assert_eq!(options.expect("resolves").endpoint, "http://mirror:8080/hub");
        let options = resolve(&[("HOME", "/h"), ("TRANSFORMERS_OFFLINE", "1")]);
        assert!(options.expect("resolves").offline, "the older name counts too");
    }
}
