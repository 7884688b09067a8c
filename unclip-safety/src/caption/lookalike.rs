//! Letters that look like Latin ones.

use unicode_normalization::char::is_combining_mark;
use unicode_security::confusable_detection::skeleton;

/// Letters that Unicode's confusables leave out or give to no single Latin letter, by what they pass for in a word.
const MORE: &[(&str, char)] = &[
    ("αаɑᴀ🅐🅰", 'a'),
    ("βвьъßʙ🅑🅱", 'b'),
    ("сςᴄ🅒🅲", 'c'),
    ("ԁđðᴅ🅓🅳", 'd'),
    ("еєεəᴇ🅔🅴", 'e'),
    ("ғƒϝ🅕🅵", 'f'),
    ("ɢġ🅖🅶", 'g'),
    ("һнħʜ🅗🅷", 'h'),
    ("іıιɪ🅘🅸", 'i'),
    ("јᴊ🅙🅹", 'j'),
    ("кκᴋ🅚🅺", 'k'),
    ("ӏłʟ🅛🅻", 'l'),
    ("мᴍ🅜🅼", 'm'),
    ("ηпɴ🅝🅽", 'n'),
    ("оοøσөᴏ🅞🅾", 'o'),
    ("рρᴘ🅟🅿", 'p'),
    ("ԛ🅠🆀", 'q'),
    ("гʀя🅡🆁", 'r'),
    ("ѕꜱ🅢🆂", 's'),
    ("тτᴛ🅣🆃", 't'),
    ("υʋᴜцμ🅤🆄", 'u'),
    ("νᴠѵ🅥🆅", 'v'),
    ("ωшщѡᴡ🅦🆆", 'w'),
    ("хχ🅧🆇", 'x'),
    ("уγʏ🅨🆈", 'y'),
    ("ᴢʐ🅩🆉", 'z'),
];

/// The Latin letter that `letter`, which is not ASCII, passes for.
pub(super) fn latin(letter: char) -> Option<char> {
    if let Some((_, latin)) = MORE.iter().find(|(letters, _)| letters.contains(letter)) {
        return Some(*latin);
    }
    let mut bytes = [0; 4];
    let mut skeleton = skeleton(letter.encode_utf8(&mut bytes)).filter(|c| !is_combining_mark(*c));
    match (skeleton.next(), skeleton.next()) {
        (Some(one), None) if one.is_ascii_alphabetic() => Some(one.to_ascii_lowercase()),
        _ => None,
    }
}

/// Whether `c` shows nothing: it can stand within a word and leave it looking the same.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'
            | '\u{1160}'
            | '\u{17B4}'
            | '\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

/// The letter or letters that a character of `word` may stand for besides itself.
pub(super) fn substitutes(c: char) -> &'static str {
    match c {
        '0' => "o",
        '1' | '!' | '|' => "il",
        '2' => "z",
        '3' | '€' => "e",
        '4' | '@' => "a",
        '5' | '$' => "s",
        '6' => "gb",
        '7' | '+' => "t",
        '8' => "b",
        '9' => "g",
        '£' => "l",
        '¢' => "c",
        '*' => "aeiou",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookalikes_of_several_scripts_are_read_as_latin() {
        for (letter, expected) in
            [('а', 'a'), ('о', 'o'), ('υ', 'u'), ('ɴ', 'n'), ('ⅼ', 'l'), ('ѕ', 's')]
        {
            assert_eq!(latin(letter), Some(expected), "{letter}");
        }
        assert_eq!(latin('語'), None);
        assert_eq!(latin('ж'), None);
    }

    #[test]
    fn what_can_be_seen_is_not_invisible() {
        for c in "aд語 -'😀".chars() {
            assert!(!is_invisible(c), "{c}");
        }
        for c in ['\u{200B}', '\u{200D}', '\u{AD}', '\u{FE0F}', '\u{E0061}'] {
            assert!(is_invisible(c), "{}", c.escape_unicode());
        }
    }
}
