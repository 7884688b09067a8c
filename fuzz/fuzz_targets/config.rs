//! Configurations and the index of a model directory: whatever the text, an error or values within their bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use unclip_core::checkpoint::{ConfigReader, ModelIndex};

fuzz_target!(|text: &[u8]| {
    if let Ok(index) = ModelIndex::from_bytes("model_index.json", text) {
        for name in index.parts.keys() {
            assert!(!name.contains(['/', '\\']) && name != "..", "{name:?} leads out");
        }
    }
    if let Ok(config) = ConfigReader::from_bytes("config.json", text) {
        read(config, 0);
    }
});

/// Reads every key in every way.
fn read(mut config: ConfigReader, depth: usize) {
    let keys: Vec<String> = config.keys().map(str::to_owned).collect();
    for key in &keys {
        let _ = config.required::<String>(key);
        let _ = config.optional::<Vec<f64>>(key);
        let _ = config.or(key, false);
        let _ = config.only(key, &[json!(null), json!(1), json!([3, 3]), json!("silu")]);
        if let Ok(size) = config.size(key, 1..=1 << 20) {
            assert!((1..=1 << 20).contains(&size), "{key}: {size}");
        }
        if let Ok(sizes) = config.sizes(key, 1..=64) {
            assert!(sizes.iter().all(|size| (1..=64).contains(size)), "{key}: {sizes:?}");
        }
        if let Ok(Some(sizes)) = config.size_per(key, 4, 1..=64) {
            assert_eq!(sizes.len(), 4, "{key}");
        }
        if let Ok(epsilon) = config.positive_or(key, 1e-5) {
            assert!(epsilon > 0.0 && epsilon.is_finite(), "{key}: {epsilon}");
        }
        if let Ok(Some(nested)) = config.nested(key)
            && depth < 4
        {
            read(nested, depth + 1);
        }
    }
    assert!(config.finish().is_empty(), "a key that was read is called unknown");
}
