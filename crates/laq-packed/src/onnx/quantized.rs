//! How the constants of an ONNX model are quantized, from the nodes that decode them.

use std::collections::BTreeMap;

use super::constant::{Constant, Defect};
use super::proto::Node;
use crate::inspect::Quantization;

/// The most bits whose levels are counted.
const MAX_BITS: u32 = 8;

/// The bits of a level, and the quantization.
type Quantized = (u32, Quantization);

/// The quantization of each constant that is the weight of a node, by its place in `constants`; the
/// first node decides. None for what is computed when the model runs, or has its elements elsewhere.
pub(super) fn quantizations(
    nodes: &[Node],
    constants: &[Constant<'_>],
) -> Result<BTreeMap<usize, Option<Quantized>>, Defect> {
    let constants = Constants::new(nodes, constants);
    let mut found = BTreeMap::new();
    for node in nodes {
        let (weight, decode): (_, Decode) = match node.op_type.as_str() {
            "DequantizeLinear" => (constants.index(node, 0), dequantize_linear),
            "IntQuant" | "Quant" => (constants.index(node, 0), int_quant),
            "BipolarQuant" => (constants.index(node, 0), bipolar_quant),
            "Gather" => (constants.cast_index(node, 1), gather),
            _ => continue,
        };
        let Some(index) = weight else {
            continue;
        };
        let weight = &constants.all[index];
        // What has no elements here would justify scales of any number.
        if weight.elements > 0 && weight.external.is_none() && !found.contains_key(&index) {
            found.insert(index, decode(node, weight, &constants)?);
        }
    }
    Ok(found)
}

type Decode = fn(&Node, &Constant<'_>, &Constants<'_>) -> Result<Option<Quantized>, Defect>;

/// The constants of a graph by name.
struct Constants<'a> {
    all: &'a [Constant<'a>],
    by_name: BTreeMap<&'a str, usize>,
    /// The same, and the outputs of nodes `Cast`.
    with_casts: BTreeMap<&'a str, usize>,
}

impl<'a> Constants<'a> {
    fn new(nodes: &'a [Node], all: &'a [Constant<'a>]) -> Self {
        let names = all.iter().enumerate();
        let by_name: BTreeMap<_, _> = names.map(|(at, constant)| (constant.name, at)).collect();
        let mut with_casts = by_name.clone();
        for node in nodes.iter().filter(|node| node.op_type == "Cast") {
            if let (Some(input), Some(output)) = (node.input.first(), node.output.first())
                && let Some(&at) = with_casts.get(input.as_str())
            {
                with_casts.entry(output).or_insert(at);
            }
        }
        Self {
            all,
            by_name,
            with_casts,
        }
    }

    fn index(&self, node: &Node, input: usize) -> Option<usize> {
        self.by_name.get(node.input.get(input)?.as_str()).copied()
    }

    /// An input whose type does not matter: integers of few bits are cast before they are indices.
    fn cast_index(&self, node: &Node, input: usize) -> Option<usize> {
        (self.with_casts.get(node.input.get(input)?.as_str())).copied()
    }

    /// An input of floats.
    fn floats(&self, node: &Node, input: usize) -> Option<&Constant<'a>> {
        self.cast_index(node, input).map(|index| &self.all[index])
    }

    /// An input of one element.
    fn scalar(&self, node: &Node, input: usize) -> Option<f32> {
        let constant = self.floats(node, input)?;
        (constant.elements == 1)
            .then(|| constant.floats())?
            .map(|values| values[0])
    }
}

