//! Networks in the references' own precision.

use leanburn::{
    burn::{
        module::{Module, ModuleMapper, Param},
        tensor::{DType, Tensor},
    },
    prelude::Dispatch,
};

use crate::device_name;

/// In which precision whole runs are computed: the references', where the device has it. Rounding to single precision
/// can tip an activation over zero: with two threads, PyTorch leaves the tolerance of `tpp_run_resnet8` as well.
pub(crate) fn precision() -> DType {
    if matches!(device_name().as_str(), "flex" | "ndarray") { DType::F64 } else { DType::F32 }
}

/// A network in that precision.
pub(crate) fn exact<N: Module<Dispatch>>(network: N) -> N {
    struct Cast;
    impl ModuleMapper<Dispatch> for Cast {
        fn map_float<const D: usize>(
            &mut self,
            param: Param<Tensor<Dispatch, D>>,
        ) -> Param<Tensor<Dispatch, D>> {
            let (id, tensor, mapper) = param.consume();
            let requires_gradient = tensor.is_require_grad();
            let mut tensor: Tensor<Dispatch, D> = Tensor::from_inner(tensor.inner().cast(precision()));
            if requires_gradient {
                tensor = tensor.require_grad();
            }
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    network.map(&mut Cast)
}
