//! A face in a given picture is found where it is, and treated as the policy says.
//!
//! `face.jpg` is a part of NASA's portrait of Eileen Collins, which scikit-image carries as `astronaut`; works of NASA are in
//! the public domain.

use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};
use unclip_safety::{
    Action, Category, FacePolicy, Guard, Policy, Region, SafetyFilter, Upload,
    picture::{FaceDetector, FrontalFaces},
};

fn portrait() -> RgbImage {
    image::load_from_memory(include_bytes!("face.jpg")).expect("a JPEG file").into_rgb8()
}

/// The faces in `picture`, which must hold the point of the portrait between the eyes.
fn found(picture: &RgbImage, (x, y): (u32, u32)) -> Vec<Region> {
    let faces = FrontalFaces::bundled().faces(picture).expect("searchable");
    let regions: Vec<Region> = faces.iter().map(|(region, _)| *region).collect();
    assert_eq!(regions.len(), 1, "{faces:?}");
    let Region { x: left, y: top, width, height } = regions[0];
    assert!((left..left + width).contains(&x) && (top..top + height).contains(&y), "{faces:?}");
    assert!(faces[0].1 > 0.5, "{faces:?}");
    regions
}

#[test]
fn a_face_is_found_where_it_is() {
    let portrait = portrait();
    let (x, y) = (93, 90);
    let [face] = found(&portrait, (x, y))[..] else { panic!("one") };
    assert!((40..140).contains(&face.width), "{face}");
    // Larger than what is searched at once, and in another place of a larger picture.
    let large = imageops::resize(&portrait, 1536, 1536, FilterType::CatmullRom);
    found(&large, (8 * x, 8 * y));
    let mut wide = RgbImage::from_pixel(600, 300, Rgb([90, 120, 150]));
    imageops::replace(&mut wide, &portrait, 400, 80);
    found(&wide, (400 + x, 80 + y));
}

#[test]
fn a_blurred_face_is_no_longer_found() {
    let mut portrait = portrait();
    for face in found(&portrait, (93, 90)) {
        face.blur(&mut portrait);
    }
    let left = FrontalFaces::bundled().faces(&portrait).expect("searchable");
    assert_eq!(left, [], "features that can be recognised");
}

#[test]
fn a_face_is_treated_as_the_policy_says() {
    let portrait = portrait();
    let none = RgbImage::from_pixel(192, 192, Rgb([90, 120, 150]));
    for (faces, without, with) in [
        (FacePolicy::Allow, Action::Allow, Action::Allow),
        (FacePolicy::Consent, Action::Refuse, Action::Allow),
        (FacePolicy::Blur, Action::Blur, Action::Allow),
        (FacePolicy::Refuse, Action::Refuse, Action::Refuse),
    ] {
        let policy = Policy { faces, ..Policy::standard() };
        let guard = Guard::new(policy).faces(FrontalFaces::bundled());
        let judged = |picture: &RgbImage, consent| {
            guard.check_upload(&Upload::new(picture).consent(consent))
        };
        assert_eq!(judged(&portrait, false).action, without, "{faces:?}");
        assert_eq!(judged(&portrait, true).action, with, "{faces:?}, with consent");
        assert_eq!(judged(&none, false).action, Action::Allow, "{faces:?}, no face");
        for finding in &judged(&portrait, false).findings {
            assert_eq!(
                (finding.category, finding.check.as_str()),
                (Category::PublicFigures, "seetaface")
            );
        }
        let regions = judged(&portrait, false).regions_to_blur();
        assert_eq!(regions.is_some(), faces == FacePolicy::Blur, "{regions:?}");
    }
}

#[test]
fn pictures_without_faces_show_none() {
    for (width, height) in [(0, 0), (1, 900), (64, 64), (300, 200)] {
        let picture = RgbImage::from_pixel(width, height, Rgb([120, 80, 60]));
        let found = FrontalFaces::bundled().faces(&picture).expect("searchable");
        assert_eq!(found, [], "{width} × {height}");
    }
}
