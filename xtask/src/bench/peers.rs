//! Products and training steps beside PyTorch, burn and candle.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Network, PeerOptions, STEPS, align, build, commit, cpu, median, publish, threads};

/// The programs of `benches/peers`, a workspace of its own.
const PEERS: [(&str, &str); 2] = [("burn", "burn_step"), ("candle", "candle_step")];

/// What a script of `benches/pytorch` writes.
#[derive(Deserialize, Serialize)]
struct Compared {
    title: String,
    torch: String,
    threads: usize,
    repetitions: u32,
    steps: BTreeMap<String, Steps>,
    ratios: BTreeMap<String, Ratio>,
}

#[derive(Deserialize, Serialize)]
struct Steps {
    seconds: Vec<f64>,
    quantize_seconds: Vec<f64>,
}

#[derive(Deserialize, Serialize)]
struct Ratio {
    medians: f64,
    minima: f64,
    /// The median of the ratios of each repetition.
    paired: f64,
}

/// The program that computes products in turn with `products.py`.
const PRODUCTS: [&str; 4] = ["--package", "laq-tensor", "--example", "product_server"];

/// The script for a network, and whether [`PEERS`] have the network.
fn script(network: Network) -> (&'static str, bool) {
    match network {
        Network::CharLstm => ("lstm_step.py", false),
        Network::Mnist => ("mlp_step.py", true),
        Network::Cifar10 => ("vgg_step.py", true),
    }
}

pub(super) fn peers(options: &PeerOptions) -> Result<()> {
    build(&STEPS)?;
    build(&PRODUCTS)?;
    let folder = crate::root().join("target/peers");
    let programs = built_peers()?;
    let threads = threads(options.threads)?;
    let mut compared = Vec::new();
    let networks = options.networks.iter().map(|&network| script(network));
    for (script, has_peers) in [("products.py", false)].into_iter().chain(networks) {
        let json = folder.join(script).with_extension("json");
        let mut command = Command::new(&options.python);
        command
            .arg(crate::root().join("benches/pytorch").join(script))
            .args(["--repetitions", &options.repetitions.to_string()])
            .args(["--warm-up", &options.warm_up.to_string()])
            .args(["--threads", &threads.to_string()])
            .arg("--json")
            .arg(&json);
        for program in programs.iter().filter(|_| has_peers) {
            command.args(["--peer", program]);
        }
        let status = command
            .status()
            .with_context(|| format!("cannot start {}", options.python.display()))?;
        ensure!(status.success(), "{script} failed; its messages are above");
        let text = fs::read(&json).with_context(|| format!("cannot read {}", json.display()))?;
        let found: Compared = serde_json::from_slice(&text)
            .with_context(|| format!("{script} wrote another format to {}", json.display()))?;
        compared.push(found);
    }
    publish("peers", &text(&compared), &compared, options.out.as_deref())
}

/// Builds [`PEERS`]: `name=program` of each, as the scripts take it.
fn built_peers() -> Result<Vec<String>> {
    let manifest = ["--manifest-path", "benches/peers/Cargo.toml"];
    build(&[&manifest[..], &["--target-dir", "target/peers"]].concat())?;
    let release = crate::root().join("target/peers/release");
    let program = |(name, program)| format!("{name}={}", release.join(program).display());
    Ok(PEERS.map(program).into())
}

fn text(compared: &[Compared]) -> String {
    let mut text = format!("Training steps on {}; commit {}\n", cpu(), commit());
    for found in compared {
        text += &format!(
            "\n{}: {} threads, PyTorch {}, medians of {} repetitions in turn\n\n",
            found.title, found.threads, found.torch, found.repetitions
        );
        let mut lines = vec![["step", "ms", "quantize"].map(str::to_owned).to_vec()];
        let mut rows: Vec<(f64, &String, &Steps)> = (found.steps.iter())
            .map(|(name, steps)| (median(steps.seconds.clone()), name, steps))
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (seconds, name, steps) in rows {
            lines.push(vec![
                name.clone(),
                format!("{:.2}", 1e3 * seconds),
                format!("{:.2}", 1e3 * median(steps.quantize_seconds.clone())),
            ]);
        }
        let mut ratios = vec![["ratio", "medians", "paired"].map(str::to_owned).to_vec()];
        for (name, ratio) in &found.ratios {
            ratios.push(vec![
                name.clone(),
                format!("{:.3}", ratio.medians),
                format!("{:.3}", ratio.paired),
            ]);
        }
        text += &format!(
            "```text\n{}\n{}```\n",
            align(&lines, 1..3),
            align(&ratios, 1..3)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_listed_with_the_fastest_first() {
        let json = r#"[{"title": "A step", "torch": "2", "threads": 2, "repetitions": 3, "processor": "x",
            "steps": {"PyTorch full": {"seconds": [0.3, 0.2, 0.9], "quantize_seconds": [0, 0, 0]},
                      "laq full": {"seconds": [0.1, 0.2, 0.1], "quantize_seconds": [0, 0, 0]}},
            "ratios": {"laq full / PyTorch full": {"medians": 0.333, "minima": 0.5, "paired": 0.25}}}]"#;
        let compared: Vec<Compared> =
            serde_json::from_str(json).expect("the format of the scripts");
        let text = text(&compared);
        let ours = text.find("laq full      100.00").expect("the median");
        assert!(
            ours < text.find("PyTorch full  300.00").expect("the median"),
            "{text}"
        );
        assert!(
            text.contains("laq full / PyTorch full    0.333   0.250"),
            "{text}"
        );
    }
}
