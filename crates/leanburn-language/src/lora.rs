//! LoRA (Hu et al., 2022): low-rank matrices beside frozen ones.

use std::{collections::BTreeSet, path::Path};

use burn::{
    config::Config,
    module::{Module, Param},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{
    Error, Result, at_least_one,
    checkpoint::{self, Checkpoint},
    nn::dropout,
    random::Generator,
    report,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    causal::{CausalLm, Trainable},
    frozen::Frozen,
    llama::{Llama, Matrix, Place, multiplied},
};

/// Configuration of a [`Lora`].
#[derive(Config, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank of the matrices. Default: 64
    #[config(default = 64)]
    pub rank: usize,
    /// By this over the rank is scaled what they add. Default: 16
    #[config(default = 16.0)]
    pub alpha: f64,
    /// The probability of dropout before them. Default: 0.1
    #[config(default = 0.1)]
    pub dropout: f64,
    /// The matrices of each layer that have them. Default: all seven
    #[config(default = "Matrix::ALL.to_vec()")]
    pub targets: Vec<Matrix>,
}

impl LoraConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        at_least_one([("rank", self.rank), ("targets", self.targets.len())])?;
        let distinct: BTreeSet<Matrix> = self.targets.iter().copied().collect();
        if distinct.len() < self.targets.len() {
            return Err(Error::setting("targets", "each matrix once", format!("{:?}", self.targets)));
        }
        if !self.alpha.is_finite() {
            return Err(Error::setting("alpha", "a finite number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::setting("dropout", "from 0 to below 1", self.dropout));
        }
        Ok(())
    }

    fn scaling(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// A network with adapters that change nothing yet: the first matrix of each is drawn, the second is 0.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn init<B: Backend>(&self, base: Llama<B>, generator: &mut Generator) -> Result<Lora<B>> {
        self.check()?;
        let device = base.device();
        let layers = base.config().num_hidden_layers;
        let places = (0..layers)
            .flat_map(|layer| self.targets.iter().map(move |&matrix| Place { layer, matrix }))
            .collect::<Vec<_>>();
        let adapters = places.iter().map(|&place| {
            let [output, input] = base.projection(place).weight.dims();
            // PyTorch's kaiming_uniform with a = sqrt(5).
            let bound = 1.0 / (input as f32).sqrt();
            Adapter {
                lora_a: Param::from_tensor(generator.uniform([self.rank, input], -bound, bound, &device)),
                lora_b: Param::from_tensor(Tensor::zeros([output, self.rank], &device)),
            }
        });
        let adapters = adapters.collect();
        Ok(Lora { adapters, base: Frozen::new(base), places, config: self.clone() })
    }
}

/// What an `adapter_config.json` of PEFT says.
#[derive(Deserialize)]
struct Published {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Targets,
    /// Whether what the adapters add is scaled by the root of the rank.
    #[serde(default)]
    use_rslora: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    All(String),
    Some(Vec<String>),
}

impl Published {
    /// - file: for errors
    fn config(self, file: &Path) -> Result<LoraConfig> {
        const UNKNOWN: [&str; 6] =
            ["use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save", "bias"];
        for key in UNKNOWN {
            let without = match self.others.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::Object(patterns)) => patterns.is_empty(),
                Some(Value::Array(modules)) => modules.is_empty(),
                Some(other) => other == "none",
            };
            if !without {
                let expected = "adapters of one rank in all layers, and nothing beside them";
                return Err(Error::format(file, format!("`{key}`"), expected, &self.others[key]));
            }
        }
        let unknown = |name: &str| Error::format(file, "`target_modules`", "matrices of a LLaMA", name);
        let target = |name: &String| {
            let found = Matrix::ALL.into_iter().find(|matrix| matrix.path().ends_with(&format!(".{name}")));
            found.ok_or_else(|| unknown(name))
        };
        let targets = match &self.target_modules {
            Targets::All(all) if all == "all-linear" => Matrix::ALL.to_vec(),
            Targets::All(pattern) => return Err(unknown(pattern)),
            Targets::Some(names) => names.iter().map(target).collect::<Result<_>>()?,
        };
        let alpha = if self.use_rslora { self.lora_alpha * (self.r as f64).sqrt() } else { self.lora_alpha };
        Ok(LoraConfig { rank: self.r, alpha, dropout: self.lora_dropout, targets })
    }
}

