//! Evaluation without Python: loss and perplexity, GSM8K, HumanEval with a runner of one's own, and IF-Eval.

pub mod gsm8k;
pub mod human_eval;
pub mod if_eval;

use std::path::Path;

use burn::tensor::backend::Backend;
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    causal::{CausalLm, TokenBatch},
    generation::{GenerationConfig, generate_texts},
    tokenizer::Tokenizer,
};

/// How well a network predicts held-out texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The mean cross-entropy of all tokens that are predicted.
    pub loss: f64,
    /// How many they are.
    pub tokens: usize,
}

impl Prediction {
    /// `exp(loss)`.
    pub fn perplexity(self) -> f64 {
        self.loss.exp()
    }
}

/// Measures the loss over all tokens of some batches, each token counting the same.
///
/// # Errors
///
/// When a batch cannot be made, or there is none.
pub fn predict<B: Backend>(
    model: &impl CausalLm<B>,
    batches: impl IntoIterator<Item = Result<TokenBatch<B>>>,
) -> Result<Prediction> {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        let batch = batch?;
        let count = batch.target_count();
        let loss: f64 = crate::loss(model, &batch).into_data().iter::<f64>().sum();
        sum += loss * count as f64;
        tokens += count;
    }
    if tokens == 0 {
        return Err(Error::data("batches", "at least one", "none"));
    }
    Ok(Prediction { loss: sum / tokens as f64, tokens })
}

/// A model that continues texts, as the evaluations ask it.
#[derive(Debug)]
pub struct Continuer<'a, B: Backend, M> {
    /// The network.
    pub model: &'a M,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether the tokens are added that begin a text.
    pub special: bool,
    /// How many prompts are continued at once.
    pub batch_size: usize,
    /// Where.
    pub device: &'a B::Device,
}

impl<B: Backend, M: CausalLm<B>> Continuer<'_, B, M> {
    /// Continues prompts; `done` gets how many are.
    ///
    /// # Errors
    ///
    /// As [`generate_texts`].
    pub fn continue_all(
        &self,
        prompts: &[String],
        config: &GenerationConfig,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<String>> {
        let mut continuations = Vec::with_capacity(prompts.len());
        for batch in prompts.chunks(self.batch_size.max(1)) {
            let Self { model, tokenizer, special, device, .. } = self;
            // Each batch draws its own.
            let seed = config.seed.wrapping_add(continuations.len() as u64);
            let config = config.clone().with_seed(seed);
            continuations.extend(generate_texts(
                *model,
                tokenizer,
                batch,
                *special,
                &config,
                device,
                |_, _| {},
            )?);
            done(continuations.len());
        }
        Ok(continuations)
    }
}

/// The objects of a `.jsonl` file.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let objects: Vec<T> = lines
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| Error::format(path, format!("line {number}"), what, error))
        })
        .collect::<Result<_>>()?;
    if objects.is_empty() {
        return Err(Error::format(path, "file", what, "none"));
    }
    Ok(objects)
}
