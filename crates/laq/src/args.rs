//! The command line.

mod weights;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use laq_lab::LabError;
use laq_lab::configs::Configs;
use laq_lab::slurm::Settings;
use laq_lab::table::{Selection, TableId};
use laq_packed::MAX_THREADS;
use laq_runner::config::{KINDS, Keep};
use laq_runner::device::{DeviceChoice, DeviceOptions, Precision};

pub(crate) use self::weights::{
    CalibrateArgs, ClassifyArgs, ExportArgs, ExportFormat, InspectArgs, PackingChoice,
    QuantizeArgs, SampleArgs,
};

/// Trains neural networks with weights of one to eight bits.
#[derive(Debug, Parser)]
#[command(name = "laq", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Show no progress and no notes on the standard error; errors are still shown.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

impl Args {
    /// The program's own command line; the process ends where it is wrong, or asks for help.
    pub(crate) fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            let command = current_command();
            let takes_keys = command.get_arguments().any(|arg| arg.get_id() == "set");
            if takes_keys
                && error.kind() == ErrorKind::UnknownArgument
                && error.get(ContextKind::SuggestedArg).is_none()
            {
                let tip = "the keys that `laq config` prints are set by '--set', such as '--set train.epochs=10'";
                error.insert(
                    ContextKind::Suggested,
                    ContextValue::StyledStrs(vec![tip.into()]),
                );
            }
            error.exit()
        })
    }
}

/// The subcommand of the program's own command line.
fn current_command() -> clap::Command {
    let mut command = Args::command();
    command.build();
    let named = std::env::args_os().skip(1);
    let mut found = named.filter_map(|name| command.find_subcommand(name));
    found.next().unwrap_or(&command).clone()
}