/// The two matrices beside a frozen one.
#[derive(Module, Debug)]
pub struct Adapter<B: Backend> {
    /// `[rank, input]`
    pub lora_a: Param<Tensor<B, 2>>,
    /// `[output, rank]`
    pub lora_b: Param<Tensor<B, 2>>,
}

/// A network whose matrices are frozen, with adapters beside them that learn.
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    /// One for each of the places.
    pub adapters: Vec<Adapter<B>>,
    base: Frozen<Llama<B>>,
    #[module(skip)]
    places: Vec<Place>,
    #[module(skip)]
    config: LoraConfig,
}

impl<B: Backend> Lora<B> {
    /// The adapters of a PEFT folder (`adapter_config.json` and `adapter_model.safetensors` or `.bin`) on a network.
    ///
    /// # Errors
    ///
    /// When a file is absent or not of its format, the adapters are of a kind that is not known here (`DoRA`, other ranks for
    /// some matrices, biases, whole modules), or they do not fit the network.
    pub fn load(base: Llama<B>, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let file = folder.join("adapter_config.json");
        let config = report::read_json::<Published>(&file)?.config(&file)?;
        let weights = ["adapter_model.safetensors", "adapter_model.bin"].map(|name| folder.join(name));
        let path = weights.iter().find(|path| path.is_file()).ok_or_else(|| {
            Error::format(folder, "folder", "adapter_model.safetensors or adapter_model.bin", "neither")
        })?;
        Self::from_checkpoint(base, &config, Checkpoint::open(path)?)
    }

    /// Adapters of PEFT's names on a network.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the adapters do not fit the network.
    pub fn from_checkpoint(base: Llama<B>, config: &LoraConfig, checkpoint: Checkpoint) -> Result<Self> {
        let network = config.init(base, &mut Generator::new(0))?;
        // In memory, PEFT's names carry that of the adapter.
        let checkpoint = checkpoint.renamed(|name| name.replace(".default.", "."))?;
        let places = network.places.clone();
        checkpoint.load_into(network, |path| published_name(&places, path))
    }

    /// Writes the adapters into a new folder as PEFT does.
    ///
    /// # Errors
    ///
    /// When the folder exists and is not empty, or a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let names = |path: &str| published_name(&self.places, path);
        let LoraConfig { rank, alpha, dropout, targets } = &self.config;
        let targets: Vec<&str> =
            targets.iter().filter_map(|matrix| matrix.path().split('.').next_back()).collect();
        let json = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": dropout,
            "target_modules": targets, "bias": "none",
        });
        report::write_new_folder(folder.as_ref(), |folder| {
            checkpoint::save(self, folder.join("adapter_model.safetensors"), names)?;
            report::write_json(folder.join("adapter_config.json"), &json)
        })
    }

    /// The network with the adapters added to its matrices: an ordinary one.
    pub fn merged(&self) -> Llama<B> {
        let scaling = self.config.scaling();
        self.places.iter().zip(&self.adapters).fold(self.base.thawed(), |network, (&place, adapter)| {
            let weight = network.projection(place).weight.val();
            let dtype = weight.dtype();
            let added = adapter.lora_b.val().matmul(adapter.lora_a.val()) * scaling;
            network.with_weight(place, (weight + added.cast(dtype)).detach())
        })
    }

    /// The names that PEFT gives to the parameters.
    pub fn published_name(&self, path: &str) -> String {
        published_name(&self.places, path)
    }
}

fn published_name(places: &[Place], path: &str) -> String {
    let mut parts = path.split('.').skip(1);
    let place = parts.next().and_then(|number| number.parse::<usize>().ok()).and_then(|at| places.get(at));
    let matrix = if parts.next() == Some("lora_a") { "lora_A" } else { "lora_B" };
    place
        .map_or_else(|| path.to_owned(), |place| format!("base_model.model.{}.{matrix}.weight", place.path()))
}

