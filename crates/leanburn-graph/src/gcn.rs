//! Graph convolutional networks (Kipf and Welling, ICLR 2017).

use burn::{
    config::Config,
    module::{AutodiffModule, Module},
    nn::Linear,
    optim::GradientsParams,
    tensor::{
        Tensor,
        activation::relu,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{
    Error, Result,
    nn::{dropout, linear},
    random::Generator,
};

use crate::{
    Features, Graph, checks,
    sparse::{SparseMatrix, Tape, with_gradient},
};

/// Configuration of [`Gcn`].
#[derive(Config, Debug)]
pub struct GcnConfig {
    /// Number of features of a node.
    pub features: usize,
    /// Number of classes.
    pub classes: usize,
    /// Width of the hidden layers. Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Number of layers, at least 2. Default: 2
    #[config(default = 2)]
    pub layers: usize,
    /// Dropout after each hidden layer. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
}

impl GcnConfig {
    /// A network with PyTorch's default initialisation, drawn from `generator`.
    ///
    /// # Errors
    ///
    /// When a width is 0, there are fewer than 2 layers, or dropout is not from 0 to below 1.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Gcn<B>> {
        checks::counts(&[("features", self.features), ("classes", self.classes), ("hidden", self.hidden)])?;
        if self.layers < 2 {
            return Err(Error::setting("layers", "at least 2", self.layers));
        }
        checks::dropouts(&[("dropout", self.dropout)])?;
        let mut width = self.features;
        let layers = (1..=self.layers)
            .map(|layer| {
                let out = if layer == self.layers { self.classes } else { self.hidden };
                let inputs = std::mem::replace(&mut width, out);
                GcnLayer { linear: linear(inputs, out, generator, device) }
            })
            .collect();
        Ok(Gcn { layers, dropout: self.dropout })
    }

    /// The shapes of its weights.
    pub(crate) fn weights(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let middle = std::iter::repeat_n([self.hidden, self.hidden], self.layers.saturating_sub(2));
        let (first, last) = ([self.features, self.hidden], [self.hidden, self.classes]);
        std::iter::once(first).chain(middle).chain([last])
    }
}

/// One layer: a linear map, whose result is propagated along the graph.
#[derive(Module, Debug)]
pub struct GcnLayer<B: Backend> {
    /// The linear map; its bias comes before propagation.
    pub linear: Linear<B>,
}

/// A graph convolutional network: each layer is `A (x W + b)`, with `ReLU` and dropout between layers. Its state dict is
/// `layers.{l}.linear.weight`, `layers.{l}.linear.bias`.
#[derive(Module, Debug)]
pub struct Gcn<B: Backend> {
    /// The layers.
    pub layers: Vec<GcnLayer<B>>,
    dropout: f64,
}

impl<B: Backend> Gcn<B> {
    /// Logits, with propagation along any graph as a function.
    ///
    /// - input: `[nodes, features]`
    /// - propagate: `A x` of `[nodes, width]`
    /// - dropout: what is left of a hidden layer's output `[nodes, hidden]`, see [`dropout`](leanburn_core::nn::dropout())
    /// - output: `[nodes, classes]`
    pub fn forward(
        &self,
        input: Tensor<B, 2>,
        mut propagate: impl FnMut(Tensor<B, 2>) -> Tensor<B, 2>,
        dropout: impl FnMut(Tensor<B, 2>) -> Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let first = propagate(self.layers[0].linear.forward(input));
        self.forward_from(first, propagate, dropout)
    }

    /// Logits from the output of the first layer, before its activation.
    ///
    /// - first: `[nodes, hidden]`
    /// - propagate, dropout, output: as in [`forward`](Self::forward)
    pub fn forward_from(
        &self,
        first: Tensor<B, 2>,
        mut propagate: impl FnMut(Tensor<B, 2>) -> Tensor<B, 2>,
        mut dropout: impl FnMut(Tensor<B, 2>) -> Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let rest = &self.layers[1..];
        rest.iter().fold(first, |x, layer| propagate(layer.linear.forward(dropout(relu(x)))))
    }

    /// The probability of dropout after each hidden layer.
    pub fn dropout(&self) -> f64 {
        self.dropout
    }
}

/// Features and a graph that stays, on a device: what a [`Gcn`] is trained and evaluated on.
///
/// With dense features, `A x` is computed once, so that the first layer needs no propagation; sparse features stay
/// sparse.
#[derive(Debug, Clone)]
pub struct FixedGraph<B: Backend> {
    adjacency: SparseMatrix<B>,
    input: Input<B>,
}

#[derive(Debug, Clone)]
enum Input<B: Backend> {
    /// `A x` and `A 1`.
    Propagated(Tensor<B, 2>, Tensor<B, 2>),
    /// `x`
    Sparse(SparseMatrix<B>),
}

impl<B: Backend> FixedGraph<B> {
    /// The features and the normalised graph on `device`.
    ///
    /// # Errors
    ///
    /// When the numbers of nodes differ.
    pub fn new(features: &Features, normalised: &Graph, device: &B::Device) -> Result<Self> {
        if features.rows() != normalised.nodes() {
            let expected = format!("{} rows, the nodes of the graph", normalised.nodes());
            return Err(Error::data("features", expected, features.rows()));
        }
        let adjacency = SparseMatrix::new(normalised.adjacency(), device);
        let input = match features {
            Features::Sparse(matrix) => Input::Sparse(SparseMatrix::new(matrix, device)),
            Features::Dense { .. } => Input::Propagated(
                adjacency.product(features.to_tensor(device)),
                adjacency.product(Tensor::ones([normalised.nodes(), 1], device)),
            ),
        };
        Ok(Self { adjacency, input })
    }

    /// The first layer's output before its activation, `[nodes, hidden]`.
    pub fn first(&self, gcn: &Gcn<B>) -> Tensor<B, 2> {
        let Linear { weight, bias } = &gcn.layers[0].linear;
        let weight = weight.val();
        let bias = bias.as_ref().expect("the layers have biases").val().unsqueeze_dim(0);
        match &self.input {
            Input::Propagated(features, ones) => features.clone().matmul(weight) + ones.clone().matmul(bias),
            Input::Sparse(features) => self.adjacency.product(features.product(weight) + bias),
        }
    }

    /// Logits `[nodes, classes]`, without dropout, from the output of [`first`](Self::first).
    pub fn logits(&self, gcn: &Gcn<B>, first: Tensor<B, 2>) -> Tensor<B, 2> {
        gcn.forward_from(first, |x| self.adjacency.product(x), |x| x)
    }

    /// Logits and gradients of training.
    ///
    /// - first: of [`first`](Self::first), with the same weights
    /// - loss: from logits `[nodes, classes]` to a scalar `[1]`
    pub fn gradients<T: AutodiffBackend<InnerBackend = B>>(
        &self,
        gcn: &Gcn<T>,
        first: Tensor<B, 2>,
        generator: &mut Generator,
        loss: impl FnOnce(Tensor<T, 2>) -> Tensor<T, 1>,
    ) -> (Tensor<T, 1>, GradientsParams)
    where
        Gcn<T>: AutodiffModule<T>,
    {
        let mut tape = Tape::<T>::new();
        let Linear { weight, bias } = &gcn.layers[0].linear;
        let (weight, bias) = (weight.val(), bias.as_ref().expect("the layers have biases").val());
        let this = self.clone();
        let first = tape.cut(first, move |gradient| {
            let (of_weight, of_bias) = this.first_backward(gradient);
            with_gradient(weight, of_weight) + with_gradient(bias, of_bias)
        });
        let logits = gcn.forward_from(
            first,
            |x| tape.product(&self.adjacency, x),
            |x| dropout(x, gcn.dropout, generator),
        );
        let loss = loss(logits);
        let gradients = tape.backward(loss.clone(), gcn);
        (loss, gradients)
    }

    /// The gradients of the first layer's weight and bias, from that of its output.
    fn first_backward(&self, gradient: Tensor<B, 2>) -> (Tensor<B, 2>, Tensor<B, 1>) {
        match &self.input {
            Input::Propagated(features, ones) => (
                features.clone().transpose().matmul(gradient.clone()),
                ones.clone().transpose().matmul(gradient).squeeze_dim(0),
            ),
            Input::Sparse(features) => {
                let gradient = self.adjacency.transposed_product(gradient);
                (features.transposed_product(gradient.clone()), gradient.sum_dim(0).squeeze_dim(0))
            }
        }
    }
}
