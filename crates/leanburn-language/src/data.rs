//! Conversations from files, and mixtures of them.

use std::path::Path;

use leanburn_core::{Error, Result, random::Generator};
use serde_json::{Map, Value};

use crate::{
    causal::Encoded,
    chat::{ChatTemplate, Message, Role},
    tokenizer::Tokenizer,
};

/// A conversation.
pub type Conversation = Vec<Message>;

/// Reads conversations from a `.jsonl` file (one object a line) or a `.json` file (a list of objects).
///
/// Objects have `messages`, or the columns of a known set, which are turned into messages as open-instruct does:
///
/// | columns | messages |
/// |---|---|
/// | `instruction`, `output` (and `input`) | Alpaca's wording, and the output |
/// | `prompt`, `completion` | user and assistant |
/// | `conversations` of `from` and `value` | `human` is the user, `gpt` the assistant |
/// | `question`, `response` (and `system_prompt`) | system, user and assistant |
/// | `query`, `answer` or `query`, `response` | user and assistant |
/// | `chosen`, `rejected`, `reference_completion` | those of `chosen` |
///
/// # Errors
///
/// When the file cannot be read, or an object is none of these; its line or its number is named.
pub fn read_conversations(path: impl AsRef<Path>) -> Result<Vec<Conversation>> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let broken = |location: String, error: &dyn std::fmt::Display| {
        Error::format(path, location, "a JSON object with `messages`, or of a known set", error)
    };
    if path.extension().is_some_and(|extension| extension == "json") {
        let objects: Vec<Map<String, Value>> =
            serde_json::from_str(text).map_err(|error| broken("file".to_owned(), &error))?;
        let objects = (1..).zip(objects);
        return objects
            .map(|(number, object)| {
                messages(&object).map_err(|error| broken(format!("object {number}"), &error))
            })
            .collect();
    }
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let object: Map<String, Value> =
                serde_json::from_str(line).map_err(|error| broken(format!("line {number}"), &error))?;
            messages(&object).map_err(|error| broken(format!("line {number}"), &error))
        })
        .collect()
}

/// The messages of an object.
fn messages(object: &Map<String, Value>) -> Result<Conversation, String> {
    let text = |key: &str| -> Result<&str, String> {
        object[key].as_str().ok_or_else(|| format!("`{key}` that is no text"))
    };
    let optional = |key: &str| -> Result<&str, String> {
        match object.get(key) {
            None | Some(Value::Null) => Ok(""),
            Some(_) => text(key),
        }
    };
    let has = |keys: &[&str]| keys.iter().all(|key| object.contains_key(*key));
    let pair = |question: &str, answer: &str| -> Result<Conversation, String> {
        Ok(vec![Message::new(Role::User, text(question)?), Message::new(Role::Assistant, text(answer)?)])
    };
    let list = |key: &str| -> Result<Conversation, String> {
        let messages: Conversation =
            serde_json::from_value(object[key].clone()).map_err(|error| format!("`{key}`: {error}"))?;
        if messages.is_empty() { Err(format!("`{key}` without a message")) } else { Ok(messages) }
    };
    if has(&["messages"]) {
        list("messages")
    } else if has(&["instruction", "output"]) {
        let instruction = text("instruction")?;
        let input = optional("input")?;
        let prompt = if input.is_empty() {
            format!(
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\n{instruction}\n\n### Response:"
            )
        } else {
            format!(
                "Below is an instruction that describes a task, paired with an input that provides further context. \
                 Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
                 ### Input:\n{input}\n\n### Response:"
            )
        };
        Ok(vec![Message::new(Role::User, prompt), Message::new(Role::Assistant, text("output")?)])
    } else if has(&["prompt", "completion"]) {
        pair("prompt", "completion")
    } else if has(&["conversations"]) {
        let turns = object["conversations"].as_array().ok_or("`conversations` that is no list")?;
        if turns.is_empty() {
            return Err("`conversations` without a message".to_owned());
        }
        let turn = |turn: &Value| {
            let role = match turn["from"].as_str() {
                Some("human" | "user") => Role::User,
                Some("gpt" | "assistant") => Role::Assistant,
                Some("system") => Role::System,
                other => return Err(format!("a turn from `{}`", other.unwrap_or("nobody"))),
            };
            let content = turn["value"].as_str().ok_or("a turn without `value`")?;
            Ok(Message::new(role, content))
        };
        turns.iter().map(turn).collect()
    } else if has(&["question", "response"]) {
        let system = optional("system_prompt")?;
        let system = (!system.is_empty()).then(|| Message::new(Role::System, system));
        Ok(system.into_iter().chain(pair("question", "response")?).collect())
    } else if has(&["query", "answer"]) {
        pair("query", "answer")
    } else if has(&["query", "response"]) {
        pair("query", "response")
    } else if has(&["chosen", "rejected", "reference_completion"]) {
        list("chosen")
    } else {
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        Err(format!("the keys {}", keys.join(", ")))
    }
}

