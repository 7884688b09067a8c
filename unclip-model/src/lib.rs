//! The default model of unclip, as part of the program.
//!
//! It paints icons of what a few words say, at 64, 256 and 1024 pixels, and was trained by `unclip-train` from openly
//! licensed icon sets; `MODEL_CARD.md` says from which, how, and how good it is. In `model` lies a directory as diffusers
//! lays it out, with weights of 16 bits; [`folder`] gives its files from wherever the program runs.

use unclip_core::checkpoint::Folder;

/// Names, with `/` between segments, and bytes.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The model directory; errors call it `unclip-model`.
///
/// ```
/// use unclip_core::checkpoint::ModelDir;
///
/// let model = ModelDir::open(unclip_model::folder())?;
/// assert!(model.has("decoder"));
/// # Ok::<(), unclip_core::Error>(())
/// ```
pub fn folder() -> Folder {
    Folder::embedded("unclip-model", FILES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that a checkout and a program with it stay light.
    const MOST_BYTES: usize = 32 << 20;

    #[test]
    fn the_model_is_small_and_whole() {
        let size: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size <= MOST_BYTES, "{size} bytes");
        for part in ["text_encoder", "tokenizer", "image_encoder", "prior", "text_proj", "decoder"]
        {
            assert!(folder().join(part).exists(), "{part}");
        }
    }

    #[test]
    fn weights_are_of_16_bits() {
        let (mut weights, mut parameters) = (0, 0);
        for (name, bytes) in FILES.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            let (part, file) = name.rsplit_once('/').expect("in a part's folder");
            let stem = file.trim_end_matches(".safetensors");
            let opened = unclip_core::checkpoint::Weights::open(folder().join(part), stem, None);
            let opened = opened.expect("weights");
            weights += bytes.len();
            for tensor in opened.names() {
                let info = opened.info(tensor).expect("is listed");
                parameters += info.shape.iter().product::<usize>();
            }
        }
        // The rest is headers.
        assert!(weights < 2 * parameters + (1 << 20), "{weights} bytes of {parameters}");
    }
}
