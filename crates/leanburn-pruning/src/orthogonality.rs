//! Penalties on the rows of weights: orthogonality as a regulariser, and the trainability-preserving ones of TPP.
//!
//! A weight `[out, in, height, width]` is the matrix `M` with a row for each filter; `G = M M^T` has the filters' inner
//! products. All functions take and give tensors, so that they are part of a loss.

use burn::tensor::{Tensor, TensorData, backend::Backend, module::conv2d, ops::ConvOptions};
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};
#[cfg(feature = "train")]
use {
    burn::{
        module::{AutodiffModule, ModuleVisitor, Param},
        optim::GradientsParams,
        tensor::backend::AutodiffBackend,
    },
    leanburn_core::train::Hook,
    leanburn_vision::{Classifier, train::Supervised},
};

/// The rows of a weight, `[out, in * ...]`.
pub fn rows<B: Backend, const D: usize>(weight: Tensor<B, D>) -> Tensor<B, 2> {
    let dims = weight.dims();
    weight.reshape([dims[0], dims[1..].iter().product()])
}

/// The inner products of all pairs of rows, `[rows, rows]`.
fn gram<B: Backend>(m: Tensor<B, 2>) -> Tensor<B, 2> {
    let transposed = m.clone().transpose();
    m.matmul(transposed)
}

/// `G - I`.
fn from_identity<B: Backend>(gram: Tensor<B, 2>) -> Tensor<B, 2> {
    let size = gram.dims()[0];
    let identity = Tensor::<B, 2>::eye(size, &gram.device()).cast(gram.dtype());
    gram - identity
}

/// The Euclidean norm, with the gradient 0 at 0, where it has none.
fn norm<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 1> {
    (x.square().sum() + 1e-24).sqrt()
}

/// Kernel orthogonality (Xie et al., 2017): `|| M M^T - I ||`, of the smaller one of the two products; not squared.
pub fn kernel_orthogonality<B: Backend>(m: Tensor<B, 2>) -> Tensor<B, 1> {
    let [rows, columns] = m.dims();
    let m = if rows <= columns { m } else { m.transpose() };
    norm(from_identity(gram(m)))
}

/// The mean of `(M M^T - I)^2`.
pub fn isometry<B: Backend>(m: Tensor<B, 2>) -> Tensor<B, 1> {
    from_identity(gram(m)).square().mean()
}

/// Orthogonality of the convolution itself (OrthConv; Wang et al., 2020): `|| conv(K, K) - I ||`, where `I` is 1 for each
/// filter with itself at the zero shift.
///
/// - weight: `[out, in, height, width]`, a square kernel
/// - stride, padding: of the convolution with itself; [`shifts`] has the paper's
///
/// # Errors
///
/// When the kernel is not square.
pub fn convolution_orthogonality<B: Backend>(
    weight: Tensor<B, 4>,
    stride: usize,
    padding: usize,
) -> Result<Tensor<B, 1>> {
    let [filters, _, height, width] = weight.dims();
    if height != width {
        return Err(Error::data("kernel", "a square one", format!("{height} x {width}")));
    }
    let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
    let products = conv2d(weight.clone(), weight, None, options);
    let [_, _, _, size] = products.dims();
    let middle = size / 2;
    let mut target = vec![0.0_f32; filters * filters * size * size];
    for filter in 0..filters {
        target[((filter * filters + filter) * size + middle) * size + middle] = 1.0;
    }
    let target = TensorData::new(target, [filters, filters, size, size]);
    let target = Tensor::<B, 4>::from_data(target, &products.device()).cast(products.dtype());
    Ok(norm(products - target))
}

/// The padding of OrthConv for a kernel of a size and a stride. (The published code of TPP takes stride 2 and padding 1
/// for every layer; for a 3x3 kernel no position then is the zero shift.)
pub fn shifts(kernel: usize, stride: usize) -> usize {
    (kernel - 1) / stride * stride
}

/// What a penalty on a layer's rows wants of the filters that will go.
///
/// With `G = M M^T` and `S` the set of filters that will go:
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// `mean (G - T)^2` with `T` the products as they are, but 0 where a filter of `S` takes part: those filters come
    /// loose of the others, and vanish. TPP's default (`v5`).
    Decorrelate,
    /// `mean (G - T)^2` with `T` the identity, but 0 where a filter of `S` takes part: all others become orthonormal
    /// (`v3`, `v5_2`).
    Orthonormal,
    /// [`isometry`]: all filters become orthonormal, whether they will go or not (`v2`).
    Isometric,
    /// `Orthonormal`, and the columns' inner products stay what they were at the start ([`column_drift`], `v4`).
    OrthonormalWithColumns,
    /// `Orthonormal`, whose pairs of filters that stay have a weight of their own, that does not grow (`v6`).
    Weighted {
        /// That weight; 0.1 as published.
        orthogonal: f64,
    },
}

