//! LLaMA and MFT. The kinds are described in `oracles/mft/README.md`.

use leanburn::{
    burn::{
        optim::{AdamWConfig, Optimizer},
        tensor::{Int, Tensor, TensorData},
    },
    core::{
        Error, Result, checkpoint,
        train::{ParameterGroups, clipped},
    },
    language::{
        CausalLm, Encoded, TokenBatch,
        folder::ModelFolder,
        generation::{GenerationConfig, generate},
        llama::{KeyValueCache, Llama, Matrix, Place, Sequences, inverse_frequencies},
        lora::{Lora, LoraConfig},
        mft::{Mask, MaskKind, MaskedLlama, Subnet, SubnetMode, percentile, removed_count},
        train::{FineTuning, Reduction},
    },
    prelude::{Dispatch, DispatchDevice},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    case::Case,
    comparison::Outputs,
    gradients,
    precision::{exact, precision},
};

/// A batch as the manifests describe it.
#[derive(Debug, Deserialize)]
struct Rows {
    lengths: Vec<usize>,
    prompt_lengths: Vec<usize>,
    pad_id: u32,
}

/// The batch of the input ids.
fn batch(case: &Case, device: &DispatchDevice) -> Result<TokenBatch<Dispatch>> {
    let Rows { lengths, prompt_lengths, pad_id } = case.config()?;
    let ids = case.input("input_ids")?;
    let columns = ids.shape[1];
    let ids: Vec<u32> = ids.iter::<i64>().map(|id| id as u32).collect();
    let rows = ids.chunks(columns).zip(lengths.iter().zip(&prompt_lengths));
    let texts: Vec<Encoded> = rows
        .map(|(ids, (&length, &prompt))| Encoded {
            tokens: ids[..length].to_vec(),
            learned: (0..length).map(|place| place >= prompt).collect(),
        })
        .collect();
    TokenBatch::padded(&texts, pad_id, device)
}

/// The keys of `config.json`, with those of a subnet if there is one.
fn json(case: &Case) -> Result<Value> {
    #[derive(Deserialize)]
    struct Config {
        llama: Map<String, Value>,
        #[serde(default)]
        subnet: Map<String, Value>,
    }
    let Config { mut llama, subnet } = case.config()?;
    llama.extend(subnet);
    Ok(Value::Object(llama))
}

/// What stands between the layers, logits and losses.
fn forward(outputs: &mut Outputs, model: &impl CausalLm<Dispatch>, batch: &TokenBatch<Dispatch>) {
    let TokenBatch { tokens, sequences, .. } = batch;
    let Llama { model: decoder, .. } = model.llama();
    let surroundings = model.surroundings(sequences, 0);
    let mut x = model.embedded(tokens.clone());
    let layers = decoder.layers.len();
    for layer in 0..layers {
        outputs.tensor(format!("hidden.{layer}"), x.clone());
        x = model.layer(layer, x, &surroundings, None, None);
    }
    outputs.tensor(format!("hidden.{layers}"), decoder.norm.forward(x));
    outputs.tensor("logits", model.forward(tokens.clone(), sequences));
    outputs.tensor("attn_probs.0", model.attention_weights(0, tokens.clone(), sequences));
    let loss: f64 = leanburn::language::loss(model, batch).into_data().iter::<f64>().sum();
    let count = batch.target_count();
    outputs.list("loss", vec![loss]);
    outputs.list("loss_sum", vec![loss * count as f64]);
    outputs.ints("n_target_tokens", vec![count as i64]);
}

/// Gradients in all the forms that the manifests have.
fn add_gradients(outputs: &mut Outputs, gradients: Vec<(String, TensorData)>) {
    for (name, data) in gradients {
        let values: Vec<f64> = data.iter::<f64>().collect();
        let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
        outputs.list(format!("grad_norm.{name}"), vec![norm]);
        outputs.list(format!("grad_head.{name}"), values.into_iter().take(64).collect());
        outputs.data(format!("grad.{name}"), data);
    }
}

