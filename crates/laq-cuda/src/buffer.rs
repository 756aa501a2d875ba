//! Typed buffers in a device's memory, and the slices of them that kernels take.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use crate::device::Device;

/// An element of a device buffer, with the type that the kernels give it.
pub trait DeviceElement: Pod + Send + Sync {
    /// The type in C++.
    const C_TYPE: &'static str;
}

macro_rules! elements {
    ($($rust:ty: $c:literal),*) => {
        $(impl DeviceElement for $rust {
            const C_TYPE: &'static str = $c;
        })*
    };
}

elements!(f32: "float", f64: "double", u8: "unsigned char", i8: "signed char", u32: "unsigned", u64: "unsigned long long");

/// The device address of elements of type `E`.
#[derive(Debug)]
#[repr(transparent)]
pub struct Address<E>(pub u64, PhantomData<E>);

impl<E> Clone for Address<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Address<E> {}

impl<E> PartialEq for Address<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

// SAFETY: a u64 of zeros is an address.
unsafe impl<E> bytemuck::Zeroable for Address<E> {}
// SAFETY: the type is transparent over a u64.
unsafe impl<E: 'static> Pod for Address<E> {}

impl DeviceElement for Address<u64> {
    const C_TYPE: &'static str = "unsigned long long*";
}

impl DeviceElement for Address<f64> {
    const C_TYPE: &'static str = "double*";
}

/// Shared ownership of what a slice points into, so that a captured graph can keep it alive.
pub(crate) trait Retain {
    /// Identifies the allocation.
    fn id(&self) -> usize;
    /// One more owner.
    fn retain(&self) -> Arc<dyn Send + Sync>;
}

impl<T: Send + Sync + 'static> Retain for Arc<T> {
    fn id(&self) -> usize {
        Arc::as_ptr(self) as usize
    }

    fn retain(&self) -> Arc<dyn Send + Sync> {
        self.clone()
    }
}

/// A dense row-major array in a device's memory.
///
/// The memory is shared with the graphs that captured a use of it, and freed with its last owner.
#[derive(Debug)]
pub struct Buffer<D: Device, E> {
    memory: Arc<D::Memory>,
    address: u64,
    shape: Vec<usize>,
    bound: usize,
    element: PhantomData<E>,
}

impl<D: Device, E> Buffer<D, E> {
    /// Zeros.
    pub(crate) fn zeros(
        device: &D,
        shape: &[usize],
        bound: usize,
    ) -> Result<Self, laq_tensor::BackendError> {
        let numel: usize = shape.iter().product();
        let memory = device.allocate(numel * size_of::<E>())?;
        Ok(Buffer {
            address: device.address(&memory),
            memory: Arc::new(memory),
            shape: shape.to_vec(),
            bound,
            element: PhantomData,
        })
    }

    /// Another owner of the same memory.
    pub(crate) fn share(&self) -> Self {
        Buffer {
            memory: self.memory.clone(),
            address: self.address,
            shape: self.shape.clone(),
            bound: self.bound,
            element: PhantomData,
        }
    }

    pub(crate) fn memory(&self) -> &Arc<D::Memory> {
        &self.memory
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The exclusive upper bound of the values of an index buffer.
    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    pub(crate) fn address(&self) -> Address<E> {
        Address(self.address, PhantomData)
    }

    /// All elements, for reading.
    pub(crate) fn slice(&self) -> Slice<'_, E> {
        Slice {
            address: self.address(),
            len: self.len(),
            owner: &self.memory,
        }
    }

    /// All elements, for writing.
    pub(crate) fn slice_mut(&mut self) -> SliceMut<'_, E> {
        SliceMut(self.slice())
    }

    /// All elements, of which there must be `len`.
    pub(crate) fn exactly(&self, len: usize) -> Slice<'_, E> {
        assert_eq!(self.len(), len, "elements of an operand");
        self.slice()
    }

    /// All elements for writing, of which there must be `len`.
    pub(crate) fn exactly_mut(&mut self, len: usize) -> SliceMut<'_, E> {
        SliceMut(self.exactly(len))
    }
}

/// Elements that a kernel reads.
pub struct Slice<'a, E> {
    address: Address<E>,
    len: usize,
    owner: &'a dyn Retain,
}

/// Elements that a kernel writes.
///
/// It is `Copy`: consecutive launches write to the same buffer, and a kernel may work in place. The
/// device executes launches in order.
pub struct SliceMut<'a, E>(Slice<'a, E>);

impl<E> Clone for Slice<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Slice<'_, E> {}

impl<E> Clone for SliceMut<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for SliceMut<'_, E> {}

impl<E> fmt::Debug for Slice<'_, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} elements at {:#x}", self.len, self.address.0)
    }
}

impl<E> fmt::Debug for SliceMut<'_, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'a, E> Slice<'a, E> {
    /// The number of elements.
    #[allow(clippy::len_without_is_empty)] // Kernels accept an empty slice as any other.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements of a range.
    ///
    /// # Panics
    /// If the range exceeds the slice.
    #[must_use]
    pub fn range(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        let address = self.address.0 + (range.start * size_of::<E>()) as u64;
        Slice {
            address: Address(address, PhantomData),
            len: range.len(),
            ..self
        }
    }

    pub(crate) fn address(&self) -> Address<E> {
        self.address
    }

    pub(crate) fn owner(&self) -> &'a dyn Retain {
        self.owner
    }
}

impl<'a, E> SliceMut<'a, E> {
    /// The number of elements.
    #[allow(clippy::len_without_is_empty)] // As for `Slice`.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// The elements of a range.
    ///
    /// # Panics
    /// If the range exceeds the slice.
    #[must_use]
    pub fn range(self, range: Range<usize>) -> Self {
        SliceMut(self.0.range(range))
    }

    /// The same elements, for reading.
    pub fn read(self) -> Slice<'a, E> {
        self.0
    }
}
