//! A network's layers in the order in which they run, with their channels: what accounting counts, and what pruning
//! takes apart.
//!
//! A configuration describes its network with a [`GraphBuilder`], one call a layer, in the words of its forward pass.
//! Every channel that a layer produces has an identity. Layers that keep channels apart (batch norm, activations,
//! pooling) hand it on, [`flatten`](Activation::flatten) repeats it, and [`add`](GraphBuilder::add) couples the
//! channels that are added: they form a group, and can be removed together alone.
//!
//! ```
//! use leanburn_core::architecture::{Conv, GraphBuilder};
//!
//! # fn main() -> leanburn_core::Result<()> {
//! let mut graph = GraphBuilder::new();
//! let x = graph.input(3, [32, 32]);
//! let x = graph.conv("conv1", &x, Conv::new(16, 3).with_padding(1))?;
//! let y = graph.conv("conv2", &x, Conv::new(16, 3).with_padding(1))?;
//! let x = graph.add(&x, &y)?;
//! let x = graph.linear("fc", &x.pooled(), 10, true);
//! let graph = graph.finish(&x);
//! assert_eq!(graph.cost().macs, 32 * 32 * 16 * 3 * 9 + 32 * 32 * 16 * 16 * 9 + 160);
//! // The two convolutions' outputs are added, so channel 5 of one is channel 5 of the other.
//! assert_eq!(graph.layer("conv1")?.outputs()[5], graph.layer("conv2")?.outputs()[5]);
//! # Ok(())
//! # }
//! ```

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A channel's identity in its graph.
type Channel = usize;

/// What a layer gives to the next: its channels and the size of their maps.
#[derive(Debug, Clone)]
pub struct Activation {
    /// `None` where zeros were padded: they are nobody's output.
    channels: Vec<Option<Channel>>,
    size: [usize; 2],
}

impl Activation {
    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Height and width of a channel's map.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// After pooling over the whole map.
    pub fn pooled(&self) -> Self {
        Self { channels: self.channels.clone(), size: [1, 1] }
    }

    /// After pooling over windows.
    ///
    /// # Errors
    ///
    /// When the window is larger than the padded input.
    pub fn pooled_over(&self, kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        let size = reduced("pool", self.size, [kernel; 2], stride, [padding; 2])?;
        Ok(Self { channels: self.channels.clone(), size })
    }

    /// The map's positions as channels: each channel becomes a run of `height * width` of them.
    pub fn flatten(&self) -> Self {
        let positions = self.size[0] * self.size[1];
        let channels =
            self.channels.iter().flat_map(|channel| std::iter::repeat_n(*channel, positions)).collect();
        Self { channels, size: [1, 1] }
    }

    /// Every `stride`-th position, in `channels` channels that the input's are rearranged to, without coupling.
    /// Added to a layer's output it leaves that layer's channels alone: what a shortcut would add to a removed channel
    /// is dropped, and a removed channel adds nothing.
    pub fn rearranged(&self, channels: usize, stride: usize) -> Self {
        Self { channels: vec![None; channels], size: self.size.map(|size| size.div_ceil(stride)) }
    }

    /// Activations one behind the other along the channels.
    ///
    /// # Errors
    ///
    /// When there is none, or their sizes differ.
    pub fn concat(inputs: &[Self]) -> Result<Self> {
        match inputs.first().map(|first| first.size) {
            Some(size) if inputs.iter().all(|input| input.size == size) => {
                let channels = inputs.iter().flat_map(|input| input.channels.iter().copied()).collect();
                Ok(Self { channels, size })
            }
            _ => {
                let sizes: Vec<_> = inputs.iter().map(|input| input.size).collect();
                Err(Error::data("concatenated activations", "the same size", format!("{sizes:?}")))
            }
        }
    }
}

/// The shape of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    out: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
    groups: usize,
    bias: bool,
}

impl Conv {
    /// A square kernel with stride 1, no padding, one group and no bias.
    pub fn new(out: usize, kernel: usize) -> Self {
        Self { out, kernel: [kernel; 2], stride: 1, padding: [0; 2], groups: 1, bias: false }
    }

    /// With another stride.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With zeros around the input.
    pub fn with_padding(self, padding: usize) -> Self {
        Self { padding: [padding; 2], ..self }
    }

    /// In groups of channels.
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// With a bias or not.
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }
}