pub(super) fn llama_forward(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let training = leanburn::device::autodiff(device.clone());
    let network = case.with_folder(&json(case)?, |folder| {
        ModelFolder::open(folder)?.load::<Dispatch>(precision(), &training)
    })?;
    let batch = batch(case, &training)?;
    let mut outputs = Outputs::default();
    let length = batch.sequences.length();
    let inverse = inverse_frequencies(network.config(), length);
    let table = |wave: fn(f32) -> f32| {
        let angles = |position| inverse.iter().map(move |inverse| wave(position as f32 * inverse));
        let values: Vec<f32> = (0..length)
            .flat_map(|position| angles(position).chain(angles(position)).collect::<Vec<_>>())
            .collect();
        TensorData::new(values, [length, 2 * inverse.len()])
    };
    outputs.data("rope.cos", table(f32::cos));
    outputs.data("rope.sin", table(f32::sin));
    outputs.list("rope.inv_freq", inverse.iter().map(|value| f64::from(*value)).collect());
    forward(&mut outputs, &network, &batch);
    let (_, of_loss) = FineTuning::new(network.clone(), Reduction::Mean).gradients(&batch);
    add_gradients(&mut outputs, gradients::by_name(&network, &of_loss, str::to_owned)?);
    Ok(outputs)
}

/// The entries that a mask removes.
fn zeros(mask: &Mask) -> Vec<i64> {
    (0..mask.entries()).filter(|entry| !mask.keeps(*entry)).map(|entry| entry as i64).collect()
}

pub(super) fn mft_step(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        optimizer: Settings,
        steps: usize,
        first_module: String,
    }
    #[derive(Deserialize)]
    struct Settings {
        lr: f64,
        betas: [f32; 2],
        eps: f32,
        weight_decay: f32,
        clip_global_norm: Option<f64>,
    }
    let config: Config = case.config()?;
    let training = leanburn::device::autodiff(device.clone());
    let network = case.with_folder(&json(case)?, |folder| {
        MaskedLlama::<Dispatch>::load(&ModelFolder::open(folder)?, precision(), &training)
    })?;
    let mut network = exact(network);
    let batch = batch(case, &training)?;
    let mut outputs = Outputs::default();
    let add_masks = |outputs: &mut Outputs, network: &MaskedLlama<Dispatch>, step: usize| {
        for (place, mask) in network.masks().iter() {
            outputs.ints(format!("mask{step}.zeros.{}", place.path()), zeros(mask));
        }
    };
    add_masks(&mut outputs, &network, 0);
    forward(&mut outputs, &network, &batch);
    let Settings { lr, betas: [first, second], eps, weight_decay, clip_global_norm } = config.optimizer;
    let adamw = AdamWConfig::new().with_beta_1(first).with_beta_2(second).with_epsilon(eps);
    let mut optimizer = ParameterGroups::new(adamw.with_weight_decay(weight_decay).build());
    let mut losses = Vec::new();
    for step in 0..config.steps {
        let (loss, of_loss) = FineTuning::new(network.clone(), Reduction::Mean).gradients(&batch);
        losses.extend(loss.into_data().iter::<f64>());
        if step == 0 {
            let names = |path: &str| network.published_name(path);
            add_gradients(&mut outputs, gradients::by_name(&network, &of_loss, names)?);
        }
        let of_loss = match clip_global_norm {
            Some(largest) => clipped::<Dispatch, _>(&network, of_loss, largest).0,
            None => of_loss,
        };
        network = optimizer.step(lr, network, of_loss);
        if step == 0 {
            add_masks(&mut outputs, &network, 1);
            for (place, scores) in network.places().iter().zip(&network.scores) {
                let head = scores.val().into_data().iter::<f64>().take(64).collect();
                outputs.list(format!("step1.scores_head.{}", place.path()), head);
            }
        }
    }
    losses.extend(leanburn::language::loss(&network, &batch).into_data().iter::<f64>());
    outputs.list("trajectory.loss", losses);
    let first = Place::parse(&config.first_module);
    let masks = network.masks();
    let mask = first.and_then(|place| masks.get(place)).ok_or_else(|| {
        Error::data("config, first_module", "a masked matrix", format!("`{}`", config.first_module))
    })?;
    outputs.ints("trajectory.final_zeros_first_module", vec![zeros(mask).len() as i64]);
    Ok(outputs)
}

