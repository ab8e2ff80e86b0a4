//! IF-Eval (Zhou et al., 2023): instructions whose following a rule can check.
//!
//! Two rules depend on trained models in the published program, and on others here: languages are told by the crate
//! `whatlang` instead of langdetect, and sentences end by a rule of punctuation and capitals instead of NLTK's Punkt.

use std::{path::Path, sync::LazyLock};

use leanburn_core::{Error, Result};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::read_lines;

/// A prompt with its instructions, as the published file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The text.
    pub prompt: String,
    /// The kinds of its instructions: `punctuation:no_comma`.
    pub instruction_id_list: Vec<String>,
    /// The settings of each; what is `null` counts as absent.
    pub kwargs: Vec<Map<String, Value>>,
}

impl Prompt {
    /// Its instructions.
    ///
    /// # Errors
    ///
    /// When there are not as many settings, an instruction is of no known kind, or lacks a setting.
    pub fn instructions(&self) -> Result<Vec<Instruction>> {
        let Self { instruction_id_list: kinds, kwargs, .. } = self;
        if kinds.len() != kwargs.len() {
            let expected = format!("settings of {} instructions", kinds.len());
            return Err(Error::data("prompt", expected, kwargs.len()));
        }
        kinds.iter().zip(kwargs).map(|(kind, settings)| Instruction::new(kind, settings)).collect()
    }
}

/// Reads prompts from a `.jsonl` file.
///
/// # Errors
///
/// When the file cannot be read, or a line is no prompt.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Prompt>> {
    read_lines(path.as_ref(), "an object with `prompt`, `instruction_id_list` and `kwargs`")
}

/// The shares of prompts and of instructions that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Followed {
    /// Of prompts all of whose instructions are followed.
    pub prompt_strict: f64,
    /// Of instructions.
    pub instruction_strict: f64,
    /// Of prompts, when the response may be stripped of a first and a last line and of asterisks.
    pub prompt_loose: f64,
    /// Of instructions, when it may: the primary measure of the published evaluation.
    pub instruction_loose: f64,
}

/// Checks responses.
///
/// # Errors
///
/// When there is no prompt, there are not as many responses, an instruction is of no known kind, or lacks a setting.
pub fn evaluate(prompts: &[Prompt], responses: &[String]) -> Result<Followed> {
    if prompts.is_empty() || prompts.len() != responses.len() {
        let expected = format!("those of {} prompts, at least one", prompts.len());
        return Err(Error::data("responses", expected, responses.len()));
    }
    let mut instructions = 0;
    let (mut whole, mut single) = ([0_usize; 2], [0_usize; 2]);
    for (prompt, response) in prompts.iter().zip(responses) {
        let mut all = [true; 2];
        for instruction in prompt.instructions()? {
            let followed = [instruction.is_followed(response), instruction.is_followed_loosely(response)];
            for place in 0..2 {
                single[place] += usize::from(followed[place]);
                all[place] &= followed[place];
            }
        }
        instructions += prompt.kwargs.len();
        for place in 0..2 {
            whole[place] += usize::from(all[place]);
        }
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    Ok(Followed {
        prompt_strict: share(whole[0], prompts.len()),
        instruction_strict: share(single[0], instructions),
        prompt_loose: share(whole[1], prompts.len()),
        instruction_loose: share(single[1], instructions),
    })
}

/// How a count is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    LessThan,
    AtLeast,
}

impl Relation {
    fn holds(self, count: usize, bound: usize) -> bool {
        match self {
            Self::LessThan => count < bound,
            Self::AtLeast => count >= bound,
        }
    }
}

/// An instruction with its settings.
#[derive(Debug, Clone)]
pub struct Instruction(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Existence { keywords: Vec<Regex> },
    Frequency { keyword: Regex, bound: usize, relation: Relation },
    Forbidden { words: Vec<Regex> },
    LetterFrequency { letter: char, bound: usize, relation: Relation },
    Language { code: String },
    Sentences { bound: usize, relation: Relation },
    Paragraphs { count: usize },
    Words { bound: usize, relation: Relation },
    FirstWord { paragraphs: usize, nth: usize, word: String },
    Placeholders { count: usize },
    Postscript { marker: Regex },
    BulletLists { count: usize },
    Constrained,
    Highlights { count: usize },
    Sections { splitter: Regex, count: usize },
    Json,
    Title,
    TwoResponses,
    RepeatPrompt { prompt: String },
    End { phrase: String },
    Quotation,
    CapitalWords { bound: usize, relation: Relation },
    Uppercase,
    Lowercase,
    NoComma,
}

