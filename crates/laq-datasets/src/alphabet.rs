//! The symbols of a text: which bytes occur, and the number that stands for each.

use thiserror::Error;

/// The distinct bytes of a text in ascending order; a symbol is the index of its byte.
///
/// Symbols are bytes as they stand in the file, carriage returns and byte-order mark included
/// (paper §5), so there are at most 256 of them and every symbol fits a `u8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet {
    bytes: Vec<u8>,
}

/// A byte or a symbol that an [`Alphabet`] does not have, or bytes that are no alphabet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SymbolError {
    /// A text to encode has a byte that the alphabet lacks.
    #[error(
        "byte 0x{byte:02x} ({:?}) at offset {offset} is not one of the {symbols} symbols of the alphabet; \
         use a text without it, or train on a text that has it",
        char::from(*byte)
    )]
    UnknownByte {
        /// The byte that has no symbol.
        byte: u8,
        /// Where it first stands, in bytes from the start.
        offset: usize,
        /// Number of symbols in the alphabet.
        symbols: usize,
    },
    /// A symbol to decode is not below the number of symbols.
    #[error(
        "symbol {symbol} at position {position} is not below {symbols}, the size of the alphabet"
    )]
    UnknownSymbol {
        /// The symbol that stands for no byte.
        symbol: u8,
        /// Where it first stands.
        position: usize,
        /// Number of symbols in the alphabet.
        symbols: usize,
    },
    /// Bytes that were given as an alphabet are empty, repeated or out of order.
    #[error("an alphabet is at least one byte, each once, in ascending order; found {found:?}")]
    NotAnAlphabet {
        /// The bytes given.
        found: Vec<u8>,
    },
}

impl Alphabet {
    /// The distinct bytes of all `texts` together.
    pub fn of(texts: &[&[u8]]) -> Self {
        let mut seen = [false; 256];
        for text in texts {
            for &byte in *text {
                seen[usize::from(byte)] = true;
            }
        }
        Self {
            bytes: (0..=255).filter(|&byte| seen[usize::from(byte)]).collect(),
        }
    }

    /// An alphabet from its own [`bytes`](Self::bytes), as a checkpoint keeps them.
    ///
    /// # Errors
    ///
    /// [`SymbolError::NotAnAlphabet`] if `bytes` is empty or not strictly ascending.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SymbolError> {
        if bytes.is_empty() || !bytes.is_sorted_by(|a, b| a < b) {
            return Err(SymbolError::NotAnAlphabet { found: bytes });
        }
        Ok(Self { bytes })
    }

    /// The bytes in ascending order; symbol `i` stands for `bytes()[i]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no symbols, which is so for the alphabet of an empty text alone.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes to symbols.
    ///
    /// # Errors
    ///
    /// [`SymbolError::UnknownByte`] names the first byte that the alphabet lacks, and its offset.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u8>, SymbolError> {
        let mut symbol_of = [None; 256];
        for (symbol, &byte) in (0..=255).zip(&self.bytes) {
            symbol_of[usize::from(byte)] = Some(symbol);
        }
        text.iter()
            .enumerate()
            .map(|(offset, &byte)| {
                let symbols = self.len();
                symbol_of[usize::from(byte)].ok_or(SymbolError::UnknownByte {
                    byte,
                    offset,
                    symbols,
                })
            })
            .collect()
    }

    /// Symbols to bytes.
    ///
    /// # Errors
    ///
    /// [`SymbolError::UnknownSymbol`] names the first symbol that is not below [`len`](Self::len).
    pub fn decode(&self, symbols: &[u8]) -> Result<Vec<u8>, SymbolError> {
        symbols
            .iter()
            .enumerate()
            .map(|(position, &symbol)| {
                self.bytes
                    .get(usize::from(symbol))
                    .copied()
                    .ok_or(SymbolError::UnknownSymbol {
                        symbol,
                        position,
                        symbols: self.len(),
                    })
            })
            .collect()
    }
}
