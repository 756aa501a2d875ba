//! The LSTM.

use super::Suite;
use crate::{Backend, BackendError, LstmGradients, LstmParameters, LstmShape, reference};

impl<B: Backend> Suite<'_, B> {
    pub(super) fn lstm(&mut self, shape: LstmShape, clip: f64) -> Result<(), BackendError> {
        let LstmShape {
            length,
            batch,
            vocabulary,
            hidden,
        } = shape;
        let rows = shape.rows();
        let size = 1.0 / (hidden as f64).sqrt();
        let weight_ih = self.uniform(4 * hidden * vocabulary, 1.0);
        let weight_hh = self.uniform(4 * hidden * hidden, size);
        let bias = self.uniform(4 * hidden, 0.5);
        let hidden_gradient = self.uniform(rows * hidden, 1.0);
        let tokens = self.random_indices(rows, vocabulary);
        let clip_f32 = clip as f32;
        let trace = reference::lstm_forward(shape, &tokens, &weight_ih, &weight_hh, &bias);
        let expected = reference::lstm_backward(
            shape,
            &tokens,
            &weight_hh,
            &trace,
            &hidden_gradient,
            f64::from(clip_f32),
        );

        let backend = self.backend;
        let (weight_ih, weight_hh, bias) = (
            self.tensor(&weight_ih)?,
            self.tensor(&weight_hh)?,
            self.tensor(&bias)?,
        );
        let parameters = || LstmParameters {
            weight_ih: &weight_ih,
            weight_hh: &weight_hh,
            bias: &bias,
        };
        let tokens = self.indices(&tokens, vocabulary)?;
        let mut workspace = backend.lstm_workspace(shape)?;
        let mut states = backend.zeros(&[rows, hidden])?;
        let mut gradient_ih = backend.zeros(&[4 * hidden, vocabulary])?;
        let mut gradient_hh = backend.zeros(&[4 * hidden, hidden])?;
        let mut gradient_bias = backend.zeros(&[4 * hidden])?;
        // Twice, because workspaces are reused from step to step.
        for _ in 0..2 {
            let mut hidden_gradient = self.tensor(&hidden_gradient)?;
            backend.lstm_forward(&tokens, parameters(), &mut workspace, &mut states)?;
            backend.lstm_backward(
                &tokens,
                parameters(),
                &states,
                &mut hidden_gradient,
                clip_f32,
                &mut workspace,
                LstmGradients {
                    weight_ih: &mut gradient_ih,
                    weight_hh: &mut gradient_hh,
                    bias: &mut gradient_bias,
                },
            )?;
        }
        let name = |what: &str| {
            format!("lstm T={length} B={batch} V={vocabulary} H={hidden} clip={clip:e}: {what}")
        };
        self.compare(name("hidden"), &states, &trace.hidden, 2e-6)?;
        self.compare(name("∂weight_ih"), &gradient_ih, &expected.weight_ih, 1e-5)?;
        self.compare(name("∂weight_hh"), &gradient_hh, &expected.weight_hh, 1e-5)?;
        self.compare(name("∂bias"), &gradient_bias, &expected.bias, 1e-5)
    }
}