/// What a layer computes, as far as its parameters go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A convolution: `weight` is `[out, in / groups, height, width]`.
    Conv {
        /// Height and width of the kernel.
        kernel: [usize; 2],
        /// Groups of channels.
        groups: usize,
    },
    /// A linear layer: `weight` is `[out, in]`.
    Linear,
    /// Batch norm: `weight`, `bias`, `running_mean` and `running_var` are `[channels]`.
    BatchNorm,
}

/// A layer with parameters.
#[derive(Debug, Clone)]
pub struct Layer {
    name: String,
    kind: LayerKind,
    bias: bool,
    /// Output positions of a channel.
    positions: usize,
    inputs: Vec<Option<Channel>>,
    outputs: Vec<Channel>,
}

impl Layer {
    /// The name under which its parameters are published, without their own (`layer1.0.conv1`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes.
    pub fn kind(&self) -> LayerKind {
        self.kind
    }

    /// Whether it multiplies by learned weights, as convolutions and linear layers do.
    pub fn is_learnable(&self) -> bool {
        self.kind != LayerKind::BatchNorm
    }

    /// Whether it adds a learned bias.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// The groups of the output channels.
    pub fn outputs(&self) -> &[usize] {
        &self.outputs
    }

    /// The groups of the input channels; `None` where zeros were padded.
    pub fn inputs(&self) -> &[Option<usize>] {
        &self.inputs
    }

    /// What it costs.
    pub fn cost(&self) -> Cost {
        let (inputs, outputs) = (self.inputs.len(), self.outputs.len());
        let bias = if self.bias { outputs } else { 0 };
        let weights = match self.kind {
            LayerKind::Conv { kernel, groups } => outputs * (inputs / groups) * kernel[0] * kernel[1],
            LayerKind::Linear => outputs * inputs,
            LayerKind::BatchNorm => return Cost { params: 0, params_all: 2 * outputs, macs: 0 },
        };
        Cost { params: weights + bias, params_all: weights + bias, macs: weights * self.positions }
    }
}

/// Numbers of parameters and of operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Weights and biases of convolutions and linear layers.
    pub params: usize,
    /// All learned parameters, those of batch norm too.
    pub params_all: usize,
    /// Multiply-accumulate operations of convolutions and linear layers for one input, biases not counted. What papers
    /// call "FLOPs" is this number in ImageNet's tables, and twice this number in CIFAR's.
    pub macs: usize,
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |a, b| Self {
            params: a.params + b.params,
            params_all: a.params_all + b.params_all,
            macs: a.macs + b.macs,
        })
    }
}

/// A network's layers in the order in which they run.
#[derive(Debug, Clone)]
pub struct Graph {
    layers: Vec<Layer>,
    /// By group: whether it must stay.
    fixed: Vec<bool>,
}

impl Graph {
    /// The layers with parameters, in the order in which they run.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The convolutions and linear layers, in the order in which they run.
    pub fn learnable(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| layer.is_learnable())
    }

    /// The layer called `name`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn layer(&self, name: &str) -> Result<&Layer> {
        self.layers.iter().find(|layer| layer.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.layers.iter().map(Layer::name).collect();
            Error::data(format!("layer `{name}`"), format!("one of {}", names.join(", ")), "no such layer")
        })
    }

    /// Whether the channels of a group must stay: they are the network's input or output, or of a grouped convolution.
    pub fn is_fixed(&self, group: usize) -> bool {
        self.fixed[group]
    }

    /// The sum of all layers' costs.
    pub fn cost(&self) -> Cost {
        self.layers.iter().map(Layer::cost).sum()
    }
}

/// Describes a network, see the [module](self).
#[derive(Debug, Default)]
pub struct GraphBuilder {
    layers: Vec<Layer>,
    /// For each channel another of its group; the first channel of a group is its own.
    parents: Vec<Channel>,
    fixed: Vec<Channel>,
}

impl GraphBuilder {
    /// A network without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The network's input.
    pub fn input(&mut self, channels: usize, size: [usize; 2]) -> Activation {
        let channels = self.produce(channels);
        self.fixed.extend(&channels);
        Activation { channels: channels.into_iter().map(Some).collect(), size }
    }

