//! Sparse products on a device, and how gradients pass through them.
//!
//! Rows of like length are padded to the same length and multiplied in one batch: rows are gathered by column and then
//! contracted with the entries by a batched matrix product. On a CPU this is bound by memory alone, and no backend adds
//! to the same place from two threads, as scattering would.

use std::{ops::Range, sync::Arc};

use burn::{
    module::AutodiffModule,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};

use leanburn_core::parallel;

use crate::Csr;

/// Most entries of a batch of rows.
const ENTRIES: usize = 1 << 16;

/// Most values that are gathered at once, 4 MiB: more would neither stay in a cache nor in memory that the allocator
/// keeps, and page faults would cost more than the products.
const GATHERED: usize = 1 << 20;

/// The places of a sparse matrix's entries, on a device.
#[derive(Debug, Clone)]
pub struct Pattern<B: Backend> {
    batches: Vec<Batch<B>>,
    /// For each row, its place in the rows of all batches, one after another; that of a row without entries is behind
    /// the last one.
    order: Tensor<B, 1, Int>,
    /// For each entry, its place in the padded entries of all batches, one after another.
    unpadded: Tensor<B, 1, Int>,
    entries: usize,
    has_empty_rows: bool,
}

/// Rows that are multiplied together.
#[derive(Debug, Clone)]
struct Batch<B: Backend> {
    /// The column of each padded entry, row by row; of padding, 0.
    columns: Tensor<B, 1, Int>,
    /// The entry of each padded entry; of padding, the number of entries.
    places: Tensor<B, 1, Int>,
    /// The matrix's row of each row.
    rows: Tensor<B, 1, Int>,
    count: usize,
    length: usize,
}

impl<B: Backend> Batch<B> {
    /// The rows of `x` that the columns of `rows` name, `[rows, length, width]`.
    fn gathered(&self, x: &Tensor<B, 2>, rows: Range<usize>) -> Tensor<B, 3> {
        let [_, width] = x.dims();
        let columns = self.columns.clone().narrow(0, rows.start * self.length, rows.len() * self.length);
        x.clone().select(0, columns).reshape([rows.len(), self.length, width])
    }
}

/// The entries of a [`Pattern`], padded: `[rows, 1, length]` for each batch.
#[derive(Debug, Clone)]
pub struct Entries<B: Backend>(Vec<Tensor<B, 3>>);

impl<B: Backend> Pattern<B> {
    /// The places of the entries of `matrix`.
    pub fn new(matrix: &Csr, device: &B::Device) -> Self {
        let lengths: Vec<usize> = matrix.offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut by_length: Vec<usize> = (0..matrix.rows()).filter(|&row| lengths[row] > 0).collect();
        by_length.sort_by_key(|&row| (padded(lengths[row]), row));
        let mut order = vec![by_length.len() as i64; matrix.rows()];
        let mut unpadded = vec![0; matrix.entries()];
        let mut batches = Vec::new();
        let (mut first_row, mut first_entry) = (0, 0);
        while first_row < by_length.len() {
            let length = padded(lengths[by_length[first_row]]);
            let most = (ENTRIES / length).max(1);
            let rows = by_length[first_row..].iter().take(most);
            let rows: Vec<usize> = rows.take_while(|&&row| padded(lengths[row]) == length).copied().collect();
            let mut columns = vec![0; rows.len() * length];
            let mut places = vec![matrix.entries() as i64; rows.len() * length];
            for (number, &row) in rows.iter().enumerate() {
                order[row] = (first_row + number) as i64;
                for (place, entry) in (matrix.offsets[row]..matrix.offsets[row + 1]).enumerate() {
                    let place = number * length + place;
                    columns[place] = i64::from(matrix.columns[entry]);
                    places[place] = entry as i64;
                    unpadded[entry] = (first_entry + place) as i64;
                }
            }
            first_row += rows.len();
            first_entry += columns.len();
            batches.push(Batch {
                columns: ints(columns, device),
                places: ints(places, device),
                count: rows.len(),
                rows: ints(rows.into_iter().map(|row| row as i64).collect(), device),
                length,
            });
        }
        Self {
            batches,
            has_empty_rows: first_row < matrix.rows(),
            order: ints(order, device),
            unpadded: ints(unpadded, device),
            entries: matrix.entries(),
        }
    }

