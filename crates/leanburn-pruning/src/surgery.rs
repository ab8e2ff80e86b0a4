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
    state::{by_output, device_of},
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
    let values: Vec<f32> = data.iter::<f32>().collect();
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
    use burn_flex::Flex;
    use leanburn_core::{checkpoint::Checkpoint, random::Generator};
    use leanburn_vision::{Classifier, resnet::ResNetConfig, sequential::SequentialConfig};

    /// Removing gives what masking gives; masking weights alone does not, where constants remain.
    fn agrees<A: Prunable>(config: &A, [channels, height, width]: [usize; 3], ratios: &Ratios)
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>, InnerModule = A::Network<Flex>>,
    {
        let device = Default::default();
        let size = [height, width];
        let mut generator = Generator::new(9);
        let network = config.init::<Autodiff<Flex>>(&mut generator, &device).unwrap();
        // Batches give the norms statistics to remember.
        for _ in 0..3 {
            network.forward(generator.normal([4, channels, height, width], &device));
        }
        let network = network.valid();
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
