//! Nearest neighbours: exact, with documented ties, whatever the device, its blocks and its threads.
//!
//! Sparse features are compared through inverted lists. Of dense ones the device multiplies blocks in single precision,
//! which finds the neighbours up to its rounding; those within it are compared again in double precision.

use std::cmp::Reverse;

use burn::{
    config::Config,
    tensor::{Tensor, TensorData, backend::Backend},
};
use leanburn_core::{Error, Result};
use rayon::prelude::*;

use crate::{Csr, Features, Graph};

/// Rows and columns of a block of products on the device: 16 MiB.
const BLOCK_ROWS: usize = 512;
const BLOCK_COLUMNS: usize = 8192;

/// Similarities are compared in steps of their largest possible value over this: what differs less is a tie, since
/// rounding, even in double precision, would order equal ones at random.
const STEPS: f64 = (1_u64 << 30) as f64;

/// Which of two rows is nearer to a third.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The larger cosine; that of a row of zeros is 0.
    Cosine,
    /// The smaller Euclidean distance.
    Euclidean,
    /// The larger inner product.
    InnerProduct,
}

/// Settings of a graph of nearest neighbours.
#[derive(Config, Debug)]
pub struct KnnConfig {
    /// Number of neighbours of a node, itself not counted. Default: 15
    #[config(default = 15)]
    pub k: usize,
    /// What is near. Default: `Metric::Cosine`
    #[config(default = "Metric::Cosine")]
    pub metric: Metric,
}

impl KnnConfig {
    /// The k nearest other nodes of each node. Of equally near ones, the smaller number is taken.
    ///
    /// # Errors
    ///
    /// When `k` is 0 or not below the number of nodes.
    pub fn neighbours<B: Backend>(&self, features: &Features, device: &B::Device) -> Result<Nearest> {
        if self.k == 0 || self.k >= features.rows() {
            let expected = format!("1 to {}, the number of other nodes", features.rows() - 1);
            return Err(Error::setting("k", expected, self.k));
        }
        let all: Vec<usize> = (0..features.rows()).collect();
        Search { features, candidates: &all, metric: self.metric, k: self.k, not_itself: true }
            .run::<B>(device)
    }

    /// The graph in which each node gathers from its neighbours and itself, all with weight 1.
    ///
    /// # Errors
    ///
    /// As [`neighbours`](Self::neighbours).
    pub fn graph<B: Backend>(&self, features: &Features, device: &B::Device) -> Result<Graph> {
        Ok(self.neighbours::<B>(features, device)?.graph().with_self_loops())
    }
}

/// The nearest candidates of each row, the nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    k: usize,
    width: usize,
    indices: Vec<u32>,
    similarities: Vec<f32>,
}

impl Nearest {
    /// How many each row has.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The nearest of row `row` and their similarities, the nearest first; the Euclidean similarity is the negated
    /// squared distance.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = row * self.k..(row + 1) * self.k;
        (&self.indices[range.clone()], &self.similarities[range])
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.indices.len() / self.k
    }

    /// The graph in which each row gathers from its nearest ones, all with weight 1.
    pub fn graph(&self) -> Graph {
        let mut columns = self.indices.clone();
        columns.chunks_mut(self.k).for_each(<[u32]>::sort_unstable);
        let offsets = (0..=self.rows()).map(|row| row * self.k).collect();
        let values = vec![1.0; columns.len()];
        Graph::new(Csr { width: self.width, offsets, columns, values }).expect("candidates are the nodes")
    }
}

/// A search of the nearest of some rows for every row.
pub(crate) struct Search<'a> {
    pub(crate) features: &'a Features,
    /// The rows that may be neighbours; results name them by their place here.
    pub(crate) candidates: &'a [usize],
    pub(crate) metric: Metric,
    pub(crate) k: usize,
    /// Whether a row is no neighbour of itself.
    pub(crate) not_itself: bool,
}

impl Search<'_> {
    pub(crate) fn run<B: Backend>(&self, device: &B::Device) -> Result<Nearest> {
        let norms: Vec<f64> =
            (0..self.features.rows()).into_par_iter().map(|row| self.features.dot(row, row)).collect();
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite() || *norm > f64::from(f32::MAX)) {
            let expected = "a square of its length that single precision holds; rescale the features";
            return Err(Error::data(format!("features, row {row}"), expected, norms[row]));
        }
        let largest = norms.iter().copied().fold(0.0, f64::max);
        let step = match self.metric {
            Metric::Cosine => 1.0,
            Metric::Euclidean => 4.0 * largest,
            Metric::InnerProduct => largest,
        } / STEPS;
        let exact = Exact { search: self, norms, step: if step > 0.0 { step } else { 1.0 } };
        let rows = match self.features {
            Features::Sparse(matrix) => exact.by_lists(matrix),
            Features::Dense { values, columns } => exact.by_blocks::<B>(values, *columns, device),
        };
        let (mut indices, mut similarities) = (Vec::new(), Vec::new());
        for row in rows {
            indices.extend(row.iter().map(|&(_, candidate)| candidate));
            similarities.extend(row.iter().map(|&(similarity, _)| similarity as f32));
        }
        Ok(Nearest { k: self.k, width: self.candidates.len(), indices, similarities })
    }
}