/// The settings of an instruction, with its kind for errors.
struct Settings<'a> {
    kind: &'a str,
    values: &'a Map<String, Value>,
}

impl Settings<'_> {
    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        Error::data(format!("instruction `{}`, `{key}`", self.kind), expected, found)
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.values.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a text"))
    }

    fn count(&self, key: &str) -> Result<usize> {
        // Files written by pandas hold whole numbers as floats.
        let value = self.values.get(key).and_then(Value::as_f64).filter(|value| *value >= 0.0);
        value.map(|value| value as usize).ok_or_else(|| self.wrong(key, "a whole number"))
    }

    fn relation(&self, key: &str) -> Result<Relation> {
        match self.text(key)? {
            "less than" => Ok(Relation::LessThan),
            "at least" => Ok(Relation::AtLeast),
            _ => Err(self.wrong(key, "`less than` or `at least`")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.values.get(key).and_then(Value::as_array);
        let texts = list.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        texts.ok_or_else(|| self.wrong(key, "a list of texts"))
    }
}

/// A pattern of users' words, regardless of case; the words as they are where they are no pattern.
fn pattern(words: &str, around: impl Fn(&str) -> String) -> Regex {
    let build =
        |words: &str| RegexBuilder::new(&around(words)).case_insensitive(true).multi_line(true).build();
    build(words).or_else(|_| build(&regex::escape(words))).expect("escaped words are a pattern")
}

impl Instruction {
    /// An instruction of a published kind.
    ///
    /// # Errors
    ///
    /// When there is no such kind, or it lacks a setting.
    pub fn new(kind: &str, settings: &Map<String, Value>) -> Result<Self> {
        let settings = Settings { kind, values: settings };
        let bound = |key: &str, relation: &str| -> Result<(usize, Relation)> {
            Ok((settings.count(key)?, settings.relation(relation)?))
        };
        let plain = |words: &str| pattern(words, str::to_owned);
        Ok(Self(match kind {
            "keywords:existence" => {
                Rule::Existence { keywords: settings.texts("keywords")?.into_iter().map(plain).collect() }
            }
            "keywords:frequency" => {
                let (bound, relation) = bound("frequency", "relation")?;
                Rule::Frequency { keyword: plain(settings.text("keyword")?), bound, relation }
            }
            "keywords:forbidden_words" => {
                let word = |word| pattern(word, |word| format!(r"\b{word}\b"));
                Rule::Forbidden { words: settings.texts("forbidden_words")?.into_iter().map(word).collect() }
            }
            "keywords:letter_frequency" => {
                let (bound, relation) = bound("let_frequency", "let_relation")?;
                let letter = settings.text("letter")?.to_lowercase().chars().next();
                let letter = letter.ok_or_else(|| settings.wrong("letter", "a letter"))?;
                Rule::LetterFrequency { letter, bound, relation }
            }
            "language:response_language" => {
                Rule::Language { code: settings.text("language")?.to_lowercase() }
            }
            "length_constraints:number_sentences" => {
                let (bound, relation) = bound("num_sentences", "relation")?;
                Rule::Sentences { bound, relation }
            }
            "length_constraints:number_paragraphs" => {
                Rule::Paragraphs { count: settings.count("num_paragraphs")? }
            }
            "length_constraints:number_words" => {
                let (bound, relation) = bound("num_words", "relation")?;
                Rule::Words { bound, relation }
            }
            "length_constraints:nth_paragraph_first_word" => Rule::FirstWord {
                paragraphs: settings.count("num_paragraphs")?,
                nth: settings.count("nth_paragraph")?,
                word: settings.text("first_word")?.to_lowercase(),
            },
            "detectable_content:number_placeholders" => {
                Rule::Placeholders { count: settings.count("num_placeholders")? }
            }
            "detectable_content:postscript" => Rule::Postscript {
                marker: match settings.text("postscript_marker")? {
                    "P.P.S" => plain(r"\s*p\.\s?p\.\s?s.*$"),
                    "P.S." => plain(r"\s*p\.\s?s\..*$"),
                    marker => pattern(marker, |marker| format!(r"\s*{}.*$", marker.to_lowercase())),
                },
            },
            "detectable_format:number_bullet_lists" => {
                Rule::BulletLists { count: settings.count("num_bullets")? }
            }
            "detectable_format:constrained_response" => Rule::Constrained,
            "detectable_format:number_highlighted_sections" => {
                Rule::Highlights { count: settings.count("num_highlights")? }
            }
            "detectable_format:multiple_sections" => {
                let splitter = settings.text("section_spliter")?;
                let around = |splitter: &str| format!(r"(?-i)\s?{splitter}\s?\d+\s?");
                Rule::Sections { splitter: pattern(splitter, around), count: settings.count("num_sections")? }
            }
            "detectable_format:json_format" => Rule::Json,
            "detectable_format:title" => Rule::Title,
            "combination:two_responses" => Rule::TwoResponses,
            "combination:repeat_prompt" => {
                Rule::RepeatPrompt { prompt: settings.text("prompt_to_repeat")?.trim().to_lowercase() }
            }
            "startend:end_checker" => {
                Rule::End { phrase: settings.text("end_phrase")?.trim().to_lowercase() }
            }
            "startend:quotation" => Rule::Quotation,
            "change_case:capital_word_frequency" => {
                let (bound, relation) = bound("capital_frequency", "capital_relation")?;
                Rule::CapitalWords { bound, relation }
            }
            "change_case:english_capital" => Rule::Uppercase,
            "change_case:english_lowercase" => Rule::Lowercase,
            "punctuation:no_comma" => Rule::NoComma,
            other => {
                return Err(Error::data("instruction", "one of IF-Eval's 25 kinds", format!("`{other}`")));
            }
        }))
    }

    /// Whether a response follows the instruction; an empty one follows none.
    pub fn is_followed(&self, response: &str) -> bool {
        !response.trim().is_empty() && self.0.holds(response)
    }

    /// Whether it does, or does without its first line, its last line or both, or without asterisks.
    pub fn is_followed_loosely(&self, response: &str) -> bool {
        let lines: Vec<&str> = response.split('\n').collect();
        let (first, last) = (usize::from(!lines.is_empty()), lines.len().saturating_sub(1));
        let cuts = [&lines[..], &lines[first..], &lines[..last], lines.get(first..last).unwrap_or_default()];
        cuts.iter().any(|lines| {
            let text = lines.join("\n");
            // Python strips what is left of the cut ones, and not the whole.
            let text = if lines.len() == last + 1 { text } else { text.trim().to_owned() };
            self.is_followed(&text) || self.is_followed(&text.replace('*', ""))
        })
    }
}

/// A pattern of the rules.
macro_rules! regex {
    ($pattern:literal) => {{
        static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("it is a pattern"));
        &*PATTERN
    }};
}