/// ŵ = scale · (q − zero point), with a scale for the tensor, for each index of an axis, or for each
/// block along an axis.
fn dequantize_linear(
    node: &Node,
    weight: &Constant<'_>,
    constants: &Constants<'_>,
) -> Result<Option<Quantized>, Defect> {
    let Some(scale) = constants.floats(node, 1) else {
        return Ok(None);
    };
    let groups = Groups::of_scale(node, weight, scale)?;
    let Some(scales) = scale.floats() else {
        return Ok(None);
    };
    let mut quantization = quantization(scales);
    let Some(integer) = weight.integers() else {
        return Ok(Some((weight.bits, quantization)));
    };
    let mut zero_points = Vec::new();
    if node.input.get(2).is_some_and(|name| !name.is_empty()) {
        let Some(zero) = constants.index(node, 2) else {
            return Ok(None);
        };
        let zero = &constants.all[zero];
        if (zero.dtype, zero.elements) != (weight.dtype, scale.elements) {
            return Err(Defect {
                name: weight.name.into(),
                found: format!("{} zero points of {}", zero.elements, zero.dtype),
                expected: format!("{} of {}", scale.elements, weight.dtype),
            });
        }
        let Some(integer) = zero.integers() else {
            return Ok(None);
        };
        zero_points.extend((0..zero.elements).map(integer));
    }
    if weight.bits <= MAX_BITS {
        let mut histogram = Histogram([0; 511]);
        for index in 0..weight.elements {
            let zero_point = zero_points.get(groups.of(index)).unwrap_or(&0);
            histogram.count(integer(index) - zero_point);
        }
        quantization = histogram.of(quantization);
    }
    if zero_points.iter().any(|zero_point| *zero_point != 0) {
        quantization.zero_points = zero_points;
    }
    Ok(Some((weight.bits, quantization)))
}

/// Weights in f32 that QONNX rounds to integers.
fn int_quant(
    node: &Node,
    weight: &Constant<'_>,
    constants: &Constants<'_>,
) -> Result<Option<Quantized>, Defect> {
    let int = |name: &str, default| node.find(name).and_then(|a| a.i).unwrap_or(default) != 0;
    let rounding = node.find("rounding_mode").and_then(|a| a.s.as_deref());
    let (Some(zero), Some(bits)) = (constants.scalar(node, 2), constants.scalar(node, 3)) else {
        return Ok(None);
    };
    let simple = (1.0..=MAX_BITS as f32).contains(&bits) && bits.fract() == 0.0;
    if !simple || rounding.is_some_and(|mode| mode != b"ROUND") {
        return Ok(None);
    }
    let levels = (1 << bits as u32) as f32;
    let narrow = f32::from(u8::from(int("narrow", 0)));
    let (lowest, highest) = match int("signed", 1) {
        true => (narrow - levels / 2.0, levels / 2.0 - 1.0),
        false => (0.0, levels - 1.0 - narrow),
    };
    if !(lowest..=highest).contains(&zero) || zero.fract() != 0.0 {
        return Ok(None);
    }
    let level =
        |w: f32, scale: f32| (w / scale + zero).round_ties_even().clamp(lowest, highest) - zero;
    let found = rounded(node, weight, constants, &level);
    Ok(found.map(|mut quantization| {
        if zero != 0.0 {
            quantization.zero_points = vec![zero as i32; quantization.groups];
        }
        (bits as u32, quantization)
    }))
}

/// Weights in f32 of which QONNX takes the sign.
fn bipolar_quant(
    node: &Node,
    weight: &Constant<'_>,
    constants: &Constants<'_>,
) -> Result<Option<Quantized>, Defect> {
    let level = |w: f32, _| if w >= 0.0 { 1.0 } else { -1.0 };
    let found = rounded(node, weight, constants, &level);
    Ok(found.map(|quantization| (1, quantization)))
}

/// The quantization of weights whose `level` is a function of weight and scale; `None` with scales
/// along several axes, and for weights without a level.
fn rounded(
    node: &Node,
    weight: &Constant<'_>,
    constants: &Constants<'_>,
    level: &dyn Fn(f32, f32) -> f32,
) -> Option<Quantization> {
    let scale = constants.floats(node, 1)?;
    let groups = Groups::of_broadcast(weight, scale)?;
    let (weights, scales) = (weight.floats()?, scale.floats()?);
    let mut histogram = Histogram([0; 511]);
    for (index, weight) in weights.into_iter().enumerate() {
        let level = level(weight, scales[groups.of(index)]);
        if level.is_nan() {
            return None;
        }
        histogram.count(level as i32);
    }
    Some(histogram.of(quantization(scales)))
}

