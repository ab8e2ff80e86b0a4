//! Adjacency matrices that are learned, dense or sparse.

use std::{collections::HashMap, sync::Once};

use burn::tensor::{
    Device, Tensor, TensorData,
    backend::{AutodiffBackend, Backend},
};
use leanburn_core::{Result, nn::dropout, random::Generator};
use rayon::prelude::*;

use super::model::LearnedGraph;
use crate::{
    Csr, Features, Normalization,
    knn::{Metric, Search, Ties},
    lgi::{RestorationConfig, Rows, mask, warning},
    sparse::{LearnedMatrix, SparseMatrix, Tape, ints},
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

/// The labelled nodes, to which connections are restored.
pub(crate) struct Labelled<'a> {
    nodes: &'a [usize],
    known: Vec<bool>,
    /// That restored connections outweigh the others is told once.
    warned: Once,
}

impl<'a> Labelled<'a> {
    /// - count: of all nodes
    /// - nodes: the labelled ones, ascending
    pub(crate) fn new(count: usize, nodes: &'a [usize]) -> Self {
        Self { nodes, known: mask(count, nodes), warned: Once::new() }
    }

    /// Number of all nodes.
    pub(crate) fn of(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn contains(&self, node: usize) -> bool {
        self.known[node]
    }

    /// The matrix `[nodes, nodes]` whose columns of labelled nodes are these, `[nodes, labelled]`.
    pub(crate) fn entries(&self, columns: &[f32]) -> Csr {
        let of_columns = Csr::from_dense(columns, self.nodes.len());
        Csr {
            width: self.of(),
            columns: of_columns.columns.iter().map(|&place| self.nodes[place as usize] as u32).collect(),
            ..of_columns
        }
    }

    /// The labelled nodes' rows or columns of `x`.
    pub(crate) fn select<B: Backend>(&self, x: Tensor<B, 2>, dimension: usize) -> Tensor<B, 2> {
        let nodes = ints(self.nodes.iter().map(|&node| node as i64).collect(), &x.device());
        x.select(dimension, nodes)
    }

    /// Which rows are filled.
    ///
    /// - `reaches_labelled`: whether a row of the present graph has a labelled neighbour
    pub(crate) fn filled(
        &self,
        restoration: &RestorationConfig,
        reaches_labelled: impl Fn(usize) -> bool,
    ) -> Vec<bool> {
        restoration.filled(&self.known, reaches_labelled)
    }

    /// The factor of the restored weights.
    ///
    /// - own, restored: sums of the weights of the filled rows, whatever their signs
    pub(crate) fn alpha(&self, restoration: &RestorationConfig, own: f64, restored: f64) -> f64 {
        let alpha = restoration.alpha(own, restored);
        if own > 0.0
            && let Some(warning) = warning(alpha * restored / own)
        {
            self.warned.call_once(|| log::warn!("{warning}"));
        }
        alpha
    }

    /// The restored weights: alpha times the similarities to the tau labelled nodes most like each filled row.
    ///
    /// - sums: of the rows of the present graph
    /// - `reaches_labelled`: whether a row of the present graph has a labelled neighbour
    /// - similarity, output: `[nodes, labelled]`
    pub(crate) fn restored<B: Backend>(
        &self,
        restoration: &RestorationConfig,
        sums: &[f32],
        reaches_labelled: impl Fn(usize) -> bool,
        similarity: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let [nodes, labelled] = similarity.dims();
        let filled = self.filled(restoration, reaches_labelled);
        let similarities = on_host(&similarity);
        let mut ties = vec![0.0_f32; nodes * labelled];
        let (mut own, mut restored) = (0.0, 0.0);
        for row in (0..nodes).filter(|&row| filled[row]) {
            own += f64::from(sums[row]).abs();
            let of_row = &similarities[row * labelled..(row + 1) * labelled];
            for place in largest(of_row, restoration.tau)
                .into_iter()
                .filter(|&place| !restoration.clip || of_row[place] > 0.0)
            {
                ties[row * labelled + place] = 1.0;
                restored += f64::from(of_row[place]).abs();
            }
        }
        let alpha = self.alpha(restoration, own, restored);
        let ties = Tensor::from_data(TensorData::new(ties, [nodes, labelled]), &similarity.device());
        similarity * ties * alpha
    }

    /// A dense graph with restored connections.
    ///
    /// - adjacency, similarity, output: `[nodes, nodes]`
    pub(crate) fn restored_dense<B: Backend>(
        &self,
        restoration: &RestorationConfig,
        adjacency: Tensor<B, 2>,
        similarity: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let (nodes, labelled) = (self.of(), self.nodes.len());
        // What only the host looks at is taken out of the autodiff graph.
        let present = adjacency.clone().detach();
        let weights = (restoration.rows == Rows::Starved).then(|| on_host(&self.select(present.clone(), 1)));
        let reaches = |row: usize| {
            let weights = weights.as_ref().expect("they are looked at for starved rows alone");
            weights[row * labelled..(row + 1) * labelled].iter().any(|&weight| weight > 0.0)
        };
        let sums = on_host(&present.clone().sum_dim(1));
        // [labelled, nodes]: products, since assigned columns would be gathered back one by one.
        let mut places = vec![0.0_f32; labelled * nodes];
        for (place, &node) in self.nodes.iter().enumerate() {
            places[place * nodes + node] = 1.0;
        }
        let places = Tensor::from_data(TensorData::new(places, [labelled, nodes]), &adjacency.device());
        let of_labelled = similarity.matmul(Tensor::transpose(places.clone()));
        adjacency + self.restored(restoration, &sums, reaches, of_labelled).matmul(places)
    }
}

/// The places of the `k` largest values, in any order; of equal ones, the first.
fn largest(values: &[f32], k: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    if k < values.len() {
        let larger = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
        places.select_nth_unstable_by(k, larger);
        places.truncate(k);
    }
    places
}

/// 1 at the `k` largest values of each row and 0 elsewhere; no gradient goes through it.
///
/// - x, output: `[rows, width]`
pub(crate) fn largest_of_rows<B: Backend>(x: Tensor<B, 2>, k: usize) -> Tensor<B, 2> {
    let (dims, device) = (x.dims(), x.device());
    let values = on_host(&x.detach());
    let mut mask = vec![0.0_f32; values.len()];
    mask.par_chunks_mut(dims[1]).zip(values.par_chunks(dims[1])).for_each(|(mask, row)| {
        for place in largest(row, k) {
            mask[place] = 1.0;
        }
    });
    Tensor::from_data(TensorData::new(mask, dims), &device)
}

/// The values of a tensor, row by row.
pub(crate) fn on_host<B: Backend>(x: &Tensor<B, 2>) -> Vec<f32> {
    x.clone().into_data().iter::<f32>().collect()
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

/// The places of connections to the tau labelled nodes most like each filled row, by the inner products of embeddings.
///
/// - embeddings: `[nodes, width]`
/// - filled: whether each row is
pub(crate) fn labelled_ties<B: Backend>(
    restoration: &RestorationConfig,
    embeddings: &Features,
    labelled: &Labelled,
    filled: &[bool],
    device: &B::Device,
) -> Result<Csr> {
    let search = Search {
        features: embeddings,
        candidates: labelled.nodes,
        metric: Metric::InnerProduct,
        k: restoration.tau,
        not_itself: false,
        ties: Ties::First,
    };
    let nearest = search.run::<B>(device)?;
    let nodes = filled.len();
    let mut entries = Vec::new();
    for row in (0..nodes).filter(|&row| filled[row]) {
        let (chosen, similarities) = nearest.row(row);
        for (&place, &similarity) in chosen.iter().zip(similarities) {
            if !restoration.clip || similarity > 0.0 {
                entries.push((row as u32, labelled.nodes[place as usize] as u32, 1.0));
            }
        }
    }
    Ok(Csr::from_entries(nodes, nodes, entries))
}