    /// A convolution. Of grouped ones, only depthwise ones (one channel a group, as many outputs as inputs) can lose
    /// channels.
    ///
    /// # Errors
    ///
    /// When the kernel is larger than the padded input, or the groups do not divide the channels.
    pub fn conv(&mut self, name: &str, input: &Activation, conv: Conv) -> Result<Activation> {
        let Conv { out, kernel, stride, padding, groups, bias } = conv;
        if groups == 0 || !input.channels().is_multiple_of(groups) || !out.is_multiple_of(groups) {
            let expected = format!("a divisor of {} and {out}", input.channels());
            return Err(Error::setting(format!("groups of {name}"), expected, groups));
        }
        let size = reduced(name, input.size, kernel, stride, padding)?;
        let outputs = self.produce(out);
        if groups > 1 && groups == out && groups == input.channels() {
            for (input, &output) in input.channels.iter().zip(&outputs) {
                match input {
                    Some(input) => self.couple(*input, output),
                    None => self.fixed.push(output),
                }
            }
        } else if groups > 1 {
            self.fixed.extend(input.channels.iter().flatten().chain(&outputs));
        }
        let kind = LayerKind::Conv { kernel, groups };
        self.push(name, kind, bias, size[0] * size[1], input, outputs.clone());
        Ok(Activation { channels: outputs.into_iter().map(Some).collect(), size })
    }

    /// A linear layer over the channels, at every position of their maps.
    pub fn linear(&mut self, name: &str, input: &Activation, out: usize, bias: bool) -> Activation {
        let outputs = self.produce(out);
        let positions = input.size[0] * input.size[1];
        self.push(name, LayerKind::Linear, bias, positions, input, outputs.clone());
        Activation { channels: outputs.into_iter().map(Some).collect(), size: input.size }
    }

    /// Batch norm, which keeps the channels.
    ///
    /// # Errors
    ///
    /// When some channels are padded zeros, which no layer's weights make.
    pub fn batch_norm(&mut self, name: &str, input: &Activation) -> Result<()> {
        let channels: Option<Vec<Channel>> = input.channels.iter().copied().collect();
        let channels = channels
            .ok_or_else(|| Error::data(format!("layer `{name}`"), "channels of a layer", "padded zeros"))?;
        self.push(name, LayerKind::BatchNorm, true, input.size[0] * input.size[1], input, channels);
        Ok(())
    }

    /// The sum of two activations, whose channels are coupled.
    ///
    /// # Errors
    ///
    /// When their shapes differ.
    pub fn add(&mut self, a: &Activation, b: &Activation) -> Result<Activation> {
        if a.channels() != b.channels() || a.size != b.size {
            let shape = |x: &Activation| format!("{} channels of {:?}", x.channels(), x.size);
            return Err(Error::data("sum of two activations", shape(a), shape(b)));
        }
        let mut channels = Vec::with_capacity(a.channels());
        for (a, b) in a.channels.iter().zip(&b.channels) {
            if let (Some(a), Some(b)) = (a, b) {
                self.couple(*a, *b);
            }
            channels.push(a.or(*b));
        }
        Ok(Activation { channels, size: a.size })
    }

    /// The whole network, whose output channels must stay.
    pub fn finish(mut self, output: &Activation) -> Graph {
        self.fixed.extend(output.channels.iter().flatten());
        let groups: Vec<usize> = (0..self.parents.len()).map(|channel| self.find(channel)).collect();
        let mut fixed = vec![false; groups.len()];
        for channel in self.fixed {
            fixed[groups[channel]] = true;
        }
        for layer in &mut self.layers {
            for channel in layer.outputs.iter_mut().chain(layer.inputs.iter_mut().flatten()) {
                *channel = groups[*channel];
            }
        }
        Graph { layers: self.layers, fixed }
    }

    /// New channels.
    fn produce(&mut self, count: usize) -> Vec<Channel> {
        let channels: Vec<Channel> = (self.parents.len()..self.parents.len() + count).collect();
        self.parents.extend(&channels);
        channels
    }

    fn find(&self, mut channel: Channel) -> Channel {
        while self.parents[channel] != channel {
            channel = self.parents[channel];
        }
        channel
    }

    fn couple(&mut self, a: Channel, b: Channel) {
        let (a, b) = (self.find(a), self.find(b));
        self.parents[a.max(b)] = a.min(b);
    }

    fn push(
        &mut self,
        name: &str,
        kind: LayerKind,
        bias: bool,
        positions: usize,
        input: &Activation,
        outputs: Vec<Channel>,
    ) {
        let inputs = input.channels.clone();
        self.layers.push(Layer { name: name.to_owned(), kind, bias, positions, inputs, outputs });
    }
}