/// Parts of several sets, one behind the other: of each its first conversations after a shuffle.
///
/// - sets: each with how many are taken, all where there is no number. Where a number is above 1, they are counts;
///   otherwise shares of the sets
///
/// # Errors
///
/// When a count is no whole number or above what the set has, or a share is negative.
pub fn mix(sets: Vec<(Vec<Conversation>, Option<f64>)>, seed: u64) -> Result<Vec<Conversation>> {
    let counts = sets.iter().any(|(_, amount)| amount.is_some_and(|amount| amount > 1.0));
    let mut mixture = Vec::new();
    for (number, (conversations, amount)) in sets.into_iter().enumerate() {
        let field = || format!("amount of set {}", number + 1);
        let amount = amount.unwrap_or(if counts { conversations.len() as f64 } else { 1.0 });
        let whole = amount >= 0.0 && (!counts || amount.fract() == 0.0);
        if !whole {
            let expected = if counts { "whole numbers, since one is above 1" } else { "a share from 0 to 1" };
            return Err(Error::setting(field(), expected, amount));
        }
        let taken = if counts { amount as usize } else { (amount * conversations.len() as f64) as usize };
        if taken > conversations.len() {
            let expected = format!("at most the {} conversations of the set", conversations.len());
            return Err(Error::setting(field(), expected, taken));
        }
        let order = Generator::stream(seed, number as u64).permutation(conversations.len());
        let mut conversations: Vec<Option<Conversation>> = conversations.into_iter().map(Some).collect();
        mixture.extend(order[..taken].iter().filter_map(|&place| conversations[place].take()));
    }
    Ok(mixture)
}

/// Conversations as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedSet {
    /// Those in which something is learned.
    pub texts: Vec<Encoded>,
    /// How many others there were, which are left out: empty ones, and those whose answers lie behind the longest length.
    pub left_out: usize,
    /// How many of the texts were longer than the longest length, and are cut off there.
    pub cut_off: usize,
}

impl EncodedSet {
    /// Checks that a network has all of the tokens.
    ///
    /// - `vocab_size`: the network's
    ///
    /// # Errors
    ///
    /// When it has not.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let largest = self.texts.iter().flat_map(|text| &text.tokens).max();
        match largest {
            Some(&token) if token as usize >= vocab_size => {
                let expected =
                    format!("tokens below {vocab_size}, as the network has; `Llama::resized` adds some");
                Err(Error::data("conversations", expected, token))
            }
            _ => Ok(()),
        }
    }
}

