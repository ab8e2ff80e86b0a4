#![allow(clippy::struct_field_names, reason = "the names are the published ones")]

use burn::{
    module::{Module, Param},
    nn::Embedding,
    tensor::{
        Bool, Tensor,
        activation::{silu, softmax},
        backend::Backend,
        module::attention,
        ops::AttentionModuleOptions,
    },
};
use serde::{Deserialize, Serialize};

use super::{cache::LayerCache, rope::Rotary};

/// The matrices of a decoder layer, by which methods name what they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Matrix {
    /// `self_attn.q_proj`
    Query,
    /// `self_attn.k_proj`
    Key,
    /// `self_attn.v_proj`
    Value,
    /// `self_attn.o_proj`
    Output,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Matrix {
    /// Those of attention.
    pub const ATTENTION: [Self; 4] = [Self::Query, Self::Key, Self::Value, Self::Output];
    /// Those of the MLP.
    pub const MLP: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name in a published checkpoint, below its layer.
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Whether it is one of attention's.
    pub fn is_attention(self) -> bool {
        Self::ATTENTION.contains(&self)
    }
}

/// A matrix of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The decoder layer, counted from 0.
    pub layer: usize,
    /// The matrix.
    pub matrix: Matrix,
}

impl Place {
    /// Its name in a published checkpoint: `model.layers.4.mlp.up_proj`.
    pub fn path(self) -> String {
        format!("model.layers.{}.{}", self.layer, self.matrix.path())
    }

    /// The matrix of a published name, whatever follows it (`.weight`, `.scores`); `None` of other names.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("model.layers.")?;
        let (layer, rest) = rest.split_once('.')?;
        let matrix = Matrix::ALL.into_iter().find(|matrix| {
            rest.strip_prefix(matrix.path()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })?;
        Some(Self { layer: layer.parse().ok()?, matrix })
    }
}

/// A matrix that is applied to each token.
#[derive(Module, Debug)]
pub struct Projection<B: Backend> {
    /// `[output, input]`, as published.
    pub weight: Param<Tensor<B, 2>>,
    /// `[output]`
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Projection<B> {
    /// - x: `[batch, length, input]`
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.forward_with(self.weight.val(), x)
    }

    /// The projection with other weights in the place of its own.
    pub(crate) fn forward_with(&self, weight: Tensor<B, 2>, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let y = multiplied(x, weight);
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// - x: `[batch, length, input]`
/// - weight: `[output, input]`
/// - output: `[batch, length, output]`
pub(crate) fn multiplied<B: Backend>(x: Tensor<B, 3>, weight: Tensor<B, 2>) -> Tensor<B, 3> {
    let [batch, length, input] = x.dims();
    let output = weight.dims()[0];
    x.reshape([batch * length, input]).matmul(weight.transpose()).reshape([batch, length, output])
}

/// Root-mean-square norm (Zhang and Sennrich, 2019).
///
/// Burn's has another name for its weight, and computes in float32 what is float64.
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// `[width]`
    pub weight: Param<Tensor<B, 1>>,
    pub(super) epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
    /// - x: `[batch, length, width]`
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let dtype = x.dtype();
        let x = x.cast(wide(dtype));
        let inverse = (x.clone().square().mean_dim(2) + self.epsilon).sqrt().recip();
        (x * inverse).cast(dtype) * self.weight.val().unsqueeze()
    }
}

/// The type in which sums over many values are computed.
pub(crate) fn wide(dtype: burn::tensor::DType) -> burn::tensor::DType {
    use burn::tensor::DType;
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// Self-attention with grouped key and value heads.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries.
    pub q_proj: Projection<B>,
    /// Keys.
    pub k_proj: Projection<B>,
    /// Values.
    pub v_proj: Projection<B>,
    /// What the heads give.
    pub o_proj: Projection<B>,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
}

/// The gated MLP.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// The gate.
    pub gate_proj: Projection<B>,
    /// What is gated.
    pub up_proj: Projection<B>,
    /// Back to the residual stream.
    pub down_proj: Projection<B>,
}

/// A decoder layer.
#[derive(Module, Debug)]
pub struct DecoderLayer<B: Backend> {
    /// Self-attention.
    pub self_attn: Attention<B>,
    /// The MLP.
    pub mlp: Mlp<B>,
    /// The norm before attention.
    pub input_layernorm: RmsNorm<B>,
    /// The norm before the MLP.
    pub post_attention_layernorm: RmsNorm<B>,
}

