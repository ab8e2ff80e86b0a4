use std::path::Path;

use burn::{
    config::Config,
    module::{Param, ParamId},
    nn::Embedding,
    tensor::{DType, Tensor, backend::Backend},
};
use leanburn_core::{Error, Result, at_least_one, random::Generator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Llama,
    layers::{Attention, Decoder, DecoderLayer, Mlp, Projection, RmsNorm},
};

/// Configuration of a [`Llama`]: the architecture's part of a Hugging Face `config.json`.
#[derive(Config, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding table; the tokenizer may have fewer tokens.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width within the MLPs.
    pub intermediate_size: usize,
    /// The number of decoder layers.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads, a divisor of the query heads. Default: as many as query heads
    #[config(default = "None")]
    pub num_key_value_heads: Option<usize>,
    /// The width of a head, even. Default: `hidden_size / num_attention_heads`
    #[config(default = "None")]
    pub head_dim: Option<usize>,
    /// The longest sequence that the model was trained for. Default: 2048
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// What is added to mean squares. Default: 1e-6
    #[config(default = 1e-6)]
    pub rms_norm_eps: f64,
    /// The base of the rotary frequencies. Default: 10000
    #[config(default = 10_000.0)]
    pub rope_theta: f64,
    /// How the rotary frequencies are scaled. Default: not
    #[config(default = "None")]
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the embedding table is the output layer too. Default: false
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// Whether attention's projections have biases. Default: false
    #[config(default = false)]
    pub attention_bias: bool,
    /// Whether the MLPs' projections have biases. Default: false
    #[config(default = false)]
    pub mlp_bias: bool,
    /// The deviation of new weights. Default: 0.02
    #[config(default = 0.02)]
    pub initializer_range: f64,
    /// The token that begins a text. Default: none
    #[config(default = "None")]
    pub bos_token_id: Option<u32>,
    /// The tokens that end one. Default: none
    #[config(default = "Vec::new()")]
    pub eos_token_ids: Vec<u32>,
    /// The token that fills batches up. Default: none
    #[config(default = "None")]
    pub pad_token_id: Option<u32>,
}

/// How rotary frequencies are scaled for sequences longer than those of the first training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All of them divided by `factor`.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A larger base for sequences beyond `max_position_embeddings`.
    Dynamic {
        /// The factor.
        factor: f64,
    },
    /// That of LLaMA 3.1: long waves divided by `factor`, short ones kept, and a passage between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Waves longer than the original length over this are divided.
        low_freq_factor: f64,
        /// Waves shorter than the original length over this are kept.
        high_freq_factor: f64,
        /// The length that the first training had.
        original_max_position_embeddings: usize,
    },
}

/// One token, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl From<OneOrMore> for Vec<u32> {
    fn from(ids: OneOrMore) -> Self {
        match ids {
            OneOrMore::One(id) => vec![id],
            OneOrMore::More(ids) => ids,
        }
    }
}

/// The keys of `config.json` that matter here; all else in it is kept as it is.
#[derive(Deserialize)]
struct Published {
    model_type: Option<String>,
    hidden_act: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// The place of both in files of transformers 5.
    rope_parameters: Option<Map<String, Value>>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    initializer_range: Option<f64>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMore>,
    /// -1 where there is none, in files of LLaMA 1.
    pad_token_id: Option<i64>,
}

impl LlamaConfig {
    /// Llama-2-7B.
    pub fn llama2_7b() -> Self {
        Self {
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            ..Self::new(32_000, 4096, 11_008, 32, 32)
        }
    }

