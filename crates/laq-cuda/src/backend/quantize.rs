//! Quantization on the device: what its kernels (`kernels/solve.cu`, `exact.cu`, `gradient.cu`) need around them.
//!
//! All groups of all parameters of a call go through one sequence of launches. Every group is cut into chunks, of which each
//! block has one; tables in the device's memory say which block belongs to which group and where its numbers are.

use laq_solvers::{Codebook, Method, Scale, Solver};
use laq_tensor::{AdamSettings, BackendError, GroupReport, QuantizeJob, QuantizerSnapshot};

use super::update::rates;
use super::{CudaBackend, Record, THREADS, Tensor, int, long, words};
use crate::device::Device;

/// Blocks among which the weights of a call are dealt out, so that all of a GPU has work, and each enough.
const BLOCKS: usize = 512;
/// The least weights of a block.
const LEAST_CHUNK: usize = 2048;
/// Weights of a block of the gradients' kernels: `GRADIENT_CHUNK` in `kernels/gradient.cu`.
const GRADIENT_CHUNK: usize = 8192;
/// `MOST_MAGNITUDES` in `kernels/solve.cuh`.
const MOST_MAGNITUDES: usize = 128;
/// `BUCKETS` in `kernels/exact.cuh`.
const BUCKETS: usize = 2048;
/// The rounds after which the alternating solvers stop.
const MOST_ROUNDS: usize = laq_solvers::MOST_ROUNDS as usize;
/// Threads of the block that sorts and compares.
const COMPARING_THREADS: u32 = 512;

/// Bytes of the structures of the kernels.
const STATE: usize = 72;
const TANH_WORK: usize = 24;
const WORK: usize = 8 * 7 + 2 * 4 * MOST_MAGNITUDES + 4 * 8;
const SEARCH: usize = 8 * 7
    + 4 * 4
    + 12 * MOST_MAGNITUDES
    + 4 * (BUCKETS + 1)
    + 4
    + 16 * BUCKETS
    + 16 * (BUCKETS + 1)
    + 8 * MOST_MAGNITUDES
    + 16;

/// What the quantizer of one parameter keeps in the device's memory.
#[derive(Debug)]
pub struct Quantizer<D: Device> {
    method: Method,
    solver: Solver,
    weights: usize,
    groups: usize,
    levels: D::Memory,
    /// A `State` a group.
    states: D::Memory,
    /// For the gradients of scales and of DoReFa: two numbers a block and a `TanhWork` a group, and how many blocks have done
    /// theirs.
    partial: D::Memory,
    arrived: D::Memory,
}

/// Tables and room for quantizing the same parameters together.
#[derive(Debug)]
pub struct QuantizeSpace<D: Device> {
    plan: Option<Plan<D>>,
}

impl<D: Device> Default for QuantizeSpace<D> {
    fn default() -> Self {
        QuantizeSpace { plan: None }
    }
}

#[derive(Debug)]
struct Plan<D: Device> {
    /// What the tables were made for.
    table: Vec<u8>,
    solver: Solver,
    groups: usize,
    blocks: usize,
    jobs: D::Memory,
    works: D::Memory,
    job_of_block: D::Memory,
    book: D::Memory,
    partial: D::Memory,
    exact: Option<ExactRoom<D>>,
}

/// What the exact solvers need besides.
#[derive(Debug)]
struct ExactRoom<D: Device> {
    searches: D::Memory,
    survivors: D::Memory,
    room: D::Memory,
    /// How often the buckets are made narrower.
    levels: usize,
    /// What the tables of addresses point to.
    _memory: Vec<D::Memory>,
}

/// A group's `State`, read back.
struct State {
    scale: [f32; 2],
    solved: bool,
    trained: bool,
    rounds: u32,
    /// Whether rounds, error and zeros are those of the last solve; not so in a state that was loaded.
    reported: bool,
    error: f64,
    zeros: u64,
    moments: [f32; 4],
}

impl State {
    fn from_bytes(bytes: &[u8]) -> Self {
        let four = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes");
        let eight = |at: usize| <[u8; 8]>::try_from(&bytes[at..at + 8]).expect("eight bytes");
        let float = |at| f32::from_ne_bytes(four(at));
        let int = |at| u32::from_ne_bytes(four(at));
        State {
            scale: [float(0), float(4)],
            solved: int(8) != 0,
            trained: int(12) != 0,
            rounds: int(16),
            reported: int(20) != 0,
            error: f64::from_ne_bytes(eight(24)),
            zeros: u64::from_ne_bytes(eight(32)),
            moments: [float(56), float(60), float(64), float(68)],
        }
    }

