//! Chains of layers: VGG with batch norm, LeNet-5, multi-layer perceptrons, and your own.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        Linear, Relu,
        conv::Conv2d,
        pool::{MaxPool2d, MaxPool2dConfig},
    },
    tensor::{Tensor, backend::Backend},
};
use leanburn_core::{
    Error, Result,
    architecture::{Activation, Conv, Graph, GraphBuilder},
    checkpoint::Checkpoint,
    nn::{BatchNorm, BatchNormConfig, ConvConfig, Initial},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::{Architecture, Classifier};

/// A layer of a [`Sequential`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerConfig {
    /// A convolution with a square kernel.
    Conv {
        /// Its published name.
        name: String,
        /// Output channels.
        width: usize,
        /// Height and width of the kernel.
        kernel: usize,
        /// Step of the kernel.
        stride: usize,
        /// Zeros around the input.
        padding: usize,
        /// Whether there is a bias.
        bias: bool,
    },
    /// A linear layer with a bias, after the maps are gone.
    Linear {
        /// Its published name.
        name: String,
        /// Outputs.
        width: usize,
    },
    /// Batch norm.
    BatchNorm {
        /// Its published name.
        name: String,
    },
    /// `max(x, 0)`.
    Relu,
    /// The maximum of windows that touch each other.
    MaxPool {
        /// Height and width of the windows.
        kernel: usize,
    },
    /// The mean of each map.
    GlobalMean,
    /// All positions of all maps as one row.
    Flatten,
}

/// Configuration of a [`Sequential`].
#[derive(Config, Debug)]
pub struct SequentialConfig {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// The layers; the last one gives the logits.
    pub layers: Vec<LayerConfig>,
    /// From what weights are drawn. Default: PyTorch's uniform
    #[config(default = "Initial::Uniform")]
    pub initial: Initial,
}

impl SequentialConfig {
    /// A multi-layer perceptron (`FCNet`): linear layers `net.0`, `net.2`, ... with `max(x, 0)` between them, or, with
    /// `relu` false, nothing.
    ///
    /// - input: channels, height and width
    /// - widths: of all layers, the number of classes last
    pub fn mlp(input: [usize; 3], widths: &[usize], relu: bool) -> Self {
        let mut layers = vec![LayerConfig::Flatten];
        for (index, &width) in widths.iter().enumerate() {
            if index > 0 && relu {
                layers.push(LayerConfig::Relu);
            }
            layers.push(LayerConfig::Linear { name: format!("net.{}", 2 * index), width });
        }
        Self::new(input, layers)
    }

    /// The seven-layer perceptron of the studies of trainability: 1x32x32 to six layers of 100, then the classes.
    pub fn mlp7(num_classes: usize, relu: bool) -> Self {
        Self::mlp([1, 32, 32], &[100, 100, 100, 100, 100, 100, num_classes], relu)
    }

    /// LeNet-5 for 32x32 pixels (LeCun et al., 1998), with `max(x, 0)` and maximum pooling.
    pub fn lenet5(in_channels: usize, num_classes: usize) -> Self {
        let conv = |name: &str, width| LayerConfig::Conv {
            name: name.to_owned(),
            width,
            kernel: 5,
            stride: 1,
            padding: 0,
            bias: true,
        };
        let linear = |name: &str, width| LayerConfig::Linear { name: name.to_owned(), width };
        let pool = || LayerConfig::MaxPool { kernel: 2 };
        let layers = vec![
            conv("conv1", 6),
            LayerConfig::Relu,
            pool(),
            conv("conv2", 16),
            LayerConfig::Relu,
            pool(),
            conv("conv3", 120),
            LayerConfig::Relu,
            LayerConfig::Flatten,
            linear("fc1", 84),
            LayerConfig::Relu,
            linear("fc2", num_classes),
        ];
        Self::new([in_channels, 32, 32], layers)
    }