/// Values of a table, as weights with a scale for each sign are exported.
fn gather(
    node: &Node,
    codes: &Constant<'_>,
    constants: &Constants<'_>,
) -> Result<Option<Quantized>, Defect> {
    let Some(table) = constants.floats(node, 0) else {
        return Ok(None);
    };
    if table.shape.len() != 1 || table.elements > 1 << MAX_BITS {
        return Ok(None);
    }
    let (Some(values), Some(code)) = (table.floats(), codes.integers()) else {
        return Ok(None);
    };
    let mut counts = vec![0; values.len()];
    for index in 0..codes.elements {
        let code = code(index) as isize;
        // Negative indices count from the end.
        let end = if code < 0 { values.len() } else { 0 };
        let count = counts.get_mut(end.wrapping_add_signed(code));
        *count.ok_or_else(|| Defect {
            name: codes.name.into(),
            found: format!("the index {code}"),
            expected: format!("one of the {} values of {:?}", table.elements, table.name),
        })? += 1;
    }
    let mut levels: Vec<(f32, u64)> = values.into_iter().zip(counts).collect();
    levels.sort_by(|a, b| a.0.total_cmp(&b.0));
    levels.dedup_by(|next, level| {
        let same = next.0 == level.0;
        level.1 += if same { next.1 } else { 0 };
        same
    });
    let quantization = quantization(vec![1.0]).with_levels(levels);
    Ok(Some((codes.bits, quantization)))
}

fn quantization(scales: Vec<f32>) -> Quantization {
    Quantization::of_scales(scales.len(), scales)
}

/// The levels of a tensor, from −255 to 255.
struct Histogram([u64; 511]);

impl Histogram {
    fn count(&mut self, level: i32) {
        self.0[(level + 255) as usize] += 1;
    }

    fn of(self, quantization: Quantization) -> Quantization {
        let levels = (-255..).zip(self.0).filter(|(_, count)| *count > 0);
        quantization.with_levels(levels.map(|(level, count)| (level as f32, count)))
    }
}

/// Which scale an element has.
struct Groups {
    /// Sizes of the axis of the scales, and of the product of all axes after it.
    size: usize,
    inner: usize,
    /// Elements along the axis that share a scale, where scales also differ along all other axes.
    block: Option<usize>,
}

impl Groups {
    const ONE: Self = Self {
        size: 1,
        inner: 1,
        block: None,
    };

    /// The groups of `DequantizeLinear`.
    fn of_scale(node: &Node, weight: &Constant<'_>, scale: &Constant<'_>) -> Result<Self, Defect> {
        if scale.elements == 1 {
            return Ok(Self::ONE);
        }
        let attribute = |name| node.find(name).and_then(|attribute| attribute.i);
        let (axis, rank) = (attribute("axis").unwrap_or(1), weight.shape.len());
        let index = match axis {
            ..0 => axis.checked_add_unsigned(rank as u64),
            _ => Some(axis),
        };
        let index = index.and_then(|index| usize::try_from(index).ok());
        let defect = |expected: String| Defect {
            name: weight.name.into(),
            found: format!("scales of shape {:?} along axis {axis}", scale.shape),
            expected,
        };
        let Some(index) = index.filter(|index| *index < rank) else {
            return Err(defect(format!(
                "one scale, or an axis of the shape {:?}",
                weight.shape
            )));
        };
        let block = attribute("block_size").and_then(|block| usize::try_from(block).ok());
        let block = block.filter(|block| *block > 0);
        let mut expected = weight.shape.clone();
        match block {
            Some(block) => expected[index] = expected[index].div_ceil(block),
            None => expected = vec![expected[index]],
        }
        if scale.shape != expected {
            return Err(defect(format!("shape {expected:?}")));
        }
        Ok(Self {
            size: weight.shape[index],
            inner: weight.shape[index + 1..].iter().product(),
            block,
        })
    }

    /// The groups of a scale that is broadcast as by numpy; `None` if it differs along several axes.
    fn of_broadcast(weight: &Constant<'_>, scale: &Constant<'_>) -> Option<Self> {
        if scale.elements == 1 {
            return Some(Self::ONE);
        }
        let axis = scale.shape.iter().position(|size| *size != 1)?;
        let after = scale.shape.len() - axis;
        let index = weight.shape.len().checked_sub(after)?;
        let fits = scale.elements == scale.shape[axis] && scale.elements == weight.shape[index];
        fits.then(|| Self {
            size: scale.elements,
            inner: weight.shape[index + 1..].iter().product(),
            block: None,
        })
    }

    /// The scale of an element.
    fn of(&self, index: usize) -> usize {
        let (outer, within) = (
            index / self.inner / self.size,
            index / self.inner % self.size,
        );
        match self.block {
            None => within,
            Some(block) => {
                let blocks = self.size.div_ceil(block);
                (outer * blocks + within / block) * self.inner + index % self.inner
            }
        }
    }
}