/// The error of a wrong command line, where clap cannot tell.
pub(crate) fn wrong_arguments(message: &str) -> anyhow::Error {
    let mut command = current_command();
    command.error(ErrorKind::ArgumentConflict, message).into()
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(TrainArgs),
    Eval(EvalArgs),
    Export(ExportArgs),
    Sample(SampleArgs),
    Classify(ClassifyArgs),
    Inspect(InspectArgs),
    Config(ConfigArgs),
    Summary(SummaryArgs),
    Estimate(EstimateArgs),
    Calibrate(CalibrateArgs),
    Quantize(QuantizeArgs),
    Methods(MethodsArgs),
    Doctor(DoctorArgs),
    GpuCheck(GpuCheckArgs),
    Download(DownloadArgs),
    Reproduce(ReproduceArgs),
    Report(ReportArgs),
    Status(StatusArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Command {
    /// Whether the result is what is printed. That of the others is in files, and what they print is about it.
    pub(crate) fn prints_result(&self) -> bool {
        match self {
            Self::Train(args) => args.profile.is_some(),
            Self::Export(args) => args.json,
            Self::Calibrate(args) => args.json,
            Self::Quantize(args) => args.json,
            Self::Reproduce(args) => args.json,
            Self::Report(args) => args.json,
            Self::Download(_) | Self::GpuCheck(_) => false,
            Self::Man(args) => args.out.is_none(),
            _ => true,
        }
    }
}

/// An experiment.
#[derive(Debug, clap::Args)]
pub(crate) struct ExperimentArgs {
    /// The experiment's TOML file; - is the standard input, where a zero byte may end it: then `laq train` stops at the
    /// end of the input.
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) over: OverArgs,
}

/// Changes to an experiment's file.
#[derive(Debug, clap::Args)]
pub(crate) struct OverArgs {
    /// A TOML file whose values override those of CONFIG; repeatable, later ones override earlier
    /// ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) overlay: Vec<PathBuf>,
    /// A value that overrides all files, such as train.epochs=10; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// The device.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, or cuda:N for GPU number N; auto is the first usable GPU, and for a resumed run
    /// the device of its start.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = DeviceChoice::from_str)]
    device: DeviceChoice,
    /// Precision of products on a GPU.
    #[arg(long, value_enum, default_value_t)]
    precision: PrecisionName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PrecisionName {
    /// Factors rounded to 10 bits of mantissa, sums in f32.
    #[default]
    Tf32,
    /// Factors and sums in f32.
    Float32,
}

impl DeviceArgs {
    pub(crate) fn options(&self) -> DeviceOptions {
        DeviceOptions {
            choice: self.device,
            precision: match self.precision {
                PrecisionName::Tf32 => Precision::Tf32,
                PrecisionName::Float32 => Precision::Float32,
            },
        }
    }
}

/// The number of threads.
#[derive(Debug, clap::Args)]
pub(crate) struct ThreadsArgs {
    /// Threads; results do not depend on their number [default: RAYON_NUM_THREADS,
    /// and one for each processor where that is not set].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    pub(crate) threads: Option<u16>,
}

impl ThreadsArgs {
    pub(crate) fn count(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

/// Train an experiment.
///
/// Ctrl-C finishes the current step, saves, and prints the command that resumes; a second one stops
/// at once.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    /// The run's folder [default: runs/NAME for a CONFIG called NAME.toml].
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Resume from the run's checkpoint, if there is one.
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Progress on the standard error.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) progress: ProgressStyle,
    // Hidden: `reproduce` has cells leave the reason of a failure in their folders.
    #[arg(long, requires = "run_dir", hide = true)]
    pub(crate) record_failure: bool,
    /// Instead of training, time some steps on random input on the CPU and print where the time goes.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, require_equals = true, default_missing_value = "20", value_parser = clap::value_parser!(u64).range(1..=100_000), conflicts_with_all = ["run_dir", "resume"])]
    pub(crate) profile: Option<u64>,
    /// Print the profile as JSON.
    #[arg(long, requires = "profile")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressStyle {
    /// A bar on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A bar with an ETA.
    Bar,
    /// A line after each epoch and every half minute.
    Plain,
    /// Nothing.
    None,
}

/// Evaluate a trained network, with quantized weights.
#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// A run folder (for its best epoch), a checkpoint, or a file of `laq export --to packed` or safetensors-f32,
    /// also quantized by `laq quantize`.
    #[arg(value_name = "RUN_DIR|FILE")]
    pub(crate) path: PathBuf,
    /// A split of its own data.
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: SplitName,
    /// A text file instead of a split, for a language model.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["split", "data_dir"])]
    pub(crate) text: Option<PathBuf>,
    /// The folder of the data [default: that of the training].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    Train,
    Validation,
    Test,
}

/// Print an experiment with every default filled in; without CONFIG, print the commented defaults.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The experiment's TOML file.
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) over: OverArgs,
    /// Without CONFIG: the kind of network whose defaults are printed.
    #[arg(long, value_parser = KINDS, default_value = KINDS[0], conflicts_with = "config")]
    pub(crate) kind: String,
    /// Print JSON, with the experiment's key.
    #[arg(long, requires = "config")]
    pub(crate) json: bool,
}

/// Print the network of an experiment or of a run: layers, sizes, weights, bits, operations.
#[derive(Debug, clap::Args)]
pub(crate) struct SummaryArgs {
    /// The experiment's TOML file, or a run folder.
    #[arg(value_name = "CONFIG|RUN_DIR")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) over: OverArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Estimate the time of an experiment on this machine, from a few steps on random input.
#[derive(Debug, clap::Args)]
pub(crate) struct EstimateArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// List the quantization methods.
#[derive(Debug, clap::Args)]
pub(crate) struct MethodsArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Examine this machine: processor, instruction sets, GPU, memory, disk, data.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The folder of the data.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check a GPU: conformance, losses against the CPU, and times, with PyTorch's for comparison.
///
/// Writes one folder, whose README.md starts with a summary. `laq reproduce --device cuda:0
/// --minutes N` trains the cells of a table.
#[derive(Debug, clap::Args)]
pub(crate) struct GpuCheckArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// The time limit in minutes. Each section has its share of it: what does not begin within it is
    /// left out.
    #[arg(long, value_name = "N", default_value_t = 30.0, value_parser = minutes)]
    pub(crate) minutes: f64,
    /// The output folder.
    #[arg(long, value_name = "DIR", default_value = "gpu-check")]
    pub(crate) out: PathBuf,
    /// The Python interpreter; PyTorch is optional.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    pub(crate) python: String,
    /// Use small networks, to test the command in seconds.
    #[arg(long)]
    pub(crate) small: bool,
    // Hidden: `gpu-check` starts itself with it. Throughput of processes needs processes, and so
    // do the variants of the recurrence, which an environment variable selects once a process.
    #[arg(long, value_name = "NETWORK", hide = true)]
    pub(crate) throughput_worker: Option<String>,
}

