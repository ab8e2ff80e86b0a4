//! Conversations and the templates by which models read them.

use leanburn_core::{Error, Result};
use minijinja::{
    Environment, ErrorKind, context,
    syntax::SyntaxConfig,
    value::{Serde, Value},
};
use serde::{Deserialize, Serialize};

use crate::{causal::Encoded, tokenizer::Tokenizer};

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What the assistant is told beforehand.
    System,
    /// The user.
    User,
    /// The model, whose messages are learned.
    Assistant,
}

/// A Jinja template that writes a conversation as text, as Hugging Face's tokenizers have it.
///
/// ```
/// use leanburn_language::chat::{ChatTemplate, Message, Role};
///
/// let conversation = [Message::new(Role::User, "2+2?")];
/// let text = ChatTemplate::tulu().render(&conversation, true, ["<s>", "</s>"])?;
/// assert_eq!(text, "<|user|>\n2+2?\n<|assistant|>\n");
/// # Ok::<(), leanburn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate(String);

/// The templates of the published training programs.
const TEMPLATES: [(&str, &str); 6] = [
    (
        "tulu",
        "{% for message in messages %}{{ '<|' ~ message.role ~ '|>\\n' ~ message.content }}\
         {% if message.role == 'assistant' %}{{ eos_token }}{% if not loop.last %}{{ '\\n' }}{% endif %}\
         {% else %}{{ '\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "zephyr",
        "{% for message in messages %}\
         {{ '<|' ~ message.role ~ '|>\\n' ~ message.content ~ eos_token ~ '\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ),
    (
        "simple_chat",
        "{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}\
         {{ message.role | capitalize ~ ': ' ~ message.content }}{% endfor %}\
         {% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
    ),
    (
        "simple_concat_with_space",
        "{{ messages | map(attribute='content') | join(' ') }}\
         {% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
    ),
    (
        "simple_concat_with_new_line",
        "{{ messages | map(attribute='content') | join('\\n') }}\
         {% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
    ),
    (
        "assistant_message_only",
        "{% for message in messages %}{% if message.role == 'assistant' %}{{ message.content }}{% endif %}{% endfor %}",
    ),
];

impl ChatTemplate {
    /// A template of one's own, or a tokenizer's.
    pub fn new(source: impl Into<String>) -> Self {
        Self(source.into())
    }

    /// That of open-instruct, by which the published models were trained.
    pub fn tulu() -> Self {
        Self::new(TEMPLATES[0].1)
    }

    /// A template of the published training programs: `tulu`, `zephyr`, `simple_chat`, `simple_concat_with_space`,
    /// `simple_concat_with_new_line` or `assistant_message_only`.
    ///
    /// # Errors
    ///
    /// When there is none of the name.
    pub fn named(name: &str) -> Result<Self> {
        let found = TEMPLATES.iter().find(|(known, _)| *known == name);
        found.map(|(_, source)| Self::new(*source)).ok_or_else(|| {
            let names = TEMPLATES.map(|(name, _)| name).join(", ");
            Error::setting("chat_template", format!("one of {names}"), format!("`{name}`"))
        })
    }

    /// The template with the token before everything that begins a text.
    #[must_use]
    pub fn with_bos(self) -> Self {
        Self(format!("{{{{ bos_token }}}}{}", self.0))
    }

    /// A conversation as text.
    ///
    /// - `generation_prompt`: whether what begins the model's answer is added
    /// - marks: the tokens that begin and end a text
    ///
    /// # Errors
    ///
    /// When the template has a fault, or refuses the conversation.
    pub fn render(&self, messages: &[Message], generation_prompt: bool, marks: [&str; 2]) -> Result<String> {
        let mut environment = Environment::new();
        // As the transformers library sets it up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => generation_prompt,
            bos_token => marks[0],
            eos_token => marks[1],
        };
        environment
            .render_str(&self.0, values)
            .map_err(|error| Error::data("conversation", "one that the chat template takes", error))
    }

    /// What a model continues with its answer to a conversation.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn prompt(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<String> {
        let [bos, eos] = tokenizer.marks();
        self.render(messages, true, [&bos, &eos])
    }

    /// A conversation as tokens, of which those of the assistant's messages are learned, with what ends each.
    ///
    /// Where messages end in the tokens is found by writing the conversation up to each of them, as the published program
    /// does: in a tokenizer that joins tokens across such an end it may be a token off.
    ///
    /// # Errors
    ///
    /// When the template or the tokenizer cannot take the conversation.
    pub fn encode(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<Encoded> {
        let [bos, eos] = tokenizer.marks();
        if eos.is_empty() && self.0.contains("eos_token") {
            let expected = "a token that ends a text, as the template writes one";
            return Err(Error::data("tokenizer, `eos_token`", expected, "none"));
        }
        self.encode_with(messages, [&bos, &eos], |text| tokenizer.encode(text, false))
    }

    /// [`encode`](Self::encode) with any function from texts to tokens.
    ///
    /// - marks: the tokens that begin and end a text
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_with(
        &self,
        messages: &[Message],
        marks: [&str; 2],
        tokens: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Result<Encoded> {
        let length = |count: usize, prompt: bool| -> Result<usize> {
            Ok(tokens(&self.render(&messages[..count], prompt, marks)?)?.len())
        };
        let tokens_of_all = tokens(&self.render(messages, false, marks)?)?;
        let mut learned = vec![true; tokens_of_all.len()];
        for (place, message) in messages.iter().enumerate() {
            if message.role == Role::Assistant {
                continue;
            }
            let start = if place == 0 { 0 } else { length(place, false)? };
            let answered = messages.get(place + 1).is_some_and(|next| next.role == Role::Assistant);
            let end = length(place + 1, answered)?;
            let last = learned.len();
            // A template may write the beginning of a conversation longer than more of it.
            learned[start.min(last)..end.max(start).min(last)].fill(false);
        }
        Ok(Encoded { tokens: tokens_of_all, learned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_tokenizers_are_taken() {
        // What LLaMA 3's uses beside plain Jinja: methods of Python's strings, slices, and refusals.
        let source = "{%- if messages[0]['role'] != 'user' %}\n{{ raise_exception('a user begins') }}\n{%- endif %}\n\
                      {%- for message in messages[:1] %}{{ bos_token + message['content'].strip() }}{%- endfor %}";
        let template = ChatTemplate::new(source);
        let render = |role| template.render(&[Message::new(role, " hi ")], false, ["<s>", "</s>"]);
        assert_eq!(render(Role::User).unwrap(), "<s>hi");
        assert!(render(Role::System).unwrap_err().to_string().contains("a user begins"));
        let broken = ChatTemplate::new("{{ bos_token }}\n\n{% if %}").render(&[], false, ["", ""]);
        let error = broken.unwrap_err().to_string();
        assert!(error.contains(":3"), "{error}");
        assert!(ChatTemplate::named("tulo").unwrap_err().to_string().contains("tulu"));
        // Of the first message alone it makes "a c d", and of both "a b".
        let words = |text: &str| Ok(text.split_whitespace().map(|_| 0).collect());
        let messages = [Message::new(Role::User, "a"), Message::new(Role::System, "b")];
        let shrinking = ChatTemplate::new(
            "{% for message in messages %}{{ message.content }}{% if loop.last and loop.first %} c d{% endif %} {% endfor %}",
        );
        assert_eq!(shrinking.encode_with(&messages, ["", ""], words).unwrap().tokens.len(), 2);
        assert_eq!(ChatTemplate::new("x").with_bos().render(&[], false, ["<s>", ""]).unwrap(), "<s>x");
    }
}
