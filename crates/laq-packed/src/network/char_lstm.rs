//! The character network of the paper: an LSTM layer and a softmax layer.

use laq_simd::{Isa, math, multiversion};

use super::{NetworkError, Tensors};
use crate::dense::{Activations, Matrix, whole};
use crate::matrix::DENSE_DEPTH;

/// A character network.
#[derive(Clone, Debug)]
pub struct CharLstm {
    pub(super) compute: (Isa, Activations),
    alphabet: Vec<u8>,
    hidden: usize,
    /// V × 4H: the column of `weight_ih` of each character, plus the bias.
    table: Vec<f32>,
    weight_hh: Matrix,
    output: Matrix,
    output_bias: Vec<f32>,
}

/// The state of B sequences between two characters.
#[derive(Clone, Debug)]
pub struct CharLstmState {
    /// B × H
    hidden: Vec<f32>,
    /// B × H
    cell: Vec<f32>,
    /// B × 4H, scratch.
    gates: Vec<f32>,
    batch: usize,
    /// Whether a character was read; before, h is zero.
    begun: bool,
}

impl CharLstm {
    pub(super) fn new(
        tensors: &Tensors<'_>,
        alphabet: Vec<u8>,
        hidden: usize,
    ) -> Result<Self, NetworkError> {
        let symbols = alphabet.len();
        if symbols == 0 || !alphabet.is_sorted_by(|a, b| a < b) {
            return Err(tensors.invalid("the alphabet is empty or does not rise"));
        }
        let Some(rows) = hidden.checked_mul(4).filter(|rows| *rows > 0) else {
            return Err(tensors.invalid(format!("hidden = {hidden}")));
        };
        let weight_ih = tensors.values("lstm.weight_ih", &[rows, symbols])?;
        let bias = tensors.values("lstm.bias", &[rows])?;
        let mut table = vec![0.0; weight_ih.len()];
        for (token, table) in table.chunks_exact_mut(rows).enumerate() {
            for (row, value) in table.iter_mut().enumerate() {
                *value = weight_ih[row * symbols + token] + bias[row];
            }
        }
        Ok(Self {
            compute: (Isa::selected(), Activations::F32),
            weight_hh: tensors.matrix("lstm.weight_hh", &[rows, hidden])?,
            output: tensors.matrix("output.weight", &[symbols, hidden])?,
            output_bias: tensors.values("output.bias", &[symbols])?,
            alphabet,
            hidden,
            table,
        })
    }

    /// The byte of each character.
    pub fn alphabet(&self) -> &[u8] {
        &self.alphabet
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`NetworkError::Input`] for a byte that is not in the alphabet.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u8>, NetworkError> {
        let token = |(offset, byte): (usize, &u8)| {
            self.alphabet
                .binary_search(byte)
                .map(|token| token as u8)
                .map_err(|_| NetworkError::Input {
                    found: format!(
                        "byte {byte:#04x} ({:?}) at offset {offset}",
                        char::from(*byte)
                    ),
                    expected: format!(
                        "one of the {} characters of the alphabet: {:?}",
                        self.alphabet.len(),
                        String::from_utf8_lossy(&self.alphabet)
                    ),
                })
        };
        text.iter().enumerate().map(token).collect()
    }

    /// The state of `batch` sequences before their first character.
    pub fn state(&self, batch: usize) -> CharLstmState {
        CharLstmState {
            hidden: vec![0.0; batch * self.hidden],
            cell: vec![0.0; batch * self.hidden],
            gates: vec![0.0; batch * 4 * self.hidden],
            batch,
            begun: false,
        }
    }

    /// Reads one character of each sequence, and writes the logits of the next, B × V.
    ///
    /// # Errors
    /// [`NetworkError::Input`] for a token that is not below V; [`NetworkError::NotFinite`] with
    /// 8-bit activations.
    ///
    /// # Panics
    /// If there is not one token per sequence, or V logits.
    pub fn step(
        &self,
        state: &mut CharLstmState,
        tokens: &[u8],
        logits: &mut [f32],
    ) -> Result<(), NetworkError> {
        self.advance(state, tokens)?;
        self.logits(&state.hidden, logits)
    }

    /// Reads one character of each sequence.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    ///
    /// # Panics
    /// If there is not one token per sequence.
    pub fn advance(&self, state: &mut CharLstmState, tokens: &[u8]) -> Result<(), NetworkError> {
        assert_eq!(tokens.len(), state.batch, "one token per sequence");
        let (hidden, rows) = (self.hidden, 4 * self.hidden);
        for (gates, &token) in state.gates.chunks_exact_mut(rows).zip(tokens) {
            let start = usize::from(token) * rows;
            let Some(row) = self.table.get(start..start + rows) else {
                return Err(NetworkError::Input {
                    found: format!("token {token}"),
                    expected: format!("tokens below {}", self.alphabet.len()),
                });
            };
            gates.copy_from_slice(row);
        }
        if state.begun {
            let (h, gates) = (&state.hidden, &mut state.gates);
            self.weight_hh
                .product(self.compute, h, state.batch, whole(hidden), true, gates)?;
        }
        state.begun = true;
        let states = state.hidden.chunks_exact_mut(hidden);
        let sequences = states.zip(state.cell.chunks_exact_mut(hidden));
        for (gates, (h, cell)) in state.gates.chunks_exact(rows).zip(sequences) {
            let (i, others) = gates.split_at(hidden);
            let (f, others) = others.split_at(hidden);
            let (g, o) = others.split_at(hidden);
            cell_forward(self.compute.0, i, f, g, o, cell, h);
        }
        Ok(())
    }