/// Reproduce a table of the paper: train the cells that are not finished, and report them.
///
/// Ctrl-C saves the runs under way; the same command continues, and reuses the finished cells.
#[derive(Debug, clap::Args)]
pub(crate) struct ReproduceArgs {
    /// The table of the paper.
    #[arg(value_enum)]
    pub(crate) table: TableName,
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Show the state of the cells and the time left, and train nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Cells that are trained at a time: in processes, or on a GPU in threads, whose kernels
    /// overlap.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: u16,
    /// Threads of each run [default: RAYON_NUM_THREADS, and one for each processor where that is not set;
    /// divided by --jobs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Save and stop after this many minutes; the same command continues.
    #[arg(long, value_name = "N", value_parser = minutes)]
    pub(crate) minutes: Option<f64>,
    /// For methods with an alternating solver, also run the exact solver every N steps on the same
    /// weights, and report both weighted errors. The results do not change; finished cells are
    /// reused without a comparison.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) compare_with_exact: Option<u64>,
    /// What is left of the weights of finished cells [default: checkpoint.keep of their configurations,
    /// all]; metrics and summary always are.
    #[arg(long, value_enum)]
    pub(crate) keep: Option<KeepName>,
    /// Print the cells, or with --dry-run the plan, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the cells are trained: on this machine, or as a job array of Slurm.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) launcher: LauncherName,
    #[command(flatten)]
    pub(crate) slurm: SlurmArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeepName {
    /// The checkpoints of the best and of the last epoch, with the optimizer's moments.
    All,
    /// The packed network of the best epoch, up to a hundred times smaller.
    Packed,
}

impl From<KeepName> for Keep {
    fn from(name: KeepName) -> Self {
        match name {
            KeepName::All => Self::All,
            KeepName::Packed => Self::Packed,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LauncherName {
    /// Processes or threads of this machine.
    #[default]
    Local,
    /// A job array; the command returns when it is submitted, and `laq status` shows how far it is.
    Slurm,
}

/// Options of --launcher slurm. Their defaults are `[launcher.slurm]` in launcher.toml of --configs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of --launcher slurm")]
pub(crate) struct SlurmArgs {
    /// The partition.
    #[arg(long, value_name = "NAME")]
    pub(crate) partition: Option<String>,
    /// The account.
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// The time of a task, such as 12:00:00. When it is over the cell is saved and queued again.
    #[arg(long, value_name = "TIME")]
    pub(crate) time: Option<String>,
    /// Generic resources, such as gpu:1.
    #[arg(long, value_name = "LIST")]
    pub(crate) gres: Option<String>,
    /// Tasks that run at a time, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) array_limit: Option<u32>,
    /// Another argument of sbatch, such as --sbatch-arg=--constraint=avx512; repeatable.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) sbatch_arg: Vec<String>,
    /// Wait until every task has ended; Ctrl-C cancels them.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Cancel all tasks of the table and preset in the queue; running ones save.
    #[arg(long, conflicts_with_all = ["dry_run", "wait", "rows", "columns", "seeds"])]
    pub(crate) cancel: bool,
}

impl SlurmArgs {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            partition: self.partition.clone(),
            account: self.account.clone(),
            time: self.time.clone(),
            gres: self.gres.clone(),
            array_limit: self.array_limit,
            sbatch_args: self.sbatch_arg.clone(),
        }
    }

    /// Whether none of the options is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.settings() == Settings::default() && !self.wait && !self.cancel
    }
}

/// Show what the runs below a folder are doing: finished, running (epoch, time of a step, time left,
/// machine), interrupted, killed, failed with the reason, or waiting.
///
/// It reads files alone, so it also works while other processes or machines train them.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// A run folder or one above, such as runs/table2/paper.
    #[arg(default_value = "runs")]
    pub(crate) folder: PathBuf,
    /// Print the cells as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Report the cells of a table that are trained, without training; or write one HTML page about
/// single runs.
///
/// `laq report table2` reports a table. `laq report runs/a runs/b` writes one page with the curves
/// of both runs, scale and sparsity of each layer by epoch, and the levels of the best epoch.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// table1, table2, or run folders.
    #[arg(required = true, value_name = "TABLE|RUN")]
    pub(crate) subjects: Vec<String>,
    /// The HTML page of single runs [default: report.html in the run folder; for several runs in
    /// the current folder].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "rows", "columns", "seeds", "out", "configs", "json"])]
    pub(crate) page: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Print the cells as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The default preset.
const PRESET: &str = "demo";

/// Which cells of a table, at which size, and where their runs are.
#[derive(Debug, clap::Args)]
pub(crate) struct SelectionArgs {
    /// Size of the runs: demo (embedded data, minutes), short (the paper's networks, few epochs), medium
    /// (table2: a tenth of the epochs), paper (to the letter).
    #[arg(long, default_value = PRESET)]
    preset: String,
    /// Rows, separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,
    /// Columns, separated by commas [default: the paper's; for the preset demo the embedded data].
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,…")]
    columns: Vec<String>,
    /// Number of seeds: each cell is trained with the seeds 1 to N.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Folder of the runs and of the report [default: runs/TABLE/PRESET].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Configurations to use instead of the embedded ones.
    #[arg(long, value_name = "DIR")]
    configs: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableName {
    /// Test error of the networks on images.
    Table1,
    /// Test cross-entropy of the character LSTM.
    Table2,
}

impl SelectionArgs {
    pub(crate) fn selection(&self, table: TableName) -> Selection {
        Selection {
            table: match table {
                TableName::Table1 => TableId::Table1,
                TableName::Table2 => TableId::Table2,
            },
            preset: self.preset.clone(),
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            seeds: self.seeds,
            out: self.out.clone(),
        }
    }

