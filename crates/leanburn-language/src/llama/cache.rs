use burn::tensor::{Int, Tensor, backend::Backend};

/// Keys and values of the tokens that a network has seen, so that further ones need not compute them again.
#[derive(Debug, Clone)]
pub struct KeyValueCache<B: Backend> {
    pub(crate) layers: Vec<LayerCache<B>>,
}

/// What a layer has seen: keys and values, `[batch, key_value_heads, length, head_dim]`.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache<B: Backend>(Option<(Tensor<B, 4>, Tensor<B, 4>)>);

impl<B: Backend> KeyValueCache<B> {
    /// An empty one.
    ///
    /// - layers: of the network
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache(None); layers] }
    }

    /// How many tokens were seen.
    pub fn length(&self) -> usize {
        self.layers.first().and_then(|layer| layer.0.as_ref()).map_or(0, |(key, _)| key.dims()[2])
    }

    /// The rows of the batch that are kept.
    pub(crate) fn keep(&mut self, rows: &Tensor<B, 1, Int>) {
        for layer in &mut self.layers {
            layer.0 = layer
                .0
                .take()
                .map(|(key, value)| (key.select(0, rows.clone()), value.select(0, rows.clone())));
        }
    }
}

impl<B: Backend> LayerCache<B> {
    /// All keys and values, with those of new tokens.
    pub(super) fn append(&mut self, key: Tensor<B, 4>, value: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let all = match self.0.take() {
            Some((keys, values)) => (Tensor::cat(vec![keys, key], 2), Tensor::cat(vec![values, value], 2)),
            None => (key, value),
        };
        self.0 = Some(all.clone());
        all
    }
}
