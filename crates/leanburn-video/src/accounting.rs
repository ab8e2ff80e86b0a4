use leanburn_core::architecture::Cost;

/// Adds up a network's parameters, and the operations of one clip.
#[derive(Debug, Default)]
pub(crate) struct Tally(Cost);

impl Tally {
    /// A convolution or a linear layer.
    ///
    /// - weights: of one copy of the layer
    /// - positions: of its output, for which each weight is used once
    pub(crate) fn layer(&mut self, weights: usize, bias: usize, positions: usize) {
        self.0.params += weights + bias;
        self.0.params_all += weights + bias;
        self.0.macs += weights * positions;
    }

    /// Copies of a layer of which a clip passes one.
    pub(crate) fn copies(&mut self, copies: usize, weights: usize, positions: usize) {
        self.layer(copies * weights, 0, 0);
        self.0.macs += weights * positions;
    }

    /// Operations without parameters.
    pub(crate) fn operations(&mut self, macs: usize) {
        self.0.macs += macs;
    }

    /// Norms, each with a scale and a shift of every channel.
    pub(crate) fn norms(&mut self, copies: usize, channels: usize) {
        self.0.params_all += 2 * copies * channels;
    }

    pub(crate) fn cost(self) -> Cost {
        self.0
    }
}
