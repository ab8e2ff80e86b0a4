//! Nearest neighbours: exact, with documented ties, whatever the device, its blocks and its threads.
//!
//! Sparse features are compared through inverted lists. Of dense ones the device multiplies blocks in single precision,
//! which finds the neighbours up to its rounding; those within it are compared again in double precision.

use burn::{
    config::Config,
    tensor::{Tensor, TensorData, backend::Backend},
};
use leanburn_core::{Error, Result, parallel};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Csr, Features, Graph};

/// Rows and columns of a block of products on the device: 16 MiB.
const BLOCK_ROWS: usize = 512;
const BLOCK_COLUMNS: usize = 8192;

/// Columns of a block on a CPU, 2 MiB: more would not stay in memory that the allocator keeps, and page faults would cost
/// more than the products.
const CPU_BLOCK_COLUMNS: usize = 1024;

/// Cosines are compared in steps of one over this: what differs less is a tie, since rounding, even in double precision,
/// would order equal ones at random. Inner products and distances of equal rows are equal to the last bit.
const STEPS: f64 = (1_u64 << 30) as f64;

/// Which of two rows is nearer to a third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        Search {
            features,
            candidates: &all,
            metric: self.metric,
            k: self.k,
            not_itself: true,
            ties: Ties::First,
        }
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
    /// Which of equally near ones are taken.
    pub(crate) ties: Ties,
}

/// Which of equally near candidates are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ties {
    /// Those of the smaller numbers.
    First,
    /// Those that PyTorch's `topk` takes on a CPU, which depends on all values of a row: slow, to repeat its runs.
    PyTorch,
}

