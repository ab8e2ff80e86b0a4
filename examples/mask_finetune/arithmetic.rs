//! A task for those who have no model at hand: to continue sequences of an affine map of numbers. A small LLaMA is trained on it
//! from scratch until it gets no better, and then by the method that is asked for, each as `train` does it with files.

use std::path::Path;

use leanburn::{
    core::{
        random::{Generator, streams},
        report,
    },
    language::{
        folder::{self, WriteOptions},
        llama::LlamaConfig,
    },
    prelude::*,
};
use leanburn_datasets::affine_tokens;
use serde_json::{Value, json};

use crate::{
    TextOptions,
    train::{self, Method, Options},
};

/// Tokens that are no number: those of unknown words, of the beginning and of the end of a text.
const MARKS: [&str; 3] = ["<unk>", "<s>", "</s>"];
const VOCABULARY: usize = 512;

pub(crate) fn run(options: &Options) -> Result<()> {
    let output = options.output()?;
    let task = output.join("task");
    if !(options.resume && task.is_dir()) {
        report::write_new_folder(&task, |task| write(task, options))?;
    }
    let of_task = Options {
        data: vec![task.join("train.jsonl").display().to_string()],
        valid: Some(task.join("valid.jsonl")),
        text: TextOptions { template: "simple_concat_with_space".to_owned(), ..options.text.clone() },
        batch_size: Some(options.batch_size.unwrap_or(16)),
        accumulation: Some(options.accumulation.unwrap_or(1)),
        rate: Some(options.rate.unwrap_or(1e-3)),
        ..options.clone()
    };
    println!("in full, from scratch:");
    let tuned = Options {
        model: Some(task.join("model")),
        method: Method::Fft,
        epochs: Some(67),
        best: true,
        output: Some(output.join("tuned")),
        ..of_task.clone()
    };
    train::run(&tuned)?;
    if !output.join("tuned/report.json").exists() {
        // Interrupted.
        return Ok(());
    }
    println!("from the best epoch on:");
    train::run(&Options {
        model: Some(output.join("tuned/model")),
        epochs: Some(options.epochs.unwrap_or(34)),
        subnet: of_task.subnet.with_default_layers([2, 3]),
        output: Some(output.join("result")),
        ..of_task
    })
}

/// Writes the task's conversations, and a model of new weights with a tokenizer whose tokens are numbers.
fn write(task: &Path, options: &Options) -> Result<()> {
    for (file, set, rows, noise) in [("train", "N.train", 48, 0.1), ("valid", "N.eval", 64, 0.0)] {
        let lines = affine_tokens(set, [5, 7], rows, 24, noise).into_iter().map(|tokens| {
            let numbers: Vec<String> =
                tokens.iter().map(|token| (*token as usize - MARKS.len()).to_string()).collect();
            let [user, assistant] = [("user", numbers[0].clone()), ("assistant", numbers[1..].join(" "))]
                .map(|(role, content)| json!({ "role": role, "content": content }));
            json!({ "messages": [user, assistant] }).to_string()
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        report::write_text(task.join(format!("{file}.jsonl")), &text)?;
    }
    let config = LlamaConfig::new(VOCABULARY, 64, 172, 4, 8)
        .with_initializer_range(0.1)
        .with_bos_token_id(Some(1))
        .with_eos_token_ids(vec![2]);
    let mut generator = Generator::stream(options.common.seed, streams::INITIAL_WEIGHTS);
    let device = leanburn::device::parse("flex")?;
    let network = config.init::<Dispatch>(&mut generator, &device)?;
    let folder = task.join("model");
    folder::write(&network, &folder, None, WriteOptions::default())?;
    report::write_json(folder.join("tokenizer.json"), &tokenizer())?;
    let names = json!({ "unk_token": MARKS[0], "bos_token": MARKS[1], "eos_token": MARKS[2] });
    report::write_json(folder.join("tokenizer_config.json"), &names)
}

/// A tokenizer of words, each of which is a number.
fn tokenizer() -> Value {
    let words =
        MARKS.iter().map(ToString::to_string).chain((0..VOCABULARY - MARKS.len()).map(|n| n.to_string()));
    let vocabulary: serde_json::Map<String, Value> =
        words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    let special = MARKS.iter().enumerate().map(|(id, mark)| {
        json!({
            "id": id, "content": mark, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    json!({
        "version": "1.0",
        "added_tokens": special.collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": MARKS[0] },
    })
}
