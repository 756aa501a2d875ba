//! The sections of an experiment and the allowed range of every value.

use std::path::PathBuf;

use laq_datasets::{Kind, UnknownPreprocessing, catalogue};
use laq_models::LARGEST_LAYER;
use laq_solvers::{Granularity, Method, ParseGranularityError, ParseMethodError};
use serde::{Deserialize, Serialize};

use super::KINDS;

/// The value of [`Data::name`] for a text file, [`Data::path`].
pub const FILE: &str = "file";

/// One training run, resolved: every default is filled in and every value is within its range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The title of the run in reports.
    pub title: String,
    /// The network.
    pub model: Model,
    /// The data and their batches.
    pub data: Data,
    /// How the weights are quantized.
    pub quantize: Quantize,
    /// The optimization.
    pub train: Train,
    /// The comparison with an exact solver. Absent from older checkpoints.
    #[serde(default)]
    pub comparison: Comparison,
    /// When checkpoints are written.
    pub checkpoint: Checkpoints,
    /// What is logged. Absent from older checkpoints.
    #[serde(default)]
    pub log: Log,
    /// The published figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paper: Option<Paper>,
}

/// The network, by its `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Model {
    /// The character-level language model of section 4.2 of the paper.
    CharLstm(CharLstm),
    /// The image classifiers of section 4.1 of the paper.
    Feedforward(Feedforward),
}

impl Model {
    /// The value of `model.kind`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::CharLstm(_) => KINDS[0],
            Self::Feedforward(_) => KINDS[1],
        }
    }
}

/// One LSTM layer between one-hot bytes and a softmax over them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CharLstm {
    /// Units of the LSTM.
    pub hidden: usize,
    /// The initial bias of the forget gate.
    pub forget_bias: f64,
    /// Gate weights are initialized uniformly in ± this.
    pub init_range: f64,
    /// Output weights are initialized normally with this standard deviation.
    pub output_std: f64,
    /// Gradients of the gate pre-activations are clipped to ± this at every time step.
    pub gate_clip: f64,
}

/// Stages of 3 × 3 convolutions that end in max pooling, then dense layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedforward {
    /// Filters of the convolutions of each stage.
    pub filters: Vec<usize>,
    /// Convolutions per stage.
    pub convolutions: usize,
    /// Units of each hidden dense layer.
    pub units: Vec<usize>,
    /// Whether hidden layers are normalized before ReLU; otherwise they have a bias.
    pub batch_norm: bool,
    /// Whether the outputs are normalized; otherwise they have a bias.
    pub output_batch_norm: bool,
    /// Added to the variance by batch normalization.
    pub norm_epsilon: f64,
    /// Momentum of the running statistics: the weight of the newest batch.
    pub norm_factor: f64,
    /// The loss function.
    pub loss: Loss,
}

/// The loss of an image classifier; see [`laq_models::Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// mean max(0, 1 − t·y)² over images and classes.
    SquaredHinge,
    /// Cross-entropy of the softmax, in nats.
    CrossEntropy,
}

/// The data and their batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A name of [`laq_datasets::catalogue`], or [`FILE`].
    pub name: String,
    /// The text file if `name` is [`FILE`], relative to the current folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The fraction of the file for training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_fraction: Option<f64>,
    /// The fraction of the file for validation; the rest is for testing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_fraction: Option<f64>,
    /// The folder of downloaded data, relative to the current folder.
    pub dir: PathBuf,
    /// Characters per sequence; for texts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// The name of a [`Preprocessing`](laq_datasets::Preprocessing); for images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<String>,
    /// Sequences or images per batch.
    pub batch: usize,
}

/// How the weights are quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// The canonical id of a [`Method`].
    pub method: String,
    /// The weights that share a scale, a [`Granularity`]; without it those of a gate, or the blocks of
    /// a format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<String>,
    /// The start of trained scales; without it they start at those of TWN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_start: Option<f64>,
    /// Latent weights stay within ± this; without it within ± 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

