//! LLaMA, its tokenizers, conversations and evaluations, against tables that the published programs gave, and a model that
//! was really trained.

use std::path::{Path, PathBuf};

use leanburn::{
    burn::tensor::{DType, Tensor, TensorData},
    core::{checkpoint::Checkpoint, random::Generator},
    language::{
        CausalLm, Encoded, TokenBatch,
        chat::{ChatTemplate, Message},
        evaluation::{gsm8k, human_eval, if_eval::Instruction},
        folder::ModelFolder,
        generation::{GenerationConfig, generate, generate_texts},
        llama::{LlamaConfig, Sequences},
        tokenizer::Tokenizer,
        train::{RateDecay, Recipe},
    },
    prelude::*,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::published::data;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/mft").join(name)
}

fn table<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Examples<T> {
    examples: Vec<T>,
}

#[test]
fn byte_level_tokens_are_the_published_ones() {
    #[derive(Deserialize)]
    struct Example {
        text: String,
        ids: Vec<u32>,
        no_special: Vec<u32>,
        decoded: String,
    }
    let tokenizer = Tokenizer::from_file(fixture("tokenizers/byte_level_bpe.tokenizer.json")).unwrap();
    let Examples { examples } = table("tokenizers/byte_level_bpe_cases.json");
    for Example { text, ids, no_special, decoded } in examples {
        assert_eq!(tokenizer.encode(&text, true).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.encode(&text, false).unwrap(), no_special, "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{text:?}");
    }
}

#[test]
fn sentencepiece_tokens_are_the_published_ones() {
    #[derive(Deserialize)]
    struct Example {
        text: String,
        hf_fast_like: Vec<u32>,
        hf_legacy: Vec<u32>,
        no_special: Vec<u32>,
        decoded: String,
    }
    let open = |legacy| {
        Tokenizer::from_file(fixture("tokenizers/sentencepiece_bpe.model")).unwrap().with_legacy(legacy)
    };
    let (legacy, newer) = (open(true), open(false));
    let Examples { examples } = table("tokenizers/sentencepiece_bpe.json");
    for Example { text, hf_fast_like, hf_legacy, no_special, decoded } in examples {
        assert_eq!(legacy.encode(&text, true).unwrap(), hf_legacy, "{text:?}");
        assert_eq!(newer.encode(&text, true).unwrap(), hf_fast_like, "{text:?}");
        assert_eq!(newer.encode(&text, false).unwrap(), no_special, "{text:?}");
        assert_eq!(newer.decode(&hf_fast_like).unwrap(), decoded, "{text:?}");
    }
    let padded = open(true).with_padding();
    assert_eq!(padded.pad(), Some(padded.len() as u32 - 1));
    assert_eq!(padded.token(padded.pad().unwrap()).unwrap(), "<pad>");
}

#[test]
fn conversations_are_learned_as_published() {
    #[derive(Deserialize)]
    struct Example {
        messages: Vec<Message>,
        template: String,
        rendered: String,
        rendered_generation_prompt: String,
        #[serde(default)]
        encoded: Vec<Labelled>,
    }
    #[derive(Deserialize)]
    struct Labelled {
        max_seq_length: usize,
        input_ids: Vec<u32>,
        labels: Vec<i64>,
        kept: bool,
    }
    // The table's toy tokenizer: a token a byte.
    let tokens = |text: &str| {
        let mut tokens = Vec::new();
        let mut rest = text.as_bytes();
        while let [byte, ..] = rest {
            let mut marks = [("</s>", 2), ("<s>", 1)].into_iter();
            let special = marks.find(|(mark, _)| rest.starts_with(mark.as_bytes()));
            let (token, length) = special.map_or((3 + u32::from(*byte), 1), |(mark, id)| (id, mark.len()));
            tokens.push(token);
            rest = &rest[length..];
        }
        Ok(tokens)
    };
    let Examples { examples } = table("json/sft_encode.json");
    let mut encodings = 0;
    for Example { messages, template, rendered, rendered_generation_prompt, encoded } in examples {
        let template = ChatTemplate::named(&template).unwrap();
        let marks = ["<s>", "</s>"];
        assert_eq!(template.render(&messages, false, marks).unwrap(), rendered);
        assert_eq!(template.render(&messages, true, marks).unwrap(), rendered_generation_prompt);
        for Labelled { max_seq_length, input_ids, labels, kept } in encoded {
            let mut found = template.encode_with(&messages, marks, tokens).unwrap();
            found.truncate(max_seq_length);
            let found_labels = found.tokens.iter().zip(&found.learned);
            let found_labels: Vec<i64> = found_labels
                .map(|(token, learned)| if *learned { i64::from(*token) } else { -100 })
                .collect();
            assert_eq!((&found.tokens, found_labels), (&input_ids, labels));
            assert_eq!(found.targets() > 0, kept);
            encodings += 1;
        }
    }
    assert!(encodings > 5);
}

#[test]
fn learning_rates_are_the_published_ones() {
    #[derive(Deserialize)]
    struct Table {
        runs: Vec<Run>,
    }
    #[derive(Deserialize)]
    struct Run {
        examples: usize,
        world: usize,
        per_device_batch: usize,
        accumulation: usize,
        epochs: usize,
        lr: f64,
        warmup_ratio: f64,
        scheduler: RateDecay,
        optimiser_steps: usize,
        lr_at: Map<String, Value>,
        lr_sum: f64,
    }
    for run in table::<Table>("json/schedule.json").runs {
        let recipe = Recipe::new()
            .with_epochs(run.epochs)
            .with_learning_rate(run.lr)
            .with_warmup_ratio(run.warmup_ratio)
            .with_decay(run.scheduler)
            .with_batch_size(run.per_device_batch)
            .with_accumulation(run.accumulation)
            .with_devices(run.world);
        assert_eq!(recipe.steps(run.examples), run.optimiser_steps);
        let schedule = recipe.schedule(run.examples).unwrap();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() <= 1e-9 * expected.abs());
        for (step, rate) in &run.lr_at {
            close(schedule.rate(step.parse().unwrap()), rate.as_f64().unwrap());
        }
        close((0..run.optimiser_steps).map(|step| schedule.rate(step)).sum(), run.lr_sum);
    }
}

