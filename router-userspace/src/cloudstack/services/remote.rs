//! Who may use remote access: of `vpnuserlist`.

use crate::cloudstack::databag::Databags;
use crate::cloudstack::object::Object;
use crate::cloudstack::wire::vpnuserlist::VpnUser;
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::vpn::{Secret, User};

/// The users, in the order of their names. Whom pppd could not be told of goes to `notices`.
pub fn users(bags: &Databags, notices: &mut Vec<ConfigError>) -> Vec<User> {
    let bag = Place::document("vpnuserlist.json");
    let mut users = Vec::new();
    for (name, entry) in bags.vpnuserlist.iter() {
        let user = match VpnUser::read(&Object::new(bag.at(name), entry)) {
            Ok(user) => user,
            Err(error) => {
                notices.push(error);
                continue;
            }
        };
        // A mark of one that is gone.
        let Some(password) = user.password else { continue };
        // pppd would read that file.
        if password.starts_with("@/") {
            let why = "not in force: to pppd a password that begins with \"@/\" is a file's name";
            notices.push(user.place.at("password").error(why));
            continue;
        }
        users.push(User { name: user.name, password: Secret(password) });
    }
    users
}
