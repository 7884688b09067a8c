//! No way out of a pipeline that was opened with default settings leads past the checks or the marks, and whatever is
//! switched off is said.

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use unclip::{
    Painting, Pipeline, VariationRequest,
    image::{Rgb, RgbImage},
    safety::{
        Action, Category, Guard, Ladder, NoFilter, Output, Policy, Rule, SafetyFilter, Verdict,
        mark::{Detection, Detector, Signature},
        provenance::{self, Origin},
    },
};

use crate::{builder, pipeline, quick, safety::log_of};

/// The public functions that hand out pictures; [`pictures_of`] asks each of them for some.
const PICTURES: [&str; 6] = [
    "Pipeline::generate",
    "Pipeline::generate_with",
    "Pipeline::variations",
    "Pipeline::variations_with",
    "Pipeline::upscale",
    "Progress::preview",
];

/// A size at which a picture can hold the invisible mark; the tiny model's own are 16 and 32.
const LARGE: u32 = 512;

/// What the function returns when asked for two pictures, or for every preview of one.
fn pictures_of(pipeline: &Pipeline, function: &str) -> Vec<RgbImage> {
    let given = [RgbImage::from_fn(40, 40, |x, y| {
        Rgb([6 * x, 90, y % 7 * 30].map(|level| u8::try_from(level).expect("below 256")))
    })];
    let request = quick("a cat").images(2).size(LARGE);
    let mut vary = VariationRequest::new().seed(1).decoder_steps(2).upsample_steps(2).images(2);
    vary.painting.size = Some(LARGE);
    let painting = Painting { size: Some(LARGE), ..Painting::default() };
    let on = |_: unclip::Progress<'_>| ControlFlow::Continue(());
    let generation = match function {
        "Pipeline::generate" => pipeline.generate(request),
        "Pipeline::generate_with" => pipeline.generate_with(request, on),
        "Pipeline::variations" => pipeline.variations(&given, &vary),
        "Pipeline::variations_with" => pipeline.variations_with(&given, &vary, on),
        "Pipeline::upscale" => {
            let two = [given[0].clone(), given[0].clone()];
            let enlarged = pipeline.upscale(&two, &painting).expect("pictures to enlarge");
            return enlarged.into_iter().map(|image| image.picture).collect();
        }
        "Progress::preview" => {
            let mut previews = Vec::new();
            pipeline
                .generate_with(quick("a cat"), |progress| {
                    previews.extend(progress.preview().into_iter().flatten().flatten());
                    ControlFlow::Continue(())
                })
                .expect("a valid request");
            return previews;
        }
        other => panic!("{other} hands out pictures and is not asked for any here"),
    };
    generation.expect("a valid request").images.into_iter().map(|image| image.picture).collect()
}

/// Every public function of `Pipeline` and of the `Progress` that it hands to callers, with the type that it returns, as
/// the sources below `dir` have them.
fn public_functions(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).expect("our own sources") {
        let path = entry.expect("our own sources").path();
        if path.is_dir() {
            public_functions(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("our own sources");
        let mut of = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            match line {
                "impl Pipeline {" => of = Some("Pipeline"),
                "impl Progress<'_> {" => of = Some("Progress"),
                "}" => of = None,
                _ => {}
            }
            let (Some(of), Some(start)) = (of, line.strip_prefix("    pub fn ")) else { continue };
            let mut signature = start.to_owned();
            while !signature.ends_with('{') {
                signature += lines.next().expect("a body follows");
            }
            let name = signature.split(['(', '<']).next().unwrap_or_default();
            // Of the arrows in a signature, the last is the function's own unless a bound follows.
            let returns = signature.rsplit(") -> ").next().unwrap_or_default();
            found.push((format!("{of}::{name}"), returns.to_owned()));
        }
    }
}