impl Search<'_> {
    pub(crate) fn run<B: Backend>(&self, device: &B::Device) -> Result<Nearest> {
        let norms: Vec<f64> =
            (0..self.features.rows()).into_par_iter().map(|row| self.features.dot(row, row)).collect();
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite() || *norm > f64::from(f32::MAX)) {
            let expected = "a square of its length that single precision holds; rescale the features";
            return Err(Error::data(format!("features, row {row}"), expected, norms[row]));
        }
        let exact = Exact { search: self, norms };
        let rows = match self.features {
            _ if self.ties == Ties::PyTorch => exact.by_rows(),
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
        let rounded = |similarity: f64| match self.search.metric {
            Metric::Cosine => (similarity * STEPS).round(),
            Metric::Euclidean | Metric::InnerProduct => similarity,
        };
        let nearer = |a: &(f64, u32), b: &(f64, u32)| {
            // Of both zeros, the negative one would be the smaller.
            (rounded(b.0) + 0.0).total_cmp(&(rounded(a.0) + 0.0)).then(a.1.cmp(&b.1))
        };
        if found.len() > k {
            found.select_nth_unstable_by(k - 1, nearer);
            found.truncate(k);
        }
        found.sort_unstable_by(nearer);
        found
    }

    /// Neighbours by all similarities of a row, as PyTorch selects among them.
    fn by_rows(&self) -> Vec<Row> {
        let Search { features, candidates, k, .. } = *self.search;
        (0..features.rows())
            .into_par_iter()
            .map(|row| {
                let allowed =
                    (0..candidates.len() as u32).filter(|&candidate| !self.is_excluded(row, candidate));
                let mut all: Row = allowed
                    .map(|candidate| {
                        let dot = features.dot(row, candidates[candidate as usize]);
                        (self.similarity(row, candidate, dot), candidate)
                    })
                    .collect();
                select_as_pytorch(&mut all, k);
                all.truncate(k);
                self.nearest(all)
            })
            .collect()
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
                let above = found.iter().filter(|(similarity, _)| *similarity * STEPS >= 1.0).count();
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
        let columns = if parallel::at_once::<B>(device) > 1 { CPU_BLOCK_COLUMNS } else { BLOCK_COLUMNS };
        let tiles: Vec<Tensor<B, 2>> =
            candidates.chunks(columns).map(|tile| tensor(tile).transpose()).collect();
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
        let mut first = 0;
        for tile in tiles {
            let products = query.clone().matmul(tile.clone()).into_data().convert::<f32>();
            let products: &[f32] = products.as_slice().expect("products are f32");
            let width = tile.dims()[1];
            shortlists.par_iter_mut().zip(products.par_chunks(width)).zip(block).for_each(
                |((shortlist, products), &row)| {
                    let norm = |place: usize| self.norms[candidates[first + place]];
                    shortlist.add(first, products, norm, |candidate| self.is_excluded(row, candidate));
                },
            );
            first += width;
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

/// Brings the `k` largest to the front as PyTorch's `topk` does on a CPU: by a partial heap sort where they are few, and
/// otherwise by the quick selection of the GNU C++ library. Of equal ones, their places decide.
fn select_as_pytorch(row: &mut [(f64, u32)], k: usize) {
    let before = |a: &(f64, u32), b: &(f64, u32)| a.0 > b.0;
    if k * 64 <= row.len() {
        return heap_select(row, k, before);
    }
    let nth = k - 1;
    let (mut first, mut last) = (0, row.len());
    let mut depth = 2 * row.len().ilog2();
    while last - first > 3 {
        if depth == 0 {
            heap_select(&mut row[first..last], nth + 1 - first, before);
            return row.swap(first, nth);
        }
        depth -= 1;
        // The median of three becomes the pivot, at the front.
        let (a, b, c) = (first + 1, first + (last - first) / 2, last - 1);
        let median = match (before(&row[a], &row[b]), before(&row[b], &row[c]), before(&row[a], &row[c])) {
            (true, true, _) | (false, false, false) => b,
            (true, false, true) | (false, true, false) => c,
            (true, false, false) | (false, _, true) => a,
        };
        row.swap(first, median);
        let pivot = row[first];
        let (mut low, mut high) = (first + 1, last);
        let cut = loop {
            while before(&row[low], &pivot) {
                low += 1;
            }
            high -= 1;
            while before(&pivot, &row[high]) {
                high -= 1;
            }
            if low >= high {
                break low;
            }
            row.swap(low, high);
            low += 1;
        };
        if cut <= nth { first = cut } else { last = cut }
    }
    // A stable sort, as insertion is.
    row[first..last].sort_by(|a, b| b.0.total_cmp(&a.0));
}

/// Brings the `k` first to the front, by a heap of them whose root is the last.
fn heap_select(row: &mut [(f64, u32)], k: usize, before: impl Fn(&(f64, u32), &(f64, u32)) -> bool) {
    // Lets `value` sink from `hole` to the bottom, then rise to its place.
    let adjust = |heap: &mut [(f64, u32)], mut hole: usize, length: usize, value: (f64, u32)| {
        let top = hole;
        let mut child = hole;
        while child < (length - 1) / 2 {
            child = 2 * (child + 1);
            if before(&heap[child], &heap[child - 1]) {
                child -= 1;
            }
            heap[hole] = heap[child];
            hole = child;
        }
        if length.is_multiple_of(2) && child == (length - 2) / 2 {
            child = 2 * (child + 1);
            heap[hole] = heap[child - 1];
            hole = child - 1;
        }
        while hole > top && before(&heap[(hole - 1) / 2], &value) {
            heap[hole] = heap[(hole - 1) / 2];
            hole = (hole - 1) / 2;
        }
        heap[hole] = value;
    };
    if k > 1 {
        for parent in (0..=(k - 2) / 2).rev() {
            let value = row[parent];
            adjust(row, parent, k, value);
        }
    }
    for place in k..row.len() {
        if before(&row[place], &row[0]) {
            let value = row[place];
            row[place] = row[0];
            adjust(row, 0, k, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    /// Rows with many ties: binary, and some of them zeros and some twice.
    fn binary(rows: usize, columns: usize) -> Vec<f32> {
        let mut generator = Generator::new(4);
        let mut values: Vec<f32> =
            (0..rows * columns).map(|_| f32::from(u8::from(generator.chance(0.1)))).collect();
        values[..columns].fill(0.0);
        values.copy_within(3 * columns..4 * columns, 7 * columns);
        values
    }

    /// By all similarities, with the same steps.
    fn brute(features: &Features, metric: Metric, k: usize, step: usize) -> Vec<(usize, Vec<u32>)> {
        let norm = |row: usize| features.dot(row, row);
        (0..features.rows())
            .step_by(step)
            .map(|row| {
                let mut all: Vec<(f64, u32)> = (0..features.rows())
                    .filter(|&other| other != row)
                    .map(|other| {
                        let dot = features.dot(row, other);
                        let similarity = match metric {
                            Metric::Cosine if dot == 0.0 => 0.0,
                            Metric::Cosine => (dot / (norm(row).sqrt() * norm(other).sqrt()) * STEPS).round(),
                            Metric::Euclidean => 2.0 * dot - norm(row) - norm(other),
                            Metric::InnerProduct => dot,
                        };
                        (similarity, other as u32)
                    })
                    .collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                (row, all.iter().take(k).map(|&(_, other)| other).collect())
            })
            .collect()
    }

    #[test]
    fn neighbours_are_exact_and_ties_go_to_the_smaller_number() {
        let (rows, columns) = (700, 40);
        let values = binary(rows, columns);
        let dense = Features::Dense { values: values.clone(), columns };
        let sparse = Features::new(values, columns).unwrap();
        assert!(matches!(sparse, Features::Sparse(_)));
        for metric in [Metric::Cosine, Metric::Euclidean, Metric::InnerProduct] {
            let config = KnnConfig::new().with_k(9).with_metric(metric);
            let expected = brute(&dense, metric, 9, 1);
            for features in [&dense, &sparse] {
                let found = config.neighbours::<Flex>(features, &Default::default()).unwrap();
                for (row, expected) in &expected {
                    assert_eq!(found.row(*row).0, expected, "{metric:?}, row {row}");
                }
            }
        }
    }

    #[test]
    fn large_rows_and_negative_values_are_exact_too() {
        let mut generator = Generator::new(9);
        let mut values = generator.normals(9000 * 5);
        values[..5].fill(1000.0);
        let features = Features::Dense { values, columns: 5 };
        for metric in [Metric::Cosine, Metric::Euclidean, Metric::InnerProduct] {
            let config = KnnConfig::new().with_k(4).with_metric(metric);
            let found = config.neighbours::<Flex>(&features, &Default::default()).unwrap();
            // More candidates than a block's columns; a few rows are enough to check.
            for (row, expected) in brute(&features, metric, 4, 997) {
                assert_eq!(found.row(row).0, expected, "{metric:?}, row {row}");
            }
        }
    }

    #[test]
    fn neighbours_do_not_depend_on_the_number_of_threads() {
        let features = Features::Dense { values: Generator::new(2).normals(1500 * 8), columns: 8 };
        let search = || KnnConfig::new().neighbours::<Flex>(&features, &Default::default()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(search), search());
    }

    #[test]
    fn bad_settings_are_refused() {
        let features = Features::new(vec![1.0; 6], 2).unwrap();
        for k in [0, 3, 4] {
            let error = KnnConfig::new().with_k(k).graph::<Flex>(&features, &Default::default()).unwrap_err();
            assert!(error.to_string().contains("1 to 2"), "{error}");
        }
        let huge = Features::new(vec![1e30; 6], 2).unwrap();
        let error = KnnConfig::new().with_k(1).graph::<Flex>(&huge, &Default::default()).unwrap_err();
        assert!(error.to_string().contains("row 0"), "{error}");
    }

    /// Values, how many are kept, and their places.
    const PYTORCH: &[(&[u8], usize, &[u32])] = &[
        (&[1, 3, 2, 2, 0, 0, 0, 0, 1, 4, 4, 1], 4, &[1, 3, 9, 10]),
        (&[0, 4, 1, 4, 0, 4, 0, 4, 1, 4, 1, 1, 2, 3, 2, 4, 4, 0, 0, 1], 6, &[1, 3, 5, 7, 9, 16]),
        (
            &[4, 3, 4, 2, 3, 0, 2, 1, 3, 4, 1, 0, 4, 1, 1, 3, 2, 1, 3, 1, 4, 4, 4, 0, 1, 3],
            5,
            &[2, 9, 12, 20, 21],
        ),
        (
            &[
                1, 2, 4, 3, 0, 2, 4, 2, 3, 3, 3, 0, 3, 1, 4, 2, 2, 0, 3, 1, 4, 0, 4, 4, 3, 3, 2, 0, 4, 1, 2,
                0, 3,
            ],
            7,
            &[2, 6, 14, 20, 22, 23, 28],
        ),
        (
            &[
                0, 0, 0, 0, 3, 1, 2, 0, 4, 3, 2, 2, 3, 0, 1, 1, 2, 0, 0, 4, 0, 1, 2, 4, 1, 4, 4, 0, 3, 2, 4,
                2, 1, 2, 4, 0, 3, 1, 3, 0, 4, 2, 0, 4, 1, 2, 2, 2, 0, 0, 4, 3, 4, 1, 4, 3, 3, 1, 4, 0, 4, 2,
                1, 1, 2, 2, 3, 4, 0, 4,
            ],
            1,
            &[8],
        ),
        (
            &[
                1, 2, 0, 1, 0, 0, 1, 0, 4, 3, 0, 1, 2, 4, 3, 3, 0, 3, 1, 1, 3, 1, 1, 2, 4, 2, 4, 1, 2, 0, 4,
                0, 4, 4, 1, 4, 3, 4, 3, 4, 2, 0, 4, 3, 2, 3, 1, 3, 1, 4, 1, 0, 4, 3, 1, 1, 3, 2, 1, 0, 2, 2,
                3, 0, 3, 2, 2, 2, 2, 1, 4, 0, 2, 3, 4, 3, 4, 2, 2, 4, 1, 0, 0, 3, 1, 2, 3, 1, 0, 1, 1, 3, 3,
                3, 1, 3, 0, 2, 4, 3, 1, 2, 1, 3, 0, 0, 2, 0, 2, 3, 3, 1, 2, 1, 0, 1, 4, 0, 1, 1, 0, 1, 0, 1,
                4, 0, 0, 0, 0, 1, 1, 4, 2, 3, 1, 0, 2, 4, 1, 3,
            ],
            2,
            &[8, 13],
        ),
        (
            &[
                2, 3, 4, 3, 4, 4, 2, 0, 2, 2, 0, 2, 3, 1, 0, 2, 4, 4, 2, 0, 4, 2, 4, 1, 3, 1, 4, 2, 1, 3, 2,
                0, 4, 3, 0, 1, 2, 4, 0, 0, 1, 0, 2, 3, 2, 1, 4, 2, 3, 1, 3, 0, 2, 2, 4, 4, 2, 1, 3, 3, 2, 4,
                3, 2, 4, 3, 2, 0, 1, 4, 3, 2, 0, 0, 0, 1, 0, 4, 4, 2, 3, 3, 0, 0, 1, 3, 3, 0, 2, 4, 1, 3, 4,
                0, 0, 2, 4, 2, 1, 0, 4, 4, 4, 3, 0, 2, 1, 2, 0, 2, 3, 1, 3, 3, 0, 1, 3, 4, 1, 1, 3, 3, 0, 1,
                4, 1, 1, 2, 1, 1, 2, 1, 2, 0, 3, 0, 0, 0, 2, 1, 4, 0, 1, 2, 0, 2, 4, 4, 2, 4, 3, 2, 0, 4, 2,
                0, 0, 0, 4, 1, 4, 0, 3, 0, 3, 0, 1, 4, 4, 0, 2, 0, 2, 0, 4, 0, 3, 0, 1, 4, 0, 1, 2, 3, 3, 0,
                1, 3, 2, 0, 0, 1, 4, 1, 0, 4, 0, 2, 1, 2,
            ],
            3,
            &[2, 4, 5],
        ),
        (&[2, 0, 0, 4, 1, 0, 0, 2, 0], 9, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ];

    /// What `torch.topk` kept of rows with ties.
    #[test]
    fn ties_are_taken_as_pytorch_takes_them() {
        for (values, k, kept) in PYTORCH {
            let mut row: Vec<(f64, u32)> =
                values.iter().enumerate().map(|(place, &value)| (f64::from(value), place as u32)).collect();
            select_as_pytorch(&mut row, *k);
            let mut found: Vec<u32> = row[..*k].iter().map(|&(_, place)| place).collect();
            found.sort_unstable();
            assert_eq!(&found, kept, "{values:?}");
        }
    }
}
