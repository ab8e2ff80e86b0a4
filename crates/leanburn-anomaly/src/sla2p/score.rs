use burn::{
    config::Config,
    tensor::{Tensor, backend::Backend},
};

/// What a score takes from the class probabilities of one projected row; all are higher for normal rows, and all are
/// averaged over the projections.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum ScoreKind {
    /// Minus the mean squared distance to the one-hot pseudo-label, the official score.
    Brier,
    /// The probability of the pseudo-label.
    PseudoLabel,
    /// The largest probability.
    Max,
    /// The negative entropy in bits.
    NegativeEntropy,
}

impl ScoreKind {
    /// The score of rows that went through projection `label`.
    ///
    /// - probabilities: `[rows, K]`
    /// - output: `[rows]`
    pub fn of<B: Backend>(&self, probabilities: Tensor<B, 2>, label: usize) -> Tensor<B, 1> {
        let [rows, classes] = probabilities.dims();
        match self {
            Self::Brier => {
                let own = probabilities.clone().narrow(1, label, 1);
                let squares = probabilities.square().sum_dim(1);
                // -(sum_k (p_k - [k = label])^2) / K without the one-hot matrix.
                (own * 2.0 - squares - 1.0) / classes as f64
            }
            Self::PseudoLabel => probabilities.narrow(1, label, 1),
            Self::Max => probabilities.max_dim(1),
            Self::NegativeEntropy => {
                let bits = (probabilities.clone() + 1e-16).log() / std::f64::consts::LN_2;
                (probabilities * bits).sum_dim(1)
            }
        }
        .reshape([rows])
    }
}
