//! The tokenizer: whatever the text, as a caption or as a merge list, an error or a row of ids within the vocabulary.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use unclip_clip::Tokenizer;

static RECORDED: LazyLock<Tokenizer> = LazyLock::new(|| {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
    Tokenizer::from_dir(format!("{fixtures}/seed0/model/tokenizer")).expect("the recorded folder")
});

fuzz_target!(|text: &str| {
    encode(&RECORDED, text);
    // The first line is the padding token of the list that follows.
    let (pad, merges) = text.split_once('\n').unwrap_or(("!", text));
    if let Ok(tokenizer) = Tokenizer::from_merges(merges, pad) {
        encode(&tokenizer, text);
    }
});

fn encode(tokenizer: &Tokenizer, caption: &str) {
    let encoding = tokenizer.encode(caption).expect("libFuzzer's inputs are short");
    let length = tokenizer.max_length();
    assert_eq!((encoding.ids.len(), encoding.mask.len()), (length, length));
    assert_eq!(encoding.ids[0], tokenizer.bos_id());
    assert_eq!(encoding.ids[encoding.tokens - encoding.dropped - 1], tokenizer.eos_id());
    let size = tokenizer.vocabulary_size();
    assert!(encoding.ids.iter().all(|&id| (id as usize) < size), "an id outside the vocabulary");
}
