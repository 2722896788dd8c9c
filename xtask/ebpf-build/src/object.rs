//! Just enough of ELF to see whether an object can panic.

use anyhow::{Context, Result, ensure};

const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const SHT_SYMTAB: u32 = 2;

/// Names of symbols that belong to Rust's panic machinery: a call to one of them means that an
/// index or an unwrap was left that the compiler could not prove, and the verifier cannot either.
///
/// # Errors
/// Not a 64-bit little-endian ELF object.
pub fn panic_symbols(object: &[u8]) -> Result<Vec<String>> {
    ensure!(object.get(..6) == Some(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF object");
    let sections = number(object, 0x28, 8)?;
    let count = number(object, 0x3c, 2)?;
    let section = |index: usize| sections + index * SECTION_HEADER;
    let mut found = Vec::new();
    for index in 0..count {
        let header = section(index);
        if number(object, header + 4, 4)? != SHT_SYMTAB as usize {
            continue;
        }
        let (offset, size) = (number(object, header + 24, 8)?, number(object, header + 32, 8)?);
        let strings = number(object, section(number(object, header + 40, 4)?) + 24, 8)?;
        for symbol in (offset..offset + size).step_by(SYMBOL) {
            let name = name(object, strings + number(object, symbol, 4)?)?;
            if name.contains("panicking") || name.contains("panic_bounds_check") {
                found.push(name);
            }
        }
    }
    Ok(found)
}

fn number(object: &[u8], offset: usize, length: usize) -> Result<usize> {
    let bytes = object.get(offset..offset + length).context("the object is cut short")?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn name(object: &[u8], offset: usize) -> Result<String> {
    let rest = object.get(offset..).context("the object is cut short")?;
    let end = rest.iter().position(|byte| *byte == 0).context("the object is cut short")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(panic_symbols(b"!<arch>\n").is_err());
        assert!(panic_symbols(b"\x7fELF\x02\x01\x01").is_err());
    }

    #[test]
    fn this_test_program_can_panic() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!panic_symbols(&program).unwrap().is_empty());
    }
}
