use burn::{
    config::Config,
    module::{AutodiffModule, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{Error, Result, architecture::Graph, train::Hook};
use leanburn_vision::{Architecture, Classifier, train::Supervised};
use serde::{Deserialize, Serialize};

use super::{Part, Phase, Sites, by_filter, check_growth, cleared, matrix, pull, rows_of, unmatrix};
use crate::{
    Kept, Ratios, Selection, State,
    orthogonality::{Scheme, column_products, gradient},
};

/// How the penalty grows with the steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Penalty {
    /// In equal steps.
    Linear,
    /// With a power of the step, so that the limit is reached after as many steps.
    Polynomial {
        /// The power.
        power: f64,
        /// Steps until the limit.
        steps: usize,
    },
}

/// Trainability preserving pruning (Wang and Fu, 2023): filters that will go are decorrelated from those that stay, so that
/// the others lose nothing with them.
#[derive(Config, Debug)]
pub struct TppConfig {
    /// What the penalty grows by at each update. Default: 1e-4
    #[config(default = 1e-4)]
    pub granularity: f64,
    /// Where it ends. Default: 1
    #[config(default = 1.0)]
    pub limit: f64,
    /// How it grows. Default: in equal steps
    #[config(default = "Penalty::Linear")]
    pub growth: Penalty,
    /// Steps from update to update. Default: 10, published for CIFAR; 5 for ImageNet
    #[config(default = 10)]
    pub update_every: usize,
    /// Steps for which the full penalty stays. Default: 10,000, published for CIFAR; 40,000 for ImageNet
    #[config(default = 10_000)]
    pub stabilise: usize,
    /// While it stays, steps from one layer that is set to zero to the next. Default: 100
    #[config(default = 100)]
    pub zero_out_every: usize,
    /// The weight of the penalty on inner products, which is a mean over pairs. Default: 1000
    #[config(default = 1000.0)]
    pub decorrelation: f64,
    /// What inner products are drawn to. Default: to what they are, but 0 with filters that will go
    #[config(default = "Scheme::Decorrelate")]
    pub scheme: Scheme,
    /// Whether the weights and biases that will go are penalised by themselves, too. Default: true
    #[config(default = true)]
    pub weight_penalty: bool,
    /// Whether the scales and shifts of batch norm behind them are. Default: true
    #[config(default = true)]
    pub norm_penalty: bool,
}

impl TppConfig {
    /// The method on a network.
    ///
    /// - size: height and width of the input
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, filters cannot be selected, or not every layer would be set to zero before
    /// the filters go.
    pub fn init<A: Architecture, B: AutodiffBackend>(
        &self,
        config: &A,
        network: &A::Network<B>,
        size: [usize; 2],
        ratios: &Ratios,
        selection: &Selection,
    ) -> Result<Tpp<B::InnerBackend>> {
        check_growth(self.update_every, self.granularity)?;
        let graph = config.graph(size)?;
        let state = State::of::<A, B>(config, network)?;
        let kept = selection.select(&graph, &state, None, ratios)?;
        let mut layers = Vec::new();
        for (place, layer) in graph.learnable().enumerate() {
            let pruned = kept.pruned(layer.name())?.to_vec();
            // Without a filter to lose, a layer has a penalty where all filters have one.
            if !pruned.is_empty() || self.scheme == Scheme::Isometric {
                let width = layer.outputs().len();
                layers.push(TppLayer { name: layer.name().to_owned(), place, width, pruned });
            }
        }
        let needed = layers.last().map_or(0, |layer| (layer.place + 1) * self.zero_out_every);
        if self.stabilise < needed {
            let expected = format!("at least {needed}, so that every layer is set to zero");
            return Err(Error::setting("stabilise", expected, self.stabilise));
        }
        let names: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
        let sites = Sites::new::<A, B>(config, &graph, network, &names)?;
        let mut columns = Vec::new();
        if self.scheme == Scheme::OrthonormalWithColumns {
            columns =
                rows_of::<B, _>(network, &sites, layers.len()).into_iter().map(column_products).collect();
        }
        let config = self.clone();
        Ok(Tpp { config, sites, layers, columns, penalty: 0.0, phase: Phase::Grow, done: false })
    }

    /// The penalty at a step.
    fn penalty(&self, step: usize) -> f64 {
        match self.growth {
            Penalty::Linear => self.granularity * step as f64 / self.update_every as f64,
            Penalty::Polynomial { power, steps } => {
                let unit = steps as f64 / (self.limit / self.granularity).powf(1.0 / power);
                self.granularity * (step as f64 / unit).powf(power)
            }
        }
    }
}

/// A layer that loses filters.
#[derive(Debug, Clone)]
struct TppLayer {
    name: String,
    /// Its place among all layers that multiply by weights.
    place: usize,
    width: usize,
    pruned: Vec<usize>,
}

/// A network's trainability preserving pruning, see [`TppConfig::init`].
#[derive(Debug, Clone)]
pub struct Tpp<B: Backend> {
    config: TppConfig,
    sites: Sites,
    layers: Vec<TppLayer>,
    /// By layer: the inner products of columns at the start, for the scheme that keeps them.
    pub(super) columns: Vec<Tensor<B, 2>>,
    penalty: f64,
    phase: Phase,
    done: bool,
}

impl<I: Backend> Tpp<I> {
    /// After the backward pass of step `step`: lets the penalty grow, and adds the gradient of the penalty on inner
    /// products, as a loss in front of the backward pass would have.
    ///
    /// - step: counted from 0
    pub fn decorrelate<B: AutodiffBackend<InnerBackend = I>, N: AutodiffModule<B>>(
        &mut self,
        step: usize,
        network: &N,
        gradients: GradientsParams,
    ) -> GradientsParams {
        if self.phase == Phase::Grow && step.is_multiple_of(self.config.update_every) {
            self.penalty = self.config.penalty(step);
            if self.penalty >= self.config.limit || self.layers.is_empty() {
                self.phase = Phase::Stabilise(step);
            }
        }
        self.done = self.phase.is_over(step, self.config.stabilise);
        let weight = self.config.decorrelation * self.penalty;
        if weight == 0.0 && !matches!(self.config.scheme, Scheme::Weighted { .. }) {
            return gradients;
        }
        let mut decorrelate = Decorrelate {
            sites: &self.sites,
            layers: &self.layers,
            columns: &self.columns,
            scheme: self.config.scheme,
            weight,
            gradients,
        };
        network.visit(&mut decorrelate);
        decorrelate.gradients
    }

    /// Then: adds the penalties on the weights, biases, scales and shifts of filters that will go.
    pub fn pull<B: AutodiffBackend, N: AutodiffModule<B>>(
        &self,
        network: &N,
        gradients: GradientsParams,
    ) -> GradientsParams {
        let of_layer = |layer: &TppLayer| by_filter(layer.width, &layer.pruned, self.penalty as f32, 0.0);
        let lambdas: Vec<Vec<f32>> = self.layers.iter().map(of_layer).collect();
        let wanted = |part| match part {
            Part::Weight(_) | Part::Bias => self.config.weight_penalty,
            Part::Norm => self.config.norm_penalty,
        };
        pull::<B, N>(network, &self.sites, &lambdas, wanted, gradients)
    }

    /// After the optimiser's step: sets filters to zero, one layer after the other, once the penalty is full.
    pub fn stepped<B: AutodiffBackend, N: AutodiffModule<B>>(&self, step: usize, network: N) -> N {
        let Phase::Stabilise(start) = self.phase else { return network };
        let due = |layer: &TppLayer| step - start >= (layer.place + 1) * self.config.zero_out_every;
        let pruned: Vec<Option<&[usize]>> =
            self.layers.iter().map(|layer| due(layer).then_some(&layer.pruned[..])).collect();
        if pruned.iter().all(Option::is_none) {
            return network;
        }
        cleared::<B, N>(network, &self.sites, &pruned)
    }

    /// Where the method stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The penalty.
    pub fn penalty(&self) -> f64 {
        self.penalty
    }

    /// Whether the filters are to be removed, after the step under way.
    pub fn finished(&self) -> bool {
        self.done
    }

    /// What stays.
    ///
    /// # Errors
    ///
    /// When the graph is of another network.
    pub fn kept(&self, graph: &Graph) -> Result<Kept> {
        super::kept(graph, self.layers.iter().map(|layer| (&layer.name, &layer.pruned)))
    }
}

/// Adds the gradient of the penalty on inner products.
struct Decorrelate<'a, B: Backend> {
    sites: &'a Sites,
    layers: &'a [TppLayer],
    columns: &'a [Tensor<B, 2>],
    scheme: Scheme,
    weight: f64,
    gradients: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Decorrelate<'_, B::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(&(layer, Part::Weight(dim))) = self.sites.0.get(&param.id) else { return };
        let Some(found) = self.gradients.remove::<B::InnerBackend, D>(param.id) else { return };
        let m = matrix(param.val().inner(), dim);
        let pruned = &self.layers[layer].pruned;
        let added = gradient(m, pruned, self.scheme, self.weight, self.columns.get(layer));
        let added = unmatrix(added, found.dims(), dim);
        self.gradients.register(param.id, found + added);
    }
}

