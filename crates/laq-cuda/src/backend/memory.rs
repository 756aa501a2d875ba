//! Allocation and copies.

use laq_tensor::{BackendError, Element, Index, Memory, check_indices};
use ndarray::{ArrayD, IxDyn};

use super::{CudaBackend, lock};
use crate::buffer::Buffer;
use crate::device::Device;
use crate::kernels;

impl<D: Device> Memory for CudaBackend<D> {
    type Buffer<E: Element> = Buffer<D, E>;

    fn device_name(&self) -> String {
        let device = self.device.name();
        match self.settings.sequences {
            true => format!("{device}, LSTM in one kernel where supported"),
            false => device,
        }
    }

    fn diagnostics(&self) -> Vec<String> {
        let own = lock(&self.diagnostics);
        [self.device.diagnostics(), own.clone()].concat()
    }

    fn zeros(&self, shape: &[usize]) -> Result<Buffer<D, f32>, BackendError> {
        Buffer::zeros(&self.device, shape, 0)
    }

    fn indices<E: Index>(&self, count: usize, bound: usize) -> Result<Buffer<D, E>, BackendError> {
        assert!(bound > 0 || count == 0, "indices below 0");
        Buffer::zeros(&self.device, &[count], bound)
    }

    fn write<E: Element>(
        &self,
        values: &[E],
        buffer: &mut Buffer<D, E>,
    ) -> Result<(), BackendError> {
        assert_eq!(values.len(), buffer.len());
        self.write_at(values, 0, buffer)
    }

    fn write_at<E: Element>(
        &self,
        values: &[E],
        offset: usize,
        buffer: &mut Buffer<D, E>,
    ) -> Result<(), BackendError> {
        check_indices(values, buffer.bound())?;
        self.upload(values, offset, buffer)
    }

    fn read<E: Element>(&self, buffer: &Buffer<D, E>) -> Result<ArrayD<E>, BackendError> {
        let values = self.download(buffer)?;
        Ok(ArrayD::from_shape_vec(IxDyn(buffer.shape()), values).expect("the buffer's shape"))
    }

    fn first_not_finite(&self, tensor: &Buffer<D, f32>) -> Result<Option<usize>, BackendError> {
        let mut found = self.buffer_of(&[u64::MAX])?;
        let numel = tensor.len();
        let kernel = kernels::first_not_finite {
            values: tensor.slice(),
            numel,
            index: found.slice_mut(),
        };
        self.each(kernel, numel)?;
        let index = self.download(&found)?[0];
        Ok((index != u64::MAX).then_some(index as usize))
    }
}
