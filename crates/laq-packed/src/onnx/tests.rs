//! Reading constants that the export does not write, and those that contradict themselves.

use std::fs;

use prost::Message;
use tempfile::TempDir;

use super::proto::{
    Attribute, EXTERNAL, Entry, Graph, Model, Node, TensorProto, attribute_type, data_type,
};
use super::{OnnxReadError, float, int, ints, read_onnx};
use crate::inspect::TensorSummary;

const FLOAT: i32 = data_type::FLOAT;
const INT4: i32 = data_type::INT4;

fn read(initializer: Vec<TensorProto>, node: Vec<Node>) -> Result<Vec<TensorSummary>, Defect> {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model.onnx");
    let model = Model {
        ir_version: 10,
        graph: Some(Graph {
            initializer,
            node,
            ..Graph::default()
        }),
        ..Model::default()
    };
    fs::write(&path, model.encode_to_vec()).expect("write");
    match read_onnx(&path) {
        Ok((_, tensors)) => Ok(tensors),
        Err(OnnxReadError::Tensor {
            name,
            found,
            expected,
            ..
        }) => Err((name, found, expected)),
        Err(error) => panic!("{error}"),
    }
}

/// The tensor, what was found and what was expected.
type Defect = (String, String, String);

fn raw(name: &str, data_type: i32, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type,
        dims: dims.to_vec(),
        raw_data: bytes.to_vec().into(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        float_data: values.to_vec(),
        ..raw(name, FLOAT, dims, &[])
    }
}

fn node(op_type: &str, inputs: &[&str], attribute: Vec<Attribute>) -> Node {
    Node {
        op_type: op_type.into(),
        input: inputs.iter().map(|name| (*name).into()).collect(),
        output: vec!["y".into()],
        attribute,
        ..Node::default()
    }
}

fn levels(tensor: &TensorSummary) -> Vec<(f32, f64)> {
    let quantization = tensor.quantization.as_ref().expect("a quantized tensor");
    let levels = quantization.levels.iter();
    levels
        .map(|level| (level.multiplier, level.share))
        .collect()
}

#[test]
fn sizes_that_do_not_fit_the_elements_are_errors() {
    let defect = |tensor: TensorProto| {
        let (name, found, expected) = read(vec![tensor], vec![]).expect_err("a defect");
        assert_eq!(name, "w");
        format!("{found}, expected {expected}")
    };
    for dims in [
        &[i64::MAX, 3][..],
        &[1 << 31, 1 << 31, 4],
        &[1 << 62],
        &[3, -1],
    ] {
        let text = defect(raw("w", FLOAT, dims, &[0; 12]));
        assert!(text.contains(&format!("the shape {dims:?}")), "{text}");
    }
    assert_eq!(
        defect(raw("w", INT4, &[5], &[0; 2])),
        "2 bytes of raw_data, expected 3 for the shape [5]"
    );
    assert_eq!(
        defect(raw("w", FLOAT, &[1 << 40], &[])),
        "0 float_data, expected 1099511627776 for the shape [1099511627776]"
    );
    assert_eq!(
        defect(floats("w", &[2], &[1.0])),
        "1 float_data, expected 2 for the shape [2]"
    );
    let complex = 15;
    assert_eq!(
        defect(raw("w", complex, &[3], &[])),
        "0 double_data, expected 6 for the shape [3]"
    );
    for data_type in [0, -1, 29, i32::MIN] {
        let text = defect(raw("w", data_type, &[], &[]));
        assert!(
            text.starts_with(&format!("the element type {data_type}")),
            "{text}"
        );
    }
}

