//! Training objectives that several fields share. All take logits and return the mean over the batch, shape `[1]`.

use burn::tensor::{Int, Tensor, activation::log_softmax, backend::Backend};

/// Cross-entropy of logits against class numbers.
///
/// - logits: `[batch, classes]`
/// - targets: `[batch]`, in `0..classes`
/// - output: `[1]`
pub fn cross_entropy<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>) -> Tensor<B, 1> {
    log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean().neg()
}

/// Cross-entropy with label smoothing (Szegedy et al., 2016, section 7), as PyTorch defines it: the target
/// distribution is `1 - smoothing` at the class plus `smoothing / classes` everywhere.
///
/// - logits: `[batch, classes]`
/// - targets: `[batch]`, in `0..classes`
/// - smoothing: in `0..=1`
/// - output: `[1]`
pub fn cross_entropy_smoothed<B: Backend>(
    logits: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
    smoothing: f64,
) -> Tensor<B, 1> {
    let log_probabilities = log_softmax(logits, 1);
    let hard = log_probabilities.clone().gather(1, targets.unsqueeze_dim(1)).mean();
    let uniform = log_probabilities.mean();
    (hard * (1.0 - smoothing) + uniform * smoothing).neg()
}

/// Cross-entropy of logits against target distributions: `-sum_k q_k log p_k`.
///
/// - logits: `[batch, classes]`
/// - targets: `[batch, classes]`, each row a distribution
/// - output: `[1]`
pub fn cross_entropy_soft<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 2>) -> Tensor<B, 1> {
    (log_softmax(logits, 1) * targets).sum_dim(1).mean().neg()
}

/// Knowledge distillation (Hinton et al., 2015): `temperature² KL(teacher || student)` of the distributions softened
/// by `temperature`. No gradient is blocked: detach the teacher's logits where it is not trained.
///
/// - student, teacher: logits `[batch, classes]`
/// - temperature: above 0
/// - output: `[1]`
pub fn kl_divergence<B: Backend>(
    student: Tensor<B, 2>,
    teacher: Tensor<B, 2>,
    temperature: f64,
) -> Tensor<B, 1> {
    let student = log_softmax(student / temperature, 1);
    let teacher = log_softmax(teacher / temperature, 1);
    let divergence = (teacher.clone().exp() * (teacher - student)).sum_dim(1).mean();
    divergence * (temperature * temperature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{TensorData, Tolerance};
    use burn_flex::Flex;

    // torch.nn.functional of PyTorch 2 in float64.
    const EXPECTED_CE: f32 = 0.535_240_4;
    const EXPECTED_SMOOTHED: f32 = 0.685_240_4;
    const EXPECTED_SOFT: f32 = 0.860_240_4;
    const EXPECTED_KL: f32 = 0.931_173_2;

    fn logits() -> Tensor<Flex, 2> {
        Tensor::from_data([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], &Default::default())
    }

    fn close(actual: Tensor<Flex, 1>, expected: f32) {
        actual
            .into_data()
            .assert_approx_eq::<f32>(&TensorData::from([expected]), Tolerance::rel_abs(1e-5, 1e-6));
    }

    #[test]
    fn cross_entropy_is_pytorchs() {
        let targets = Tensor::from_data([2, 1], &Default::default());
        close(cross_entropy(logits(), targets.clone()), EXPECTED_CE);
        close(cross_entropy_smoothed(logits(), targets.clone(), 0.1), EXPECTED_SMOOTHED);
        close(cross_entropy_smoothed(logits(), targets, 0.0), EXPECTED_CE);
    }

    #[test]
    fn soft_targets_are_pytorchs() {
        let targets = Tensor::from_data([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], &Default::default());
        close(cross_entropy_soft(logits(), targets), EXPECTED_SOFT);
    }

    #[test]
    fn distillation_is_pytorchs() {
        let teacher = Tensor::from_data([[0.5, 0.0, -1.0], [2.0, 2.0, 0.0]], &Default::default());
        close(kl_divergence(logits(), teacher, 4.0), EXPECTED_KL);
        close(kl_divergence(logits(), logits(), 4.0), 0.0);
    }
}
