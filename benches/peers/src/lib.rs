//! Shared by the programs that time training steps in other libraries: arguments, the paper's
//! feedforward networks (PAPER.md, 4), their data, and the protocol.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// An error of a program of this package.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Learning rate of every step.
pub const LEARNING_RATE: f64 = 0.002;

/// What batch normalization adds to a variance.
pub const NORM_EPSILON: f64 = 1e-4;

/// A linear map without bias, max pooling, batch normalization and ReLU, in this order.
pub struct Block {
    /// Channels or units before the map.
    pub inputs: usize,
    /// Channels or units after it.
    pub outputs: usize,
    /// Whether there is max pooling, 2 x 2.
    pub pooled: bool,
    /// Whether there is a ReLU.
    pub relu: bool,
    /// The weights start uniform between `-range` and `range`.
    pub range: f64,
}

/// A network, and the size of its batches.
pub struct Network {
    /// Images, channels, height, width.
    pub input: [usize; 4],
    /// Convolutions, 3 x 3 with padding 1.
    pub convolutions: Vec<Block>,
    /// Dense layers, on all that the convolutions leave of an image.
    pub dense: Vec<Block>,
}

impl Network {
    /// 784-2048-2048-2048-10.
    fn mnist() -> Self {
        Self {
            input: [100, 784, 1, 1],
            convolutions: Vec::new(),
            dense: dense(&[784, 2048, 2048, 2048, 10]),
        }
    }

    /// (2x128C3)-MP2-(2x256C3)-MP2-(2x512C3)-MP2-(2x1024FC)-10.
    fn cifar10() -> Self {
        let channels = [3, 128, 128, 256, 256, 512, 512];
        let mut convolutions = blocks(&channels, 9);
        for block in convolutions.iter_mut().skip(1).step_by(2) {
            block.pooled = true;
        }
        Self {
            input: [50, 3, 32, 32],
            convolutions,
            dense: dense(&[4 * 4 * 512, 1024, 1024, 10]),
        }
    }

    /// Random pixels between -1 and 1, the same in every run.
    pub fn images(&self) -> Vec<f32> {
        let mut state = 1u32;
        let random = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..self.input.iter().product()).map(random).collect()
    }

    /// Images and classes.
    pub fn outputs(&self) -> [usize; 2] {
        [self.input[0], 10]
    }

    /// For each image and class 1 if the image is of this class, otherwise -1; image `i` is of class
    /// `i % 10`.
    pub fn targets(&self) -> Vec<f32> {
        let [images, classes] = self.outputs();
        (0..images * classes)
            .map(|i| {
                if i / classes % classes == i % classes {
                    1.0
                } else {
                    -1.0
                }
            })
            .collect()
    }
}

/// Blocks between neighbours in `sizes`, with so many `taps` for each pair of channels.
fn blocks(sizes: &[usize], taps: usize) -> Vec<Block> {
    let block = |pair: &[usize]| Block {
        inputs: pair[0],
        outputs: pair[1],
        pooled: false,
        relu: true,
        range: (6.0 / (taps * (pair[0] + pair[1])) as f64).sqrt(),
    };
    sizes.windows(2).map(block).collect()
}

/// The dense blocks at the end of a network.
fn dense(sizes: &[usize]) -> Vec<Block> {
    let mut blocks = blocks(sizes, 1);
    blocks
        .last_mut()
        .into_iter()
        .for_each(|last| last.relu = false);
    blocks
}

/// What `main` does: hands the network of the arguments to `train`, and reports an error.
pub fn run(train: impl FnOnce(&Network) -> Result<(), Failure>) -> ExitCode {
    match arguments().and_then(|network| train(&network)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The network of the arguments. The process runs with their number of threads when this returns.
fn arguments() -> Result<Network, Failure> {
    let arguments: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let [threads, network] = arguments.as_slice() else {
        let found = arguments.len();
        return Err(format!("found {found} arguments, expected two: THREADS NETWORK").into());
    };
    let threads = match threads.parse() {
        Ok(threads @ 1..=1024) => threads,
        _ => {
            return Err(
                format!("found threads {threads:?}, expected a number from 1 to 1024").into(),
            );
        }
    };
    let network = match network.as_str() {
        "mnist" => Network::mnist(),
        "cifar10" => Network::cifar10(),
        _ => return Err(format!("found network {network:?}, expected mnist or cifar10").into()),
    };
    use_threads(threads)?;
    Ok(network)
}

/// The libraries take their number of threads from the environment, candle for each product anew. It
/// cannot be changed without unsafe code in a process that runs, so the program starts over.
fn use_threads(threads: u32) -> Result<(), Failure> {
    let threads = threads.to_string();
    let variables = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];
    if variables
        .iter()
        .all(|name| std::env::var(name).as_ref() == Ok(&threads))
    {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1));
    again.envs(variables.map(|name| (name, &threads)));
    Err(again.exec().into())
}

/// Takes a step for each line on standard input and answers with its seconds, and 0 for those of
/// quantization. A step turns a state into the next one, and returns the loss before it.
///
/// # Errors
///
/// If a step fails, if a loss is not finite, or if standard input or output fails.
pub fn serve<S>(
    mut state: S,
    mut step: impl FnMut(S) -> Result<(S, f32), Failure>,
) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let (next, loss) = step(state)?;
        let seconds = start.elapsed().as_secs_f64();
        if !loss.is_finite() {
            return Err(format!("found loss {loss}, expected a finite one").into());
        }
        state = next;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{seconds} 0")?;
        out.flush()?;
    }
    Ok(())
}
