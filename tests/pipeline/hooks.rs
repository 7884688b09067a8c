//! Safety filters and watermarks.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use unclip::{
    Error, VariationRequest,
    image::{Rgb, RgbImage},
    safety::{
        Action, Category, Evidence, Finding, MarkError, Output, Region, SafetyFilter, Signal,
        Upload, Verdict, Watermark,
    },
};

use crate::{builder, quick};

fn verdict(action: Action) -> Verdict {
    Verdict::of(Finding::new(Signal::new(Category::Shocking, 1.0, "test"), action, 0.5))
}

/// Answers with a fixed action each, and counts what it was asked.
#[derive(Debug, Clone, Default)]
struct Fixed {
    caption: Option<Action>,
    upload: Option<Action>,
    output: Option<Action>,
    outputs_seen: Arc<AtomicUsize>,
}

impl SafetyFilter for Fixed {
    fn check_caption(&self, _caption: &str) -> Verdict {
        self.caption.map_or_else(Verdict::allow, verdict)
    }

    fn check_upload(&self, _upload: &Upload<'_>) -> Verdict {
        self.upload.map_or_else(Verdict::allow, verdict)
    }

    fn check_output(&self, _output: &Output<'_>) -> Verdict {
        self.outputs_seen.fetch_add(1, Ordering::Relaxed);
        self.output.map_or_else(Verdict::allow, verdict)
    }
}

/// Paints the first pixel.
#[derive(Debug)]
struct Dot(Rgb<u8>);

impl Watermark for Dot {
    fn name(&self) -> &str {
        "dot"
    }

    fn mark(&self, picture: &mut RgbImage) -> Result<(), MarkError> {
        picture.put_pixel(0, 0, self.0);
        Ok(())
    }
}

#[test]
fn a_refused_caption_costs_no_step() {
    let filter = Fixed { caption: Some(Action::Refuse), ..Fixed::default() };
    let mut steps = 0;
    let error = builder()
        .safety(filter)
        .build()
        .expect("a whole model")
        .generate_with(quick("a cat"), |_| {
            steps += 1;
            std::ops::ControlFlow::Continue(())
        })
        .expect_err("refused");
    assert_eq!(error.verdict().map(|verdict| verdict.action), Some(Action::Refuse));
    assert_eq!(steps, 0);
}

#[test]
fn the_negative_caption_is_judged_too() {
    #[derive(Debug)]
    struct NoDogs;
    impl SafetyFilter for NoDogs {
        fn check_caption(&self, caption: &str) -> Verdict {
            if caption.contains("dog") { verdict(Action::Refuse) } else { Verdict::allow() }
        }
    }
    let pipeline = builder().safety(NoDogs).build().expect("a whole model");
    assert!(pipeline.generate(quick("a cat")).is_ok(), "an innocent caption");
    assert!(
        matches!(
            pipeline.generate(quick("a cat").negative_caption("a dog")),
            Err(Error::Refused(_))
        ),
        "refused"
    );
}

#[test]
fn a_refused_upload_is_an_error() {
    let filter = Fixed { upload: Some(Action::Withhold), ..Fixed::default() };
    let pipeline = builder().safety(filter).build().expect("a whole model");
    let picture = RgbImage::from_pixel(20, 20, Rgb([9, 9, 9]));
    assert!(
        matches!(
            pipeline.variations(std::slice::from_ref(&picture), &VariationRequest::new()),
            Err(Error::Refused(_))
        ),
        "variations"
    );
    assert!(
        matches!(
            pipeline.upscale(std::slice::from_ref(&picture), &Default::default()),
            Err(Error::Refused(_))
        ),
        "upscale"
    );
    assert!(matches!(pipeline.embed_images(&[picture]), Err(Error::Refused(_))), "embed_images");
}

#[test]
fn faces_are_blurred_unless_the_request_states_consent() {
    /// Wants a corner blurred where nobody has agreed.
    #[derive(Debug)]
    struct Corner;
    impl SafetyFilter for Corner {
        fn check_upload(&self, upload: &Upload<'_>) -> Verdict {
            if upload.consent {
                return Verdict::allow();
            }
            let region = Region { x: 0, y: 0, width: 16, height: 16 };
            let signal = Signal::new(Category::PublicFigures, 1.0, "test");
            let signal = signal.evidence(Evidence::Region(region));
            Verdict::of(Finding::new(signal, Action::Blur, 0.5))
        }
    }
    let picture = RgbImage::from_fn(32, 32, |x, _| Rgb([if x % 2 == 0 { 0 } else { 255 }; 3]));
    let mut blurred = picture.clone();
    Region { x: 0, y: 0, width: 16, height: 16 }.blur(&mut blurred);
    let embedding = |pipeline: &unclip::Pipeline, picture: &RgbImage, consent: bool| {
        let mut request = VariationRequest::new().seed(1).decoder_steps(2).upsample_steps(2);
        request.painting.consent = consent;
        let result = pipeline.variations(std::slice::from_ref(picture), &request);
        let image = result.expect("a valid request").images.remove(0);
        (image.verdict.action, image.image_embedding)
    };
    let guarded = builder().safety(Corner).build().expect("a whole model");
    let free = crate::pipeline();
    assert_eq!(
        embedding(&guarded, &picture, false),
        (Action::Blur, embedding(&free, &blurred, true).1),
        "without consent"
    );
    assert_eq!(
        embedding(&guarded, &picture, true),
        (Action::Allow, embedding(&free, &picture, true).1),
        "with consent"
    );
}