/// The decoder without its output layer.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    /// The embedding table.
    pub embed_tokens: Embedding<B>,
    /// The layers.
    pub layers: Vec<DecoderLayer<B>>,
    /// The norm behind them.
    pub norm: RmsNorm<B>,
}

/// What all layers of a pass have in common.
#[derive(Debug, Clone)]
pub struct Surroundings<B: Backend> {
    pub(crate) rotary: Rotary<B>,
    /// What tokens may not see, beside what comes after them.
    pub(crate) hidden: Option<Tensor<B, 4, Bool>>,
}

impl<B: Backend> DecoderLayer<B> {
    /// One of its matrices.
    pub fn projection(&self, matrix: Matrix) -> &Projection<B> {
        match matrix {
            Matrix::Query => &self.self_attn.q_proj,
            Matrix::Key => &self.self_attn.k_proj,
            Matrix::Value => &self.self_attn.v_proj,
            Matrix::Output => &self.self_attn.o_proj,
            Matrix::Gate => &self.mlp.gate_proj,
            Matrix::Up => &self.mlp.up_proj,
            Matrix::Down => &self.mlp.down_proj,
        }
    }

    pub(crate) fn projection_mut(&mut self, matrix: Matrix) -> &mut Projection<B> {
        match matrix {
            Matrix::Query => &mut self.self_attn.q_proj,
            Matrix::Key => &mut self.self_attn.k_proj,
            Matrix::Value => &mut self.self_attn.v_proj,
            Matrix::Output => &mut self.self_attn.o_proj,
            Matrix::Gate => &mut self.mlp.gate_proj,
            Matrix::Up => &mut self.mlp.up_proj,
            Matrix::Down => &mut self.mlp.down_proj,
        }
    }

