//! Models in folders, as Hugging Face lays them out.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, backend::Backend};
use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    report,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    generation::GenerationConfig,
    llama::{Llama, LlamaConfig, OneOrMore},
    tokenizer::{Tokenizer, is_llama2c},
};

/// Files beside the weights and `config.json` that belong to a model, and are written again as they are.
const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// Keys of `config.json` by which the published program of mask fine-tuning knows a masked model.
const MASKED: [&str; 7] = [
    "subnet_mode",
    "subnet_type",
    "sparsity_attn",
    "sparsity_mlp",
    "threshold_attn",
    "threshold_mlp",
    "masked_layers",
];

/// Types of weights, and how `config.json` calls them.
const TORCH_NAMES: [(DType, &str); 4] =
    [(DType::F32, "float32"), (DType::F16, "float16"), (DType::BF16, "bfloat16"), (DType::F64, "float64")];

/// A folder with a model: `config.json`, weights (safetensors or PyTorch's `.bin`, whole or in shards), a tokenizer.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    json: Map<String, Value>,
    config: LlamaConfig,
}

impl ModelFolder {
    /// Opens a folder, and reads its configuration.
    ///
    /// # Errors
    ///
    /// When there is no `config.json`, or it is not that of a LLaMA.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = path.join("config.json");
        let json: Map<String, Value> = report::read_json(&file)?;
        let config = LlamaConfig::from_json(&Value::Object(json.clone()), &file)?;
        Ok(Self { path, json, config })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// All that `config.json` says.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// The type of the weights, as `config.json` tells it; float32 where it does not.
    ///
    /// # Errors
    ///
    /// When it is another than float32, float16, bfloat16 or float64.
    pub fn dtype(&self) -> Result<DType> {
        let named = |key: &&str| self.json.get(*key).filter(|name| !name.is_null());
        let Some(name) = ["dtype", "torch_dtype"].iter().find_map(named) else { return Ok(DType::F32) };
        let found = TORCH_NAMES.iter().find(|(_, known)| name == known);
        found.map(|(dtype, _)| *dtype).ok_or_else(|| {
            let known = TORCH_NAMES.map(|(_, name)| name).join(", ");
            Error::format(self.path.join("config.json"), "`torch_dtype`", format!("one of {known}"), name)
        })
    }

    /// The weights, read when they are used.
    ///
    /// # Errors
    ///
    /// When there are none, or a shard is missing.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Checkpoint::open(&self.path)
    }

    /// The network. Its weights are read one by one from a memory map.
    ///
    /// - dtype: of its weights, whatever the file's are
    ///
    /// # Errors
    ///
    /// When weights are missing, or have other shapes than the configuration says.
    pub fn load<B: Backend>(&self, dtype: DType, device: &B::Device) -> Result<Llama<B>> {
        Llama::load(&self.config, self.checkpoint()?, dtype, device)
    }

    /// The tokenizer. Where its files do not say which tokens begin and end a text, `config.json` does.
    ///
    /// # Errors
    ///
    /// When there is none, or a file is not of its format.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(self.with_marks(Tokenizer::open(&self.path)?))
    }

    /// The tokenizer of SentencePiece's file, where there is a `tokenizer.json` as well: the slow one of the transformers
    /// library, by which the official runs of LLaMA-2 were made.
    ///
    /// # Errors
    ///
    /// When there is no `tokenizer.model`, or a file is not of its format.
    pub fn slow_tokenizer(&self) -> Result<Tokenizer> {
        Ok(self.with_marks(Tokenizer::open_sentencepiece(&self.path)?))
    }

    fn with_marks(&self, tokenizer: Tokenizer) -> Tokenizer {
        tokenizer.with_missing_marks(self.config.bos_token_id, self.config.eos_token_ids.first().copied())
    }

    /// How the model's publishers generate with it; greedily where `generation_config.json` does not say.
    ///
    /// # Errors
    ///
    /// When the file is not of its format.
    pub fn generation(&self) -> Result<GenerationConfig> {
        #[derive(Deserialize, Default)]
        struct Published {
            do_sample: Option<bool>,
            temperature: Option<f64>,
            top_k: Option<usize>,
            top_p: Option<f64>,
            eos_token_id: Option<OneOrMore>,
        }
        let file = self.path.join("generation_config.json");
        let published: Published =
            if file.is_file() { report::read_json(&file)? } else { Published::default() };
        let ids = published.eos_token_id.map(Vec::from);
        let greedy = GenerationConfig::new()
            .with_stop_tokens(ids.unwrap_or_else(|| self.config.eos_token_ids.clone()));
        if !published.do_sample.unwrap_or(false) {
            return Ok(greedy);
        }
        // The library's own defaults where the file is silent.
        Ok(greedy
            .with_temperature(Some(published.temperature.unwrap_or(1.0)))
            .with_top_k(published.top_k.unwrap_or(50))
            .with_top_p(published.top_p.unwrap_or(1.0)))
    }
}

/// How a model is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// The type of the weights; their own when absent.
    pub dtype: Option<DType>,
    /// What a file holds at most, but for a tensor that is larger.
    pub shard_bytes: usize,
}

impl Default for WriteOptions {
    /// The weights' own type, in files of 5 GB, as the transformers library writes them.
    fn default() -> Self {
        Self { dtype: None, shard_bytes: 5_000_000_000 }
    }
}