/// Writes conversations as tokens.
///
/// - `max_length`: what is longer is cut off
///
/// # Errors
///
/// When the template or the tokenizer cannot take one; its number is named.
pub fn encode(
    conversations: &[Conversation],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> Result<EncodedSet> {
    use rayon::prelude::*;
    let encoded: Vec<Encoded> = conversations
        .par_iter()
        .enumerate()
        .map(|(number, messages)| {
            template.encode(messages, tokenizer).map_err(|error| {
                Error::data(format!("conversation {}", number + 1), "one that can be encoded", error)
            })
        })
        .collect::<Result<_>>()?;
    let mut set = EncodedSet::default();
    for mut text in encoded {
        let is_long = text.tokens.len() > max_length;
        text.truncate(max_length);
        if text.targets() == 0 {
            set.left_out += 1;
            continue;
        }
        set.cut_off += usize::from(is_long);
        set.texts.push(text);
    }
    Ok(set)
}

/// Texts put together in rows of at most so many tokens, the longest first, each into the fullest row that has room.
///
/// Texts of a row do not see each other, so that what is learned is what rows of their own would teach, with less padding.
///
/// - length: at least that of the longest text
///
/// # Errors
///
/// When a text is longer.
pub fn pack(texts: Vec<Encoded>, length: usize) -> Result<Vec<Vec<Encoded>>> {
    let mut texts = texts;
    texts.sort_by_key(|text| std::cmp::Reverse(text.tokens.len()));
    if let Some(longest) = texts.first().filter(|text| text.tokens.len() > length) {
        let expected = format!("at least the {} tokens of the longest text", longest.tokens.len());
        return Err(Error::setting("length", expected, length));
    }
    let mut rows: Vec<Vec<Encoded>> = Vec::new();
    // Rows by how much room they have.
    let mut room: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
    for text in texts {
        let count = text.tokens.len();
        let fullest = room.range(count..).next().map(|(&left, _)| left);
        let (row, left) = if let Some(left) = fullest {
            let with = room.get_mut(&left).expect("it was found");
            let row = with.pop().expect("no list is empty");
            if with.is_empty() {
                room.remove(&left);
            }
            (row, left)
        } else {
            rows.push(Vec::new());
            (rows.len() - 1, length)
        };
        rows[row].push(text);
        room.entry(left - count).or_default().push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn sets_of_all_forms_become_messages() {
        let lines = [
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            r#"{"prompt": "a", "completion": "b"}"#,
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
            r#"{"question": "a", "response": "b", "system_prompt": null}"#,
            r#"{"query": "a", "answer": "b"}"#,
            r#"{"query": "a", "response": "b"}"#,
            r#"{"rejected": [], "reference_completion": "", "chosen":
               [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
        ];
        let lines = lines.map(|line| line.replace('\n', " ")).join("\n\n");
        let (_folder, path) = write("set.jsonl", &lines);
        let expected = vec![Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")];
        let found = read_conversations(&path).unwrap();
        assert_eq!(found, vec![expected; 7]);
        let (_folder, path) = write(
            "set.json",
            r#"[{"instruction": "do", "input": "this", "output": "done"}, {"instruction": "do", "output": "done"},
                {"system_prompt": "be", "question": "a", "response": "b"}]"#,
        );
        let found = read_conversations(&path).unwrap();
        assert!(found[0][0].content.ends_with("### Input:\nthis\n\n### Response:"));
        assert!(found[1][0].content.ends_with("### Instruction:\ndo\n\n### Response:"));
        assert_eq!(found[2][0], Message::new(Role::System, "be"));
    }

    #[test]
    fn broken_lines_are_named() {
        for (line, part) in [
            ("{", "EOF"),
            (r#"{"text": "a"}"#, "text"),
            (r#"{"messages": []}"#, "without a message"),
            (r#"{"messages": [{"role": "robot", "content": "a"}]}"#, "robot"),
            (r#"{"prompt": 3, "completion": "b"}"#, "prompt"),
            (r#"{"conversations": [{"from": "bird", "value": "b"}]}"#, "bird"),
            (r#"{"conversations": []}"#, "without a message"),
        ] {
            let (_folder, path) =
                write("set.jsonl", &format!("{{\"query\": \"a\", \"answer\": \"b\"}}\n{line}"));
            let error = read_conversations(&path).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn mixtures_hold_what_is_asked_for() {
        let set = |name: &str, count: usize| -> Vec<Conversation> {
            (0..count).map(|number| vec![Message::new(Role::User, format!("{name}{number}"))]).collect()
        };
        let mixed = mix(vec![(set("a", 5), Some(3.0)), (set("b", 4), Some(1.0))], 42).unwrap();
        let names: Vec<&str> = mixed.iter().map(|messages| &messages[0].content[..1]).collect();
        assert_eq!(names, ["a", "a", "a", "b"]);
        assert_eq!(mixed, mix(vec![(set("a", 5), Some(3.0)), (set("b", 4), Some(1.0))], 42).unwrap());
        assert_eq!(mix(vec![(set("a", 4), Some(0.5)), (set("b", 4), Some(1.0))], 42).unwrap().len(), 6);
        // All of a set beside a number of another.
        assert_eq!(mix(vec![(set("a", 5), Some(3.0)), (set("b", 4), None)], 42).unwrap().len(), 7);
        assert_eq!(mix(vec![(set("a", 4), Some(0.5)), (set("b", 4), None)], 42).unwrap().len(), 6);
        for amount in [6.0, 2.5, -1.0] {
            assert!(mix(vec![(set("a", 5), Some(amount))], 42).unwrap_err().to_string().contains("set 1"));
        }
    }

    #[test]
    fn texts_without_targets_and_long_ones_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = folder.path().join("tokenizer.json");
        let words: Map<String, Value> = ["<unk>", "</s>", "a", "b"]
            .iter()
            .zip(0..)
            .map(|(word, id)| ((*word).to_owned(), Value::from(id)))
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordLevel", "vocab": words, "unk_token": "<unk>" },
        });
        std::fs::write(&tokenizer, json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&tokenizer).unwrap();
        let conversation = |user: &str, assistant: Option<&str>| -> Conversation {
            let answer = assistant.map(|text| Message::new(Role::Assistant, text));
            [Message::new(Role::User, user)].into_iter().chain(answer).collect()
        };
        let conversations = [
            conversation("a", Some("b")),
            // Longer than the limit, with an answer before it and behind it.
            conversation("a", Some("b b b b")),
            conversation("a a a a", Some("b")),
            conversation("a", None),
        ];
        let template = ChatTemplate::new("{% for message in messages %}{{ message.content }} {% endfor %}");
        let set = encode(&conversations, &template, &tokenizer, 4).unwrap();
        assert_eq!((set.texts.len(), set.cut_off, set.left_out), (2, 1, 2));
        assert_eq!(set.texts[1].tokens, [2, 3, 3, 3]);
        assert!(set.check(4).is_ok());
        assert!(set.check(3).unwrap_err().to_string().contains("resized"));
        // A template that ends texts needs a token that does.
        let error = encode(&conversations, &ChatTemplate::tulu(), &tokenizer, 4).unwrap_err().to_string();
        assert!(error.contains("eos_token"), "{error}");
    }

    #[test]
    fn rows_are_filled() {
        let text = |length: usize| Encoded::whole(vec![1; length]);
        let rows = pack([3, 7, 5, 2, 3].map(text).to_vec(), 10).unwrap();
        let lengths: Vec<Vec<usize>> =
            rows.iter().map(|row| row.iter().map(|text| text.tokens.len()).collect()).collect();
        assert_eq!(lengths, [vec![7, 3], vec![5, 3, 2]]);
        assert!(pack(vec![text(11)], 10).unwrap_err().to_string().contains("11"));
    }
}
