//! Tokenizers: `tokenizer.json` of any kind, SentencePiece's `tokenizer.model`, and llama2.c's vocabularies.

mod sentencepiece;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use leanburn_core::{Error, Result, report};
use serde::Deserialize;
use serde_json::Value;

use sentencepiece::SentencePiece;

/// Texts to tokens and back.
pub struct Tokenizer {
    model: Model,
    /// Tokens that are found before SentencePiece cuts a text, longest first.
    added: Vec<(String, Added)>,
    settings: Settings,
}

enum Model {
    Fast(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

/// What `tokenizer_config.json` says.
#[derive(Debug, Clone, Default, Deserialize)]
struct Settings {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    pad_token: Option<Token>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    /// Whether a space is put before each part of a text between special tokens.
    legacy: Option<bool>,
    chat_template: Option<Value>,
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Described>,
}

/// A token beside SentencePiece's.
#[derive(Debug, Clone, Copy)]
struct Added {
    id: u32,
    /// Whether it is no part of the texts that tokens are turned into.
    silent: bool,
}

/// A token as the files of Hugging Face write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Described { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

/// A token of `added_tokens_decoder`.
#[derive(Debug, Clone, Deserialize)]
struct Described {
    content: String,
    #[serde(default)]
    special: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, or `tokenizer.model`, or a vocabulary of llama2.c
    /// (`tok*.bin`), with what `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and
    /// `chat_template.jinja` say.
    ///
    /// # Errors
    ///
    /// When there is none, or a file is not of its format.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        match file_of(folder, "tokenizer.json") {
            Some(path) => Self::in_folder(folder, Model::Fast(Box::new(fast(&path)?))),
            None => Self::open_sentencepiece(folder),
        }
    }

    /// The tokenizer of a Hugging Face folder as [`open`](Self::open) reads it, but for `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// When there is no `tokenizer.model` or vocabulary of llama2.c, or a file is not of its format.
    pub fn open_sentencepiece(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let model = if let Some(path) = file_of(folder, "tokenizer.model") {
            SentencePiece::from_model(&path)?
        } else if let Some(path) = report::entries(folder)?.into_iter().find(|path| is_llama2c(path)) {
            SentencePiece::from_llama2c(&path)?
        } else {
            let expected = "tokenizer.json, tokenizer.model or a llama2.c vocabulary (tok*.bin)";
            return Err(Error::format(folder, "folder", expected, "none that can be taken"));
        };
        Self::in_folder(folder, Model::SentencePiece(model))
    }

    /// With what a folder's files say beside the model.
    fn in_folder(folder: &Path, model: Model) -> Result<Self> {
        let mut settings: Settings = match file_of(folder, "tokenizer_config.json") {
            Some(path) => report::read_json(&path)?,
            None => Settings::default(),
        };
        // Where newer files have it.
        if let Some(path) = file_of(folder, "chat_template.jinja") {
            let template = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            settings.chat_template = Some(Value::String(template));
        }
        if let Some(path) = file_of(folder, "special_tokens_map.json") {
            let map: Settings = report::read_json(&path)?;
            settings.bos_token = settings.bos_token.or(map.bos_token);
            settings.eos_token = settings.eos_token.or(map.eos_token);
            settings.unk_token = settings.unk_token.or(map.unk_token);
            settings.pad_token = settings.pad_token.or(map.pad_token);
        }
        let added: BTreeMap<String, u32> = match file_of(folder, "added_tokens.json") {
            Some(path) => report::read_json(&path)?,
            None => BTreeMap::new(),
        };
        Ok(Self::new(model, settings, added))
    }