#[test]
fn a_picture_that_is_to_be_blurred_as_a_whole_is_not_used_with_only_its_faces_blurred() {
    /// Finds a face in a corner, and fault with the whole picture.
    #[derive(Debug)]
    struct CornerAndWhole;
    impl SafetyFilter for CornerAndWhole {
        fn check_upload(&self, _: &Upload<'_>) -> Verdict {
            let region = Evidence::Region(Region { x: 0, y: 0, width: 16, height: 16 });
            let face = Signal::new(Category::PublicFigures, 1.0, "faces").evidence(region);
            verdict(Action::Blur).and(Verdict::of(Finding::new(face, Action::Blur, 0.5)))
        }
    }
    let pipeline = builder().safety(CornerAndWhole).build().expect("a whole model");
    let picture = RgbImage::from_pixel(32, 32, Rgb([9, 9, 9]));
    let request = VariationRequest::new().decoder_steps(2).upsample_steps(2);
    let varied = pipeline.variations(&[picture], &request);
    assert!(matches!(varied, Err(Error::Refused(_))), "{varied:?}");
}

#[test]
fn an_output_is_treated_as_the_verdict_says() {
    let unmarked = builder().unmarked().build().expect("a whole model");
    let plain =
        unmarked.generate(quick("a cat")).expect("a valid request").images.remove(0).picture;
    for action in [Action::Allow, Action::Flag, Action::Blur, Action::Withhold] {
        let filter = Fixed { output: Some(action), ..Fixed::default() };
        let image = unmarked
            .with_safety(filter)
            .generate(quick("a cat"))
            .expect("a valid request")
            .images
            .remove(0);
        assert_eq!(image.verdict.action, action);
        assert_eq!(image.picture.dimensions(), plain.dimensions());
        assert_eq!(image.picture == plain, action <= Action::Flag, "{action:?}");
        if action == Action::Withhold {
            assert!(image.picture.pixels().all(|pixel| pixel.0 == [128; 3]), "a blank picture");
        }
    }
    let filter = Fixed { output: Some(Action::Refuse), ..Fixed::default() };
    let refused = unmarked.with_safety(filter).generate(quick("a cat"));
    assert!(matches!(refused, Err(Error::Refused(_))), "no picture");
}

#[test]
fn every_finished_picture_is_judged_and_marked_in_order() {
    let filter = Fixed::default();
    let seen = filter.outputs_seen.clone();
    let pipeline = builder()
        .safety(filter)
        .watermark(Dot(Rgb([1, 2, 3])))
        .watermark(Dot(Rgb([4, 5, 6])))
        .build()
        .expect("a whole model");
    let marked = |picture: &RgbImage| picture.get_pixel(0, 0).0 == [4, 5, 6];
    let generated = pipeline.generate(quick("a cat").images(2)).expect("a valid request");
    assert!(generated.images.iter().all(|image| marked(&image.picture)), "generate");
    let mut request = VariationRequest::new().decoder_steps(2).upsample_steps(2);
    request.painting.seed = Some(1);
    let varied = pipeline
        .variations(std::slice::from_ref(&generated.images[0].picture), &request)
        .expect("a valid request");
    assert!(varied.images.iter().all(|image| marked(&image.picture)), "variations");
    let upscaled = pipeline
        .upscale(std::slice::from_ref(&generated.images[0].picture), &request.painting)
        .expect("valid");
    assert!(upscaled.iter().all(|image| marked(&image.picture)), "upscale");
    assert_eq!(seen.load(Ordering::Relaxed), 4);
}

#[test]
fn a_mark_that_fails_yields_no_picture() {
    #[derive(Debug)]
    struct TooSmall;
    impl Watermark for TooSmall {
        fn name(&self) -> &str {
            "too-small"
        }
        fn mark(&self, picture: &mut RgbImage) -> Result<(), MarkError> {
            let (width, height) = picture.dimensions();
            Err(MarkError {
                watermark: "too-small".into(),
                width,
                height,
                reason: "32 bits do not fit".into(),
            })
        }
    }
    let result =
        builder().watermark(TooSmall).build().expect("a whole model").generate(quick("a cat"));
    assert!(matches!(result, Err(Error::Mark(_))), "an error");
}
