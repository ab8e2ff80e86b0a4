use burn::tensor::{Tensor, TensorData, backend::Backend};
use leanburn_core::{Error, Result, random::Generator};

/// The K random matrices, `[columns, width]` each with entries from N(0, 1), not scaled.
///
/// They are drawn when they are used, each from its own stream of the seed, so that K matrices never lie in memory
/// together and neither the number of threads nor the order of use matters.
#[derive(Debug, Clone)]
pub struct Projections {
    count: usize,
    columns: usize,
    width: usize,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Seed(u64),
    Matrices(Vec<f32>),
}

impl Projections {
    /// `count` matrices of shape `[columns, width]` from `seed`.
    pub fn from_seed(seed: u64, count: usize, columns: usize, width: usize) -> Self {
        Self { count, columns, width, source: Source::Seed(seed) }
    }

    /// Given matrices, such as those of another program.
    ///
    /// - matrices: `[count, columns, width]`
    ///
    /// # Errors
    ///
    /// When the data has not three dimensions or is not of type f32.
    pub fn from_matrices(matrices: TensorData) -> Result<Self> {
        let [count, columns, width] = matrices.shape[..] else {
            return Err(Error::data(
                "projections",
                "the shape [count, columns, width]",
                format!("{:?}", matrices.shape),
            ));
        };
        let values = matrices
            .into_vec::<f32>()
            .map_err(|error| Error::data("projections", "f32 values", format!("{error:?}")))?;
        Ok(Self { count, columns, width, source: Source::Matrices(values) })
    }

    /// Number of matrices K.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of features they take.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Width D of the rows they give.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Matrix `index`, `[columns, width]`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`count`](Self::count).
    pub fn matrix<B: Backend>(&self, index: usize, device: &B::Device) -> Tensor<B, 2> {
        assert!(index < self.count, "projection {index} of {}", self.count);
        let shape = [self.columns, self.width];
        match &self.source {
            Source::Seed(seed) => Generator::stream(*seed, index as u64).normal(shape, device),
            Source::Matrices(values) => {
                let size = self.columns * self.width;
                let values = values[index * size..(index + 1) * size].to_vec();
                Tensor::from_data(TensorData::new(values, shape), device)
            }
        }
    }

    /// The first row of the first matrix, `[width]`.
    pub(super) fn first_row(&self) -> Vec<f32> {
        match &self.source {
            // A matrix is drawn row by row.
            Source::Seed(seed) => Generator::stream(*seed, 0).normals(self.width),
            Source::Matrices(values) => values[..self.width].to_vec(),
        }
    }

    /// The given matrices, `[count, columns, width]`; none when they are drawn from a seed.
    pub(super) fn given(&self) -> Option<TensorData> {
        match &self.source {
            Source::Seed(_) => None,
            Source::Matrices(values) => {
                Some(TensorData::new(values.clone(), [self.count, self.columns, self.width]))
            }
        }
    }
}
