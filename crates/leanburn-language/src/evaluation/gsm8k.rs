//! GSM8K (Cobbe et al., 2021) as olmes runs it: eight examples with their chains of thought (Wei et al., 2022), greedy
//! continuation, and the last number of it.

use std::{path::Path, sync::LazyLock};

use leanburn_core::Result;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::read_lines;
use crate::generation::GenerationConfig;

/// A question and its worked answer, as the published files have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The question.
    pub question: String,
    /// The answer, with its number after `####`.
    pub answer: String,
}

/// Reads problems from a `.jsonl` file.
///
/// # Errors
///
/// When the file cannot be read, or a line is no problem.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Problem>> {
    read_lines(path.as_ref(), "an object with `question` and `answer`")
}

/// How many examples there are.
pub const EXAMPLES: usize = 8;

/// The examples before each question, with their chains of thought.
const THOUGHTS: [(&str, &str); EXAMPLES] = [
    (
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there \
         will be 21 trees. How many trees did the grove workers plant today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been \
         21 - 15 = 6. So the answer is 6.",
    ),
    (
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. So the answer is 5.",
    ),
    (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they \
         had 74 - 35 = 39. So the answer is 39.",
    ),
    (
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason \
         give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. So \
         the answer is 8.",
    ),
    (
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. So \
         the answer is 9.",
    ),
    (
        "There were nine computers in the server room. Five more computers were installed each day, from monday to \
         thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers \
         were added. 9 + 20 is 29. So the answer is 29.",
    ),
    (
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls \
         did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he \
         had 35 - 2 = 33 golf balls. So the answer is 33.",
    ),
    (
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. \
         23 - 15 is 8. So the answer is 8.",
    ),
];

/// The prompt of a question.
///
/// - shots: how many examples stand before it, at most [`EXAMPLES`]
///
/// # Panics
///
/// When there are more.
pub fn prompt(question: &str, shots: usize) -> String {
    let examples = THOUGHTS[..shots].iter().map(|(question, answer)| (*question, format!(" {answer}\n\n")));
    let asked = examples.chain([(question, String::new())]);
    let written = asked.map(|(question, answer)| format!("Question: {question}\nAnswer:{answer}"));
    written.collect::<Vec<_>>().concat()
}

/// How a prompt is continued.
pub fn generation() -> GenerationConfig {
    let stops = ["Question:", "</s>", "<|im_end|>", "\n\n"].map(str::to_owned);
    GenerationConfig::new().with_max_new_tokens(512).with_stop_texts(stops.to_vec())
}

/// The last number of a text, without commas in it; the text where it has none. The sign of a whole number is no part of it.
pub fn extract_answer(text: &str) -> String {
    static COMMA: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"([0-9]),([0-9])").expect("it is one"));
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[-+]?[0-9]*\.[0-9]+|[0-9]+").expect("it is one"));
    let text = COMMA.replace_all(text, "$1$2");
    NUMBER.find_iter(&text).last().map_or_else(|| text.to_string(), |number| number.as_str().to_owned())
}

/// Whether the answers that two texts come to are the same.
pub fn is_correct(continuation: &str, gold: &str) -> bool {
    static IGNORED: LazyLock<[Regex; 4]> = LazyLock::new(|| {
        [r",", r"\$", r"(?s).*#### ", r"\.$"].map(|ignored| Regex::new(ignored).expect("it is one"))
    });
    let [found, gold] = [continuation, gold].map(|text| {
        let answer = extract_answer(text);
        let bare =
            IGNORED.iter().fold(answer, |answer, ignored| ignored.replace_all(&answer, "").into_owned());
        bare.to_lowercase()
    });
    found == gold
}

/// The share of continuations that come to the answers of their problems.
///
/// # Panics
///
/// When there are not as many continuations as problems.
pub fn accuracy(problems: &[Problem], continuations: &[String]) -> f64 {
    assert_eq!(problems.len(), continuations.len(), "a continuation for each problem");
    let pairs = problems.iter().zip(continuations);
    let correct = pairs.filter(|(problem, text)| is_correct(text, &problem.answer)).count();
    correct as f64 / problems.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_end_where_the_answer_begins() {
        assert_eq!(prompt("2+2?", 0), "Question: 2+2?\nAnswer:");
        let eight = prompt("2+2?", 8);
        assert_eq!(eight.matches("Question:").count(), 9);
        assert!(eight.ends_with("So the answer is 8.\n\nQuestion: 2+2?\nAnswer:"));
        for (_, answer) in THOUGHTS {
            let expected = answer.rsplit(' ').next().unwrap().trim_end_matches('.');
            assert_eq!(extract_answer(answer), expected);
        }
    }

    #[test]
    fn answers_are_counted() {
        let problem = Problem { question: String::new(), answer: "10 * 5 = 50\n#### 1,050".to_owned() };
        let texts = ["It is 1050.".to_owned(), "It is 50".to_owned()];
        assert_eq!(accuracy(&[problem.clone(), problem], &texts), 0.5);
    }
}
