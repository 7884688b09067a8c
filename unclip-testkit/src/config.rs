//! Configurations: those of the recorded models, and such as nobody would write.

use std::fs;

use proptest::{prelude::*, sample::Index};
use serde_json::Value;

use crate::fixture_sets;

/// The file `path` of every recorded model directory.
///
/// # Panics
///
/// When one lacks it, or it is no JSON.
pub fn recorded_configs(path: &str) -> Vec<Value> {
    let read = |path| fs::read(path).expect("a recorded configuration");
    fixture_sets()
        .iter()
        .map(|set| serde_json::from_slice(&read(set.model_dir().join(path))).expect("JSON"))
        .collect()
}

/// Demands of `written` every key of `recorded` with its value, where `1` and `1.0` are equal, as they are in Python;
/// diffusers' version does not count.
///
/// # Panics
///
/// When one differs, or `recorded` is no object.
pub fn assert_config_kept(recorded: &Value, written: &Value) {
    for (key, value) in recorded.as_object().expect("an object") {
        let found = &written[key];
        let same = found == value || (found.is_number() && found.as_f64() == value.as_f64());
        assert!(same || key == "_diffusers_version", "{key}: {value}, {found}");
    }
}

/// A few changes to an object: which of its keys, and what they become.
pub fn changes() -> impl Strategy<Value = Vec<(Index, Value)>> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..40).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,8}".prop_map(Value::from),
        prop::collection::vec(0u64..40, 0..5).prop_map(Value::from),
    ];
    prop::collection::vec((any::<Index>(), value), 1..4)
}

/// `object` after [`changes`].
///
/// # Panics
///
/// When it is no object, or has no keys.
pub fn changed(mut object: Value, changes: Vec<(Index, Value)>) -> Value {
    let keys: Vec<String> = object.as_object().expect("an object").keys().cloned().collect();
    for (index, value) in changes {
        object[index.get(&keys)] = value;
    }
    object
}
