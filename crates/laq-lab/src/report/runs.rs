//! One HTML page about single runs: curves, scale and sparsity of each layer by epoch, and how
//! often each level occurs.
//!
//! Reads run folders alone and needs no plan. The page has no script and loads nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use laq_models::StateData;
use laq_runner::checkpoint::Checkpoint;
use laq_runner::evaluate::find_checkpoint;
use laq_runner::record::{EpochRecord, LayerRecord, Status, Summary};
use laq_runner::run_folder::{check_summary, packed_network, read_epochs, read_summary};
use laq_solvers::Method;
use maud::{Markup, html};

use super::curves::{DOTS, ticks_between};
use super::html::page;
use super::svg::{Chart, Key, Line, Style};
use crate::LabError;
use crate::text::duration;

/// The colours of lines that belong to no method, in order.
const CLASSES: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "full"];

/// Everything that the page shows of a run.
struct Run {
    /// The name of the folder.
    name: String,
    summary: Summary,
    epochs: Vec<EpochRecord>,
    /// Or why there are none.
    levels: Result<Vec<Histogram>, String>,
}

/// How often each level of a parameter occurs.
struct Histogram {
    parameter: String,
    weights: usize,
    /// The level's value before scaling, and its share of the weights; rising.
    shares: Vec<(f32, f64)>,
}

/// The page of the runs in `folders`.
///
/// # Errors
///
/// [`LabError::NoRun`] for a folder without the files of a run.
pub fn page_of_runs(folders: &[PathBuf]) -> Result<String, LabError> {
    let runs: Vec<Run> = folders
        .iter()
        .map(|folder| Run::read(folder))
        .collect::<Result<_, _>>()?;
    let title = match runs.as_slice() {
        [run] => format!("{}: {}", run.name, run.summary.title),
        runs => format!("{} runs", runs.len()),
    };
    let has_errors = runs.iter().any(|run| {
        run.epochs
            .iter()
            .any(|epoch| epoch.validation_error.is_some())
    });
    let body = html! {
        header {
            p.over { "Loss-aware weight quantization of deep networks" }
            h1 { (title) }
        }
        (overview(&runs))
        section {
            h2 { "Learning curves" }
            div.charts {
                (curve(&runs, "training loss", |epoch| Some(epoch.train_loss)))
                (curve(&runs, "validation loss", |epoch| Some(epoch.validation_loss)))
                @if has_errors {
                    (curve(&runs, "validation error, %", |epoch| epoch.validation_error))
                }
                (curve(&runs, "learning rate", |epoch| Some(epoch.learning_rate)))
            }
        }
        @for run in runs.iter().filter(|run| run.epochs.iter().any(|epoch| !epoch.layers.is_empty())) {
            section {
                h2 { (run.name) ": layers" }
                p {
                    "After each epoch: the scale (for methods with two scales the mean of both), and the share of weights \
                     whose level is zero."
                }
                div.charts {
                    (layer_chart(run, "scale", mean_scale))
                    (layer_chart(run, "sparsity, %", |layer| 100.0 * layer.sparsity))
                }
                @match &run.levels {
                    Err(reason) => p { "No level histograms: " (reason) "." },
                    Ok(levels) if levels.is_empty() => {},
                    Ok(levels) => {
                        h3 { "Levels of the best epoch" }
                        div.charts { @for histogram in levels { (histogram.figure()) } }
                    },
                }
            }
        }
    };
    Ok(page(&title, &body))
}

impl Run {
    fn read(folder: &Path) -> Result<Self, LabError> {
        let epochs = read_epochs(folder);
        let summary = match read_summary(folder) {
            Some(summary) => {
                if summary.status == Status::Finished {
                    check_summary(folder, &summary)?;
                }
                summary
            }
            None if !epochs.is_empty() => Summary::default(),
            None => return Err(LabError::NoRun(folder.into())),
        };
        let name = folder
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| folder.display().to_string());
        let mut levels = histograms(folder, &summary.method);
        if let Ok(levels) = &mut levels {
            // In the order of the layers. A parameter holds several layers where each gate has a
            // scale.
            let layers = epochs.last().map_or(&[][..], |epoch| &epoch.layers);
            levels.sort_by_key(|histogram| {
                let is_part = |layer: &LayerRecord| layer.name.starts_with(&histogram.parameter);
                layers.iter().position(is_part)
            });
        }
        Ok(Self {
            name,
            summary,
            epochs,
            levels,
        })
    }
}

