//! Passwords that wait until their guests have fetched and confirmed them.
//!
//! They are in files as CloudStack's own password server has them, one for each of the router's addresses:
//! `passwords-10.1.1.1` with a line `10.1.1.20=password` per guest. A line `# hash` stands for a message that was
//! taken; such lines CloudStack's own server skips. Passwords of guests that no port has a network for yet are in
//! `passwords-unplaced`.
//!
//! Invariants: a message puts its password here once, however often it comes; what the disk does not hold yet is
//! neither acknowledged to the management server nor to a guest. So a password that a guest has confirmed does
//! not come back, whatever ends the daemon and when.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::metadata::Password;

/// The word for no password, in answers and in CloudStack's messages.
pub const NONE: &str = "saved_password";

/// How many messages a file remembers. CloudStack sends one when a guest starts.
const REMEMBERED: usize = 4096;

/// The passwords, and their files.
#[derive(Debug)]
pub struct Passwords {
    folder: PathBuf,
    /// Held by whoever changes something, until it is written: reading does not wait for the disk.
    changing: Mutex<()>,
    files: Mutex<Files>,
    /// Files that could not be read, and why. They are not written over.
    unread: Mutex<BTreeMap<String, String>>,
}

/// A message of CloudStack's, told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(blake3::Hash);

impl MessageId {
    /// The message in a file of this name. CloudStack gives each message a name of its own.
    pub fn of(file: &str, guest: Ipv4Addr, password: &Password) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(file.as_bytes()).update(&[0]).update(&guest.octets());
        Self(hasher.update(password.reveal().as_bytes()).finalize())
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// The password waits for its guest.
    Now,
    /// The message was taken before; nothing was changed.
    Before,
}

/// By what follows `passwords-` in their names.
type Files = BTreeMap<String, Kept>;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    waiting: BTreeMap<Ipv4Addr, Password>,
    /// The oldest first.
    taken: VecDeque<blake3::Hash>,
    /// Lines that make no sense: somebody may still make some of them.
    odd: Vec<String>,
}

impl Passwords {
    /// Those that a folder has. What cannot be read is a problem, and no reason not to serve others.
    pub fn load(folder: &Path) -> Self {
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let suffixes = names.filter_map(|name| Some((suffix(name.to_str()?)?.to_owned(), String::new())));
        let passwords = Self {
            folder: folder.to_owned(),
            changing: Mutex::new(()),
            files: Mutex::default(),
            unread: Mutex::new(suffixes.collect()),
        };
        passwords.read();
        passwords
    }

    /// Reads what was not read so far.
    fn read(&self) {
        lock(&self.unread).retain(|suffix, problem| {
            let path = self.path(suffix);
            match fs::read_to_string(&path) {
                Ok(text) => drop(self.files().insert(suffix.clone(), Kept::read(&text))),
                Err(error) => *problem = format!("{}: {error}", path.display()),
            }
            !self.files().contains_key(suffix)
        });
    }

    fn read_all(&self) -> io::Result<()> {
        self.read();
        let problem = lock(&self.unread).values().next().cloned();
        problem.map_or(Ok(()), |problem| Err(io::Error::other(problem)))
    }

    /// The password that waits for a guest.
    pub fn of(&self, guest: Ipv4Addr) -> Option<Password> {
        self.files().values().find_map(|kept| kept.waiting.get(&guest).cloned())
    }

    /// How many guests have not fetched theirs.
    pub fn waiting(&self) -> usize {
        self.files().values().map(|kept| kept.waiting.len()).sum()
    }

