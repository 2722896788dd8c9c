//! Which generation of management server speaks with the router. None says so, and 4.22 takes other words for
//! health checks and another checksum than those before.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::model::settings::ManagementServer;
use crate::root::Root;

/// A generation, as far as that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// Up to 4.21.
    UpTo4_21,
    /// 4.22 and later.
    From4_22,
}

/// The generation that the operator has chosen, else the one whose checksum the management server's patch has left in
/// `var/cache/cloud/cloud-scripts-signature`: SHA-512 from 4.22 on, MD5 before. Without either, up to 4.21.
pub fn generation(root: &Root, chosen: ManagementServer) -> Generation {
    match chosen {
        ManagementServer::Release { major, minor } if (major, minor) >= (4, 22) => Generation::From4_22,
        ManagementServer::Release { .. } => Generation::UpTo4_21,
        ManagementServer::Auto => {
            let signature = fs::read_to_string(root.signature()).unwrap_or_default();
            let signature = signature.trim();
            let is_sha512 =
                signature.len() == 128 && signature.bytes().all(|digit| digit.is_ascii_hexdigit());
            if is_sha512 { Generation::From4_22 } else { Generation::UpTo4_21 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_tells_unless_the_operator_does() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-generation-{}", std::process::id())));
        fs::create_dir_all(root.inbox()).unwrap();
        let release = |major, minor| ManagementServer::Release { major, minor };
        let told = |text: &str, chosen| {
            fs::write(root.signature(), text).unwrap();
            generation(&root, chosen)
        };
        assert_eq!(generation(&root, ManagementServer::Auto), Generation::UpTo4_21);
        assert_eq!(told("14829be797d19c6d38e8c77efff9aeea\n", ManagementServer::Auto), Generation::UpTo4_21);
        let sha512 = format!("{}\n", "3b".repeat(64));
        assert_eq!(told(&sha512, ManagementServer::Auto), Generation::From4_22);
        assert_eq!(told(&"zz".repeat(64), ManagementServer::Auto), Generation::UpTo4_21);
        assert_eq!(told(&sha512, release(4, 21)), Generation::UpTo4_21);
        assert_eq!(told("", release(4, 22)), Generation::From4_22);
        assert_eq!(told("", release(5, 0)), Generation::From4_22);
        fs::remove_dir_all(root.path()).unwrap();
    }
}
