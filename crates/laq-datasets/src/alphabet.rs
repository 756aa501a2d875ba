//! The symbols of a text: the bytes that occur, and their indices.

use thiserror::Error;

/// The distinct bytes of a text in ascending order; a symbol is the index of its byte.
///
/// Symbols are the bytes of the file, including carriage returns and byte-order mark (paper §5), so
/// there are at most 256 and a symbol fits into a `u8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet {
    bytes: Vec<u8>,
}

/// A byte or symbol that is not in an [`Alphabet`], or bytes that are not an alphabet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SymbolError {
    /// A text contains a byte that is not in the alphabet.
    #[error(
        "byte 0x{byte:02x} ({:?}) at offset {offset} is not one of the {symbols} symbols of the alphabet; \
         use a text without it, or train on a text that has it",
        char::from(*byte)
    )]
    UnknownByte {
        /// The byte.
        byte: u8,
        /// The offset of its first occurrence in bytes.
        offset: usize,
        /// Number of symbols in the alphabet.
        symbols: usize,
    },
    /// A symbol is not below the number of symbols.
    #[error(
        "symbol {symbol} at position {position} is not below {symbols}, the size of the alphabet"
    )]
    UnknownSymbol {
        /// The symbol.
        symbol: u8,
        /// The index of its first occurrence.
        position: usize,
        /// Number of symbols in the alphabet.
        symbols: usize,
    },
    /// The bytes of an alphabet are empty, repeated or not ascending.
    #[error("found the alphabet {found:?}, expected at least one byte, strictly ascending")]
    NotAnAlphabet {
        /// The bytes found.
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

    /// An alphabet from its [`bytes`](Self::bytes), as stored in a checkpoint.
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

    /// Whether there are no symbols: the alphabet of an empty text.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes to symbols.
    ///
    /// # Errors
    ///
    /// [`SymbolError::UnknownByte`] for the first byte that is not in the alphabet.
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
    /// [`SymbolError::UnknownSymbol`] for the first symbol that is not below [`len`](Self::len).
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