#[test]
fn every_field_of_elements_is_counted() {
    let string = TensorProto {
        string_data: vec!["four".into(), "".into()],
        ..raw("text", 8, &[2], &[])
    };
    let int64 = TensorProto {
        int64_data: vec![-1, 2, 3],
        ..raw("int64", data_type::INT64, &[3], &[])
    };
    let uint32 = TensorProto {
        uint64_data: vec![1],
        ..raw("uint32", 12, &[1, 1], &[])
    };
    let half = TensorProto {
        int32_data: vec![0x3c00],
        ..raw("half", 10, &[], &[])
    };
    let empty = raw("empty", data_type::INT8, &[0, 3], &[]);
    let found = read(vec![string, int64, uint32, half, empty], vec![]).expect("tensors");
    let found = found.iter().map(|tensor| {
        assert_eq!(tensor.quantization, None);
        (tensor.dtype.as_str(), tensor.bits, tensor.bytes)
    });
    let expected = [
        ("STRING", None, 4),
        ("INT64", Some(64.0), 24),
        ("UINT32", Some(32.0), 4),
        ("FLOAT16", Some(16.0), 2),
        ("INT8", Some(8.0), 0),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn external_elements_are_named_and_not_read() {
    let external = |entries: &[(&str, &str)]| TensorProto {
        data_location: EXTERNAL,
        external_data: (entries.iter())
            .map(|(key, value)| Entry {
                key: (*key).into(),
                value: (*value).into(),
            })
            .collect(),
        ..raw("w", INT4, &[1 << 40], &[])
    };
    let dequantize = node("DequantizeLinear", &["w", "scale"], vec![]);
    let scale = floats("scale", &[], &[0.5]);
    let weight = external(&[("offset", "4096"), ("location", "weights.bin")]);
    let found = read(vec![weight, scale.clone()], vec![dequantize.clone()]).expect("tensors");
    assert_eq!(found[0].external.as_deref(), Some("weights.bin"));
    assert_eq!(found[0].bytes, 1 << 39);
    assert_eq!(found[0].quantization, None);
    let found = read(vec![external(&[]), scale], vec![dequantize]).expect("tensors");
    assert_eq!(found[0].external.as_deref(), Some("unknown"));
    // A scale that is not there.
    let scale = TensorProto {
        dims: vec![],
        data_type: FLOAT,
        name: "scale".into(),
        ..external(&[])
    };
    let weight = raw("w", INT4, &[2], &[0x21]);
    let dequantize = node("DequantizeLinear", &["w", "scale"], vec![]);
    let found = read(vec![weight, scale], vec![dequantize]).expect("tensors");
    assert_eq!(found[0].quantization, None);
}

#[test]
fn scales_and_zero_points_that_do_not_fit_are_errors() {
    let weight = raw("w", INT4, &[2, 3], &[0x21, 0x43, 0x65]);
    let defect = |scale: TensorProto, zero: TensorProto, attributes: &[(&str, i64)]| {
        let attributes = attributes.iter().map(|(name, value)| int(name, *value));
        let inputs = ["w", scale.name.as_str(), zero.name.as_str()];
        let dequantize = node("DequantizeLinear", &inputs, attributes.collect());
        let (name, found, expected) =
            read(vec![weight.clone(), scale, zero], vec![dequantize]).expect_err("a defect");
        assert_eq!(name, "w");
        format!("{found}, expected {expected}")
    };
    let scale = |dims: &[i64]| {
        floats(
            "scale",
            dims,
            &vec![1.0; dims.iter().product::<i64>() as usize],
        )
    };
    let none = || raw("", FLOAT, &[0], &[]);
    assert_eq!(
        defect(scale(&[2]), none(), &[]),
        "scales of shape [2] along axis 1, expected shape [3]"
    );
    assert_eq!(
        defect(scale(&[3]), none(), &[("axis", 0)]),
        "scales of shape [3] along axis 0, expected shape [2]"
    );
    for axis in [2, -3, i64::MIN, i64::MAX] {
        let text = defect(scale(&[2]), none(), &[("axis", axis)]);
        assert!(
            text.ends_with("expected one scale, or an axis of the shape [2, 3]"),
            "{text}"
        );
    }
    assert_eq!(
        defect(scale(&[2, 3]), none(), &[("block_size", 2)]),
        "scales of shape [2, 3] along axis 1, expected shape [2, 2]"
    );
    assert_eq!(
        defect(scale(&[0]), none(), &[]),
        "scales of shape [0] along axis 1, expected shape [3]"
    );
    let zero = |kind: i32, dims: &[i64], bytes: &[u8]| raw("zero", kind, dims, bytes);
    assert_eq!(
        defect(scale(&[3]), zero(INT4, &[2], &[0]), &[]),
        "2 zero points of INT4, expected 3 of INT4"
    );
    assert_eq!(
        defect(scale(&[]), zero(data_type::INT8, &[], &[0]), &[]),
        "1 zero points of INT8, expected 1 of INT4"
    );
}

fn named(output: &str, node: Node) -> Node {
    Node {
        output: vec![output.into()],
        ..node
    }
}

#[test]
fn numbers_of_nodes_are_constants() {
    let constant =
        |name: &str, attribute: Attribute| named(name, node("Constant", &[], vec![attribute]));
    let scales = Attribute {
        name: "value_floats".into(),
        floats: vec![0.5, 2.0],
        ..Attribute::default()
    };
    let nodes = vec![
        constant("scale", float("value_float", 0.25)),
        constant("scales", scales),
        constant("axis", int("value_int", 1)),
        constant("axes", ints("value_ints", &[1, 2, 3])),
        node("DequantizeLinear", &["w", "scale"], vec![]),
        node("DequantizeLinear", &["v", "scales"], vec![int("axis", 0)]),
    ];
    let weight = |name: &str| raw(name, INT4, &[2, 1], &[0x21]);
    let found = read(vec![weight("w"), weight("v")], nodes).expect("tensors");
    for (tensor, scales) in found.iter().zip([&[0.25][..], &[0.5, 2.0]]) {
        let quantization = tensor.quantization.as_ref().expect("a quantized tensor");
        assert_eq!(quantization.scales, scales);
        assert_eq!(levels(tensor), [(1.0, 0.5), (2.0, 0.5)]);
    }
    let others = found[2..].iter();
    let others = others.map(|tensor| (&tensor.name[..], &tensor.dtype[..], &tensor.shape[..]));
    let expected: [(_, _, &[usize]); 4] = [
        ("scale", "FLOAT", &[]),
        ("scales", "FLOAT", &[2]),
        ("axis", "INT64", &[]),
        ("axes", "INT64", &[3]),
    ];
    assert_eq!(others.collect::<Vec<_>>(), expected);
}

/// Which integers a `Cast` gives depends on its types.
#[test]
fn levels_that_are_cast_are_not_counted() {
    let cast = |input: &str, output: &str, to: i32| {
        named(output, node("Cast", &[input], vec![int("to", to.into())]))
    };
    let scale = || floats("scale", &[], &[0.5]);
    let tensors = |weight: i32, zero: i32| {
        vec![
            raw(
                "w",
                weight,
                &[2],
                &[0x21, 0xff][..if weight == INT4 { 1 } else { 2 }],
            ),
            raw("zero", zero, &[], &[1]),
            scale(),
        ]
    };
    let uint8 = 2;
    for (weight, zero, inputs) in [
        (INT4, data_type::INT8, ["w.cast", "scale", "zero"]),
        (uint8, data_type::INT8, ["w.cast", "scale", "zero"]),
        (data_type::INT8, INT4, ["w", "scale", "zero.cast"]),
    ] {
        let nodes = vec![
            cast("w", "w.cast", data_type::INT8),
            cast("zero", "zero.cast", data_type::INT8),
            node("DequantizeLinear", &inputs, vec![]),
        ];
        let found = read(tensors(weight, zero), nodes).expect("tensors");
        assert_eq!(found[0].quantization, None);
    }
    // A scale, and indices.
    let nodes = vec![
        cast("scale", "scale.cast", data_type::FLOAT),
        node("DequantizeLinear", &["w", "scale.cast"], vec![]),
    ];
    let found = read(tensors(INT4, INT4), nodes).expect("tensors");
    assert_eq!(levels(&found[0]), [(1.0, 0.5), (2.0, 0.5)]);
    let table = floats("table", &[3], &[0.5, 0.0, -0.25]);
    let nodes = vec![
        cast("w", "w.cast", data_type::INT32),
        node("Gather", &["table", "w.cast"], vec![]),
    ];
    let found = read([tensors(INT4, INT4), vec![table]].concat(), nodes).expect("tensors");
    assert_eq!(levels(&found[0]), [(-0.25, 0.5), (0.0, 0.5), (0.5, 0.0)]);
}

#[test]
fn indices_count_from_either_end_of_a_table() {
    let table = floats("table", &[3], &[0.5, 0.0, -0.25]);
    let codes = raw("codes", data_type::INT8, &[2, 2], &[0, 255, 1, 1]);
    let gather = node("Gather", &["table", "codes"], vec![]);
    let found = read(vec![codes, table.clone()], vec![gather.clone()]).expect("tensors");
    assert_eq!(levels(&found[0]), [(-0.25, 0.25), (0.0, 0.5), (0.5, 0.25)]);
    for code in [3, 252] {
        let codes = raw("codes", data_type::INT8, &[1], &[code]);
        let (name, found, _) =
            read(vec![codes, table.clone()], vec![gather.clone()]).expect_err("a defect");
        assert_eq!(
            (name.as_str(), found.as_str()),
            (
                "codes",
                if code == 3 {
                    "the index 3"
                } else {
                    "the index -4"
                }
            )
        );
    }
}

#[test]
fn qonnx_rounds_to_the_levels_of_its_attributes() {
    let weights = [-9.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0, 9.0];
    let quant = |zero: f32, bits: f32, attributes: Vec<Attribute>| {
        let tensors = vec![
            floats("w", &[8], &weights),
            floats("scale", &[1], &[0.5]),
            floats("zero", &[], &[zero]),
            floats("bits", &[], &[bits]),
        ];
        let inputs = ["w", "scale", "zero", "bits"];
        read(tensors, vec![node("IntQuant", &inputs, attributes)]).expect("tensors")
    };
    let found = quant(0.0, 3.0, vec![]);
    assert_eq!(found[0].bits, Some(3.0));
    let eighth = 0.125;
    assert_eq!(
        levels(&found[0]),
        [
            (-4.0, eighth),
            (-2.0, eighth),
            (0.0, 3.0 * eighth),
            (2.0, 2.0 * eighth),
            (3.0, eighth)
        ]
    );
    let found = quant(0.0, 2.0, vec![int("narrow", 1)]);
    assert_eq!(
        levels(&found[0]),
        [(-1.0, 0.25), (0.0, 0.375), (1.0, 0.375)]
    );
    let found = quant(1.0, 2.0, vec![int("signed", 0)]);
    assert_eq!(
        levels(&found[0])[..2],
        [(-1.0, 3.0 * eighth), (0.0, eighth)]
    );
    let quantization = found[0].quantization.as_ref().expect("a quantized tensor");
    assert_eq!(quantization.zero_points, [1]);
    let floor = Attribute {
        name: "rounding_mode".into(),
        kind: attribute_type::STRING,
        s: Some(b"FLOOR".to_vec()),
        ..Attribute::default()
    };
    // What is not counted is a tensor of f32.
    for (zero, bits, attributes) in [
        (0.0, 3.0, vec![floor]),
        (0.5, 3.0, vec![]),
        (4.0, 3.0, vec![]),
        (0.0, 16.0, vec![]),
        (0.0, 2.5, vec![]),
        (f32::NAN, 2.0, vec![]),
        (0.0, f32::NAN, vec![]),
    ] {
        let found = quant(zero, bits, attributes);
        assert_eq!((found[0].bits, &found[0].quantization), (Some(32.0), &None));
    }
    let tensors = vec![
        floats("w", &[2, 1], &[0.0, -1.0]),
        floats("scale", &[2, 1], &[0.5, 2.0]),
    ];
    let found =
        read(tensors, vec![node("BipolarQuant", &["w", "scale"], vec![])]).expect("tensors");
    assert_eq!(levels(&found[0]), [(-1.0, 0.5), (1.0, 0.5)]);
}
