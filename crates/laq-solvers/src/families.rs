//! The table of methods, and that of file formats.

use std::ops::RangeInclusive;

use crate::blocks::ScaleGrid;
use crate::codebook::{Bits, Codebook};
use crate::quantizer::Solver;

/// A method for any number of bits: one row of the table of methods.
#[derive(Debug)]
pub struct Family {
    /// The id, with M for the number of bits if there is one: `lat-a`, `laq-linear-M`,
    /// `laq-linear-M-e`.
    pub id: &'static str,
    /// Other accepted names, among them those of the authors' code.
    pub aliases: &'static [&'static str],
    /// The values of M.
    pub bits: Option<RangeInclusive<u8>>,
    /// Description of the levels.
    pub codebook: &'static str,
    /// Description of the scale.
    pub scale: &'static str,
    /// Description of the solver.
    pub solver: &'static str,
    /// The publication.
    pub source: &'static str,
    /// The weights of a block, for a format.
    pub block: Option<usize>,
    pub(crate) quantizer: Option<(Solver, Levels)>,
}

/// The codebook of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Levels {
    Binary,
    Ternary,
    Linear,
    Logarithmic,
    Uniform,
    Integers(i16, i16),
    Iq4Nl,
    E2m1,
}

/// The values of IQ4_NL.
const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

impl Levels {
    /// The codebook, with a number of bits where it has a choice.
    pub(crate) fn codebook(self, bits: Bits) -> Codebook {
        match self {
            Self::Binary => Codebook::Binary,
            Self::Ternary => Codebook::Ternary,
            Self::Linear => Codebook::Linear { bits },
            Self::Logarithmic => Codebook::Logarithmic { bits },
            Self::Uniform => Codebook::Uniform { bits },
            Self::Integers(low, high) => Codebook::integers(low, high).expect("two or more"),
            Self::Iq4Nl => Codebook::table(IQ4_NL).expect("they rise"),
            Self::E2m1 => Codebook::e2m1(),
        }
    }
}

const BITS: Option<RangeInclusive<u8>> = Some(2..=8);
const BINARY: &str = "{-1, 1}";
const TERNARY: &str = "{-1, 0, 1}";
const LINEAR: &str = "{0, ±1/k, ..., ±1}, k = 2^(bits-1) - 1";
const LOGARITHMIC: &str = "{0, ±2^-(k-1), ..., ±1/2, ±1}, k = 2^(bits-1) - 1";
const ONE_SCALE: &str = "one, from the loss";
const TWO_SCALES: &str = "two, from the loss";
const HOU_2018: &str = "Hou and Kwok 2018 (arXiv 1802.08635)";
const THIS_PROJECT: &str = "this project; not in the paper";