/// Similarity and candidate of each neighbour of a row.
type Row = Vec<(f64, u32)>;

struct Exact<'a> {
    search: &'a Search<'a>,
    /// The squared length of each row.
    norms: Vec<f64>,
    /// Below this, a difference of similarities is none.
    step: f64,
}

impl Exact<'_> {
    /// The similarity of a row and a candidate of inner product `dot`.
    fn similarity(&self, row: usize, candidate: u32, dot: f64) -> f64 {
        let (a, b) = (self.norms[row], self.norms[self.search.candidates[candidate as usize]]);
        match self.search.metric {
            Metric::Cosine if a * b == 0.0 => 0.0,
            // Rounding may make more of a cosine than 1.
            Metric::Cosine => (dot / (a.sqrt() * b.sqrt())).clamp(-1.0, 1.0),
            Metric::Euclidean => (2.0 * dot - a - b).min(0.0),
            Metric::InnerProduct => dot,
        }
    }

    fn is_excluded(&self, row: usize, candidate: u32) -> bool {
        self.search.not_itself && self.search.candidates[candidate as usize] == row
    }

    /// The k nearest, the nearest first.
    fn nearest(&self, mut found: Row) -> Row {
        let k = self.search.k;
        let key = |&(similarity, candidate): &(f64, u32)| {
            (Reverse((similarity / self.step).round() as i64), candidate)
        };
        if found.len() > k {
            found.select_nth_unstable_by_key(k - 1, key);
            found.truncate(k);
        }
        found.sort_unstable_by_key(key);
        found
    }

    /// Neighbours by the candidates that each column lists.
    fn by_lists(&self, matrix: &Csr) -> Vec<Row> {
        let Search { candidates, k, metric, .. } = *self.search;
        let lists = matrix.select_rows(candidates).transpose();
        let scratch = || (vec![0.0_f64; candidates.len()], vec![false; candidates.len()], Vec::<u32>::new());
        (0..matrix.rows())
            .into_par_iter()
            .map_init(scratch, |(dots, met, touched), row| {
                let (columns, values) = matrix.row(row);
                for (&column, &value) in columns.iter().zip(values) {
                    let (listed, others) = lists.row(column as usize);
                    for (&candidate, &other) in listed.iter().zip(others) {
                        let place = candidate as usize;
                        if !met[place] {
                            met[place] = true;
                            touched.push(candidate);
                        }
                        dots[place] += f64::from(value) * f64::from(other);
                    }
                }
                let score =
                    |candidate: u32| (self.similarity(row, candidate, dots[candidate as usize]), candidate);
                let allowed = |candidate: &u32| !self.is_excluded(row, *candidate);
                let mut found: Row = touched.iter().copied().filter(allowed).map(score).collect();
                // Those without a common column have the product 0, and are needed where too few have more.
                let above = found.iter().filter(|(similarity, _)| *similarity >= self.step).count();
                if above < k || metric == Metric::Euclidean {
                    found = (0..candidates.len() as u32).filter(allowed).map(score).collect();
                }
                for candidate in touched.drain(..) {
                    dots[candidate as usize] = 0.0;
                    met[candidate as usize] = false;
                }
                self.nearest(found)
            })
            .collect()
    }

    /// Neighbours by blocks of products on the device.
    fn by_blocks<B: Backend>(&self, values: &[f32], width: usize, device: &B::Device) -> Vec<Row> {
        let Search { features, candidates, .. } = *self.search;
        let scale = |row: usize| match self.search.metric {
            Metric::Cosine if self.norms[row] > 0.0 => 1.0 / self.norms[row].sqrt(),
            _ => 1.0,
        };
        let tensor = |rows: &[usize]| {
            let scaled: Vec<f32> = rows
                .par_iter()
                .flat_map_iter(|&row| {
                    let scale = scale(row);
                    let row = &values[row * width..(row + 1) * width];
                    row.iter().map(move |&value| (f64::from(value) * scale) as f32)
                })
                .collect();
            Tensor::<B, 2>::from_data(TensorData::new(scaled, [rows.len(), width]), device)
        };
        let tiles: Vec<Tensor<B, 2>> =
            candidates.chunks(BLOCK_COLUMNS).map(|tile| tensor(tile).transpose()).collect();
        let rows: Vec<usize> = (0..features.rows()).collect();
        // What single precision can be off by in a sum of products, relative to the lengths of the rows.
        let mut precision = (width + 16) as f64 * f64::from(f32::EPSILON);
        let mut all = Vec::with_capacity(rows.len());
        for block in rows.chunks(BLOCK_ROWS) {
            let query = tensor(block);
            loop {
                let (found, error) = self.block(&query, block, &tiles, precision);
                if error <= precision {
                    all.extend(found);
                    break;
                }
                // A device that multiplies more coarsely than single precision: nothing within its error is left out.
                precision = 4.0 * error;
            }
        }
        all
    }

    /// The neighbours of a block of rows, and the largest error of products that was seen, relative to lengths.
    fn block<B: Backend>(
        &self,
        query: &Tensor<B, 2>,
        block: &[usize],
        tiles: &[Tensor<B, 2>],
        precision: f64,
    ) -> (Vec<Row>, f64) {
        let Search { features, candidates, k, metric, .. } = *self.search;
        let largest = candidates.iter().map(|&row| self.norms[row]).fold(0.0, f64::max).sqrt();
        let mut shortlists: Vec<Shortlist> = block
            .iter()
            .map(|&row| {
                // The length that products of this row are relative to, and how they become similarities.
                let (length, norm) = match metric {
                    Metric::Cosine => (1.0, None),
                    Metric::InnerProduct => (self.norms[row].sqrt() * largest, None),
                    Metric::Euclidean => (self.norms[row].sqrt() * largest, Some(self.norms[row])),
                };
                Shortlist::new(k, length, norm, precision)
            })
            .collect();
        for (number, tile) in tiles.iter().enumerate() {
            let products = query.clone().matmul(tile.clone()).into_data();
            let products: &[f32] = products.as_slice().expect("products are f32");
            let first = number * BLOCK_COLUMNS;
            let width = tile.dims()[1];
            shortlists.par_iter_mut().zip(products.par_chunks(width)).zip(block).for_each(
                |((shortlist, products), &row)| {
                    let norm = |place: usize| self.norms[candidates[first + place]];
                    shortlist.add(first, products, norm, |candidate| self.is_excluded(row, candidate));
                },
            );
        }
        let rows: Vec<(Row, f64)> = shortlists
            .into_par_iter()
            .zip(block)
            .map(|(shortlist, &row)| {
                let mut error = 0.0_f64;
                let length = shortlist.length;
                let found = shortlist.kept.into_iter().map(|(product, _, candidate)| {
                    let dot = features.dot(row, candidates[candidate as usize]);
                    let scaled = match metric {
                        Metric::Cosine => self.similarity(row, candidate, dot),
                        _ => dot,
                    };
                    if length > 0.0 {
                        error = error.max((f64::from(product) - scaled).abs() / length);
                    }
                    (self.similarity(row, candidate, dot), candidate)
                });
                let found = self.nearest(found.collect());
                (found, error)
            })
            .collect();
        let error = rows.iter().map(|row| row.1).fold(0.0, f64::max);
        (rows.into_iter().map(|row| row.0).collect(), error)
    }
}

