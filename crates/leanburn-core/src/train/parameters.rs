use std::{collections::HashMap, sync::Arc};

use burn::{
    module::{AutodiffModule, ModuleVisitor, Param, ParamId},
    optim::{
        GradientsParams, LearningRate, MultiGradientsParams, Optimizer, SimpleOptimizer,
        adaptor::OptimizerAdaptor,
    },
    tensor::{
        ElementConversion, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};

use crate::{checkpoint::is_variant, nn::contiguous};

/// Tells the parameters of a group by their paths.
type Selects = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// An optimiser for each group of parameters, with a learning rate and a decay of its own.
///
/// Paths are Burn's: the fields' names, joined by dots (`stages.0.1.conv1.weight`, `bn1.gamma`).
///
/// ```
/// use burn::{backend::Autodiff, nn::Linear, optim::{SgdConfig, decay::WeightDecayConfig}};
/// use burn_flex::Flex;
/// use leanburn_core::train::ParameterGroups;
///
/// // Biases at twice the rate and without decay, as Caffe's recipes have it.
/// let decayed = SgdConfig::new().with_weight_decay(Some(WeightDecayConfig::new(5e-4))).build();
/// let groups: ParameterGroups<_, Linear<Autodiff<Flex>>, Autodiff<Flex>> = ParameterGroups::new(decayed)
///     .with_group(|path| path.ends_with("bias"), 2.0, SgdConfig::new().build());
/// ```
pub struct ParameterGroups<S, M, B>
where
    S: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    groups: Vec<Group<S, M, B>>,
    /// The group of each parameter, known after the first step; `None` of frozen ones.
    assigned: HashMap<ParamId, Option<usize>>,
}

struct Group<S, M, B>
where
    S: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    selects: Selects,
    /// What the schedule's rate is multiplied by; `None` when the parameters stay.
    rate: Option<f64>,
    optimizer: OptimizerAdaptor<S, M, B>,
}

// Not derived: that would ask it of `M` and `B`.
impl<S, M, B> Clone for ParameterGroups<S, M, B>
where
    S: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    fn clone(&self) -> Self {
        let groups = self.groups.iter().map(|group| Group {
            selects: group.selects.clone(),
            rate: group.rate,
            optimizer: group.optimizer.clone(),
        });
        Self { groups: groups.collect(), assigned: self.assigned.clone() }
    }
}

/// The states of an optimiser by parameter.
pub(super) type States<S, M, B> = <OptimizerAdaptor<S, M, B> as Optimizer<M, B>>::Record;

impl<S, M, B> ParameterGroups<S, M, B>
where
    S: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    /// All parameters in one group.
    ///
    /// - optimizer: as `build` of Burn's configurations makes it
    pub fn new(optimizer: S) -> Self {
        Self { groups: Vec::new(), assigned: HashMap::new() }.with(|_| true, Some(1.0), optimizer)
    }

    /// With one more group, whose parameters leave the others.
    ///
    /// - selects: whether the parameter at a path belongs to it
    /// - rate: what the schedule's learning rate is multiplied by
    #[must_use]
    pub fn with_group(
        self,
        selects: impl Fn(&str) -> bool + Send + Sync + 'static,
        rate: f64,
        optimizer: S,
    ) -> Self {
        self.with(selects, Some(rate), optimizer)
    }

    /// With parameters that stay as they are, to the last bit.
    ///
    /// - selects: whether the parameter at a path is one
    #[must_use]
    pub fn with_frozen(self, selects: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let optimizer = self.groups[0].optimizer.optim().clone();
        self.with(selects, None, optimizer)
    }

    fn with(
        mut self,
        selects: impl Fn(&str) -> bool + Send + Sync + 'static,
        rate: Option<f64>,
        optimizer: S,
    ) -> Self {
        self.groups.push(Group { selects: Arc::new(selects), rate, optimizer: optimizer.into() });
        self
    }

    /// The gradients of each group.
    fn split(&mut self, model: &M, gradients: GradientsParams) -> Vec<GradientsParams> {
        if self.assigned.is_empty() {
            let groups = &self.groups;
            let mut assigned = HashMap::new();
            for (path, id) in parameter_paths::<B, M>(model) {
                let group = groups.iter().rposition(|group| (group.selects)(&path));
                assigned.insert(id, group.filter(|&group| groups[group].rate.is_some()));
            }
            self.assigned = assigned;
        }
        let mut parts: Vec<GradientsParams> = self.groups.iter().map(|_| GradientsParams::new()).collect();
        visit_gradients::<B, M>(model, &mut Split { gradients, parts: &mut parts, assigned: &self.assigned });
        parts
    }

    /// The optimisers' states with the paths of their parameters.
    pub(super) fn states(&self) -> Vec<States<S, M, B>> {
        self.groups.iter().map(|group| group.optimizer.to_record()).collect()
    }

    /// Continues from states.
    pub(super) fn restore(&mut self, states: Vec<States<S, M, B>>) {
        for (group, states) in self.groups.iter_mut().zip(states) {
            group.optimizer = group.optimizer.clone().load_record(states);
        }
    }
}