impl<B: Backend> CausalLm<B> for Lora<B> {
    fn llama(&self) -> &Llama<B> {
        self.base.get()
    }

    fn trained_from(&self) -> Option<usize> {
        Some(0)
    }

    fn project(&self, place: Place, x: Tensor<B, 3>, noise: Option<u64>) -> Tensor<B, 3> {
        let y = self.llama().projection(place).forward(x.clone());
        let Some(number) = self.places.iter().position(|other| *other == place) else { return y };
        let Adapter { lora_a, lora_b } = &self.adapters[number];
        let dtype = y.dtype();
        // The adapters' own type, as PEFT has it.
        let x = x.cast(lora_a.dtype());
        let x = match noise {
            // From a stream of its own, so that a layer computed twice draws the same.
            Some(seed) => dropout(x, self.config.dropout, &mut Generator::stream(seed, number as u64)),
            None => x,
        };
        let added = multiplied(multiplied(x, lora_a.val()), lora_b.val()) * self.config.scaling();
        y + added.cast(dtype)
    }
}

impl<B: AutodiffBackend> Trainable<B> for Lora<B> {}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;
    use crate::llama::{LlamaConfig, Sequences};

    #[test]
    fn adapters_are_saved_loaded_and_merged() {
        let device = Default::default();
        let base = LlamaConfig::new(32, 16, 24, 2, 4)
            .with_initializer_range(0.3)
            .init::<Flex>(&mut Generator::new(1), &device)
            .unwrap();
        let config = LoraConfig::new().with_rank(4).with_targets(vec![Matrix::Query, Matrix::Down]);
        let mut network = config.init(base.clone(), &mut Generator::new(2)).unwrap();
        let tokens = Tensor::from_data([[3, 1, 4, 1]], &device);
        let logits = |network: &dyn Fn(Tensor<Flex, 2, burn::tensor::Int>) -> Tensor<Flex, 3>| {
            network(tokens.clone()).into_data()
        };
        let whole = Sequences::whole(1, 4);
        let close = |a: &burn::tensor::TensorData, b: &burn::tensor::TensorData| {
            a.assert_approx_eq::<f32>(b, burn::tensor::Tolerance::rel_abs(1e-4, 1e-5));
        };
        let before = logits(&|tokens| base.forward(tokens, &whole));
        // New adapters change nothing.
        close(&logits(&|tokens| network.forward(tokens, &whole)), &before);
        let mut generator = Generator::new(3);
        for adapter in &mut network.adapters {
            adapter.lora_b = Param::from_tensor(generator.normal(adapter.lora_b.dims(), &device));
        }
        let expected = logits(&|tokens| network.forward(tokens, &whole));
        assert_ne!(expected, before);
        close(&logits(&|tokens| network.merged().forward(tokens, &whole)), &expected);
        let folder = tempfile::tempdir().unwrap();
        network.save(folder.path()).unwrap();
        let loaded = Lora::load(base.clone(), folder.path()).unwrap();
        assert_eq!(logits(&|tokens| loaded.forward(tokens, &whole)), expected);
        assert!(matches!(network.save(folder.path()), Err(Error::Exists { .. })));
        for (key, value) in [
            ("use_dora", json!(true)),
            ("rank_pattern", json!({ "q_proj": 8 })),
            ("target_modules", json!(".*proj")),
        ] {
            let file = folder.path().join("adapter_config.json");
            let plain = std::fs::read_to_string(&file).unwrap();
            let mut changed: Map<String, Value> = serde_json::from_str(&plain).unwrap();
            changed.insert(key.to_owned(), value);
            std::fs::write(&file, serde_json::to_string(&changed).unwrap()).unwrap();
            assert!(Lora::load(base.clone(), folder.path()).unwrap_err().to_string().contains(key));
            std::fs::write(&file, plain).unwrap();
        }
        std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
        assert!(Lora::load(base, folder.path()).unwrap_err().to_string().contains("adapter_model"));
    }
}