    /// The values of the entries, in the order of the matrix's rows, made ready for products.
    ///
    /// - values: `[entries]`
    pub fn entries(&self, values: Tensor<B, 1>) -> Entries<B> {
        let zero = Tensor::zeros([1], (&values.device(), values.dtype()));
        let values = Tensor::cat(vec![values, zero], 0);
        let padded = |batch: &Batch<B>| {
            values.clone().select(0, batch.places.clone()).reshape([batch.count, 1, batch.length])
        };
        Entries(self.batches.iter().map(padded).collect())
    }

    /// The product of the matrix with these entries by a dense matrix.
    ///
    /// - x: `[columns, width]`
    /// - output: `[rows, width]`
    pub fn product(&self, entries: &Entries<B>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let [_, width] = x.dims();
        let parts = self.parts(width, &x.device());
        let mut products = parallel::map::<B, _, _>(&x.device(), &parts, |(number, rows)| {
            let gathered = self.batches[*number].gathered(&x, rows.clone());
            let entries = entries.0[*number].clone().narrow(0, rows.start, rows.len());
            entries.matmul(gathered).reshape([rows.len(), width])
        });
        if self.has_empty_rows {
            products.push(Tensor::zeros([1, width], (&x.device(), x.dtype())));
        }
        Tensor::cat(products, 0).select(0, self.order.clone())
    }

    /// The rows of each batch, in parts that are multiplied one by one, or at once where that is best.
    fn parts(&self, width: usize, device: &B::Device) -> Vec<(usize, Range<usize>)> {
        let at_once = parallel::at_once::<B>(device);
        let mut parts = Vec::new();
        for (number, batch) in self.batches.iter().enumerate() {
            let kept = GATHERED / (batch.length * width).max(1);
            let most = kept.min(batch.count.div_ceil(at_once)).max(1);
            let firsts = (0..batch.count).step_by(most);
            parts.extend(firsts.map(|first| (number, first..batch.count.min(first + most))));
        }
        parts
    }

    /// The inner product, for each entry, of its row of `left` and its column's row of `right`.
    ///
    /// - left: `[rows, width]`
    /// - right: `[columns, width]`
    /// - output: `[entries]`, in the order of the matrix's rows
    pub fn inner_products(&self, left: Tensor<B, 2>, right: Tensor<B, 2>) -> Tensor<B, 1> {
        let [_, width] = left.dims();
        if self.entries == 0 {
            return Tensor::zeros([0], (&left.device(), left.dtype()));
        }
        let parts = self.parts(width, &left.device());
        let products = parallel::map::<B, _, _>(&left.device(), &parts, |(number, rows)| {
            let batch = &self.batches[*number];
            let of_rows = batch.rows.clone().narrow(0, rows.start, rows.len());
            let of_rows = left.clone().select(0, of_rows).reshape([rows.len(), width, 1]);
            let gathered = batch.gathered(&right, rows.clone());
            gathered.matmul(of_rows).reshape([rows.len() * batch.length])
        });
        Tensor::cat(products, 0).select(0, self.unpadded.clone())
    }
}

/// The length to which a row is padded: powers of two and the halves between them.
fn padded(length: usize) -> usize {
    let above = length.next_power_of_two();
    if length <= above / 4 * 3 { above / 4 * 3 } else { above }
}

pub(crate) fn ints<B: Backend>(values: Vec<i64>, device: &B::Device) -> Tensor<B, 1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// A sparse matrix that is not learned, with its transpose, on a device.
#[derive(Debug, Clone)]
pub struct SparseMatrix<B: Backend> {
    forward: (Pattern<B>, Entries<B>),
    backward: (Pattern<B>, Entries<B>),
}

