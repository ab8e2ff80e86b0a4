//! LLaMA: greedy decoding, prefill, training steps in full, of some layers and of their masks.

use leanburn::{
    burn::{
        module::{AutodiffModule, Module, ModuleDisplay},
        optim::Optimizer,
        tensor::{DType, Tensor, TensorData},
    },
    core::random::Generator,
    language::{
        CausalLm, Encoded, TokenBatch, Trainable,
        folder::ModelFolder,
        generation::{GenerationConfig, generate},
        llama::{Llama, LlamaConfig, Sequences},
        mft::{MaskedLlama, ScoreInitial, Subnet},
        train::{FineTuning, Reduction, adamw},
    },
    prelude::*,
};
use leanburn_tests::{data, device};
use serde::{Deserialize, Serialize};

use crate::{beside, median, timed};

/// What every program prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    seconds: f64,
}

pub(crate) fn ours(mode: &str) -> Result<Measured> {
    let plain = device()?;
    let seconds = match mode {
        "decode" => {
            let path = data("stories260K")
                .ok_or_else(|| Error::setting("LEANBURN_DATA", "a folder with stories260K", "none"))?;
            let network = ModelFolder::open(path)?.load::<Dispatch>(DType::F32, &plain)?;
            let config = GenerationConfig::new().with_max_new_tokens(200);
            timed(|| generate(&network, &[vec![1]], &config, &plain, |_, _| true).map(drop))?
        }
        "prefill" => {
            let network = small(&plain)?;
            let tokens: Vec<i64> = tokens(256, 1).into_iter().map(i64::from).collect();
            let tokens = Tensor::from_data(TensorData::new(tokens, [1, 256]), &plain);
            timed(|| {
                network.forward(tokens.clone(), &Sequences::whole(1, 256)).into_data();
                Ok(())
            })?
        }
        _ => {
            let device = leanburn::device::autodiff(plain);
            let network = small(&device)?;
            match mode {
                "step" => step(network)?,
                "layers" => step(of_layers(network))?,
                _ => {
                    let (subnet, initial) = (Subnet::math(), ScoreInitial::Normal(0.02));
                    step(MaskedLlama::new(network, subnet, initial, &mut Generator::new(2))?)?
                }
            }
        }
    };
    Ok(Measured { seconds })
}

fn small(device: &DispatchDevice) -> Result<Llama<Dispatch>> {
    LlamaConfig::new(32_000, 768, 2048, 12, 12).init(&mut Generator::new(1), device)
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut generator = Generator::new(seed);
    (0..count).map(|_| generator.below(32_000) as u32).collect()
}

/// The network of which the matrices of layers 4 to 7 alone learn.
fn of_layers(network: Llama<Dispatch>) -> Llama<Dispatch> {
    let mut network = network.no_grad();
    for layer in &mut network.model.layers[4..8] {
        let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
        for matrix in [
            &mut attention.q_proj,
            &mut attention.k_proj,
            &mut attention.v_proj,
            &mut attention.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ] {
            matrix.weight = matrix.weight.clone().set_require_grad(true);
        }
    }
    network
}

fn step<N>(network: N) -> Result<f64>
where
    N: Trainable<Dispatch>,
    N::InnerModule: CausalLm<Dispatch> + ModuleDisplay + AutodiffModule<Dispatch>,
{
    let texts = [1, 2].map(|seed| Encoded::whole(tokens(256, seed)));
    let batch = TokenBatch::padded(&texts, 0, &network.devices()[0])?;
    let mut optimizer = adamw(0.0);
    let mut network = network;
    timed(|| {
        let (_, gradients) = FineTuning::new(network.clone(), Reduction::Mean).gradients(&batch);
        network = optimizer.step(1e-4, network.clone(), gradients);
        Ok(())
    })
}

/// Runs all in turns, and prints medians and ratios.
pub(crate) fn pair(python: &str) -> Result<()> {
    println!("{:<56} {:>9} {:>8}", "LLaMA", "ms", "ratio");
    for (job, modes) in [
        ("stories260K, 200 tokens", ["decode", "decode", ""]),
        ("110 M parameters, 256 tokens", ["prefill", "prefill", ""]),
        ("110 M parameters, step of 2 x 256", ["step", "step", ""]),
        ("step of layers 4 to 7", ["layers", "layers", ""]),
        ("step of their masks", ["mft", "mft", ""]),
    ] {
        let programs: Vec<(String, Vec<Measured>)> = beside("language", python, job, modes)?;
        let milliseconds = |runs: &[Measured]| 1e3 * median(runs.iter().map(|run| run.seconds));
        let reference = milliseconds(&programs[0].1);
        for (title, runs) in &programs {
            let milliseconds = milliseconds(runs);
            println!("{title:<56} {milliseconds:>9.1} {:>8.2}", milliseconds / reference);
        }
    }
    Ok(())
}