    /// Llama-3.1-8B.
    pub fn llama31_8b() -> Self {
        Self {
            num_key_value_heads: Some(8),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-5,
            rope_theta: 5e5,
            rope_scaling: Some(RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            }),
            bos_token_id: Some(128_000),
            eos_token_ids: vec![128_001],
            ..Self::new(128_256, 4096, 14_336, 32, 32)
        }
    }

    /// The configuration in the contents of a `config.json`, of old and of new form.
    ///
    /// - path: the file, for errors
    ///
    /// # Errors
    ///
    /// When a key is missing or of another type, or the architecture is another one.
    pub fn from_json(json: &Value, path: &Path) -> Result<Self> {
        let published: Published = serde_json::from_value(json.clone())
            .map_err(|error| Error::format(path, "file", "the configuration of a LLaMA", error))?;
        let wrong = |key: &str, expected: &str, found: &dyn std::fmt::Display| {
            Err(Error::format(path, format!("`{key}`"), expected, format!("`{found}`")))
        };
        match published.model_type.as_deref() {
            None | Some("llama") => {}
            Some(other) => return wrong("model_type", "`llama`", &other),
        }
        match published.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return wrong("hidden_act", "`silu`", &other),
        }
        let rope = published.rope_parameters.as_ref();
        let theta = rope.and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
        let config = Self {
            num_key_value_heads: published.num_key_value_heads,
            head_dim: published.head_dim,
            max_position_embeddings: published.max_position_embeddings.unwrap_or(2048),
            rms_norm_eps: published.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.or(published.rope_theta).unwrap_or(10_000.0),
            rope_scaling: match rope.or(published.rope_scaling.as_ref()) {
                Some(scaling) => RopeScaling::from_json(scaling, path)?,
                None => None,
            },
            tie_word_embeddings: published.tie_word_embeddings.unwrap_or(false),
            attention_bias: published.attention_bias.unwrap_or(false),
            mlp_bias: published.mlp_bias.unwrap_or(false),
            initializer_range: published.initializer_range.unwrap_or(0.02),
            bos_token_id: published.bos_token_id,
            eos_token_ids: published.eos_token_id.map(Into::into).unwrap_or_default(),
            pad_token_id: published.pad_token_id.and_then(|id| id.try_into().ok()),
            ..Self::new(
                published.vocab_size,
                published.hidden_size,
                published.intermediate_size,
                published.num_hidden_layers,
                published.num_attention_heads,
            )
        };
        config.check()?;
        Ok(config)
    }

    /// The contents of a `config.json`.
    ///
    /// - original: the contents of the file that the model came from, whose other keys stay; empty for a new model
    pub fn to_json(&self, original: &Map<String, Value>) -> Map<String, Value> {
        let mut json = original.clone();
        let one_or_more = match &self.eos_token_ids[..] {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let values = [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("model_type", json!("llama")),
            ("hidden_act", json!("silu")),
            ("vocab_size", json!(self.vocab_size)),
            ("hidden_size", json!(self.hidden_size)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("num_hidden_layers", json!(self.num_hidden_layers)),
            ("num_attention_heads", json!(self.num_attention_heads)),
            ("num_key_value_heads", json!(self.key_value_heads())),
            ("head_dim", json!(self.head_dim())),
            ("max_position_embeddings", json!(self.max_position_embeddings)),
            ("rms_norm_eps", json!(self.rms_norm_eps)),
            ("rope_theta", json!(self.rope_theta)),
            ("rope_scaling", json!(self.rope_scaling)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
            ("attention_bias", json!(self.attention_bias)),
            ("mlp_bias", json!(self.mlp_bias)),
            ("initializer_range", json!(self.initializer_range)),
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", one_or_more),
            ("pad_token_id", json!(self.pad_token_id)),
        ];
        // The older keys say it to all readers.
        json.remove("rope_parameters");
        json.extend(values.map(|(key, value)| (key.to_owned(), value)));
        json
    }

    /// The number of key and value heads.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// The number of parameters; a tied table counts once.
    pub fn parameters(&self) -> usize {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.num_attention_heads * self.head_dim();
        let keys = self.key_value_heads() * self.head_dim();
        let attention = 2 * hidden * (queries + keys);
        let biases = usize::from(self.attention_bias) * (queries + 2 * keys + hidden)
            + usize::from(self.mlp_bias) * (2 * inner + hidden);
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        let layer = attention + 3 * hidden * inner + 2 * hidden + biases;
        tables * self.vocab_size * hidden + self.num_hidden_layers * layer + hidden
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range or contradicts another.
    pub fn check(&self) -> Result<()> {
        at_least_one([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_value_heads()),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        if !self.num_attention_heads.is_multiple_of(self.key_value_heads()) {
            let expected = format!("a divisor of num_attention_heads, {}", self.num_attention_heads);
            return Err(Error::setting("num_key_value_heads", expected, self.key_value_heads()));
        }
        if self.head_dim() == 0 || !self.head_dim().is_multiple_of(2) {
            return Err(Error::setting("head_dim", "an even number", self.head_dim()));
        }
        for (field, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::setting(field, "a positive number", value));
            }
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            let expected = "a number from 0 on";
            return Err(Error::setting("initializer_range", expected, self.initializer_range));
        }
        let (factor, spread) = match self.rope_scaling {
            None => (1.0, 1.0),
            Some(RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor }) => (factor, 1.0),
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
                (factor, high_freq_factor - low_freq_factor)
            }
        };
        if !(factor.is_finite() && factor > 0.0 && spread > 0.0) {
            let expected = "positive factors, and the high frequencies' above the low ones'";
            return Err(Error::setting("rope_scaling", expected, format!("{:?}", self.rope_scaling)));
        }
        Ok(())
    }

    /// A network with weights drawn from `N(0, initializer_range)`.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Llama<B>> {
        let range = self.initializer_range;
        self.build(None, device, |shape| Param::from_tensor(generator.normal(shape, device) * range))
    }

    /// A network whose weights are to be read: they take no memory before.
    pub(crate) fn empty<B: Backend>(&self, dtype: DType, device: &B::Device) -> Result<Llama<B>> {
        self.build(Some(dtype), device, |shape| {
            let zeros = move |device: &B::Device, learned| {
                Tensor::zeros(shape, (device, dtype)).set_require_grad(learned)
            };
            Param::uninitialized(ParamId::new(), zeros, device.clone(), true, shape.into())
        })
    }

    fn build<B: Backend>(
        &self,
        dtype: Option<DType>,
        device: &B::Device,
        mut weight: impl FnMut([usize; 2]) -> Param<Tensor<B, 2>>,
    ) -> Result<Llama<B>> {
        self.check()?;
        let hidden = self.hidden_size;
        let (queries, keys) =
            (self.num_attention_heads * self.head_dim(), self.key_value_heads() * self.head_dim());
        let typed = |x: Tensor<B, 1>| Param::from_tensor(dtype.map_or(x.clone(), |dtype| x.cast(dtype)));
        let norm = || RmsNorm { weight: typed(Tensor::ones([hidden], device)), epsilon: self.rms_norm_eps };
        let mut projection = |input: usize, output: usize, bias: bool| Projection {
            weight: weight([output, input]),
            bias: bias.then(|| typed(Tensor::zeros([output], device))),
        };
        let table = projection(hidden, self.vocab_size, false).weight;
        let layers = (0..self.num_hidden_layers).map(|_| DecoderLayer {
            self_attn: Attention {
                q_proj: projection(hidden, queries, self.attention_bias),
                k_proj: projection(hidden, keys, self.attention_bias),
                v_proj: projection(hidden, keys, self.attention_bias),
                o_proj: projection(queries, hidden, self.attention_bias),
                heads: self.num_attention_heads,
                key_value_heads: self.key_value_heads(),
            },
            mlp: Mlp {
                gate_proj: projection(hidden, self.intermediate_size, self.mlp_bias),
                up_proj: projection(hidden, self.intermediate_size, self.mlp_bias),
                down_proj: projection(self.intermediate_size, hidden, self.mlp_bias),
            },
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        });
        let layers = layers.collect();
        let lm_head = (!self.tie_word_embeddings).then(|| projection(hidden, self.vocab_size, false));
        Ok(Llama {
            model: Decoder { embed_tokens: Embedding { weight: table }, layers, norm: norm() },
            lm_head,
            config: self.clone(),
        })
    }
}