impl<B: Backend> SparseMatrix<B> {
    /// `matrix` on `device`.
    pub fn new(matrix: &Csr, device: &B::Device) -> Self {
        let side = |matrix: &Csr| {
            let pattern = Pattern::new(matrix, device);
            let values = TensorData::new(matrix.values.clone(), [matrix.entries()]);
            let entries = pattern.entries(Tensor::from_data(values, device));
            (pattern, entries)
        };
        Self { forward: side(matrix), backward: side(&matrix.transpose()) }
    }

    /// The product by a dense matrix.
    ///
    /// - x: `[columns, width]`
    /// - output: `[rows, width]`
    pub fn product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.forward.0.product(&self.forward.1, x)
    }

    /// The product of the transpose by a dense matrix.
    ///
    /// - x: `[rows, width]`
    /// - output: `[columns, width]`
    pub fn transposed_product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.backward.0.product(&self.backward.1, x)
    }
}

/// A pattern whose entries are learned, with its transpose.
#[derive(Debug, Clone)]
pub struct LearnedMatrix<B: Backend> {
    forward: Pattern<B>,
    backward: Pattern<B>,
    /// For each entry of the transpose, its place here.
    transposed: Tensor<B, 1, Int>,
    places: Arc<Csr>,
}

impl<B: Backend> LearnedMatrix<B> {
    /// The places of the entries of `matrix`; its values are not looked at.
    pub fn new(matrix: &Csr, device: &B::Device) -> Self {
        let (transpose, places) = matrix.transpose_with_places();
        Self {
            forward: Pattern::new(matrix, device),
            backward: Pattern::new(&transpose, device),
            transposed: ints(places.into_iter().map(i64::from).collect(), device),
            places: Arc::new(matrix.clone()),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.places.rows()
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.places.width()
    }

    /// The matrix of these values, on the host; what is 0 is left out.
    ///
    /// - values: `[entries]`
    pub fn to_csr(&self, values: Tensor<B, 1>) -> Csr {
        let values: Vec<f32> = values.into_data().iter::<f32>().collect();
        Csr { values, ..Csr::clone(&self.places) }.without_zeros()
    }

    /// The product of the matrix of these values by a dense one.
    ///
    /// - values: `[entries]`
    /// - x: `[columns, width]`
    /// - output: `[rows, width]`
    pub fn product(&self, values: Tensor<B, 1>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.forward.product(&self.forward.entries(values), x)
    }

    /// The product of the transposed matrix of these values by a dense one.
    ///
    /// - values: `[entries]`
    /// - x: `[rows, width]`
    /// - output: `[columns, width]`
    pub fn transposed_product(&self, values: Tensor<B, 1>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.backward.product(&self.backward.entries(values.select(0, self.transposed.clone())), x)
    }

    /// As [`Pattern::inner_products`].
    pub fn inner_products(&self, left: Tensor<B, 2>, right: Tensor<B, 2>) -> Tensor<B, 1> {
        self.forward.inner_products(left, right)
    }
}

/// Takes gradients through operations whose backward pass is written by hand.
///
/// A program that picks its backend at run time cannot define such operations in Burn, and Burn's own gradient of a
/// gathered row is a scatter, which a GPU does one entry after another. So the graph is cut where the operation stands:
/// its output is a new leaf, and what its gradient is to the inputs is told as a sum whose gradient that is. The passes
/// between the cuts run one after another, from the loss back.
///
/// A pass uses up the part of the graph that it goes through. So what is neither a parameter nor the output of a cut, and
/// enters more than one cut, or a cut and the loss, has to go through [`shared`](Self::shared). And when a pass ends, Burn
/// 0.21 tidies up after graphs that were abandoned, with more than is theirs: while a tape waits, nothing else may be
/// computed of the same parameters with gradients recorded and then dropped without a pass.
pub struct Tape<B: AutodiffBackend> {
    cuts: Vec<Cut<B>>,
    records: bool,
}

struct Cut<B: AutodiffBackend> {
    /// The gradient of the output in a pass, flat.
    gradient: Box<Gradient<B>>,
    /// From the whole gradient of the output, a scalar `[1]` whose gradient is that of the inputs.
    pull_back: Box<PullBack<B>>,
}

type Gradient<B> =
    dyn Fn(&<B as AutodiffBackend>::Gradients) -> Option<Tensor<<B as AutodiffBackend>::InnerBackend, 1>>;
type PullBack<B> = dyn FnOnce(Tensor<<B as AutodiffBackend>::InnerBackend, 1>) -> Tensor<B, 1>;

impl<B: AutodiffBackend> Default for Tape<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: AutodiffBackend> Tape<B> {
    /// A tape without cuts.
    pub fn new() -> Self {
        Self { cuts: Vec::new(), records: true }
    }