impl<S, M, B> Optimizer<M, B> for ParameterGroups<S, M, B>
where
    S: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    type Record = Vec<States<S, M, B>>;

    fn step(&mut self, rate: LearningRate, mut model: M, gradients: GradientsParams) -> M {
        let parts = self.split(&model, gradients);
        for (group, part) in self.groups.iter_mut().zip(parts) {
            if let (Some(factor), false) = (group.rate, part.is_empty()) {
                model = group.optimizer.step(rate * factor, model, part);
            }
        }
        model
    }

    fn step_multi(&mut self, rate: LearningRate, mut model: M, gradients: MultiGradientsParams) -> M {
        let mut parts: Vec<MultiGradientsParams> = self.groups.iter().map(|_| Default::default()).collect();
        for (gradients, device) in gradients.grads {
            for (part, gradients) in parts.iter_mut().zip(self.split(&model, gradients)) {
                part.grads.push((gradients, device));
            }
        }
        for (group, part) in self.groups.iter_mut().zip(parts) {
            if let Some(factor) = group.rate {
                model = group.optimizer.step_multi(rate * factor, model, part);
            }
        }
        model
    }

    fn to_record(&self) -> Self::Record {
        self.states()
    }

    fn load_record(mut self, record: Self::Record) -> Self {
        self.restore(record);
        self
    }
}

/// The paths and numbers of a module's float parameters, in its order. Paths are Burn's field names, joined by dots.
pub fn parameter_paths<B: Backend, M: burn::module::Module<B>>(module: &M) -> Vec<(String, ParamId)> {
    #[derive(Default)]
    struct Paths {
        path: Vec<String>,
        found: Vec<(String, ParamId)>,
    }
    impl<B: Backend> ModuleVisitor<B> for Paths {
        fn enter_module(&mut self, name: &str, container: &str) {
            if !is_variant(container) {
                self.path.push(name.to_owned());
            }
        }

        fn exit_module(&mut self, _name: &str, container: &str) {
            if !is_variant(container) {
                self.path.pop();
            }
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.found.push((self.path.join("."), param.id));
        }
    }
    let mut paths = Paths::default();
    module.visit(&mut paths);
    paths.found
}

/// What is done with each parameter's gradient.
trait OnGradient<B: Backend> {
    fn on<const D: usize>(&mut self, id: ParamId);
}

fn visit_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    on: &mut impl OnGradient<B::InnerBackend>,
) {
    struct Visitor<'a, O>(&'a mut O);
    impl<B: AutodiffBackend, O: OnGradient<B::InnerBackend>> ModuleVisitor<B> for Visitor<'_, O> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.on::<D>(param.id);
        }
    }
    model.visit(&mut Visitor(on));
}

struct Split<'a> {
    gradients: GradientsParams,
    parts: &'a mut [GradientsParams],
    assigned: &'a HashMap<ParamId, Option<usize>>,
}

impl<B: Backend> OnGradient<B> for Split<'_> {
    fn on<const D: usize>(&mut self, id: ParamId) {
        let group = self.assigned.get(&id).copied().flatten();
        if let (Some(gradient), Some(group)) = (self.gradients.remove::<B, D>(id), group) {
            self.parts[group].register::<B, D>(id, gradient);
        }
    }
}

/// The gradients, laid out as their parameters are: those of matrices that are applied transposed come transposed, and CPUs
/// take many times as long for what is done with them then.
pub fn contiguous_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    gradients: GradientsParams,
) -> GradientsParams {
    struct LayOut(GradientsParams);
    impl<B: Backend> OnGradient<B> for LayOut {
        fn on<const D: usize>(&mut self, id: ParamId) {
            if let Some(gradient) = self.0.remove::<B, D>(id) {
                self.0.register::<B, D>(id, contiguous(gradient));
            }
        }
    }
    let mut lay_out = LayOut(gradients);
    visit_gradients::<B, M>(model, &mut lay_out);
    lay_out.0
}

/// The gradients, each times `factor`.
pub(super) fn scaled<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    struct Scale(GradientsParams, f64);
    impl<B: Backend> OnGradient<B> for Scale {
        fn on<const D: usize>(&mut self, id: ParamId) {
            if let Some(gradient) = self.0.remove::<B, D>(id) {
                self.0.register::<B, D>(id, gradient * self.1);
            }
        }
    }
    let mut scale = Scale(gradients, factor);
    visit_gradients::<B, M>(model, &mut scale);
    scale.0
}

/// The gradients, all of them scaled down where their norm together is above `largest`, and the norm that they had.
pub fn clipped<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    gradients: GradientsParams,
    largest: f64,
) -> (GradientsParams, f64) {
    let norm = gradient_norm::<B, M>(model, &gradients);
    if norm > largest {
        return (scaled::<B, M>(model, gradients, largest / norm), norm);
    }
    (gradients, norm)
}

/// The Euclidean norm of all gradients together.
pub fn gradient_norm<B: AutodiffBackend, M: AutodiffModule<B>>(
    model: &M,
    gradients: &GradientsParams,
) -> f64 {
    struct Squares<'a, B: Backend>(&'a GradientsParams, Vec<Tensor<B, 1>>);
    impl<B: Backend> OnGradient<B> for Squares<'_, B> {
        fn on<const D: usize>(&mut self, id: ParamId) {
            self.1.extend(self.0.get::<B, D>(id).map(|gradient| gradient.square().sum()));
        }
    }
    let mut squares = Squares(gradients, Vec::new());
    visit_gradients::<B, M>(model, &mut squares);
    if squares.1.is_empty() {
        return 0.0;
    }
    // One value is read from the device, whatever the number of parameters.
    let sum: f64 = Tensor::cat(squares.1, 0).sum().into_scalar().elem();
    sum.sqrt()
}
