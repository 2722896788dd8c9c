//! How the router is reached.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::cloudstack::wire::cmdline::CmdLine;
use crate::error::ConfigError;
use crate::model::port::Role;
use crate::model::{Port, Ssh};

/// The server of SSH; a key that is none is a notice, since the operator's may do.
pub fn ssh(boot: &CmdLine, ports: &[Port], notices: &mut Vec<ConfigError>) -> Option<Ssh> {
    let control = ports.iter().find(|port| port.role == Role::Control)?;
    let address = control.ipv4().next()?.addr();
    let key = boot.authorized_key.as_ref().map(|text| decode(text));
    if let Some(None) = key {
        let place = boot.place.at("authorized_key");
        notices.push(place.error("no public key of OpenSSH in base64, so CloudStack cannot log in"));
    }
    Some(Ssh { address, authorized_key: key.flatten() })
}

/// Its padding may be missing: CloudStack's own router cuts it off.
fn decode(text: &str) -> Option<String> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config).decode(text).ok()?;
    let key = String::from_utf8(bytes).ok()?;
    let key = key.trim();
    // One line: another one would let others in.
    let is_key = key.split_ascii_whitespace().count() >= 2 && !key.contains(|byte: char| byte.is_control());
    is_key.then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn a_key_is_one_line_and_its_padding_may_be_missing() {
        let key = Some("ssh-rsa AAAA a".to_owned());
        assert_eq!(decode("c3NoLXJzYSBBQUFBIGE="), key);
        assert_eq!(decode("c3NoLXJzYSBBQUFBIGEK"), key);
        assert_eq!(decode("c3NoLXJzYSBBQUFBIGE"), key);
        assert_eq!(decode("c3NoLXJzYQ=="), None);
        assert_eq!(decode("YSBiCmMgZA=="), None);
        assert_eq!(decode("?"), None);
    }
}