impl Rule {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Existence { keywords } => keywords.iter().all(|keyword| keyword.is_match(text)),
            Self::Frequency { keyword, bound, relation } => {
                relation.holds(keyword.find_iter(text).count(), *bound)
            }
            Self::Forbidden { words } => !words.iter().any(|word| word.is_match(text)),
            Self::LetterFrequency { letter, bound, relation } => {
                let count = text.to_lowercase().chars().filter(|found| found == letter).count();
                relation.holds(count, *bound)
            }
            Self::Language { code } => speaks(text, code),
            Self::Sentences { bound, relation } => relation.holds(sentences(text), *bound),
            Self::Paragraphs { count } => {
                paragraphs(regex!(r"\s?\*\*\*\s?").split(text)).is_some_and(|found| found == *count)
            }
            Self::Words { bound, relation } => relation.holds(regex!(r"\w+").find_iter(text).count(), *bound),
            Self::FirstWord { paragraphs, nth, word } => has_first_word(text, *paragraphs, *nth, word),
            Self::Placeholders { count } => regex!(r"\[.*?\]").find_iter(text).count() >= *count,
            Self::Postscript { marker } => marker.is_match(&text.to_lowercase()),
            Self::BulletLists { count } => {
                let stars = regex!(r"(?m)^\s*\*[^\*].*$").find_iter(text).count();
                stars + regex!(r"(?m)^\s*-.*$").find_iter(text).count() == *count
            }
            Self::Constrained => ["My answer is yes.", "My answer is no.", "My answer is maybe."]
                .iter()
                .any(|answer| text.contains(answer)),
            Self::Highlights { count } => {
                let inner = |text: &str, mark: &str| {
                    let text = text.strip_prefix(mark).unwrap_or(text);
                    text.strip_suffix(mark).unwrap_or(text).trim().to_owned()
                };
                let single = regex!(r"\*[^\n\*]*\*").find_iter(text);
                let single = single.filter(|found| !found.as_str().trim_matches('*').trim().is_empty());
                let double = regex!(r"\*\*[^\n\*]*\*\*").find_iter(text);
                let double = double.filter(|found| !inner(found.as_str(), "**").is_empty());
                single.count() + double.count() >= *count
            }
            Self::Sections { splitter, count } => splitter.find_iter(text).count() >= *count,
            Self::Json => is_json(text),
            Self::Title => regex!(r"<<[^\n]+>>")
                .find_iter(text)
                .any(|title| !title.as_str().trim_start_matches('<').trim_end_matches('>').trim().is_empty()),
            Self::TwoResponses => {
                let parts: Vec<&str> = text.split("******").collect();
                let last = parts.len() - 1;
                let inner_empty = (1..last).any(|place| parts[place].trim().is_empty());
                let filled: Vec<&str> =
                    parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
                !inner_empty && matches!(filled[..], [first, second] if first != second)
            }
            Self::RepeatPrompt { prompt } => text.trim().to_lowercase().starts_with(prompt),
            Self::End { phrase } => text.trim().trim_matches('"').to_lowercase().ends_with(phrase),
            Self::Quotation => {
                let text = text.trim();
                text.chars().count() > 1 && text.starts_with('"') && text.ends_with('"')
            }
            Self::CapitalWords { bound, relation } => {
                relation.holds(words(text).filter(|word| is_upper(word)).count(), *bound)
            }
            Self::Uppercase => is_upper(text) && speaks(text, "en"),
            Self::Lowercase => is_lower(text) && speaks(text, "en"),
            Self::NoComma => !text.contains(','),
        }
    }
}