/// In the order of the paper's tables, then what is not in the paper.
static FAMILIES: [Family; 17] = [
    Family {
        id: "full",
        aliases: &["FPN"],
        bits: None,
        codebook: "full precision",
        scale: "none",
        solver: "none",
        source: HOU_2018,
        block: None,
        quantizer: None,
    },
    Family {
        id: "binary-connect",
        aliases: &["BinaryConnect"],
        bits: None,
        codebook: BINARY,
        scale: "1",
        solver: "sign of the weight",
        source: "Courbariaux et al. 2015 (arXiv 1511.00363)",
        block: None,
        quantizer: Some((Solver::Signs, Levels::Binary)),
    },
    Family {
        id: "bwn",
        aliases: &["BWN"],
        bits: None,
        codebook: BINARY,
        scale: "mean magnitude",
        solver: "closed form",
        source: "Rastegari et al. 2016 (arXiv 1603.05279)",
        block: None,
        quantizer: Some((Solver::MeanMagnitude, Levels::Binary)),
    },
    Family {
        id: "lab",
        aliases: &["LAB"],
        bits: None,
        codebook: BINARY,
        scale: ONE_SCALE,
        solver: "closed form, exact",
        source: "Hou, Yao and Kwok 2017 (arXiv 1611.01600)",
        block: None,
        quantizer: Some((Solver::WeightedSigns, Levels::Binary)),
    },
    Family {
        id: "twn",
        aliases: &["TWN"],
        bits: None,
        codebook: TERNARY,
        scale: "mean magnitude above the threshold",
        solver: "threshold at 0.7 of the mean magnitude",
        source: "Li, Zhang and Liu 2016 (arXiv 1605.04711)",
        block: None,
        quantizer: Some((Solver::Threshold, Levels::Ternary)),
    },
    Family {
        id: "lat-e",
        aliases: &["LATe"],
        bits: None,
        codebook: TERNARY,
        scale: ONE_SCALE,
        solver: "exact",
        source: HOU_2018,
        block: None,
        quantizer: Some((Solver::Exact { two_scales: false }, Levels::Ternary)),
    },
    Family {
        id: "lat-a",
        aliases: &["LATa"],
        bits: None,
        codebook: TERNARY,
        scale: ONE_SCALE,
        solver: "alternating",
        source: HOU_2018,
        block: None,
        quantizer: Some((Solver::Alternating { two_scales: false }, Levels::Ternary)),
    },
    Family {
        id: "ttq",
        aliases: &["TTQ"],
        bits: None,
        codebook: TERNARY,
        scale: "two, trained",
        solver: "threshold at 0.05 of the largest magnitude",
        source: "Zhu et al. 2017 (arXiv 1612.01064)",
        block: None,
        quantizer: Some((Solver::Trained, Levels::Ternary)),
    },
    Family {
        id: "lat2-e",
        aliases: &["LAT2e"],
        bits: None,
        codebook: TERNARY,
        scale: TWO_SCALES,
        solver: "exact, each sign",
        source: HOU_2018,
        block: None,
        quantizer: Some((Solver::Exact { two_scales: true }, Levels::Ternary)),
    },
    Family {
        id: "lat2-a",
        aliases: &["LAT2a"],
        bits: None,
        codebook: TERNARY,
        scale: TWO_SCALES,
        solver: "alternating, each sign",
        source: HOU_2018,
        block: None,
        quantizer: Some((Solver::Alternating { two_scales: true }, Levels::Ternary)),
    },
    Family {
        id: "dorefa-M",
        aliases: &[],
        bits: BITS,
        codebook: "{±1/(2^bits - 1), ±3/(2^bits - 1), ..., ±1}",
        scale: "1",
        solver: "rounding of tanh",
        source: "Zhou et al. 2016 (arXiv 1606.06160)",
        block: None,
        quantizer: Some((Solver::Tanh, Levels::Uniform)),
    },
    Family {
        id: "laq-linear-M",
        aliases: &["LAQ_linear"],
        bits: BITS,
        codebook: LINEAR,
        scale: ONE_SCALE,
        solver: "alternating",
        source: HOU_2018,
        block: None,
        quantizer: Some((Solver::Alternating { two_scales: false }, Levels::Linear)),
    },
    Family {
        id: "laq-log-M",
        aliases: &["LAQ_log"],
        bits: BITS,
        codebook: LOGARITHMIC,
        scale: ONE_SCALE,
        solver: "alternating",
        source: HOU_2018,
        block: None,
        quantizer: Some((
            Solver::Alternating { two_scales: false },
            Levels::Logarithmic,
        )),
    },
    Family {
        id: "laq-linear-M-e",
        aliases: &[],
        bits: BITS,
        codebook: LINEAR,
        scale: ONE_SCALE,
        solver: "exact",
        source: THIS_PROJECT,
        block: None,
        quantizer: Some((Solver::Exact { two_scales: false }, Levels::Linear)),
    },
    Family {
        id: "laq-log-M-e",
        aliases: &[],
        bits: BITS,
        codebook: LOGARITHMIC,
        scale: ONE_SCALE,
        solver: "exact",
        source: THIS_PROJECT,
        block: None,
        quantizer: Some((Solver::Exact { two_scales: false }, Levels::Logarithmic)),
    },
    Family {
        id: "absmean",
        aliases: &["BitNet"],
        bits: None,
        codebook: TERNARY,
        scale: "mean magnitude",
        solver: "rounding to nearest",
        source: "BitNet b1.58: Ma et al. 2024 (arXiv 2402.17764)",
        block: None,
        quantizer: Some((Solver::MeanMagnitude, Levels::Ternary)),
    },
    Family {
        id: "absmax-M",
        aliases: &[],
        bits: BITS,
        codebook: LINEAR,
        scale: "largest magnitude",
        solver: "rounding to nearest",
        source: "such as LLM.int8(): Dettmers et al. 2022 (arXiv 2208.07339)",
        block: None,
        quantizer: Some((Solver::LargestMagnitude, Levels::Linear)),
    },
];