    /// A tape that records nothing, to evaluate what training computes; for parameters that need no gradient.
    pub fn blank() -> Self {
        Self { cuts: Vec::new(), records: false }
    }

    /// A value that autodiff takes as given, whose gradient `pull_back` hands on: it gives a scalar `[1]` that has the
    /// gradients of the inputs.
    pub fn cut<const D: usize>(
        &mut self,
        output: Tensor<B::InnerBackend, D>,
        pull_back: impl FnOnce(Tensor<B::InnerBackend, D>) -> Tensor<B, 1> + 'static,
    ) -> Tensor<B, D> {
        if !self.records {
            return Tensor::from_inner(output);
        }
        let output = Tensor::from_inner(output).require_grad();
        let (leaf, shape) = (output.clone(), output.dims());
        self.cuts.push(Cut {
            gradient: Box::new(move |gradients| {
                let gradient = leaf.grad(gradients)?;
                let count = gradient.shape().num_elements();
                Some(gradient.reshape([count]))
            }),
            pull_back: Box::new(move |gradient| pull_back(gradient.reshape(shape))),
        });
        output
    }

    /// `x`, for use in several places.
    pub fn shared<const D: usize>(&mut self, x: Tensor<B, D>) -> Tensor<B, D> {
        self.cut(x.clone().inner(), |gradient| with_gradient(x, gradient))
    }

    /// The product of a fixed matrix by `x`.
    ///
    /// - x: `[columns, width]`
    /// - output: `[rows, width]`
    pub fn product(&mut self, matrix: &SparseMatrix<B::InnerBackend>, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let matrix = matrix.clone();
        let output = matrix.product(x.clone().inner());
        self.cut(output, move |gradient| with_gradient(x, matrix.transposed_product(gradient)))
    }

    /// The product of a learned matrix by `x`.
    ///
    /// - values: `[entries]`
    /// - x: `[columns, width]`
    /// - output: `[rows, width]`
    pub fn learned_product(
        &mut self,
        matrix: &LearnedMatrix<B::InnerBackend>,
        values: Tensor<B, 1>,
        x: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let matrix = matrix.clone();
        let output = matrix.product(values.clone().inner(), x.clone().inner());
        self.cut(output, move |gradient| {
            let of_values = matrix.inner_products(gradient.clone(), x.clone().inner());
            let of_x = matrix.transposed_product(values.clone().inner(), gradient);
            with_gradient(values, of_values) + with_gradient(x, of_x)
        })
    }

    /// The inner products of the rows that the entries of a matrix name, `left`'s by row and `right`'s by column.
    ///
    /// - left: `[rows, width]`
    /// - right: `[columns, width]`
    /// - output: `[entries]`
    pub fn inner_products(
        &mut self,
        matrix: &LearnedMatrix<B::InnerBackend>,
        left: Tensor<B, 2>,
        right: Tensor<B, 2>,
    ) -> Tensor<B, 1> {
        let matrix = matrix.clone();
        let output = matrix.inner_products(left.clone().inner(), right.clone().inner());
        self.cut(output, move |gradient| {
            let of_left = matrix.product(gradient.clone(), right.clone().inner());
            let of_right = matrix.transposed_product(gradient, left.clone().inner());
            with_gradient(left, of_left) + with_gradient(right, of_right)
        })
    }

    /// The inner products of all pairs of rows, whose backward pass is one product instead of two.
    ///
    /// - x: `[rows, width]`
    /// - output: `[rows, rows]`
    pub fn gram(&mut self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let inner = x.clone().inner();
        self.cut(inner.clone().matmul(inner.clone().transpose()), move |gradient| {
            let both = gradient.clone() + gradient.transpose();
            with_gradient(x, both.matmul(inner))
        })
    }

