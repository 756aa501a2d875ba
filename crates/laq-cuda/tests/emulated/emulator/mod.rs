//! The kernels on the CPU, launched by name.

pub(crate) mod device;
pub(crate) mod library;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock};

type Launch = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    reversed: c_int,
    cooperative: c_int,
    arguments: *mut *mut c_void,
) -> *const c_char;

/// The compiled kernels.
#[derive(Debug)]
pub(crate) struct Emulator {
    library: libloading::Library,
    launched: Mutex<BTreeSet<String>>,
}

impl Emulator {
    /// The emulator of this process; `None`, reported as a skip, without a C++ compiler.
    pub(crate) fn get() -> Option<&'static Self> {
        static ONE: OnceLock<Option<Emulator>> = OnceLock::new();
        ONE.get_or_init(Self::new).as_ref()
    }

    fn new() -> Option<Self> {
        // SAFETY: loading the library has no other effect.
        let library = unsafe { libloading::Library::new(library::library()?).unwrap() };
        Some(Self {
            library,
            launched: Mutex::default(),
        })
    }

    /// The names of all kernels launched so far.
    pub(crate) fn launched(&self) -> BTreeSet<String> {
        self.launched.lock().unwrap().clone()
    }

    /// Runs a kernel; `arguments` are pointers to its arguments.
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        reversed: bool,
        cooperative: bool,
        arguments: &mut [*mut c_void],
    ) {
        self.launched.lock().unwrap().insert(name.to_owned());
        let kernel = CString::new(name).unwrap();
        // SAFETY: the function has this type; the caller guarantees the arguments.
        let message = unsafe {
            let launch: libloading::Symbol<'_, Launch> =
                self.library.get(b"launch_on_cpu").unwrap();
            launch(
                kernel.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                reversed.into(),
                cooperative.into(),
                arguments.as_mut_ptr(),
            )
        };
        if message.is_null() {
            return;
        }
        // SAFETY: the message is zero-terminated and valid until the next launch.
        let message = unsafe { CStr::from_ptr(message) };
        panic!("{name}: {}", message.to_string_lossy());
    }
}
