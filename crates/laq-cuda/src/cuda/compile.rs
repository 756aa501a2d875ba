//! Compiles the kernels by NVRTC, once for every architecture, and caches the result.

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result as nvrtc, sys};
use laq_tensor::BackendError;
use sha2::{Digest, Sha256};

/// Without fused multiply-add, Adam and the solvers give the bits of the CPU. Lambdas need no
/// `__device__`.
const OPTIONS: [&str; 4] = [
    "--std=c++17",
    "--fmad=false",
    "--device-as-default-execution-space",
    "-Xptxas=-v",
];

/// The machine code of all kernels, and the compiler's log.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// A cubin.
    pub image: Vec<u8>,
    /// Registers, shared memory and spills of every kernel, and warnings.
    pub log: String,
}

/// Compiles `source` for an architecture such as `sm_90`.
///
/// # Errors
/// [`BackendError::Device`] with the compiler's log, or if NVRTC is missing.
pub fn compile(source: &str, architecture: &str) -> Result<Compiled, BackendError> {
    let error = |what: String| BackendError::Device {
        device: format!("NVRTC ({architecture})"),
        what,
    };
    // SAFETY: loading the library has no other effect.
    if !unsafe { sys::is_culib_present() } {
        return Err(error(super::probe::MISSING_NVRTC.to_owned()));
    }
    let text =
        CString::new(source).map_err(|_| error("the source contains a zero byte".to_owned()))?;
    let program = nvrtc::create_program(&text, Some(c"laq.cu"))
        .map_err(|status| error(format!("cannot create a program: {status:?}")))?;
    let mut options: Vec<String> = OPTIONS.map(str::to_owned).into();
    options.push(format!("--gpu-architecture={architecture}"));
    // SAFETY: the program exists until it is destroyed below.
    let (compiled, log) = unsafe {
        let compiled = nvrtc::compile_program(program, &options);
        (compiled, nvrtc::get_program_log(program))
    };
    let log = log.map(|log| text_of(&log)).unwrap_or_default();
    let image = match compiled {
        Ok(()) => cubin(program).map_err(|status| error(format!("no machine code: {status:?}"))),
        Err(status) => Err(error(format!(
            "cannot compile the kernels ({status:?}); this is a bug, please report it with this log:\n{log}"
        ))),
    };
    // SAFETY: the program was created above and is not used again.
    let _ = unsafe { nvrtc::destroy_program(program) };
    Ok(Compiled { image: image?, log })
}

fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut size = 0;
    // SAFETY: the program is compiled, and the image has the size that NVRTC reports.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast::<c_char>()).result()?;
        Ok(image)
    }
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(
        |_| String::from_utf8_lossy(&bytes).into_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

/// The image for a device: from the cache if source, options and compiler are the same, otherwise
/// compiled and cached. A cache that cannot be written is ignored.
pub(super) fn compiled_or_cached(
    source: &str,
    (major, minor): (i32, i32),
    cache: Option<&Path>,
) -> Result<Vec<u8>, BackendError> {
    let architecture = format!("sm_{major}{minor}");
    let file = cache.map(|cache| cache.join(file_name(source, &architecture)));
    if let Some(image) = file.as_deref().and_then(read_cached) {
        return Ok(image);
    }
    let compiled = compile(source, &architecture)?;
    if let Some(file) = file {
        let _ = write_cached(&file, &compiled.image);
    }
    Ok(compiled.image)
}

fn file_name(source: &str, architecture: &str) -> String {
    let mut digest = Sha256::new();
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function writes two integers, and is called only if the library is installed.
    unsafe {
        if sys::is_culib_present() {
            let _ = sys::nvrtcVersion(&raw mut major, &raw mut minor);
        }
    }
    for part in [source, architecture, &format!("{major}.{minor}")] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    OPTIONS.iter().for_each(|option| digest.update(option));
    let digest = hex::encode(&digest.finalize()[..16]);
    format!("kernels-{architecture}-{digest}.cubin")
}

/// The image in a file that starts with the image's checksum; `None` if they do not match.
fn read_cached(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (checksum, image) = bytes.split_at_checked(32)?;
    (Sha256::digest(image).as_slice() == checksum).then(|| image.to_vec())
}

/// Writes to a temporary file and renames it, so that no process reads a partial file.
fn write_cached(file: &Path, image: &[u8]) -> std::io::Result<()> {
    let folder: PathBuf = file.parent().map(Path::to_path_buf).unwrap_or_default();
    fs::create_dir_all(&folder)?;
    let mut file_in_progress = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file_in_progress, &Sha256::digest(image))?;
    std::io::Write::write_all(&mut file_in_progress, image)?;
    file_in_progress.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deeper/kernels.cubin");
        assert_eq!(read_cached(&file), None);
        write_cached(&file, b"machine code").unwrap();
        assert_eq!(read_cached(&file).as_deref(), Some(&b"machine code"[..]));
        let mut bytes = fs::read(&file).unwrap();
        for damaged in [bytes[..20].to_vec(), bytes[..40].to_vec(), {
            bytes[35] ^= 1;
            bytes
        }] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(read_cached(&file), None);
        }
    }

    #[test]
    fn file_names_differ_by_source_and_architecture() {
        let names = [("a", "sm_80"), ("a", "sm_90"), ("b", "sm_80")].map(|(s, a)| file_name(s, a));
        assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2]);
        assert_eq!(file_name("a", "sm_80"), names[0]);
    }
}
