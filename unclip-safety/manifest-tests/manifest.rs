//! Manifests are what the C2PA's own reader accepts, and nothing that was changed passes for what was signed.
//!
//! Certificates and keys are made anew in each run.

use std::io::Cursor;

use c2pa::{Context, Reader, ValidationState};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    SignatureAlgorithm, date_time_ymd,
};
use serde_json::Value;
use unclip_safety::provenance::{
    Algorithm, ManifestError, ManifestSigner, Origin, Standing, TRAINED, read_manifest,
    read_origin, write_origin,
};

const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

/// A maker's certificate chain and key, and the root above them.
struct Maker {
    chain: String,
    key: String,
    root: String,
}

impl Maker {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        Self::until(2100, algorithm, ExtendedKeyUsagePurpose::EmailProtection)
    }

    /// With a certificate that ends in `year`, for one `purpose`.
    fn until(
        year: i32,
        algorithm: &'static SignatureAlgorithm,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Self {
        let params = |name: &str, usage: Vec<KeyUsagePurpose>| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.distinguished_name.push(DnType::OrganizationName, "unclip tests");
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = usage;
            params.not_before = date_time_ymd(2020, 1, 1);
            params
        };
        let mut root =
            params("a root", vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.not_after = date_time_ymd(2100, 1, 1);
        let root_key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let root_pem = root.self_signed(&root_key).expect("a root").pem();
        let issuer = Issuer::new(root, root_key);

        let mut leaf = params("a maker", vec![KeyUsagePurpose::DigitalSignature]);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.extended_key_usages = vec![purpose];
        leaf.use_authority_key_identifier_extension = true;
        leaf.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let chain = leaf.signed_by(&key, &issuer).expect("a leaf").pem();
        Self { chain, key: key.serialize_pem(), root: root_pem }
    }

    fn signer(&self, algorithm: Algorithm) -> Result<ManifestSigner, ManifestError> {
        ManifestSigner::from_pem(self.chain.as_bytes(), self.key.as_bytes(), algorithm)
    }
}

/// A maker and the signer with its key.
fn maker() -> (Maker, ManifestSigner) {
    let maker = Maker::new(&PKCS_ECDSA_P256_SHA256);
    let signer = maker.signer(Algorithm::Es256).expect("a sound chain");
    (maker, signer)
}

/// A file that already says its origin in XMP, of a picture whose pixel at (20, 12) is `middle`.
fn file(format: ImageFormat, middle: [u8; 3]) -> Vec<u8> {
    let level = |value: u32| u8::try_from(value % 256).expect("below 256");
    let mut picture = RgbImage::from_fn(40, 24, |x, y| Rgb([level(x * 6), level(y * 9), 77]));
    picture.put_pixel(20, 12, Rgb(middle));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodable");
    write_origin(bytes.get_ref(), &Origin::trained("a tool")).expect("a sound file")
}

fn picture(file: &[u8]) -> Option<RgbImage> {
    image::load_from_memory(file).ok().map(DynamicImage::into_rgb8)
}

fn media_type(format: ImageFormat) -> &'static str {
    format.to_mime_type()
}

/// The first place of `part` in `bytes`, from `start` on.
fn find(bytes: &[u8], part: &[u8], start: usize) -> usize {
    start + bytes[start..].windows(part.len()).position(|it| it == part).expect("it holds the part")
}

/// Where the compressed pixels stand, with all that frames them.
fn pixels(file: &[u8], format: ImageFormat) -> std::ops::Range<usize> {
    match format {
        ImageFormat::Png => find(file, b"IDAT", 0) - 4..find(file, b"IEND", 0) - 4,
        ImageFormat::Jpeg => find(file, &[0xFF, 0xDA], find(file, &[0xFF, 0xC0], 0))..file.len(),
        _ => {
            let start = find(file, b"VP8L", 0);
            let length: [u8; 4] = file[start + 4..start + 8].try_into().expect("four bytes");
            let length = usize::try_from(u32::from_le_bytes(length)).expect("fits");
            start..start + 8 + length + length % 2
        }
    }
}

