//! LLaMA (Touvron et al., 2023; Dubey et al., 2024): versions 1 to 3.x, under Hugging Face's names.
//!
//! ```
//! use burn::tensor::{Int, Tensor};
//! use burn_flex::Flex;
//! use leanburn_core::random::Generator;
//! use leanburn_language::{CausalLm, llama::{LlamaConfig, Sequences}};
//!
//! let device = Default::default();
//! let config = LlamaConfig::new(32, 16, 24, 2, 4).with_num_key_value_heads(Some(2));
//! let network = config.init::<Flex>(&mut Generator::new(1), &device)?;
//! let tokens = Tensor::<Flex, 2, Int>::from_data([[1, 7, 9], [1, 4, 5]], &device);
//! let logits = network.forward(tokens, &Sequences::whole(2, 3));
//! assert_eq!(logits.dims(), [2, 3, 32]);
//! # Ok::<(), leanburn_core::Error>(())
//! ```

mod cache;
mod config;
mod layers;
mod rope;
mod sequences;

pub use cache::KeyValueCache;
pub(crate) use config::OneOrMore;
pub use config::{LlamaConfig, RopeScaling};
pub use layers::{Attention, Decoder, DecoderLayer, Matrix, Mlp, Place, Projection, RmsNorm};
pub(crate) use layers::{Surroundings, multiplied, wide};
pub(crate) use rope::Rotary;
pub use rope::inverse_frequencies;
pub use sequences::Sequences;

