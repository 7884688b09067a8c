//! What is written beside a picture: captions and where it belongs.

use std::str;

use serde::{Deserialize, Serialize};

use super::Fault;

/// The description of a picture, in a shard's `.json` or a line of `metadata.jsonl`. Other keys are ignored, since every
/// tool adds its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Metadata {
    /// The only caption; the name `text` is what Hugging Face's image folders use.
    #[serde(alias = "text", skip_serializing_if = "Option::is_none")]
    pub(super) caption: Option<String>,
    /// Several captions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) captions: Vec<String>,
    /// See [`Sample`](super::Sample).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) concept: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) family: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) style: Option<String>,
}

impl Metadata {
    /// Reads a JSON object.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(json).map_err(|error| Fault::Caption(error.to_string()))
    }

    /// Every caption once, `.txt` lines after those of the description, without white space around.
    ///
    /// # Errors
    ///
    /// [`Fault::NoCaption`] when nothing is left and captions are required.
    pub(super) fn captions(
        &self,
        lines: Option<&[u8]>,
        required: bool,
    ) -> Result<Vec<String>, Fault> {
        let lines = str::from_utf8(lines.unwrap_or_default())
            .map_err(|error| Fault::Caption(error.to_string()))?;
        let described = self.caption.iter().chain(&self.captions).map(String::as_str);
        let mut captions: Vec<String> = Vec::new();
        for caption in described.chain(lines.lines()).map(str::trim) {
            if !caption.is_empty() && captions.iter().all(|known| known != caption) {
                captions.push(caption.to_owned());
            }
        }
        match captions.is_empty() && required {
            true => Err(Fault::NoCaption),
            false => Ok(captions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_come_from_every_place_once() {
        let json = br#"{"text": "a fox ", "captions": ["fox", "a fox", ""], "width": 64}"#;
        let metadata = Metadata::parse(json).expect("an object");
        let captions = metadata.captions(Some(b"fox\n\n red fox\r\n"), true).expect("captions");
        assert_eq!(captions, ["a fox", "fox", "red fox"]);
    }

    #[test]
    fn an_absent_caption_is_a_fault_only_where_one_is_required() {
        let nothing = Metadata::default();
        assert_eq!(nothing.captions(Some(b" \n"), true), Err(Fault::NoCaption));
        assert_eq!(nothing.captions(None, false), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let fault = Metadata::parse(b"{\"caption\": 3}").expect_err("a number");
        assert!(fault.to_string().contains("invalid type"), "{fault}");
        let fault = Metadata::default().captions(Some(&[0xff]), true).expect_err("no UTF-8");
        assert!(fault.to_string().contains("utf-8"), "{fault}");
    }
}