    /// VGG with batch norm for 32x32 pixels (Simonyan and Zisserman, 2015), with one linear layer.
    ///
    /// - depth: 11, 13, 16 or 19
    ///
    /// # Errors
    ///
    /// When there is no such depth.
    pub fn vgg(depth: usize, num_classes: usize) -> Result<Self> {
        let counts: [usize; 5] = match depth {
            11 => [1, 1, 2, 2, 2],
            13 => [2, 2, 2, 2, 2],
            16 => [2, 2, 3, 3, 3],
            19 => [2, 2, 4, 4, 4],
            _ => return Err(Error::setting("depth", "11, 13, 16 or 19", depth)),
        };
        let mut layers = Vec::new();
        // Each layer is an entry of PyTorch's `features`.
        for (stage, (count, width)) in counts.into_iter().zip([64, 128, 256, 512, 512]).enumerate() {
            if stage > 0 {
                layers.push(LayerConfig::MaxPool { kernel: 2 });
            }
            for _ in 0..count {
                let name = format!("features.{}", layers.len());
                layers.push(LayerConfig::Conv { name, width, kernel: 3, stride: 1, padding: 1, bias: false });
                layers.push(LayerConfig::BatchNorm { name: format!("features.{}", layers.len()) });
                layers.push(LayerConfig::Relu);
            }
        }
        layers.push(LayerConfig::GlobalMean);
        layers.push(LayerConfig::Linear { name: "classifier".to_owned(), width: num_classes });
        Ok(Self::new([3, 32, 32], layers).with_initial(Initial::KaimingFanIn))
    }

    /// The network of a checkpoint of VGG, LeNet-5 or a perceptron, whatever was pruned of it: the names tell the
    /// layers, the shapes their widths.
    ///
    /// - input: channels, height and width
    /// - relu: of a perceptron, whether there is `max(x, 0)` between its layers, which no file says
    ///
    /// # Errors
    ///
    /// When it is none of them.
    pub fn infer(checkpoint: &Checkpoint, input: [usize; 3], relu: bool) -> Result<Self> {
        let has = |name: &str| checkpoint.shape(&format!("{name}.weight")).is_some();
        let candidate = if has("net.0") {
            let count = checkpoint.names().filter(|name| name.ends_with(".weight")).count();
            Some(Self::mlp(input, &vec![1; count], relu))
        } else if has("conv3") && has("fc2") {
            Some(Self::lenet5(1, 1))
        } else {
            let depths = [11, 13, 16, 19].map(|depth| Self::vgg(depth, 1)).into_iter();
            depths.flatten().find(|vgg| vgg.names().all(has) && !has("features.52"))
        };
        let candidate = candidate.ok_or_else(|| {
            let names = checkpoint.names().take(5).collect::<Vec<_>>().join(", ");
            Error::data("checkpoint", "the names of a VGG, LeNet-5 or perceptron", format!("{names}, ..."))
        })?;
        Self { input, ..candidate }.with_widths_of(checkpoint)
    }

    /// The same layers with the widths of a checkpoint's.
    ///
    /// # Errors
    ///
    /// When one is missing in it.
    pub fn with_widths_of(mut self, checkpoint: &Checkpoint) -> Result<Self> {
        for layer in &mut self.layers {
            if let LayerConfig::Conv { name, width, .. } | LayerConfig::Linear { name, width } = layer {
                let shape = checkpoint.shape(&format!("{name}.weight"));
                *width = *shape.and_then(<[usize]>::first).ok_or_else(|| {
                    Error::data(format!("checkpoint, `{name}.weight`"), "a weight", "no such tensor")
                })?;
            }
        }
        Ok(self)
    }

    /// The names of the layers that have one.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().filter_map(LayerConfig::name)
    }
}

impl LayerConfig {
    /// The layer's published name, if it has parameters.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Conv { name, .. } | Self::Linear { name, .. } | Self::BatchNorm { name } => Some(name),
            _ => None,
        }
    }
}

impl Architecture for SequentialConfig {
    type Network<B: Backend> = Sequential<B>;

    fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> Result<Sequential<B>> {
        let [_, height, width] = self.input;
        let graph = self.graph([height, width])?;
        let inputs = |name: &str| graph.layer(name).map(|layer| layer.inputs().len());
        let layers = self.layers.iter().map(|layer| {
            Ok(match layer {
                LayerConfig::Conv { name, width, kernel, stride, padding, bias } => {
                    let conv = ConvConfig::new(inputs(name)?, *width, *kernel)
                        .with_stride(*stride)
                        .with_padding(*padding)
                        .with_bias(*bias)
                        .with_initial(self.initial);
                    Layer::Conv(conv.init(generator, device))
                }
                LayerConfig::Linear { name, width } => {
                    let input = inputs(name)?;
                    let weight = self.initial.weight::<B, 2>([*width, input], generator, device);
                    let bias = self.initial.bias(*width, input, generator, device);
                    Layer::Linear(Linear {
                        weight: Param::from_tensor(weight.transpose()),
                        bias: Some(Param::from_tensor(bias)),
                    })
                }
                LayerConfig::BatchNorm { name } => {
                    Layer::BatchNorm(BatchNormConfig::new(inputs(name)?).init(device))
                }
                LayerConfig::Relu => Layer::Relu(Relu::new()),
                LayerConfig::MaxPool { kernel } => {
                    Layer::MaxPool(MaxPool2dConfig::new([*kernel; 2]).with_strides([*kernel; 2]).init())
                }
                LayerConfig::GlobalMean => Layer::GlobalMean(GlobalMean),
                LayerConfig::Flatten => Layer::Flatten(Flatten),
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Sequential { layers })
    }

    fn graph(&self, size: [usize; 2]) -> Result<Graph> {
        let mut graph = GraphBuilder::new();
        let mut x = graph.input(self.input[0], size);
        let mut maps = true;
        for layer in &self.layers {
            let (name, rows) =
                (layer.name().unwrap_or("pooling"), matches!(layer, LayerConfig::Linear { .. }));
            let anywhere = matches!(layer, LayerConfig::Relu | LayerConfig::BatchNorm { .. });
            if !anywhere && rows == maps {
                let (expected, found) = if maps { ("rows", "maps") } else { ("maps", "rows") };
                return Err(Error::setting(format!("layers, input of {name}"), expected, found));
            }
            maps &= !matches!(layer, LayerConfig::Flatten | LayerConfig::GlobalMean);
            x = extend(&mut graph, &x, layer)?;
        }
        if maps {
            return Err(Error::setting("layers", "a `flatten` or `global_mean`", "neither"));
        }
        Ok(graph.finish(&x))
    }

    fn published_name(&self, path: &str) -> String {
        let mut parts = path.splitn(3, '.');
        let name = match (parts.next(), parts.next(), parts.next()) {
            (Some("layers"), Some(index), Some(rest)) => {
                let layer = index.parse().ok().and_then(|index: usize| self.layers.get(index));
                layer.and_then(LayerConfig::name).map(|name| format!("{name}.{rest}"))
            }
            _ => None,
        };
        name.unwrap_or_else(|| path.to_owned())
    }
}

/// The graph with one more layer.
fn extend(graph: &mut GraphBuilder, x: &Activation, layer: &LayerConfig) -> Result<Activation> {
    Ok(match layer {
        LayerConfig::Conv { name, width, kernel, stride, padding, bias } => {
            let conv = Conv::new(*width, *kernel).with_stride(*stride).with_padding(*padding);
            graph.conv(name, x, conv.with_bias(*bias))?
        }
        LayerConfig::Linear { name, width } => graph.linear(name, x, *width, true),
        LayerConfig::BatchNorm { name } => {
            graph.batch_norm(name, x)?;
            x.clone()
        }
        LayerConfig::Relu => x.clone(),
        LayerConfig::MaxPool { kernel } => x.pooled_over(*kernel, *kernel, 0)?,
        LayerConfig::GlobalMean => x.pooled(),
        LayerConfig::Flatten => x.flatten(),
    })
}

/// A layer of a [`Sequential`].
#[derive(Module, Debug)]
pub enum Layer<B: Backend> {
    /// A convolution.
    Conv(Conv2d<B>),
    /// A linear layer.
    Linear(Linear<B>),
    /// Batch norm.
    BatchNorm(BatchNorm<B>),
    /// `max(x, 0)`.
    Relu(Relu),
    /// The maximum of windows.
    MaxPool(MaxPool2d),
    /// The mean of each map.
    GlobalMean(GlobalMean),
    /// All positions of all maps as one row.
    Flatten(Flatten),
}

/// The mean of each map.
#[derive(Module, Clone, Debug)]
pub struct GlobalMean;

/// All positions of all maps as one row.
#[derive(Module, Clone, Debug)]
pub struct Flatten;

/// A chain of layers, made by a [`SequentialConfig`].
#[derive(Module, Debug)]
pub struct Sequential<B: Backend> {
    /// One for each of the configuration's.
    pub layers: Vec<Layer<B>>,
}

/// What goes from layer to layer.
#[derive(Clone, Debug)]
pub enum Features<B: Backend> {
    /// `[batch, channels, height, width]`
    Maps(Tensor<B, 4>),
    /// `[batch, features]`
    Rows(Tensor<B, 2>),
}

impl<B: Backend> Layer<B> {
    /// # Panics
    ///
    /// When the layer does not take what it is given; [`Architecture::graph`] checks it.
    pub fn forward(&self, x: Features<B>) -> Features<B> {
        use Features::{Maps, Rows};
        match (self, x) {
            (Self::Conv(conv), Maps(x)) => Maps(conv.forward(x)),
            (Self::Linear(linear), Rows(x)) => Rows(linear.forward(x)),
            (Self::BatchNorm(norm), Maps(x)) => Maps(norm.forward(x)),
            (Self::BatchNorm(norm), Rows(x)) => Rows(norm.forward(x)),
            (Self::Relu(relu), Maps(x)) => Maps(relu.forward(x)),
            (Self::Relu(relu), Rows(x)) => Rows(relu.forward(x)),
            (Self::MaxPool(pool), Maps(x)) => Maps(pool.forward(x)),
            (Self::GlobalMean(_), Maps(x)) => Rows(global_mean(x)),
            (Self::Flatten(_), Maps(x)) => Rows(x.flatten(1, 3)),
            (layer, _) => panic!("{layer} takes another input"),
        }
    }
}

/// The mean of each map, `[batch, channels]`.
pub(crate) fn global_mean<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch * channels, height * width]).mean_dim(1).reshape([batch, channels])
}