    fn to_bytes(&self) -> [u8; STATE] {
        let mut bytes = [0; STATE];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &self.scale[0].to_ne_bytes());
        put(4, &self.scale[1].to_ne_bytes());
        put(8, &u32::from(self.solved).to_ne_bytes());
        put(12, &u32::from(self.trained).to_ne_bytes());
        for (index, moment) in self.moments.iter().enumerate() {
            put(56 + 4 * index, &moment.to_ne_bytes());
        }
        bytes
    }
}

/// A codebook with its way of solving, as `Book` of `kernels/solve.cuh`.
fn book(codebook: Codebook, solver: Solver) -> Vec<u8> {
    let levels: Vec<i8> = codebook.levels().collect();
    let positive: Vec<i8> = levels.iter().copied().filter(|&level| level >= 0).collect();
    let magnitudes: Vec<f32> = positive
        .iter()
        .map(|&level| codebook.value(level))
        .collect();
    let midpoint = |index: usize| match magnitudes.get(index..index + 2) {
        Some(pair) => 0.5 * (f64::from(pair[0]) + f64::from(pair[1])),
        None => 0.0,
    };
    let has_zero = magnitudes[0] == 0.0;
    let mut bytes = Vec::new();
    (0..MOST_MAGNITUDES).for_each(|index| bytes.extend(midpoint(index).to_ne_bytes()));
    for level in i8::MIN..=i8::MAX {
        let value = if levels.contains(&level) {
            codebook.value(level)
        } else {
            f32::NAN
        };
        bytes.extend(value.to_ne_bytes());
    }
    for index in 0..MOST_MAGNITUDES {
        let magnitude = magnitudes.get(index).copied().unwrap_or(f32::NAN);
        bytes.extend(magnitude.to_ne_bytes());
    }
    let (number, sides) = match solver {
        Solver::Signs => (0u32, 1u32),
        Solver::MeanSigns => (1, 1),
        Solver::WeightedSigns => (2, 1),
        Solver::Threshold => (3, 1),
        Solver::Trained => (4, 1),
        Solver::Alternating { two_scales } => (5, 1 + u32::from(two_scales)),
        Solver::Exact { two_scales } => (6, 1 + u32::from(two_scales)),
        Solver::Tanh => (7, 1),
    };
    bytes.extend((magnitudes.len() as u32).to_ne_bytes());
    bytes.extend(i32::from(positive[0]).to_ne_bytes());
    bytes.extend((if has_zero { 0i32 } else { -1 }).to_ne_bytes());
    bytes.extend(u32::from(has_zero).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend(sides.to_ne_bytes());
    bytes
}

/// How often the buckets are made narrower, so that few weights are left: with many steps in the codebook there are few
/// buckets for each.
fn levels_of_buckets(steps: usize) -> usize {
    match steps {
        ..8 => 3,
        8..32 => 4,
        _ => 5,
    }
}

impl<D: Device> Quantizer<D> {
    pub(crate) fn new(
        device: &D,
        method: &Method,
        weights: usize,
        groups: usize,
    ) -> Result<Self, BackendError> {
        assert!(groups > 0 && weights.is_multiple_of(groups));
        let quantizer = method.quantizer();
        let has_kernels = |quantizer: &&dyn laq_solvers::Quantizer| {
            // The bounds of the exact solver take for granted that weights may be zero.
            let exact = matches!(quantizer.solver(), Some(Solver::Exact { .. }));
            !exact || quantizer.codebook().values().contains(&0.0)
        };
        let solver = quantizer
            .filter(has_kernels)
            .and_then(laq_solvers::Quantizer::solver);
        let Some(solver) = solver else {
            return Err(BackendError::Device {
                device: device.describe(),
                what: format!("there are no kernels for the method {method}; train it on the CPU"),
            });
        };
        let blocks = (weights / groups).div_ceil(GRADIENT_CHUNK).max(1);
        Ok(Quantizer {
            method: method.clone(),
            solver,
            weights,
            groups,
            levels: device.allocate(weights)?,
            states: device.allocate(groups * STATE)?,
            partial: device.allocate(groups * (blocks * 16 + TANH_WORK))?,
            arrived: device.allocate(groups * 4)?,
        })
    }

    fn codebook(&self) -> Codebook {
        let quantizer = self.method.quantizer();
        quantizer.map_or(Codebook::Binary, laq_solvers::Quantizer::codebook)
    }

    /// Whether a group has two scales.
    fn has_two_scales(&self) -> bool {
        matches!(
            self.solver,
            Solver::Trained
                | Solver::Alternating { two_scales: true }
                | Solver::Exact { two_scales: true }
        )
    }

    fn read_states(&self, device: &D) -> Result<Vec<State>, BackendError> {
        let mut bytes = vec![0; self.groups * STATE];
        device.download(&self.states, &mut bytes)?;
        Ok(bytes.chunks_exact(STATE).map(State::from_bytes).collect())
    }

    pub(crate) fn reports(&self, device: &D) -> Result<Vec<GroupReport>, BackendError> {
        let size = (self.weights / self.groups) as f64;
        let states = self.read_states(device)?;
        let report = |state: &State| GroupReport {
            scale: match (self.has_two_scales(), state.scale) {
                (true, [positive, negative]) => Scale::Two { positive, negative },
                (false, [scale, _]) => Scale::One(scale),
            },
            sparsity: state.zeros as f64 / size,
            weighted_error: state.error,
            iterations: state.rounds,
        };
        let reported = states.iter().filter(|state| state.reported);
        Ok(reported.map(report).collect())
    }

    pub(crate) fn save(&self, device: &D) -> Result<QuantizerSnapshot, BackendError> {
        let states = self.read_states(device)?;
        let mut levels = vec![0; self.weights];
        device.download(&self.levels, &mut levels)?;
        let mut snapshot = QuantizerSnapshot {
            levels: levels.into_iter().map(u8::cast_signed).collect(),
            ..QuantizerSnapshot::default()
        };
        if states.iter().all(|state| state.solved) {
            let of_each = if self.has_two_scales() { 2 } else { 1 };
            let scales = states.iter().flat_map(|state| &state.scale[..of_each]);
            snapshot.scales.extend(scales);
        }
        if states.iter().all(|state| state.trained) {
            (snapshot.moments).extend(states.iter().flat_map(|state| state.moments));
        }
        Ok(snapshot)
    }

    /// Takes over a kept state; the ŵ that it stands for, where it holds one.
    pub(crate) fn load(
        &mut self,
        device: &D,
        snapshot: &QuantizerSnapshot,
    ) -> Result<Option<Vec<f32>>, BackendError> {
        snapshot.check(&self.method, self.weights, self.groups)?;
        let of_each = snapshot.scales.len() / self.groups;
        let (size, codebook) = (self.weights / self.groups, self.codebook());
        let mut bytes = Vec::new();
        let mut quantized = vec![0.0; if of_each == 0 { 0 } else { self.weights }];
        for group in 0..self.groups {
            let scales = &snapshot.scales[group * of_each..(group + 1) * of_each];
            let moments = snapshot.moments.get(4 * group..4 * group + 4);
            let (first, last) = (scales.first(), scales.last());
            let state = State {
                scale: [first.copied().unwrap_or(0.0), last.copied().unwrap_or(0.0)],
                solved: !scales.is_empty(),
                trained: moments.is_some(),
                rounds: 0,
                reported: false,
                error: 0.0,
                zeros: 0,
                moments: moments.map_or([0.0; 4], |m| [m[0], m[1], m[2], m[3]]),
            };
            bytes.extend(state.to_bytes());
            if state.solved {
                let range = group * size..(group + 1) * size;
                let [positive, negative] = state.scale;
                let scale = Scale::Two { positive, negative };
                codebook.decode(
                    &snapshot.levels[range.clone()],
                    scale,
                    &mut quantized[range],
                );
            }
        }
        let levels: Vec<u8> = snapshot
            .levels
            .iter()
            .map(|level| level.cast_unsigned())
            .collect();
        device.upload(&levels, 0, &mut self.levels)?;
        device.upload(&bytes, 0, &mut self.states)?;
        Ok((of_each > 0).then_some(quantized))
    }
}

/// A group of rows that is solved.
struct Group {
    /// Of its weights, second moments, levels, quantized weights and state.
    addresses: [u64; 5],
    size: usize,
    /// Of its parameter, and its own in it.
    numbers: [usize; 2],
}

/// A `Job` a group, as the kernels have it, and the group of every block.
fn tables(groups: &[Group]) -> (Vec<u8>, Vec<u32>) {
    let total: usize = groups.iter().map(|group| group.size).sum();
    let chunk = total
        .div_ceil(BLOCKS)
        .next_multiple_of(1024)
        .max(LEAST_CHUNK);
    let (mut table, mut job_of_block) = (Vec::new(), Vec::new());
    for (index, group) in groups.iter().enumerate() {
        let blocks = group.size.div_ceil(chunk);
        for number in group.addresses.into_iter().chain([group.size as u64]) {
            table.extend(number.to_ne_bytes());
        }
        let [parameter, number] = group.numbers;
        for number in [parameter, number, job_of_block.len(), blocks] {
            table.extend((number as u32).to_ne_bytes());
        }
        table.extend((chunk as u64).to_ne_bytes());
        job_of_block.extend(std::iter::repeat_n(index as u32, blocks));
    }
    (table, job_of_block)
}

impl<D: Device> CudaBackend<D> {
    /// The address of memory.
    fn address(&self, memory: &D::Memory) -> u64 {
        self.device.address(memory)
    }

    pub(crate) fn solve(
        &self,
        jobs: &mut dyn Iterator<Item = QuantizeJob<'_, Self>>,
        space: &mut QuantizeSpace<D>,
        record: &mut Record<D>,
    ) -> Result<(), BackendError> {
        let mut groups = Vec::new();
        let mut of_method: Option<(Method, Codebook, Solver)> = None;
        for (parameter, job) in jobs.enumerate() {
            let quantizer = job.quantizer;
            let (method, _, _) = of_method.get_or_insert_with(|| {
                (
                    quantizer.method.clone(),
                    quantizer.codebook(),
                    quantizer.solver,
                )
            });
            assert_eq!(*method, quantizer.method, "a network has one method");
            let weights = self.pointer(job.latent, quantizer.weights);
            let second_moment = self.pointer(job.second_moment, quantizer.weights);
            let quantized = self.pointer(job.quantized, quantizer.weights);
            let (levels, states) = (
                self.address(&quantizer.levels),
                self.address(&quantizer.states),
            );
            let size = quantizer.weights / quantizer.groups;
            let all = 0..if size == 0 { 0 } else { quantizer.groups };
            groups.extend(all.map(|group| {
                let first = (group * size) as u64;
                Group {
                    addresses: [
                        weights + 4 * first,
                        second_moment + 4 * first,
                        levels + first,
                        quantized + 4 * first,
                        states + (group * STATE) as u64,
                    ],
                    size,
                    numbers: [parameter, group],
                }
            }));
        }
        let sizes: Vec<usize> = groups.iter().map(|group| group.size).collect();
        let (table, job_of_block) = tables(&groups);
        let Some((_, codebook, solver)) = of_method.filter(|_| !sizes.is_empty()) else {
            return Ok(());
        };
        let plan = match &mut space.plan {
            Some(plan) if plan.table == table => plan,
            plan => plan.insert(self.plan(table, job_of_block, &sizes, codebook, solver)?),
        };
        self.launch_solvers(plan, self.record_at(record))
    }

    /// Tables and room for these groups.
    fn plan(
        &self,
        table: Vec<u8>,
        job_of_block: Vec<u32>,
        sizes: &[usize],
        codebook: Codebook,
        solver: Solver,
    ) -> Result<Plan<D>, BackendError> {
        let (groups, blocks) = (sizes.len(), job_of_block.len());
        let exact = match solver {
            Solver::Exact { two_scales } => {
                let mut memory = Vec::new();
                let mut addresses = [Vec::new(), Vec::new()];
                for (&size, side) in sizes.iter().flat_map(|size| [(size, 0), (size, 1)]) {
                    let size = if side == 1 && !two_scales { 1 } else { size };
                    for (addresses, bytes) in addresses
                        .iter_mut()
                        .zip([8 * size.next_power_of_two(), 16 * (size + 1)])
                    {
                        let piece = self.device.allocate(bytes)?;
                        addresses.extend(self.address(&piece).to_ne_bytes());
                        memory.push(piece);
                    }
                }
                let steps = codebook.levels().filter(|&level| level > 0).count();
                Some(ExactRoom {
                    searches: self.device.allocate(2 * groups * SEARCH)?,
                    survivors: self.table(&addresses[0])?,
                    room: self.table(&addresses[1])?,
                    levels: levels_of_buckets(steps),
                    _memory: memory,
                })
            }
            _ => None,
        };
        Ok(Plan {
            solver,
            groups,
            blocks,
            jobs: self.table(&table)?,
            works: self.device.allocate(groups * WORK)?,
            job_of_block: self.table(&words(&job_of_block))?,
            book: self.table(&book(codebook, solver))?,
            // Of every block twelve sums and two numbers of four bytes.
            partial: self.device.allocate(blocks * 13 * 8)?,
            exact,
            table,
        })
    }

    fn launch_solvers(&self, plan: &Plan<D>, record: u64) -> Result<(), BackendError> {
        let [jobs, works, job_of_block, book, partial] = [
            &plan.jobs,
            &plan.works,
            &plan.job_of_block,
            &plan.book,
            &plan.partial,
        ]
        .map(|memory| self.address(memory).into());
        let searches = (plan.exact.as_ref()).map_or(0, |exact| self.address(&exact.searches));
        let (searches, record) = (searches.into(), record.into());
        let (grid, block) = ([plan.blocks as u32, 1, 1], [THREADS, 1, 1]);
        let common = [jobs, works, job_of_block, book, partial, record];
        let begin = [jobs, works, job_of_block, book, partial, searches, record];
        self.launch("solve_begin", grid, block, &begin)?;
        let rounds = match plan.solver {
            Solver::Threshold | Solver::Trained => 1,
            Solver::Alternating { .. } => MOST_ROUNDS,
            _ => 0,
        };
        for _ in 0..rounds {
            self.launch("solve_round", grid, block, &common)?;
        }
        if let Some(exact) = &plan.exact {
            for level in 1..=exact.levels {
                let last = (level == exact.levels).into();
                let arguments = [jobs, works, job_of_block, book, searches, last, record];
                self.launch("solve_buckets", grid, block, &arguments)?;
            }
            let survivors = self.address(&exact.survivors).into();
            let gather = [
                jobs,
                works,
                job_of_block,
                book,
                partial,
                searches,
                survivors,
                record,
            ];
            self.launch("solve_gather", grid, block, &gather)?;
            let room = self.address(&exact.room).into();
            let compare = [jobs, works, book, searches, survivors, room, record];
            let sides = [2 * plan.groups as u32, 1, 1];
            self.launch("solve_compare", sides, [COMPARING_THREADS, 1, 1], &compare)?;
        }
        self.launch("solve_end", grid, block, &common)
    }

    pub(crate) fn gradient_of_latent(
        &self,
        latent: &Tensor<D>,
        quantizer: &mut Quantizer<D>,
        gradient: &mut Tensor<D>,
    ) -> Result<(), BackendError> {
        let Quantizer {
            weights, groups, ..
        } = *quantizer;
        let size = weights / groups;
        let latent = self.pointer(latent, weights);
        let gradient = self.pointer(gradient, weights);
        if size == 0 {
            return Ok(());
        }
        let [levels, states, partial, arrived] = [
            &quantizer.levels,
            &quantizer.states,
            &quantizer.partial,
            &quantizer.arrived,
        ]
        .map(|memory| self.address(memory).into());
        let blocks = size.div_ceil(GRADIENT_CHUNK);
        let grid = [blocks as u32, groups as u32, 1];
        match quantizer.solver {
            Solver::Trained => {
                let arguments = [
                    states,
                    levels,
                    gradient.into(),
                    partial,
                    arrived,
                    long(size),
                ];
                self.launch("ttq_gradient", grid, [THREADS, 1, 1], &arguments)
            }
            Solver::Tanh => {
                let works = self.address(&quantizer.partial) + (groups * blocks * 16) as u64;
                let sums = [
                    latent.into(),
                    gradient.into(),
                    partial,
                    arrived,
                    works.into(),
                    long(size),
                ];
                self.launch("tanh_sums", grid, [THREADS, 1, 1], &sums)?;
                let arguments = [
                    latent.into(),
                    gradient.into(),
                    works.into(),
                    int(size),
                    long(weights),
                ];
                self.each("tanh_gradient", weights, &arguments)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn update_scales(
        &self,
        adam: AdamSettings,
        record: &Record<D>,
        quantizer: &mut Quantizer<D>,
    ) -> Result<(), BackendError> {
        if quantizer.solver != Solver::Trained {
            return Ok(());
        }
        let [beta1, rest1, beta2, rest2, epsilon] = rates(adam);
        let arguments = [
            self.record_at(record).into(),
            self.address(&quantizer.states).into(),
            int(quantizer.groups),
            beta1,
            rest1,
            beta2,
            rest2,
            epsilon,
        ];
        self.each("update_scales", 2 * quantizer.groups, &arguments)
    }
}
