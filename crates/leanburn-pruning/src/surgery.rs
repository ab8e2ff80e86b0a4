//! Networks with filters masked, or really without them.

use burn::tensor::{TensorData, backend::Backend};
use leanburn_core::{
    Result,
    architecture::{Graph, Layer, LayerKind},
};
use leanburn_vision::Architecture;
use serde::{Deserialize, Serialize};

use crate::{
    Kept, Prunable, State,
    reinit::Activation,
    state::{by_output, device_of, floats, norm_behind},
};

/// What of a filter is set to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Its weights. Its channel stays, as a constant: the bias, and what batch norm makes of it.
    Weights,
    /// Its weights and bias, and the scale and shift of the batch norms behind it: its channel is zero, and the network
    /// computes what it computes without the filter.
    Full,
}

/// The network without the filters that go: a smaller one, with its configuration.
///
/// - size: height and width of the input
///
/// # Errors
///
/// When `kept` is of another network.
pub fn remove<A: Prunable, B: Backend>(
    config: &A,
    network: &A::Network<B>,
    kept: &Kept,
    size: [usize; 2],
) -> Result<(A, A::Network<B>)> {
    let graph = config.graph(size)?;
    let state = removed(&graph, &State::of::<A, B>(config, network)?, kept)?;
    let config = config.pruned(kept)?;
    let network = state.network::<A, B>(&config, &device_of(network))?;
    Ok((config, network))
}

/// The network with the filters that go set to zero: as large as before.
///
/// - size: height and width of the input
///
/// # Errors
///
/// When `kept` is of another network.
pub fn mask<A: Architecture, B: Backend>(
    config: &A,
    network: &A::Network<B>,
    kept: &Kept,
    mask: Mask,
    size: [usize; 2],
) -> Result<A::Network<B>> {
    let graph = config.graph(size)?;
    let state = masked(&graph, State::of::<A, B>(config, network)?, kept, mask)?;
    state.network::<A, B>(config, &device_of(network))
}

/// A state without the filters that go.
///
/// # Errors
///
/// When `kept` or the state are of another network.
pub fn removed(graph: &Graph, state: &State, kept: &Kept) -> Result<State> {
    let mut tensors = State::new([]);
    for layer in graph.layers() {
        let outputs = kept.outputs(layer.name())?;
        for name in by_output(layer) {
            let mut data = taken(state.tensor(&name)?, 0, outputs);
            if name.ends_with(".weight") && has_input_columns(layer) {
                data = taken(&data, 1, kept.inputs(layer.name())?);
            }
            tensors.set(name, data);
        }
    }
    Ok(tensors)
}