impl<B, N> Hook<B, Supervised<B, N>> for Tpp<B::InnerBackend>
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
    N::InnerModule: Classifier<B::InnerBackend>,
{
    fn gradients(
        &mut self,
        step: usize,
        model: &Supervised<B, N>,
        gradients: GradientsParams,
    ) -> Result<GradientsParams> {
        let gradients = self.decorrelate::<B, N>(step, &model.network, gradients);
        Ok(self.pull::<B, N>(&model.network, gradients))
    }

    fn stepped(&mut self, step: usize, mut model: Supervised<B, N>) -> Result<Supervised<B, N>> {
        model.network = Self::stepped::<B, N>(self, step, model.network);
        Ok(model)
    }

    fn finished(&self) -> bool {
        self.done
    }

    fn state(&self) -> serde_json::Value {
        let pruned: Vec<&[usize]> = self.layers.iter().map(|layer| &layer.pruned[..]).collect();
        serde_json::to_value((pruned, self.penalty, self.phase, self.done)).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let bad = |error: String| Error::data("state of TPP", "what it saved", error);
        let (pruned, penalty, phase, done): (Vec<Vec<usize>>, f64, Phase, bool) =
            serde_json::from_value(state).map_err(|error| bad(error.to_string()))?;
        if pruned.len() != self.layers.len() {
            return Err(bad(format!("{} layers", pruned.len())));
        }
        for (layer, pruned) in self.layers.iter_mut().zip(pruned) {
            layer.pruned = pruned;
        }
        (self.penalty, self.phase, self.done) = (penalty, phase, done);
        Ok(())
    }
}
