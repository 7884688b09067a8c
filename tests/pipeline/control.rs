//! Progress, previews and cancellation.

use std::{collections::BTreeMap, ops::ControlFlow};

use unclip::{CancelToken, Error, Stage, core::Error as CoreError};

use crate::{pipeline, quick};

#[test]
fn every_step_of_every_batch_is_told_once_and_in_order() {
    let mut seen: BTreeMap<Stage, Vec<usize>> = BTreeMap::new();
    let mut totals = BTreeMap::new();
    pipeline()
        .generate_with(quick("a cat").images(2), |progress| {
            seen.entry(progress.stage).or_default().push(progress.step);
            totals.insert(progress.stage, progress.total);
            ControlFlow::Continue(())
        })
        .expect("a valid request");
    assert_eq!(
        totals,
        BTreeMap::from([(Stage::Prior, 6), (Stage::Decoder, 6), (Stage::Upsample, 4)])
    );
    for (stage, steps) in seen {
        assert_eq!(steps, (1..=totals[&stage]).collect::<Vec<_>>(), "{stage}");
    }
}

#[test]
fn breaking_off_ends_the_request_at_that_step() {
    for (stage, step) in [(Stage::Prior, 1), (Stage::Decoder, 2), (Stage::Upsample, 2)] {
        let mut calls_after = 0;
        let error = pipeline()
            .generate_with(quick("a cat"), |progress| {
                if (progress.stage, progress.step) == (stage, step) {
                    return ControlFlow::Break(());
                }
                calls_after += usize::from(progress.stage > stage);
                ControlFlow::Continue(())
            })
            .expect_err("broken off");
        assert!(error.is_cancelled(), "{error}");
        assert!(
            matches!(error.core(), Some(CoreError::Cancelled { stage: s, completed, .. }) if (*s, *completed) == (stage, step)),
            "{error:?}"
        );
        assert_eq!(calls_after, 0, "no later stage ran");
    }
}

#[test]
fn a_token_thrown_by_another_thread_stops_within_one_step() {
    let token = CancelToken::new();
    let mut steps = 0;
    let result = pipeline().generate_with(quick("a cat").decoder_steps(50), |_| {
        steps += 1;
        if steps == 4 {
            let remote = token.clone();
            std::thread::spawn(move || remote.cancel()).join().expect("no panic");
        }
        token.flow()
    });
    assert!(matches!(result, Err(error) if error.is_cancelled()), "the token was ignored");
    assert_eq!(steps, 4);
}

#[test]
fn previews_are_pictures_of_the_stage_and_only_where_there_are_any() {
    let mut sizes = Vec::new();
    pipeline()
        .generate_with(quick("a cat"), |progress| {
            match progress.preview() {
                Some(preview) => {
                    sizes.push((progress.stage, preview.expect("readable")[0].width()));
                }
                None => assert_eq!(progress.stage, Stage::Prior),
            }
            ControlFlow::Continue(())
        })
        .expect("a valid request");
    assert_eq!(sizes.first(), Some(&(Stage::Decoder, 16)));
    assert_eq!(sizes.last(), Some(&(Stage::Upsample, 32)));
}

#[test]
fn a_cancelled_request_leaves_the_pipeline_usable() {
    let pipeline = pipeline();
    let cancelled = pipeline.generate_with(quick("a cat"), |_| ControlFlow::Break(()));
    assert!(matches!(cancelled, Err(Error::Prior(_) | Error::Core(_))), "{cancelled:?}");
    assert!(pipeline.generate(quick("a cat")).is_ok(), "the next request works");
}