/// The optimization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the training split.
    pub epochs: u32,
    /// Adam's step size before the schedule.
    pub learning_rate: f64,
    /// The seed of the initial weights and of the order of batches.
    pub seed: u64,
    /// β₁ of Adam.
    pub beta1: f64,
    /// β₂ of Adam.
    pub beta2: f64,
    /// ε of Adam, added to √v.
    pub epsilon: f64,
    /// The learning-rate schedule.
    pub schedule: Schedule,
    /// The run folder or checkpoint whose weights and moments of Adam the run starts from, relative to the current
    /// folder; without it, weights are drawn. Not its path but its content belongs to the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The limit of batches per epoch; its runs are marked as cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batches: Option<usize>,
}

/// The learning rate's factor in epoch e = 1, 2, …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// 1.
    Constant {},
    /// factor^max(0, e − after).
    Exponential {
        /// The factor per epoch after `after`.
        factor: f64,
        /// The last epoch at the initial rate.
        after: u32,
    },
    /// factor^|{m ∈ epochs : m < e}|.
    Milestones {
        /// The epochs after which the rate decreases, ascending.
        epochs: Vec<u32>,
        /// The factor at each milestone.
        factor: f64,
    },
    /// factor^floor((e − 1) / epochs).
    Every {
        /// Epochs at each rate.
        epochs: u32,
        /// The factor after them.
        factor: f64,
    },
}

impl Schedule {
    /// The learning rate's factor in `epoch` = 1, 2, …
    #[must_use]
    pub fn factor(&self, epoch: u32) -> f64 {
        let (factor, times) = match self {
            Self::Constant {} => (1.0, 0),
            Self::Exponential { factor, after } => (*factor, epoch.saturating_sub(*after)),
            Self::Milestones { epochs, factor } => (
                *factor,
                epochs.iter().filter(|&&e| e < epoch).count() as u32,
            ),
            Self::Every { epochs, factor } => (*factor, epoch.saturating_sub(1) / epochs.max(&1)),
        };
        factor.powi(i32::try_from(times).unwrap_or(i32::MAX))
    }
}

/// The comparison of an alternating solver with its exact counterpart; see
/// [`Method::exact_counterpart`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Steps between comparisons; 0 disables them.
    pub every: u64,
}

/// When checkpoints are written in addition to the end of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// Minutes between checkpoints; 0 for every step.
    pub minutes: f64,
    /// What is left of a finished run. Absent from older checkpoints.
    #[serde(default)]
    pub keep: Keep,
}

/// What is left of the weights of a finished run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The checkpoints of the best and of the last epoch.
    #[default]
    All,
    /// The network of the best epoch, as a file of [`crate::export::export_packed`].
    Packed,
}

/// What is logged in addition to the metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Whether to write TensorBoard event files.
    pub tensorboard: bool,
}

/// A published figure, copied to the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// The test error as printed.
    pub value: f64,
    /// Whether the figure is verified.
    pub status: String,
    /// The number of training epochs.
    pub epochs: u32,
}

