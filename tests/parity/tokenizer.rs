//! Captions to ids, exactly; transformers `CLIPTokenizer` (the fast one).

use std::fs;

use serde_json::Value;
use unclip_clip::Tokenizer;
use unclip_testkit::fixtures_root;

use crate::report::{Report, check, replay};

fn read(path: impl AsRef<std::path::Path>) -> Value {
    let path = path.as_ref();
    let text =
        fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    serde_json::from_str(&text).expect("the recorded cases are JSON")
}

fn compare_cases(report: &mut Report, tokenizer: &Tokenizer, body: &Value) {
    let ids = |value: &Value| -> Vec<u64> {
        value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect()
    };
    for (name, id) in [
        ("pad_id", tokenizer.pad_id()),
        ("bos_id", tokenizer.bos_id()),
        ("eos_id", tokenizer.eos_id()),
    ] {
        report.equal("ids", &Some(u64::from(id)), &body[name].as_u64());
    }
    let cases = body["cases"].as_array().expect("cases");
    assert!(!cases.is_empty(), "captions were recorded");
    for case in cases {
        let caption = case["text"].as_str().expect("a caption");
        let encoded = tokenizer.encode(caption).expect("the caption is short enough");
        let got: Vec<u64> = encoded.ids.iter().map(|&id| u64::from(id)).collect();
        report.equal("ids", &(caption, got), &(caption, ids(&case["ids"])));
        let mask: Vec<u64> = encoded.mask.iter().map(|&kept| u64::from(kept)).collect();
        report.equal("mask", &(caption, mask), &(caption, ids(&case["mask"])));
        let untruncated = ids(&case["untruncated"]).len();
        report.equal("tokens", &(caption, encoded.tokens), &(caption, untruncated));
    }
}

#[test]
fn captions_become_the_recorded_ids() {
    replay("tokenizer", |set, report| {
        let tokenizer = Tokenizer::from_dir(set.model_dir().join("tokenizer"))
            .expect("the recorded tokenizer loads");
        compare_cases(report, &tokenizer, &read(set.path.join("tokenizer_cases.json")));
    });
}

#[test]
fn captions_become_the_recorded_ids_with_the_whole_vocabulary_too() {
    let body = read(fixtures_root().join("tokenizer_full_cases.json"));
    let merges = fs::read_to_string(fixtures_root().join("clip_vocabulary/merges.txt"))
        .expect("CLIP's merges are at hand");
    // Karlo pads with "!", which makes it special.
    let tokenizer = Tokenizer::from_merges(&merges, "!").expect("CLIP's merges are valid");
    check("tokenizer, whole vocabulary", |report| compare_cases(report, &tokenizer, &body));
}