impl RopeScaling {
    fn from_json(scaling: &Map<String, Value>, path: &Path) -> Result<Option<Self>> {
        let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str);
        match kind {
            None | Some("default") => return Ok(None),
            Some("linear" | "dynamic" | "llama3") => {}
            Some(other) => {
                let expected = "`linear`, `dynamic` or `llama3`; others are not implemented";
                return Err(Error::format(path, "`rope_scaling`", expected, format!("`{other}`")));
            }
        }
        let mut scaling = scaling.clone();
        scaling.insert("rope_type".to_owned(), json!(kind));
        serde_json::from_value(Value::Object(scaling))
            .map(Some)
            .map_err(|error| Error::format(path, "`rope_scaling`", "its parameters", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: Value) -> Result<LlamaConfig> {
        LlamaConfig::from_json(&json, Path::new("config.json"))
    }

    fn small() -> Map<String, Value> {
        let json = json!({
            "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
        });
        json.as_object().unwrap().clone()
    }

    fn with(key: &str, value: Value) -> Value {
        let mut json = small();
        json.insert(key.to_owned(), value);
        Value::Object(json)
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let llama3 = json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3",
        });
        let mut old = small();
        old.insert("rope_theta".to_owned(), json!(5e5));
        old.insert("rope_scaling".to_owned(), llama3.clone());
        let mut parameters = llama3.as_object().unwrap().clone();
        parameters.insert("rope_theta".to_owned(), json!(5e5));
        let old = read(Value::Object(old)).unwrap();
        assert_eq!(old, read(with("rope_parameters", Value::Object(parameters))).unwrap());
        assert!(matches!(old.rope_scaling, Some(RopeScaling::Llama3 { factor: 8.0, .. })));
        let linear = read(with("rope_scaling", json!({ "type": "linear", "factor": 2.0 }))).unwrap();
        assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
        assert_eq!(read(with("rope_scaling", Value::Null)).unwrap().rope_scaling, None);
    }

    #[test]
    fn what_is_written_is_read_and_other_keys_stay() {
        let json = with("eos_token_id", json!([5, 6]));
        let config = read(json.clone()).unwrap();
        assert_eq!(read(with("pad_token_id", json!(-1))).unwrap().pad_token_id, None);
        assert_eq!(config.eos_token_ids, [5, 6]);
        let written = config.to_json(json.as_object().unwrap());
        assert_eq!(written["torch_dtype"], "float32");
        let again = read(Value::Object(written)).unwrap();
        let filled = LlamaConfig { num_key_value_heads: Some(2), head_dim: Some(4), ..config };
        assert_eq!(again, filled);
    }

    #[test]
    fn other_architectures_are_refused() {
        for (key, value) in [
            ("model_type", json!("mistral")),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
            ("rope_scaling", json!({ "rope_type": "llama3", "factor": 4.0 })),
            ("rope_scaling", json!({ "rope_type": "linear", "factor": 0.0 })),
            ("num_key_value_heads", json!(3)),
            ("head_dim", json!(3)),
            ("rms_norm_eps", json!(0.0)),
        ] {
            let error = read(with(key, value)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(read(json!({ "vocab_size": 3 })).unwrap_err().to_string().contains("hidden_size"));
    }

    #[test]
    fn the_published_sizes_have_the_published_parameters() {
        assert_eq!(LlamaConfig::llama2_7b().parameters(), 6_738_415_616);
        assert_eq!(LlamaConfig::llama31_8b().parameters(), 8_030_261_248);
    }
}