/// The histograms of the best checkpoint, or of the latest where no epoch is complete.
fn histograms(folder: &Path, method: &str) -> Result<Vec<Histogram>, String> {
    let path = find_checkpoint(folder).map_err(|error| error.to_string())?;
    if path == packed_network(folder) {
        return Err(
            "its checkpoints gave way to packed.safetensors, whose levels `laq inspect` shows"
                .into(),
        );
    }
    let checkpoint = Checkpoint::read(&path).map_err(|error| error.to_string())?;
    let method = Method::try_from(method).map_err(|error| error.to_string())?;
    let Some(quantizer) = method.quantizer() else {
        return Ok(Vec::new());
    };
    let codebook = quantizer.codebook();
    let mut histograms = Vec::new();
    for tensor in &checkpoint.network {
        let (Some(parameter), StateData::I8(levels)) =
            (tensor.name.strip_suffix(".levels"), &tensor.data)
        else {
            continue;
        };
        let mut counts: BTreeMap<i8, usize> = codebook.levels().map(|level| (level, 0)).collect();
        for level in levels {
            *counts.entry(*level).or_default() += 1;
        }
        let share = |count: usize| count as f64 / levels.len().max(1) as f64;
        histograms.push(Histogram {
            parameter: parameter.into(),
            weights: levels.len(),
            shares: counts
                .into_iter()
                .map(|(level, count)| (codebook.value(level), share(count)))
                .collect(),
        });
    }
    Ok(histograms)
}

/// The fields of the summaries as rows, the runs as columns.
fn overview(runs: &[Run]) -> Markup {
    let figure = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
    type Field<'a> = (&'static str, &'a dyn Fn(&Summary) -> String);
    let fields: [Field<'_>; 16] = [
        ("title", &|run| run.title.clone()),
        ("method", &|run| run.method.clone()),
        ("granularity", &|run| {
            run.granularity.clone().unwrap_or("–".into())
        }),
        ("start", &|run| {
            let start = run.start.as_ref().map(|start| start.display().to_string());
            start.unwrap_or("–".into())
        }),
        ("data", &|run| run.data.clone()),
        ("state", &|run| format!("{:?}", run.status).to_lowercase()),
        ("epochs", &|run| {
            format!("{} of {}", run.epochs_done, run.epochs)
        }),
        ("best epoch", &|run| {
            run.best_epoch.map_or("–".into(), |epoch| epoch.to_string())
        }),
        ("training loss", &|run| figure(run.train_loss)),
        ("validation loss", &|run| figure(run.validation_loss)),
        ("test loss", &|run| figure(run.test_loss)),
        ("validation error, %", &|run| figure(run.validation_error)),
        ("test error, %", &|run| figure(run.test_error)),
        ("time", &|run| duration(run.seconds)),
        ("instruction set", &|run| run.kernel.clone()),
        ("commit", &|run| run.commit.clone()),
    ];
    html! {
        section {
            div.wide {
                table {
                    thead { tr { th {} @for run in runs { th scope="col" { (run.name) } } } }
                    tbody {
                        @for (name, field) in fields {
                            tr {
                                th scope="row" { (name) }
                                @for run in runs { td { (field(&run.summary)) } }
                            }
                        }
                    }
                }
            }
            @for run in runs {
                @if let Some(reason) = &run.summary.reason { p { (run.name) ": " (reason) } }
                @if let Some(data) = &run.summary.stand_in { p { (run.name) ": not the paper's data: " (data) } }
            }
        }
    }
}

/// One line for each run.
fn curve(runs: &[Run], title: &str, value: impl Fn(&EpochRecord) -> Option<f64>) -> Markup {
    let lines = runs.iter().map(|run| {
        let points = run
            .epochs
            .iter()
            .filter_map(|epoch| Some((epoch.epoch, value(epoch)?)));
        (run.name.clone(), points.collect())
    });
    chart(title, lines.collect())
}