/// The penalty of TPP on the products of a layer's filters (Wang et al., 2023, equation 4, as the code computes it: the
/// mean over all pairs). What a scheme asks of columns and of weights between pairs is not part of it.
///
/// - m: the layer's [`rows`]
/// - pruned: the filters that will go
pub fn decorrelation<B: Backend>(m: Tensor<B, 2>, pruned: &[usize], scheme: Scheme) -> Tensor<B, 1> {
    differences(m, pruned, scheme).square().mean()
}

/// `G - T`, `[rows, rows]`.
fn differences<B: Backend>(m: Tensor<B, 2>, pruned: &[usize], scheme: Scheme) -> Tensor<B, 2> {
    let kept = kept_pairs(&m, pruned);
    let products = gram(m);
    match scheme {
        // Pairs of kept filters contribute nothing, so nothing is subtracted from the others.
        Scheme::Decorrelate => products * (kept.neg() + 1.0),
        Scheme::Isometric => from_identity(products),
        Scheme::Orthonormal | Scheme::OrthonormalWithColumns | Scheme::Weighted { .. } => {
            let size = products.dims()[0];
            let identity = Tensor::<B, 2>::eye(size, &products.device()).cast(products.dtype());
            products - identity * kept
        }
    }
}

/// The gradient of a layer's penalty by its rows, `[rows, columns]`: of `mean (G - T)^2` it is `4 / N^2 (G - T) M`.
///
/// - weight: of the penalty
/// - columns: the [`column_products`] at the start, for the scheme that keeps them
#[cfg(feature = "train")]
pub(crate) fn gradient<B: Backend>(
    m: Tensor<B, 2>,
    pruned: &[usize],
    scheme: Scheme,
    weight: f64,
    columns: Option<&Tensor<B, 2>>,
) -> Tensor<B, 2> {
    let [rows, width] = m.dims();
    let excess = differences(m.clone(), pruned, scheme);
    let excess = match scheme {
        // Pairs that stay have a weight of their own.
        Scheme::Weighted { orthogonal } => excess * (kept_pairs(&m, pruned) * (orthogonal - weight) + weight),
        _ => excess * weight,
    };
    let gradient = excess.matmul(m.clone()) * (4.0 / (rows * rows) as f64);
    match columns {
        Some(columns) => {
            let drift = column_products(m.clone()) - columns.clone();
            gradient + m.matmul(drift) * (4.0 * weight / (width * width) as f64)
        }
        None => gradient,
    }
}

/// 1 for each pair of filters that both stay, `[rows, rows]`.
fn kept_pairs<B: Backend>(m: &Tensor<B, 2>, pruned: &[usize]) -> Tensor<B, 2> {
    let count = m.dims()[0];
    let mut stays = vec![1.0_f32; count];
    for &filter in pruned {
        stays[filter] = 0.0;
    }
    let column = Tensor::<B, 2>::from_data(TensorData::new(stays, [count, 1]), &m.device()).cast(m.dtype());
    let row = column.clone().transpose();
    column * row
}

/// [`decorrelation`] to the orthonormal target with a weight of its own on pairs that a filter to go is part of (`v6`).
///
/// - loose: the weight of those pairs
/// - orthogonal: the weight of all others
pub fn weighted_decorrelation<B: Backend>(
    m: Tensor<B, 2>,
    pruned: &[usize],
    loose: f64,
    orthogonal: f64,
) -> Tensor<B, 1> {
    let kept = kept_pairs(&m, pruned);
    let weights = kept * (orthogonal - loose) + loose;
    (differences(m, pruned, Scheme::Orthonormal).square() * weights).mean()
}

/// `M^T M`, the inner products of all pairs of columns, `[columns, columns]`.
pub fn column_products<B: Backend>(m: Tensor<B, 2>) -> Tensor<B, 2> {
    gram(m.transpose())
}

/// `mean (M^T M - N^T N)^2`: how far the columns' inner products are from those of another matrix (part of `v4`).
///
/// - original: the [`column_products`] of the other one
pub fn column_drift<B: Backend>(m: Tensor<B, 2>, original: Tensor<B, 2>) -> Tensor<B, 1> {
    (column_products(m) - original).square().mean()
}

/// A penalty on orthogonality while a network trains, for comparison: as a [hook](leanburn_core::train::Hook) of the
/// training of a base model ("KernOrth + L1") or of a pruned network ("L1 + KernOrth").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Penalty {
    /// The sum of all layers' [`kernel_orthogonality`].
    Kernel {
        /// Its weight; 0.1 as published.
        weight: f64,
    },
    /// The sum of the [`convolution_orthogonality`] of all layers but the first; of linear layers and 1x1 kernels,
    /// [`kernel_orthogonality`].
    Convolution {
        /// Its weight; 0.1 as published.
        weight: f64,
        /// The stride of the convolutions with themselves; 1 in the paper of OrthConv, 2 in the published code of TPP.
        stride: usize,
    },
}