/// Writes a network into a new folder, as safetensors, with its configuration and, from the folder that it came from, its
/// tokenizer.
///
/// # Errors
///
/// When the folder exists and is not empty, or a file cannot be written.
pub fn write<B: Backend>(
    network: &Llama<B>,
    folder: impl AsRef<Path>,
    source: Option<&ModelFolder>,
    options: WriteOptions,
) -> Result<()> {
    let original = source.map(|source| source.json.clone()).unwrap_or_default();
    let mut json = network.config().to_json(&original);
    // Of a model that was masked: its masks are in the weights now.
    json.retain(|key, _| !MASKED.contains(&key.as_str()));
    let dtype = options.dtype.unwrap_or_else(|| network.model.norm.weight.val().dtype());
    // The older key says it to all readers.
    json.remove("dtype");
    if let Some((_, name)) = TORCH_NAMES.iter().find(|(known, _)| *known == dtype) {
        json.insert("torch_dtype".to_owned(), (*name).into());
    }
    report::write_new_folder(folder.as_ref(), |folder| {
        checkpoint::save_shards::<B, _>(network, folder, str::to_owned, options.dtype, options.shard_bytes)?;
        report::write_json(folder.join("config.json"), &json)?;
        match source {
            Some(source) => copy_companions(source.path(), folder),
            None => Ok(()),
        }
    })
}

/// Copies a model's tokenizer and what else belongs to it.
fn copy_companions(source: &Path, folder: &Path) -> Result<()> {
    for path in report::entries(source)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if COMPANIONS.contains(&name) || is_llama2c(&path) {
            std::fs::copy(&path, folder.join(name)).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    use super::*;
    use crate::{CausalLm, llama::Sequences};

    #[test]
    fn a_model_is_written_and_read_whole_and_in_shards() {
        let device = Default::default();
        let config = LlamaConfig::new(32, 16, 24, 2, 4).with_num_key_value_heads(Some(2));
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let expected = checkpoint::tensors(&network, str::to_owned).unwrap();
        let root = tempfile::tempdir().unwrap();
        for (name, shard_bytes, files) in [("whole", usize::MAX, 2), ("shards", 4000, 8)] {
            let folder = root.path().join(name);
            write(&network, &folder, None, WriteOptions { dtype: None, shard_bytes }).unwrap();
            assert_eq!(report::entries(&folder).unwrap().len(), files);
            let read = ModelFolder::open(&folder).unwrap();
            let loaded = read.load::<Flex>(DType::F32, &device).unwrap();
            assert_eq!(checkpoint::tensors(&loaded, str::to_owned).unwrap(), expected);
            let error = write(&network, &folder, None, WriteOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Exists { .. }));
        }
    }

    #[test]
    fn weights_have_the_type_that_is_asked_for() {
        let device = Default::default();
        let network =
            LlamaConfig::new(32, 16, 24, 1, 2).init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let root = tempfile::tempdir().unwrap();
        for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
            let folder = root.path().join(name);
            let options = WriteOptions { dtype: Some(dtype), ..Default::default() };
            write(&network, &folder, None, options).unwrap();
            let read = ModelFolder::open(&folder).unwrap();
            assert_eq!(read.json()["torch_dtype"], name);
            assert_eq!(read.dtype().unwrap(), dtype);
            let stored = read.checkpoint().unwrap().read("lm_head.weight").unwrap();
            assert_eq!(stored.dtype, dtype);
            let half = read.load::<Flex>(dtype, &device).unwrap();
            assert_eq!(half.model.norm.weight.val().dtype(), dtype);
            // Logits are float32, whatever the weights are.
            let tokens = burn::tensor::Tensor::from_data([[1, 2, 3]], &device);
            let logits = half.forward(tokens, &Sequences::whole(1, 3));
            assert_eq!(logits.dtype(), DType::F32);
        }
    }

    #[test]
    fn the_publishers_way_of_generation_is_read() {
        let root = tempfile::tempdir().unwrap();
        let config = LlamaConfig::new(32, 16, 24, 1, 2).with_eos_token_ids(vec![7]);
        report::write_json(root.path().join("config.json"), &config.to_json(&Map::new())).unwrap();
        let folder = ModelFolder::open(root.path()).unwrap();
        let plain = folder.generation().unwrap();
        assert_eq!((plain.temperature, plain.stop_tokens), (None, vec![7]));
        let file = root.path().join("generation_config.json");
        std::fs::write(&file, r#"{ "do_sample": true, "top_p": 0.9, "eos_token_id": [5, 6] }"#).unwrap();
        let drawn = folder.generation().unwrap();
        assert_eq!((drawn.temperature, drawn.top_k, drawn.top_p), (Some(1.0), 50, 0.9));
        assert_eq!(drawn.stop_tokens, [5, 6]);
        std::fs::write(&file, r#"{ "eos_token_id": "end" }"#).unwrap();
        assert!(folder.generation().unwrap_err().to_string().contains("generation_config.json"));
    }

    #[test]
    fn what_a_folder_lacks_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(ModelFolder::open(root.path()).unwrap_err().to_string().contains("config.json"));
        let json = LlamaConfig::new(32, 16, 24, 1, 2).to_json(&Map::new());
        report::write_json(root.path().join("config.json"), &json).unwrap();
        let folder = ModelFolder::open(root.path()).unwrap();
        let error = folder.load::<Flex>(DType::F32, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert!(folder.tokenizer().unwrap_err().to_string().contains("tokenizer.json"));
    }
}