#[test]
fn every_public_function_that_returns_pictures_is_known_and_raw_tensors_say_so_in_their_names() {
    let mut found = Vec::new();
    public_functions(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let names: BTreeSet<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    for known in
        ["Pipeline::builder", "Pipeline::save", "Pipeline::embed_text", "Progress::preview"]
    {
        assert!(names.contains(known), "{known} was not found: {names:?}");
    }
    let pictures: BTreeSet<&str> = found
        .iter()
        .filter(|(_, returns)| {
            ["Image", "Generat", "Vec<u8>", "impl "].iter().any(|of| returns.contains(of))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(pictures, BTreeSet::from(PICTURES));
    for (name, returns) in &found {
        if returns.contains("Tensor<4>") {
            assert!(name.ends_with("_tensor"), "{name} returns {returns}");
        }
    }
}

#[test]
fn every_picture_of_a_default_pipeline_is_marked() {
    let pipeline = pipeline();
    for function in PICTURES {
        let pictures = pictures_of(&pipeline, function);
        assert!(pictures.len() >= 2, "{function}");
        for picture in pictures {
            assert!(Signature::new().is_on(&picture), "{function} left the signature out");
            if picture.width() >= 64 {
                let Detection::Found(reading) = Detector::new().detect(&picture) else {
                    panic!("{function} left the invisible mark out")
                };
                assert_eq!(&reading.payload.0, b"unclip", "{function}");
            }
        }
    }
}

#[test]
fn every_saved_file_says_that_a_model_made_it() {
    let image = pipeline().generate(quick("a cat")).expect("a valid request").images.remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["a.png", "a.jpg", "a.webp", "a"] {
        let path = folder.path().join(name);
        image.save(&path).expect("a writable folder");
        let origin = provenance::read_origin(&fs::read(path).expect("just written"));
        let expected = Origin::trained(concat!("unclip ", env!("CARGO_PKG_VERSION")));
        assert_eq!(origin.expect("our own file"), Some(expected), "{name}");
    }
    let enlarged = pipeline().upscale(&[image.picture], &Painting::default());
    let enlarged = enlarged.expect("a picture to enlarge").remove(0);
    for name in ["b.png", "b.jpeg", "b.webp"] {
        let path = folder.path().join(name);
        enlarged.save(&path).expect("a writable folder");
        let origin = provenance::read_origin(&fs::read(&path).expect("just written"));
        let expected = Origin::composite(concat!("unclip ", env!("CARGO_PKG_VERSION")));
        assert_eq!(origin.expect("our own file"), Some(expected), "{name}");
    }
}

#[test]
fn every_picture_passes_the_filter() {
    /// Counts the finished pictures that it is asked about.
    #[derive(Debug, Clone, Default)]
    struct Counting(Arc<AtomicUsize>);
    impl SafetyFilter for Counting {
        fn check_output(&self, _: &Output<'_>) -> Verdict {
            self.0.fetch_add(1, Ordering::Relaxed);
            Verdict::allow()
        }
    }
    for function in PICTURES {
        let counting = Counting::default();
        let handed_out = pictures_of(&pipeline().with_safety(counting.clone()), function).len();
        let asked = counting.0.load(Ordering::Relaxed);
        // A request with previews asks about its finished picture as well.
        assert!(asked >= handed_out && handed_out > 0, "{function}: {asked} of {handed_out}");
    }
}

#[cfg(feature = "nsfw")]
#[test]
fn the_default_filter_looks_at_everything_with_a_network_for_pictures() {
    assert!(!log_of(|| drop(builder().build())).contains("not checked"), "nothing is left out");
    // A rule from 0 on shows the score of every picture.
    let shown = Ladder::new(vec![Rule { from: 0.0, action: Action::Flag }]).expect("one rule");
    let mut policy = Policy::standard();
    policy.uploads.insert(Category::Sexual, shown.clone());
    policy.outputs.insert(Category::Sexual, shown);
    let pipeline = builder().policy(policy).build().expect("a whole model");
    let generated = pipeline.generate(quick("a cat").images(2)).expect("a valid request").images;
    for image in &generated {
        assert_eq!(image.verdict.findings.len(), 1, "{}", image.verdict);
        assert_eq!(image.verdict.findings[0].check, "open_nsfw");
    }
    let given = std::slice::from_ref(&generated[0].picture);
    let vary = VariationRequest::new().seed(1).decoder_steps(2).upsample_steps(2);
    let varied = pipeline.variations(given, &vary).expect("a valid request").images.remove(0);
    assert_eq!(varied.verdict.findings.len(), 2, "given and finished: {}", varied.verdict);
}

#[cfg(not(feature = "faces"))]
#[test]
fn that_faces_are_not_looked_for_is_said_where_the_policy_minds_them() {
    let said =
        |policy| log_of(|| drop(builder().policy(policy).build())).contains("faces in given");
    assert!(said(Policy::standard()), "the standard policy asks for consent");
    assert!(!said(Policy::off()), "the policy off allows them");
}

#[test]
fn whatever_is_switched_off_is_said_in_the_log() {
    let off = "safety checks are off";
    for (said, build) in [
        (&[off][..], &(|| drop(builder().without_safety().build())) as &dyn Fn()),
        (&[off], &|| drop(builder().policy(Policy::off()).build())),
        (&[off], &|| drop(pipeline().with_safety(NoFilter))),
        (&["given pictures are not checked", "finished pictures are not checked"], &|| {
            drop(builder().safety(Guard::new(Policy::standard())).build());
        }),
        // A policy whose rules lead to nothing is as good as none.
        (&["finished pictures are not checked"], &|| {
            let outputs = [(Category::Sexual, Ladder::default())].into();
            drop(builder().policy(Policy { outputs, ..Policy::standard() }).build());
        }),
        (&["without the invisible mark"], &|| drop(builder().invisible_mark(None).build())),
        (&["without the signature"], &|| drop(builder().signature(None).build())),
        (&["without the invisible mark", "without the signature"], &|| {
            drop(builder().unmarked().build());
        }),
        (&["too small for the invisible mark"], &|| drop(pipeline().generate(quick("a cat")))),
    ] {
        let log = log_of(build);
        assert_eq!(log.matches("WARN").count(), said.len(), "{said:?}: {log}");
        for said in said {
            assert!(log.contains(said), "{said}: {log}");
        }
    }
}
