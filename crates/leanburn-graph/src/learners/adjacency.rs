//! Adjacency matrices that are learned, dense or sparse.

use std::collections::HashMap;

use burn::tensor::{
    Device, Tensor, TensorData,
    backend::{AutodiffBackend, Backend},
};
use leanburn_core::{Result, nn::dropout, random::Generator};

use crate::{
    Csr, Features, Normalization,
    knn::{Metric, Search},
    lgi::{RestorationConfig, Rows, Strength},
    sparse::{LearnedMatrix, SparseMatrix, Tape},
};

/// Added to divisors of the normalisations, as in the official codes.
const EPSILON: f64 = 1e-10;

/// The adjacency of a learned graph, in training.
#[derive(Debug, Clone)]
pub enum Adjacency<B: AutodiffBackend> {
    /// `[nodes, nodes]`
    Dense(Tensor<B, 2>),
    /// The places of the entries, and their values `[entries]`.
    Sparse(LearnedMatrix<B::InnerBackend>, Tensor<B, 1>),
}

/// The adjacency of a learned graph, in evaluation.
#[derive(Debug, Clone)]
pub enum LearnedGraph<B: Backend> {
    /// `[nodes, nodes]`
    Dense(Tensor<B, 2>),
    /// The places of the entries, and their values `[entries]`.
    Sparse(LearnedMatrix<B>, Tensor<B, 1>),
}

impl<B: Backend> LearnedGraph<B> {
    /// `A x`
    ///
    /// - x, output: `[nodes, width]`
    pub fn product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone().matmul(x),
            Self::Sparse(matrix, values) => matrix.product(values.clone(), x),
        }
    }

    /// All entries, `[nodes, nodes]`.
    pub fn to_dense(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone(),
            Self::Sparse(matrix, values) => {
                let nodes = matrix.rows();
                matrix.product(values.clone(), Tensor::eye(nodes, &values.device()))
            }
        }
    }
}

impl<B: AutodiffBackend> Adjacency<B> {
    /// `A x`
    ///
    /// - x, output: `[nodes, width]`
    pub fn product(&self, tape: &mut Tape<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone().matmul(x),
            Self::Sparse(matrix, values) => tape.learned_product(matrix, values.clone(), x),
        }
    }

    /// The adjacency for use in several products.
    pub fn shared(self, tape: &mut Tape<B>) -> Self {
        match self {
            Self::Dense(adjacency) => Self::Dense(tape.shared(adjacency)),
            Self::Sparse(matrix, values) => Self::Sparse(matrix, tape.shared(values)),
        }
    }

    /// The adjacency with entries left out at random, for use in several products.
    pub fn dropout(&self, probability: f64, generator: &mut Generator, tape: &mut Tape<B>) -> Self {
        if probability == 0.0 {
            return self.clone();
        }
        match self {
            Self::Dense(adjacency) => Self::Dense(dropout(adjacency.clone(), probability, generator)),
            Self::Sparse(matrix, values) => {
                Self::Sparse(matrix.clone(), dropout(values.clone(), probability, generator))
            }
        }
        .shared(tape)
    }

    /// The adjacency as it is.
    pub fn valid(&self) -> LearnedGraph<B::InnerBackend> {
        match self {
            Self::Dense(adjacency) => LearnedGraph::Dense(adjacency.clone().inner()),
            Self::Sparse(matrix, values) => LearnedGraph::Sparse(matrix.clone(), values.clone().inner()),
        }
    }
}

/// Rows of length 1; a row of zeros stays, and so does its gradient.
///
/// - x, output: `[rows, width]`
pub(crate) fn unit_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    // The bound is below the root, whose gradient at 0 is none.
    let lengths = x.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
    x / lengths
}

/// Sums whose root has a gradient; negative ones, which have no root, stay.
fn bounded<B: Backend>(sums: Tensor<B, 2>) -> Tensor<B, 2> {
    let is_zero = sums.clone().equal_elem(0.0);
    sums.mask_fill(is_zero, 1e-24)
}

/// `1 / x`: Burn's reciprocal is an approximation on some CPUs.
pub(crate) fn inverse<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    x.ones_like() / x
}