    /// - x: `[batch, length, hidden_size]`
    /// - project: applies a matrix
    pub(crate) fn forward(
        &self,
        x: Tensor<B, 3>,
        surroundings: &Surroundings<B>,
        project: &impl Fn(Matrix, Tensor<B, 3>) -> Tensor<B, 3>,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 3> {
        let attended = self.attend(self.input_layernorm.forward(x.clone()), surroundings, project, cache);
        let x = x + attended;
        let normalised = self.post_attention_layernorm.forward(x.clone());
        let gate = silu(project(Matrix::Gate, normalised.clone()));
        let inner = gate * project(Matrix::Up, normalised);
        x + project(Matrix::Down, inner)
    }

    fn attend(
        &self,
        x: Tensor<B, 3>,
        surroundings: &Surroundings<B>,
        project: &impl Fn(Matrix, Tensor<B, 3>) -> Tensor<B, 3>,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 3> {
        let Attention { heads, key_value_heads, .. } = self.self_attn;
        let [batch, length, _] = x.dims();
        let [query, key] = self.queries_and_keys(x.clone(), surroundings, project);
        let width = query.dims()[3];
        let value = project(Matrix::Value, x);
        let value = value.reshape([batch, length, key_value_heads, width]).swap_dims(1, 2);
        let (key, value) = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let output = grouped_attention(query, key, value, surroundings.hidden.clone());
        let output = output.swap_dims(1, 2).reshape([batch, length, heads * width]);
        project(Matrix::Output, output)
    }

    /// `[batch, heads, length, width]` and `[batch, key_value_heads, length, width]`, turned by their positions.
    fn queries_and_keys(
        &self,
        x: Tensor<B, 3>,
        surroundings: &Surroundings<B>,
        project: &impl Fn(Matrix, Tensor<B, 3>) -> Tensor<B, 3>,
    ) -> [Tensor<B, 4>; 2] {
        let Attention { heads, key_value_heads, .. } = self.self_attn;
        let [batch, length, _] = x.dims();
        let (query, key) = (project(Matrix::Query, x.clone()), project(Matrix::Key, x));
        let width = query.dims()[2] / heads;
        // Turned together: the same cosines serve both.
        let both = Tensor::cat(vec![query, key], 2).reshape([batch, length, heads + key_value_heads, width]);
        let turned = surroundings.rotary.rotate(both).swap_dims(1, 2);
        [turned.clone().narrow(1, 0, heads), turned.narrow(1, heads, key_value_heads)]
    }

    /// How much each token attends to each: `[batch, heads, length, keys]`.
    pub(crate) fn attention_weights(
        &self,
        x: Tensor<B, 3>,
        surroundings: &Surroundings<B>,
        project: &impl Fn(Matrix, Tensor<B, 3>) -> Tensor<B, 3>,
    ) -> Tensor<B, 4> {
        let normalised = self.input_layernorm.forward(x);
        let [query, key] = self.queries_and_keys(normalised, surroundings, project);
        let [batch, _, length, _] = query.dims();
        // Attention over the unit vectors is what it gives to each of them.
        let units: Tensor<B, 2> = Tensor::eye(length, &query.device());
        let units = units.cast(query.dtype()).reshape([1, 1, length, length]);
        let units = units.expand([batch, self.self_attn.key_value_heads, length, length]);
        grouped_attention(query, key, units, surroundings.hidden.clone())
    }
}

/// Attention of queries, several of which share a key and a value head.
///
/// - query: `[batch, heads, length, width]`
/// - key, value: `[batch, key_value_heads, keys, width]`
/// - hidden: `[batch, 1, length, keys]`, what is not seen; all that comes after each query when it is absent
fn grouped_attention<B: Backend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    hidden: Option<Tensor<B, 4, Bool>>,
) -> Tensor<B, 4> {
    let [batch, heads, length, width] = query.dims();
    let [_, groups, keys, _] = key.dims();
    let [_, _, _, out] = value.dims();
    let shared = heads / groups;
    if length == 1 {
        // A single query sees all keys, so that those of a group are rows of one matrix.
        let query = query.reshape([batch, groups, shared, width]);
        let hidden = hidden.map(|hidden| hidden.expand([batch, groups, shared, keys]));
        return attend(query, key, value, hidden, false).reshape([batch, heads, 1, out]);
    }
    let repeated = |x: Tensor<B, 4>| {
        if shared == 1 {
            return x;
        }
        let width = x.dims()[3];
        let x: Tensor<B, 5> = x.unsqueeze_dim(2);
        x.expand([batch, groups, shared, keys, width]).reshape([batch, heads, keys, width])
    };
    let causal = hidden.is_none();
    let hidden = hidden.map(|hidden| hidden.expand([batch, heads, length, keys]));
    attend(query, repeated(key), repeated(value), hidden, causal)
}

/// Attention of as many queries' heads as keys'.
///
/// - hidden: `[batch, heads, length, keys]`
/// - causal: whether what comes after each query is hidden
fn attend<B: Backend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    hidden: Option<Tensor<B, 4, Bool>>,
    causal: bool,
) -> Tensor<B, 4> {
    let [batch, heads, length, width] = query.dims();
    let (keys, device, dtype) = (key.dims()[2], query.device(), query.dtype());
    // Burn's own records more operations, takes no mask on `Dispatch` where it records, and on some backends computes
    // probabilities in half precision.
    if !B::ad_enabled(&device) && wide(dtype) == dtype {
        let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
        return attention(query, key, value, hidden, None, options);
    }
    let after = || {
        let mask = Tensor::<B, 2, Bool>::tril_mask([length, keys], (keys - length) as i64, &device);
        mask.unsqueeze::<4>().expand([batch, heads, length, keys])
    };
    let hidden = if causal { Some(after()) } else { hidden };
    // Not the query, which lies otherwise in memory than it is read.
    let scores = query.matmul(key.swap_dims(2, 3)).cast(wide(dtype)) * (width as f64).powf(-0.5);
    let scores = match hidden {
        Some(hidden) => scores.mask_fill(hidden, f32::NEG_INFINITY),
        None => scores,
    };
    softmax(scores, 3).cast(dtype).matmul(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_matrices_are_read() {
        let place = Place { layer: 12, matrix: Matrix::Down };
        assert_eq!(place.path(), "model.layers.12.mlp.down_proj");
        assert_eq!(Place::parse("model.layers.12.mlp.down_proj.scores"), Some(place));
        assert_eq!(Place::parse(&place.path()), Some(place));
        for other in
            ["model.layers.x.mlp.down_proj.weight", "model.norm.weight", "model.layers.1.mlp.down_projx"]
        {
            assert_eq!(Place::parse(other), None);
        }
    }
}