#[test]
fn a_signed_file_of_every_kind_is_verified_by_the_coalitions_reader() {
    let (maker, signer) = maker();
    for format in FORMATS {
        let file = file(format, [1, 2, 3]);
        assert_eq!(read_manifest(&file, None).expect("sound"), None);
        let signed = signer.sign(&file, "a tool", "1.2").expect("a sound file");
        assert_eq!(picture(&signed), picture(&file), "pixels stay");
        assert_eq!(read_origin(&signed), Ok(Some(Origin::trained("a tool"))));

        let context = Context::new()
            .with_settings(serde_json::json!({ "verify": { "remote_manifest_fetch": false } }))
            .expect("settings");
        let reader = Reader::from_context(context)
            .with_stream(media_type(format), Cursor::new(&signed))
            .expect("readable");
        assert_eq!(reader.validation_state(), ValidationState::Valid, "{format:?} {reader}");
        let problems: Vec<_> =
            reader.validation_status().unwrap_or_default().iter().map(|it| it.code()).collect();
        assert_eq!(problems, ["signingCredential.untrusted"], "nobody vouches for the root");

        let report: Value = serde_json::from_str(&reader.json()).expect("JSON");
        let manifest = &report["manifests"][reader.active_label().expect("a manifest")];
        let generator = &manifest["claim_generator_info"][0];
        assert_eq!(generator["name"], "a tool");
        assert_eq!(generator["version"], "1.2");
        let assertions = manifest["assertions"].as_array().expect("a list");
        let actions: Vec<_> = assertions
            .iter()
            .filter_map(|assertion| assertion["data"]["actions"].as_array())
            .flatten()
            .collect();
        assert_eq!(actions.len(), 1, "{actions:?}");
        assert_eq!(actions[0]["action"], "c2pa.created");
        assert_eq!(actions[0]["digitalSourceType"], TRAINED);

        let again = signer.sign(&signed, "a tool", "1.2");
        assert!(matches!(again, Err(ManifestError::AlreadySigned)), "{again:?}");
        let ours = read_manifest(&signed, Some(&maker.root)).expect("sound").expect("signed");
        assert_eq!(ours.standing, Standing::Trusted, "{ours:?}");
        assert_eq!(ours.problems, [""; 0]);
        assert_eq!(ours.issuer.as_deref(), Some("unclip tests"));
        assert_eq!(ours.tool.as_deref(), Some("a tool"));
        assert_eq!(ours.source_types, [TRAINED]);
        assert!(ours.is_generated(), "{ours:?}");
    }
}

#[test]
fn only_the_root_above_the_maker_vouches_for_it() {
    let (_, signer) = maker();
    let stranger = Maker::new(&PKCS_ECDSA_P256_SHA256);
    let signed = signer.sign(&file(ImageFormat::Png, [0; 3]), "a tool", "1").expect("sound");
    for roots in [None, Some(stranger.root.as_str())] {
        let manifest = read_manifest(&signed, roots).expect("readable").expect("signed");
        assert_eq!(manifest.standing, Standing::Sound, "{manifest:?}");
    }
}

#[test]
fn every_algorithm_signs() {
    for (kind, algorithm) in [
        (&PKCS_ECDSA_P256_SHA256, Algorithm::Es256),
        (&PKCS_ECDSA_P384_SHA384, Algorithm::Es384),
        (&PKCS_ED25519, Algorithm::Ed25519),
    ] {
        let maker = Maker::new(kind);
        let signer = maker.signer(algorithm).expect("a sound chain");
        let signed = signer.sign(&file(ImageFormat::Jpeg, [0; 3]), "x", "1").expect("sound");
        let manifest = read_manifest(&signed, Some(&maker.root)).expect("sound").expect("signed");
        assert_eq!(manifest.standing, Standing::Trusted, "{algorithm:?} {manifest:?}");
    }
}

#[test]
fn a_changed_pixel_breaks_the_seal() {
    let (maker, signer) = maker();
    for format in FORMATS {
        let signed = signer.sign(&file(format, [200, 10, 90]), "a tool", "1").expect("sound");
        let other = file(format, [10, 10, 90]);
        let mut changed = signed.clone();
        changed.splice(pixels(&signed, format), other[pixels(&other, format)].iter().copied());
        if format == ImageFormat::WebP {
            let length = u32::try_from(changed.len() - 8).expect("short");
            changed[4..8].copy_from_slice(&length.to_le_bytes());
        }
        assert!(picture(&changed).is_some(), "{format:?} decodes");
        assert_eq!(picture(&changed), picture(&other), "{format:?}: a sound file");
        let manifest = read_manifest(&changed, Some(&maker.root)).expect("sound").expect("signed");
        assert_eq!(manifest.standing, Standing::Broken, "{format:?}");
        let code = "assertion.dataHash.mismatch";
        assert!(manifest.problems.iter().any(|it| it == code), "{format:?} {manifest:?}");
    }
}

#[test]
fn missing_and_wrong_credentials_are_named() {
    let absent = ManifestSigner::open("no-such.pem", "no-such.key", Algorithm::Es256);
    let error = absent.expect_err("absent").to_string();
    assert_eq!(error, "cannot read the certificate chain from no-such.pem");

    let maker = Maker::new(&PKCS_ECDSA_P256_SHA256);
    let (chain, key) = (maker.chain.as_bytes(), maker.key.as_bytes());
    for (chain, key, expected) in [
        (&b""[..], key, "the certificate chain holds no `-----BEGIN CERTIFICATE-----`"),
        (chain, &b"secret"[..], "the private key holds no `-----BEGIN PRIVATE KEY-----`"),
        (chain, chain, "the private key holds no `-----BEGIN PRIVATE KEY-----`"),
    ] {
        let error = ManifestSigner::from_pem(chain, key, Algorithm::Es256);
        assert_eq!(error.expect_err("no credentials").to_string(), expected);
    }

    let stranger = Maker::new(&PKCS_ECDSA_P256_SHA256);
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let mail = ExtendedKeyUsagePurpose::EmailProtection;
    let refused = [
        ("another algorithm", maker.signer(Algorithm::Ed25519)),
        (
            "a stranger's key",
            ManifestSigner::from_pem(chain, stranger.key.as_bytes(), Algorithm::Es256),
        ),
        (
            "for servers",
            Maker::until(2100, &PKCS_ECDSA_P256_SHA256, server).signer(Algorithm::Es256),
        ),
        ("out of date", Maker::until(2021, &PKCS_ECDSA_P256_SHA256, mail).signer(Algorithm::Es256)),
        ("a cut chain", ManifestSigner::from_pem(&chain[..chain.len() / 2], key, Algorithm::Es256)),
    ];
    for (what, result) in refused {
        assert!(matches!(result, Err(ManifestError::Credentials { .. })), "{what}: {result:?}");
    }
}

