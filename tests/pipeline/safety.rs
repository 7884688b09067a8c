//! The checks that a pipeline has unless told otherwise, and the record of requests.

use std::{
    io::Write,
    sync::{Arc, Mutex, Once},
};

use unclip::{
    Error, VariationRequest,
    image::{Rgb, RgbImage},
    safety::{
        Action, AuditEntry, Category, Concepts, Embedded, Guard, JsonLines, Outcome, Policy,
        SafetyFilter, Verdict,
    },
};

use crate::{builder, pipeline, quick};

const UNSAFE: &str = "a man stabbing another man in an alley";

#[test]
fn an_unsafe_caption_is_refused_by_default_and_the_error_holds_the_words() {
    let mut steps = 0;
    let error = pipeline()
        .generate_with(quick(UNSAFE), |_| {
            steps += 1;
            std::ops::ControlFlow::Continue(())
        })
        .expect_err("refused");
    let finding = error.verdict().and_then(Verdict::gravest).expect("a finding");
    assert_eq!((finding.category, finding.action), (Category::Violence, Action::Refuse));
    assert!(error.to_string().contains("\"stabbing"), "{error}");
    assert_eq!(steps, 0, "nothing was computed");
}

#[test]
fn every_way_in_judges_its_caption() {
    let pipeline = pipeline();
    let refused = |result: Result<(), Error>| matches!(result, Err(Error::Refused(_)));
    assert!(refused(pipeline.generate(quick(UNSAFE)).map(drop)), "generate");
    let negative = quick("a cat").negative_caption(UNSAFE);
    assert!(refused(pipeline.generate(negative).map(drop)), "the negative caption");
    assert!(refused(pipeline.sample_prior(quick(UNSAFE)).map(drop)), "sample_prior");
    assert!(refused(pipeline.embed_text(&["a cat", UNSAFE]).map(drop)), "embed_text");
    let embeddings = pipeline.sample_prior(quick("a cat")).expect("a fine caption");
    let decoded = pipeline.decode_tensor(embeddings, UNSAFE, &Default::default());
    assert!(refused(decoded.map(drop)), "decode_tensor");
}

#[test]
fn switching_off_is_one_call() {
    let off = builder().without_safety().build().expect("a whole model");
    assert!(off.generate(quick(UNSAFE)).is_ok(), "without_safety");
    let guarded = off.with_safety(Guard::new(Policy::standard()));
    assert!(guarded.generate(quick(UNSAFE)).is_err(), "with_safety");
    assert!(off.generate(quick(UNSAFE)).is_ok(), "the first pipeline is as it was");
}

#[test]
fn a_flagged_caption_keeps_its_verdict_beside_the_picture() {
    let generation = pipeline().generate(quick("a knife on a plate")).expect("flagged only");
    let verdict = &generation.images[0].verdict;
    assert_eq!(verdict.action, Action::Flag);
    assert_eq!(verdict.findings[0].category, Category::Violence);
}

#[test]
fn embeddings_are_judged_before_anything_is_painted() {
    /// Refuses pairs, and captions where told to.
    #[derive(Debug)]
    struct Near {
        captions: bool,
    }
    impl SafetyFilter for Near {
        fn wants_embeddings(&self) -> bool {
            true
        }
        fn check_embedded(&self, embedded: &Embedded<'_>) -> Verdict {
            assert!(embedded.caption.is_none_or(|row| row.iter().any(|value| *value != 0.0)));
            let refuse = self.captions || embedded.picture.is_some();
            let signal = unclip::safety::Signal::new(Category::Sexual, 1.0, "near");
            let signals = refuse.then_some(signal);
            Policy::standard().judge(unclip::safety::Subject::Caption, signals)
        }
    }
    for (captions, expected) in [(true, 0), (false, 3)] {
        let mut steps = 0;
        let result =
            pipeline().with_safety(Near { captions }).generate_with(quick("a cat"), |_| {
                steps += 1;
                std::ops::ControlFlow::Continue(())
            });
        assert!(matches!(result, Err(Error::Refused(_))), "refused");
        assert_eq!(steps, expected, "the prior's steps, and none of the decoder's");
    }
}