#[test]
fn answers_and_chances_are_the_published_ones() {
    #[derive(Deserialize)]
    struct Table {
        gsm8k: Vec<Answer>,
        pass_at_k: Vec<Chance>,
    }
    #[derive(Deserialize)]
    struct Answer {
        text: String,
        extracted: String,
        gold_raw: String,
        gold: String,
        exact_match: u8,
    }
    #[derive(Deserialize)]
    struct Chance {
        n: usize,
        c: usize,
        k: usize,
        value: f64,
    }
    let Table { gsm8k, pass_at_k } = table("json/eval_metrics.json");
    for Answer { text, extracted, gold_raw, gold, exact_match } in gsm8k {
        assert_eq!(gsm8k::extract_answer(&text), extracted);
        assert_eq!(gsm8k::extract_answer(&gold_raw), gold);
        assert_eq!(gsm8k::is_correct(&text, &gold_raw), exact_match == 1, "{text}");
    }
    for Chance { n, c, k, value } in pass_at_k {
        assert!((human_eval::pass_at_k(n, c, k).unwrap() - value).abs() < 1e-12);
    }
}

#[test]
fn instructions_are_checked_as_published() {
    #[derive(Deserialize)]
    struct Example {
        instruction: String,
        kwargs: Map<String, Value>,
        response: String,
        strict: bool,
        loose: bool,
    }
    let Examples { examples } = table("json/ifeval.json");
    for Example { instruction, kwargs, response, strict, loose } in examples {
        let rule = Instruction::new(&instruction, &kwargs).unwrap();
        let found = (rule.is_followed(&response), rule.is_followed_loosely(&response));
        assert_eq!(found, (strict, loose), "{instruction} {kwargs:?} {response:?}");
    }
}

#[test]
fn a_device_that_records_gradients_generates_the_same() {
    let plain = leanburn::device::parse("flex").unwrap();
    let recording = leanburn::device::autodiff(plain.clone());
    let config =
        LlamaConfig::new(32, 16, 24, 2, 4).with_num_key_value_heads(Some(2)).with_initializer_range(0.4);
    // Of different lengths, so that some are padded.
    let prompts = [vec![1, 5, 9, 3], vec![7], vec![2, 2]];
    let [found, expected] = [recording, plain].map(|device| {
        let network = config.init::<Dispatch>(&mut Generator::new(1), &device).unwrap();
        let config = GenerationConfig::new().with_max_new_tokens(9);
        generate(&network, &prompts, &config, &device, |_, _| true).unwrap()
    });
    assert_eq!(found, expected);
}

#[test]
fn a_trained_model_tells_its_story() {
    let Some(path) = data("stories260K/config.json") else { return };
    let folder = ModelFolder::open(path.parent().unwrap()).unwrap();
    let device = leanburn::device::parse("flex").unwrap();
    let network = folder.load::<Dispatch>(DType::F32, &device).unwrap();
    let expected = Checkpoint::open(folder.path().join("expected.safetensors")).unwrap();
    let read = |name: &str| expected.read(name).unwrap();
    let tokens: Vec<u32> = read("greedy_tokens").iter::<i64>().map(|token| token as u32).collect();

    let first: Vec<i64> = tokens[..64].iter().map(|token| i64::from(*token)).collect();
    let input = Tensor::from_data(TensorData::new(first, [1, 64]), &device);
    let logits: Vec<f32> =
        network.forward(input, &Sequences::whole(1, 64)).into_data().iter::<f32>().collect();
    for (found, expected) in logits.iter().zip(read("logits").iter::<f32>()) {
        assert!((found - expected).abs() <= 1e-3 + 1e-3 * expected.abs(), "{found} {expected}");
    }
    let text = Encoded::whole(tokens[..64].to_vec());
    let batch = TokenBatch::padded(&[text], 0, &device).unwrap();
    let loss: f64 = leanburn::language::loss(&network, &batch).into_data().iter::<f64>().sum();
    assert!((loss - 0.40356).abs() < 1e-4, "{loss}");

    let config = GenerationConfig::new().with_max_new_tokens(200);
    let found = generate(&network, &[vec![tokens[0]]], &config, &device, |_, _| true).unwrap();
    assert_eq!(found[0], tokens[1..]);
    // As text, from its own vocabulary, as it is streamed.
    let tokenizer = folder.tokenizer().unwrap();
    let mut streamed = String::new();
    let texts = generate_texts(&network, &tokenizer, &[""], true, &config, &device, |_, text| {
        streamed.push_str(text);
    });
    let texts = texts.unwrap();
    assert!(
        texts[0].trim_start().starts_with("Once upon a time, there was a little girl named Lily."),
        "{}",
        texts[0]
    );
    assert_eq!(streamed, texts[0]);
    let stopped = config.with_stop_texts(vec!["Lily".to_owned()]);
    let cut = generate_texts(&network, &tokenizer, &[""], true, &stopped, &device, |_, _| {}).unwrap();
    assert_eq!(cut[0].trim(), "Once upon a time, there was a little girl named");
    // What is encoded is decoded.
    let sentence = "Lily's mom said, \"Let's go to the park.\"";
    assert_eq!(tokenizer.decode(&tokenizer.encode(sentence, true).unwrap()).unwrap(), sentence);
}