/// Adds a [`Penalty`] to gradients.
#[cfg(feature = "train")]
impl<B, N> Hook<B, Supervised<B, N>> for Penalty
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
    N::InnerModule: Classifier<B::InnerBackend>,
{
    fn gradients(
        &mut self,
        _step: usize,
        model: &Supervised<B, N>,
        gradients: GradientsParams,
    ) -> Result<GradientsParams> {
        let mut add = AddPenalty { penalty: *self, gradients, first: true, failed: None };
        model.network.visit(&mut add);
        match add.failed {
            Some(error) => Err(error),
            None => Ok(add.gradients),
        }
    }
}

#[cfg(feature = "train")]
struct AddPenalty {
    penalty: Penalty,
    gradients: GradientsParams,
    /// Whether no layer has been visited.
    first: bool,
    failed: Option<Error>,
}

#[cfg(feature = "train")]
impl AddPenalty {
    /// The penalty on a weight.
    fn of<B: Backend, const D: usize>(&self, weight: Tensor<B, D>) -> Result<Tensor<B, 1>> {
        let dims = weight.dims();
        let (Penalty::Kernel { weight: factor } | Penalty::Convolution { weight: factor, .. }) = self.penalty;
        let penalty = match self.penalty {
            Penalty::Convolution { stride, .. } if D == 4 && dims[2] > 1 => {
                let padding = if stride == 2 { 1 } else { shifts(dims[2], stride) };
                let weight = weight.reshape([dims[0], dims[1], dims[2], dims[3]]);
                convolution_orthogonality(weight, stride, padding)?
            }
            _ => kernel_orthogonality(rows(weight)),
        };
        Ok(penalty * factor)
    }
}

#[cfg(feature = "train")]
impl<B: AutodiffBackend> ModuleVisitor<B> for AddPenalty {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        // Weights alone have two dimensions or more.
        if D < 2 {
            return;
        }
        let first = std::mem::replace(&mut self.first, false);
        if first && matches!(self.penalty, Penalty::Convolution { .. }) {
            return;
        }
        let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) else { return };
        let weight = Tensor::<B, D>::from_inner(param.val().inner()).require_grad();
        let added = self.of(weight.clone()).map(|penalty| weight.grad(&penalty.backward()));
        let gradient = match added {
            Ok(Some(added)) => gradient + added,
            Ok(None) => gradient,
            Err(error) => {
                self.failed = Some(error);
                gradient
            }
        };
        self.gradients.register(param.id, gradient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Autodiff;
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    type Training = Autodiff<Flex>;

    fn matrix(rows: usize, columns: usize) -> Tensor<Training, 2> {
        Generator::new(3).normal([rows, columns], &Default::default())
    }

    fn value(loss: Tensor<Training, 1>) -> f32 {
        loss.into_scalar()
    }

    #[test]
    fn filters_that_vanish_cost_nothing() {
        let m = matrix(5, 8);
        let loose = m.clone().slice_assign([1..2, 0..8], Tensor::zeros([1, 8], &m.device()));
        assert!(value(decorrelation(m.clone(), &[1], Scheme::Decorrelate)) > 0.1);
        assert_eq!(value(decorrelation(loose, &[1], Scheme::Decorrelate)), 0.0);
        // With no filter to go, nothing pulls at any.
        let m = m.require_grad();
        let gradients = decorrelation(m.clone(), &[], Scheme::Decorrelate).backward();
        assert_eq!(m.grad(&gradients).unwrap().abs().max().into_scalar(), 0.0);
    }

    #[test]
    fn orthonormal_rows_cost_nothing_and_have_a_gradient() {
        for [rows, columns] in [[3, 6], [6, 3]] {
            let identity = Tensor::<Training, 2>::eye(rows.max(columns), &Default::default());
            let m = identity.slice([0..rows, 0..columns]).require_grad();
            let loss = kernel_orthogonality(m.clone());
            let gradient = m.grad(&loss.backward()).unwrap();
            assert_eq!(gradient.abs().max().into_scalar(), 0.0);
            assert!(value(kernel_orthogonality(m)) < 1e-6);
        }
        assert!(value(isometry(matrix(3, 6))) > 0.1);
    }

    #[test]
    fn orthogonal_convolutions_cost_nothing() {
        // Each filter is another channel's centre: shifted, they have no product.
        let device = Default::default();
        let mut kernel = vec![0.0_f32; 2 * 2 * 9];
        kernel[4] = 1.0;
        kernel[27 + 4] = 1.0;
        let kernel = Tensor::<Training, 4>::from_data(TensorData::new(kernel, [2, 2, 3, 3]), &device);
        assert!(value(convolution_orthogonality(kernel.clone(), 1, shifts(3, 1)).unwrap()) < 1e-6);
        assert!(value(convolution_orthogonality(kernel * 2.0, 1, shifts(3, 1)).unwrap()) > 1.0);
        let flat = Tensor::<Training, 4>::zeros([2, 2, 3, 1], &device);
        assert!(convolution_orthogonality(flat, 1, 2).is_err());
        assert_eq!((shifts(3, 1), shifts(3, 2), shifts(5, 3)), (2, 2, 3));
    }
}