use burn::{
    module::{Module, Param},
    tensor::{
        DType, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{Error, Result, checkpoint::Checkpoint, random::Generator};

use crate::causal::{CausalLm, Trainable};

/// A LLaMA, made by a [`LlamaConfig`] or read by [`ModelFolder`](crate::folder::ModelFolder).
#[derive(Module, Debug)]
pub struct Llama<B: Backend> {
    /// The decoder.
    pub model: Decoder<B>,
    /// The output layer; the embedding table when there is none.
    pub lm_head: Option<Projection<B>>,
    #[module(skip)]
    pub(crate) config: LlamaConfig,
}

impl<B: Backend> Llama<B> {
    /// Its configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Where its parameters are. Numbers do not tell: `Dispatch` keeps them on no device that records gradients.
    pub fn device(&self) -> B::Device {
        self.model.norm.weight.val().device()
    }

    /// One of its matrices.
    pub fn projection(&self, place: Place) -> &Projection<B> {
        self.model.layers[place.layer].projection(place.matrix)
    }

    /// The network with other weights in the place of some.
    pub(crate) fn with_weight(mut self, place: Place, weight: Tensor<B, 2>) -> Self {
        let projection = self.model.layers[place.layer].projection_mut(place.matrix);
        projection.weight = Param::from_tensor(weight);
        self
    }

    /// The network that a checkpoint holds under Hugging Face's names: whole, the decoder alone, or wrapped.
    ///
    /// - dtype: of the weights, whatever the checkpoint's are
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the checkpoint's tensors are not those of the configuration.
    pub fn load(
        config: &LlamaConfig,
        checkpoint: Checkpoint,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self> {
        let checkpoint = published(config, checkpoint)?;
        if let Some(scores) = checkpoint.names().find(|name| name.ends_with(".scores")) {
            let expected = "a network without masks; see `mft::MaskedLlama::load` and `mft::Masks`";
            return Err(Error::format(checkpoint.path(), format!("tensor `{scores}`"), expected, "scores"));
        }
        checkpoint.load_into(config.empty(dtype, device)?, str::to_owned)
    }

    /// The network with as many rows in its tables as a tokenizer needs.
    ///
    /// New rows are drawn from the normal distribution of the old ones (mean and covariance), as the transformers library
    /// does, so that their logits are no larger than others'.
    ///
    /// - rows: at least as many as there are
    ///
    /// # Errors
    ///
    /// When there would be fewer rows.
    pub fn resized(mut self, rows: usize, generator: &mut Generator) -> Result<Self> {
        if rows < self.config.vocab_size {
            let expected = format!("at least the {} rows that there are", self.config.vocab_size);
            return Err(Error::setting("vocab_size", expected, rows));
        }
        let new = rows - self.config.vocab_size;
        if new > 0 {
            let table = &mut self.model.embed_tokens.weight;
            *table = Param::from_tensor(enlarged(table.val(), new, generator).detach());
            if let Some(head) = &mut self.lm_head {
                head.weight = Param::from_tensor(enlarged(head.weight.val(), new, generator).detach());
            }
            self.config.vocab_size = rows;
        }
        Ok(self)
    }
}

impl<B: Backend> CausalLm<B> for Llama<B> {
    fn llama(&self) -> &Llama<B> {
        self
    }

    fn trained_from(&self) -> Option<usize> {
        None
    }
}

impl<B: AutodiffBackend> Trainable<B> for Llama<B> {}

/// A table with `new` more rows, of the old ones' mean and covariance.
fn enlarged<B: Backend>(table: Tensor<B, 2>, new: usize, generator: &mut Generator) -> Tensor<B, 2> {
    let [rows, _] = table.dims();
    let device = table.device();
    let mean = table.clone().mean_dim(0);
    let centred = table.clone() - mean.clone();
    // A combination of centred rows with independent normal weights has their covariance.
    let weights = generator.normal::<B, 2>([new, rows], &device).cast(table.dtype());
    let drawn = weights.matmul(centred) / (rows as f64).sqrt() + mean;
    Tensor::cat(vec![table, drawn], 0)
}

/// A checkpoint under the names that a [`Llama`] of a configuration has: without wrappers and without what no network needs.
pub(crate) fn published(config: &LlamaConfig, checkpoint: Checkpoint) -> Result<Checkpoint> {
    let tied = config.tie_word_embeddings;
    let renamed = checkpoint.renamed(|name| {
        let parts: Vec<&str> =
            name.split('.').filter(|part| !matches!(*part, "module" | "_orig_mod")).collect();
        let name = parts.join(".");
        let name = name.strip_prefix("base_model.model.").unwrap_or(&name);
        // The decoder alone.
        let bare = ["layers.", "embed_tokens.", "norm."].iter().any(|start| name.starts_with(start));
        if bare { format!("model.{name}") } else { name.to_owned() }
    })?;
    Ok(renamed.without(|name| name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight")))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, TensorData, Tolerance};
    use burn_flex::Flex;

    use super::*;

    fn config() -> LlamaConfig {
        LlamaConfig::new(32, 16, 24, 2, 4).with_num_key_value_heads(Some(2))
    }

    fn network(seed: u64) -> Llama<Flex> {
        // Weights large enough that tokens matter.
        let config = config().with_initializer_range(0.3);
        config.init(&mut Generator::new(seed), &Default::default()).unwrap()
    }

    fn tokens(rows: &[&[i64]]) -> Tensor<Flex, 2, Int> {
        let values: Vec<i64> = rows.concat();
        Tensor::from_data(TensorData::new(values, [rows.len(), rows[0].len()]), &Default::default())
    }

    fn close(found: Tensor<Flex, 3>, expected: Tensor<Flex, 3>) {
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-5));
    }

    #[test]
    fn a_cache_changes_nothing() {
        let network = network(1);
        let row: &[i64] = &[3, 1, 4, 1, 5, 9];
        let whole = network.forward(tokens(&[row]), &Sequences::whole(1, 6));
        let mut cache = KeyValueCache::new(2);
        let mut parts = Vec::new();
        for (from, to) in [(0, 3), (3, 4), (4, 6)] {
            let sequences = Sequences::whole(1, to);
            let hidden = network.hidden(tokens(&[&row[from..to]]), &sequences, Some(&mut cache));
            parts.push(network.logits(hidden));
            assert_eq!(cache.length(), to);
        }
        close(Tensor::cat(parts, 1), whole);
    }

    #[test]
    fn padding_and_neighbours_change_nothing() {
        let network = network(1);
        let alone = |row: &[i64]| network.forward(tokens(&[row]), &Sequences::whole(1, row.len()));
        let (first, second) = (alone(&[3, 1, 4]), alone(&[5, 9]));
        let left = network.forward(tokens(&[&[0, 5, 9], &[3, 1, 4]]), &Sequences::left_padded(&[2, 3], 3));
        close(left.clone().narrow(0, 0, 1).narrow(1, 1, 2), second.clone());
        close(left.narrow(0, 1, 1), first.clone());
        let right = network.forward(tokens(&[&[5, 9, 0], &[3, 1, 4]]), &Sequences::right_padded(&[2, 3], 3));
        close(right.narrow(0, 0, 1).narrow(1, 0, 2), second.clone());
        let packed = Sequences::packed(&[vec![3, 2]], 6);
        let packed = network.forward(tokens(&[&[3, 1, 4, 5, 9, 0]]), &packed);
        close(packed.clone().narrow(1, 0, 3), first);
        close(packed.narrow(1, 3, 2), second);
    }

    #[test]
    fn new_rows_are_like_the_old_ones() {
        let network = network(2);
        let table = network.model.embed_tokens.weight.val();
        let larger = network.clone().resized(4000, &mut Generator::new(3)).unwrap();
        let rows = larger.model.embed_tokens.weight.val();
        assert_eq!(rows.clone().narrow(0, 0, 32).into_data(), table.clone().into_data());
        let new = rows.narrow(0, 32, 3968);
        let deviation = |x: Tensor<Flex, 2>| x.var_bias(0).sqrt().mean().into_scalar();
        assert!((deviation(new) / deviation(table) - 1.0).abs() < 0.05);
        assert_eq!(larger.config().vocab_size, 4000);
        assert!(network.resized(8, &mut Generator::new(3)).unwrap_err().to_string().contains("vocab_size"));
    }

    #[test]
    fn published_files_of_all_kinds_are_read() {
        let network = network(4);
        let tensors = leanburn_core::checkpoint::tensors(&network, str::to_owned).unwrap();
        let expected = network.forward(tokens(&[&[3, 1, 4]]), &Sequences::whole(1, 3));
        let wrapped: [fn(&str) -> String; 4] = [
            str::to_owned,
            |name| format!("module.{name}"),
            |name| format!("_orig_mod.{name}"),
            |name| format!("base_model.model.{name}"),
        ];
        for names in wrapped {
            let others = [("model.layers.0.self_attn.rotary_emb.inv_freq", [0.0_f32; 2])];
            let others = others.map(|(name, values)| (name.to_owned(), TensorData::from(values)));
            let tensors = tensors.iter().map(|(name, data)| (names(name), data.clone())).chain(others);
            let checkpoint = Checkpoint::from_tensors("model.bin", tensors);
            let loaded = Llama::<Flex>::load(&config(), checkpoint, DType::F32, &Default::default()).unwrap();
            close(loaded.forward(tokens(&[&[3, 1, 4]]), &Sequences::whole(1, 3)), expected.clone());
        }
        // A decoder alone, with a tied table; older files hold the head as well.
        let tied = config().with_tie_word_embeddings(true);
        for head in [false, true] {
            let tensors = tensors.iter().filter(|(name, _)| head || name != "lm_head.weight");
            let bare = tensors.map(|(name, data)| (name.replace("model.", ""), data.clone()));
            let checkpoint = Checkpoint::from_tensors("model.bin", bare);
            assert!(Llama::<Flex>::load(&tied, checkpoint, DType::F32, &Default::default()).is_ok());
        }
        let scores = ("model.layers.0.mlp.up_proj.scores".to_owned(), TensorData::from([0.0_f32]));
        let checkpoint = Checkpoint::from_tensors("model.bin", tensors.into_iter().chain([scores]));
        let error = Llama::<Flex>::load(&config(), checkpoint, DType::F32, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("up_proj.scores"), "{error}");
    }
}
