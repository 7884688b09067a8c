//! Against ids recorded from transformers.

use std::fs;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use unclip_testkit::{fixture_sets, fixtures_root};

use super::*;

#[derive(Deserialize)]
struct Cases {
    max_length: usize,
    pad_id: u32,
    bos_id: u32,
    eos_id: u32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    mask: Vec<u8>,
    untruncated: Vec<u32>,
}

fn cases(path: &Path) -> Cases {
    serde_json::from_str(&fs::read_to_string(path).expect("recorded cases")).expect("JSON")
}

fn full_vocabulary() -> Tokenizer {
    let merges = fixtures_root().join("clip_vocabulary/merges.txt");
    let merges = fs::read_to_string(merges).expect("the merge list");
    Tokenizer::from_merges(&merges, "!").expect("CLIP's own list is valid")
}

/// Replays recorded captions, cut and uncut, and returns how many.
fn replay(tokenizer: &Tokenizer, recorded: &Cases) -> usize {
    assert_eq!(tokenizer.max_length(), recorded.max_length);
    let special = [tokenizer.pad_id(), tokenizer.bos_id(), tokenizer.eos_id()];
    assert_eq!(special, [recorded.pad_id, recorded.bos_id, recorded.eos_id]);
    for case in &recorded.cases {
        let encoding = tokenizer.encode(&case.text).expect("a caption of ordinary length");
        assert_eq!(encoding.ids, case.ids, "{:?}", case.text);
        assert_eq!(encoding.mask, case.mask.iter().map(|&m| m == 1).collect::<Vec<_>>());
        assert_eq!(encoding.tokens, case.untruncated.len());
        assert_eq!(
            encoding.dropped,
            case.untruncated.len().saturating_sub(recorded.max_length),
            "{:?}",
            case.text
        );
        let room = case.untruncated.len().max(2);
        let long = tokenizer.clone().with_max_length(room).expect("room for two markers");
        assert_eq!(long.encode(&case.text).expect("the same caption").ids, case.untruncated);
    }
    recorded.cases.len()
}

#[test]
fn each_recorded_caption_has_the_reference_ids() {
    for set in fixture_sets() {
        let tokenizer = Tokenizer::from_dir(set.model_dir().join("tokenizer")).expect("a folder");
        let count = replay(&tokenizer, &cases(&set.path.join("tokenizer_cases.json")));
        assert!(count >= 11, "{count} captions in {}", set.name());
    }
}

#[test]
fn the_whole_vocabulary_has_the_reference_ids() {
    let tokenizer = full_vocabulary();
    assert_eq!(tokenizer.vocabulary_size(), 49408);
    let count = replay(&tokenizer, &cases(&fixtures_root().join("tokenizer_full_cases.json")));
    assert_eq!(count, 33);
}

#[test]
fn a_tokenizer_json_alone_gives_the_same_ids() {
    let recorded = cases(&fixtures_root().join("seed0/tokenizer_cases.json"));
    let newer = fixtures_root().join("tokenizer_json");
    replay(&Tokenizer::from_dir(&newer).expect("the newer layout"), &recorded);

    // The form of transformers 4: merges as lines, and an expression without the markers.
    let text = fs::read_to_string(newer.join("tokenizer.json")).expect("the recorded file");
    let mut file: Value = serde_json::from_str(&text).expect("JSON");
    let merges = file["model"]["merges"].as_array_mut().expect("a list");
    for merge in merges {
        *merge = json!(format!(
            "{} {}",
            merge[0].as_str().expect("a token"),
            merge[1].as_str().expect("a token")
        ));
    }
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
        json!(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+");
    let older = tempfile::tempdir().expect("a folder");
    fs::write(older.path().join("tokenizer.json"), file.to_string()).expect("written");
    let config = "tokenizer_config.json";
    fs::copy(newer.join(config), older.path().join(config)).expect("copied");
    replay(&Tokenizer::from_dir(older.path()).expect("the older form"), &recorded);
}

#[test]
fn another_kind_of_tokenizer_is_refused_by_name() {
    let text = fs::read_to_string(fixtures_root().join("tokenizer_json/tokenizer.json"));
    let original: Value = serde_json::from_str(&text.expect("the recorded file")).expect("JSON");
    for (pointer, value, named) in [
        ("/normalizer/normalizers/2/type", json!("StripAccents"), "normalizer"),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Isolated"), "pre_tokenizer"),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "pre_tokenizer"),
        ("/model/type", json!("Unigram"), "model.type"),
        ("/model/end_of_word_suffix", json!(null), "model.end_of_word_suffix"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/merges/3", json!(["r", "e e"]), "model.merges[3]"),
        ("/added_tokens/0/id", json!(7), "`!`"),
    ] {
        let mut file = original.clone();
        *file.pointer_mut(pointer).expect("the key is there") = value;
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("tokenizer.json"), file.to_string()).expect("written");
        let message = Tokenizer::from_dir(dir.path()).expect_err(pointer).to_string();
        assert!(message.contains(named), "{named:?} is not in {message:?}");
    }
}

#[test]
fn a_written_folder_reads_back_the_same() {
    for set in fixture_sets() {
        let source = set.model_dir().join("tokenizer");
        let dir = tempfile::tempdir().expect("a folder");
        Tokenizer::from_dir(&source).expect("a folder").write_dir(dir.path()).expect("written");
        let again = Tokenizer::from_dir(dir.path()).expect("the folder just written");
        replay(&again, &cases(&set.path.join("tokenizer_cases.json")));
        let merges = |dir: &Path| fs::read_to_string(dir.join("merges.txt")).expect("merges");
        assert_eq!(merges(dir.path()), merges(&source));
    }
}

#[test]
fn a_hostile_folder_is_an_error_that_names_its_file() {
    let source = fixtures_root().join("seed0/model/tokenizer");
    let files: [(&str, &[u8], &str); 10] = [
        ("vocab.json", b"[1, 2]", "vocab.json"),
        ("vocab.json", b"{\"a\": -1}", "vocab.json"),
        ("vocab.json", b"{}", "merges.txt"),
        ("vocab.json", b"{\"a\": 4000000000}", "vocab.json"),
        ("merges.txt", b"\xff\xfe", "merges.txt"),
        ("merges.txt", b"i n\nno such pair here\n", "line 2"),
        ("merges.txt", b"i xyzzy\n", "line 1"),
        ("tokenizer_config.json", b"{\"model_max_length\": 1}", "model_max_length"),
        ("tokenizer_config.json", b"{\"model_max_length\": -7.5}", "model_max_length"),
        ("special_tokens_map.json", b"{\"pad_token\": \"\"}", "pad"),
    ];
    for (name, bytes, named) in files {
        let dir = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(&source).expect("a folder") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
        }
        fs::write(dir.path().join(name), bytes).expect("written");
        let result = Tokenizer::from_dir(dir.path());
        if named == "pad" {
            assert!(result.is_err(), "an empty padding token");
            continue;
        }
        let message = result.expect_err(name).to_string();
        assert!(message.contains(named), "{named:?} is not in {message:?}");
    }
    let empty = tempfile::tempdir().expect("a folder");
    let message = Tokenizer::from_dir(empty.path()).expect_err("nothing there").to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
}