/// A state in which the constants that filters leave behind are part of the layers that read them, so that
/// [`removed`] gives what masking the weights alone gives ([`Mask::Weights`]): exactly without padding, and nearly with.
///
/// A filter without weights gives a constant: its bias, through batch norm and the activation. What a layer makes of it is
/// added to its bias, or taken from the running mean of the batch norm behind it. Channels that several layers give
/// together are no constants, and are left as they are.
///
/// - activation: what stands between layers
///
/// # Errors
///
/// When `kept` or the state are of another network.
pub fn absorbed(graph: &Graph, mut state: State, kept: &Kept, activation: Activation) -> Result<State> {
    let norm_of = |layer: &Layer| norm_behind(graph, layer).map(|norm| norm.name().to_owned());
    let values = |state: &State, name: String| -> Result<Vec<f64>> {
        Ok(state.tensor(&name)?.iter::<f64>().collect())
    };
    // A filter without weights takes over nothing: what it leaves is known from the start.
    let original = state.clone();
    for layer in graph.learnable() {
        let pruned = kept.pruned(layer.name())?;
        let producers =
            |group: usize| graph.learnable().filter(|other| other.outputs().contains(&group)).count();
        let alone: Vec<usize> =
            pruned.iter().copied().filter(|&filter| producers(layer.outputs()[filter]) == 1).collect();
        if alone.is_empty() {
            continue;
        }
        let bias =
            layer.has_bias().then(|| values(&original, format!("{}.bias", layer.name()))).transpose()?;
        let norm = match norm_of(layer) {
            Some(norm) => {
                let part = |part: &str| values(&original, format!("{norm}.{part}"));
                Some([part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?])
            }
            None => None,
        };
        let constant = |filter: usize| {
            let constant = bias.as_ref().map_or(0.0, |bias| bias[filter]);
            activation.of(norm.as_ref().map_or(constant, |norm| {
                let [scale, shift, mean, variance] = norm.each_ref().map(|part| part[filter]);
                (constant - mean) / (variance + 1e-5).sqrt() * scale + shift
            }))
        };
        let constants: std::collections::BTreeMap<usize, f64> =
            alone.into_iter().map(|filter| (layer.outputs()[filter], constant(filter))).collect();
        for reader in graph.learnable().filter(|reader| has_input_columns(reader)) {
            let inputs: Vec<f64> = reader
                .inputs()
                .iter()
                .map(|g| g.and_then(|g| constants.get(&g)).copied().unwrap_or(0.0))
                .collect();
            if inputs.iter().all(|constant| *constant == 0.0) {
                continue;
            }
            let (weights, columns) = state.weight(reader)?;
            let kernel = columns / inputs.len();
            let of_row = |row: &[f32]| -> f64 {
                let taps = row.chunks(kernel).zip(&inputs);
                taps.map(|(taps, constant)| taps.iter().map(|tap| f64::from(*tap)).sum::<f64>() * constant)
                    .sum()
            };
            let added: Vec<f64> = weights.chunks(columns).map(of_row).collect();
            let (name, sign) = match (reader.has_bias(), norm_of(reader)) {
                (true, _) => (format!("{}.bias", reader.name()), 1.0),
                (false, Some(norm)) => (format!("{norm}.running_mean"), -1.0),
                // Nothing there takes a constant.
                (false, None) => continue,
            };
            let old = values(&state, name.clone())?;
            let moved = old.iter().zip(&added).map(|(value, added)| (value + sign * added) as f32);
            let data = TensorData::new(moved.collect::<Vec<f32>>(), [old.len()]);
            state.set(name, data);
        }
    }
    Ok(state)
}

/// A state with the filters that go set to zero.
///
/// # Errors
///
/// When `kept` or the state are of another network.
pub fn masked(graph: &Graph, mut state: State, kept: &Kept, mask: Mask) -> Result<State> {
    for layer in graph.layers() {
        let outputs = kept.outputs(layer.name())?;
        let names = match (mask, layer.kind()) {
            (Mask::Weights, LayerKind::BatchNorm) => continue,
            (Mask::Weights, _) => vec![format!("{}.weight", layer.name())],
            (Mask::Full, _) => by_output(layer),
        };
        for name in names.into_iter().filter(|name| !name.contains(".running_")) {
            let data = zeroed(state.tensor(&name)?, outputs);
            state.set(name, data);
        }
    }
    Ok(state)
}

/// Whether a layer's weight has a column for each input.
fn has_input_columns(layer: &Layer) -> bool {
    match layer.kind() {
        LayerKind::Conv { groups, .. } => groups == 1,
        LayerKind::Linear => true,
        LayerKind::BatchNorm => false,
    }
}

/// What lies at some indices along a dimension.
fn taken(data: &TensorData, dim: usize, indices: &[usize]) -> TensorData {
    let mut shape = data.shape.to_vec();
    let inner: usize = shape[dim + 1..].iter().product();
    let block = shape[dim] * inner;
    let values = floats(data);
    let kept = values.chunks(block.max(1)).flat_map(|chunk| {
        indices.iter().flat_map(move |&index| chunk[index * inner..(index + 1) * inner].iter().copied())
    });
    shape[dim] = indices.len();
    TensorData::new(kept.collect::<Vec<f32>>(), shape)
}

