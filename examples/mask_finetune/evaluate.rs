//! Evaluations.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use leanburn::{
    core::{report, train::Batches},
    language::{
        data,
        evaluation::{Continuer, gsm8k, human_eval, if_eval, predict},
        folder::ModelFolder,
        generation::GenerationConfig,
        train::{Rows, Weighting, token_loader},
    },
    prelude::*,
};
use leanburn_examples::{Bar, Common, Precision};

use crate::TextOptions;

/// Measures a model.
#[derive(Args)]
pub(crate) struct Options {
    /// The folder of a model: `config.json`, weights, and a tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// What is measured.
    #[arg(long, value_enum)]
    task: Task,
    /// The task's file: conversations (.jsonl or .json) for the loss, the published .jsonl for the others.
    #[arg(long)]
    file: PathBuf,
    /// How many of its entries, from the first on; all of them when absent.
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    text: TextOptions,
    /// The token that begins a text is left out before questions.
    #[arg(long)]
    no_bos: bool,
    /// Tokens of a text, at most.
    #[arg(long, default_value_t = 4096)]
    max_length: usize,
    /// Examples before a question of GSM8K.
    #[arg(long, default_value_t = 8)]
    shots: usize,
    /// The most tokens of a continuation; the task's own number when absent.
    #[arg(long)]
    tokens: Option<usize>,
    /// How many prompts are continued at once.
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// The k of pass@k.
    #[arg(long, default_value_t = 1)]
    k: usize,
    /// Continuations of each HumanEval problem; more than one are drawn at temperature 0.8 from 95 % of the probability.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// The command that runs a HumanEval program, whose file is its last argument. It runs what the model wrote: give that
    /// of a sandbox. Without it nothing is run, and the programs' ends are written to `--output`.
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    runner: Vec<String>,
    /// Seconds that a HumanEval program may take; the published number for HumanEval+ is 20.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// A new file for the continuations, a JSON object a line: `task_id` and `completion` of HumanEval, as its own programs
    /// read them, and `prompt` and `response` of the others, as those of IF-Eval do.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The type of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Loss and perplexity of held-out conversations.
    Loss,
    /// Answers of word problems.
    Gsm8k,
    /// Programs.
    HumanEval,
    /// Instructions.
    IfEval,
}

