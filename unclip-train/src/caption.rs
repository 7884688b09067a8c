//! What a picture is called this time.

use crate::draws::Draws;

/// One of `captions`, with each word left out at `word_dropout`, though never all of them; empty where there are none.
pub(crate) fn choose(captions: &[String], word_dropout: f64, draws: &mut Draws) -> String {
    if captions.is_empty() {
        return String::new();
    }
    let caption = &captions[draws.below(captions.len())];
    let words: Vec<&str> = caption.split_whitespace().collect();
    let kept: Vec<&str> = words.iter().copied().filter(|_| !draws.chance(word_dropout)).collect();
    if kept.is_empty() { words.join(" ") } else { kept.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Purpose;

    #[test]
    fn every_caption_comes_up_and_words_are_left_out_but_never_all() {
        let captions = ["a red  fox".to_owned(), "fox".to_owned()];
        let mut seen: Vec<String> = (0..200)
            .map(|i| choose(&captions, 0.3, &mut Draws::new(0, Purpose::Caption, 0, i)))
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["a", "a fox", "a red", "a red fox", "fox", "red", "red fox"]);
        assert_eq!(choose(&[], 0.0, &mut Draws::new(0, Purpose::Caption, 0, 0)), "");
    }
}
