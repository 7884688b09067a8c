//! JSON configurations, read so that no key is silently dropped.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::folder::Folder;
use crate::{Error, Result};

/// Larger than any configuration, and small enough to be read whole.
const MAX_FILE: u64 = 16 << 20;
/// Longer than any list of levels, so that a hostile list is refused before it is used.
const MAX_LIST: usize = 1024;

/// What transformers writes into every configuration, whatever the network: identification, and the defaults of text
/// generation. None of it changes what a network computes.
const BOOKKEEPING: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Reads one JSON object key by key, and knows at the end which keys nobody asked for.
///
/// A key is either [read](Self::required), held to [what is implemented](Self::only), or
/// [ignored by name](Self::ignore); [`finish`](Self::finish) reports the rest. Every error names the file, the key, the
/// value found and what would be accepted.
///
/// ```
/// # use unclip_core::checkpoint::ConfigReader;
/// let text = br#"{"hidden_size": 32, "num_layers": 1000000000}"#;
/// let mut config = ConfigReader::from_bytes("config.json", text)?;
/// assert_eq!(config.required::<usize>("hidden_size")?, 32);
/// assert_eq!(config.or("layer_norm_eps", 1e-5)?, 1e-5);
/// let error = config.size("num_layers", 1..=512).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "config.json: `num_layers` is 1000000000, expected an integer from 1 to 512"
/// );
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfigReader {
    path: PathBuf,
    /// The dotted path of this object in the file: empty, or ending in a dot.
    prefix: String,
    entries: Map<String, Value>,
    touched: BTreeSet<String>,
}

