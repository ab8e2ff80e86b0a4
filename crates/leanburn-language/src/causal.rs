use burn::{
    module::{AutodiffModule, ModuleDisplay},
    nn::Embedding,
    optim::GradientsParams,
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
        module::embedding,
    },
};
use leanburn_core::{Error, Result, loss::cross_entropy};
use serde::{Deserialize, Serialize};

use crate::llama::{KeyValueCache, Llama, Place, Rotary, Sequences, Surroundings, wide};

/// A network that predicts each token from those before it: a [`Llama`], or one with something added to its matrices.
pub trait CausalLm<B: Backend>: Sync {
    /// The network without what is added.
    fn llama(&self) -> &Llama<B>;

    /// The lowest decoder layer that training changes; `None` when it changes all parameters, those below the layers too.
    fn trained_from(&self) -> Option<usize>;

    /// Computes what passes share, so that copies of the network have it.
    #[doc(hidden)]
    fn prepare(&self) {}

    /// Applies a matrix.
    ///
    /// - x: `[batch, length, input]`
    /// - noise: the seed of what a training step draws; `None` in evaluation
    fn project(&self, place: Place, x: Tensor<B, 3>, noise: Option<u64>) -> Tensor<B, 3> {
        let _ = noise;
        self.llama().projection(place).forward(x)
    }

    /// The logits of each token's next one, in float32 or wider.
    ///
    /// - tokens: `[batch, length]`
    /// - output: `[batch, length, vocab_size]`
    ///
    /// # Panics
    ///
    /// When `sequences` has another shape than `tokens`.
    fn forward(&self, tokens: Tensor<B, 2, Int>, sequences: &Sequences) -> Tensor<B, 3> {
        self.logits(self.hidden(tokens, sequences, None))
    }

    /// What the output layer gets.
    ///
    /// - tokens: `[batch, length]`, the last ones of `sequences` where the cache has seen those before
    /// - output: `[batch, length, hidden_size]`
    ///
    /// # Panics
    ///
    /// When `sequences` is not as long as what the cache has seen and `tokens`.
    fn hidden(
        &self,
        tokens: Tensor<B, 2, Int>,
        sequences: &Sequences,
        cache: Option<&mut KeyValueCache<B>>,
    ) -> Tensor<B, 3> {
        self.pass(tokens, sequences, None, cache)
    }

    /// [`hidden`](Self::hidden) with what a training step draws.
    #[doc(hidden)]
    fn pass(
        &self,
        tokens: Tensor<B, 2, Int>,
        sequences: &Sequences,
        noise: Option<u64>,
        mut cache: Option<&mut KeyValueCache<B>>,
    ) -> Tensor<B, 3> {
        let seen = cache.as_ref().map_or(0, |cache| cache.length());
        let [rows, length] = tokens.dims();
        assert_eq!([sequences.rows(), sequences.length()], [rows, seen + length], "sequences and tokens");
        let surroundings = self.surroundings(sequences, seen);
        let mut x = self.embedded(tokens);
        for layer in 0..self.llama().model.layers.len() {
            x = self.layer(layer, x, &surroundings, noise, cache.as_deref_mut());
        }
        self.llama().model.norm.forward(x)
    }

    /// - hidden: `[batch, length, hidden_size]`
    /// - output: `[batch, length, vocab_size]`
    fn logits(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        let Llama { model, lm_head, .. } = self.llama();
        let logits = match lm_head {
            Some(head) => head.forward(hidden),
            None => crate::llama::multiplied(hidden, model.embed_tokens.weight.val()),
        };
        let dtype = wide(logits.dtype());
        logits.cast(dtype)
    }

    /// - tokens: `[batch, length]`
    /// - output: `[batch, length, hidden_size]`
    #[doc(hidden)]
    fn embedded(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let Embedding { weight } = &self.llama().model.embed_tokens;
        embedding(weight.val(), tokens)
    }

    /// What all layers of a pass have in common.
    #[doc(hidden)]
    fn surroundings(&self, sequences: &Sequences, seen: usize) -> Surroundings<B> {
        let (config, device) = (self.llama().config(), self.llama().device());
        Surroundings {
            rotary: Rotary::new(config, &sequences.positions(seen), sequences.longest(), &device),
            hidden: sequences.hidden(seen, &device),
        }
    }