/// One line for each layer of a run.
fn layer_chart(run: &Run, title: &str, value: impl Fn(&LayerRecord) -> f64) -> Markup {
    let mut lines: Vec<(String, Vec<(u32, f64)>)> = Vec::new();
    for epoch in &run.epochs {
        for layer in &epoch.layers {
            let point = (epoch.epoch, value(layer));
            match lines.iter_mut().find(|(name, _)| *name == layer.name) {
                Some((_, points)) => points.push(point),
                None => lines.push((layer.name.clone(), vec![point])),
            }
        }
    }
    chart(title, lines)
}

fn mean_scale(layer: &LayerRecord) -> f64 {
    let sum: f64 = layer.scale.iter().map(|scale| f64::from(*scale)).sum();
    sum / layer.scale.len().max(1) as f64
}

/// A chart of named lines over epochs. Values that are not finite are left out.
fn chart(title: &str, mut lines: Vec<(String, Vec<(u32, f64)>)>) -> Markup {
    for (_, points) in &mut lines {
        points.retain(|(_, value)| value.is_finite());
    }
    lines.retain(|(_, points)| !points.is_empty());
    if lines.is_empty() {
        return html! {};
    }
    let points = || lines.iter().flat_map(|(_, points)| points);
    let last = points().map(|point| point.0).max().unwrap_or(1).into();
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let (ticks, low, high) = ticks_between(low, high);
    // Each colour is used twice, then dashed.
    let style = |index: usize| Style {
        class: CLASSES[index % CLASSES.len()],
        dashed: index / CLASSES.len() % 2 == 1,
    };
    Chart {
        title: title.into(),
        label: format!("{title} by epoch"),
        counted: "epoch",
        last,
        range: (low, high),
        ticks,
        dots: last <= DOTS,
        legend: lines
            .iter()
            .enumerate()
            .map(|(index, (name, points))| Key {
                style: style(index),
                name: name.clone(),
                note: points.last().map_or(String::new(), |point| short(point.1)),
            })
            .collect(),
        lines: lines
            .iter()
            .enumerate()
            .map(|(index, (name, points))| Line {
                style: style(index),
                name: name.clone(),
                points: points
                    .iter()
                    .map(|&(epoch, value)| (f64::from(epoch), value))
                    .collect(),
            })
            .collect(),
    }
    .render()
}

/// Three significant digits.
fn short(value: f64) -> String {
    let digits = 2 - value.abs().max(1e-9).log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 6) as usize)
}

impl Histogram {
    /// Bars, one for each level.
    fn figure(&self) -> Markup {
        const WIDTH: f64 = 440.0;
        const HEIGHT: f64 = 150.0;
        const BOTTOM: f64 = 18.0;
        const TOP: f64 = 14.0;
        let most = self.shares.iter().map(|share| share.1).fold(1e-9, f64::max);
        let step = WIDTH / self.shares.len() as f64;
        let labelled = self.shares.len() <= 16;
        html! {
            figure {
                figcaption { (self.parameter) " (" (self.weights) " weights)" }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
                    aria-label=(format!("Share of each level in {}", self.parameter)) {
                    @for (index, (value, share)) in self.shares.iter().enumerate() {
                        @let height = share / most * (HEIGHT - TOP - BOTTOM);
                        @let left = index as f64 * step;
                        g.c0 {
                            title { (value) ": " (format!("{:.2} %", 100.0 * share)) }
                            rect x=(format!("{:.1}", left + 0.15 * step)) y=(format!("{:.1}", HEIGHT - BOTTOM - height))
                                width=(format!("{:.1}", 0.7 * step)) height=(format!("{height:.1}")) {}
                        }
                        @if labelled {
                            text.middle x=(format!("{:.1}", left + 0.5 * step)) y=(HEIGHT - 4.0) {
                                (format!("{value:.2}"))
                            }
                            text.middle x=(format!("{:.1}", left + 0.5 * step))
                                y=(format!("{:.1}", HEIGHT - BOTTOM - height - 3.0)) {
                                (format!("{:.1}", 100.0 * share))
                            }
                        }
                    }
                }
                p.legend { span { "percent of the weights by level, before scaling" } }
            }
        }
    }
}
