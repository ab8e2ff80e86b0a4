use std::ops::Range;

use burn::{
    config::Config,
    nn::Linear,
    tensor::{
        Int, Tensor, TensorData,
        activation::{leaky_relu, softmax},
        backend::Backend,
    },
};

use super::{Classifier, classifier::Hidden};

/// How far a projected row is moved along its gradient.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not at all: SLA.
    None,
    /// `epsilon / batch_size` for every row, so that a row's score does not depend on the others or on their order.
    PerSample,
    /// The official code's: `epsilon / b`, where `b` is the size of the mini-batch in which the row falls in the
    /// table's order. The rows of a short last batch move further, so that a table sorted by label leaks the label:
    /// for comparison only.
    OfficialBatchMean,
}

impl Step {
    /// How far each of `rows` of a table of `total` rows is moved, `[rows, 1]`; none for [`Step::None`].
    ///
    /// # Panics
    ///
    /// When `batch_size` is 0.
    pub fn lengths<B: Backend>(
        &self,
        epsilon: f64,
        batch_size: usize,
        rows: Range<usize>,
        total: usize,
        device: &B::Device,
    ) -> Option<Tensor<B, 2>> {
        let in_full_batches = total - total % batch_size;
        let length = |row: usize| match self {
            Self::OfficialBatchMean if row >= in_full_batches => epsilon / (total - in_full_batches) as f64,
            _ => epsilon / batch_size as f64,
        };
        if *self == Self::None {
            return None;
        }
        let shape = [rows.len(), 1];
        let lengths: Vec<f32> = rows.map(|row| length(row) as f32).collect();
        Some(Tensor::from_data(TensorData::new(lengths, shape), device))
    }
}

/// A trained classifier made ready for scoring: batch norm is folded into the linear layers, and the gradient of the
/// input is computed without that of the weights.
#[derive(Debug, Clone)]
pub struct FrozenClassifier<B: Backend> {
    hidden: Vec<Linear<B>>,
    output: Linear<B>,
    leaky_slope: f64,
}

impl<B: Backend> FrozenClassifier<B> {
    /// `classifier` with its running statistics.
    pub fn new(classifier: &Classifier<B>) -> Self {
        Self {
            hidden: classifier.hidden.iter().map(|Hidden { fc, bn }| bn.fuse(fc)).collect(),
            output: classifier.output.clone(),
            leaky_slope: classifier.leaky_slope,
        }
    }

    /// Class probabilities of projected rows after the perturbation.
    ///
    /// - input: `[rows, D]`
    /// - step: `[rows, 1]`, or none for no perturbation
    /// - output: `[rows, K]`
    pub fn probabilities(&self, input: Tensor<B, 2>, step: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
        let input = match step {
            Some(step) => self.perturb(input, step),
            None => input,
        };
        softmax(self.logits(input), 1)
    }

    /// The input moved by `step` along the gradient of each row's own cross-entropy against its predicted label.
    ///
    /// - input: `[rows, D]`
    /// - step: `[rows, 1]`
    /// - output: `[rows, D]`
    pub fn perturb(&self, input: Tensor<B, 2>, step: Tensor<B, 2>) -> Tensor<B, 2> {
        let gradient = self.gradient(input.clone());
        input + gradient * step
    }

    /// Logits of projected rows.
    ///
    /// - input: `[rows, D]`
    /// - output: `[rows, K]`
    pub fn logits(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        let last = self.hidden.iter().fold(input, |x, layer| leaky_relu(layer.forward(x), self.leaky_slope));
        self.output.forward(last)
    }

    /// The gradient, with respect to the input, of each row's cross-entropy against the label predicted for it.
    ///
    /// - input: `[rows, D]`
    /// - output: `[rows, D]`
    pub fn gradient(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        let mut activations = Vec::with_capacity(self.hidden.len());
        let mut x = input;
        for layer in &self.hidden {
            x = leaky_relu(layer.forward(x), self.leaky_slope);
            activations.push(x.clone());
        }
        let logits = self.output.forward(x);
        let predicted = logits.clone().argmax(1);
        let mut gradient = less_one_hot(softmax(logits, 1), predicted).matmul(transposed(&self.output));
        for (layer, activation) in self.hidden.iter().zip(activations).rev() {
            // The activation has the sign of its argument.
            let falling = activation.lower_equal_elem(0.0);
            let damped = gradient.clone() * self.leaky_slope;
            gradient = gradient.mask_where(falling, damped).matmul(transposed(layer));
        }
        gradient
    }
}

/// `probabilities` less 1 at each row's class.
fn less_one_hot<B: Backend>(probabilities: Tensor<B, 2>, classes: Tensor<B, 2, Int>) -> Tensor<B, 2> {
    let minus_one = Tensor::full(classes.dims(), -1.0, &probabilities.device());
    probabilities.scatter(1, classes, minus_one, burn::tensor::IndexingUpdateOp::Add)
}

fn transposed<B: Backend>(layer: &Linear<B>) -> Tensor<B, 2> {
    layer.weight.val().transpose()
}