    /// A file alone: `tokenizer.json`, or a SentencePiece model, or a vocabulary of llama2.c (`.bin`).
    ///
    /// # Errors
    ///
    /// When it is not of its format.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let model = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Model::Fast(Box::new(fast(path)?)),
            Some("bin") => Model::SentencePiece(SentencePiece::from_llama2c(path)?),
            _ => Model::SentencePiece(SentencePiece::from_model(path)?),
        };
        Ok(Self::new(model, Settings::default(), BTreeMap::new()))
    }

    fn new(model: Model, mut settings: Settings, added: BTreeMap<String, u32>) -> Self {
        if let Model::SentencePiece(model) = &model {
            let token = |text: &str| model.id(text).map(|_| Token::Text(text.to_owned()));
            settings.bos_token = settings.bos_token.or_else(|| token("<s>"));
            settings.eos_token = settings.eos_token.or_else(|| token("</s>"));
            settings.unk_token = settings.unk_token.or_else(|| token("<unk>"));
        }
        let mut tokenizer = Self { model, added: Vec::new(), settings };
        // The `tokenizers` crate finds its own.
        if let Model::SentencePiece(_) = tokenizer.model {
            let Settings { bos_token, eos_token, unk_token, pad_token, added_tokens_decoder, .. } =
                &tokenizer.settings;
            let mut found: BTreeMap<String, Added> = BTreeMap::new();
            for (content, id) in added {
                found.insert(content, Added { id, silent: true });
            }
            for (id, Described { content, special }) in added_tokens_decoder {
                if let Ok(id) = id.parse() {
                    found.insert(content.clone(), Added { id, silent: *special });
                }
            }
            for token in [bos_token, eos_token, unk_token, pad_token].into_iter().flatten() {
                if let Some(id) = tokenizer.id(token.text()) {
                    found.insert(token.text().to_owned(), Added { id, silent: true });
                }
            }
            tokenizer.added = found.into_iter().collect();
            tokenizer.added.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        }
        tokenizer
    }

    /// With tokens that begin and end a text where none are known.
    pub(crate) fn with_missing_marks(mut self, bos: Option<u32>, eos: Option<u32>) -> Self {
        let token = |id: Option<u32>| id.and_then(|id| self.token(id)).map(Token::Text);
        let (bos, eos) = (token(bos), token(eos));
        self.settings.bos_token = self.settings.bos_token.or(bos);
        self.settings.eos_token = self.settings.eos_token.or(eos);
        self
    }

    /// With a space before each part of a text between special tokens, as the official runs of LLaMA-2 had it
    /// (`legacy`), or before the first alone. Other tokenizers than SentencePiece's have no such choice.
    #[must_use]
    pub fn with_legacy(mut self, legacy: bool) -> Self {
        self.settings.legacy = Some(legacy);
        self
    }

    /// The tokenizer with a token to fill batches up, `<pad>` at the next id where it has none.
    #[must_use]
    pub fn with_padding(mut self) -> Self {
        if self.pad().is_none() {
            let next = self.len() as u32;
            self.settings.pad_token = Some(Token::Text("<pad>".to_owned()));
            match &mut self.model {
                Model::Fast(model) => {
                    model.add_special_tokens(&[tokenizers::AddedToken::from("<pad>", true)]);
                }
                Model::SentencePiece(_) => {
                    self.added.push(("<pad>".to_owned(), Added { id: next, silent: true }));
                }
            }
        }
        self
    }

    /// The tokens of a text.
    ///
    /// - special: whether those are added that begin a text, and end it where the tokenizer says so
    ///
    /// # Errors
    ///
    /// When the tokenizer cannot take the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        match &self.model {
            Model::Fast(model) => {
                let encoding = model
                    .encode_fast(text, special)
                    .map_err(|error| Error::data("text", "one that the tokenizer takes", error))?;
                Ok(encoding.get_ids().to_vec())
            }
            Model::SentencePiece(model) => {
                let mut ids = Vec::new();
                let added = |token: Option<u32>, wanted: bool| token.filter(|_| special && wanted);
                ids.extend(added(self.bos(), self.settings.add_bos_token.unwrap_or(true)));
                let legacy = self.settings.legacy.unwrap_or(true);
                for (place, part) in self.parts(text).into_iter().enumerate() {
                    match part {
                        Part::Added(id) => ids.push(id),
                        Part::Text("") => {}
                        Part::Text(text) => {
                            let prefix = model.dummy_prefix && (legacy || place == 0);
                            ids.extend(model.encode(text, prefix));
                        }
                    }
                }
                ids.extend(added(self.eos(), self.settings.add_eos_token.unwrap_or(false)));
                Ok(ids)
            }
        }
    }

    /// The text of tokens, without those that are no part of it.
    ///
    /// # Errors
    ///
    /// When the tokenizer cannot take the tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.model {
            Model::Fast(model) => model
                .decode(ids, true)
                .map_err(|error| Error::data("tokens", "some that the tokenizer takes", error)),
            Model::SentencePiece(model) => {
                let mut bytes = Vec::new();
                for &id in ids {
                    match self.added.iter().find(|(_, added)| added.id == id) {
                        Some((_, added)) if added.silent => {}
                        Some((text, _)) => bytes.extend_from_slice(text.as_bytes()),
                        None if model.is_control(id) => {}
                        None => bytes.extend(model.bytes(id)),
                    }
                }
                let text = String::from_utf8_lossy(&bytes);
                let text = if model.dummy_prefix { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
                Ok(text.to_owned())
            }
        }
    }

    /// A token's id.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.model {
            Model::Fast(model) => model.token_to_id(token),
            Model::SentencePiece(model) => {
                let added = self.added.iter().find(|(text, _)| text == token);
                added.map(|(_, added)| added.id).or_else(|| model.id(token))
            }
        }
    }

    /// An id's token, as the tokenizer writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.model {
            Model::Fast(model) => model.id_to_token(id),
            Model::SentencePiece(model) => {
                let added = self.added.iter().find(|(_, added)| added.id == id);
                added.map(|(text, _)| text.clone()).or_else(|| model.token(id).map(str::to_owned))
            }
        }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        match &self.model {
            Model::Fast(model) => model.get_vocab_size(true),
            Model::SentencePiece(model) => {
                let added = self.added.iter().map(|(_, added)| added.id as usize + 1).max();
                model.len().max(added.unwrap_or(0))
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.settings.bos_token.as_ref().and_then(|token| self.id(token.text()))
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.settings.eos_token.as_ref().and_then(|token| self.id(token.text()))
    }

    /// The token that fills batches up.
    pub fn pad(&self) -> Option<u32> {
        self.settings.pad_token.as_ref().and_then(|token| self.id(token.text()))
    }

    /// The texts of the tokens that begin and end a text, empty where there is none.
    pub(crate) fn marks(&self) -> [String; 2] {
        let text = |token: &Option<Token>| token.as_ref().map(|token| token.text().to_owned());
        [&self.settings.bos_token, &self.settings.eos_token].map(|token| text(token).unwrap_or_default())
    }

    /// The template by which the tokenizer's model writes conversations, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        match self.settings.chat_template.as_ref()? {
            Value::String(template) => Some(template),
            // Several, each with its name.
            Value::Array(templates) => {
                let default = templates.iter().find(|template| template["name"] == "default");
                default.or(templates.first())?["template"].as_str()
            }
            _ => None,
        }
    }

    /// A text cut at added tokens.
    fn parts<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let found = self.added.iter().find(|(token, _)| text[at..].starts_with(&token[..]));
            match found {
                Some((token, Added { id, .. })) => {
                    parts.extend([Part::Text(&text[start..at]), Part::Added(*id)]);
                    at += token.len();
                    start = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        parts.push(Part::Text(&text[start..]));
        parts
    }
}