#[test]
fn an_unlimited_length_is_clips_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = fixtures_root().join("tokenizer_json");
    fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).expect("copied");
    let config = r#"{"model_max_length": 1000000000000000019884624838656, "pad_token": "!"}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).expect("written");
    let tokenizer = Tokenizer::from_dir(dir.path()).expect("a folder");
    assert_eq!((tokenizer.max_length(), tokenizer.pad_id()), (77, 0));
}

#[test]
fn a_caption_in_pieces_has_the_ids_of_the_whole() {
    let tokenizer = full_vocabulary().with_max_length(1 << 17).expect("room");
    let sentence = "Émile\u{301} said \u{3000}\u{301}hello!  <|ENDOFTEXT|> it's 42 日本 ";
    let caption = sentence.repeat(400);
    assert!(pieces(&caption, PIECE_BYTES).count() > 3, "the caption is cut");
    let whole = tokenizer.engine.encode_fast(caption.as_str(), false).expect("encoded");
    let encoding = tokenizer.encode(&caption).expect("encoded");
    assert_eq!(encoding.tokens, whole.len() + 2);
    assert_eq!(&encoding.ids[1..=whole.len()], whole.get_ids());
}

#[test]
fn long_captions_of_any_kind_are_encoded() {
    let tokenizer = full_vocabulary();
    for unit in ["a", "!", "1", "日", "'s", " ", "\u{301}", "a ", "<|endoftext|>", "İ", "\0", "#@"]
    {
        let caption = unit.repeat(100_000 / unit.len());
        let encoding = tokenizer.encode(&caption).expect("within the limit");
        assert_eq!(encoding.ids.len(), 77, "{unit:?}");
        assert_eq!(encoding.dropped, encoding.tokens.saturating_sub(77), "{unit:?}");
    }
    let message = tokenizer.encode(&" ".repeat(MAX_CAPTION_BYTES + 1)).expect_err("too long");
    assert!(matches!(message, Error::CaptionTooLong { .. }), "{message}");
}

#[test]
fn the_shortest_length_holds_the_two_markers() {
    let tokenizer = full_vocabulary();
    assert!(tokenizer.clone().with_max_length(1).is_err(), "no room for two markers");
    let short = tokenizer.with_max_length(2).expect("room for two markers");
    let encoding = short.encode("a cat").expect("a caption");
    assert_eq!((encoding.ids, encoding.dropped), (vec![49406, 49407], 2));
}

/// What holds for every encoding, whatever the caption.
fn assert_framed(tokenizer: &Tokenizer, encoding: &Encoding) {
    let length = tokenizer.max_length();
    let Encoding { ids, mask, tokens, dropped } = encoding;
    assert_eq!((ids.len(), mask.len()), (length, length));
    let kept = tokens - dropped;
    assert!(mask.iter().enumerate().all(|(i, &shown)| shown == (i < kept)), "{encoding:?}");
    assert_eq!((ids[0], ids[kept - 1]), (tokenizer.bos_id(), tokenizer.eos_id()));
    assert!(ids[kept..].iter().all(|&id| id == tokenizer.pad_id()), "{encoding:?}");
    let size = u32::try_from(tokenizer.vocabulary_size()).expect("a small vocabulary");
    assert!(ids.iter().all(|&id| id < size), "{encoding:?}");
}

proptest! {
    #[test]
    fn any_caption_is_framed_and_filled_up(caption in any::<String>()) {
        let folder = fixtures_root().join("seed2/model/tokenizer");
        let tokenizer = Tokenizer::from_dir(folder).expect("a folder");
        assert_framed(&tokenizer, &tokenizer.encode(&caption).expect("a short caption"));
    }

    #[test]
    fn any_merge_list_is_refused_or_works(
        lines in prop::collection::vec("[a-c!<|>/w]{1,4}( [a-c!<|>/w]{1,4})?", 0..6),
        pad in "[a-c!]{0,3}|<\\|endoftext\\|>",
    ) {
        if let Ok(tokenizer) = Tokenizer::from_merges(&lines.join("\n"), &pad) {
            assert_framed(&tokenizer, &tokenizer.encode("a cab! <|endoftext|>").expect("short"));
        }
    }
}
