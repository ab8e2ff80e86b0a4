//! Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) of batches of clips.

use burn::{
    config::Config,
    tensor::{Tensor, TensorData, backend::Backend},
};
use leanburn_core::{Error, Result, random::Generator};
use rand_distr::{Beta, Distribution};

/// Configuration of mixing, which pairs the clips of a batch from both ends. The defaults are UniFormer's.
#[derive(Config, Debug)]
pub struct Mixing {
    /// The number of classes.
    pub num_classes: usize,
    /// Both parameters of the beta distribution from which the share of a clip in a mixture is drawn; 0 for no mixup.
    /// Default: 0.8
    #[config(default = 0.8)]
    pub mixup: f64,
    /// The same of the area that is not cut out; 0 for no CutMix. Default: 1
    #[config(default = 1.0)]
    pub cutmix: f64,
    /// The probability that a batch is mixed. Default: 1
    #[config(default = 1.0)]
    pub probability: f64,
    /// The probability of CutMix, where both are on. Default: 0.5
    #[config(default = 0.5)]
    pub switch: f64,
    /// How much of the target is spread over all classes. Default: 0.1
    #[config(default = 0.1)]
    pub label_smoothing: f64,
}

/// What is done to a batch.
enum Mixture {
    None,
    /// The share of each clip.
    Blend(f64),
    /// Rows and columns that are taken from the other clip, and the share of what stays.
    Cut([std::ops::Range<usize>; 2], f64),
}

impl Mixing {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.num_classes == 0 {
            return Err(Error::setting("num_classes", "at least 1", 0));
        }
        for (field, value) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::setting(field, "a number from 0 on", value));
            }
        }
        for (field, value) in [
            ("probability", self.probability),
            ("switch", self.switch),
            ("label_smoothing", self.label_smoothing),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::setting(field, "from 0 to 1", value));
            }
        }
        Ok(())
    }

    fn draw(&self, [height, width]: [usize; 2], generator: &mut Generator) -> Result<Mixture> {
        if !generator.chance(self.probability) {
            return Ok(Mixture::None);
        }
        let cuts = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => generator.chance(self.switch),
            (_, cutmix) => cutmix,
        };
        let alpha = if cuts { self.cutmix } else { self.mixup };
        if alpha == 0.0 {
            return Ok(Mixture::None);
        }
        let beta =
            Beta::new(alpha, alpha).map_err(|error| Error::setting("mixup", "a usable number", error))?;
        let share = beta.sample(generator.rng());
        if !cuts {
            return Ok(Mixture::Blend(share));
        }
        let ratio = (1.0 - share).sqrt();
        let mut side = |size: usize| {
            let cut = (size as f64 * ratio) as usize;
            let middle = generator.below(size);
            middle.saturating_sub(cut / 2)..(middle + cut / 2).min(size)
        };
        let cut = [side(height), side(width)];
        let share = 1.0 - (cut[0].len() * cut[1].len()) as f64 / (height * width) as f64;
        Ok(Mixture::Cut(cut, share))
    }

    /// Mixes clips, those of all frame counts alike, and gives the target distributions `[batch, num_classes]`.
    ///
    /// - clips: `[batch, frames, channels, height, width]` each
    /// - labels: one a clip
    ///
    /// # Errors
    ///
    /// When a label is no class.
    pub fn mix<B: Backend>(
        &self,
        clips: &mut [Tensor<B, 5>],
        labels: &[i64],
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>> {
        let classes = self.num_classes;
        if let Some((video, label)) =
            labels.iter().enumerate().find(|(_, label)| !(0..classes as i64).contains(*label))
        {
            return Err(Error::data(format!("label {video} of a batch"), format!("0..{classes}"), label));
        }
        let Some(first) = clips.first() else { return Err(Error::data("batch", "clips", "none")) };
        let [.., height, width] = first.dims();
        let mixture = self.draw([height, width], generator)?;
        let share = match &mixture {
            Mixture::None => 1.0,
            Mixture::Blend(share) | Mixture::Cut(_, share) => *share,
        };
        for clip in clips.iter_mut() {
            let other = clip.clone().flip([0]);
            *clip = match &mixture {
                Mixture::None => continue,
                Mixture::Blend(share) => clip.clone() * *share + other * (1.0 - share),
                Mixture::Cut([rows, columns], _) if rows.is_empty() || columns.is_empty() => continue,
                Mixture::Cut([rows, columns], _) => {
                    let [batch, frames, channels, ..] = clip.dims();
                    let part = [0..batch, 0..frames, 0..channels, rows.clone(), columns.clone()];
                    clip.clone().slice_assign(part.clone(), other.slice(part))
                }
            };
        }
        let spread = self.label_smoothing / classes as f64;
        let mut targets = vec![spread as f32; labels.len() * classes];
        for (video, row) in targets.chunks_mut(classes).enumerate() {
            let other = labels[labels.len() - 1 - video] as usize;
            row[labels[video] as usize] += ((1.0 - self.label_smoothing) * share) as f32;
            row[other] += ((1.0 - self.label_smoothing) * (1.0 - share)) as f32;
        }
        Ok(Tensor::from_data(TensorData::new(targets, [labels.len(), classes]), device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    fn mixed(config: &Mixing, seed: u64) -> (Vec<Tensor<Flex, 5>>, Vec<f32>) {
        let device = Default::default();
        // Clip `k` is `k` everywhere.
        let clips = |frames: usize| {
            let values = Tensor::<Flex, 1>::from_floats([0.0, 1.0, 2.0], &device);
            values.reshape([3, 1, 1, 1, 1]).expand([3, frames, 3, 8, 6])
        };
        let mut all = vec![clips(2), clips(4)];
        let targets = config.mix(&mut all, &[0, 1, 2], &mut Generator::new(seed), &device).unwrap();
        (all, targets.into_data().iter::<f32>().collect())
    }

    #[test]
    fn targets_are_the_clips_shares() {
        for seed in 0..20 {
            let config = Mixing::new(4).with_label_smoothing(0.0);
            let (clips, targets) = mixed(&config, seed);
            for clips in clips {
                for (video, row) in targets.chunks(4).enumerate() {
                    let mean = clips.clone().narrow(0, video, 1).mean().into_scalar();
                    let expected: f32 =
                        row.iter().zip(0_u8..).map(|(share, class)| share * f32::from(class)).sum();
                    assert!((mean - expected).abs() < 1e-5, "{seed}: {mean} {expected}");
                }
            }
        }
    }

    #[test]
    fn smoothing_is_spread() {
        let config = Mixing::new(4).with_probability(0.0);
        let (_, targets) = mixed(&config, 1);
        for (found, expected) in targets.iter().zip([0.925, 0.025, 0.025, 0.025]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn settings_and_labels_are_checked() {
        assert!(Mixing::new(3).with_switch(2.0).check().unwrap_err().to_string().contains("switch"));
        assert!(Mixing::new(3).with_mixup(-1.0).check().unwrap_err().to_string().contains("mixup"));
        let device = Default::default();
        let mut clips = vec![Tensor::<Flex, 5>::zeros([1, 1, 3, 2, 2], &device)];
        let error = Mixing::new(3).mix(&mut clips, &[3], &mut Generator::new(1), &device).unwrap_err();
        assert!(error.to_string().contains("label 0"));
    }
}