/// The candidates that may be among the k nearest of one row, as far as inexact products tell.
struct Shortlist {
    k: usize,
    length: f64,
    norm: Option<f64>,
    /// By how much two similarities can seem to differ and be equal.
    margin: f64,
    /// Product, similarity and candidate.
    kept: Vec<(f32, f64, u32)>,
    /// What a similarity must reach.
    threshold: f64,
    /// How many are kept before the worse ones are dropped.
    limit: usize,
}

impl Shortlist {
    fn new(k: usize, length: f64, norm: Option<f64>, precision: f64) -> Self {
        let margin = 4.0 * precision * (length + norm.unwrap_or(0.0));
        Self { k, length, norm, margin, kept: vec![], threshold: f64::NEG_INFINITY, limit: 4 * k + 64 }
    }

    fn add(
        &mut self,
        first: usize,
        products: &[f32],
        norm: impl Fn(usize) -> f64,
        excluded: impl Fn(u32) -> bool,
    ) {
        /// Products that are looked at together: mostly none of them reaches the threshold.
        const TOGETHER: usize = 16;
        for (number, chunk) in products.chunks(TOGETHER).enumerate() {
            if self.norm.is_none()
                && f64::from(chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max)) < self.threshold
            {
                continue;
            }
            for (place, &product) in chunk.iter().enumerate() {
                let place = number * TOGETHER + place;
                let similarity = match self.norm {
                    None => f64::from(product),
                    Some(own) => 2.0 * f64::from(product) - own - norm(place),
                };
                let candidate = (first + place) as u32;
                if similarity >= self.threshold && !excluded(candidate) {
                    self.kept.push((product, similarity, candidate));
                    if self.kept.len() == self.limit {
                        self.shorten();
                    }
                }
            }
        }
        if self.kept.len() > self.k {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let by_similarity = |a: &(f32, f64, u32), b: &(f32, f64, u32)| b.1.total_cmp(&a.1);
        let (_, last, _) = self.kept.select_nth_unstable_by(self.k - 1, by_similarity);
        self.threshold = last.1 - self.margin;
        let threshold = self.threshold;
        self.kept.retain(|&(_, similarity, _)| similarity >= threshold);
        self.limit = 2 * self.kept.len() + 64;
    }
}
