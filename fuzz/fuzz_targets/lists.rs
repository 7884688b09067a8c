//! Word lists and policies: whatever the text, an error that names a line of it, or something that judges and that is
//! read back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip_safety::{Error, Lexicon, Policy, Signal, Subject, Category};

fuzz_target!(|text: &str| {
    match Lexicon::parse(&[("list", text)]) {
        Ok(lexicon) => {
            // The list's own words are the captions most likely to match it.
            let _ = lexicon.signals(text);
        }
        Err(error) => names_a_line(&error, text),
    }
    match Policy::parse(text, "policy") {
        Ok(policy) => {
            assert_eq!(Policy::parse(&policy.to_json(), "again").expect("our own JSON"), policy);
            let _ = policy.judge(Subject::Output, [Signal::new(Category::Hate, 0.7, "fuzz")]);
        }
        Err(error) => names_a_line(&error, text),
    }
});

fn names_a_line(error: &Error, text: &str) {
    let Error::Line { line, reason, .. } = error else { panic!("{error:?}") };
    assert!((1..=text.split('\n').count()).contains(line), "line {line}");
    assert!(!reason.is_empty());
}