/// A value out of range: the key, the value, and a clause with the allowed values.
pub(crate) type OutOfRange = (&'static str, String, String);

impl Quantize {
    /// The method with the granularity, which is left out where it is the method's own.
    fn resolve_granularity(&mut self, method: Method) -> Result<Method, OutOfRange> {
        let Some(found) = &self.granularity else {
            return Ok(method);
        };
        let not_allowed = |allowed| ("quantize.granularity", format!("{found:?}"), allowed);
        let granularity: Granularity = (found.parse())
            .map_err(|error: ParseGranularityError| not_allowed(error.to_string()))?;
        if granularity == method.granularity() {
            self.granularity = None;
            return Ok(method);
        }
        if method.quantizer().is_none() {
            return Err(not_allowed(
                "it must be omitted, because nothing is quantized".into(),
            ));
        }
        let method = method.with_granularity(granularity);
        method.map_err(|error| not_allowed(error.to_string()))
    }
}

/// The default fractions of a [`FILE`]: those of War and Peace.
const FILE_FRACTIONS: (f64, f64) = (0.8, 0.1);

impl Data {
    /// Fills in the fractions of a [`FILE`].
    fn resolve_fractions(&mut self) -> Result<(), OutOfRange> {
        let train = *self.train_fraction.get_or_insert(FILE_FRACTIONS.0);
        let is_given = self.validation_fraction.is_some();
        let validation = *self.validation_fraction.get_or_insert(FILE_FRACTIONS.1);
        for (name, fraction) in [
            ("data.train_fraction", train),
            ("data.validation_fraction", validation),
        ] {
            if !(fraction > 0.0 && fraction < 1.0) {
                let allowed = "it must be above 0 and below 1".into();
                return Err((name, fraction.to_string(), allowed));
            }
        }
        if train + validation < 1.0 {
            return Ok(());
        }
        let rest = "their sum must be below 1, to leave a fraction for testing";
        if is_given {
            let allowed = format!("with data.train_fraction = {train} {rest}");
            return Err(("data.validation_fraction", validation.to_string(), allowed));
        }
        let allowed = format!(
            "with data.validation_fraction = {validation}, its default, {rest}; set that as well"
        );
        Err(("data.train_fraction", train.to_string(), allowed))
    }
}

impl Experiment {
    /// Fills in values that depend on others, and replaces the method by its canonical id.
    ///
    /// # Errors
    ///
    /// The first value out of range.
    pub(crate) fn resolve(mut self) -> Result<Self, OutOfRange> {
        let method = Method::try_from(self.quantize.method.as_str()).map_err(|error| {
            (
                "quantize.method",
                format!("{:?}", self.quantize.method),
                with_suggestion(&error),
            )
        })?;
        self.quantize.method = method.id().to_string();
        let method = self.quantize.resolve_granularity(method)?;
        if self.data.name == FILE {
            self.data.resolve_fractions()?;
        }
        if let Model::Feedforward(_) = self.model
            && let Ok(dataset) = laq_datasets::find(&self.data.name)
            && let Kind::Images {
                preprocessing: own, ..
            } = dataset.kind
        {
            let chosen = match &self.data.preprocessing {
                None => own,
                Some(name) => name.parse().map_err(|error: UnknownPreprocessing| {
                    ("data.preprocessing", format!("{name:?}"), error.to_string())
                })?,
            };
            self.data.preprocessing = Some(chosen.to_string());
        }
        if self.title.is_empty() {
            let granularity = self.quantize.granularity.iter();
            let granularity = granularity
                .map(|of| format!(", a scale a {of},"))
                .collect::<String>();
            self.title = format!(
                "{}{granularity} on {}",
                self.quantize.method, self.data.name
            );
        }
        self.check()?;
        if let Some(clip) = self.quantize.clip {
            above_zero("quantize.clip", clip, f64::from(f32::MAX))?;
            if method.quantizer().is_none() {
                let allowed = "it must be omitted, because nothing is quantized".into();
                return Err(("quantize.clip", clip.to_string(), allowed));
            }
        }
        if let Some(start) = self.quantize.scale_start {
            above_zero("quantize.scale_start", start, f64::from(f32::MAX))?;
            if !method.has_trained_scales() {
                let allowed = format!(
                    "it must be omitted, because quantize.method = \"{method}\" does not train its scales; ttq does"
                );
                return Err(("quantize.scale_start", start.to_string(), allowed));
            }
        }
        if self.comparison.every > 0 && method.exact_counterpart().is_none() {
            let allowed = format!(
                "it must be 0, because quantize.method = \"{method}\" does not alternate; lat-a, lat2-a, laq-linear-M and \
                 laq-log-M can be compared with their exact solvers"
            );
            return Err((
                "comparison.every",
                self.comparison.every.to_string(),
                allowed,
            ));
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), OutOfRange> {
        // The upper limits exceed useful values tenfold or more, and exclude overflow in products
        // of sizes.
        match &self.model {
            Model::CharLstm(model) => {
                whole("model.hidden", model.hidden, 1, LARGEST_LAYER)?;
                within("model.forget_bias", model.forget_bias, -100.0, 100.0)?;
                within("model.init_range", model.init_range, 0.0, 1.0)?;
                within("model.output_std", model.output_std, 0.0, 1.0)?;
                above_zero("model.gate_clip", model.gate_clip, f64::INFINITY)?;
            }
            Model::Feedforward(model) => {
                sizes("model.filters", &model.filters, 16)?;
                whole("model.convolutions", model.convolutions, 1, 16)?;
                sizes("model.units", &model.units, 64)?;
                above_zero("model.norm_epsilon", model.norm_epsilon, 1.0)?;
                above_zero("model.norm_factor", model.norm_factor, 1.0)?;
                let normalizes_dense =
                    model.output_batch_norm || model.batch_norm && !model.units.is_empty();
                if normalizes_dense && self.data.batch == 1 {
                    let allowed = "it must be at least 2, because batch normalization of a single value is constant";
                    return Err(("data.batch", "1".into(), allowed.into()));
                }
            }
        }
        whole("data.batch", self.data.batch, 1, 1_000_000)?;
        self.check_source()?;
        let train = &self.train;
        whole("train.epochs", train.epochs as usize, 1, 1_000_000)?;
        above_zero("train.learning_rate", train.learning_rate, f64::INFINITY)?;
        whole("train.seed", train.seed as usize, 0, i64::MAX as usize)?;
        within("train.beta1", train.beta1, 0.0, 0.999_999)?;
        within("train.beta2", train.beta2, 0.0, 0.999_999)?;
        // Below it, √v + ε would be zero in f32 for a weight that never had a gradient.
        if !(1e-30..=1.0).contains(&train.epsilon) {
            let allowed = "it must be 1e-30 to 1".into();
            return Err(("train.epsilon", train.epsilon.to_string(), allowed));
        }
        self.check_schedule()?;
        if let Some(batches) = train.max_batches {
            whole("train.max_batches", batches, 1, 1_000_000_000)?;
        }
        let every = self.comparison.every;
        whole("comparison.every", every as usize, 0, 1_000_000_000)?;
        within("checkpoint.minutes", self.checkpoint.minutes, 0.0, 10_080.0)?;
        if let Some(paper) = &self.paper {
            within("paper.value", paper.value, 0.0, 1e9)?;
        }
        Ok(())
    }

    fn check_source(&self) -> Result<(), OutOfRange> {
        let data = &self.data;
        let for_text = matches!(self.model, Model::CharLstm(_));
        let names = catalogue()
            .iter()
            .filter(|dataset| matches!(dataset.kind, Kind::Text { .. }) == for_text)
            .map(|dataset| dataset.name)
            .chain(for_text.then_some(FILE));
        let names: Vec<_> = names.collect();
        if !names.contains(&data.name.as_str()) {
            let near = nearest(&data.name, names.iter().copied());
            let near = near.map(|name| format!(" (did you mean {name:?}?)"));
            let allowed = format!(
                "it must be one of {}{}, because model.kind = {:?} is for {}",
                names.join(", "),
                near.unwrap_or_default(),
                self.model.kind(),
                if for_text { "texts" } else { "images" },
            );
            return Err(("data.name", format!("{:?}", data.name), allowed));
        }
        let misplaced = |key, value: String, what: &str| {
            let allowed = format!("it must be omitted, because {} is {what}", data.name);
            Err((key, value, allowed))
        };
        match (for_text, data.length, &data.preprocessing) {
            (true, _, Some(found)) => {
                return misplaced("data.preprocessing", format!("{found:?}"), "a text");
            }
            (false, Some(found), _) => {
                return misplaced("data.length", found.to_string(), "made of images");
            }
            (true, length, None) => whole("data.length", length.unwrap_or(0), 1, 1_000_000)?,
            (false, None, _) => {}
        }
        if data.name != FILE {
            let only = || format!("it must be omitted unless data.name = {FILE:?}");
            if let Some(path) = &data.path {
                return Err(("data.path", path.display().to_string(), only()));
            }
            let fractions = [
                ("data.train_fraction", data.train_fraction),
                ("data.validation_fraction", data.validation_fraction),
            ];
            for (name, fraction) in fractions {
                if let Some(fraction) = fraction {
                    return Err((name, fraction.to_string(), only()));
                }
            }
            return Ok(());
        }
        if data.path.is_none() {
            let allowed =
                format!("it must be the path of a text file, because data.name = {FILE:?}");
            return Err(("data.path", "missing".into(), allowed));
        }
        Ok(())
    }

    fn check_schedule(&self) -> Result<(), OutOfRange> {
        let factor = match &self.train.schedule {
            Schedule::Constant {} => return Ok(()),
            Schedule::Exponential { factor, .. } => factor,
            Schedule::Every { factor, epochs } => {
                whole("train.schedule.epochs", *epochs as usize, 1, 1_000_000)?;
                factor
            }
            Schedule::Milestones { factor, epochs } => {
                if epochs.is_empty() || epochs[0] == 0 || epochs.windows(2).any(|e| e[0] >= e[1]) {
                    let allowed = "they must be ascending epochs from 1, such as [15, 25]".into();
                    return Err(("train.schedule.epochs", format!("{epochs:?}"), allowed));
                }
                factor
            }
        };
        above_zero("train.schedule.factor", *factor, 1.0)
    }
}

/// Checks a list of at most `limit` sizes.
fn sizes(name: &'static str, values: &[usize], limit: usize) -> Result<(), OutOfRange> {
    if values.len() <= limit
        && values
            .iter()
            .all(|value| (1..=LARGEST_LAYER).contains(value))
    {
        return Ok(());
    }
    let allowed =
        format!("it must be a list of at most {limit} integers from 1 to {LARGEST_LAYER}");
    Err((name, format!("{values:?}"), allowed))
}

fn whole(name: &'static str, value: usize, low: usize, high: usize) -> Result<(), OutOfRange> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err((
        name,
        value.to_string(),
        format!("it must be {low} to {high}"),
    ))
}

