//! Filters that are pushed to zero while the network trains, before they go: GReg and TPP.
//!
//! Both grow a penalty on the filters that will go until it is large, keep it while the others recover
//! (stabilise), and then leave the filters to [`remove`](crate::surgery::remove). They work on the gradients and weights
//! of each step: as [hooks](leanburn_core::train::Hook) of a training, or called one by one in a loop of your own.

mod greg;
mod greg_weights;
#[cfg(test)]
mod tests;
mod tpp;

pub use greg::{Greg, GregConfig, Growth};
pub use greg_weights::WeightGreg;
pub use tpp::{Penalty, Tpp, TppConfig};

use std::collections::{BTreeMap, HashMap};

use burn::{
    module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{
        Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{
    Error, Result,
    architecture::{Graph, LayerKind},
    train::parameter_paths,
};
use leanburn_vision::Architecture;
use serde::{Deserialize, Serialize};

use crate::{Kept, orthogonality, state::norm_behind};

/// Where a method stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The penalty grows.
    Grow,
    /// The penalty stays, since this step.
    Stabilise(usize),
}

impl Phase {
    /// Whether the penalty has stayed for as many steps as it is to.
    fn is_over(self, step: usize, stabilise: usize) -> bool {
        matches!(self, Self::Stabilise(start) if step - start >= stabilise)
    }
}

/// Checks how a penalty grows.
fn check_growth(update_every: usize, granularity: f64) -> Result<()> {
    if update_every == 0 || granularity.is_nan() || granularity <= 0.0 {
        let found = format!("{update_every}, {granularity}");
        return Err(Error::setting("update_every, granularity", "at least 1, and above 0", found));
    }
    Ok(())
}

/// What stays of a network whose layers lose these filters.
fn kept<'a>(graph: &Graph, pruned: impl Iterator<Item = (&'a String, &'a Vec<usize>)>) -> Result<Kept> {
    let pruned = pruned.map(|(name, pruned)| (name.clone(), pruned.clone()));
    Kept::without(graph, &pruned.collect::<BTreeMap<_, _>>())
}

/// What a parameter is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The weight, whose filters lie along this dimension.
    Weight(usize),
    Bias,
    /// The scale or the shift of the batch norm behind the layer.
    Norm,
}

/// Where a network keeps the parameters of some layers.
#[derive(Debug, Clone)]
struct Sites(HashMap<ParamId, (usize, Part)>);

impl Sites {
    /// - layers: by name, in the order in which methods number them
    fn new<A: Architecture, B: Backend>(
        config: &A,
        graph: &Graph,
        network: &A::Network<B>,
        layers: &[String],
    ) -> Result<Self> {
        let mut parts: HashMap<String, (usize, Part)> = HashMap::new();
        for (index, name) in layers.iter().enumerate() {
            let layer = graph.layer(name)?;
            // Burn's linear weights have a column for each output.
            let dim = usize::from(layer.kind() == LayerKind::Linear);
            parts.insert(format!("{name}.weight"), (index, Part::Weight(dim)));
            parts.insert(format!("{name}.bias"), (index, Part::Bias));
            if let Some(norm) = norm_behind(graph, layer) {
                for part in ["weight", "bias"] {
                    parts.insert(format!("{}.{part}", norm.name()), (index, Part::Norm));
                }
            }
        }
        let mut sites = HashMap::new();
        for (path, id) in parameter_paths::<B, _>(network) {
            let path = path.strip_suffix(".gamma").map_or(path.clone(), |layer| format!("{layer}.weight"));
            let path = path.strip_suffix(".beta").map_or(path.clone(), |layer| format!("{layer}.bias"));
            if let Some(site) = parts.get(&config.published_name(&path)) {
                sites.insert(id, *site);
            }
        }
        let weights = sites.values().filter(|(_, part)| matches!(part, Part::Weight(_))).count();
        if weights != layers.len() {
            return Err(Error::data("network", format!("the weights of {} layers", layers.len()), weights));
        }
        Ok(Self(sites))
    }
}

/// One value for the filters that go, and one for those that stay.
fn by_filter(width: usize, pruned: &[usize], go: f32, stay: f32) -> Vec<f32> {
    let mut values = vec![stay; width];
    for &filter in pruned {
        values[filter] = go;
    }
    values
}