    /// The logits of hidden states, R × H to R × V.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    ///
    /// # Panics
    /// If a length does not match.
    pub fn logits(&self, hidden: &[f32], logits: &mut [f32]) -> Result<(), NetworkError> {
        let symbols = self.alphabet.len();
        for logits in logits.chunks_exact_mut(symbols) {
            logits.copy_from_slice(&self.output_bias);
        }
        let rows = logits.len() / symbols;
        self.output
            .product(self.compute, hidden, rows, DENSE_DEPTH, true, logits)?;
        Ok(())
    }

    /// The logits of B sequences of T characters from their beginning, T·B × V, time-major as the
    /// tokens. The bits are those of training, with activations in f32.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    ///
    /// # Panics
    /// If the tokens are not whole rows of `batch`, or there are not V logits for each.
    pub fn sequence_logits(
        &self,
        tokens: &[u8],
        batch: usize,
        logits: &mut [f32],
    ) -> Result<(), NetworkError> {
        assert!(batch > 0 && tokens.len().is_multiple_of(batch));
        let mut state = self.state(batch);
        let mut hidden = Vec::with_capacity(tokens.len() * self.hidden);
        for tokens in tokens.chunks_exact(batch) {
            self.advance(&mut state, tokens)?;
            hidden.extend_from_slice(&state.hidden);
        }
        self.logits(&hidden, logits)
    }
}

multiversion! {
    /// From pre-activations to the cell and the hidden state, in the arithmetic of training.
    fn cell_forward(i: &[f32], f: &[f32], g: &[f32], o: &[f32], cell: &mut [f32], state: &mut [f32]) {
        let width = cell.len();
        let (i, f, g, o) = (&i[..width], &f[..width], &g[..width], &o[..width]);
        let state = &mut state[..width];
        for j in 0..width {
            let input = math::sigmoid(i[j]);
            let forget = math::sigmoid(f[j]);
            let candidate = math::tanh(g[j]);
            cell[j] = forget * cell[j] + input * candidate;
            state[j] = math::sigmoid(o[j]) * math::tanh(cell[j]);
        }
    }
}

/// Draws characters from a network, one at a time.
#[derive(Clone, Debug)]
pub struct Sampler<'a> {
    network: &'a CharLstm,
    state: CharLstmState,
    logits: Vec<f32>,
    /// Scratch: the weights of the characters.
    weights: Vec<f64>,
    temperature: f64,
    /// The state of SplitMix64.
    random: u64,
}

impl CharLstm {
    /// A sampler that has read the prompt. Its draws are a function of the network, the prompt, the
    /// temperature and the seed. At temperature 0 it takes the most likely character.
    ///
    /// # Errors
    /// [`NetworkError::Input`] if the prompt is empty or has a byte outside of the alphabet, or if
    /// the temperature is negative or not finite.
    pub fn sample(
        &self,
        prompt: &[u8],
        temperature: f64,
        seed: u64,
    ) -> Result<Sampler<'_>, NetworkError> {
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(NetworkError::Input {
                found: format!("the temperature {temperature}"),
                expected: "0 or a positive number; 1 draws from the network's distribution".into(),
            });
        }
        let tokens = self.encode(prompt)?;
        let Some((last, others)) = tokens.split_last() else {
            return Err(NetworkError::Input {
                found: "an empty prompt".into(),
                expected: "at least one character".into(),
            });
        };
        let mut sampler = Sampler {
            network: self,
            state: self.state(1),
            logits: vec![0.0; self.alphabet.len()],
            weights: Vec::with_capacity(self.alphabet.len()),
            temperature,
            random: seed,
        };
        for token in others {
            self.advance(&mut sampler.state, &[*token])?;
        }
        sampler.read(*last)?;
        Ok(sampler)
    }
}

impl Sampler<'_> {
    fn read(&mut self, token: u8) -> Result<(), NetworkError> {
        self.network
            .step(&mut self.state, &[token], &mut self.logits)
    }

    /// Draws the next character, and reads it.
    ///
    /// # Errors
    /// As [`CharLstm::step`].
    pub fn draw(&mut self) -> Result<u8, NetworkError> {
        let token = self.choose();
        self.read(token as u8)?;
        Ok(self.network.alphabet[token])
    }

    fn choose(&mut self) -> usize {
        let mut largest = 0;
        for (token, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[largest] {
                largest = token;
            }
        }
        if self.temperature == 0.0 {
            return largest;
        }
        let highest = f64::from(self.logits[largest]);
        let weight = |logit: &f32| ((f64::from(*logit) - highest) / self.temperature).exp();
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(weight));
        let mut left = self.uniform() * self.weights.iter().sum::<f64>();
        for (token, weight) in self.weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        largest
    }

    /// A draw from [0, 1), by SplitMix64 (Steele, Lea and Flood, 2014).
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}