/// Zeros in all rows but some.
fn zeroed(data: &TensorData, rows: &[usize]) -> TensorData {
    let inner: usize = data.shape[1..].iter().product();
    let mut values = vec![0.0; data.num_elements()];
    let old: Vec<f32> = data.iter::<f32>().collect();
    for row in rows.iter().map(|row| row * inner..(row + 1) * inner) {
        values[row.clone()].copy_from_slice(&old[row]);
    }
    TensorData::new(values, data.shape.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ratios, Selection};
    use burn::{
        backend::Autodiff,
        module::AutodiffModule,
        tensor::{Tensor, Tolerance},
    };
    use burn::{
        module::Module,
        nn::{Linear, conv::Conv2d},
        tensor::activation::relu,
    };
    use burn_flex::Flex;
    use leanburn_core::{
        architecture::{Activation as Maps, Conv, GraphBuilder},
        checkpoint::Checkpoint,
        nn::{BatchNorm, BatchNormConfig, ConvConfig, linear},
        random::Generator,
    };
    use leanburn_vision::{Classifier, resnet::ResNetConfig, sequential::SequentialConfig};

    /// A network whose norms have statistics of some batches to remember.
    fn remembering<A: Prunable>(config: &A, batch: [usize; 4], generator: &mut Generator) -> A::Network<Flex>
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>, InnerModule = A::Network<Flex>>,
    {
        let device = Default::default();
        let network = config.init::<Autodiff<Flex>>(generator, &device).unwrap();
        for _ in 0..3 {
            network.forward(generator.normal(batch, &device));
        }
        network.valid()
    }

    /// Removing gives what masking gives; masking weights alone does not, where constants remain.
    fn agrees<A: Prunable>(config: &A, [channels, height, width]: [usize; 3], ratios: &Ratios)
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>, InnerModule = A::Network<Flex>>,
    {
        let device = Default::default();
        let size = [height, width];
        let mut generator = Generator::new(9);
        let network = remembering(config, [4, channels, height, width], &mut generator);
        let graph = config.graph(size).unwrap();
        let state = State::of::<A, Flex>(config, &network).unwrap();
        let kept = Selection::new().select(&graph, &state, None, ratios).unwrap();
        let (smaller, removed) = remove::<A, Flex>(config, &network, &kept, size).unwrap();
        let images: Tensor<Flex, 4> = generator.normal([4, channels, height, width], &device);
        let output = removed.forward(images.clone()).into_data();
        let full = mask::<A, Flex>(config, &network, &kept, Mask::Full, size).unwrap();
        output.assert_approx_eq::<f32>(
            &full.forward(images.clone()).into_data(),
            Tolerance::rel_abs(1e-5, 1e-5),
        );
        let weights = mask::<A, Flex>(config, &network, &kept, Mask::Weights, size).unwrap();
        let difference =
            Tensor::<Flex, 2>::from_data(output.clone(), &device) - weights.forward(images.clone());
        assert!(difference.abs().max().into_scalar() > 1e-3);
        let (before, after) = (graph.cost(), smaller.graph(size).unwrap().cost());
        assert!(after.macs < before.macs && after.params < before.params);

        // Saved and loaded, it gives the same bits.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("smaller.safetensors");
        smaller.save(&removed, &path).unwrap();
        let loaded = smaller.load::<Flex>(&Checkpoint::open(&path).unwrap(), &device).unwrap();
        assert_eq!(loaded.forward(images).into_data(), output);
    }

    #[test]
    fn removing_is_masking_in_full() {
        agrees(&SequentialConfig::lenet5(1, 10), [1, 32, 32], &Ratios::Uniform(0.4));
        agrees(&SequentialConfig::mlp([1, 8, 8], &[20, 30, 10], true), [1, 8, 8], &Ratios::Uniform(0.6));
        agrees(&SequentialConfig::vgg(11, 10).unwrap(), [3, 32, 32], &Ratios::Uniform(0.9));
        let inner = Ratios::patterns([("layer*.conv1", 0.5)]);
        agrees(&ResNetConfig::cifar(20, 10, false).unwrap(), [3, 16, 16], &inner);
        agrees(&ResNetConfig::torchvision(&[1, 1], false, 10), [3, 32, 32], &inner);
        let both = Ratios::patterns([("layer*.conv[12]", 0.7)]);
        agrees(&ResNetConfig::torchvision(&[1, 1], true, 10), [3, 32, 32], &both);
        // Projections couple whole stages.
        agrees(&ResNetConfig::cifar_blocks(&[2, 2], 8, 10, true), [3, 16, 16], &Ratios::Uniform(0.5));
        agrees(&ResNetConfig::torchvision(&[1, 2], true, 10), [3, 32, 32], &Ratios::Uniform(0.3));
    }

    #[test]
    fn ratios_at_random_remove_what_they_mask() {
        let mut generator = Generator::new(17);
        let mut ratio = || 0.3 + 0.001 * generator.below(550) as f64;
        for _ in 0..3 {
            let lenet = SequentialConfig::lenet5(1, 10);
            let ratios = (0..5).map(|_| ratio()).collect();
            agrees(&lenet, [1, 32, 32], &Ratios::Layers(ratios));
            let ratios = (0..9).map(|_| ratio()).collect();
            agrees(&SequentialConfig::vgg(11, 10).unwrap(), [3, 32, 32], &Ratios::Layers(ratios));
            let blocks = ["layer1.0", "layer1.1", "layer2.0"];
            let inner = blocks.map(|block| (format!("{block}.conv1"), ratio()));
            let inner = Ratios::patterns(inner.iter().map(|(name, ratio)| (name.as_str(), *ratio)));
            agrees(&ResNetConfig::cifar_blocks(&[2, 1], 8, 10, false), [3, 16, 16], &inner);
            agrees(&ResNetConfig::torchvision(&[2, 1], true, 10), [3, 32, 32], &inner);
            // All that a stage's blocks give is coupled.
            let uniform = Ratios::Uniform(ratio());
            agrees(&ResNetConfig::torchvision(&[2, 1], false, 10), [3, 32, 32], &uniform);
            agrees(&SeparableConfig { wide: 12, narrow: 7 }, [3, 8, 8], &uniform);
        }
    }

    /// A depthwise convolution, whose maps stand beside those of what reads it.
    #[derive(Module, Debug)]
    struct Separable<B: Backend> {
        wide: Conv2d<B>,
        wide_norm: BatchNorm<B>,
        depthwise: Conv2d<B>,
        depthwise_norm: BatchNorm<B>,
        narrow: Conv2d<B>,
        fc: Linear<B>,
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct SeparableConfig {
        wide: usize,
        narrow: usize,
    }

    impl<B: Backend> Classifier<B> for Separable<B> {
        fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
            let x = relu(self.wide_norm.forward(self.wide.forward(images)));
            let x = relu(self.depthwise_norm.forward(self.depthwise.forward(x)));
            let narrow = relu(self.narrow.forward(x.clone()));
            self.fc.forward(Tensor::cat(vec![x, narrow], 1).flatten(1, 3))
        }

        fn fuse(self) -> Self {
            self
        }

        fn with_frozen_norms(mut self, frozen: bool) -> Self {
            self.wide_norm.frozen = frozen;
            self.depthwise_norm.frozen = frozen;
            self
        }
    }

    impl Architecture for SeparableConfig {
        type Network<B: Backend> = Separable<B>;

        fn init<B: Backend>(
            &self,
            generator: &mut Generator,
            device: &B::Device,
        ) -> leanburn_core::Result<Separable<B>> {
            let &Self { wide, narrow } = self;
            let depthwise = ConvConfig::new(wide, wide, 3).with_padding(1).with_groups(wide);
            Ok(Separable {
                wide: ConvConfig::new(3, wide, 1).init(generator, device),
                wide_norm: BatchNormConfig::new(wide).init(device),
                depthwise: depthwise.init(generator, device),
                depthwise_norm: BatchNormConfig::new(wide).init(device),
                narrow: ConvConfig::new(wide, narrow, 3)
                    .with_padding(1)
                    .with_bias(true)
                    .init(generator, device),
                fc: linear((wide + narrow) * 64, 4, generator, device),
            })
        }

        fn graph(&self, size: [usize; 2]) -> leanburn_core::Result<Graph> {
            let mut graph = GraphBuilder::new();
            let x = graph.input(3, size);
            let x = graph.conv("wide", &x, Conv::new(self.wide, 1))?;
            graph.batch_norm("wide_norm", &x)?;
            let depthwise = Conv::new(self.wide, 3).with_padding(1).with_groups(self.wide);
            let x = graph.conv("depthwise", &x, depthwise)?;
            graph.batch_norm("depthwise_norm", &x)?;
            let narrow =
                graph.conv("narrow", &x, Conv::new(self.narrow, 3).with_padding(1).with_bias(true))?;
            let x = graph.linear("fc", &Maps::concat(&[x, narrow])?.flatten(), 4, true);
            Ok(graph.finish(&x))
        }

        fn published_name(&self, path: &str) -> String {
            path.to_owned()
        }
    }

    impl Prunable for SeparableConfig {
        fn pruned(&self, kept: &Kept) -> leanburn_core::Result<Self> {
            Ok(Self { wide: kept.width("wide")?, narrow: kept.width("narrow")? })
        }
    }

    /// What is left when constants are absorbed, and when they are not, against masked weights.
    fn distances<A: Prunable>(config: &A, [channels, height, width]: [usize; 3], ratios: &Ratios) -> [f32; 2]
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>, InnerModule = A::Network<Flex>>,
    {
        let (device, size) = (Default::default(), [height, width]);
        let mut generator = Generator::new(9);
        let network = remembering(config, [4, channels, height, width], &mut generator);
        let graph = config.graph(size).unwrap();
        let mut state = State::of::<A, Flex>(config, &network).unwrap();
        // Norms that shift, so that constants pass the activation.
        for layer in graph.layers().iter().filter(|layer| layer.kind() == LayerKind::BatchNorm) {
            let shift = generator.normals(layer.outputs().len());
            state.set(format!("{}.bias", layer.name()), TensorData::new(shift, [layer.outputs().len()]));
        }
        let kept = Selection::new().select(&graph, &state, None, ratios).unwrap();
        let images: Tensor<Flex, 4> = generator.normal([4, channels, height, width], &device);
        let masked = masked(&graph, state.clone(), &kept, Mask::Weights).unwrap();
        let target = masked.network::<A, Flex>(config, &device).unwrap().forward(images.clone());
        let smaller = config.pruned(&kept).unwrap();
        let absorbed = absorbed(&graph, state.clone(), &kept, Activation::Relu).unwrap();
        [absorbed, state].map(|state| {
            let small =
                removed(&graph, &state, &kept).unwrap().network::<A, Flex>(&smaller, &device).unwrap();
            (small.forward(images.clone()) - target.clone()).abs().max().into_scalar()
        })
    }

    #[test]
    fn constants_are_absorbed() {
        let uniform = Ratios::Uniform(0.4);
        for (config, input) in [
            (SequentialConfig::lenet5(1, 10), [1, 32, 32]),
            (SequentialConfig::mlp([1, 8, 8], &[20, 30, 10], true), [1, 8, 8]),
        ] {
            let [absorbed, dropped] = distances(&config, input, &uniform);
            assert!(absorbed < 1e-5 && dropped > 1e-3, "{absorbed} and {dropped}");
        }
        // With padding, the edges differ.
        let [absorbed, dropped] = distances(&SequentialConfig::vgg(11, 10).unwrap(), [3, 32, 32], &uniform);
        assert!(absorbed < 0.8 * dropped, "{absorbed} and {dropped}");
        let inner = Ratios::patterns([("layer*.conv1", 0.5)]);
        let resnet = ResNetConfig::cifar(20, 10, false).unwrap();
        let [absorbed, dropped] = distances(&resnet, [3, 16, 16], &inner);
        assert!(absorbed < 0.5 * dropped, "{absorbed} and {dropped}");
        // What a 1x1 convolution reads has no edge.
        let middle = Ratios::patterns([("layer*.conv2", 0.5)]);
        let bottleneck = ResNetConfig::torchvision(&[1, 2], true, 10);
        let [absorbed, dropped] = distances(&bottleneck, [3, 32, 32], &middle);
        assert!(absorbed < 1e-4 && dropped > 1e-2, "{absorbed} and {dropped}");
    }

    #[test]
    fn shortcuts_without_weights_follow_the_channels_that_stay() {
        let config = ResNetConfig::cifar_blocks(&[1, 1], 4, 10, false);
        let graph = config.graph([8, 8]).unwrap();
        let pruned = [("conv1", vec![1]), ("layer2.0.conv2", vec![0, 3, 5])];
        let pruned = pruned.into_iter().map(|(name, outputs)| (name.to_owned(), outputs)).collect();
        let smaller = config.pruned(&Kept::without(&graph, &pruned).unwrap()).unwrap();
        assert_eq!((smaller.stem_width, smaller.stages[0].width, smaller.stages[1].width), (3, 3, 5));
        let leanburn_vision::resnet::Shortcut::Pad { sources } = &smaller.stages[1].shortcut else {
            panic!("another shortcut")
        };
        // Of the outputs 1, 2, 4, 6, 7 the old sources were none, 0, 2, none, none; input 1 is gone.
        assert_eq!(*sources, [None, Some(0), Some(1), None, None]);
        assert!(smaller.graph([8, 8]).is_ok());
    }
}