    /// The gradients of a module's parameters.
    ///
    /// - loss: `[1]`
    pub fn backward<M: AutodiffModule<B>>(self, loss: Tensor<B, 1>, module: &M) -> GradientsParams {
        let mut all = GradientsAccumulator::new();
        self.passes(loss, |gradients| {
            all.accumulate(module, GradientsParams::from_module(gradients, module));
        });
        all.grads()
    }

    /// The gradients of the parameters of two modules, to be stepped by optimisers of their own.
    ///
    /// - loss: `[1]`
    pub fn backward_two<M: AutodiffModule<B>, N: AutodiffModule<B>>(
        self,
        loss: Tensor<B, 1>,
        first: &M,
        second: &N,
    ) -> (GradientsParams, GradientsParams) {
        let (mut of_first, mut of_second) = (GradientsAccumulator::new(), GradientsAccumulator::new());
        self.passes(loss, |gradients| {
            of_first.accumulate(first, GradientsParams::from_module(gradients, first));
            of_second.accumulate(second, GradientsParams::from_module(gradients, second));
        });
        (of_first.grads(), of_second.grads())
    }

    /// Runs the passes from the loss back, giving `collect` what each of them found.
    fn passes(mut self, loss: Tensor<B, 1>, mut collect: impl FnMut(&mut B::Gradients)) {
        // The gradient of each cut's output, as far as the passes so far have reached it.
        let mut reached: Vec<Option<Tensor<B::InnerBackend, 1>>> = vec![None; self.cuts.len()];
        let mut scalar = loss;
        loop {
            let mut gradients = scalar.backward();
            for (sum, cut) in reached.iter_mut().zip(&self.cuts) {
                if let Some(gradient) = (cut.gradient)(&gradients) {
                    *sum = Some(match sum.take() {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    });
                }
            }
            collect(&mut gradients);
            // The last cut comes first: those before it may still get gradients through it.
            scalar = loop {
                let (Some(cut), Some(gradient)) = (self.cuts.pop(), reached.pop()) else { return };
                if let Some(gradient) = gradient {
                    break (cut.pull_back)(gradient);
                }
            };
        }
    }
}

/// A scalar `[1]` whose gradient with respect to `x` is `gradient`.
pub(crate) fn with_gradient<B: AutodiffBackend, const D: usize>(
    x: Tensor<B, D>,
    gradient: Tensor<B::InnerBackend, D>,
) -> Tensor<B, 1> {
    (x * Tensor::from_inner(gradient)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::{
        backend::Autodiff,
        module::{Module, Param},
        tensor::Tolerance,
    };
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    type Train = Autodiff<Flex>;

    /// Rows of 0 to 9 entries.
    fn matrix() -> Csr {
        let mut generator = Generator::new(3);
        let mut entries = Vec::new();
        for row in 0..40_u32 {
            for _ in 0..row % 10 {
                entries.push((row, generator.below(30) as u32, generator.normals(1)[0]));
            }
        }
        Csr::from_entries(40, 30, entries)
    }

    fn dense(matrix: &Csr) -> Tensor<Flex, 2> {
        Tensor::from_data(
            TensorData::new(matrix.to_dense(), [matrix.rows(), matrix.width()]),
            &Default::default(),
        )
    }

    fn assert_close<const D: usize>(found: Tensor<Flex, D>, expected: Tensor<Flex, D>) {
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-5));
    }