impl<B: Backend> Classifier<B> for Sequential<B> {
    fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        let output = self.layers.iter().fold(Features::Maps(images), |x, layer| layer.forward(x));
        match output {
            Features::Rows(logits) => logits,
            Features::Maps(_) => panic!("the layers end in maps"),
        }
    }

    fn fuse(self) -> Self {
        let mut layers: Vec<Layer<B>> = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            match (layers.last_mut(), layer) {
                (Some(Layer::Conv(conv)), Layer::BatchNorm(norm)) => *conv = norm.fuse_conv(conv),
                (Some(Layer::Linear(linear)), Layer::BatchNorm(norm)) => *linear = norm.fuse(linear),
                (_, layer) => layers.push(layer),
            }
        }
        Self { layers }
    }

    fn with_frozen_norms(mut self, frozen: bool) -> Self {
        for layer in &mut self.layers {
            if let Layer::BatchNorm(norm) = layer {
                norm.frozen = frozen;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{agree_after_fusing, costs, round_trip};

    #[test]
    fn costs_are_the_published_ones() {
        let size = [32, 32];
        assert_eq!(costs(&SequentialConfig::mlp7(10, true), size), (154_010, 153_400, 154_010));
        assert_eq!(costs(&SequentialConfig::lenet5(1, 10), size), (61_706, 416_520, 61_706));
        let vgg = |depth, classes| costs(&SequentialConfig::vgg(depth, classes).unwrap(), size);
        assert_eq!(vgg(16, 10), (14_715_594, 313_201_664, 14_724_042));
        assert_eq!(vgg(19, 100), (20_070_180, 398_182_400, 20_081_188));
    }

    #[test]
    fn checkpoints_tell_the_widths() {
        for mut config in [
            SequentialConfig::mlp([1, 4, 4], &[5, 6, 3], true),
            SequentialConfig::lenet5(1, 10),
            SequentialConfig::vgg(13, 5).unwrap(),
        ] {
            let narrow = config.layers.iter_mut().filter_map(|layer| match layer {
                LayerConfig::Conv { width, .. } => Some(width),
                _ => None,
            });
            narrow.enumerate().for_each(|(index, width)| *width = 3 + index);
            let input = config.input;
            round_trip(&config, |checkpoint| SequentialConfig::infer(checkpoint, input, true));
        }
    }

    #[test]
    fn fusing_keeps_the_output() {
        let mut config = SequentialConfig::vgg(11, 4).unwrap();
        for layer in &mut config.layers {
            if let LayerConfig::Conv { width, .. } = layer {
                *width /= 32;
            }
        }
        agree_after_fusing(&config, [3, 32, 32]);
        agree_after_fusing(&SequentialConfig::lenet5(1, 10), [1, 32, 32]);
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let linear = |name: &str| LayerConfig::Linear { name: name.to_owned(), width: 3 };
        let graph = |layers| SequentialConfig::new([1, 8, 8], layers).graph([8, 8]);
        let error = graph(vec![linear("fc")]).unwrap_err().to_string();
        assert!(error.contains("fc") && error.contains("maps"), "{error}");
        assert!(graph(vec![LayerConfig::Flatten, LayerConfig::GlobalMean]).is_err());
        assert!(graph(vec![LayerConfig::Relu]).is_err());
        assert!(graph(vec![LayerConfig::MaxPool { kernel: 9 }, LayerConfig::Flatten]).is_err());
        assert!(SequentialConfig::vgg(12, 10).is_err());
    }
}