    /// What could not be read, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let odd = |(suffix, kept): (&String, &Kept)| {
            let count = kept.odd.len();
            let path = self.path(suffix);
            (count > 0).then(|| format!("{}: lines without address and password: {count}", path.display()))
        };
        let odd: Vec<String> = self.files().iter().filter_map(odd).collect();
        lock(&self.unread).values().cloned().chain(odd).collect()
    }

    /// Keeps a guest's password in the file of the router's address in its network.
    ///
    /// # Errors
    /// The file cannot be written, or one cannot be read; nothing is changed.
    pub fn set(
        &self,
        message: MessageId,
        router: Option<Ipv4Addr>,
        guest: Ipv4Addr,
        password: &Password,
    ) -> io::Result<Taken> {
        let _changing = lock(&self.changing);
        self.read_all()?;
        let before = self.files().clone();
        if before.values().any(|kept| kept.taken.contains(&message.0)) {
            return Ok(Taken::Before);
        }
        let mut after = before.clone();
        after.values_mut().for_each(|kept| drop(kept.waiting.remove(&guest)));
        let suffix = router.map_or_else(|| UNPLACED.to_owned(), |router| router.to_string());
        let kept = after.entry(suffix.clone()).or_default();
        if password.reveal() != NONE {
            kept.waiting.insert(guest, password.clone());
        }
        kept.taken.push_back(message.0);
        if kept.taken.len() > REMEMBERED {
            kept.taken.pop_front();
        }
        // The new one last: after a crash in between the guest has none, and the message comes again.
        for other in after.keys().filter(|other| **other != suffix) {
            self.write(other, &before, &after)?;
        }
        self.write(&suffix, &before, &after)?;
        *self.files() = after;
        Ok(Taken::Now)
    }

    /// Forgets a guest's password; whether there was one.
    ///
    /// # Errors
    /// That cannot be written down, or one of the files cannot be read, which may have it; the password stays.
    pub fn confirm(&self, guest: Ipv4Addr) -> io::Result<bool> {
        let _changing = lock(&self.changing);
        self.read_all()?;
        let before = self.files().clone();
        let mut after = before.clone();
        let removed = after.values_mut().filter_map(|kept| kept.waiting.remove(&guest)).count();
        for suffix in after.keys() {
            self.write(suffix, &before, &after)?;
        }
        *self.files() = after;
        Ok(removed > 0)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Writes a file that differs, in one step: a crash leaves it as it was or as it shall be.
    fn write(&self, suffix: &str, before: &Files, after: &Files) -> io::Result<()> {
        if before.get(suffix) == after.get(suffix) {
            return Ok(());
        }
        let path = self.path(suffix);
        let beside = self.path(&format!("{suffix}.new"));
        fs::create_dir_all(&self.folder)?;
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(after.get(suffix).map(Kept::text).unwrap_or_default().as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{PREFIX}{suffix}"))
    }
}

/// What changes under a lock changes in one step: whoever panicked has left it sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const PREFIX: &str = "passwords-";
const UNPLACED: &str = "unplaced";

/// What follows the prefix in the names of our files; a file that was being written is none.
fn suffix(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|suffix| *suffix == UNPLACED || suffix.parse::<Ipv4Addr>().is_ok())
}

impl Kept {
    fn read(text: &str) -> Self {
        let mut kept = Self::default();
        for line in text.lines() {
            if let Some(hash) = line.strip_prefix("# ").and_then(|hash| blake3::Hash::from_hex(hash).ok()) {
                kept.taken.push_back(hash);
                continue;
            }
            let read = line.split_once('=').and_then(|(guest, password)| {
                Some((guest.parse::<Ipv4Addr>().ok()?, Password::new(password)?))
            });
            match read {
                Some((_, password)) if password.reveal() == NONE => {}
                Some((guest, password)) => drop(kept.waiting.insert(guest, password)),
                None if line.trim().is_empty() => {}
                None => kept.odd.push(line.to_owned()),
            }
        }
        kept
    }

    fn text(&self) -> String {
        let passwords =
            self.waiting.iter().map(|(guest, password)| format!("{guest}={}\n", password.reveal()));
        let taken = self.taken.iter().map(|hash| format!("# {}\n", hash.to_hex()));
        passwords.chain(taken).chain(self.odd.iter().map(|line| format!("{line}\n"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 2);
    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 20);
    const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 21);

    /// A folder of its own, removed in the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xvr-passwords-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn load(&self) -> Passwords {
            Passwords::load(&self.0)
        }