    #[test]
    fn products_are_those_of_the_dense_matrix() {
        let device = Default::default();
        let (matrix, mut generator) = (matrix(), Generator::new(1));
        let (x, y) = (generator.normal([30, 7], &device), generator.normal([40, 7], &device));
        let sparse = SparseMatrix::<Flex>::new(&matrix, &device);
        assert_close(sparse.product(x.clone()), dense(&matrix).matmul(x.clone()));
        assert_close(sparse.transposed_product(y.clone()), dense(&matrix).transpose().matmul(y.clone()));

        let learned = LearnedMatrix::<Flex>::new(&matrix, &device);
        let ones = Tensor::ones([matrix.entries()], &device);
        let products = learned.inner_products(y.clone(), x.clone());
        let all = y.matmul(x.transpose()).into_data().to_vec::<f32>().unwrap();
        let mut expected = Vec::new();
        for row in 0..40 {
            expected.extend(matrix.row(row).0.iter().map(|&column| all[row * 30 + column as usize]));
        }
        assert_close(products, Tensor::from_data(TensorData::new(expected, [matrix.entries()]), &device));
        let sums = learned.product(ones, Tensor::ones([30, 1], &device)).into_data();
        for (row, sum) in sums.iter::<f32>().enumerate() {
            assert_eq!(sum, matrix.row(row).0.len() as f32);
        }
    }

    #[derive(Module, Debug)]
    struct Parameters<B: Backend> {
        values: Param<Tensor<B, 1>>,
        x: Param<Tensor<B, 2>>,
    }

    #[test]
    fn gradients_are_those_of_the_dense_matrix() {
        let device = Default::default();
        let (matrix, mut generator) = (matrix(), Generator::new(2));
        // A square one, to be applied twice.
        let matrix = Csr::from_entries(
            40,
            40,
            (0..40_u32)
                .flat_map(|row| matrix.row(row as usize).0.iter().map(move |&c| (row, c, 1.0)))
                .collect(),
        );
        let parameters: Parameters<Train> = Parameters {
            values: Param::from_tensor(generator.normal([matrix.entries()], &device)),
            x: Param::from_tensor(generator.normal([40, 5], &device)),
        };
        let fixed = SparseMatrix::<Flex>::new(&matrix, &device);
        let learned = LearnedMatrix::<Flex>::new(&matrix, &device);

        // x enters the loss on three ways, the values on two.
        let mut tape = Tape::<Train>::new();
        let x = parameters.x.val();
        let once = tape.learned_product(&learned, parameters.values.val(), x.clone()).tanh();
        let once = tape.shared(once);
        let twice = tape.product(&fixed, once.clone() + x.clone());
        let products = tape.inner_products(&learned, twice.clone(), x);
        let weighted = tape.learned_product(&learned, products * parameters.values.val(), once);
        let gram = tape.gram(parameters.x.val()).tanh();
        let loss = weighted.tanh().sum() + twice.square().mean() + gram.sum();
        let found = tape.backward(loss, &parameters);

        let places: Vec<i64> = (0..40)
            .flat_map(|row| matrix.row(row).0.iter().map(move |&column| row as i64 * 40 + i64::from(column)))
            .collect();
        let places: Tensor<Train, 1, Int> = ints(places, &device);
        let scattered = |values: Tensor<Train, 1>| {
            let zeros = Tensor::<Train, 1>::zeros([1600], &device);
            zeros
                .select_assign(0, places.clone(), values, burn::tensor::IndexingUpdateOp::Add)
                .reshape([40, 40])
        };
        let x = parameters.x.val();
        let once = scattered(parameters.values.val()).matmul(x.clone()).tanh();
        let twice = Tensor::from_inner(dense(&matrix)).matmul(once.clone() + x.clone());
        let products = twice.clone().matmul(x.transpose()).reshape([1600]).select(0, places.clone());
        let weighted = scattered(products * parameters.values.val()).matmul(once);
        let gram = parameters.x.val().matmul(parameters.x.val().transpose()).tanh();
        let loss = weighted.tanh().sum() + twice.square().mean() + gram.sum();
        let expected = GradientsParams::from_grads(loss.backward(), &parameters);

        let gradient = |of: &GradientsParams| {
            (of.get::<Flex, 1>(parameters.values.id).unwrap(), of.get::<Flex, 2>(parameters.x.id).unwrap())
        };
        let (found, expected) = (gradient(&found), gradient(&expected));
        assert_close(found.0, expected.0);
        assert_close(found.1, expected.1);
    }

    #[test]
    fn rows_are_padded_by_less_than_half() {
        let lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 46];
        assert_eq!(lengths.map(padded), [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 16, 24, 32, 48]);
    }
}