fn within(name: &'static str, value: f64, low: f64, high: f64) -> Result<(), OutOfRange> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err((
        name,
        value.to_string(),
        format!("it must be {low} to {high}"),
    ))
}

fn above_zero(name: &'static str, value: f64, high: f64) -> Result<(), OutOfRange> {
    // The upper limit is that of f32, the type of the computation.
    let high = high.min(f64::from(f32::MAX));
    if value > 0.0 && value <= high && value as f32 > 0.0 {
        return Ok(());
    }
    Err((
        name,
        value.to_string(),
        format!("it must be above 0, and at most {high:e}"),
    ))
}

/// The candidate with the smallest edit distance to `found`, where that is at most 1 + a third of
/// its length.
pub fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(found, candidate);
    let best = candidates.min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= 1 + found.chars().count() / 3).then_some(best)
}

/// The message of a method that cannot be parsed, with the most similar id where there is one.
pub fn with_suggestion(error: &ParseMethodError) -> String {
    let ids: Vec<String> = Method::all().map(|method| method.id()).collect();
    let suggestion = match error {
        ParseMethodError::Unknown { found } => nearest(found, ids.iter().map(String::as_str)),
        _ => None,
    };
    match suggestion {
        Some(id) => format!("{error}; did you mean `{id}`?"),
        None => error.to_string(),
    }
}
