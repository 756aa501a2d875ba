//! Compiles all kernels for the CPU with the C++ compiler at hand, and launches them by name.

pub(crate) mod device;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use laq_cuda::{KERNEL_SOURCES, kernels_in};

type Launch = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    backwards: c_int,
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
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        if Command::new(&compiler).arg("--version").output().is_err() {
            eprintln!("skipped: no C++ compiler ({compiler}; the variable CXX names another)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut source = concat!(
            "#include \"",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/emulated/emulator/cuda_on_cpu.h\"\n"
        )
        .to_owned();
        let mut table = String::new();
        for (name, text) in KERNEL_SOURCES
            .iter()
            .filter(|(name, _)| name.ends_with(".cu"))
        {
            source += &format!(
                "#include \"{}/kernels/{name}\"\n",
                env!("CARGO_MANIFEST_DIR")
            );
            for kernel in kernels_in(text) {
                table += &format!(
                    "    if (!std::strcmp(name, \"{kernel}\")) {{ emulator::run_kernel({kernel}, g, b, arguments); return nullptr; }}\n"
                );
            }
        }
        source += &format!(
            "extern \"C\" const char* launch_on_cpu(const char* name, const unsigned* grid, const unsigned* block, int backwards, void** arguments) {{\n\
             emulator::backwards = backwards;\n\
             static thread_local std::string message;\n\
             const dim3 g{{grid[0], grid[1], grid[2]}}, b{{block[0], block[1], block[2]}};\n\
             try {{\n{table}    message = std::string(\"there is no kernel \") + name;\n\
             }} catch (const std::exception& error) {{ message = error.what(); }}\n\
             return message.c_str();\n}}\n"
        );
        let (cpp, so) = (
            folder.path().join("kernels.cpp"),
            folder.path().join("kernels.so"),
        );
        std::fs::write(&cpp, source).unwrap();
        // Without -ffp-contract=off, products and sums would be fused.
        let output = Command::new(&compiler)
            .args([
                "-std=c++17",
                "-O2",
                "-fPIC",
                "-shared",
                "-ffp-contract=off",
                "-Wall",
                "-Werror",
                "-o",
            ])
            .args([&so, &cpp])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        // SAFETY: the library was made above, and does nothing when it is loaded.
        let library = unsafe { libloading::Library::new(&so).unwrap() };
        // The folder goes now; what is loaded stays.
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
