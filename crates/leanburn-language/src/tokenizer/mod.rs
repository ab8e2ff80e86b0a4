//! Tokenizers: `tokenizer.json` of any kind, SentencePiece's `tokenizer.model`, and llama2.c's vocabularies.

mod sentencepiece;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use leanburn_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use sentencepiece::SentencePiece;

/// Texts to tokens and back.
pub struct Tokenizer {
    model: Model,
    /// Tokens that are no part of texts, with their ids, longest first.
    special: Vec<(String, u32)>,
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
    added_tokens_decoder: BTreeMap<String, Added>,
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

#[derive(Debug, Clone, Deserialize)]
struct Added {
    content: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, or `tokenizer.model`, or a vocabulary of llama2.c
    /// (`tok*.bin`), with what `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say.
    ///
    /// # Errors
    ///
    /// When there is none, or a file is not of its format.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let mut settings: Settings = match file("tokenizer_config.json") {
            Some(path) => read_json(&path)?,
            None => Settings::default(),
        };
        if let Some(path) = file("special_tokens_map.json") {
            let map: Settings = read_json(&path)?;
            settings.bos_token = settings.bos_token.or(map.bos_token);
            settings.eos_token = settings.eos_token.or(map.eos_token);
            settings.unk_token = settings.unk_token.or(map.unk_token);
            settings.pad_token = settings.pad_token.or(map.pad_token);
        }
        let mut added: BTreeMap<String, u32> = match file("added_tokens.json") {
            Some(path) => read_json(&path)?,
            None => BTreeMap::new(),
        };
        for (id, token) in &settings.added_tokens_decoder {
            if let Ok(id) = id.parse() {
                added.insert(token.content.clone(), id);
            }
        }
        let llama2c = || -> Result<Option<PathBuf>> {
            let entries = leanburn_core::report::entries(folder)?;
            Ok(entries.into_iter().find(|path| is_llama2c(path)))
        };
        let model = if let Some(path) = file("tokenizer.json") {
            let tokenizer = tokenizers::Tokenizer::from_file(&path)
                .map_err(|error| Error::format(&path, "file", "a tokenizer", error))?;
            Model::Fast(Box::new(tokenizer))
        } else if let Some(path) = file("tokenizer.model") {
            Model::SentencePiece(SentencePiece::from_model(&path)?)
        } else if let Some(path) = llama2c()? {
            Model::SentencePiece(SentencePiece::from_llama2c(&path)?)
        } else {
            let expected = "tokenizer.json, tokenizer.model or a llama2.c vocabulary (tok*.bin)";
            return Err(Error::format(folder, "folder", expected, "none of them"));
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
            Some("json") => Model::Fast(Box::new(
                tokenizers::Tokenizer::from_file(path)
                    .map_err(|error| Error::format(path, "file", "a tokenizer", error))?,
            )),
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
        let mut tokenizer = Self { model, special: Vec::new(), settings };
        // The `tokenizers` crate finds its own.
        if let Model::SentencePiece(_) = tokenizer.model {
            let Settings { bos_token, eos_token, unk_token, pad_token, .. } = &tokenizer.settings;
            let named = [bos_token, eos_token, unk_token, pad_token].into_iter().flatten().map(Token::text);
            let mut special = added;
            for token in named {
                if let Some(id) = tokenizer.id(token) {
                    special.insert(token.to_owned(), id);
                }
            }
            tokenizer.special = special.into_iter().collect();
            tokenizer.special.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        }
        tokenizer
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
                Model::SentencePiece(_) => self.special.push(("<pad>".to_owned(), next)),
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
                        Part::Special(id) => ids.push(id),
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
                let silent =
                    |id: &u32| model.is_control(*id) || self.special.iter().any(|(_, special)| special == id);
                let bytes: Vec<u8> =
                    ids.iter().filter(|id| !silent(id)).flat_map(|&id| model.bytes(id)).collect();
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
                let special = self.special.iter().find(|(text, _)| text == token);
                special.map(|(_, id)| *id).or_else(|| model.id(token))
            }
        }
    }

    /// An id's token, as the tokenizer writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.model {
            Model::Fast(model) => model.id_to_token(id),
            Model::SentencePiece(model) => {
                let special = self.special.iter().find(|(_, special)| *special == id);
                special.map(|(text, _)| text.clone()).or_else(|| model.token(id).map(str::to_owned))
            }
        }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        match &self.model {
            Model::Fast(model) => model.get_vocab_size(true),
            Model::SentencePiece(model) => {
                let special = self.special.iter().map(|(_, id)| *id as usize + 1).max();
                model.len().max(special.unwrap_or(0))
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

    /// A text cut at special tokens.
    fn parts<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let found = self.special.iter().find(|(token, _)| text[at..].starts_with(&token[..]));
            match found {
                Some((token, id)) => {
                    parts.extend([Part::Text(&text[start..at]), Part::Special(*id)]);
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
    Special(u32),
}

/// Whether a file is named as llama2.c's vocabularies are: `tok512.bin`.
pub(crate) fn is_llama2c(path: &Path) -> bool {
    let starts = path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("tok"));
    starts && path.extension().is_some_and(|extension| extension == "bin")
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|error| Error::format(path, "file", "JSON of its kind", error))
}
