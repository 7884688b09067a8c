//! What a file says of its origin under a signature: a manifest of the Coalition for Content Provenance and Authenticity
//! (C2PA), written and read by the coalition's own crate.

use std::{
    fmt, fs, io,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use c2pa::{
    Builder, BuilderIntent, ClaimGeneratorInfo, Context, DigitalSourceType, Reader, SigningAlg,
    ValidationState, create_signer,
};
use serde_json::{Value, json};

use super::{Container, Origin, ProvenanceError, carries_manifest};

/// The longest file that is handed to the reader.
const MAX_FILE: usize = 256 << 20;

/// A picture of one pixel, for the trial of a signer.
const PIXEL: &[u8] = b"\x89PNG\r\n\x1A\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9BU\x00\x00\x00\n\
    IDATx\xDAc`\x00\x00\x00\x02\x00\x01\xE5'\xDE\xFC\x00\x00\x00\x00IEND\xAEB`\x82";

/// A file's manifest could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file's structure is damaged, or it is of another kind.
    #[error(transparent)]
    File(#[from] ProvenanceError),
    /// A certificate or a key could not be read.
    #[error("cannot read the {what} from {}", path.display())]
    Io {
        /// Which of the two: `certificate chain`, `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What should be a certificate chain or a private key is none, in PEM.
    #[error("the {what} holds no `{expected}`")]
    NotPem {
        /// Which of the two: `certificate chain`, `private key`.
        what: &'static str,
        /// The line that was looked for.
        expected: &'static str,
    },
    /// Certificates and key cannot sign: they do not belong together, are of another algorithm or not allowed to sign.
    #[error("cannot sign with this certificate chain and private key: {reason}")]
    Credentials {
        /// What the crate says.
        reason: String,
    },
    /// The file could not be signed.
    #[error("the file cannot be signed: {reason}")]
    NotSigned {
        /// What the crate says.
        reason: String,
    },
    /// The file has a manifest already; another would have to tell its history.
    #[error("the file is signed already")]
    AlreadySigned,
    /// The file is longer than is read.
    #[error("the file has {found} bytes, expected at most {MAX_FILE}")]
    TooLong {
        /// Bytes of the file.
        found: usize,
    },
    /// The manifest cannot be read.
    #[error("the file's manifest cannot be read: {reason}")]
    Unreadable {
        /// What the crate says.
        reason: String,
    },
}

/// What a [`ManifestSigner`] signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Edwards curve 25519.
    Ed25519,
}

/// Signs finished files with a maker's certificate, so that others can tell who says that a model made them.
///
/// A manifest binds to the bytes of the file: sign last. No server is asked for the time.
///
/// ```no_run
/// use unclip_safety::provenance::{Algorithm, ManifestSigner, read_manifest};
///
/// let signer = ManifestSigner::open("maker.pem", "maker.key", Algorithm::Es256)?;
/// let signed = signer.sign(&std::fs::read("picture.png")?, "my program", "1.0")?;
/// let manifest = read_manifest(&signed, None)?.expect("just signed");
/// assert!(manifest.is_generated());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ManifestSigner {
    signer: c2pa::BoxedSigner,
}

impl fmt::Debug for ManifestSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestSigner").field("algorithm", &self.signer.alg()).finish()
    }
}

impl ManifestSigner {
    /// Reads `chain`, the signing certificate and those above it but the root, and `key`, its private key as PKCS #8; both
    /// in PEM.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Io`] when a file cannot be read, and as [`from_pem`](Self::from_pem).
    pub fn open(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        algorithm: Algorithm,
    ) -> Result<Self, ManifestError> {
        let read = |what, path: &Path| {
            fs::read(path).map_err(|source| ManifestError::Io { what, path: path.into(), source })
        };
        let chain = read("certificate chain", chain.as_ref())?;
        Self::from_pem(&chain, &read("private key", key.as_ref())?, algorithm)
    }

    /// As [`open`](Self::open), from the files' text.
    ///
    /// # Errors
    ///
    /// [`ManifestError::NotPem`] and [`ManifestError::Credentials`].
    pub fn from_pem(chain: &[u8], key: &[u8], algorithm: Algorithm) -> Result<Self, ManifestError> {
        for (what, text, expected) in [
            ("certificate chain", chain, "-----BEGIN CERTIFICATE-----"),
            ("private key", key, "-----BEGIN PRIVATE KEY-----"),
        ] {
            if !text.windows(expected.len()).any(|part| part == expected.as_bytes()) {
                return Err(ManifestError::NotPem { what, expected });
            }
        }
        let algorithm = match algorithm {
            Algorithm::Es256 => SigningAlg::Es256,
            Algorithm::Es384 => SigningAlg::Es384,
            Algorithm::Ed25519 => SigningAlg::Ed25519,
        };
        let refused = |reason| ManifestError::Credentials { reason };
        let signer = guarded(|| create_signer::from_keys(chain, key, algorithm, None));
        let signer = Self { signer: signer.map_err(refused)? };
        // Whether the certificate may sign, and is the key's, shows only in what was signed.
        let signed = signer.signed(PIXEL, Container::Png, "trial", "0").map_err(refused)?;
        match read_manifest(&signed, None)? {
            Some(manifest) if manifest.standing >= Standing::Sound => Ok(signer),
            trial => Err(refused(trial.map_or_else(String::new, |it| it.problems.join(", ")))),
        }
    }