#[test]
fn roots_that_are_none_are_an_error() {
    let (_, signer) = maker();
    let signed = signer.sign(&file(ImageFormat::Png, [0; 3]), "a tool", "1").expect("sound");
    let read = read_manifest(&signed, Some("no certificate"));
    assert!(matches!(read, Err(ManifestError::Unreadable { .. })), "{read:?}");
}

#[test]
fn files_of_another_kind_and_damaged_ones_are_errors() {
    let (_, signer) = maker();
    for hostile in [&b"GIF89a"[..], b"", b"\x89PNG\r\n\x1A\n\0\0", b"RIFF\xFF\xFF\xFF\xFFWEBP"] {
        let signed = signer.sign(hostile, "a tool", "1");
        assert!(matches!(signed, Err(ManifestError::File(_))), "{hostile:?}: {signed:?}");
        let read = read_manifest(hostile, None);
        assert!(matches!(read, Err(ManifestError::File(_))), "{hostile:?}: {read:?}");
    }
}

/// What a hostile file is read as: an error, or a manifest that is broken or still says what was signed.
fn survives(hostile: &[u8], signed: &[u8], root: &str, what: &str) {
    match read_manifest(hostile, Some(root)) {
        Ok(Some(manifest)) if manifest.standing > Standing::Broken => {
            let honest = read_manifest(signed, Some(root)).expect("sound").expect("signed");
            assert_eq!(manifest.source_types, honest.source_types, "{what}");
            assert_eq!(manifest.tool, honest.tool, "{what}");
            if let Some(shown) = picture(hostile) {
                assert_eq!(Some(shown), picture(signed), "{what}");
            }
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().contains("panicked"), "{what}: {error}"),
    }
}

#[test]
fn damaged_files_are_errors_or_broken_and_never_a_panic() {
    let (maker, signer) = maker();
    for format in FORMATS {
        let signed = signer.sign(&file(format, [0; 3]), "a tool", "1").expect("sound");
        for cut in (0..signed.len()).step_by(131) {
            survives(&signed[..cut], &signed, &maker.root, &format!("{format:?} cut at {cut}"));
        }
        for at in (0..signed.len()).step_by(37) {
            for change in [0x01, 0xFF] {
                let mut hostile = signed.clone();
                hostile[at] ^= change;
                let what = format!("{format:?}, byte {at} ^ {change:#x}");
                survives(&hostile, &signed, &maker.root, &what);
            }
        }
    }
}

/// A PNG file's manifest chunk can be framed well and hold anything.
#[test]
fn hostile_manifests_in_sound_chunks_are_errors_or_broken_and_never_a_panic() {
    let (maker, signer) = maker();
    let signed = signer.sign(&file(ImageFormat::Png, [0; 3]), "a tool", "1").expect("sound");
    let start = find(&signed, b"caBX", 0) - 4;
    let length: [u8; 4] = signed[start..start + 4].try_into().expect("four bytes");
    let end = start + 12 + usize::try_from(u32::from_be_bytes(length)).expect("fits");
    let block = &signed[start + 8..end - 4];
    let with_block = |block: &[u8]| {
        let length = u32::try_from(block.len()).expect("short").to_be_bytes();
        let body = [&b"caBX"[..], block].concat();
        let sum = crc32fast::hash(&body).to_be_bytes();
        [&signed[..start], &length, &body, &sum, &signed[end..]].concat()
    };
    assert_eq!(with_block(block), signed);
    for cut in (0..block.len()).step_by(61) {
        let what = format!("block cut at {cut}");
        survives(&with_block(&block[..cut]), &signed, &maker.root, &what);
    }
    for at in (0..block.len()).step_by(7) {
        for change in [0x01, 0x40, 0xFF] {
            let mut hostile = block.to_vec();
            hostile[at] ^= change;
            let what = format!("block's byte {at} ^ {change:#x}");
            survives(&with_block(&hostile), &signed, &maker.root, &what);
        }
    }
    for (what, block) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("a box of four gigabytes", [&[0xFF; 4][..], b"jumb"].concat()),
        ("a box of length 1", b"\0\0\0\x01jumb\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF".to_vec()),
        ("boxes in boxes", b"\0\x01\0\0jumb".repeat(20_000)),
    ] {
        survives(&with_block(&block), &signed, &maker.root, what);
    }
}