        fn text(&self, suffix: &str) -> String {
            fs::read_to_string(self.0.join(format!("passwords-{suffix}"))).expect("there")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn set(
        passwords: &Passwords,
        file: &str,
        router: Option<Ipv4Addr>,
        guest: Ipv4Addr,
        text: &str,
    ) -> Taken {
        let password = Password::new(text).expect("a password");
        passwords.set(MessageId::of(file, guest, &password), router, guest, &password).expect("written")
    }

    fn of(passwords: &Passwords, guest: Ipv4Addr) -> Option<String> {
        passwords.of(guest).map(|password| password.reveal().to_owned())
    }

    #[test]
    fn a_password_waits_through_restarts_until_it_is_confirmed_and_never_comes_back() {
        let folder = Folder::new("restart");
        let passwords = folder.load();
        assert_eq!(set(&passwords, "vm_password.json.1", Some(ROUTER), GUEST, "k=X 3"), Taken::Now);
        assert_eq!(set(&passwords, "vm_password.json.2", Some(ROUTER), NEIGHBOUR, "other"), Taken::Now);
        let mode = fs::metadata(folder.0.join("passwords-10.1.1.1")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let passwords = folder.load();
        assert_eq!(of(&passwords, GUEST).as_deref(), Some("k=X 3"));
        assert!(passwords.confirm(GUEST).expect("written"));
        for passwords in [passwords, folder.load()] {
            assert_eq!(of(&passwords, GUEST), None);
            assert_eq!(set(&passwords, "vm_password.json.1", Some(ROUTER), GUEST, "k=X 3"), Taken::Before);
            assert_eq!((of(&passwords, GUEST), of(&passwords, NEIGHBOUR)), (None, Some("other".to_owned())));
            assert!(!passwords.confirm(GUEST).expect("nothing to write"));
        }
        let passwords = folder.load();
        assert_eq!(set(&passwords, "vm_password.json.3", Some(ROUTER), GUEST, "k=X 3"), Taken::Now);
        assert_eq!(of(&folder.load(), GUEST).as_deref(), Some("k=X 3"));
    }

    #[test]
    fn a_guest_has_one_password_in_whichever_file() {
        let folder = Folder::new("one");
        let passwords = folder.load();
        let _ = set(&passwords, "a", None, GUEST, "first");
        assert!(folder.text("unplaced").starts_with("10.1.1.20=first\n# "));
        let _ = set(&passwords, "b", Some(OTHER), GUEST, "second");
        assert_eq!((passwords.waiting(), of(&folder.load(), GUEST).as_deref()), (1, Some("second")));
        assert!(folder.text("unplaced").starts_with("# "));
        // What CloudStack sends for a guest without a password.
        let _ = set(&passwords, "c", Some(OTHER), GUEST, NONE);
        assert_eq!((passwords.waiting(), of(&folder.load(), GUEST)), (0, None));
    }

    #[test]
    fn what_cloudstacks_own_server_has_written_is_read_and_what_makes_no_sense_is_named() {
        let folder = Folder::new("read");
        fs::create_dir_all(&folder.0).expect("made");
        let write = |name: &str, text: &str| fs::write(folder.0.join(name), text).expect("written");
        write("passwords-10.1.1.1", "10.1.1.20=abc\nsecret\n\n10.1.1.21=saved_password\n10.1.1.22=\n");
        write("passwords-10.1.1.1.new", "10.1.1.23=half");
        let passwords = folder.load();
        assert_eq!((of(&passwords, GUEST).as_deref(), passwords.waiting()), (Some("abc"), 1));
        let path = folder.0.join("passwords-10.1.1.1").display().to_string();
        assert_eq!(passwords.problems(), [format!("{path}: lines without address and password: 2")]);
        assert!(passwords.confirm(GUEST).expect("written"));
        assert_eq!(folder.text("10.1.1.1"), "secret\n10.1.1.22=\n");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_written_over_and_read_as_soon_as_it_can_be() {
        let folder = Folder::new("unread");
        let _ = set(&folder.load(), "a", Some(ROUTER), GUEST, "abc");
        let path = folder.0.join("passwords-10.1.1.1");
        let sound = fs::read(&path).expect("there");
        fs::write(&path, [&sound[..], b"\xff"].concat()).expect("written");
        let passwords = folder.load();
        let password = Password::new("abc").expect("a password");
        let again = || passwords.set(MessageId::of("a", GUEST, &password), Some(ROUTER), GUEST, &password);
        assert!(again().is_err() && passwords.confirm(GUEST).is_err());
        assert!(
            passwords.problems()[0].starts_with(&path.display().to_string()),
            "{:?}",
            passwords.problems()
        );
        assert_eq!(fs::read(&path).expect("there"), [&sound[..], b"\xff"].concat());
        fs::write(&path, &sound).expect("written");
        assert_eq!(again().expect("read"), Taken::Before);
        assert_eq!((passwords.problems(), of(&passwords, GUEST).as_deref()), (vec![], Some("abc")));
    }

    #[test]
    fn what_cannot_be_written_changes_nothing() {
        let folder = Folder::new("unwritable");
        fs::write(&folder.0, "a file where the folder should be").expect("written");
        let passwords = folder.load();
        let password = Password::new("abc").expect("a password");
        let id = MessageId::of("a", GUEST, &password);
        assert!(passwords.set(id, Some(ROUTER), GUEST, &password).is_err());
        assert_eq!(passwords.of(GUEST), None);
        fs::remove_file(&folder.0).expect("removed");
        assert_eq!(passwords.set(id, Some(ROUTER), GUEST, &password).expect("written"), Taken::Now);
        fs::remove_dir_all(&folder.0).expect("removed");
        fs::write(&folder.0, "again").expect("written");
        assert!(passwords.confirm(GUEST).is_err());
        assert_eq!(passwords.of(GUEST), Some(password));
        fs::remove_file(&folder.0).expect("removed");
    }
}
