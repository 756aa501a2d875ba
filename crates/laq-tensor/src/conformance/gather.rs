//! Batches from a dataset on the device, and the bounds of indices.

use super::{Check, Suite};
use crate::{Backend, BackendError};

impl<B: Backend> Suite<'_, B> {
    /// Batches of images and of text.
    pub(super) fn gathers(&mut self) -> Result<(), BackendError> {
        let backend = self.backend;
        let (examples, size, batch, first) = (11, 6, 4, 3);
        let order: Vec<u32> = (0..examples as u32).map(|i| i * 7 % 11).collect();
        let mut permutation = backend.indices(examples, examples)?;
        backend.write(&order, &mut permutation)?;
        let values = self.uniform(examples * size, 1.0);
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        let mut images = backend.zeros(&[examples, size])?;
        // In two parts, as large datasets are copied.
        backend.write_at(&narrow[40..], 40, &mut images)?;
        backend.write_at(&narrow[..40], 0, &mut images)?;
        let classes = self.random_indices(examples, 10);
        let labels = self.indices(&classes, 10)?;
        let mut pixels = backend.zeros(&[batch, size])?;
        let mut targets = backend.indices(batch, 10)?;
        backend.gather_images(
            &images,
            &labels,
            &permutation,
            first,
            batch,
            &mut pixels,
            &mut targets,
        )?;
        // A smaller batch leaves the other rows unchanged.
        backend.gather_images(
            &images,
            &labels,
            &permutation,
            8,
            1,
            &mut pixels,
            &mut targets,
        )?;
        let positions = [8, first + 1, first + 2, first + 3];
        let gathered = || positions.iter().map(|&at| order[at] as usize);
        let expected: Vec<f64> = gathered()
            .flat_map(|example| values[example * size..(example + 1) * size].to_vec())
            .collect();
        self.compare("gathered images".into(), &pixels, &expected, 0.0)?;
        let expected: Vec<u8> = gathered().map(|example| classes[example]).collect();
        self.compare_indices("gathered labels", &targets, &expected)?;

        let length = 5;
        let text = self.random_indices(examples * length + 1, 10);
        let device_text = self.indices(&text, 10)?;
        let mut inputs = backend.indices(length * batch, 10)?;
        let mut targets = backend.indices(length * batch, 10)?;
        backend.gather_text(
            &device_text,
            &permutation,
            first,
            batch,
            &mut inputs,
            &mut targets,
        )?;
        let position = |row: usize| {
            let (time, sequence) = (row / batch, row % batch);
            length * order[first + sequence] as usize + time
        };
        let rows = 0..length * batch;
        let expected: [Vec<u8>; 2] = [0, 1].map(|offset| {
            rows.clone()
                .map(|row| text[position(row) + offset])
                .collect()
        });
        self.compare_indices("gathered inputs", &inputs, &expected[0])?;
        self.compare_indices("gathered targets", &targets, &expected[1])
    }

    fn compare_indices(
        &mut self,
        name: &str,
        found: &B::Buffer<u8>,
        expected: &[u8],
    ) -> Result<(), BackendError> {
        let found = self.backend.read(found)?;
        self.checks.push(Check {
            name: name.into(),
            error: f64::from(!found.iter().eq(expected)),
            tolerance: 0.0,
        });
        Ok(())
    }

    /// Indices out of range are rejected at upload, and leave the buffer unchanged.
    pub(super) fn bounds(&mut self) -> Result<(), BackendError> {
        let backend = self.backend;
        let mut tokens = self.indices(&[1, 2, 3], 4)?;
        let mut permutation = backend.indices::<u32>(2, 300)?;
        let rejected = [
            backend.write(&[0, 4, 5], &mut tokens),
            backend.write_at(&[4], 2, &mut tokens),
            backend.write(&[299, 300], &mut permutation),
        ];
        let found = rejected.map(|result| match result {
            Err(BackendError::IndexOutOfRange {
                position, value, ..
            }) => Some((position, value)),
            _ => None,
        });
        self.checks.push(Check {
            name: format!("indices out of range: {found:?}"),
            error: f64::from(found != [Some((1, 4)), Some((0, 4)), Some((1, 300))]),
            tolerance: 0.0,
        });
        self.compare_indices("indices after a rejected upload", &tokens, &[1, 2, 3])
    }
}