    /// How much each token attends to each, by a layer: `[batch, heads, length, length]`.
    ///
    /// - layer: counted from 0
    /// - tokens: `[batch, length]`
    ///
    /// # Panics
    ///
    /// When `sequences` has another shape than `tokens`, or there is no such layer.
    fn attention_weights(
        &self,
        layer: usize,
        tokens: Tensor<B, 2, Int>,
        sequences: &Sequences,
    ) -> Tensor<B, 4> {
        let surroundings = self.surroundings(sequences, 0);
        let below = |x, layer| self.layer(layer, x, &surroundings, None, None);
        let x = (0..layer).fold(self.embedded(tokens), below);
        let project = |matrix, x| self.project(Place { layer, matrix }, x, None);
        self.llama().model.layers[layer].attention_weights(x, &surroundings, &project)
    }

    /// A decoder layer.
    #[doc(hidden)]
    fn layer(
        &self,
        layer: usize,
        x: Tensor<B, 3>,
        surroundings: &Surroundings<B>,
        noise: Option<u64>,
        cache: Option<&mut KeyValueCache<B>>,
    ) -> Tensor<B, 3> {
        let project = |matrix, x| self.project(Place { layer, matrix }, x, noise);
        let cache = cache.map(|cache| &mut cache.layers[layer]);
        self.llama().model.layers[layer].forward(x, surroundings, &project, cache)
    }
}

/// A [`CausalLm`] that learns.
pub trait Trainable<B: AutodiffBackend>: CausalLm<B> + AutodiffModule<B> + ModuleDisplay + 'static
where
    Self::InnerModule: CausalLm<B::InnerBackend> + ModuleDisplay,
{
    /// The gradients of its parameters, of which some may be computed from others'.
    fn gradients(&self, gradients: &mut B::Gradients) -> GradientsParams {
        GradientsParams::from_module(gradients, self)
    }
}

/// A text as tokens, and which of them are learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// Tokens.
    pub tokens: Vec<u32>,
    /// Whether each is a target.
    pub learned: Vec<bool>,
}

impl Encoded {
    /// A text that is learned whole.
    pub fn whole(tokens: Vec<u32>) -> Self {
        let learned = vec![true; tokens.len()];
        Self { tokens, learned }
    }

    /// Cuts the text off behind so many tokens.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.learned.truncate(length);
    }

    /// How many tokens are predicted: the first of a text never is.
    pub fn targets(&self) -> usize {
        self.learned.iter().skip(1).filter(|learned| **learned).count()
    }
}

/// Texts that are learned together.
#[derive(Debug, Clone)]
pub struct TokenBatch<B: Backend> {
    /// `[batch, length]`
    pub tokens: Tensor<B, 2, Int>,
    /// Where the texts lie in it.
    pub sequences: Sequences,
    /// The places, counted through all rows, whose next token is predicted: `[targets]`.
    pub places: Tensor<B, 1, Int>,
    /// These next tokens: `[targets]`.
    pub targets: Tensor<B, 1, Int>,
    /// The seed of what a training step draws.
    pub noise: u64,
}

impl<B: Backend> TokenBatch<B> {
    /// Texts in rows of their own, with padding behind the shorter ones.
    ///
    /// - pad: the token of the padding, which nothing depends on
    ///
    /// # Errors
    ///
    /// When there is no text, or none of them has a target.
    pub fn padded(texts: &[Encoded], pad: u32, device: &B::Device) -> Result<Self> {
        let rows: Vec<Vec<&Encoded>> = texts.iter().map(|text| vec![text]).collect();
        Self::packed(&rows, pad, device)
    }