/// Scales a dense adjacency by its row sums `d`.
///
/// - adjacency, output: `[nodes, nodes]`
pub(crate) fn normalise_dense<B: Backend>(
    adjacency: Tensor<B, 2>,
    normalization: Normalization,
) -> Tensor<B, 2> {
    let sums = adjacency.clone().sum_dim(1);
    match normalization {
        Normalization::Row => adjacency / (sums + EPSILON),
        Normalization::Symmetric => {
            let scales = inverse(bounded(sums).sqrt() + EPSILON);
            adjacency * scales.clone() * scales.transpose()
        }
    }
}

/// A dense graph with restored connections.
///
/// - adjacency, similarity, output: `[nodes, nodes]`
pub(crate) fn restored_dense<B: Backend>(
    restoration: &RestorationConfig,
    labelled: &[usize],
    is_labelled: &[bool],
    adjacency: Tensor<B, 2>,
    similarity: Tensor<B, 2>,
) -> Tensor<B, 2> {
    let nodes = is_labelled.len();
    let on_host = |tensor: &Tensor<B, 2>| tensor.clone().into_data().iter::<f32>().collect::<Vec<f32>>();
    let (weights, similarities) = (on_host(&adjacency), on_host(&similarity));
    let reaches = |row: usize| labelled.iter().any(|&node| weights[row * nodes + node] > 0.0);
    let filled = restoration.filled_rows(is_labelled, reaches);
    let ties = LabelledTies::by_entries(restoration, &similarities, labelled, &filled);
    let own = (0..nodes).filter(|&row| filled[row]).flat_map(|row| &weights[row * nodes..(row + 1) * nodes]);
    let own: f64 = own.map(|&weight| f64::from(weight)).sum();
    let restored = ties
        .entries
        .iter()
        .map(|&(row, column, _)| f64::from(similarities[row as usize * nodes + column as usize]));
    let alpha = restoration.alpha(own, restored.sum());
    let mask = ties.mask::<B>(nodes, &adjacency.device());
    adjacency + similarity * mask * alpha
}

/// A sparse combination of learned values: the places of the result, and the linear map from the values to its entries.
pub(crate) struct Combination {
    pub(crate) places: Csr,
    map: Csr,
}

impl Combination {
    /// The matrix of terms `(row, column, value, factor)`: entry `(row, column)` is the sum of its factors times the
    /// values they name.
    ///
    /// - values: how many there are
    pub(crate) fn new(nodes: usize, values: usize, terms: &[(u32, u32, u32, f32)]) -> Self {
        let entries = terms.iter().map(|&(row, column, ..)| (row, column, 0.0)).collect();
        let mut places = Csr::from_entries(nodes, nodes, entries);
        places.values.fill(1.0);
        let mut of_place = HashMap::with_capacity(places.entries());
        for row in 0..nodes {
            for place in places.offsets[row]..places.offsets[row + 1] {
                of_place.insert((row as u32, places.columns[place]), place as u32);
            }
        }
        let map = terms.iter().map(|&(row, column, value, factor)| (of_place[&(row, column)], value, factor));
        let map = Csr::from_entries(places.entries(), values, map.collect());
        Self { places, map }
    }

    /// The entries of the combination of `values`.
    pub(crate) fn adjacency<B: AutodiffBackend>(
        &self,
        tape: &mut Tape<B>,
        values: Tensor<B, 1>,
        device: &Device<B::InnerBackend>,
    ) -> (LearnedMatrix<B::InnerBackend>, Tensor<B, 1>) {
        let map = SparseMatrix::new(&self.map, device);
        let combined = tape.product(&map, values.unsqueeze_dim(1)).squeeze_dim(1);
        (LearnedMatrix::new(&self.places, device), tape.shared(combined))
    }
}

