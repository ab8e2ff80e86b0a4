//! Generation: greedy or drawn, in batches, with a cache of keys and values.

use burn::{
    config::Config,
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use leanburn_core::{Error, Result, at_least_one, random::Generator};

use crate::{
    causal::CausalLm,
    llama::{KeyValueCache, Sequences},
    tokenizer::Tokenizer,
};

/// How tokens are chosen, and when it ends.
#[derive(Config, Debug, PartialEq)]
pub struct GenerationConfig {
    /// The most tokens of a continuation. Default: 256
    #[config(default = 256)]
    pub max_new_tokens: usize,
    /// By what logits are divided before a token is drawn; the most probable token is taken when absent. Default: absent
    #[config(default = "None")]
    pub temperature: Option<f64>,
    /// Draws are from so many most probable tokens; 0 for all. Default: 0
    #[config(default = 0)]
    pub top_k: usize,
    /// Draws are from the fewest most probable tokens that together have this probability. Default: 1
    #[config(default = 1.0)]
    pub top_p: f64,
    /// Tokens that end a continuation. Default: none
    #[config(default = "Vec::new()")]
    pub stop_tokens: Vec<u32>,
    /// Texts that end a continuation, which is cut before them. Default: none
    #[config(default = "Vec::new()")]
    pub stop_texts: Vec<String>,
    /// Of what is drawn. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

impl GenerationConfig {
    fn check(&self) -> Result<()> {
        at_least_one([("max_new_tokens", self.max_new_tokens)])?;
        if let Some(temperature) = self.temperature
            && !(temperature.is_finite() && temperature > 0.0)
        {
            return Err(Error::setting("temperature", "a positive number, or none", temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::setting("top_p", "from above 0 to 1", self.top_p));
        }
        if self.stop_texts.iter().any(String::is_empty) {
            return Err(Error::setting("stop_texts", "texts that are not empty", "an empty one"));
        }
        Ok(())
    }

    /// The probabilities from which a token is drawn.
    ///
    /// - logits: of all tokens
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f64> {
        let temperature = self.temperature.unwrap_or(1.0);
        let mut scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / temperature).collect();
        if self.top_k > 0 && self.top_k < scores.len() {
            let mut sorted = scores.clone();
            let (_, least, _) = sorted.select_nth_unstable_by(self.top_k - 1, |a, b| b.total_cmp(a));
            let least = *least;
            for score in &mut scores {
                if *score < least {
                    *score = f64::NEG_INFINITY;
                }
            }
        }
        let mut probabilities = softmax(&scores);
        if self.top_p < 1.0 {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
            order.pop();
            let mut mass = 0.0;
            for token in order {
                mass += probabilities[token];
                if mass > 1.0 - self.top_p {
                    break;
                }
                scores[token] = f64::NEG_INFINITY;
            }
            probabilities = softmax(&scores);
        }
        probabilities
    }

    fn choose(&self, logits: &[f32], generator: &mut Generator) -> Result<u32> {
        if let Some(logit) = logits.iter().find(|logit| logit.is_nan()) {
            return Err(Error::data("logits", "numbers", logit));
        }
        let probabilities = self.probabilities(logits);
        let draw = generator.between(0.0, 1.0);
        let mut mass = 0.0;
        let drawn = probabilities.iter().position(|probability| {
            mass += probability;
            draw < mass
        });
        // Rounding may leave the sum below the draw.
        let drawn = drawn.or_else(|| probabilities.iter().rposition(|probability| *probability > 0.0));
        Ok(drawn.unwrap_or(0) as u32)
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|exponential| exponential / sum).collect()
}

/// Continues prompts.
///
/// - prompts: tokens, of any lengths; the shorter ones are padded on the left
/// - `on_token`: gets the number of a prompt and each of its tokens as they are chosen; its continuation ends where it
///   gives `false`
/// - output: the tokens of each continuation, with the one that ended it
///
/// # Errors
///
/// When a setting is out of its range, a prompt is empty or has a token that the network has not, or logits are not numbers.
pub fn generate<B: Backend>(
    model: &impl CausalLm<B>,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    device: &B::Device,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Result<Vec<Vec<u32>>> {
    config.check()?;
    let llama = model.llama();
    let vocabulary = llama.config().vocab_size;
    for (number, prompt) in prompts.iter().enumerate() {
        let location = format!("prompt {number}");
        if prompt.is_empty() {
            return Err(Error::data(location, "at least one token", "none"));
        }
        if let Some(token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Err(Error::data(location, format!("tokens below {vocabulary}"), token));
        }
    }
    let mut continuations = vec![Vec::new(); prompts.len()];
    let Some(length) = prompts.iter().map(Vec::len).max() else { return Ok(continuations) };
    let (longest, known) = (length + config.max_new_tokens, llama.config().max_position_embeddings);
    if longest > known {
        log::warn!("texts of up to {longest} tokens, of a network that was trained on {known}");
    }
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let mut sequences = Sequences::left_padded(&lengths, length);
    let padded = prompts.iter().flat_map(|prompt| {
        let padding = std::iter::repeat_n(0, length - prompt.len());
        padding.chain(prompt.iter().map(|&token| i64::from(token)))
    });
    let ints = |values: Vec<i64>, columns: usize| -> Tensor<B, 2, Int> {
        let rows = values.len() / columns;
        Tensor::from_data(TensorData::new(values, [rows, columns]), device)
    };
    let mut tokens = ints(padded.collect(), length);
    let mut cache = KeyValueCache::new(llama.config().num_hidden_layers);
    // A generator for each, so that a continuation does not depend on those beside it.
    let mut generators: Vec<Generator> =
        (0..prompts.len()).map(|prompt| Generator::stream(config.seed, prompt as u64)).collect();
    let mut running: Vec<usize> = (0..prompts.len()).collect();
    for step in 1..=config.max_new_tokens {
        let hidden = model.hidden(tokens, &sequences, Some(&mut cache));
        let last = hidden.dims()[1] - 1;
        let logits = model.logits(hidden.narrow(1, last, 1)).squeeze_dim::<2>(1);
        let chosen: Vec<u32> = if config.temperature.is_some() {
            let logits = logits.into_data().convert::<f32>();
            let logits: Vec<f32> = logits.iter::<f32>().collect();
            let rows = logits.chunks_exact(vocabulary).zip(&running);
            let drawn = rows.map(|(logits, &prompt)| config.choose(logits, &mut generators[prompt]));
            drawn.collect::<Result<_>>()?
        } else {
            logits.argmax(1).into_data().iter::<i64>().map(|token| token as u32).collect()
        };
        let mut going_on = Vec::new();
        for (row, (&prompt, &token)) in running.iter().zip(&chosen).enumerate() {
            continuations[prompt].push(token);
            if on_token(prompt, token) && !config.stop_tokens.contains(&token) {
                going_on.push(row);
            }
        }
        if going_on.is_empty() || step == config.max_new_tokens {
            break;
        }
        if going_on.len() < running.len() {
            let rows = going_on.iter().map(|&row| row as i64).collect::<Vec<_>>();
            let count = rows.len();
            cache.keep(&Tensor::from_data(TensorData::new(rows, [count]), device));
            sequences.keep(&going_on);
            running = going_on.iter().map(|&row| running[row]).collect();
        }
        sequences.grow();
        tokens = ints(going_on.iter().map(|&row| i64::from(chosen[row])).collect(), 1);
    }
    Ok(continuations)
}

/// Continues texts.
///
/// - special: whether the tokens are added that begin a text
/// - `on_text`: gets the number of a prompt and what was added to its continuation, for output while it is generated
///
/// # Errors
///
/// As [`generate`], and when the tokenizer cannot take a text.
pub fn generate_texts<B: Backend>(
    model: &impl CausalLm<B>,
    tokenizer: &Tokenizer,
    prompts: &[impl AsRef<str>],
    special: bool,
    config: &GenerationConfig,
    device: &B::Device,
    mut on_text: impl FnMut(usize, &str),
) -> Result<Vec<String>> {
    let encoded = prompts.iter().map(|prompt| tokenizer.encode(prompt.as_ref(), special));
    let encoded = encoded.collect::<Result<Vec<_>>>()?;
    let streams = encoded.iter().map(|prompt| Stream::new(prompt, tokenizer));
    let mut streams = streams.collect::<Result<Vec<_>>>()?;
    let mut failed = None;
    generate(model, &encoded, config, device, |prompt, token| {
        if config.stop_tokens.contains(&token) {
            return false;
        }
        match streams[prompt].push(token, tokenizer, &config.stop_texts) {
            Ok((added, goes_on)) => {
                if !added.is_empty() {
                    on_text(prompt, &added);
                }
                goes_on
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    for (prompt, stream) in streams.iter_mut().enumerate() {
        let rest = stream.finish();
        if !rest.is_empty() {
            on_text(prompt, &rest);
        }
    }
    Ok(streams.into_iter().map(|stream| stream.text).collect())
}

/// A continuation as text, as far as it is known.
struct Stream {
    /// The end of the prompt, with which the first tokens are decoded: a space before them depends on it.
    context: String,
    /// The context's, and the continuation's behind them.
    tokens: Vec<u32>,
    text: String,
    /// How much of the text was given out.
    given: usize,
}

impl Stream {
    fn new(prompt: &[u32], tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = prompt[prompt.len().saturating_sub(4)..].to_vec();
        Ok(Self { context: tokenizer.decode(&tokens)?, tokens, text: String::new(), given: 0 })
    }

    /// What a token adds that can be given out, and whether the continuation goes on.
    fn push(&mut self, token: u32, tokenizer: &Tokenizer, stop_texts: &[String]) -> Result<(String, bool)> {
        self.tokens.push(token);
        let all = tokenizer.decode(&self.tokens)?;
        all.get(self.context.len()..).unwrap_or_default().clone_into(&mut self.text);
        if let Some(end) = stop_texts.iter().filter_map(|stop| self.text.find(stop)).min() {
            self.text.truncate(end);
            return Ok((self.finish(), false));
        }
        // A stop text may have begun, and a character may lack bytes.
        let longest = stop_texts.iter().map(String::len).max().unwrap_or(1);
        let mut safe = self.text.len().saturating_sub(longest - 1);
        while !self.text.is_char_boundary(safe) {
            safe -= 1;
        }
        let whole = self.text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        Ok((self.give(safe.min(whole)), true))
    }

    fn finish(&mut self) -> String {
        self.give(self.text.len())
    }

    fn give(&mut self, end: usize) -> String {
        let start = self.given.min(end);
        self.given = end.max(self.given);
        self.text.get(start..end).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;
    use crate::llama::{Llama, LlamaConfig};

    fn network() -> Llama<Flex> {
        let config = LlamaConfig::new(32, 16, 24, 2, 4).with_initializer_range(0.4);
        config.init(&mut Generator::new(1), &Default::default()).unwrap()
    }

    fn all(_: usize, _: u32) -> bool {
        true
    }

    #[test]
    fn prompts_beside_each_other_are_continued_as_alone() {
        let network = network();
        let prompts = [vec![1, 5, 9, 3], vec![7], vec![2, 2]];
        let device = Default::default();
        for config in [
            GenerationConfig::new().with_max_new_tokens(9),
            GenerationConfig::new().with_max_new_tokens(9).with_temperature(Some(1.5)).with_seed(3),
        ] {
            let together = generate(&network, &prompts, &config, &device, all).unwrap();
            // A stop token takes rows out of the batch, and changes no other.
            let stop = together[0][4];
            let stopped = config.clone().with_stop_tokens(vec![stop]);
            let shorter = generate(&network, &prompts, &stopped, &device, all).unwrap();
            for (whole, cut) in together.iter().zip(&shorter) {
                let end = whole.iter().position(|token| *token == stop).map_or(9, |place| place + 1);
                assert_eq!(cut, &whole[..end]);
            }
            if config.temperature.is_none() {
                for (prompt, expected) in prompts.iter().zip(&together) {
                    let alone =
                        generate(&network, std::slice::from_ref(prompt), &config, &device, all).unwrap();
                    assert_eq!(&alone[0], expected);
                }
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let config = GenerationConfig::new().with_temperature(Some(0.5)).with_top_k(3);
        let logits = [0.0, 1.0, 0.5, -3.0];
        let probabilities = config.probabilities(&logits);
        assert_eq!(probabilities[3], 0.0);
        let mut generator = Generator::new(1);
        let mut counts = [0_usize; 4];
        for _ in 0..4000 {
            counts[config.choose(&logits, &mut generator).unwrap() as usize] += 1;
        }
        for (count, probability) in counts.into_iter().zip(probabilities) {
            assert!((count as f64 / 4000.0 - probability).abs() < 0.03);
        }
        assert!(config.choose(&[0.0, f32::NAN], &mut generator).is_err());
        // At least one token stays.
        let narrow = GenerationConfig::new().with_temperature(Some(1.0)).with_top_p(1e-9);
        assert_eq!(narrow.probabilities(&logits), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn texts_of_several_tokens_are_given_out_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        // Tokens that are single bytes, as byte-level tokenizers write them.
        let bytes: Vec<String> = (0..188_u32)
            .map(|place| match place {
                // The bytes that stand for themselves.
                0..94 => place + 0x21,
                94..106 => place - 94 + 0xA1,
                106..188 => place - 106 + 0xAE,
                _ => unreachable!(),
            })
            .map(|code| char::from_u32(code).unwrap().to_string())
            .collect();
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            bytes.iter().zip(0..).map(|(byte, id)| (byte.clone(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [],
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        });
        std::fs::write(&file, json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&file).unwrap();
        let ids = |text: &[u8]| -> Vec<u32> {
            let id =
                |byte: &u8| bytes.iter().position(|text| *text == char::from(*byte).to_string()).unwrap();
            text.iter().map(|byte| id(byte) as u32).collect()
        };
        let mut stream = Stream::new(&ids(b"!"), &tokenizer).unwrap();
        let mut parts = Vec::new();
        for token in ids("h\u{e9}!STO-STOP".as_bytes()) {
            let (added, goes_on) = stream.push(token, &tokenizer, &["STOP".to_owned()]).unwrap();
            assert!(!added.contains(char::REPLACEMENT_CHARACTER));
            parts.push(added);
            if !goes_on {
                break;
            }
        }
        parts.push(stream.finish());
        assert_eq!(parts.concat(), "h\u{e9}!STO-");
        assert!(parts.len() > 5);
    }

    #[test]
    fn settings_and_prompts_are_checked() {
        let network = network();
        let error = |prompt: Vec<u32>, config: GenerationConfig| {
            generate(&network, &[prompt], &config, &Default::default(), all).unwrap_err().to_string()
        };
        let config = GenerationConfig::new();
        assert!(error(vec![], config.clone()).contains("prompt 0"));
        assert!(error(vec![3, 32], config.clone()).contains("32"));
        assert!(error(vec![3], config.clone().with_temperature(Some(0.0))).contains("temperature"));
        assert!(error(vec![3], config.clone().with_top_p(0.0)).contains("top_p"));
        assert!(error(vec![3], config.with_stop_texts(vec![String::new()])).contains("stop_texts"));
    }
}
