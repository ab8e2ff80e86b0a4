use burn::{
    config::Config,
    module::Module,
    nn::Linear,
    tensor::{Tensor, activation::leaky_relu, backend::Backend},
};
use leanburn_core::{
    nn::{BatchNorm, BatchNormConfig, dropout, linear},
    random::Generator,
};

/// The published classifiers; each hidden layer is twice as wide as the one before.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Two hidden layers (`fcn`).
    Fcn,
    /// Three hidden layers (`fcn_4`).
    Fcn4,
    /// Five hidden layers (`fcn_6`).
    Fcn6,
    /// Two hidden layers with dropout of 0.1 after each (`fcn_drop`).
    FcnDrop,
    /// The output layer alone (`one_linear`).
    OneLinear,
}

impl Architecture {
    fn hidden_layers(&self) -> usize {
        match self {
            Self::Fcn | Self::FcnDrop => 2,
            Self::Fcn4 => 3,
            Self::Fcn6 => 5,
            Self::OneLinear => 0,
        }
    }
}

/// Configuration of [`Classifier`].
#[derive(Config, Debug)]
pub struct ClassifierConfig {
    /// Width D of its input.
    pub width: usize,
    /// Number of classes K.
    pub classes: usize,
    /// Its layers.
    pub architecture: Architecture,
    /// Slope of the leaky rectifier for negative values. Default: 0.01
    #[config(default = 0.01)]
    pub leaky_slope: f64,
    /// Dropout after each activation, of `Architecture::FcnDrop` alone. Default: 0.1
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Batch norm's epsilon. Default: 1e-5
    #[config(default = 1e-5)]
    pub norm_epsilon: f64,
    /// Batch norm's momentum. Default: 0.1
    #[config(default = 0.1)]
    pub norm_momentum: f64,
}

impl ClassifierConfig {
    /// A classifier with PyTorch's default initialisation, drawn from `generator`.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Classifier<B> {
        let mut width = self.width;
        let hidden = (0..self.architecture.hidden_layers())
            .map(|_| {
                let fc = linear(width, 2 * width, generator, device);
                width *= 2;
                let bn = BatchNormConfig::new(width)
                    .with_epsilon(self.norm_epsilon)
                    .with_momentum(self.norm_momentum)
                    .init(device);
                Hidden { fc, bn }
            })
            .collect();
        let dropout = if self.architecture == Architecture::FcnDrop { self.dropout } else { 0.0 };
        Classifier {
            hidden,
            output: linear(width, self.classes, generator, device),
            dropout,
            leaky_slope: self.leaky_slope,
        }
    }

    /// Number of weights of the largest layer, unless it overflows.
    pub(super) fn largest_layer(&self) -> Option<usize> {
        let hidden = self.architecture.hidden_layers() as u32;
        let last = self.width.checked_mul(1 << hidden)?;
        // The layers double in width, so the last hidden one has half its square.
        let square = if hidden == 0 { 0 } else { last.checked_mul(last / 2)? };
        Some(square.max(last.checked_mul(self.classes)?))
    }

    /// The published name of a parameter: layers count from `fc1` and `bn1`, and the output layer is the next `fc`,
    /// but `fc3` also where it is alone.
    pub fn published_name(&self, path: &str) -> String {
        let output = match self.architecture.hidden_layers() {
            0 => 3,
            hidden => hidden + 1,
        };
        match path.split('.').collect::<Vec<_>>()[..] {
            ["output", parameter] => format!("fc{output}.{parameter}"),
            ["hidden", layer, kind, parameter] => {
                let layer: usize = layer.parse().expect("a vector's element is named by its index");
                format!("{kind}{}.{parameter}", layer + 1)
            }
            _ => path.to_owned(),
        }
    }
}

/// One hidden layer, without its activation.
#[derive(Module, Debug)]
pub(super) struct Hidden<B: Backend> {
    pub(super) fc: Linear<B>,
    pub(super) bn: BatchNorm<B>,
}

/// The network that tells which projection a row went through.
#[derive(Module, Debug)]
pub struct Classifier<B: Backend> {
    pub(super) hidden: Vec<Hidden<B>>,
    pub(super) output: Linear<B>,
    dropout: f64,
    pub(super) leaky_slope: f64,
}

/// What the layers of a [`Classifier`] give.
pub struct LayerOutputs<B: Backend> {
    /// After each hidden layer's batch norm, `[batch, width of the layer]`.
    pub normalised: Vec<Tensor<B, 2>>,
    /// After each hidden layer's activation, `[batch, width of the layer]`.
    pub activated: Vec<Tensor<B, 2>>,
    /// `[batch, classes]`
    pub logits: Tensor<B, 2>,
}

impl<B: Backend> Classifier<B> {
    /// Logits of the projections, without dropout.
    ///
    /// - input: `[batch, width]`
    /// - output: `[batch, classes]`
    pub fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        self.layers(input).logits
    }

    /// Logits of the projections, with what dropout leaves drawn from `generator`.
    ///
    /// - input: `[batch, width]`
    /// - output: `[batch, classes]`
    pub fn forward_train(&self, input: Tensor<B, 2>, generator: &mut Generator) -> Tensor<B, 2> {
        self.layers_with(input, |x| dropout(x, self.dropout, generator)).logits
    }

    /// The outputs of every layer, without dropout.
    ///
    /// - input: `[batch, width]`
    pub fn layers(&self, input: Tensor<B, 2>) -> LayerOutputs<B> {
        self.layers_with(input, |x| x)
    }

    fn layers_with(
        &self,
        input: Tensor<B, 2>,
        mut dropout: impl FnMut(Tensor<B, 2>) -> Tensor<B, 2>,
    ) -> LayerOutputs<B> {
        let (mut normalised, mut activated) = (Vec::new(), Vec::new());
        let mut x = input;
        for layer in &self.hidden {
            let norm = layer.bn.forward_linear(&layer.fc, x);
            let active = leaky_relu(norm.clone(), self.leaky_slope);
            x = dropout(active.clone());
            normalised.push(norm);
            activated.push(active);
        }
        LayerOutputs { normalised, activated, logits: self.output.forward(x) }
    }
}