    /// Rows of several texts, one behind the other, which do not see each other.
    ///
    /// # Errors
    ///
    /// When there is no text, or none of them has a target.
    pub fn packed(rows: &[Vec<&Encoded>], pad: u32, device: &B::Device) -> Result<Self> {
        let lengths: Vec<Vec<usize>> =
            rows.iter().map(|row| row.iter().map(|text| text.tokens.len()).collect()).collect();
        let length = lengths.iter().map(|row| row.iter().sum()).max().unwrap_or(0);
        let (mut tokens, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let start = tokens.len();
            for Encoded { tokens: text, learned } in row {
                for (at, &token) in text.iter().enumerate() {
                    if at > 0 && learned[at] {
                        places.push(tokens.len() as i64 - 1);
                        targets.push(i64::from(token));
                    }
                    tokens.push(i64::from(token));
                }
            }
            tokens.resize(start + length, i64::from(pad));
        }
        if targets.is_empty() {
            return Err(Error::data("batch", "at least one token to learn", "none"));
        }
        let ints = |values: Vec<i64>| {
            let count = values.len();
            TensorData::new(values, [count])
        };
        Ok(Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [rows.len(), length]), device),
            sequences: Sequences::packed(&lengths, length),
            places: Tensor::from_data(ints(places), device),
            targets: Tensor::from_data(ints(targets), device),
            noise: 0,
        })
    }

    /// How many tokens are predicted.
    pub fn target_count(&self) -> usize {
        self.targets.dims()[0]
    }

    /// What the output layer gets at the places whose next token is predicted.
    ///
    /// - hidden: `[batch, length, width]`
    /// - output: `[1, targets, width]`
    pub(crate) fn at_places(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, length, width] = hidden.dims();
        hidden.reshape([batch * length, width]).select(0, self.places.clone()).unsqueeze()
    }

    /// The mean cross-entropy of the tokens that are predicted.
    ///
    /// - logits: `[1, targets, vocab_size]`
    /// - output: `[1]`
    pub(crate) fn cross_entropy(&self, logits: Tensor<B, 3>) -> Tensor<B, 1> {
        cross_entropy(logits.squeeze_dim(0), self.targets.clone())
    }
}

/// The mean cross-entropy of the tokens of a batch that are predicted, `[1]`.
pub fn loss<B: Backend>(model: &impl CausalLm<B>, batch: &TokenBatch<B>) -> Tensor<B, 1> {
    let hidden = model.hidden(batch.tokens.clone(), &batch.sequences, None);
    batch.cross_entropy(model.logits(batch.at_places(hidden)))
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    use super::*;
    use crate::llama::LlamaConfig;

    fn text(tokens: &[u32], learned: &[bool]) -> Encoded {
        Encoded { tokens: tokens.to_vec(), learned: learned.to_vec() }
    }

    #[test]
    fn targets_are_the_next_tokens_of_the_same_text() {
        let texts = [text(&[1, 2, 3], &[true, false, true]), text(&[4, 5], &[false, true])];
        let device = Default::default();
        let ints = |x: Tensor<Flex, 1, Int>| x.into_data().iter::<i64>().collect::<Vec<_>>();
        let padded = TokenBatch::<Flex>::padded(&texts, 0, &device).unwrap();
        assert_eq!((ints(padded.places), ints(padded.targets)), (vec![1, 3], vec![3, 5]));
        let packed = TokenBatch::<Flex>::packed(&[texts.iter().collect()], 0, &device).unwrap();
        assert_eq!(packed.tokens.dims(), [1, 5]);
        assert_eq!((ints(packed.places), ints(packed.targets)), (vec![1, 3], vec![3, 5]));
        let silent = [text(&[1, 2], &[true, false])];
        assert_eq!(silent[0].targets(), 0);
        assert!(TokenBatch::<Flex>::padded(&silent, 0, &device).is_err());
    }

    #[test]
    fn packed_and_padded_texts_have_the_same_loss() {
        let texts = [text(&[1, 2, 3, 9], &[false, false, true, true]), text(&[4, 5], &[false, true])];
        let device = Default::default();
        let config = LlamaConfig::new(32, 16, 24, 2, 4).with_initializer_range(0.3);
        let network = config.init::<Flex>(&mut Generator::new(1), &device).unwrap();
        let padded = loss(&network, &TokenBatch::padded(&texts, 0, &device).unwrap());
        let packed = TokenBatch::packed(&[texts.iter().collect()], 0, &device).unwrap();
        let difference = padded - loss(&network, &packed);
        assert!(difference.abs().into_scalar() < 1e-5);
    }
}