/// Values along one dimension of a tensor like another.
fn along<B: Backend, const D: usize>(values: &[f32], dim: usize, like: &Tensor<B, D>) -> Tensor<B, D> {
    let mut shape = [1; D];
    shape[dim] = values.len();
    Tensor::<B, D>::from_data(TensorData::new(values.to_vec(), shape), &like.device()).cast(like.dtype())
}

/// The rows of a weight, `[filters, ...]`, and back.
fn matrix<B: Backend, const D: usize>(weight: Tensor<B, D>, dim: usize) -> Tensor<B, 2> {
    let rows = orthogonality::rows(weight);
    if dim == 1 { rows.transpose() } else { rows }
}

fn unmatrix<B: Backend, const D: usize>(rows: Tensor<B, 2>, dims: [usize; D], dim: usize) -> Tensor<B, D> {
    let rows = if dim == 1 { rows.transpose() } else { rows };
    rows.reshape(dims)
}

/// Adds `lambda * value` to gradients, with a lambda of its own for each filter of each layer.
fn pull<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    sites: &Sites,
    lambdas: &[Vec<f32>],
    wanted: impl Fn(Part) -> bool,
    gradients: GradientsParams,
) -> GradientsParams {
    struct Pull<'a, F> {
        sites: &'a Sites,
        lambdas: &'a [Vec<f32>],
        wanted: F,
        gradients: GradientsParams,
    }
    impl<B: AutodiffBackend, F: Fn(Part) -> bool> ModuleVisitor<B> for Pull<'_, F> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let Some(&(layer, part)) = self.sites.0.get(&param.id) else { return };
            let lambda = &self.lambdas[layer];
            if !(self.wanted)(part) || lambda.iter().all(|lambda| *lambda == 0.0) {
                return;
            }
            let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) else { return };
            let dim = if let Part::Weight(dim) = part { dim } else { 0 };
            let lambda = along(lambda, dim, &gradient);
            self.gradients.register(param.id, gradient + param.val().inner() * lambda);
        }
    }
    let mut pull = Pull { sites, lambdas, wanted, gradients };
    model.visit(&mut pull);
    pull.gradients
}

/// The rows of each layer's weight, `[filters, ...]`.
fn rows_of<B: AutodiffBackend, M: Module<B>>(
    model: &M,
    sites: &Sites,
    layers: usize,
) -> Vec<Tensor<B::InnerBackend, 2>> {
    struct Rows<'a, I: Backend>(&'a Sites, Vec<Option<Tensor<I, 2>>>);
    impl<B: AutodiffBackend> ModuleVisitor<B> for Rows<'_, B::InnerBackend> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            if let Some(&(layer, Part::Weight(dim))) = self.0.0.get(&param.id) {
                self.1[layer] = Some(matrix(param.val().inner(), dim));
            }
        }
    }
    let mut rows = Rows(sites, vec![None; layers]);
    model.visit(&mut rows);
    rows.1.into_iter().map(|rows| rows.expect("the sites hold each layer's weight")).collect()
}

/// The mean absolute weight of each filter, by layer.
fn magnitudes<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    sites: &Sites,
    layers: usize,
) -> Vec<Vec<f32>> {
    let means = |rows: Tensor<B::InnerBackend, 2>| rows.abs().mean_dim(1).into_data().iter::<f32>().collect();
    rows_of::<B, M>(model, sites, layers).into_iter().map(means).collect()
}

/// Sets filters to zero: weights, and the scales and shifts behind them.
fn cleared<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: M,
    sites: &Sites,
    pruned: &[Option<&[usize]>],
) -> M {
    struct Clear<'a>(&'a Sites, &'a [Option<&'a [usize]>]);
    impl<B: AutodiffBackend> ModuleMapper<B> for Clear<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let site = self.0.0.get(&param.id).copied();
            let Some((layer, part)) = site.filter(|(_, part)| *part != Part::Bias) else { return param };
            let Some(pruned) = self.1[layer] else { return param };
            let dim = if let Part::Weight(dim) = part { dim } else { 0 };
            let (id, tensor, mapper) = param.consume();
            let requires_gradient = tensor.is_require_grad();
            let stays = by_filter(tensor.dims()[dim], pruned, 0.0, 1.0);
            let values = tensor.inner();
            let stays = along(&stays, dim, &values);
            let mut tensor = Tensor::from_inner(values * stays);
            if requires_gradient {
                tensor = tensor.require_grad();
            }
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    model.map(&mut Clear(sites, pruned))
}