/// A file format as a method: its values and scales, with the optimum in every block.
const fn format(
    id: &'static str,
    (levels, codebook): (Levels, &'static str),
    grid: ScaleGrid,
    block: usize,
    source: &'static str,
) -> Family {
    Family {
        id,
        aliases: &[],
        bits: None,
        codebook,
        scale: match grid {
            ScaleGrid::E8m0 => "a power of two (E8M0), from the loss",
            ScaleGrid::E4m3 => "in E4M3, from the loss",
            _ => "in f16, from the loss",
        },
        solver: "exact",
        source,
        block: Some(block),
        quantizer: Some((Solver::ExactOnGrid { grid }, levels)),
    }
}

const GGUF: &str = "GGUF (llama.cpp)";
const COMPRESSED: &str = "compressed-tensors (vLLM)";
const SIGNS: (Levels, &str) = (Levels::Binary, BINARY);
const TRITS: (Levels, &str) = (Levels::Ternary, TERNARY);
const INT2: (Levels, &str) = (Levels::Integers(-2, 1), "{-2, ..., 1}");
const INT3: (Levels, &str) = (Levels::Integers(-4, 3), "{-4, ..., 3}");
const INT4: (Levels, &str) = (Levels::Integers(-8, 7), "{-8, ..., 7}");
const E2M1: (Levels, &str) = (Levels::E2m1, "{0, ±0.5, ±1, ±1.5, ±2, ±3, ±4, ±6}");

/// By bits; those of GGUF first.
static FORMATS: [Family; 17] = [
    format("q1_0", SIGNS, ScaleGrid::F16, 128, GGUF),
    format("tq1_0", TRITS, ScaleGrid::F16, 256, GGUF),
    format("tq2_0", TRITS, ScaleGrid::F16, 256, GGUF),
    format(
        "q2_0",
        (Levels::Integers(-1, 2), "{-1, ..., 2}"),
        ScaleGrid::F16,
        64,
        GGUF,
    ),
    format("q4_0", INT4, ScaleGrid::F16, 32, GGUF),
    format(
        "iq4_nl",
        (Levels::Iq4Nl, "16 values from -127 to 113"),
        ScaleGrid::F16,
        32,
        GGUF,
    ),
    format("mxfp4", E2M1, ScaleGrid::E8m0, 32, "OCP MX; GGUF"),
    format("nvfp4", E2M1, ScaleGrid::E4m3, 16, "NVIDIA; GGUF"),
    format("int2-g32", INT2, ScaleGrid::F16, 32, COMPRESSED),
    format("int2-g64", INT2, ScaleGrid::F16, 64, COMPRESSED),
    format("int2-g128", INT2, ScaleGrid::F16, 128, COMPRESSED),
    format("int3-g32", INT3, ScaleGrid::F16, 32, COMPRESSED),
    format("int3-g64", INT3, ScaleGrid::F16, 64, COMPRESSED),
    format("int3-g128", INT3, ScaleGrid::F16, 128, COMPRESSED),
    format("int4-g32", INT4, ScaleGrid::F16, 32, COMPRESSED),
    format("int4-g64", INT4, ScaleGrid::F16, 64, COMPRESSED),
    format("int4-g128", INT4, ScaleGrid::F16, 128, COMPRESSED),
];

/// All families, in the order of the paper's tables, then those that the paper does not have.
pub fn families() -> &'static [Family] {
    &FAMILIES
}

/// The file formats that are methods: trained in one, a network is stored without loss. Each has its
/// own blocks, see [`Family::block`].
pub fn formats() -> &'static [Family] {
    &FORMATS
}

/// The format with this id, ignoring case.
pub fn format_named(name: &str) -> Option<&'static Family> {
    let mut formats = formats().iter();
    formats.find(|format| format.id.eq_ignore_ascii_case(name))
}

/// The ids of all formats, for messages.
pub fn format_ids() -> impl Iterator<Item = &'static str> + Clone {
    formats().iter().map(|format| format.id)
}

impl Family {
    /// The id with a number of bits for M.
    pub(crate) fn id_with_bits(&self, bits: u8) -> String {
        self.id.replace('M', &bits.to_string())
    }

    /// Whether `name` is the id or an alias, without the number of bits.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        let plain = self.id.replace("-M", "");
        let mut names = self.aliases.iter().copied().chain([self.id, &plain]);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }
}
