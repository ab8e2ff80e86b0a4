//! A GCN that classifies along a learned graph.

use burn::{
    nn::Linear,
    tensor::{
        Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{nn::dropout, random::Generator};

use super::{adjacency::Adjacency, model::LearnedGraph};
use crate::{
    Csr, Features,
    gcn::Gcn,
    sparse::{LearnedMatrix, SparseMatrix, Tape},
};

/// Features on a device, as the input of learned networks.
#[derive(Debug, Clone)]
pub enum Input<B: Backend> {
    /// `[nodes, features]`
    Dense(Tensor<B, 2>),
    /// The entries that are not zero.
    Sparse(Box<SparseInput<B>>),
}

/// Sparse features on a device.
#[derive(Debug, Clone)]
pub struct SparseInput<B: Backend> {
    pub(super) entries: Csr,
    /// For products with some of the values hidden.
    pub(super) places: LearnedMatrix<B>,
    /// For products with all of them.
    matrix: SparseMatrix<B>,
}

impl<B: Backend> Input<B> {
    /// The features on `device`.
    pub fn new(features: &Features, device: &B::Device) -> Self {
        match features {
            Features::Dense { .. } => Self::Dense(features.to_tensor(device)),
            Features::Sparse(matrix) => Self::Sparse(Box::new(SparseInput {
                entries: matrix.clone(),
                places: LearnedMatrix::new(matrix, device),
                matrix: SparseMatrix::new(matrix, device),
            })),
        }
    }

    /// `x W + b`
    pub(super) fn linear(&self, layer: &Linear<B>) -> Tensor<B, 2> {
        let bias = layer.bias.as_ref().expect("the layers have biases").val().unsqueeze_dim(0);
        match self {
            Self::Dense(x) => x.clone().matmul(layer.weight.val()) + bias,
            Self::Sparse(x) => x.matrix.product(layer.weight.val()) + bias,
        }
    }

    /// `x W + b` in training.
    pub(super) fn linear_train<T: AutodiffBackend<InnerBackend = B>>(
        &self,
        layer: &Linear<T>,
        tape: &mut Tape<T>,
    ) -> Tensor<T, 2> {
        let bias = layer.bias.as_ref().expect("the layers have biases").val().unsqueeze_dim(0);
        match self {
            Self::Dense(x) => Tensor::from_inner(x.clone()).matmul(layer.weight.val()) + bias,
            Self::Sparse(x) => tape.product(&x.matrix, layer.weight.val()) + bias,
        }
    }

    pub(super) fn to_tensor(&self, nodes: usize, columns: usize, device: &B::Device) -> Tensor<B, 2> {
        match self {
            Self::Dense(x) => x.clone(),
            Self::Sparse(x) => {
                Tensor::from_data(TensorData::new(x.entries.to_dense(), [nodes, columns]), device)
            }
        }
    }
}

/// Logits of a classifier along a learned graph, in training.
///
/// - output: `[nodes, classes]`
pub fn classify<B: AutodiffBackend>(
    gcn: &Gcn<B>,
    input: &Input<B::InnerBackend>,
    adjacency: &Adjacency<B>,
    generator: &mut Generator,
    tape: &mut Tape<B>,
) -> Tensor<B, 2> {
    let first = input.linear_train(&gcn.layers[0].linear, tape);
    let first = adjacency.product(tape, first);
    let probability = gcn.dropout();
    gcn.forward_from(first, |x| adjacency.product(tape, x), |x| dropout(x, probability, generator))
}

/// Logits of a classifier along a learned graph, without dropout.
///
/// - output: `[nodes, classes]`
pub fn evaluate<B: Backend>(gcn: &Gcn<B>, input: &Input<B>, graph: &LearnedGraph<B>) -> Tensor<B, 2> {
    let first = graph.product(input.linear(&gcn.layers[0].linear));
    gcn.forward_from(first, |x| graph.product(x), |x| x)
}
