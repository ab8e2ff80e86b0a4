//! Language models for [leanburn](https://docs.rs/leanburn).
//!
//! | module | what it holds |
//! |---|---|
//! | [`llama`] | LLaMA 1 to 3.x |
//! | [`folder`], [`tokenizer`] | models and tokenizers as Hugging Face lays them out |
//! | [`chat`], [`data`] | conversations, the templates that write them, and files of them |
//! | [`generation`] | greedy and drawn continuations, with a cache |
//! | [`lora`] | adapters |
//! | [`evaluation`] | perplexity, GSM8K, HumanEval, IF-Eval |
//! | [`mft`] | MFT: masks over a fine-tuned model |
//! | [`CausalLm`], [`TokenBatch`], [`loss`] | what networks that predict the next token have in common |
#![cfg_attr(feature = "train", doc = "| [`train`] | fine-tuning |")]

mod causal;
pub mod chat;
pub mod data;
pub mod evaluation;
pub mod folder;
mod frozen;
pub mod generation;
pub mod llama;
pub mod lora;
pub mod mft;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;

pub use causal::{CausalLm, Encoded, TokenBatch, Trainable, loss};
