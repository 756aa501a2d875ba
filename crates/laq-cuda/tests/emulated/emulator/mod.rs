//! All kernels on the CPU, launched by name.

pub(crate) mod device;
pub(crate) mod library;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock};

type Launch = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    backwards: c_int,
    together: c_int,
    arguments: *mut *mut c_void,
) -> *const c_char;

/// The compiled kernels.
#[derive(Debug)]
pub(crate) struct Emulator {
    library: libloading::Library,
    launched: Mutex<BTreeSet<String>>,
}

impl Emulator {
    /// The one of this program; `None`, with a word about it, where there is no C++ compiler.
    pub(crate) fn get() -> Option<&'static Self> {
        static ONE: OnceLock<Option<Emulator>> = OnceLock::new();
        ONE.get_or_init(Self::new).as_ref()
    }

    fn new() -> Option<Self> {
        // SAFETY: the library does nothing when it is loaded.
        let library = unsafe { libloading::Library::new(library::library()?).unwrap() };
        Some(Self {
            library,
            launched: Mutex::default(),
        })
    }

    /// The names of all kernels that were launched so far.
    pub(crate) fn launched(&self) -> BTreeSet<String> {
        self.launched.lock().unwrap().clone()
    }

    /// Runs a kernel to its end; `arguments` are pointers to its arguments, of their types.
    pub(crate) fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        backwards: bool,
        together: bool,
        arguments: &mut [*mut c_void],
    ) {
        self.launched.lock().unwrap().insert(name.to_owned());
        let kernel = CString::new(name).unwrap();
        // SAFETY: the function has this type; that the arguments are what the kernel takes is the test's business.
        let message = unsafe {
            let launch: libloading::Symbol<'_, Launch> =
                self.library.get(b"launch_on_cpu").unwrap();
            launch(
                kernel.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                backwards.into(),
                together.into(),
                arguments.as_mut_ptr(),
            )
        };
        if message.is_null() {
            return;
        }
        // SAFETY: the message ends with a zero, and lives until the next launch.
        let message = unsafe { CStr::from_ptr(message) };
        panic!("{name}: {}", message.to_string_lossy());
    }
}