#[test]
fn a_finished_picture_is_judged_together_with_its_caption() {
    /// Finds fault with finished pictures alone, with a caption or without.
    #[derive(Debug)]
    struct Painted {
        captioned: bool,
    }
    impl SafetyFilter for Painted {
        fn wants_embeddings(&self) -> bool {
            true
        }
        fn check_embedded(&self, embedded: &Embedded<'_>) -> Verdict {
            let found = embedded.finished && embedded.caption.is_some() == self.captioned;
            let signal = unclip::safety::Signal::new(Category::Sexual, 0.9, "painted");
            let signals = found.then_some(signal);
            Policy::standard().judge(unclip::safety::Subject::Output, signals)
        }
    }
    let whole = builder().unmarked().build().expect("a whole model");
    let vary = VariationRequest::new().decoder_steps(2).upsample_steps(2);
    for captioned in [true, false] {
        let pipeline = whole.with_safety(Painted { captioned });
        let generated = pipeline.generate(quick("a cat")).expect("withheld at most");
        let varied = pipeline.variations(&[generated.images[0].picture.clone()], &vary);
        let varied = varied.expect("withheld at most");
        for (made, withheld) in [(generated, captioned), (varied, !captioned)] {
            let image = &made.images[0];
            assert_eq!(image.verdict.action == Action::Withhold, withheld, "{captioned}");
            let blank = image.picture.pixels().all(|pixel| pixel.0 == [128; 3]);
            assert_eq!(blank, withheld, "{captioned}");
        }
    }
}

#[test]
fn concepts_are_embedded_with_the_pipeline_s_own_clip() {
    let pipeline = pipeline();
    let embed = |texts: &[&str]| -> unclip::Result<Vec<Vec<f32>>> {
        let rows =
            pipeline.with_safety(unclip::safety::NoFilter).embed_text(texts)?.captions.embedding;
        let rows = unclip::HostTensor::read(&rows)?;
        Ok(rows.values.chunks_exact(rows.shape[1]).map(<[f32]>::to_vec).collect())
    };
    let phrases = vec![(Category::Violence, "a fight".into()), (Category::Sexual, "a nude".into())];
    let mut concepts = Concepts::embed::<Error>(phrases, embed).expect("two embeddings");
    let fine: Vec<String> = (0..40).map(|k| format!("{k} boats in harbour {}", k * 7)).collect();
    let fine: Vec<&str> = fine.iter().map(String::as_str).collect();
    concepts.calibrate_captions(&embed(&fine).expect("40 rows"), 0.05).expect("40 rows");
    let guarded = pipeline.with_safety(Guard::new(Policy::standard()).concepts(concepts));
    let passed = fine.iter().filter(|caption| guarded.sample_prior(quick(caption)).is_ok()).count();
    assert!(passed >= 38, "at most one in twenty is refused: {passed} of 40 passed");
}

#[test]
fn a_given_embedding_is_judged_together_with_its_caption() {
    /// Refuses nothing but one embedding beside a caption.
    #[derive(Debug)]
    struct Pair(Vec<f32>);
    impl SafetyFilter for Pair {
        fn wants_embeddings(&self) -> bool {
            true
        }
        fn check_embedded(&self, embedded: &Embedded<'_>) -> Verdict {
            let both = embedded.caption.is_some() && embedded.picture == Some(&self.0);
            let signal = unclip::safety::Signal::new(Category::Violence, 1.0, "pair");
            let signals = (both && !embedded.finished).then_some(signal);
            Policy::standard().judge(unclip::safety::Subject::Upload, signals)
        }
    }
    let pipeline = pipeline();
    let drawn = pipeline.sample_prior(quick("a cat")).expect("a fine caption");
    let given = unclip::HostTensor::read(&drawn).expect("a tensor on the host");
    let guarded = pipeline.with_safety(Pair(given.values.clone()));
    let with = |embeddings: &unclip::HostTensor| {
        let supplied =
            unclip::Supplied { image_embeddings: Some(embeddings.clone()), ..Default::default() };
        let mut steps = 0;
        let result = guarded.generate_with(quick("a cat").supplied(supplied), |_| {
            steps += 1;
            std::ops::ControlFlow::Continue(())
        });
        (result.map(drop), steps)
    };
    let (refused, steps) = with(&given);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(steps, 0, "nothing was painted");
    let other = given.values.iter().map(|value| -value).collect();
    let other = unclip::HostTensor::new(given.shape.clone(), other).expect("the same shape");
    assert!(with(&other).0.is_ok(), "another embedding");
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What `work` writes into the log.
pub(crate) fn log_of(work: impl FnOnce()) -> String {
    // Without a subscriber for all threads, a test beside this one that logs the same line first may mark it as of no interest
    // to anybody while this one begins to listen.
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other test listens");
    });
    let out = Shared::default();
    let sink = out.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(out.0.lock().expect("no panics").clone()).expect("text")
}