/// A part of a text.
enum Part<'a> {
    Text(&'a str),
    Added(u32),
}

/// A file of a folder, if it is there.
fn file_of(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|path| path.is_file())
}

/// A `tokenizer.json`, without the truncation and padding that it was last used with.
fn fast(path: &Path) -> Result<tokenizers::Tokenizer> {
    let wrong = |error| Error::format(path, "file", "a tokenizer", error);
    let mut tokenizer = tokenizers::Tokenizer::from_file(path).map_err(wrong)?;
    tokenizer.with_padding(None).with_truncation(None).map_err(wrong)?;
    Ok(tokenizer)
}

/// Whether a file is named as llama2.c's vocabularies are: `tok512.bin`.
pub(crate) fn is_llama2c(path: &Path) -> bool {
    let starts = path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("tok"));
    starts && path.extension().is_some_and(|extension| extension == "bin")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, name: &str, json: &Value) {
        std::fs::write(folder.join(name), json.to_string()).unwrap();
    }

    /// A tokenizer of words, with what it was last used with.
    fn words() -> Value {
        let special = json!({
            "id": 3, "content": "</s>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        });
        json!({
            "version": "1.0",
            "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
            "padding": {
                "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
            },
            "added_tokens": [special],
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordLevel", "vocab": { "a": 0, "b": 1, "c": 2, "</s>": 3 }, "unk_token": "a" },
        })
    }

    /// A vocabulary of llama2.c with single letters.
    fn letters(path: &Path) {
        let mut bytes = 9_u32.to_le_bytes().to_vec();
        let mut add = |text: &str| {
            bytes.extend(0.0_f32.to_le_bytes());
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        ["<unk>", "\n<s>\n", "\n</s>\n"].into_iter().for_each(&mut add);
        for byte in 0..=255_u8 {
            add(&format!("<0x{byte:02X}>"));
        }
        [" ", "a", "b"].into_iter().for_each(&mut add);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn what_a_folder_says_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "tokenizer.json", &words());
        let tokenizer = Tokenizer::open(folder).unwrap();
        // Neither cut off nor filled up.
        assert_eq!(tokenizer.encode("a b c", true).unwrap(), [0, 1, 2]);
        assert_eq!((tokenizer.eos(), tokenizer.chat_template()), (None, None));
        let completed = tokenizer.with_missing_marks(None, Some(3));
        assert_eq!((completed.eos(), completed.marks()), (Some(3), [String::new(), "</s>".to_owned()]));
        std::fs::write(folder.join("chat_template.jinja"), "{{ eos_token }}").unwrap();
        write(folder, "tokenizer_config.json", &json!({ "bos_token": "b", "chat_template": "old" }));
        write(folder, "special_tokens_map.json", &json!({ "eos_token": { "content": "</s>" } }));
        let tokenizer = Tokenizer::open(folder).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(3)));
        assert_eq!(tokenizer.chat_template(), Some("{{ eos_token }}"));
    }

    #[test]
    fn sentencepiece_is_taken_beside_another_tokenizer_where_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "tokenizer.json", &words());
        assert!(Tokenizer::open_sentencepiece(folder).unwrap_err().to_string().contains("tokenizer.model"));
        letters(&folder.join("tok262.bin"));
        let decoder = json!({
            "262": { "content": "<tool>", "special": false }, "263": { "content": "<end>", "special": true },
        });
        write(folder, "tokenizer_config.json", &json!({ "added_tokens_decoder": decoder, "legacy": false }));
        assert_eq!(Tokenizer::open(folder).unwrap().len(), 4);
        let tokenizer = Tokenizer::open_sentencepiece(folder).unwrap();
        let ids = tokenizer.encode("ab<tool>a<end>", true).unwrap();
        assert_eq!(ids, [1, 259, 260, 261, 262, 260, 263]);
        // Of the added tokens those are text that are not special.
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ab<tool>a");
        assert_eq!(tokenizer.with_legacy(true).encode("<tool>a", false).unwrap(), [262, 259, 260]);
    }

    #[test]
    fn other_tokenizers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut unknown = words();
        unknown["model"]["type"] = json!("Morse");
        std::fs::write(&path, unknown.to_string()).unwrap();
        assert!(Tokenizer::open(folder.path()).unwrap_err().to_string().contains("tokenizer.json"));
        let path = folder.path().join("tokenizer.model");
        for bytes in [&b"no protocol buffer"[..], &[0x0a, 0x7f]] {
            std::fs::write(&path, bytes).unwrap();
            let error = Tokenizer::open_sentencepiece(folder.path()).unwrap_err().to_string();
            assert!(error.contains("tokenizer.model"), "{error}");
        }
    }
}
