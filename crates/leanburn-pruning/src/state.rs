use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use burn::{
    module::Module,
    tensor::{TensorData, backend::Backend},
};
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer, LayerKind},
    checkpoint::{self, Checkpoint},
};
use leanburn_vision::Architecture;
use sha2::{Digest, Sha256};

/// A network's parameters and running statistics under their published names, in memory: what pruning looks at, and
/// cuts. Gradients under the same names are a state, too.
#[derive(Debug, Clone, PartialEq)]
pub struct State(BTreeMap<String, TensorData>);

impl State {
    /// The state of a network.
    ///
    /// # Errors
    ///
    /// When a parameter cannot be read from its device.
    pub fn of<A: Architecture, B: Backend>(config: &A, network: &A::Network<B>) -> Result<Self> {
        checkpoint::tensors(network, |path| config.published_name(path)).map(Self::new)
    }

    /// A state of named tensors, in PyTorch's layout.
    pub fn new(tensors: impl IntoIterator<Item = (String, TensorData)>) -> Self {
        Self(tensors.into_iter().collect())
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn tensor(&self, name: &str) -> Result<&TensorData> {
        self.0.get(name).ok_or_else(|| Error::data(format!("parameter `{name}`"), "a tensor", "none"))
    }

    /// All tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorData)> {
        self.0.iter().map(|(name, data)| (name.as_str(), data))
    }

    /// A layer's weight: its values as rows of `columns` for each output, and that number.
    pub(crate) fn weight(&self, layer: &Layer) -> Result<(Cow<'_, [f32]>, usize)> {
        let data = self.tensor(&format!("{}.weight", layer.name()))?;
        let columns = data.shape[1..].iter().product();
        Ok((floats(data), columns))
    }

    /// A hash (SHA-256) of all names, shapes and values: equal states have equal hashes, on any machine.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (name, data) in &self.0 {
            hash.update(name.as_bytes());
            for size in data.shape.iter() {
                hash.update((*size as u64).to_le_bytes());
            }
            for value in data.iter::<f32>() {
                hash.update(value.to_le_bytes());
            }
        }
        hexadecimal(&hash.finalize())
    }

    /// The mean absolute weight of each input channel of a layer.
    ///
    /// # Errors
    ///
    /// When the layer has no weight here.
    pub fn channel_scores(&self, layer: &Layer) -> Result<Vec<f64>> {
        let data = self.tensor(&format!("{}.weight", layer.name()))?;
        let channels = data.shape[1];
        let kernel: usize = data.shape[2..].iter().product();
        let mut sums = vec![0.0; channels];
        for (index, value) in data.iter::<f32>().enumerate() {
            sums[index / kernel % channels] += f64::from(value.abs());
        }
        let count = (data.shape[0] * kernel) as f64;
        Ok(sums.into_iter().map(|sum| sum / count).collect())
    }

    /// How many bytes the tensors take.
    pub fn bytes(&self) -> usize {
        self.0.values().map(|data| data.bytes.len()).sum()
    }

    /// Replaces a tensor.
    pub(crate) fn set(&mut self, name: String, data: TensorData) {
        self.0.insert(name, data);
    }

    /// The network of a configuration with this state.
    ///
    /// # Errors
    ///
    /// When they do not fit.
    pub fn network<A: Architecture, B: Backend>(
        &self,
        config: &A,
        device: &B::Device,
    ) -> Result<A::Network<B>> {
        let checkpoint = Checkpoint::from_tensors("the pruned network", self.0.clone());
        config.load(&checkpoint, device)
    }
}

/// The values of a tensor: where they lie, if they are in single precision.
pub(crate) fn floats(data: &TensorData) -> Cow<'_, [f32]> {
    match data.as_slice::<f32>() {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(data.iter::<f32>().collect()),
    }
}

/// Bytes as a text.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The names of a layer's tensors that have a value, or a row, for each output.
pub(crate) fn by_output(layer: &Layer) -> Vec<String> {
    let parts: &[&str] = match layer.kind() {
        LayerKind::BatchNorm => &["weight", "bias", "running_mean", "running_var"],
        _ if layer.has_bias() => &["weight", "bias"],
        _ => &["weight"],
    };
    parts.iter().map(|part| format!("{}.{part}", layer.name())).collect()
}

/// The batch norm behind a layer: the first one that follows it on the same channels, before another layer gives them.
pub(crate) fn norm_behind<'a>(graph: &'a Graph, layer: &Layer) -> Option<&'a Layer> {
    let place = graph.layers().iter().position(|other| other.name() == layer.name())?;
    let mut behind = graph.layers()[place + 1..].iter().filter(|other| other.outputs() == layer.outputs());
    behind.next().filter(|next| next.kind() == LayerKind::BatchNorm)
}

/// The device of a network.
pub(crate) fn device_of<B: Backend, M: Module<B>>(network: &M) -> B::Device {
    network.devices().into_iter().next().unwrap_or_default()
}