    /// The PNG, JPEG or WebP `file` with a manifest that says that a trained model made it, in version `version` of the
    /// program `tool`. Pixels and XMP stay as they are.
    ///
    /// # Errors
    ///
    /// [`ManifestError::File`] when the file is of another kind or damaged, [`ManifestError::TooLong`] beyond 256 MiB,
    /// [`ManifestError::AlreadySigned`] when it has a manifest, and [`ManifestError::NotSigned`] when nothing can be put
    /// into it, or the certificate is out of date by now.
    pub fn sign(&self, file: &[u8], tool: &str, version: &str) -> Result<Vec<u8>, ManifestError> {
        let container = Container::of(file)?;
        if file.len() > MAX_FILE {
            return Err(ManifestError::TooLong { found: file.len() });
        }
        if carries_manifest(file)? {
            return Err(ManifestError::AlreadySigned);
        }
        self.signed(file, container, tool, version)
            .map_err(|reason| ManifestError::NotSigned { reason })
    }

    fn signed(
        &self,
        file: &[u8],
        container: Container,
        tool: &str,
        version: &str,
    ) -> Result<Vec<u8>, String> {
        guarded(|| {
            let mut builder = Builder::from_context(context(None)?);
            builder.set_intent(BuilderIntent::Create(DigitalSourceType::TrainedAlgorithmicMedia));
            let mut generator = ClaimGeneratorInfo::new(tool);
            generator.set_version(version);
            builder.set_claim_generator_info(generator);
            let mut signed = Cursor::new(Vec::new());
            let kind = media_type(container);
            builder.sign(&*self.signer, kind, &mut Cursor::new(file), &mut signed)?;
            Ok(signed.into_inner())
        })
    }
}

/// How far a manifest can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Standing {
    /// The file was changed after it was signed, or the signature is wrong.
    Broken,
    /// The file is as it was when it was signed, by somebody whom none of the given roots vouches for.
    Sound,
    /// As [`Sound`](Self::Sound), and one of the given roots vouches for the signer.
    Trusted,
}

/// What the active manifest of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// How far it can be believed; what else is here is only claimed.
    pub standing: Standing,
    /// What is wrong with it, in the codes of the standard.
    pub problems: Vec<String>,
    /// The organisation in the signing certificate.
    pub issuer: Option<String>,
    /// The program that made the claim.
    pub tool: Option<String>,
    /// The digital source types of its actions, as terms of IPTC.
    pub source_types: Vec<String>,
}

impl Manifest {
    /// Whether it says that a trained model made the picture or a part of it.
    pub fn is_generated(&self) -> bool {
        let generated =
            |term: &String| Origin { source_type: Some(term.clone()), tool: None }.is_generated();
        self.source_types.iter().any(generated)
    }
}

/// The manifest inside a PNG, JPEG or WebP file, verified; nothing when it has none. `roots` are the certificates, in PEM,
/// that may vouch for a signer; without any, nobody is [`Trusted`](Standing::Trusted). Nothing is fetched from a network.
///
/// # Errors
///
/// [`ManifestError::File`] when the file is of another kind or damaged, [`ManifestError::TooLong`] beyond 256 MiB, and
/// [`ManifestError::Unreadable`] when its manifest is damaged, or `roots` cannot be read.
pub fn read_manifest(file: &[u8], roots: Option<&str>) -> Result<Option<Manifest>, ManifestError> {
    let kind = media_type(Container::of(file)?);
    if file.len() > MAX_FILE {
        return Err(ManifestError::TooLong { found: file.len() });
    }
    if !carries_manifest(file)? {
        return Ok(None);
    }
    let manifest = guarded(|| {
        let reader = Reader::from_context(context(roots)?).with_stream(kind, Cursor::new(file))?;
        let problems = reader.validation_status().unwrap_or_default();
        let active = reader.active_manifest();
        let report: Value = serde_json::from_str(&reader.json())?;
        let label = reader.active_label().unwrap_or_default();
        let active_report = &report["manifests"][label];
        Ok(Manifest {
            standing: match reader.validation_state() {
                ValidationState::Trusted => Standing::Trusted,
                ValidationState::Valid => Standing::Sound,
                _ => Standing::Broken,
            },
            problems: problems.iter().map(|status| status.code().to_owned()).collect(),
            issuer: active.and_then(|manifest| manifest.issuer()),
            tool: active_report["claim_generator_info"][0]["name"].as_str().map(str::to_owned),
            source_types: source_types(active_report),
        })
    });
    manifest.map(Some).map_err(|reason| ManifestError::Unreadable { reason })
}

/// The source types of all actions of a manifest.
fn source_types(manifest: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    list(&manifest["assertions"])
        .iter()
        .flat_map(|assertion| list(&assertion["data"]["actions"]))
        .filter_map(|action| action["digitalSourceType"].as_str().map(str::to_owned))
        .collect()
}

fn media_type(container: Container) -> &'static str {
    match container {
        Container::Png => "image/png",
        Container::Jpeg => "image/jpeg",
        Container::WebP => "image/webp",
    }
}

/// The crate's settings: no network, and only the given roots.
fn context(roots: Option<&str>) -> c2pa::Result<Context> {
    Context::new().with_settings(json!({
        "verify": {
            "verify_after_sign": false,
            "verify_trust": roots.is_some(),
            "ocsp_fetch": false,
            "remote_manifest_fetch": false,
        },
        "trust": { "trust_anchors": roots },
    }))
}

/// Runs the crate's code, which parses what anybody may have written through many parsers of others: should one of them
/// panic, that is an error like any other.
///
/// The program's panic hook has run by then, and the standard one writes a line to stderr: a hook is the whole program's,
/// so a library leaves it alone.
fn guarded<T>(work: impl FnOnce() -> c2pa::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("its parser panicked".into()),
    }
}