/// Scales a sparse adjacency by its row sums.
///
/// - values: `[entries]`, shared
pub(crate) fn normalise_sparse<B: AutodiffBackend>(
    tape: &mut Tape<B>,
    matrix: &LearnedMatrix<B::InnerBackend>,
    values: Tensor<B, 1>,
    normalization: Normalization,
) -> Tensor<B, 1> {
    let ones = Tensor::ones([matrix.columns(), 1], &values.device());
    let sums = tape.learned_product(matrix, values.clone(), ones.clone());
    match normalization {
        Normalization::Row => {
            let scales = inverse(sums + EPSILON);
            values * tape.inner_products(matrix, scales, ones)
        }
        Normalization::Symmetric => {
            let scales = tape.shared(inverse(bounded(sums).sqrt() + EPSILON));
            values * tape.inner_products(matrix, scales.clone(), scales)
        }
    }
}

/// The tau labelled nodes most like each filled row.
pub(crate) struct LabelledTies {
    /// Row, labelled node, and its place among the labelled ones.
    pub(crate) entries: Vec<(u32, u32, u32)>,
}

impl LabelledTies {
    /// By the inner products of embeddings.
    ///
    /// - embeddings: `[nodes, width]`
    /// - filled: whether each row is
    pub(crate) fn by_embeddings<B: Backend>(
        restoration: &RestorationConfig,
        embeddings: &Features,
        labelled: &[usize],
        filled: &[bool],
        device: &B::Device,
    ) -> Result<Self> {
        let metric = Metric::InnerProduct;
        let search = Search {
            features: embeddings,
            candidates: labelled,
            metric,
            k: restoration.tau,
            not_itself: false,
            ties: crate::knn::Ties::First,
        };
        let nearest = search.run::<B>(device)?;
        let mut entries = Vec::new();
        for row in (0..filled.len()).filter(|&row| filled[row]) {
            let (chosen, similarities) = nearest.row(row);
            for (&place, _) in chosen
                .iter()
                .zip(similarities)
                .filter(|(_, similarity)| !restoration.clip || **similarity > 0.0)
            {
                entries.push((row as u32, labelled[place as usize] as u32, place));
            }
        }
        Ok(Self { entries })
    }

    /// By the entries of a dense matrix.
    ///
    /// - similarity: `[nodes, nodes]`, row by row
    pub(crate) fn by_entries(
        restoration: &RestorationConfig,
        similarity: &[f32],
        labelled: &[usize],
        filled: &[bool],
    ) -> Self {
        let nodes = filled.len();
        let mut entries = Vec::new();
        for row in (0..nodes).filter(|&row| filled[row]) {
            let of_row = &similarity[row * nodes..(row + 1) * nodes];
            let mut places: Vec<usize> = (0..labelled.len()).collect();
            places.sort_by(|&a, &b| of_row[labelled[b]].total_cmp(&of_row[labelled[a]]));
            places.truncate(restoration.tau);
            places.retain(|&place| !restoration.clip || of_row[labelled[place]] > 0.0);
            entries.extend(places.iter().map(|&place| (row as u32, labelled[place] as u32, place as u32)));
        }
        Self { entries }
    }

    /// 1 at each tie, `[nodes, nodes]`.
    pub(crate) fn mask<B: Backend>(&self, nodes: usize, device: &B::Device) -> Tensor<B, 2> {
        let mut mask = vec![0.0_f32; nodes * nodes];
        for &(row, column, _) in &self.entries {
            mask[row as usize * nodes + column as usize] = 1.0;
        }
        Tensor::from_data(TensorData::new(mask, [nodes, nodes]), device)
    }
}

impl RestorationConfig {
    /// Which rows are filled.
    ///
    /// - `reaches_labelled`: whether a row of the present graph has a labelled neighbour
    pub(crate) fn filled_rows(
        &self,
        labelled: &[bool],
        reaches_labelled: impl Fn(usize) -> bool,
    ) -> Vec<bool> {
        (0..labelled.len())
            .map(|node| match self.rows {
                Rows::All => true,
                Rows::Unlabelled => !labelled[node],
                Rows::Starved => !labelled[node] && !reaches_labelled(node),
            })
            .collect()
    }

    /// The factor of the restored weights.
    ///
    /// - own, restored: sums of the weights of the filled rows
    pub(crate) fn alpha(&self, own: f64, restored: f64) -> f64 {
        match self.strength {
            Strength::Alpha(alpha) => alpha,
            Strength::Rho(_) if restored == 0.0 => 0.0,
            Strength::Rho(rho) => rho * own / restored,
        }
    }
}