pub(super) fn generation(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        prompt_lengths: Vec<usize>,
        max_new_tokens: usize,
        pad_id: i64,
        eos_token_id: Option<u32>,
        sampling: Vec<Sampling>,
    }
    #[derive(Deserialize)]
    struct Sampling {
        tag: String,
        temperature: f64,
        top_k: usize,
        top_p: f64,
    }
    let config: Config = case.config()?;
    let network = case.with_folder(&json(case)?, |folder| {
        ModelFolder::open(folder)?.load::<Dispatch>(precision(), device)
    })?;
    let ids = case.input("input_ids")?;
    let [rows, columns] = [ids.shape[0], ids.shape[1]];
    let ids: Vec<i64> = ids.iter::<i64>().collect();
    let prompts: Vec<Vec<u32>> = ids
        .chunks(columns)
        .zip(&config.prompt_lengths)
        .map(|(ids, length)| ids[columns - length..].iter().map(|id| *id as u32).collect())
        .collect();
    let mut outputs = Outputs::default();
    let padded = prompts.iter().flat_map(|prompt| {
        let padding = std::iter::repeat_n(config.pad_id, columns - prompt.len());
        padding.chain(prompt.iter().map(|id| i64::from(*id))).collect::<Vec<_>>()
    });
    let padded = TensorData::new(padded.collect::<Vec<i64>>(), [rows, columns]);
    outputs.data("padded_input_ids", padded.clone());
    let greedy = GenerationConfig::new()
        .with_max_new_tokens(config.max_new_tokens)
        .with_stop_tokens(config.eos_token_id.into_iter().collect());
    let tokens = generate(&network, &prompts, &greedy, device, |_, _| true)?;
    // A row that has ended is filled up, and goes on so.
    let steps_taken = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let tokens: Vec<Vec<i64>> = tokens
        .into_iter()
        .map(|row| {
            let mut row: Vec<i64> = row.into_iter().map(i64::from).collect();
            row.resize(steps_taken, config.pad_id);
            row
        })
        .collect();
    outputs.data("greedy_tokens", TensorData::new(tokens.concat(), [rows, steps_taken]));
    // The same once more, for the logits of each choice.
    let mut cache = KeyValueCache::new(network.config().num_hidden_layers);
    let mut steps: Vec<Tensor<Dispatch, 3>> = Vec::new();
    let mut input: Tensor<Dispatch, 2, Int> = Tensor::from_data(padded, device);
    for step in 0..steps_taken {
        let lengths: Vec<usize> = config.prompt_lengths.iter().map(|length| length + step).collect();
        let sequences = Sequences::left_padded(&lengths, columns + step);
        let hidden = network.hidden(input, &sequences, Some(&mut cache));
        let last = hidden.dims()[1] - 1;
        steps.push(network.logits(hidden.narrow(1, last, 1)));
        let next: Vec<i64> = tokens.iter().map(|tokens| tokens[step]).collect();
        input = Tensor::from_data(TensorData::new(next, [rows, 1]), device);
    }
    let first: Vec<f32> = steps[0].clone().into_data().iter::<f32>().collect();
    outputs.tensor("step_logits", Tensor::cat(steps, 1));
    let vocabulary = network.config().vocab_size;
    for Sampling { tag, temperature, top_k, top_p } in config.sampling {
        let sampling =
            GenerationConfig::new().with_temperature(Some(temperature)).with_top_k(top_k).with_top_p(top_p);
        let probabilities: Vec<f64> =
            first.chunks(vocabulary).flat_map(|logits| sampling.probabilities(logits)).collect();
        outputs.data(format!("sampling_probs.{tag}"), TensorData::new(probabilities, [rows, vocabulary]));
    }
    Ok(outputs)
}

pub(super) fn lora(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        r: usize,
        alpha: f64,
        dropout: f64,
        target_modules: Vec<String>,
        merged_parameter: String,
    }
    let config: Config = case.config()?;
    let is_adapter = |name: &str| name.contains("lora_");
    let target = |name: &String| {
        let found = Matrix::ALL.into_iter().find(|matrix| matrix.path().ends_with(name));
        found.ok_or_else(|| Error::data("config, target_modules", "matrices of a layer", name))
    };
    let settings = LoraConfig::new()
        .with_rank(config.r)
        .with_alpha(config.alpha)
        .with_dropout(config.dropout)
        .with_targets(config.target_modules.iter().map(target).collect::<Result<_>>()?);
    let training = leanburn::device::autodiff(device.clone());
    let network = case.with_folder(&json(case)?, |folder| {
        let folder = ModelFolder::open(folder)?;
        let checkpoint = folder.checkpoint()?;
        let base = checkpoint.clone().without(is_adapter);
        let base = Llama::load(folder.config(), base, precision(), &training)?;
        Lora::<Dispatch>::from_checkpoint(base, &settings, checkpoint.without(|name| !is_adapter(name)))
    })?;
    let network = exact(network);
    let batch = batch(case, &training)?;
    let mut outputs = Outputs::default();
    forward(&mut outputs, &network, &batch);
    let (_, of_loss) = FineTuning::new(network.clone(), Reduction::Mean).gradients(&batch);
    let names = |path: &str| network.published_name(path);
    add_gradients(&mut outputs, gradients::by_name(&network, &of_loss, names)?);
    for (name, data) in checkpoint::tensors(&network.merged(), str::to_owned)? {
        if name == config.merged_parameter {
            outputs.list(format!("merged.{name}.head"), data.iter::<f64>().take(64).collect());
        }
    }
    Ok(outputs)
}

