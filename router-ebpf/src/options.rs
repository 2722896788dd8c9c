//! IPv4 options (RFC 791 §3.1): stepped over but for those by which a sender chooses the way.

use router_common::verdict::DropReason;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// The longest that options can be, in bytes.
const MOST: usize = 40;

/// Judges options of a length in bytes; `load` gives the byte at a place of them. A source route is refused
/// (RFC 7126 §4.3.5, as Linux does by default), and so are options that make no sense.
///
/// # Errors
/// Why the packet is refused.
#[inline(always)]
pub fn judge(length: usize, load: impl Fn(usize) -> Option<u8>) -> Result<(), DropReason> {
    let mut at = 0;
    for _ in 0..MOST {
        if at >= length {
            break;
        }
        let size = match load(at).ok_or(DropReason::Truncated)? {
            END => break,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRoute),
            _ => match load(at + 1).ok_or(DropReason::Truncated)? {
                0 | 1 => return Err(DropReason::BadIpHeader),
                size => usize::from(size),
            },
        };
        at += size;
        if at > length {
            return Err(DropReason::BadIpHeader);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(options: &[u8]) -> Result<(), DropReason> {
        judge(options.len(), |at| options.get(at).copied())
    }

    #[test]
    fn source_routes_are_found_wherever_they_are() {
        assert_eq!(judged(&[131, 7, 4, 10, 1, 2, 50, 0]), Err(DropReason::SourceRoute));
        assert_eq!(judged(&[1, 1, 1, 137, 7, 4, 10, 1, 2, 50, 0, 0]), Err(DropReason::SourceRoute));
        // A record route before it, and one in what only looks like an option.
        assert_eq!(judged(&[7, 3, 4, 131, 3, 4, 0, 0]), Err(DropReason::SourceRoute));
        assert_eq!(judged(&[148, 4, 131, 137]), Ok(()));
        assert_eq!(judged(&[0, 131, 7, 4]), Ok(()), "behind the end there is nothing");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        assert_eq!(judged(&[7, 1, 0, 0]), Err(DropReason::BadIpHeader));
        assert_eq!(judged(&[7, 0, 0, 0]), Err(DropReason::BadIpHeader));
        assert_eq!(judged(&[7, 5, 0, 0]), Err(DropReason::BadIpHeader));
        assert_eq!(judged(&[1, 1, 1, 7]), Err(DropReason::Truncated));
        assert_eq!(judged(&[1; 40]), Ok(()));
    }
}
