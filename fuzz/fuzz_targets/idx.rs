//! idx files: any bytes.

#![no_main]

use laq_datasets::idx;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    match idx::parse(content) {
        Ok(found) => {
            assert_eq!(
                found.dimensions.iter().product::<usize>(),
                found.elements.len()
            );
            assert_eq!(
                4 + 4 * found.dimensions.len() + found.elements.len(),
                content.len()
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
