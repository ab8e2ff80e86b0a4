//! Parameters and their gradients under published names.

use leanburn::{
    burn::{
        module::{AutodiffModule, Module, ModuleMapper, Param},
        optim::GradientsParams,
        tensor::{Tensor, TensorData},
    },
    core::{Result, checkpoint},
    prelude::Dispatch,
};

/// The gradients of a module's parameters in PyTorch's layout; what has no gradient keeps its value.
///
/// # Errors
///
/// When one cannot be read.
pub(crate) fn by_name<M: AutodiffModule<Dispatch>>(
    module: &M,
    gradients: &GradientsParams,
    names: impl Fn(&str) -> String,
) -> Result<Vec<(String, TensorData)>>
where
    M::InnerModule: Module<Dispatch>,
{
    // A module whose values are the gradients has their names and layout.
    let values = module.valid().map(&mut Replace(gradients));
    checkpoint::tensors(&values, names)
}

struct Replace<'a>(&'a GradientsParams);

impl ModuleMapper<Dispatch> for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<Dispatch, D>>) -> Param<Tensor<Dispatch, D>> {
        match self.0.get::<Dispatch, D>(param.id) {
            Some(gradient) => Param::initialized(param.id, gradient),
            None => param,
        }
    }
}