pub(super) fn mask_algorithms(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        keep: Vec<f64>,
        keep_tags: Vec<String>,
        thresholds: Vec<f64>,
        threshold_tags: Vec<String>,
        quantiles: Vec<f64>,
        count: usize,
        l1: Magnitudes,
        zeroed_count_table: Table,
    }
    #[derive(Deserialize)]
    struct Magnitudes {
        keep_attn: f64,
        keep_mlp: f64,
        layers: Vec<usize>,
        modes: Vec<SubnetMode>,
    }
    #[derive(Deserialize)]
    struct Table {
        rows: Vec<(usize, f64, i64)>,
    }
    let config: Config = case.config()?;
    let mut outputs = Outputs::default();
    let values = |data: &TensorData| data.iter::<f32>().collect::<Vec<f32>>();
    let kept = |mask: &Mask, shape: &[usize]| {
        let kept: Vec<f32> =
            (0..mask.entries()).map(|entry| f32::from(u8::from(mask.keeps(entry)))).collect();
        TensorData::new(kept, shape.to_vec())
    };
    for number in 0..config.count {
        let scores = case.input(&format!("scores{number}"))?;
        let shape = scores.shape.to_vec();
        let flat = [1, scores.num_elements()];
        let list = values(&scores);
        let draws = values(&case.input(&format!("uniform{number}"))?);
        for (&keep, tag) in config.keep.iter().zip(&config.keep_tags) {
            outputs.data(format!("local.{number}.k{tag}"), kept(&Mask::largest(&list, flat, keep), &shape));
            let random = Mask::new(flat, |entry| f64::from(draws[entry]) < keep);
            outputs.data(format!("random.{number}.k{tag}"), kept(&random, &shape));
        }
        for (&threshold, tag) in config.thresholds.iter().zip(&config.threshold_tags) {
            outputs
                .data(format!("global.{number}.t{tag}"), kept(&Mask::above(&list, flat, threshold), &shape));
        }
        let percentiles = config.quantiles.iter().map(|quantile| f64::from(percentile(&list, *quantile)));
        outputs.list(format!("percentile.{number}"), percentiles.collect());
        let matrix = |data: TensorData| -> Tensor<Dispatch, 2> {
            Tensor::from_data(TensorData::new(values(&data), flat), device)
        };
        let local = MaskKind::Local { keep_attention: 1.0, keep_mlp: 1.0 };
        let global = MaskKind::Global { threshold_attention: 0.0, threshold_mlp: 0.0 };
        for (name, kind) in [("local", local), ("global", global)] {
            let upstream = matrix(case.input(&format!("upstream{number}"))?);
            let gradient = kind.gradient(upstream, matrix(scores.clone())).into_data();
            outputs.data(format!("{name}.{number}.grad"), TensorData::new(values(&gradient), shape.clone()));
        }
    }
    let Magnitudes { keep_attn, keep_mlp, layers, modes } = config.l1;
    for mode in modes {
        let subnet = Subnet::new(layers.clone()).with_mode(mode);
        let places = subnet.places(layers.iter().max().map_or(0, |layer| layer + 1))?;
        for (name, data) in case.parameters()? {
            let Some(place) = Place::parse(&name).filter(|place| places.contains(place)) else { continue };
            let keep = if place.matrix.is_attention() { keep_attn } else { keep_mlp };
            let mask = Mask::largest(&values(&data), [data.shape[0], data.shape[1]], keep);
            let mode = serde_json::to_value(mode).unwrap_or_default();
            let name = format!("l1.{}.{}", mode.as_str().unwrap_or_default(), place.path());
            outputs.data(name, kept(&mask, &data.shape));
        }
    }
    let rows = config.zeroed_count_table.rows.into_iter();
    outputs
        .ints("zeroed_counts", rows.map(|(entries, keep, _)| removed_count(entries, keep) as i64).collect());
    Ok(outputs)
}