impl ConfigReader {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, or is larger than 16 MiB; [`Error::Json`] when it is not a JSON object.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in("", path)
    }

    /// Reads the file called `name` in `dir`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_in(dir: impl Into<Folder>, name: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.into();
        Self::from_bytes(dir.path().join(&name), &dir.read(name, MAX_FILE)?)
    }

    /// Reads the object in `text`; errors call it `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] when it is not a JSON object.
    pub fn from_bytes(path: impl Into<PathBuf>, text: &[u8]) -> Result<Self> {
        let path = path.into();
        match serde_json::from_slice::<Map<String, Value>>(text) {
            Ok(entries) => Ok(Self::from_object(path, String::new(), entries)),
            Err(source) => Err(Error::Json { path, source }),
        }
    }

    fn from_object(path: PathBuf, prefix: String, entries: Map<String, Value>) -> Self {
        Self { path, prefix, entries, touched: BTreeSet::new() }
    }

    /// The file that this object stands in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `key` is there with a value other than `null`. Does not count as reading it.
    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| !value.is_null())
    }

    /// The keys of this object, in order. Does not count as reading them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is absent or of another type.
    pub fn required<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.touch(key);
        match self.entries.get(key) {
            Some(value) => T::deserialize(value).map_err(|e| self.error(key, wanted(&e))),
            None => Err(self.error(key, "a value")),
        }
    }

    /// The value of `key`, or none when it is absent or `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is of another type.
    pub fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        self.touch(key);
        if self.has(key) { self.required(key).map(Some) } else { Ok(None) }
    }

    /// The value of `key`, or `default` when it is absent or `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is of another type.
    pub fn or<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A size within `range`: widths, depths and counts, so that nothing enormous is ever allocated for them.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is absent, not an integer, or outside.
    pub fn size(&mut self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        self.optional_size(key, range.clone())?.ok_or_else(|| self.error(key, within(&range)))
    }

    /// As [`size`](Self::size), or `default` when it is absent or `null`.
    ///
    /// # Errors
    ///
    /// As [`size`](Self::size), except for absence.
    pub fn size_or(
        &mut self,
        key: &str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        Ok(self.optional_size(key, range)?.unwrap_or(default))
    }

    /// As [`size`](Self::size), or none when it is absent or `null`.
    ///
    /// # Errors
    ///
    /// As [`size`](Self::size), except for absence.
    pub fn optional_size(
        &mut self,
        key: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>> {
        self.touch(key);
        match self.entries.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match as_size(value, &range) {
                Some(size) => Ok(Some(size)),
                None => Err(self.error(key, within(&range))),
            },
        }
    }

    /// A list of sizes, each within `range`, not empty and not absurdly long.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is absent or anything else.
    pub fn sizes(&mut self, key: &str, range: RangeInclusive<usize>) -> Result<Vec<usize>> {
        self.touch(key);
        let sizes = match self.entries.get(key) {
            Some(Value::Array(list)) if (1..=MAX_LIST).contains(&list.len()) => {
                list.iter().map(|value| as_size(value, &range)).collect()
            }
            _ => None,
        };
        sizes.ok_or_else(|| {
            self.error(key, format!("a list of 1 to {MAX_LIST} values, each {}", within(&range)))
        })
    }

    /// One size for each of `count` levels: a list of that many, or one number for all. None when absent or `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is anything else.
    pub fn size_per(
        &mut self,
        key: &str,
        count: usize,
        range: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>> {
        self.touch(key);
        let sizes = match self.entries.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) if list.len() == count => {
                list.iter().map(|value| as_size(value, &range)).collect()
            }
            Some(value) => as_size(value, &range).map(|size| vec![size; count]),
        };
        match sizes {
            Some(sizes) => Ok(Some(sizes)),
            None => Err(self.error(key, format!("{}, or a list of {count}", within(&range)))),
        }
    }

    /// A positive finite number, such as the epsilon of a normalisation, or `default` when it is absent or `null`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is anything else.
    pub fn positive_or(&mut self, key: &str, default: f64) -> Result<f64> {
        self.touch(key);
        match self.entries.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(number),
                _ => Err(self.error(key, "a positive number")),
            },
        }
    }

    /// Demands that `key` is absent or holds one of `accepted`, because nothing else is implemented.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the value and the accepted ones.
    pub fn only(&mut self, key: &str, accepted: &[Value]) -> Result<()> {
        self.touch(key);
        match self.entries.get(key) {
            Some(value) if !accepted.iter().any(|one| same(one, value)) => {
                let mut list = String::new();
                for (i, one) in accepted.iter().enumerate() {
                    let separator = if i == 0 { "" } else { " or " };
                    write!(list, "{separator}{one}").expect("a string takes any text");
                }
                Err(self.error(key, format!("{list}; nothing else is implemented")))
            }
            _ => Ok(()),
        }
    }

    /// Marks keys that are known and have no effect on inference.
    pub fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.touch(key);
        }
    }

    /// The object under `key`, or none when it is absent or `null`. Its own [`finish`](Self::finish) reports its keys.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] when it is not an object.
    pub fn nested(&mut self, key: &str) -> Result<Option<Self>> {
        self.touch(key);
        match self.entries.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(entries)) => {
                let prefix = format!("{}{key}.", self.prefix);
                Ok(Some(Self::from_object(self.path.clone(), prefix, entries.clone())))
            }
            Some(_) => Err(self.error(key, "an object")),
        }
    }

    /// An [`Error::Config`] about the value that `key` has here.
    pub fn error(&self, key: &str, expected: impl Into<String>) -> Error {
        let found = match self.entries.get(key) {
            Some(value) => shown(value),
            None => "absent".to_owned(),
        };
        Error::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.prefix),
            found,
            expected: expected.into(),
        }
    }

    /// Ends the reading: returns, and warns of, the keys that nobody read.
    ///
    /// Keys that begin with `_` and the bookkeeping of transformers are not worth a warning.
    pub fn finish(self) -> Vec<String> {
        let unknown: Vec<String> = self
            .entries
            .keys()
            .filter(|key| {
                !self.touched.contains(*key)
                    && !key.starts_with('_')
                    && !BOOKKEEPING.contains(&key.as_str())
            })
            .map(|key| format!("{}{key}", self.prefix))
            .collect();
        if !unknown.is_empty() {
            tracing::warn!(file = %self.path.display(), keys = ?unknown, "unknown keys are ignored");
        }
        unknown
    }

    fn touch(&mut self, key: &str) {
        // Only keys that exist are worth remembering.
        if self.entries.contains_key(key) && !self.touched.contains(key) {
            self.touched.insert(key.to_owned());
        }
    }
}

fn as_size(value: &Value, range: &RangeInclusive<usize>) -> Option<usize> {
    let size = usize::try_from(value.as_u64()?).ok()?;
    range.contains(&size).then_some(size)
}