/// The size of the map after a window has passed over it.
fn reduced(
    name: &str,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
) -> Result<[usize; 2]> {
    let along = |axis: usize| {
        let padded = size[axis] + 2 * padding[axis];
        padded.checked_sub(kernel[axis]).filter(|_| stride > 0).map(|rest| rest / stride + 1)
    };
    along(0).zip(along(1)).map(|(height, width)| [height, width]).ok_or_else(|| {
        let expected = format!("at least its window of {kernel:?}, less {padding:?} at each side");
        Error::data(format!("input of `{name}`"), expected, format!("{size:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_one_group() {
        let mut graph = GraphBuilder::new();
        let x = graph.input(3, [8, 8]);
        let a = graph.conv("a", &x, Conv::new(4, 3).with_padding(1)).unwrap();
        let b = graph.conv("b", &a, Conv::new(4, 1)).unwrap();
        graph.batch_norm("norm", &b).unwrap();
        let sum = graph.add(&a, &b).unwrap();
        let c = graph.conv("c", &sum, Conv::new(2, 3).with_stride(2).with_bias(true)).unwrap();
        assert_eq!(c.size(), [3, 3]);
        let out = graph.linear("fc", &c.flatten(), 5, false);
        let graph = graph.finish(&out);

        let outputs = |name: &str| graph.layer(name).unwrap().outputs().to_vec();
        assert_eq!(outputs("a"), outputs("b"));
        assert_eq!(outputs("a"), outputs("norm"));
        let inputs: Vec<usize> = graph.layer("c").unwrap().inputs().iter().map(|g| g.unwrap()).collect();
        assert_eq!(inputs, outputs("a"));
        // Nine positions of each channel, one channel behind the other.
        let inputs = graph.layer("fc").unwrap().inputs();
        assert!(inputs.iter().enumerate().all(|(column, group)| *group == Some(outputs("c")[column / 9])));
        assert!(outputs("fc").iter().all(|group| graph.is_fixed(*group)));
        assert!(outputs("a").iter().all(|group| !graph.is_fixed(*group)));
        let cost = graph.layer("c").unwrap().cost();
        assert_eq!(cost, Cost { params: 74, params_all: 74, macs: 72 * 9 });
        assert_eq!(graph.layer("norm").unwrap().cost().params_all, 8);
    }

    #[test]
    fn depthwise_keeps_channels_and_other_groups_fix_them() {
        let mut graph = GraphBuilder::new();
        let x = graph.input(3, [8, 8]);
        let a = graph.conv("a", &x, Conv::new(4, 1)).unwrap();
        let b = graph.conv("b", &a, Conv::new(4, 3).with_groups(4)).unwrap();
        let c = graph.conv("c", &b, Conv::new(6, 1)).unwrap();
        let d = graph.conv("d", &c, Conv::new(6, 1).with_groups(2)).unwrap();
        let rearranged = c.rearranged(6, 1);
        let sum = graph.add(&d, &rearranged).unwrap();
        let e = graph.conv("e", &sum, Conv::new(4, 1)).unwrap();
        let graph = graph.finish(&e);
        let outputs = |name: &str| graph.layer(name).unwrap().outputs();
        assert_eq!(outputs("a"), outputs("b"));
        assert!(!graph.is_fixed(outputs("b")[0]));
        assert!(graph.is_fixed(outputs("c")[0]) && graph.is_fixed(outputs("d")[5]));
        assert_ne!(outputs("c"), outputs("d"));
        assert_eq!(graph.layer("d").unwrap().cost().macs, 6 * 3 * 36);
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let mut graph = GraphBuilder::new();
        let x = graph.input(3, [4, 4]);
        assert!(graph.conv("large", &x, Conv::new(4, 5)).unwrap_err().to_string().contains("large"));
        assert!(graph.conv("odd", &x, Conv::new(4, 1).with_groups(2)).is_err());
        let y = graph.conv("y", &x, Conv::new(4, 1)).unwrap();
        assert!(graph.add(&x, &y).is_err());
        assert!(graph.batch_norm("norm", &y.rearranged(8, 2)).is_err());
        assert!(Activation::concat(&[]).is_err());
        let both = Activation::concat(&[x, y]).unwrap();
        assert_eq!(both.channels(), 7);
        assert!(graph.finish(&both).layer("other").unwrap_err().to_string().contains("`other`"));
    }
}