/// How many paragraphs parts are, the first and the last of which may be empty; `None` where another one is.
fn paragraphs<'a>(parts: impl Iterator<Item = &'a str>) -> Option<usize> {
    let parts: Vec<&str> = parts.collect();
    let last = parts.len() - 1;
    let empty = |place: &usize| parts[*place].trim().is_empty();
    if (1..last).any(|place| empty(&place)) {
        return None;
    }
    let ends = if last == 0 { vec![0] } else { vec![0, last] };
    Some(parts.len() - ends.into_iter().filter(empty).count())
}

fn has_first_word(text: &str, paragraphs: usize, nth: usize, word: &str) -> bool {
    let parts: Vec<&str> = text.split("\n\n").collect();
    let filled = parts.iter().filter(|part| !part.trim().is_empty()).count();
    let paragraph = nth.checked_sub(1).filter(|_| nth <= filled).and_then(|place| parts.get(place));
    let Some(first) = paragraph.and_then(|paragraph| paragraph.split_whitespace().next()) else {
        return false;
    };
    let first = first.trim_start_matches('\'').trim_start_matches('"');
    let first = first.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
    filled == paragraphs && first.to_lowercase() == word
}

fn is_json(text: &str) -> bool {
    let mut text = text.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    serde_json::from_str::<Value>(text).is_ok()
}

/// As Python's `isupper`: there is a letter with case, and none is lower.
fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Words as NLTK cuts them: without the punctuation around them, and with contractions apart.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let bare = text.split_whitespace().map(|word| {
        // A full stop within letters belongs to them: `U.S.` keeps its last as well.
        let abbreviation = regex!(r"^\W*((?:\p{L}\.){2,})\W*$").captures(word);
        let inner = abbreviation.and_then(|found| found.get(1)).map(|found| found.as_str());
        inner.unwrap_or_else(|| word.trim_matches(|c: char| !c.is_alphanumeric()))
    });
    bare.flat_map(|word| {
        let contraction = regex!(r"(?i)(n't|'s|'m|'d|'ll|'re|'ve)$").find(word);
        let cut = contraction.map_or(word.len(), |found| found.start());
        [&word[..cut], &word[cut..]].into_iter().filter(|part| !part.is_empty())
    })
}

/// Abbreviations whose full stop ends no sentence.
const ABBREVIATIONS: [&str; 20] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "inc", "ltd", "co", "no",
    "fig", "approx", "gen", "rev",
];

/// How many sentences a text has: they end with a full stop, a question or an exclamation mark, and what closes it, where a
/// capital, a number or an opening sign follows, or nothing.
fn sentences(text: &str) -> usize {
    let mut count = 0;
    let mut start = 0;
    for end in regex!(r#"[.?!]+["'”’)\]]*(\s+|$)"#).find_iter(text) {
        let rest = &text[end.end()..];
        let before = text[start..end.start()].split_whitespace().next_back().unwrap_or_default();
        let before = before.trim_start_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let stop = end.as_str().starts_with('.');
        let initial = before.chars().count() == 1 && before.chars().all(char::is_alphabetic) && before != "i";
        let abbreviation = stop && (ABBREVIATIONS.contains(&&before[..]) || initial);
        let begins = rest.chars().next().is_none_or(|next| !next.is_lowercase());
        if begins && (!abbreviation || rest.is_empty()) {
            count += 1;
            start = end.end();
        }
    }
    count + usize::from(!text[start..].trim().is_empty())
}

