//! Continues a prompt, or answers in a conversation, with a LLaMA in a Hugging Face folder.

use std::{io::Write, path::PathBuf, time::Instant};

use clap::Parser;
use leanburn::{
    language::{
        chat::{ChatTemplate, Message, Role},
        folder::ModelFolder,
        generation::generate_texts,
    },
    prelude::*,
};
use leanburn_examples::{Common, Precision, options};

/// Generates text.
#[derive(Parser)]
struct Options {
    /// The folder of a model: `config.json`, weights, and a tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// What is continued.
    #[arg(long, default_value = "")]
    prompt: String,
    /// The prompt is what a user says, and the model answers, by its own chat template or by one of the published ones:
    /// `tulu`, `zephyr` or `simple_chat`.
    #[arg(long, num_args = 0..=1, default_missing_value = "own")]
    chat: Option<String>,
    /// The most tokens.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// By what logits are divided before a token is drawn; 0 takes the most probable one. The model's own when absent.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draws are from so many tokens; 0 for all.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draws are from the most probable tokens that have this probability together.
    #[arg(long)]
    top_p: Option<f64>,
    /// A text that ends it; may be given several times.
    #[arg(long)]
    stop: Vec<String>,
    /// The type of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
    /// Whether the token that begins a text stands before the prompt; when absent, of prompts without a template alone.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    bos: Option<bool>,
    #[command(flatten)]
    common: Common,
}

fn main() {
    // The message alone: users of a program need not see the type of its error.
    if let Err(error) = run(options()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: Options) -> Result<()> {
    let folder = ModelFolder::open(&options.model)?;
    let tokenizer = folder.tokenizer()?;
    let device = leanburn::device::parse(&options.common.device)?;
    let network = folder.load::<Dispatch>(options.dtype.into(), &device)?;
    let mut config = folder
        .generation()?
        .with_max_new_tokens(options.tokens)
        .with_stop_texts(options.stop)
        .with_seed(options.common.seed);
    if let Some(temperature) = options.temperature {
        config = config.with_temperature(Some(temperature).filter(|temperature| *temperature != 0.0));
    }
    config = config.clone().with_top_k(options.top_k.unwrap_or(config.top_k));
    config = config.clone().with_top_p(options.top_p.unwrap_or(config.top_p));
    let prompt = match options.chat.as_deref() {
        None => options.prompt,
        Some(name) => {
            let own = || {
                let template = tokenizer.chat_template().map(ChatTemplate::new);
                template.ok_or_else(|| {
                    Error::setting("chat", "the name of a template: the model has none", "none")
                })
            };
            let template = if name == "own" { own()? } else { ChatTemplate::named(name)? };
            template.prompt(&[Message::new(Role::User, options.prompt)], &tokenizer)?
        }
    };
    print!("{prompt}");
    let started = Instant::now();
    let mut tokens = 0;
    // A model's own template writes the token that begins a text itself, and those of open-instruct are without one.
    let special = options.bos.unwrap_or(options.chat.is_none());
    let show = |_: usize, text: &str| {
        print!("{text}");
        // What cannot be shown now is shown later.
        let _ = std::io::stdout().flush();
    };
    let texts = generate_texts(&network, &tokenizer, &[prompt], special, &config, &device, show)?;
    for text in &texts {
        tokens += tokenizer.encode(text, false)?.len();
    }
    println!();
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{tokens} tokens, {:.1} a second", tokens as f64 / seconds);
    Ok(())
}