impl Options {
    /// What would else be told after hours of work.
    fn check(&self) -> Result<()> {
        if let Some(path) = self.output.as_ref().filter(|path| path.exists()) {
            return Err(Error::Exists { path: path.clone() });
        }
        if self.task == Task::HumanEval && self.runner.is_empty() && self.output.is_none() {
            return Err(Error::setting("runner", "a command, or an --output for the programs", "neither"));
        }
        if self.k > self.samples.max(1) {
            return Err(Error::setting("k", "no more than the samples", self.k));
        }
        if self.shots > gsm8k::EXAMPLES {
            return Err(Error::setting("shots", format!("at most {}", gsm8k::EXAMPLES), self.shots));
        }
        Ok(())
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    options.check()?;
    let folder = ModelFolder::open(&options.model)?;
    let device = leanburn::device::parse(&options.common.device)?;
    let network = folder.load::<Dispatch>(options.dtype.into(), &device)?;
    let tokenizer = options.text.tokenizer(&folder)?;
    let stop_tokens = folder.generation()?.stop_tokens;
    let limit = options.limit.unwrap_or(usize::MAX);
    let continuer = Continuer {
        model: &network,
        tokenizer: &tokenizer,
        special: !options.no_bos,
        batch_size: options.batch_size,
        device: &device,
    };
    let ask = |prompts: &[String], config: GenerationConfig| -> Result<Vec<String>> {
        let config = config
            .clone()
            .with_max_new_tokens(options.tokens.unwrap_or(config.max_new_tokens))
            .with_stop_tokens(stop_tokens.clone())
            .with_seed(options.common.seed);
        let bar = Bar::new("prompts");
        continuer.continue_all(prompts, &config, |done| bar.steps(done, prompts.len()))
    };
    match options.task {
        Task::Loss => {
            let conversations = data::read_conversations(&options.file)?;
            let conversations = &conversations[..conversations.len().min(limit)];
            let template = options.text.template(&tokenizer)?;
            let set = data::encode(conversations, &template, &tokenizer, options.max_length)?;
            set.check(folder.config().vocab_size)?;
            println!("{} conversations, {} cut off, {} left out", set.texts.len(), set.cut_off, set.left_out);
            let rows = Rows::of_texts(set.texts);
            let batches = token_loader::<Dispatch>(rows, options.batch_size, 0, Weighting::Tokens, &device)?;
            let found = predict(&network, batches.epoch(0, 0).map(|batch| Ok(batch?.value)))?;
            let perplexity = found.perplexity();
            println!("loss {:.4}, perplexity {perplexity:.3}, {} tokens", found.loss, found.tokens);
        }
        Task::Gsm8k => {
            let mut problems = gsm8k::read(&options.file)?;
            problems.truncate(limit);
            let prompts: Vec<String> =
                problems.iter().map(|problem| gsm8k::prompt(&problem.question, options.shots)).collect();
            let continuations = ask(&prompts, gsm8k::generation())?;
            write_responses(options, &prompts, &continuations)?;
            let accuracy = gsm8k::accuracy(&problems, &continuations);
            println!("exact match {:.2} % of {} problems", 100.0 * accuracy, problems.len());
        }
        Task::HumanEval => {
            let mut problems = human_eval::read(&options.file)?;
            problems.truncate(limit);
            let samples = options.samples.max(1);
            let prompts: Vec<String> = problems
                .iter()
                .flat_map(|problem| std::iter::repeat_n(problem.question(), samples))
                .collect();
            let config = human_eval::generation();
            let config =
                if samples > 1 { config.with_temperature(Some(0.8)).with_top_p(0.95) } else { config };
            let continuations = ask(&prompts, config)?;
            let names = problems.iter().flat_map(|problem| std::iter::repeat_n(&problem.task_id, samples));
            let completed = names.zip(&continuations);
            let line = |(name, text)| serde_json::json!({ "task_id": name, "completion": text });
            write_lines(options, completed.map(line))?;
            let continuations: Vec<Vec<String>> = continuations.chunks(samples).map(<[_]>::to_vec).collect();
            if options.runner.is_empty() {
                println!("no program was run: name a sandbox by --runner");
                return Ok(());
            }
            let runner = human_eval::run_in(options.runner.clone(), Duration::from_secs(options.seconds));
            let share = human_eval::evaluate(&problems, &continuations, options.k, runner)?;
            println!("pass@{} {:.2} % of {} problems", options.k, 100.0 * share, problems.len());
        }
        Task::IfEval => {
            let mut prompts = if_eval::read(&options.file)?;
            // Before their answers are generated.
            prompts.iter().try_for_each(|prompt| prompt.instructions().map(drop))?;
            prompts.truncate(limit);
            let texts: Vec<String> = prompts.iter().map(|prompt| prompt.prompt.clone()).collect();
            let config = GenerationConfig::new().with_max_new_tokens(1280);
            let responses = ask(&texts, config)?;
            write_responses(options, &texts, &responses)?;
            let found = if_eval::evaluate(&prompts, &responses)?;
            println!(
                "prompts, strict {:.2} %, loose {:.2} %",
                100.0 * found.prompt_strict,
                100.0 * found.prompt_loose
            );
            println!(
                "instructions, strict {:.2} %, loose {:.2} %",
                100.0 * found.instruction_strict,
                100.0 * found.instruction_loose
            );
        }
    }
    Ok(())
}

fn write_responses(options: &Options, prompts: &[String], responses: &[String]) -> Result<()> {
    let lines = prompts.iter().zip(responses);
    write_lines(
        options,
        lines.map(|(prompt, text)| serde_json::json!({ "prompt": prompt, "response": text })),
    )
}

fn write_lines(options: &Options, lines: impl Iterator<Item = serde_json::Value>) -> Result<()> {
    let Some(path) = &options.output else { return Ok(()) };
    let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
    report::write_text(path, &lines.join("\n"))
}