/// Whether a text is in a language of an ISO 639-1 code; texts that none can be told of, such as short ones, pass.
fn speaks(text: &str, code: &str) -> bool {
    use whatlang::Lang;
    let Some(found) = whatlang::detect(text).filter(whatlang::Info::is_reliable) else { return true };
    let found = match found.lang() {
        Lang::Eng => "en",
        Lang::Rus => "ru",
        Lang::Cmn => "zh",
        Lang::Spa => "es",
        Lang::Por => "pt",
        Lang::Ita => "it",
        Lang::Ben => "bn",
        Lang::Fra => "fr",
        Lang::Deu => "de",
        Lang::Ukr => "uk",
        Lang::Ara => "ar",
        Lang::Hin => "hi",
        Lang::Jpn => "ja",
        Lang::Heb => "he",
        Lang::Pol => "pl",
        Lang::Nld => "nl",
        Lang::Tur => "tr",
        Lang::Swe => "sv",
        Lang::Kor => "ko",
        Lang::Fin => "fi",
        Lang::Vie => "vi",
        Lang::Pes => "fa",
        Lang::Tha => "th",
        Lang::Guj => "gu",
        Lang::Kan => "kn",
        Lang::Mar => "mr",
        Lang::Pan => "pa",
        Lang::Tel => "te",
        Lang::Tam => "ta",
        Lang::Urd => "ur",
        Lang::Nep => "ne",
        Lang::Bul => "bg",
        other => other.code(),
    };
    // Codes of regions (`zh-cn`) name their language first.
    code.split('-').next() == Some(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instruction(kind: &str, settings: &Value) -> Instruction {
        Instruction::new(kind, settings.as_object().unwrap()).unwrap()
    }

    #[test]
    fn sentences_words_and_languages_are_counted() {
        for (text, count) in [
            ("One. Two! Three?", 3),
            ("Dr. Smith came at 3.5 p.m. today. He left.", 2),
            ("\"Is it so?\" he asked. Yes", 2),
            ("No end", 1),
            ("Wait... what? It cost $3.50.", 2),
        ] {
            assert_eq!(sentences(text), count, "{text}");
        }
        let capitals = |text: &str| words(text).filter(|word| is_upper(word)).count();
        assert_eq!(capitals("The U.S. and NATO, (UN) I said: STATE-OF-THE-ART!"), 5);
        assert_eq!(capitals("DON'T stop"), 2);
        let german = "Das ist ein deutscher Satz, und er ist lang genug, um ihn zu erkennen.";
        let language = |code: &str| instruction("language:response_language", &json!({ "language": code }));
        assert!(language("de").is_followed(german) && !language("en").is_followed(german));
        let at_least = json!({ "num_sentences": 2.0, "relation": "at least" });
        let two = instruction("length_constraints:number_sentences", &at_least);
        assert!(two.is_followed("A first one. A second one.") && !two.is_followed("Just one."));
        let few = json!({ "capital_frequency": 2, "capital_relation": "less than" });
        let few = instruction("change_case:capital_word_frequency", &few);
        assert!(few.is_followed("ONE here") && !few.is_followed("ONE and TWO"));
    }

    #[test]
    fn shares_are_those_of_prompts_and_of_instructions() {
        let prompt = Prompt {
            prompt: String::new(),
            instruction_id_list: vec!["punctuation:no_comma".to_owned(), "startend:quotation".to_owned()],
            kwargs: vec![Map::new(), Map::new()],
        };
        let responses = ["\"yes\"".to_owned(), "no, never".to_owned()];
        let found = evaluate(&[prompt.clone(), prompt.clone()], &responses).unwrap();
        assert_eq!((found.prompt_strict, found.instruction_strict), (0.5, 0.5));
        assert!(evaluate(std::slice::from_ref(&prompt), &responses).is_err());
        assert!(
            Instruction::new("keywords:nothing", &Map::new()).unwrap_err().to_string().contains("nothing")
        );
        let missing = Instruction::new("keywords:frequency", &Map::new()).unwrap_err().to_string();
        assert!(missing.contains("frequency"), "{missing}");
        let literal = instruction("keywords:existence", &json!({ "keywords": ["C++ ("] }));
        assert!(literal.is_followed("I like c++ (a lot"));
    }
}