    /// Whether no option says anything else than its default.
    pub(crate) fn is_default(&self) -> bool {
        let Self {
            preset,
            rows,
            columns,
            seeds,
            out,
            configs,
        } = self;
        let lists = [rows, columns].iter().all(|list| list.is_empty());
        let folders = [out, configs].iter().all(|folder| folder.is_none());
        preset == PRESET && *seeds == 1 && lists && folders
    }

    /// The folder of --configs.
    pub(crate) fn configs_folder(&self) -> Option<&Path> {
        self.configs.as_deref()
    }

    pub(crate) fn configs(&self) -> Result<Configs, LabError> {
        self.configs
            .as_ref()
            .map_or_else(Configs::embedded, |folder| Ok(Configs::at(folder)))
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.0..=1e6).contains(&minutes) => Ok(minutes),
        _ => Err("expected a number of minutes".into()),
    }
}

/// Print shell completions.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Print the man page, or write one for each command.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write laq.1, laq-train.1 and so on to this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Another source of data.
#[derive(Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    /// A folder or an address that is tried before all others.
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) mirror: Option<String>,
}

/// The default folder of the data.
pub(crate) const DATA_DIR: &str = "data";

/// Download and verify data sets; files that are already valid are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct DownloadArgs {
    /// Names of data sets [default: all].
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
    /// The folder of the data.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
}