#[test]
fn an_unguarded_pipeline_is_said_once_in_the_log() {
    let said = |work: &dyn Fn()| log_of(work).matches("safety checks are off").count();
    assert_eq!(said(&|| drop(builder().without_safety().build())), 1, "without_safety");
    assert_eq!(said(&|| drop(builder().policy(Policy::off()).build())), 1, "the policy off");
    assert_eq!(said(&|| drop(builder().build())), 0, "guarded by default");
}

#[test]
fn every_request_is_recorded_with_its_user_and_its_verdicts() {
    let out = Shared::default();
    let pipeline = builder().audit(JsonLines::to(out.clone(), "memory")).build().expect("a model");
    pipeline.for_user("ann").generate(quick("a cat").images(2)).expect("a fine caption");
    pipeline.for_user("bob").generate(quick(UNSAFE)).expect_err("refused");
    pipeline
        .generate_with(quick("a cat"), |_| std::ops::ControlFlow::Break(()))
        .expect_err("cancelled");
    pipeline.generate(quick("a cat").size(7)).expect_err("no such size");
    let text = String::from_utf8(out.0.lock().expect("no panics").clone()).expect("JSON");
    let entries: Vec<AuditEntry> =
        text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
    let outcomes: Vec<Outcome> = entries.iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Refused, Outcome::Cancelled, Outcome::Failed]);
    assert_eq!(entries[0].user.as_deref(), Some("ann"));
    assert_eq!(entries[0].verdicts.len(), 2);
    assert_eq!(entries[1].user.as_deref(), Some("bob"));
    assert_eq!(entries[1].verdicts[0].action, Action::Refuse);
    assert_eq!(entries[1].request["captions"][0], UNSAFE);
    assert_eq!(entries[2].user, None);
}

#[test]
fn whoever_tries_a_stage_alone_is_recorded_too() {
    let out = Shared::default();
    let pipeline = builder().audit(JsonLines::to(out.clone(), "memory")).build().expect("a model");
    let recorded = || {
        let text = String::from_utf8(out.0.lock().expect("no panics").clone()).expect("JSON");
        let last = text.lines().last().expect("an entry");
        let entry: AuditEntry = serde_json::from_str(last).expect("an entry");
        (text.lines().count(), entry)
    };
    let painting = unclip::Painting { seed: Some(1), ..Default::default() };
    let drawn = pipeline.sample_prior(quick("a cat")).expect("a fine caption");
    let small = pipeline.decode_tensor(drawn.clone(), "a cat", &painting).expect("a fine caption");
    pipeline.upscale_tensor(small, &painting).expect("the decoder's size");
    let picture = RgbImage::from_pixel(20, 20, Rgb([9, 9, 9]));
    pipeline.embed_images(&[picture]).expect("a picture");
    pipeline.embed_text(&["a cat"]).expect("a fine caption");
    let (count, entry) = recorded();
    assert_eq!((count, entry.operation.as_str()), (5, "embed_text"));
    assert_eq!(entry.outcome, Outcome::Done);
    pipeline.decode_tensor(drawn, UNSAFE, &painting).expect_err("refused");
    let (count, entry) = recorded();
    assert_eq!((count, entry.operation.as_str()), (6, "decode_tensor"));
    assert_eq!((entry.outcome, entry.verdicts.len()), (Outcome::Refused, 1));
    assert_eq!(entry.request["caption"], UNSAFE);
}

#[test]
fn a_record_that_cannot_be_written_lets_no_picture_out() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let pipeline = builder().audit(JsonLines::to(Full, "audit.jsonl")).build().expect("a model");
    assert!(matches!(pipeline.generate(quick("a cat")), Err(Error::Record(_))), "an error");
}
