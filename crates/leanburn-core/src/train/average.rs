use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Tensor, backend::Backend},
};

/// `average * decay + model * (1 - decay)` of all float parameters and running statistics.
pub(super) fn moved<B: Backend, M: Module<B>>(average: M, model: &M, decay: f64) -> M {
    // Burn's container of tensors by parameter.
    struct Collect(GradientsParams);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.register::<B, D>(param.id, param.val());
        }
    }
    struct Move(GradientsParams, f64);
    impl<B: Backend> ModuleMapper<B> for Move {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let (id, value, mapper) = param.consume();
            let value = match self.0.remove::<B, D>(id) {
                Some(newest) => value * self.1 + newest * (1.0 - self.1),
                None => value,
            };
            Param::from_mapped_value(id, value, mapper)
        }
    }
    let mut collect = Collect(GradientsParams::new());
    model.visit(&mut collect);
    average.map(&mut Move(collect.0, decay))
}
