use burn::{
    config::Config,
    tensor::{Tensor, activation::softmax, backend::Backend},
};
use leanburn_core::{Error, Result, loss::kl_divergence};
use serde::{Deserialize, Serialize};

/// From whom the other frame counts learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    /// From the most frames (FFN's temporal distillation).
    Highest,
    /// From the mean of all frame counts' probabilities.
    Mean,
    /// From the most frames, which learn from them as well.
    Mutual,
}

/// Which frame counts see the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labelled {
    /// The most frames (FFN).
    Highest,
    /// All of them.
    All,
}

/// Multi-frequency alignment (FFN, section 3.2): what is learnt from labels, and what frame counts learn from each other.
/// Teachers are never changed by what is learnt from them.
#[derive(Config, Debug, PartialEq)]
pub struct Alignment {
    /// The weight of each divergence (lambda). Default: 1
    #[config(default = 1.0)]
    pub weight: f64,
    /// By what logits are divided before they are compared. Default: 1
    #[config(default = 1.0)]
    pub temperature: f64,
    /// From whom the other frame counts learn. Default: the most frames
    #[config(default = "Teacher::Highest")]
    pub teacher: Teacher,
    /// Which frame counts see the labels. Default: the most frames
    #[config(default = "Labelled::Highest")]
    pub labelled: Labelled,
}

/// The terms of the loss, `[1]` each.
#[derive(Debug, Clone)]
pub struct Terms<B: Backend> {
    /// The cross-entropy of labels.
    pub labels: Tensor<B, 1>,
    /// The weighted divergence of each frame count but the highest, ascending; none when they weigh nothing.
    pub divergences: Vec<Tensor<B, 1>>,
}

impl<B: Backend> Terms<B> {
    /// Their sum.
    pub fn total(&self) -> Tensor<B, 1> {
        self.divergences.iter().fold(self.labels.clone(), |sum, divergence| sum + divergence.clone())
    }
}

impl Alignment {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return Err(Error::setting("alignment.weight", "a number from 0 on", self.weight));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::setting("alignment.temperature", "a number above 0", self.temperature));
        }
        Ok(())
    }

    /// The terms of the loss.
    ///
    /// - logits: of each frame count, ascending, at least one, `[batch, classes]`
    /// - `label_loss`: the cross-entropy of logits, `[1]`
    ///
    /// # Panics
    ///
    /// When there are no logits.
    pub fn terms<B: Backend>(
        &self,
        logits: &[Tensor<B, 2>],
        label_loss: impl Fn(Tensor<B, 2>) -> Tensor<B, 1>,
    ) -> Terms<B> {
        let (highest, others) = logits.split_last().expect("there is a frame count");
        let mut labels = label_loss(highest.clone());
        if self.labelled == Labelled::All {
            labels = others.iter().fold(labels, |sum, logits| sum + label_loss(logits.clone()));
        }
        let learns = |student: &Tensor<B, 2>, teacher: Tensor<B, 2>| {
            kl_divergence(student.clone(), teacher.detach(), self.temperature) * self.weight
        };
        // Without a weight there is nothing to compare.
        let learners = if self.weight == 0.0 { &[] } else { others };
        let divergences = learners.iter().map(|logits| match self.teacher {
            Teacher::Highest => learns(logits, highest.clone()),
            Teacher::Mutual => learns(logits, highest.clone()) + learns(highest, logits.clone()),
            Teacher::Mean => learns(logits, self.mean(highest, others)),
        });
        Terms { labels, divergences: divergences.collect() }
    }

    /// Logits of the mean of all probabilities.
    fn mean<B: Backend>(&self, highest: &Tensor<B, 2>, others: &[Tensor<B, 2>]) -> Tensor<B, 2> {
        let probabilities = |logits: &Tensor<B, 2>| softmax(logits.clone() / self.temperature, 1);
        let sum = others.iter().fold(probabilities(highest), |sum, logits| sum + probabilities(logits));
        (sum / (others.len() + 1) as f64).log() * self.temperature
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::{backend::Autodiff, tensor::Int};
    use burn_flex::Flex;
    use leanburn_core::{loss::cross_entropy, random::Generator};

    type Training = Autodiff<Flex>;

    fn logits(seed: u64) -> Tensor<Training, 2> {
        Generator::new(seed).normal([4, 5], &Default::default()).require_grad()
    }

    fn labels() -> Tensor<Training, 1, Int> {
        Tensor::from_data([0, 3, 4, 1], &Default::default())
    }

    fn value(tensor: &Tensor<Training, 1>) -> f32 {
        tensor.clone().into_scalar()
    }

    #[test]
    fn the_teacher_does_not_depend_on_its_students() {
        let gradient = |others: [u64; 2]| {
            let all = [logits(others[0]), logits(others[1]), logits(3)];
            let terms = Alignment::new().terms(&all, |logits| cross_entropy(logits, labels()));
            all[2].grad(&terms.total().backward()).unwrap().into_data()
        };
        assert_eq!(gradient([1, 2]), gradient([7, 8]));
    }

    #[test]
    fn equal_logits_leave_the_labels_alone() {
        for teacher in [Teacher::Highest, Teacher::Mean, Teacher::Mutual] {
            let all = [logits(1), logits(1), logits(1)];
            let alignment = Alignment::new().with_teacher(teacher).with_temperature(2.0);
            let terms = alignment.terms(&all, |logits| cross_entropy(logits, labels()));
            assert!(terms.divergences.iter().all(|divergence| value(divergence).abs() < 1e-6));
            let total = value(&terms.total());
            assert!((total - value(&cross_entropy(logits(1), labels()))).abs() < 1e-5);
        }
    }

    #[test]
    fn mutual_teaching_goes_both_ways() {
        let all = [logits(1), logits(2)];
        let loss = |logits| cross_entropy(logits, labels());
        let one_way = Alignment::new().terms(&all, loss);
        let back = Alignment::new().terms(&[logits(2), logits(1)], loss);
        let mutual = Alignment::new().with_teacher(Teacher::Mutual).terms(&all, loss);
        let sum = value(&one_way.divergences[0]) + value(&back.divergences[0]);
        assert!((value(&mutual.divergences[0]) - sum).abs() < 1e-5);
        let all_labelled = Alignment::new().with_labelled(Labelled::All).terms(&all, loss);
        let sum = value(&one_way.labels) + value(&back.labels);
        assert!((value(&all_labelled.labels) - sum).abs() < 1e-5);
    }

    #[test]
    fn settings_are_checked() {
        assert!(Alignment::new().with_weight(-1.0).check().unwrap_err().to_string().contains("weight"));
        assert!(Alignment::new().with_temperature(0.0).check().is_err());
    }
}
