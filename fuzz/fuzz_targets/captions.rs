//! The check of captions: whatever the text, places of words that lie in the caption and scores from 0 to 1.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip_safety::{CaptionCheck, Evidence, Lexicon, Policy, Subject, words};

fuzz_target!(|caption: &str| {
    for word in words(caption).iter().chain(&Lexicon::builtin().decode(caption)) {
        assert!(caption.get(word.start..word.end).is_some_and(|place| !place.is_empty()));
        assert!(!word.text.is_empty());
    }
    let signals = CaptionCheck::builtin().signals(caption);
    for signal in &signals {
        assert!((0.0..=1.0).contains(&signal.score));
        for evidence in &signal.evidence {
            if let Evidence::Words { text, start, end } = evidence {
                assert!(caption[*start..*end].starts_with(text.as_str()));
            }
        }
    }
    let _ = Policy::standard().judge(Subject::Caption, signals);
});