fn within(range: &RangeInclusive<usize>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

/// What a value should have been, in the words of the deserialiser.
fn wanted(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once("expected ") {
        Some((_, expected)) => expected.to_owned(),
        None => format!("a value that fits ({text})"),
    }
}

/// Equal, where `1` and `1.0` are: Python does not tell them apart either.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

/// A value as JSON, shortened when long.
fn shown(value: &Value) -> String {
    const SHOWN: usize = 80;
    let mut text = match value {
        Value::Array(list) if list.len() > SHOWN => format!("a list of {} values", list.len()),
        Value::Object(entries) if entries.len() > SHOWN => {
            format!("an object of {} keys", entries.len())
        }
        _ => value.to_string(),
    };
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reader(value: &Value) -> ConfigReader {
        ConfigReader::from_bytes("part/config.json", value.to_string().as_bytes())
            .expect("the value is an object")
    }

    fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.expect_err("the value is refused").to_string()
    }

    #[test]
    fn absent_and_null_take_the_default() {
        let mut config = reader(&json!({"a": null, "b": 3}));
        assert_eq!(config.or("a", 7).expect("null is the default"), 7);
        assert_eq!(config.or("c", 7).expect("absent is the default"), 7);
        assert_eq!(config.or("b", 7).expect("three"), 3);
        assert_eq!(config.optional::<usize>("a").expect("null is none"), None);
        assert_eq!(config.size_or("c", 4, 1..=9).expect("absent is the default"), 4);
        assert_eq!(config.positive_or("a", 1e-5).expect("null is the default"), 1e-5);
    }

    #[test]
    fn an_error_names_file_key_value_and_what_is_accepted() {
        let mut config =
            reader(&json!({"width": "wide", "depth": -1, "eps": -1e-5, "act": "tanh"}));
        let text = refused(config.required::<usize>("width"));
        assert_eq!(text, "part/config.json: `width` is \"wide\", expected usize");
        assert!(refused(config.required::<usize>("height")).contains("`height` is absent"));
        assert!(
            refused(config.size("depth", 1..=64)).contains("is -1, expected an integer from 1")
        );
        assert!(refused(config.positive_or("eps", 1.0)).contains("expected a positive number"));
        let text = refused(config.only("act", &[json!("silu"), json!("gelu")]));
        assert!(text.contains(r#"is "tanh", expected "silu" or "gelu""#), "{text}");
    }

    #[test]
    fn only_accepts_what_python_calls_equal() {
        let mut config = reader(&json!({"scale": 1.0, "kernel": [3, 3.0], "flag": false}));
        config.only("scale", &[json!(1)]).expect("1.0 is 1");
        config.only("kernel", &[json!([3, 3])]).expect("entry by entry");
        config.only("absent", &[json!(true)]).expect("absent is accepted");
        refused(config.only("flag", &[json!(0)]));
    }

    #[test]
    fn a_number_stands_for_a_list_of_itself() {
        let mut config = reader(&json!({"one": 2, "each": [1, 2, 3], "none": null}));
        assert_eq!(config.size_per("one", 3, 1..=8).expect("a number"), Some(vec![2, 2, 2]));
        assert_eq!(config.size_per("each", 3, 1..=8).expect("a list"), Some(vec![1, 2, 3]));
        assert_eq!(config.size_per("none", 3, 1..=8).expect("null"), None);
        assert!(refused(config.size_per("each", 4, 1..=8)).contains("a list of 4"));
        assert!(refused(config.sizes("one", 1..=8)).contains("a list of 1 to"));
    }

    #[test]
    fn nested_keys_are_dotted_and_unread_keys_are_reported() {
        let mut config = reader(&json!({
            "text_config": {"width": 0, "depth": 1, "_private": 1, "torch_dtype": "float32"},
            "extra": 1,
            "known": 2,
            "model_type": "clip"
        }));
        config.ignore(&["known", "not there"]);
        let mut text = config.nested("text_config").expect("an object").expect("is there");
        assert!(refused(text.size("width", 1..=8)).contains("`text_config.width` is 0"));
        assert_eq!(text.finish(), ["text_config.depth"]);
        assert!(refused(config.nested("extra")).contains("expected an object"));
        assert_eq!(config.finish(), Vec::<String>::new());
        assert_eq!(reader(&json!({"extra": 1})).finish(), ["extra"]);
    }

    #[test]
    fn what_is_not_an_object_or_too_large_is_refused() {
        for text in ["", "[1]", "{\"a\": NaN}", "{\"a\": 1e999}", "{", "\u{feff}{}"] {
            let error = ConfigReader::from_bytes("x.json", text.as_bytes())
                .expect_err("only an object will do");
            assert!(matches!(error, Error::Json { .. }), "{text:?}: {error}");
        }
        let deep = "[".repeat(100_000);
        ConfigReader::from_bytes("x.json", deep.as_bytes()).expect_err("too deep");

        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(1 << 40).expect("a sparse file");
        let error = ConfigReader::open(file.path()).expect_err("too large");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,100}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 64, 100, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..100).prop_map(Value::from),
                prop::collection::btree_map("[a-e]", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_panics(value in values()) {
            let mut config = reader(&json!({"a": value}));
            let _ = config.required::<usize>("a");
            let _ = config.required::<Vec<String>>("a");
            let _ = config.optional::<f64>("a");
            let _ = config.size("a", 1..=1 << 20);
            let _ = config.sizes("a", 1..=1 << 20);
            let _ = config.size_per("a", 4, 1..=1 << 20);
            let _ = config.only("a", &[json!(1), json!([1, "x"])]);
            if let Ok(number) = config.positive_or("a", 1.0) {
                prop_assert!(number > 0.0 && number.is_finite());
            }
            if let Ok(Some(mut nested)) = config.nested("a") {
                let _ = nested.required::<bool>("b");
                nested.finish();
            }
            prop_assert!(config.error("a", "anything").to_string().len() < 700);
            prop_assert!(config.finish().is_empty());
        }
    }
}
