use std::vec::IntoIter;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use leanburn_core::{Error, Result, random::Generator};

use crate::llama::Llama;

/// A direction in which a network's weights are moved, to see its loss around a solution.
#[derive(Debug, Clone)]
pub struct Direction<B: Backend>(Vec<Tensor<B, 1>>);

impl<B: Backend> Direction<B> {
    /// A random direction, each row of a matrix as long as that row of the network (filter normalisation, Li et al., 2018);
    /// norms and biases stay.
    pub fn random(network: &Llama<B>, generator: &mut Generator) -> Self {
        struct Draw<'a, B: Backend>(&'a mut Generator, Vec<Tensor<B, 1>>);
        impl<B: Backend> ModuleVisitor<B> for Draw<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let values = param.val();
                let (count, device) = (values.shape().num_elements(), values.device());
                let dtype = values.dtype();
                let drawn = if D == 2 {
                    let rows = values.dims()[0];
                    let values = values.reshape([rows, count / rows]);
                    let drawn = self.0.normal::<B, 2>(values.dims(), &device).cast(dtype);
                    let length = |x: Tensor<B, 2>| x.square().sum_dim(1).sqrt();
                    let scale = length(values) / (length(drawn.clone()) + 1e-10);
                    (drawn * scale).reshape([count])
                } else {
                    Tensor::zeros([count], (&device, dtype))
                };
                self.1.push(drawn);
            }
        }
        let mut draw = Draw(generator, Vec::new());
        network.visit(&mut draw);
        Self(draw.1)
    }

    /// From one network to another of its shapes: from a model to itself with masks, say.
    ///
    /// # Errors
    ///
    /// When their shapes differ.
    pub fn between(from: &Llama<B>, to: &Llama<B>) -> Result<Self> {
        let [from, to] = [flat(from), flat(to)];
        let shapes = |all: &[Tensor<B, 1>]| all.iter().map(|x| x.dims()[0]).collect::<Vec<_>>();
        if shapes(&from) != shapes(&to) {
            return Err(Error::data("networks", "two of the same shapes", "others"));
        }
        Ok(Self(from.into_iter().zip(to).map(|(from, to)| to - from).collect()))
    }

    /// The network, moved by some amount.
    fn moved(&self, network: Llama<B>, amount: f64) -> Llama<B> {
        struct Move<B: Backend>(IntoIter<Tensor<B, 1>>, f64);
        impl<B: Backend> ModuleMapper<B> for Move<B> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
                let step = self.0.next().expect("the direction is of this network") * self.1;
                param.map(|values| {
                    let dims = values.dims();
                    values + step.reshape(dims)
                })
            }
        }
        network.map(&mut Move(self.0.clone().into_iter(), amount))
    }
}

/// A network's parameters, each in a row.
fn flat<B: Backend>(network: &Llama<B>) -> Vec<Tensor<B, 1>> {
    struct Flat<B: Backend>(Vec<Tensor<B, 1>>);
    impl<B: Backend> ModuleVisitor<B> for Flat<B> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let count = param.val().shape().num_elements();
            self.0.push(param.val().reshape([count]));
        }
    }
    let mut flat = Flat(Vec::new());
    network.visit(&mut flat);
    flat.0
}

/// The loss on a grid around a network: a row for each amount of the first direction, and in it a value for each of the
/// second. Of a network that learns, give its `valid()`.
///
/// - loss: of a network
///
/// # Errors
///
/// What `loss` gives.
pub fn loss_surface<B: Backend>(
    network: &Llama<B>,
    directions: [&Direction<B>; 2],
    amounts: [&[f64]; 2],
    mut loss: impl FnMut(&Llama<B>) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let [first, second] = directions;
    amounts[0]
        .iter()
        .map(|&along| {
            let row = first.moved(network.clone(), along);
            amounts[1].iter().map(|&across| loss(&second.moved(row.clone(), across))).collect()
        })
        .collect()
}
